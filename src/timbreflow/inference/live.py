"""Transfer of a content that comes in pieces, a chunk later."""

import math
from collections.abc import Iterator

import numpy as np

from timbreflow.inference.playing import CHUNK_SECONDS, Levels, Player, square_sum
from timbreflow.inference.streaming.batches import StreamBatches, TransferStream
from timbreflow.inference.streaming.chunks import cut, overlap_add
from timbreflow.inference.streaming.recordings import from_array, resampled
from timbreflow.inference.streaming.writing import exactly, limited
from timbreflow.inference.style import StyleBlend
from timbreflow.inference.synthesis import TransferOptions

RESAMPLER_SECONDS = 0.25
"""That two resamplers of soxr hold back at most; measured at rates from 8 to 96 kHz: .07 to .22 s."""
BAND_SECONDS = 0.04
"""That `band` holds back at most."""


def latency(player: Player, rate: int) -> int:
    """Samples at a rate, in Hz, by which a stream is behind its content at most: a chunk, resamplers and band."""
    return math.ceil((player.plan.length / player.sample_rate + RESAMPLER_SECONDS + BAND_SECONDS) * rate)


def streamed(
    player: Player,
    blocks: Iterator[np.ndarray],
    style: StyleBlend,
    *,
    rate: int,
    levels: Levels | None,
    options: TransferOptions,
) -> Iterator[np.ndarray]:
    """The content, given in pieces, as it sounds with the style; see `TimbreTransfer.stream`.

    Args:
        player: of the model.
        blocks: [n] of the content at `rate`.
        style: of the result.
        rate: of content and result, in Hz.
        levels: of the whole content; None takes those of its first 8 s.
        options: what a stream can do.

    Yields:
        [n] float32 blocks, in all as many samples as came.
    """
    n_samples = 0
    dynamics = levels.dynamics if levels is not None and options.expression == "on" else None

    def counted() -> Iterator[np.ndarray]:
        nonlocal n_samples
        for block in blocks:
            one = np.asarray(block, np.float32)
            n_samples += len(one)
            yield one

    coming: Iterator[np.ndarray] = counted()
    out = None
    if levels is None:
        first: list[np.ndarray] = []
        while sum(map(len, first)) < round(CHUNK_SECONDS * rate) and (one := next(coming, None)) is not None:
            first.append(one)
        head = np.concatenate(first) if first else np.zeros(0, np.float32)
        known = from_array(head, rate, name="the beginning of the stream")
        coming = (part for parts in ([head], coming) for part in parts)
        into = known.gain
    else:
        into, out, known = levels.into, levels.out, None
    own_rate, tokens = player.sample_rate, player.styles.tokens(None, style, options)

    def generated() -> int:
        return max(1, round(n_samples * own_rate / rate))

    content = resampled((block * np.float32(into) for block in coming), rate, own_rate)
    if dynamics is not None:
        content = dynamics.taken_out(content, own_rate)
    stream = TransferStream(cut(content, player.plan), player.request(style, options, tokens=tokens))
    made = overlap_add(StreamBatches(player.decode, batch_size=1).run(stream), player.plan, generated)
    if dynamics is not None:
        made = dynamics.put_back(made, own_rate)
    made = resampled(made, own_rate, rate)
    if options.band == "full" and style.band is not None:
        made = style.band.extended(made, rate)
    for part in exactly(made, lambda: n_samples):
        if out is None and known is not None and len(part):
            rms = math.sqrt(square_sum(part) / len(part))
            out = known.rms / rms if rms > 1e-9 else 1.0
        if len(part):
            yield limited(part * np.float32(out if out is not None else 1.0))
