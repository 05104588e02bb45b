"""Windows of 8 s cut from test pieces, and the order in which triples take them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from timbreflow.data.splits import piece_split
from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash
from timbreflow.notes.segments import find_segments
from timbreflow.notes.tables import Notes, NoteTables
from timbreflow.rendering.programs import PITCHED_PROGRAMS
from timbreflow.rendering.triples import Segment, segment_notes
from timbreflow.testsets.frozen import FRACTIONS

SECONDS = 8.0
MIN_ONSETS = 4
MIN_BUSY_SECONDS = 4
"""Seconds of the 8 in which a note begins (Cífka et al. 2021)."""

TRANSPOSITION = 5
"""Semitones, up and down."""

VOICES = 1.16
MEAN_PITCH = 62.8
"""Medians of the paper's pieces, where its 2 x 2 bins meet."""

_ROLL_STEP = 0.01  # s, fine enough to count voices
_PARTNERS = 12


@dataclass(frozen=True)
class Window:
    """8 s of one track, with its transposition applied; `voices` is the mean number of notes while any sounds."""

    segment: Segment
    notes: Notes
    voices: float
    mean_pitch: float

    @property
    def bin(self) -> str:
        """Name of its bin in the paper's 2 x 2, such as `few-low`."""
        return f"{'many' if self.voices >= VOICES else 'few'}-{'high' if self.mean_pitch >= MEAN_PITCH else 'low'}"


def all_windows(tables: NoteTables, *, seed: int) -> list[Window]:
    """All disjoint windows of the test pieces with enough notes, each in a transposition drawn by its place."""
    tracks = tables.tracks
    usable = ~tracks["is_drum"].to_numpy(bool) & tracks["program"].isin((-1, *PITCHED_PROGRAMS)).to_numpy(bool)
    chosen = tracks[usable].drop_duplicates(["piece_id", "track"]).sort_values(["piece_id", "track"])
    windows = []
    for piece, track, program in zip(chosen["piece_id"], chosen["track"], chosen["program"], strict=True):
        if piece_split(piece, FRACTIONS) != "test":
            continue
        starts = find_segments(
            tables.notes(piece, track),
            length=SECONDS,
            min_onsets=MIN_ONSETS,
            hop=SECONDS,
            min_busy_seconds=MIN_BUSY_SECONDS,
        )
        for start in starts.tolist():
            rng = np.random.default_rng(stable_hash(seed, "transposition", piece, int(track), start))
            shift = int(rng.integers(-TRANSPOSITION, TRANSPOSITION + 1))
            window = make_window(tables, Segment(piece, int(track), int(program), start, shift))
            if window is not None:
                windows.append(window)
    return windows


def make_window(tables: NoteTables, segment: Segment) -> Window | None:
    """The window of a segment, or None when its transposition leaves it too few notes."""
    notes = segment_notes(tables, segment, SECONDS)
    if len(set(notes.onset.tolist())) < MIN_ONSETS:
        return None
    sounding = notes.piano_roll(round(SECONDS / _ROLL_STEP), _ROLL_STEP).sum(axis=0)
    return Window(segment, notes, float(sounding[sounding > 0].mean()), float(notes.pitch.astype(np.float64).mean()))


class Deck:
    """Windows in an order that takes one of each piece in turn, so that no long piece fills a set; each is taken once.

    Args:
        windows: to order.
        seed_parts: hashed for the order.
    """

    def __init__(self, windows: Sequence[Window], *seed_parts: object) -> None:
        segments = [window.segment for window in windows]
        rank = {
            segment: stable_hash(*seed_parts, segment.piece_id, segment.track, segment.start) for segment in segments
        }
        by_piece: dict[str, list[Window]] = {}
        for window in sorted(windows, key=lambda window: rank[window.segment]):
            by_piece.setdefault(window.segment.piece_id, []).append(window)
        pieces = sorted(by_piece, key=lambda piece: stable_hash(*seed_parts, "piece", piece))
        rounds = range(max(map(len, by_piece.values()), default=0))
        self._left = [by_piece[piece][turn] for turn in rounds for piece in pieces if turn < len(by_piece[piece])]

    def deal(self, purpose: str, wanted: Callable[[Window], object] = bool) -> Window:
        """The next window that is `wanted`; `purpose` says in the error what it was for.

        Raises:
            TimbreflowError: none is left.
        """
        return self._take(next((window for window in self._left if wanted(window)), None), purpose)

    def deal_partner(self, other: Window, purpose: str, wanted: Callable[[Window], object] = bool) -> Window:
        """Of the next few `wanted` windows of other pieces, the one whose pitch range overlaps most with `other`'s.

        Raises:
            TimbreflowError: none is left.
        """
        piece = other.segment.piece_id
        found = (window for window in self._left if window.segment.piece_id != piece and wanted(window))
        nearest = [window for window, _ in zip(found, range(_PARTNERS), strict=False)]
        return self._take(max(nearest, key=lambda window: _overlap(window, other), default=None), purpose)

    def _take(self, window: Window | None, purpose: str) -> Window:
        if window is None:
            raise TimbreflowError(f"the test pieces hold too few windows for {purpose}; collect more music.")
        self._left.remove(window)
        return window


def _overlap(one: Window, other: Window) -> float:
    low, high = max(one.notes.pitch.min(), other.notes.pitch.min()), min(one.notes.pitch.max(), other.notes.pitch.max())
    narrow = min(int(np.ptp(one.notes.pitch)), int(np.ptp(other.notes.pitch))) + 1
    return max(0, int(high) - int(low) + 1) / narrow
