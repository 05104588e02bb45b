"""Recipes of true triples: content (notes A, timbre i), style (notes B, timbre j), target (notes A, timbre j).

A recipe is drawn from hashes of the seed, the split and the triple's number: it does not depend on which other triples
are drawn, in which order or by which process. Notes and timbres are drawn from separate hashes, so that the k-th
triples of `test` and `test_seen` share their notes and differ only in how unseen their timbres are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash
from timbreflow.notes.segments import find_segments
from timbreflow.notes.tables import Notes, NoteTables
from timbreflow.rendering.config import RenderConfig
from timbreflow.rendering.programs import PITCHED_PROGRAMS
from timbreflow.rendering.timbres import Palette, Timbre, draw_timbre

_DRAWS = 200
"""Tracks that are tried for one segment before a split counts as having none."""

_PARTNERS = 12
"""Candidates for notes B, of which the first good or else the best is taken."""

_GOOD_OVERLAP = 0.5
"""Part of the narrower pitch range that notes A and B should share."""


@dataclass(frozen=True)
class Segment:
    """A stretch of one track.

    Args:
        piece_id: as in the note tables.
        track: as in the note tables.
        program: of the track, -1 unset.
        start: in s; a float32 value, as the manifest keeps it.
        transposition: in semitones.
        tempo: factor by which the notes are played faster than written.
        velocity: added to the written velocities.
    """

    piece_id: str
    track: int
    program: int
    start: float
    transposition: int
    tempo: float = 1.0
    velocity: int = 0


@dataclass(frozen=True)
class ClipRecipe:
    """All that a clip is made from.

    Args:
        triple_id: of the triple it belongs to.
        role: content, style, target or counterpart.
        segment: which notes.
        timbre: which instrument.
        seconds: length.
    """

    triple_id: str
    role: str
    segment: Segment
    timbre: Timbre
    seconds: float

    @property
    def clip_id(self) -> str:
        """16 hexadecimal digits of the hash of the recipe."""
        segment = self.segment
        place = (segment.piece_id, segment.track, segment.start, segment.transposition, self.seconds)
        return f"{stable_hash('clip', self.triple_id, self.role, *place, self.timbre.timbre_id):016x}"

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "ClipRecipe":
        """The recipe of a row of the manifest: rendered with the clip's notes it gives the clip again, bit for bit.

        The notes are those of clip_notes.parquet, where tempo and velocities are as they were played.
        """
        # The track's program is not needed any more: it only steers the drawing of timbres.
        segment = Segment(str(row["piece_id"]), int(row["track"]), -1, float(row["start"]), int(row["transposition"]))
        timbre = Timbre.from_text(row["timbre"])
        return cls(str(row["triple_id"]), str(row["role"]), segment, timbre, float(row["duration"]))


class SegmentPool:
    """The segments of some pieces, looked up when they are drawn, so that a pool of any size opens at once.

    Args:
        tables: note tables.
        piece_ids: pieces to draw from, in any order.
        config: clip_seconds, min_onsets and transposition.
    """

    def __init__(self, tables: NoteTables, piece_ids: Sequence[str], config: RenderConfig) -> None:
        self._tables = tables
        self._config = config
        tracks = tables.tracks
        usable = (
            ~tracks["is_drum"].to_numpy(bool)
            & (tracks["n_notes"].to_numpy() >= config.min_onsets)
            & tracks["program"].isin((-1, *PITCHED_PROGRAMS)).to_numpy(bool)
            & tracks["piece_id"].isin(set(piece_ids)).to_numpy(bool)
        )
        chosen = tracks[usable].drop_duplicates(["piece_id", "track"]).sort_values(["piece_id", "track"])
        self._tracks: dict[str, list[tuple[int, int]]] = {}
        for piece, track, program in zip(chosen["piece_id"], chosen["track"], chosen["program"], strict=True):
            self._tracks.setdefault(piece, []).append((int(track), int(program)))
        self._pieces = list(self._tracks)
        self._starts = lru_cache(maxsize=4096)(self._find_starts)

    def __len__(self) -> int:
        """Number of tracks with enough notes."""
        return sum(len(tracks) for tracks in self._tracks.values())

    def holds_pair(self) -> bool:
        """Whether two disjoint segments can be drawn."""
        rng = np.random.default_rng(0)
        segment = self.draw(rng)
        return segment is not None and self.draw_partner(rng, segment) is not None

    def draw(self, rng: np.random.Generator) -> Segment | None:
        """A segment with its transposition: a piece, a track and a start, each uniformly; None where none is found."""
        for _ in range(_DRAWS if self._pieces else 0):
            piece = self._pieces[rng.integers(len(self._pieces))]
            track, program = self._tracks[piece][rng.integers(len(self._tracks[piece]))]
            starts = self._starts(piece, track)
            if len(starts):
                start = float(starts[rng.integers(len(starts))])
                limit = self._config.transposition
                transposition = int(rng.integers(-limit, limit + 1))
                return Segment(piece, track, program, start, transposition, *self._draw_performance(rng))
        return None

    def _draw_performance(self, rng: np.random.Generator) -> tuple[float, int]:
        # Nothing is drawn where nothing varies, so that old settings still give the same clips.
        limits = self._config.performance
        tempo = float((1 + limits.tempo) ** rng.uniform(-1, 1)) if limits.tempo else 1.0
        return tempo, int(rng.integers(-limits.velocity, limits.velocity + 1)) if limits.velocity else 0

    def draw_partner(self, rng: np.random.Generator, segment: Segment) -> Segment | None:
        """A disjoint segment for the style, if it can be from another piece and of an overlapping pitch range."""
        best, best_score = None, -np.inf
        for _ in range(_PARTNERS):
            partner = self.draw(rng)
            if partner is None or not self._disjoint(segment, partner):
                continue
            overlap = self._overlap(segment, partner)
            score = overlap + (partner.piece_id != segment.piece_id)
            if score > best_score:
                best, best_score = partner, score
            if overlap >= _GOOD_OVERLAP and partner.piece_id != segment.piece_id:
                break
        return best

    def _find_starts(self, piece: str, track: int) -> np.ndarray:
        length = self._config.clip_seconds
        notes = self._tables.notes(piece, track)
        return find_segments(notes, length=length, min_onsets=self._config.min_onsets, hop=length / 4)

    def _disjoint(self, one: Segment, other: Segment) -> bool:
        same_track = (one.piece_id, one.track) == (other.piece_id, other.track)
        first, later = sorted((one, other), key=lambda segment: segment.start)
        return not same_track or later.start - first.start >= self._config.clip_seconds * first.tempo

    def _overlap(self, one: Segment, other: Segment) -> float:
        pitches = [segment_notes(self._tables, each, self._config.clip_seconds).pitch for each in (one, other)]
        if min(map(len, pitches)) == 0:
            return 0.0
        (low, high), (other_low, other_high) = ((int(pitch.min()), int(pitch.max())) for pitch in pitches)
        shared = min(high, other_high) - max(low, other_low) + 1
        return max(0, shared) / (min(high - low, other_high - other_low) + 1)


def segment_notes(tables: NoteTables, segment: Segment, seconds: float) -> Notes:
    """The notes that sound in a segment of `seconds`, transposed and as they are played, with onsets relative to it.

    A pitch cannot sound twice at once on one channel: of two notes that start together the longer is kept, and a note
    ends where the next of its pitch begins.
    """
    notes = tables.notes(segment.piece_id, segment.track).window(segment.start, seconds * segment.tempo)
    notes = notes.transposed(segment.transposition).played(tempo=segment.tempo, velocity=segment.velocity)
    order = np.lexsort((-notes.duration, notes.onset, notes.pitch))
    onset, pitch = notes.onset[order], notes.pitch[order]
    first = np.ones(len(order), bool)
    first[1:] = (pitch[1:] != pitch[:-1]) | (onset[1:] != onset[:-1])
    order, onset, pitch = order[first], onset[first], pitch[first]
    duration = notes.duration[order].copy()
    if len(order) > 1:
        repeated = pitch[1:] == pitch[:-1]
        duration[:-1] = np.where(repeated, np.minimum(duration[:-1], onset[1:] - onset[:-1]), duration[:-1])
    in_time = np.lexsort((pitch, onset))
    return Notes(onset[in_time], duration[in_time], pitch[in_time], notes.velocity[order][in_time])


def draw_triple(
    pool: SegmentPool, palette: Palette, config: RenderConfig, *, split: str, pieces: str, number: int, attempt: int
) -> dict[str, ClipRecipe]:
    """Draw the recipes of one triple.

    Args:
        pool: segments of the split's pieces.
        palette: what the split's timbres are made of.
        config: seed, clip_seconds, timbre.
        split: train, validation, test or test_seen.
        pieces: name of the split of pieces; splits that share it share their notes.
        number: of the triple in its split, from 0.
        attempt: from 0; the next one is drawn when a clip turns out silent.

    Returns:
        The clips by their roles: content and target share their notes, style and target their timbre; in a complete
        square the counterpart has the style's notes and the content's timbre.

    Raises:
        TimbreflowError: the pieces hold no two disjoint segments, or the palette no two timbres.
    """
    rng = np.random.default_rng(stable_hash(config.seed, "notes", pieces, number, attempt))
    segment = pool.draw(rng)
    partner = None if segment is None else pool.draw_partner(rng, segment)
    if segment is None or partner is None:
        raise TimbreflowError(
            f"The {pieces} pieces hold no two disjoint segments of {config.clip_seconds:g} s with {config.min_onsets} "
            "onsets; collect more music or lower min_onsets."
        )
    rng = np.random.default_rng(stable_hash(config.seed, "timbres", split, number, attempt))
    target_timbre = draw_timbre(rng, palette, config.timbre, source_program=partner.program)
    content_timbre = _draw_other(rng, palette, config, segment.program, target_timbre)
    triple_id = f"{split}-{number:07d}"
    clips = {
        "content": (segment, content_timbre),
        "style": (partner, target_timbre),
        "target": (segment, target_timbre),
        "counterpart": (partner, content_timbre),
    }
    if not (config.complete_squares and split == "train"):
        del clips["counterpart"]
    return {role: ClipRecipe(triple_id, role, *clip, config.clip_seconds) for role, clip in clips.items()}


def _draw_other(
    rng: np.random.Generator, palette: Palette, config: RenderConfig, source_program: int, timbre: Timbre
) -> Timbre:
    """A timbre of another program, or of another recipe where the class has a single program."""
    fallback = None
    for _ in range(20):
        other = draw_timbre(rng, palette, config.timbre, source_program=source_program)
        if other.layers[0].program != timbre.layers[0].program:
            return other
        if other.timbre_id != timbre.timbre_id:
            fallback = other
    if fallback is not None:
        return fallback
    # The class of this track may hold nothing else: take any program.
    for _ in range(20):
        other = draw_timbre(rng, palette, config.timbre, source_program=-1)
        if other.timbre_id != timbre.timbre_id:
            return other
    raise TimbreflowError(
        "The SoundFonts hold a single timbre for this split; name another SoundFont or lower the held-out fractions."
    )
