"""From records to a report and a page, and from clips of the training to a reference."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from timbreflow.data.manifest import read_manifest
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips
from timbreflow.files import write_text
from timbreflow.inference.released import released_folder
from timbreflow.monitoring.config import MonitorConfig
from timbreflow.monitoring.drift import Report, examine
from timbreflow.monitoring.figures import SAMPLE_RATE, Ears, Figures, measure
from timbreflow.monitoring.page import render_page
from timbreflow.monitoring.record_table import read_records
from timbreflow.monitoring.reference import Reference, read_reference, reference_of, write_reference


def served(root: Path) -> Path:
    """Where a checkout's server records."""
    return root / "data" / "served"


def own_reference(root: Path) -> Path:
    """The reference of a checkout's own training."""
    return root / "data" / "monitor" / "reference.json"


def released_reference() -> Path:
    """That of the released models, beside them."""
    return released_folder("vqvae").parent / "monitor" / "reference.json"


def watch(
    folder: Path,
    config: MonitorConfig,
    *,
    root: Path,
    out: Path,
    days: int | None = None,
    reference: Path | None = None,
) -> Report:
    """Examine the records of a folder and write the page.

    Args:
        folder: of records.
        config: thresholds.
        root: of the checkout.
        out: page to write.
        days: how far back; None as in `config`.
        reference: None for the checkout's own one, else the released one.

    Raises:
        TimbreflowError: there are no such files, or they are damaged.
    """
    days = config.days if days is None else days
    if days < 1:
        raise TimbreflowError(f"days is {days}; give 1 or more.")
    own = own_reference(root)
    known = read_reference(reference or (own if own.is_file() else released_reference()), Ears())
    report = examine(read_records(folder, days=days), known, config)
    write_text(out, render_page(report, known, made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")))
    return report


def learn(clips: Path, out: Path, *, triples: int, only: tuple[str, ...] = ()) -> Reference:
    """Measure content and style of triples, and write them as a reference.

    Args:
        clips: folder of clips: data/audio, or a built test set.
        out: file to write.
        triples: at most so many, the first ones; triples are drawn at random.
        only: ids of those to take; empty takes any.

    Raises:
        TimbreflowError: there are too few clips, or other files.
    """
    ears = Ears()
    split = "train" if "train" in set(read_manifest(clips)["split"]) else clips.name
    sounds = EvaluationClips(clips, split, sample_rate=SAMPLE_RATE, max_triples=triples, only=only)

    def figures() -> Iterator[Figures]:
        for batch in sounds.batches(8):
            for sound in (*batch.content, *batch.style):
                yield measure(sound, SAMPLE_RATE, ears)

    reference = reference_of(figures(), source=f"{clips.name}/{split}" if split != clips.name else split, ears=ears)
    write_reference(out, reference)
    return reference
