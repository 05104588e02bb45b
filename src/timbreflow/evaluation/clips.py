"""The frozen test clips: triples of sound with the notes that are truly in them, and a digest that names them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pretty_midi
from numpy.typing import NDArray

from timbreflow.data.manifest import ROLES, read_clip_notes, read_manifest, triple_positions
from timbreflow.data.shards import AudioShards
from timbreflow.errors import TimbreflowError
from timbreflow.metrics.family import FAMILIES, PROGRAMS_PER_FAMILY
from timbreflow.notes.tables import Notes


@dataclass(frozen=True)
class TripleBatch:
    """B test triples, whose sounds are [B, N] float32.

    Args:
        notes: that sound in content and target.
        descriptions: the instruments, for people: "Oboe to Marimba", by the General MIDI names of the first layers.
        instruments: the target's preset, soundfont/bank/program of its first layer: clips of one are a cluster.
        families: General MIDI family of the target; None where it is layered or plays no General MIDI program.
    """

    triple_ids: list[str]
    content: NDArray[np.float32]
    style: NDArray[np.float32]
    target: NDArray[np.float32]
    notes: list[Notes]
    descriptions: list[str]
    instruments: list[str]
    families: list[int | None]

    def __len__(self) -> int:
        return len(self.triple_ids)


class EvaluationClips:
    """Triples of one test set, read batch by batch.

    Args:
        root: data/audio.
        split: name of the set, such as test.
        sample_rate: rate that the clips must have, in Hz.
        max_triples: take so many, in the order of their ids; 0 takes all.
        only: ids of the triples to take; empty takes all.

    Raises:
        TimbreflowError: a table is missing, the set has no triple or an incomplete one, or has none of a wanted id.
    """

    def __init__(self, root: Path, split: str, *, sample_rate: int, max_triples: int, only: Sequence[str] = ()) -> None:
        self.split = split
        self._clips = read_manifest(root).reset_index(drop=True)
        positions = triple_positions(self._clips, split)
        strangers = sorted(set(only) - set(positions.index))
        if strangers:
            raise TimbreflowError(
                f"The set {split} has no triple {strangers[0]}; its ids go from {positions.index[0]} to "
                f"{positions.index[-1]}."
            )
        if only:
            positions = positions[positions.index.isin(only)]
        self._positions = positions.iloc[:max_triples] if max_triples else positions
        self.sample_rate = sample_rate
        self._shards = AudioShards(root, sample_rate=sample_rate)
        notes = read_clip_notes(root)
        targets = set(self._clips.loc[self._positions["target"], "clip_id"])
        self._notes = {str(clip): rows for clip, rows in notes[notes["clip_id"].isin(targets)].groupby("clip_id")}

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def n_samples(self) -> int:
        """Length of the longest clip."""
        return int(self._clips.loc[self._positions["target"], "n_samples"].max())

    @property
    def triple_ids(self) -> list[str]:
        """Ids of the triples, in the order of reading."""
        return [str(triple) for triple in self._positions.index]

    def batches(self, size: int) -> Iterator[TripleBatch]:
        """Yield the triples in batches of at most `size`, always in one order."""
        for start in range(0, len(self._positions), size):
            part = self._positions.iloc[start : start + size]
            sound = {role: self._read(part[role]) for role in ROLES}
            contents, targets = self._clips.loc[part["content"]], self._clips.loc[part["target"]]
            yield TripleBatch(
                triple_ids=[str(triple) for triple in part.index],
                notes=[self._true_notes(str(clip)) for clip in targets["clip_id"]],
                descriptions=[
                    " to ".join(pretty_midi.program_to_instrument_name(int(program)) for program in programs)
                    for programs in zip(contents["program"], targets["program"], strict=True)
                ],
                instruments=[
                    "/".join(map(str, place))
                    for place in targets[["soundfont", "bank", "program"]].itertuples(index=False)
                ],
                families=[
                    _family(layers, program)
                    for layers, program in zip(targets["n_layers"], targets["program"], strict=True)
                ],
                **sound,
            )

    def update_digest(self, digest: "hashlib._Hash") -> None:
        """Feed the ids and the FLAC bytes of every clip of the set to a digest."""
        for role in ROLES:
            ids = self._clips.loc[self._positions[role], "clip_id"]
            for clip_id, place in zip(ids, self._places(self._positions[role]), strict=True):
                data = self._shards.read_bytes(*place)
                digest.update(f"{self.split} {clip_id} {len(data)}\n".encode())
                digest.update(data)

    def _places(self, rows: pd.Series) -> list[tuple[str, int, int]]:
        table = self._clips.loc[rows, ["shard", "offset", "nbytes"]]
        return [(str(shard), int(offset), int(nbytes)) for shard, offset, nbytes in table.to_numpy(dtype=object)]

    def _read(self, rows: pd.Series) -> NDArray[np.float32]:
        sounds = [self._shards.read(*place) for place in self._places(rows)]
        lengths = {len(sound) for sound in sounds}
        if len(lengths) > 1:
            raise TimbreflowError(
                f"clips of the set {self.split} have different lengths {sorted(lengths)}; run render_triples again."
            )
        return np.stack(sounds)

    def _true_notes(self, clip_id: str) -> Notes:
        if clip_id not in self._notes:
            raise TimbreflowError(
                f"clip_notes.parquet has no notes of the clip {clip_id} of the set {self.split}; "
                "run render_triples again."
            )
        rows = self._notes[clip_id]
        return Notes.of(*(rows[name].to_list() for name in ("onset", "duration", "pitch", "velocity")))


def _family(layers: int, program: int) -> int | None:
    family = int(program) // PROGRAMS_PER_FAMILY
    return family if layers == 1 and 0 <= family < len(FAMILIES) else None


def digest_of_clips(sets: Sequence[EvaluationClips]) -> str:
    """sha256 of the ids and the sound of all test clips: equal digests mean the same clips."""
    digest = hashlib.sha256()
    for clips in sets:
        clips.update_digest(digest)
    return digest.hexdigest()
