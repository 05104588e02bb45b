"""An example as files: its sounds, and their spectrograms as one PNG; the report has its own, with players."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from timbreflow.audio.files import resample, write_audio
from timbreflow.evaluation.evaluator import Example
from timbreflow.evaluation.systems import SYSTEMS
from timbreflow.files import atomic_file
from timbreflow.metrics.lsd import DYNAMIC_RANGE_DB, HOP_LENGTH, mel_decibels
from timbreflow.metrics.signals import SAMPLE_RATE
from timbreflow.reporting.media import COLOURS

COLUMNS = 3


def save_sounds(stem: Path, example: Example, *, suffix: str = ".flac") -> None:
    """Write content, style, target and every output of a triple as STEM-NAME.flac or another format's suffix."""
    for name, sound in {**example.inputs, **example.outputs}.items():
        write_audio(stem.with_name(f"{stem.name}-{name}{suffix}"), sound, example.sample_rate)


def save_panels(path: Path, example: Example) -> None:
    """Write content, style, target and every output of a triple as one PNG of mel spectrograms."""
    sounds = dict(example.inputs) | {SYSTEMS[name].label: sound for name, sound in example.outputs.items()}
    rows = -(-len(sounds) // COLUMNS)
    figure = Figure(figsize=(4.0 * COLUMNS, 2.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, (label, sound) in zip(axes, sounds.items(), strict=False):
        decibels = mel_decibels(resample(sound, example.sample_rate, SAMPLE_RATE))
        axis.imshow(
            decibels,
            origin="lower",
            aspect="auto",
            cmap=COLOURS,
            vmin=decibels.max() - DYNAMIC_RANGE_DB,
            vmax=decibels.max(),
            extent=(0.0, decibels.shape[1] * HOP_LENGTH / SAMPLE_RATE, 0, decibels.shape[0]),
        )
        axis.set_title(label, fontsize=10, loc="left")
    for axis in axes[len(sounds) :]:
        axis.set_visible(False)
    figure.supxlabel("time (s)", fontsize=9)
    figure.supylabel("mel band", fontsize=9)
    with atomic_file(path) as temporary:
        # Without metadata, since matplotlib's version would change the file and nothing else.
        figure.savefig(temporary, dpi=90, metadata={"Software": None})
