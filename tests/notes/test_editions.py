"""No piece of the music21 corpus that a preset trains on is another edition of one that a frozen test set plays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from timbreflow.config import Params, load_params, preset_text
from timbreflow.data.manifest import read_manifest
from timbreflow.data.splits import piece_split
from timbreflow.notes.tables import Notes, NoteTables
from timbreflow.stages.collect_midi import collect

ROOT = Path(__file__).parents[2]
PHRASE = 6
"""Steps of melody that make one phrase."""
SAME_EDITION = 0.6
"""Share of a test piece's phrases; settings of one chorale melody by Bach share up to .41, editions .85 and more."""


def phrases(notes: Notes) -> set[tuple[int, ...]]:
    """All runs of `PHRASE` steps of the upper voice, in any key and at any tempo: intervals and relative lengths."""
    order = np.lexsort((-notes.pitch.astype(int), notes.onset.round(3)))
    onset, pitch = notes.onset.round(3)[order], notes.pitch.astype(int)[order]
    first = np.concatenate([[True], np.diff(onset) > 0])
    steps, lengths = np.diff(pitch[first]), np.diff(onset[first])
    found = set()
    for i in range(len(steps) - PHRASE + 1):
        step, length = steps[i : i + PHRASE], lengths[i : i + PHRASE]
        if np.count_nonzero(step) >= PHRASE - 1:
            found.add((*step.tolist(), *np.round(length / length[0] * 4).astype(int).tolist()))
    return found


def preset(name: str, folder: Path) -> Params:
    path = folder / f"{name}.yaml"
    path.write_text(preset_text(name), encoding="utf-8")
    return load_params(path)


def twins(params: Params, out: Path) -> set[str]:
    """source/path of training pieces that share most phrases with a piece of a test set."""
    collect(["music21"], out, params.collect_midi, root=ROOT)
    tables = NoteTables.read(out)
    names = dict(zip(tables.pieces["piece_id"], tables.pieces["source"] + "/" + tables.pieces["path"], strict=True))
    known: dict[str, set[tuple[int, ...]]] = {name: set() for name in names}
    for piece, track in zip(tables.tracks["piece_id"], tables.tracks["track"], strict=True):
        known[piece] |= phrases(tables.notes(piece, track))
    played = {
        p for name in ("artificial", "real") for p in read_manifest(ROOT / "released/testsets" / name)["piece_id"]
    }
    assert len(played & set(known)) > 50
    splits = params.render_triples.splits
    training = [piece for piece in known if piece_split(piece, splits) == "train" and known[piece]]
    return {
        names[other]
        for piece in played & set(known)
        for other in training
        if len(known[piece] & known[other]) > SAME_EDITION * max(len(known[piece]), 2 * PHRASE)
    }


@pytest.mark.slow
def test_presets_leave_out_other_editions_of_test_pieces(tmp_path: Path) -> None:
    params = preset("cpu-long", tmp_path)
    kept = replace(params, collect_midi=replace(params.collect_midi, leave_out=()))
    assert twins(kept, tmp_path / "all") == set(params.collect_midi.leave_out)
    assert twins(params, tmp_path / "long") == set()
    gpu = preset("gpu", tmp_path)
    assert gpu.collect_midi.leave_out == params.collect_midi.leave_out
