"""What transfers have above 8 kHz: recipes of the frozen test sets rendered at 48 kHz, and released models' outputs.

Rows: the content copied; the models' sound, which ends at 8 kHz (`--band model`); the same with the band that
`inference/band.py` adds (`--band full`); and that band added to the target's own sound below 8 kHz, which is what the
look-up would give behind a perfect model. Writes results/band/{table.md,band.json,panels.jpg}.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from timbreflow.audio.files import resample
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, write_json
from timbreflow.inference.band import BandAbove, BandTable
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.metrics.high_band import SAMPLE_RATE, high_band_distance
from timbreflow.metrics.lsd import lsd
from timbreflow.metrics.signals import SAMPLE_RATE as METRIC_RATE
from timbreflow.metrics.statistics import mean_interval
from timbreflow.rendering.timbres import Timbre
from timbreflow.stages.layout import Layout
from timbreflow.testsets.build import render_clips
from timbreflow.testsets.frozen import TEST_SETS, read_released
from timbreflow.testsets.sources import check_sources

ROOT = Path(__file__).resolve().parents[1]
Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Triple:
    """A triple at 48 kHz.

    Args:
        instrument: of the style, whose triples belong together in intervals.
        content: [N].
        style: [S].
        target: [N].
    """

    instrument: str
    content: Sound
    style: Sound
    target: Sound


def triples(name: str, count: int, layout: Layout) -> Iterator[Triple]:
    """Triples of a frozen set, evenly from it, rendered at 48 kHz."""
    released = read_released(layout.root / "released" / "testsets", name)
    paths = check_sources(released.checksums.sources, layout, say=print)
    clips = {str(triple): rows.set_index("role") for triple, rows in released.manifest.groupby("triple_id")}
    ids = sorted(clips)[:: max(1, len(clips) // count)][:count]
    wanted = [str(clips[one].loc[role, "clip_id"]) for one in ids for role in ("content", "style", "target")]
    made = render_clips(released, wanted, paths, sample_rate=SAMPLE_RATE)
    for number, one in enumerate(ids):
        sounds = [made[clip][0].audio for clip in wanted[3 * number : 3 * number + 3]]
        layer = Timbre.from_text(str(clips[one].loc["target", "timbre"])).layers[0]
        yield Triple(f"{layer.soundfont}/{layer.bank}/{layer.program}", *sounds)


def rows_of(triple: Triple, models: dict[str, TimbreTransfer]) -> dict[str, Sound]:
    """The sound of each row, [N]."""
    below = resample(resample(triple.target, SAMPLE_RATE, METRIC_RATE), METRIC_RATE, SAMPLE_RATE)[: len(triple.target)]
    band = BandAbove.blended([BandTable.of(triple.style, SAMPLE_RATE)], [1.0])
    whole = np.concatenate(list(band.extended([below], SAMPLE_RATE))) if band else below
    sounds = {"content copied": triple.content, "target below 8 kHz": below, "target below 8 kHz, full": whole}
    for name, session in models.items():
        for choice in ("model", "full"):
            sounds[f"{name}, {choice}"] = session.transfer(
                triple.content,
                triple.style,
                sample_rate=SAMPLE_RATE,
                band=choice,
            )
    return sounds


def figures_of(sound: Sound, target: Sound) -> tuple[float, float, float]:
    """LSD and mean difference above 8 kHz, and the LSD of the metrics at 16 kHz."""
    below = lsd(*(resample(one, SAMPLE_RATE, METRIC_RATE) for one in (sound, target)))
    return (*high_band_distance(sound, target), below)


def table(figures: dict[str, dict[str, list[tuple[float, float, float]]]], clusters: dict[str, list[str]]) -> str:
    """Markdown with a line for each row and columns for each set."""
    names = list(figures)
    heads = " | ".join(f"{name}: LSD above 8 kHz, dB | mean difference there | LSD at 16 kHz" for name in names)
    lines = [
        "# The band above 8 kHz",
        "Written by `benchmarks/band.py`; model and full are `--band` of `timbreflow transfer`. Intervals are of 95 %, "
        "over instruments.",
        "",
        f"| | {heads} |",
        f"|---|{'---|' * 3 * len(names)}",
    ]
    for row in figures[names[0]]:
        cells = []
        for name in names:
            values = np.array(figures[name][row])
            interval = mean_interval(values[:, 0], samples=2000, seed=0, clusters=clusters[name])
            low, high = interval.low, interval.high
            cells.append(f"{values[:, 0].mean():.2f} ({low:.2f} to {high:.2f}) | {values[:, 1].mean():+.2f}")
            cells.append(f"{values[:, 2].mean():.2f}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def save_panels(path: Path, panels: list[tuple[str, dict[str, Sound]]]) -> None:
    """Spectrograms to 20 kHz, a row of panels a triple."""
    figure = Figure(figsize=(3.2 * len(panels[0][1]), 2.3 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), len(panels[0][1]), squeeze=False, sharex=True, sharey=True)
    for axes, (title, sounds) in zip(grid, panels, strict=True):
        for axis, (name, sound) in zip(axes, sounds.items(), strict=True):
            spectrum = np.abs(librosa.stft(sound / max(float(np.std(sound)), 1e-9), n_fft=2048, hop_length=512))
            decibels = 20 * np.log10(spectrum[: round(20000 * 2048 / SAMPLE_RATE)] + 1e-9)
            axis.imshow(
                decibels,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=decibels.max() - 90,
                vmax=decibels.max(),
                extent=(0.0, len(sound) / SAMPLE_RATE, 0.0, 20.0),
            )
            axis.set_title(f"{title}: {name}", fontsize=8, loc="left")
    figure.supxlabel("time (s)", fontsize=9)
    figure.supylabel("kHz", fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="jpeg", dpi=80, pil_kwargs={"quality": 85})


def main() -> int:
    """Render, transfer, print and write the table; 2 after an error, which is one sentence."""
    options = _options()
    try:
        models = {name: TimbreTransfer.released(name) for name in options.models}
        figures: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
        clusters: dict[str, list[str]] = {}
        panels: list[tuple[str, dict[str, Sound]]] = []
        for name in options.testsets:
            rows, instruments = figures.setdefault(name, {}), clusters.setdefault(name, [])
            for number, triple in enumerate(triples(name, options.clips, Layout(options.root))):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of peaks, of no matter here
                    sounds = rows_of(triple, models)
                instruments.append(triple.instrument)
                for row, sound in sounds.items():
                    rows.setdefault(row, []).append(figures_of(sound, triple.target))
                if number % max(1, options.clips // 3) == 0 and len(panels) < 6:
                    shown = [row for row in sounds if row.startswith(options.models[0])]
                    kept = {"content": triple.content, **{row: sounds[row] for row in shown}, "target": triple.target}
                    panels.append((f"{name} {number}", kept))
        text = table(figures, clusters)
        print(text)
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "band.json", {"figures": figures, "instruments": clusters})
        save_panels(options.out / "panels.jpg", panels)
        with atomic_file(options.out / "table.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what transfers have above 8 kHz.")
    parser.add_argument("--testsets", nargs="+", choices=TEST_SETS, default=["artificial", "real"])
    parser.add_argument("--clips", type=int, default=36, help="triples of each set (%(default)s)")
    parser.add_argument("--models", nargs="+", default=["vqvae", "glow"], help="released models (%(default)s)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "band", help="folder (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
