"""The spectrograms of an example as one PNG; the report has its own, with players."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from timbreflow.audio.files import resample
from timbreflow.evaluation.evaluate import Example
from timbreflow.evaluation.systems import SYSTEMS
from timbreflow.files import atomic_file
from timbreflow.metrics.lsd import DYNAMIC_RANGE_DB, HOP_LENGTH, mel_decibels
from timbreflow.metrics.signals import SAMPLE_RATE
from timbreflow.reporting.media import COLOURS

COLUMNS = 3


def save_panels(path: Path, example: Example) -> None:
    """Write mel spectrograms of content, style, target and every output of a triple."""
    rows = -(-len(example.sounds) // COLUMNS)
    figure = Figure(figsize=(4.0 * COLUMNS, 2.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, (name, sound) in zip(axes, example.sounds.items(), strict=False):
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
        axis.set_title(SYSTEMS[name].label if name in SYSTEMS else name, fontsize=10, loc="left")
    for axis in axes[len(example.sounds) :]:
        axis.set_visible(False)
    figure.supxlabel("time (s)", fontsize=9)
    figure.supylabel("mel band", fontsize=9)
    with atomic_file(path) as temporary:
        # Without metadata, since matplotlib's version would change the file and nothing else.
        figure.savefig(temporary, dpi=90, metadata={"Software": None})
