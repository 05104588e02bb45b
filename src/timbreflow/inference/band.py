"""The band above 7.3 kHz, where models and vocoder end: taken from the style, frame by frame, with nothing trained.

A frame of the result gets the spectrum above that the style has in frames with a like spectrum below. What sounds there
is the result's own octave below, moved up (spectral band replication: Dietz, Liljeryd, Kjörling and Kunz, 112th AES
Convention, 2002). The result below 7.3 kHz stays as it is, to the sample.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HOP_SECONDS = 0.005
OVERLAP = 4
"""Windows are so many hops: 20 ms, whose bins are 50 Hz wide at every rate."""
LOWEST, EDGE, TOP = 400.0, 7300.0, 20000.0
"""Hz: where spectra that are compared begin and end, and where the band that is added ends. Resamplers pass 7.3 kHz of
8 kHz."""
SOURCE = 76
"""Bins below EDGE that are moved up, a multiple of OVERLAP: so the phases of shifted bins go on from frame to frame."""
BELOW, ABOVE = 14, 10
"""Bands that are compared, and that are taken from the style: equally wide on a logarithmic scale."""
NYQUIST_SHARE = 0.95
"""Of half the rate of a recording, above which its converter lets nothing through."""
AUDIBLE_DB = 50.0
"""Frames of the style so far below its loudest are no key."""
SHARPNESS_DB = 4.0
"""Root mean square difference of two spectra at which a style's frame counts 1 / e of an equal one."""
SILENT_DB = -100.0
MOST_DB = 12.0
"""The band above is never so far above the octave below it."""
EMPTY = np.zeros(0, np.float32)

Sound = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Grid:
    """Frames and bands at a sample rate.

    Args:
        rate: in Hz.
    """

    rate: int

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return round(HOP_SECONDS * self.rate)

    @property
    def size(self) -> int:
        """Samples of a window."""
        return OVERLAP * self.hop

    @property
    def window(self) -> Floats:
        """[size] Hann window."""
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.size) / self.size)

    @property
    def reach(self) -> float:
        """Highest frequency in Hz that a recording of this rate holds."""
        return min(TOP, NYQUIST_SHARE * self.rate / 2)

    def bins(self, hertz: NDArray[np.float64] | float) -> NDArray[np.int64]:
        """Nearest bins of frequencies in Hz."""
        return np.round(np.asarray(hertz) * self.size / self.rate).astype(np.int64)

    @property
    def below(self) -> NDArray[np.int64]:
        """[BELOW + 1] bins between which the compared bands lie."""
        return self.bins(np.geomspace(LOWEST, EDGE, BELOW + 1))

    @property
    def above(self) -> NDArray[np.int64]:
        """[ABOVE + 1] bins between which the added bands lie."""
        return self.bins(np.geomspace(EDGE, TOP, ABOVE + 1))

    def spectra(self, sound: Floats) -> NDArray[np.complex128]:
        """[F, size / 2 + 1] spectra of the whole frames of a sound [N]."""
        frames = np.lib.stride_tricks.sliding_window_view(sound, self.size)[:: self.hop]
        return np.fft.rfft(frames * self.window)

    def known(self) -> int:
        """How many of the bands above a recording of this rate holds."""
        return int(np.count_nonzero(self.above[1:] <= self.bins(self.reach)))


def band_powers(spectra: NDArray[np.complex128], edges: NDArray[np.int64]) -> Floats:
    """Mean power [F, B] of the bins between edges [B + 1]."""
    power = np.square(np.abs(spectra[:, edges[0] : edges[-1]]))
    return np.add.reduceat(power, edges[:-1] - edges[0], axis=1) / np.diff(edges)


def decibels(power: Floats) -> Floats:
    """Of powers, not below `SILENT_DB`."""
    return 10 * np.log10(np.maximum(power, 10 ** (SILENT_DB / 10)))


@dataclass(frozen=True, eq=False)
class BandTable:
    """What a recording has above EDGE, by what it has below.

    Args:
        shapes: [F, BELOW] dB of its audible frames below, each frame's mean taken out.
        ratios: [F, B] dB above, in relation to the octave below EDGE; B of the ABOVE bands, those that it was recorded
            with.
    """

    shapes: Floats
    ratios: Floats

    @classmethod
    def of(cls, sound: Sound, rate: int) -> "BandTable | None":
        """Of a sound [N]; None where it was recorded at too low a rate, or is too short, to have such a band."""
        grid = Grid(rate)
        known = grid.known()
        if not known or len(sound) < grid.size:
            return None
        spectra = grid.spectra(np.asarray(sound, np.float64))
        level = np.square(np.abs(spectra)).sum(1)
        spectra = spectra[level > level.max() * 10 ** (-AUDIBLE_DB / 10)]
        if not len(spectra):
            return None
        shapes, source = _below(spectra, grid)
        return cls(shapes, decibels(band_powers(spectra, grid.above[: known + 1])) - source[:, None])

    def ratios_for(self, shapes: Floats) -> Floats:
        """Ratios [T, B] in dB for frames with given shapes [T, BELOW]: those of like frames of the recording."""
        apart = (shapes**2).sum(1)[:, None] + (self.shapes**2).sum(1) - 2 * shapes @ self.shapes.T
        near = -np.maximum(apart, 0) / (BELOW * SHARPNESS_DB**2)
        weights = np.exp(near - near.max(1, keepdims=True))
        return np.minimum(weights @ self.ratios / weights.sum(1, keepdims=True), MOST_DB)


@dataclass(frozen=True, eq=False)
class BandAbove:
    """The band above of one style, or of several that are blended.

    Args:
        tables: of the styles.
        weights: of each, with the sum 1.
    """

    tables: tuple[BandTable, ...]
    weights: tuple[float, ...]

    @classmethod
    def blended(cls, tables: Iterable[BandTable | None], weights: Iterable[float]) -> "BandAbove | None":
        """Of the styles that have such a band; None where none has."""
        pairs = [(table, weight) for table, weight in zip(tables, weights, strict=True) if table and weight > 0]
        total = sum(weight for _, weight in pairs)
        return cls(tuple(table for table, _ in pairs), tuple(weight / total for _, weight in pairs)) if pairs else None

    def ratios_for(self, shapes: Floats) -> Floats:
        """As of a table; in a blend the weighted mean in dB of the bands that all have."""
        known = min(table.ratios.shape[1] for table in self.tables)
        parts = zip(self.tables, self.weights, strict=True)
        return np.sum([weight * table.ratios_for(shapes)[:, :known] for table, weight in parts], axis=0)

    def added(self, spectra: NDArray[np.complex128], grid: Grid) -> NDArray[np.complex128]:
        """What is to be added to spectra [F, K] that end at EDGE."""
        shapes, source = _below(spectra, grid)
        ratios = self.ratios_for(shapes)[:, : grid.known()]
        edges = grid.above[: ratios.shape[1] + 1]
        wanted = source[:, None] + ratios
        first, last = int(edges[0]), int(edges[-1])
        moved = spectra[:, first - SOURCE + np.arange(last - first) % SOURCE]
        power = np.add.reduceat(np.square(np.abs(moved)), edges[:-1] - first, axis=1) / np.diff(edges)
        gain = np.sqrt(10 ** (wanted / 10) / np.maximum(power, 10 ** (SILENT_DB / 10)))
        result = np.zeros_like(spectra)
        result[:, first:last] = moved * np.repeat(gain, np.diff(edges), axis=1)
        # What resamplers let through above EDGE is replaced.
        result[:, first:] -= spectra[:, first:]
        return result

    def extended(self, blocks: Iterable[Sound], rate: int) -> Iterator[Sound]:
        """A sound in blocks [n] at `rate` Hz, as one signal, with the band above: as many samples as came.

        A sample leaves when two windows, 40 ms, have come behind it.
        """
        grid = Grid(rate)
        if not grid.known():
            yield from blocks
            return
        window, hop, size = grid.window, grid.hop, grid.size
        # Frames begin before the sound does and end behind it, so that each sample lies in `OVERLAP` of them.
        waiting = np.zeros(size - hop)
        heard = EMPTY
        tail = np.zeros(size - hop)
        lead = size - hop

        def step(sound: Floats) -> tuple[Floats, Floats]:
            """Added samples that no further frame reaches, and what is left of the sound for the next frames."""
            nonlocal tail
            spectra = grid.spectra(sound)
            parts = np.fft.irfft(self.added(spectra, grid), size) * window / (OVERLAP * 3 / 8)
            total = np.zeros((len(parts) - 1) * hop + size)
            total[: len(tail)] = tail
            for number, part in enumerate(parts):
                total[number * hop : number * hop + size] += part
            done = len(parts) * hop
            tail = total[done:]
            return total[:done], sound[done:]

        for block in blocks:
            heard = np.concatenate((heard, block))
            waiting = np.concatenate((waiting, np.asarray(block, np.float64)))
            if len(waiting) < 2 * size:
                continue
            done, waiting = step(waiting)
            lead, done = max(0, lead - len(done)), done[lead:]
            yield (heard[: len(done)] + done).astype(np.float32)
            heard = heard[len(done) :]
        done, _ = step(np.pad(waiting, (0, size + hop)))
        done = done[lead:][: len(heard)]
        yield (heard + np.pad(done, (0, len(heard) - len(done)))).astype(np.float32)


def _below(spectra: NDArray[np.complex128], grid: Grid) -> tuple[Floats, Floats]:
    """Shapes [F, BELOW] in dB, and dB [F] of the octave below EDGE."""
    shapes = decibels(band_powers(spectra, grid.below))
    edge = int(grid.above[0])
    source = decibels(band_powers(spectra, np.array([edge - SOURCE, edge])))[:, 0]
    return shapes - shapes.mean(1, keepdims=True), source
