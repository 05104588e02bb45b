"""Cutting a long signal into overlapping chunks and joining what a model made of them.

Griffin-Lim invents the phases of each chunk anew, so two neighbours play the same notes with different waveforms.
`overlap_add` therefore moves each chunk by at most `max_lag` samples to where it correlates best with its predecessor
(SOLA: Roucos and Wilgus, ICASSP 1985; moves do not add up, each is relative to the true position), and cross-fades at
constant power: linearly where the two are the same waveform, with equal power where they are uncorrelated.

Joining the unchanged chunks of a signal gives the signal.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChunkPlan:
    """Lengths, in samples, of chunks and of what they share.

    Args:
        length: of one chunk.
        fade: of a cross-fade.
        margin: at the edges of a chunk, beyond the fade, that are thrown away where a neighbour has better: a model
            and an inverter know nothing of what lies beyond the edge.
        max_lag: furthest that a chunk is moved, either way, to fit its predecessor; at most `margin`.

    Raises:
        ValueError: the overlap does not leave room for at least as much new signal in a chunk.
    """

    length: int
    fade: int
    margin: int
    max_lag: int

    def __post_init__(self) -> None:
        if self.fade < 1 or not 0 <= self.max_lag <= self.margin or self.overlap * 2 > self.length:
            raise ValueError(f"{self} needs 1 <= fade, 0 <= max_lag <= margin and 2 * (fade + 2 * margin) <= length")

    @property
    def overlap(self) -> int:
        """Samples that two neighbours share: the fade and a margin on both sides of it."""
        return self.fade + 2 * self.margin

    @property
    def hop(self) -> int:
        """Samples from the start of one chunk to the start of the next."""
        return self.length - self.overlap

    def count(self, n_samples: int) -> int:
        """Number of chunks that cover `n_samples`."""
        return 1 + max(0, -(-(n_samples - self.length) // self.hop))


def cut(blocks: Iterable[np.ndarray], plan: ChunkPlan) -> Iterator[np.ndarray]:
    """Cut a signal that comes in blocks of any length into overlapping chunks.

    Args:
        blocks: [n] float32 each.
        plan: lengths.

    Yields:
        [plan.length] each; the last is filled up with zeros. A signal that is shorter than one chunk comes as it is.
    """
    held = np.zeros(0, dtype=np.float32)
    first = True
    for block in blocks:
        held = np.concatenate((held, block))
        # Only a chunk that is known not to be the last one goes out here: the last is filled up below.
        while len(held) > plan.length:
            yield held[: plan.length].copy()
            held = held[plan.hop :]
            first = False
    if first:
        yield held
    else:
        yield np.pad(held, (0, plan.length - len(held)))


def overlap_add(
    chunks: Iterable[np.ndarray], plan: ChunkPlan, n_samples: int | Callable[[], int]
) -> Iterator[np.ndarray]:
    """Join chunks into a signal of exactly `n_samples`.

    Args:
        chunks: [plan.length] each, or a single one of any length.
        plan: lengths with which they were cut.
        n_samples: length of the whole; what is missing is silence (at most `max_lag` samples), what is over is cut.
            Where it is known only in the end, a function that gives what has come so far.

    Yields:
        [n] parts of the whole.
    """
    # What the newest chunk holds beyond the samples that are given out: its first `fade` samples meet the next.
    rest: np.ndarray | None = None
    length = n_samples if callable(n_samples) else lambda: n_samples
    given = 0
    for chunk in chunks:
        head, start, lag = chunk[:0], 0, 0
        if rest is not None:
            tail = rest[: plan.fade]
            lag = best_lag(tail, chunk[plan.margin - plan.max_lag : plan.margin + plan.fade + plan.max_lag])
            start = plan.margin + lag + plan.fade
            head = cross_fade(tail, chunk[start - plan.fade : start])
        stop = plan.hop + plan.margin + lag
        rest = chunk[stop:]
        part = np.concatenate((head, chunk[start:stop]))[: length() - given]
        given += len(part)
        yield part
    left = length() - given
    last = np.zeros(0, dtype=np.float32) if rest is None else rest[:left]
    yield np.pad(last, (0, left - len(last)))


def best_lag(tail: np.ndarray, head: np.ndarray) -> int:
    """Where a chunk agrees best with its predecessor.

    Args:
        tail: [F] end of the predecessor.
        head: [F + 2 L] start of the chunk; with lag 0 `tail` lies over head[L : L + F].

    Returns:
        The lag in -L..L of the highest normalised correlation of `tail` and head[L + lag : L + lag + F]; 0 when
        nothing is better than that.
    """
    max_lag = (len(head) - len(tail)) // 2
    dot = np.correlate(head.astype(np.float64), tail.astype(np.float64), mode="valid")
    power = np.cumsum(np.concatenate(([0.0], head.astype(np.float64) ** 2)))
    energy = power[len(tail) :] - power[: -len(tail)]
    floor = 1e-12 * (1.0 + float(power[-1]))
    score = dot / np.sqrt(np.maximum(energy, floor))
    best = int(np.argmax(score))
    # Rounding must not move a chunk that fits where it is.
    if score[best] <= score[max_lag] * (1 + 1e-6) + 1e-9:
        return 0
    return best - max_lag


def cross_fade(tail: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Fade from one signal to another of the same length [F], at constant power.

    With linear weights a and b = 1 - a and correlation r of the two, the power of a * tail + b * head is
    a^2 + b^2 + 2 a b r of theirs; dividing by its root keeps the level.
    """
    correlation = float(np.dot(tail.astype(np.float64), head.astype(np.float64)))
    norm = float(np.linalg.norm(tail.astype(np.float64)) * np.linalg.norm(head.astype(np.float64)))
    agreement = min(1.0, max(0.0, correlation / norm)) if norm > 0 else 1.0
    b = (np.arange(len(tail), dtype=np.float64) + 0.5) / len(tail)
    a = 1.0 - b
    faded = (a * tail + b * head) / np.sqrt(a**2 + b**2 + 2 * a * b * agreement)
    return faded.astype(np.float32)
