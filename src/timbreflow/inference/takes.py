"""Several takes of one transfer, ranked by the model's own judgement.

What a model made is analysed again. The order is by two distances: from the model's own prediction, that is its
decoder's, which is drawn from nothing; and from the style, between their mean spectra. That finds takes that are a
little nearer to the target; orders by the flow's exact likelihood, the style tokens or the piano roll that the model
hears do not (`benchmarks/musicians.py`), and these only describe a take.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from timbreflow.inference.playing import Decode, TransferResult
from timbreflow.inference.style import mean_spectrum
from timbreflow.inference.synthesis import DecodeRequest, Synthesizer, encoding
from timbreflow.models.bundle import ModelBundle
from timbreflow.models.glow.model import Glow

MOST_TAKES = 32
CLOSE, NEARER = 0.5, 0.25
"""Share of the way from the content's tokens to the style's, from which a take is called close, or on the way."""
CLEAR, KEPT = 0.75, 0.55
"""Agreement of the piano rolls from which notes are called clear, or mostly kept."""


@dataclass(frozen=True)
class TakeFigures:
    """What the model says of its own take.

    Attributes:
        off_prediction: distance of its log-mels from the prediction of the model's decoder: root mean square over the
            bands, mean over the frames, in nats; NaN for a model without one.
        off_style: mean distance of its mean log-mels from the style's, in nats, both without their level.
        bits_per_dim: of the take under the content's notes and the style, at the noise of the training; lower is
            likelier; NaN for a model without a likelihood.
        closeness: share of the way that the style tokens have gone from the content's to the style's; 1 is there.
        notes_kept: agreement of the piano rolls of take and content, 0 to 1; NaN for a model that hears none.
    """

    off_prediction: float
    off_style: float
    bits_per_dim: float
    closeness: float
    notes_kept: float

    @property
    def words(self) -> str:
        """The figures for a person."""
        if self.closeness >= CLOSE:
            style = "close to the style"
        else:
            style = "on the way to the style" if self.closeness >= NEARER else "far from the style"
        if math.isnan(self.notes_kept):
            return style
        if self.notes_kept >= CLEAR:
            return f"{style}, notes clear"
        return f"{style}, {'most notes kept' if self.notes_kept >= KEPT else 'notes blurred'}"


@dataclass(frozen=True, eq=False)
class Take:
    """One of several takes of a transfer.

    Attributes:
        seed: that gives it again.
        temperature: of its samples.
        figures: the model's own judgement; `figures.words` says it for a person.
        audio: float32 of the content's shape; None where it was written to a file.
        result: the file; None where it is in memory.
    """

    seed: int
    temperature: float
    figures: TakeFigures
    audio: np.ndarray | None = None
    result: TransferResult | None = None

    def moved(self, path: Path) -> "Take":
        """The take with its file under another name."""
        written = self.result
        assert written is not None
        written.path.replace(path)
        notes = tuple(note.replace(str(written.path), str(path)) for note in written.notes)
        return replace(self, result=replace(written, path=path, notes=notes))


def take_paths(out: Path, n: int) -> list[Path]:
    """The files of n takes: OUT-1.wav, OUT-2.wav and so on."""
    return [out.with_name(f"{out.stem}-{number + 1}{out.suffix}") for number in range(n)]


def ranked(figures: Sequence[TakeFigures]) -> list[int]:
    """Numbers of the takes, best first: by the sum of both distances, each in its deviations over the takes."""
    table = np.array([[one.off_prediction, one.off_style] for one in figures])
    table = table[:, np.isfinite(table).all(axis=0)]
    spread = table.std(axis=0)
    scores = ((table - table.mean(axis=0)) / np.where(spread > 0, spread, 1)).sum(axis=1)
    return [int(number) for number in np.argsort(scores, kind="stable")]


def best_first(takes: Sequence[Take]) -> list[Take]:
    """Takes in the order of `ranked`."""
    return [takes[number] for number in ranked([take.figures for take in takes])]


@dataclass
class TakeJudge:
    """Adds up the figures of one take while it is made, chunk by chunk.

    Args:
        bundle: of the model.
        noise: deviation of the noise on the features, as in the training.
    """

    bundle: ModelBundle
    noise: float
    _sums: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("n", "prediction", "style", "bits", "own", "out", "same", "all"), 0.0)
    )

    @torch.inference_mode()
    def add(self, content: Tensor, made: Tensor, request: DecodeRequest) -> None:
        """Judge chunks.

        Args:
            content: [B, M, T] normalised features of the content.
            made: [B, M, T] those of the sound that was made of it.
            request: how it was made.
        """
        model = encoding(self.bundle.model)
        style = model.style_encoder(request.style) if request.tokens is None else request.tokens
        notes, heard = model.content_path(content), model.content_path(made)
        self._sums["n"] += len(content)
        for name, features in (("own", content), ("out", made)):
            distance = (model.style_encoder(features) - style).square().mean((1, 2)).sqrt()
            self._sums[name] += float(distance.sum())
        if notes.pianoroll_logits is not None and heard.pianoroll_logits is not None:
            wanted, found = notes.pianoroll_logits.sigmoid(), heard.pianoroll_logits.sigmoid()
            self._sums["same"] += 2 * float(torch.minimum(wanted, found).sum())
            self._sums["all"] += float(wanted.sum() + found.sum())
        raw = self._raw(made)
        self._sums["style"] += float((mean_spectrum(raw) - mean_spectrum(self._raw(request.style))).abs().mean(1).sum())
        if isinstance(model, Glow):
            conditions = model.condition(notes.code, style, frames=content.shape[-1])
            draw = torch.randn(made.shape, generator=torch.Generator().manual_seed(0)).to(made)
            self._sums["bits"] += float(model.likelihood(made + self.noise * draw, conditions).bits_per_dim.sum())
            if conditions.prediction is not None:
                off = (raw - self._raw(conditions.prediction)).square().mean(1).sqrt()
                self._sums["prediction"] += float(off.mean(1).sum())

    def _raw(self, features: Tensor) -> Tensor:
        assert self.bundle.normalizer is not None
        return self.bundle.normalizer.denormalize(features)

    def listening(self, synthesizer: Synthesizer) -> Decode:
        """What decodes for this take: the judge hears what is heard, with the content's pitch and sharp attacks."""

        def decode(chunks: Sequence[np.ndarray], requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
            request = DecodeRequest.joined(requests)
            sound = synthesizer.transfer(chunks, request)
            content = synthesizer.content_features(chunks, transpose=request.transpose)
            self.add(content, synthesizer.content_features(sound), request)
            return sound

        return decode

    @property
    def figures(self) -> TakeFigures:
        """Of all chunks together."""
        sums, model = self._sums, self.bundle.model
        return TakeFigures(
            sums["prediction"] / sums["n"] if isinstance(model, Glow) and model.decoder is not None else math.nan,
            sums["style"] / sums["n"],
            sums["bits"] / sums["n"] if isinstance(model, Glow) else math.nan,
            1 - sums["out"] / sums["own"] if sums["own"] > 0 else 0.0,
            sums["same"] / sums["all"] if sums["all"] > 0 else math.nan,
        )
