"""What a flow gains over a head: densities of independent values on the same frozen decoder and conditions.

Each head is three convolutions that see the Glow's prediction, what its finest couplings are conditioned on, the
content, and the style's mean and deviation a band. It gives each value of the log-mel a density: Laplace, or a mixture
of three normal ones. It is trained for `--steps` on the triples of data/mels, with the noise that the Glow was trained
with. A line of JSON a row: bits a value of the noisy target (in the Glow's units, lower is better), what a wrong style
costs in bits, and CRPS and energy score (dB) of 8 samples; differences from the Glow with their 95 % intervals over
instruments.

    .venv/bin/python -m benchmarks.heads --steps 1500 --data data/testsets/artificial --split artificial --clips 24
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Laplace, MixtureSameFamily, Normal

from benchmarks.forecasts import BATCH, measure
from timbreflow.audio.features import FeatureExtractor, Normalizer
from timbreflow.config import load_params
from timbreflow.data.triples import TripleBatch
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips
from timbreflow.files import stable_hash
from timbreflow.metrics.statistics import bootstrap
from timbreflow.models.blocks import full_precision
from timbreflow.models.bundle import ModelBundle, load_bundle, weights_sha256
from timbreflow.models.glow.model import Glow
from timbreflow.stages.layout import Layout
from timbreflow.stages.training import read_passed
from timbreflow.testsets.frozen import SAMPLE_RATE
from timbreflow.training.data import open_triples
from timbreflow.training.fit import fit

KINDS: tuple[Literal["laplace", "mixture"], ...] = ("laplace", "mixture")
COMPONENTS = 3
WIDTH = 320
SAMPLES = 8
SCORES = ("crps", "energy_score")
"""Scores of samples: of each value by itself, and of a frame's values together."""
Density = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Content, style and noisy target, [B, M, T] each -> bits a value, [B]."""


class Head(nn.Module):
    """Densities of the values of a log-mel, independent of each other given a frozen Glow's conditions."""

    def __init__(self, kind: Literal["laplace", "mixture"], glow: Glow) -> None:
        super().__init__()
        self.kind = kind
        bands = glow.config.n_features
        self.numbers = 2 if kind == "laplace" else 3 * COMPONENTS
        self.network = nn.Sequential(
            nn.Conv1d(4 * bands + glow.config.context_width, WIDTH, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(WIDTH, WIDTH, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(WIDTH, self.numbers * bands, 1),
        )
        nn.init.zeros_(self.network[-1].weight)  # type: ignore[arg-type]

    def forward(self, glow: Glow, content: Tensor, style: Tensor) -> Distribution:
        """Densities of [B, M, T] values from normalised content [B, M, T] and style [B, M, S]."""
        with torch.no_grad():
            code, tokens = glow.content_path(content).code, glow.style_encoder(style)
            conditions = glow.condition(code, tokens, frames=content.shape[-1])
            assert conditions.prediction is not None
            prediction = full_precision(conditions.prediction)
            context = F.interpolate(conditions.contexts[0].features, scale_factor=2)[..., : content.shape[-1]]
            about = [part.expand_as(content) for part in (style.mean(-1, keepdim=True), style.std(-1, keepdim=True))]
            seen = torch.cat([prediction, content, *about, context.to(content.dtype)], dim=1)
        made = full_precision(self.network(seen)).unflatten(1, (self.numbers, -1)).movedim(1, -1)
        if self.kind == "laplace":
            return Laplace(prediction + made[..., 0], made[..., 1].clamp(-6, 3).exp())
        shares, shifts, scales = made.chunk(3, dim=-1)
        spread = torch.linspace(-1, 1, COMPONENTS, device=made.device)  # components that begin alike stay alike
        normal = Normal(prediction[..., None] + shifts + 0.3 * spread, (scales + spread).clamp(-6, 3).exp())
        return MixtureSameFamily(Categorical(logits=shares), normal)

    def bits(self, glow: Glow, content: Tensor, style: Tensor, target: Tensor) -> Tensor:
        """Bits a value of normalised targets [B, M, T], noise and all: [B]."""
        return -self(glow, content, style).log_prob(target).mean((1, 2)) / math.log(2)


class HeadObjective:
    """Bits a value of noisy targets, as the Glow's own objective counts them."""

    criterion = "bits_per_dim"

    def __init__(self, glow: Glow, normalizer: Normalizer, of_data: Normalizer, *, noise: float) -> None:
        self.glow, self.normalizer, self.of_data, self.noise = glow, normalizer, of_data, noise

    def __call__(self, model: Head, batch: TripleBatch, *, step: int) -> dict[str, Tensor]:
        """Terms of one training batch."""
        del step
        return self.validate(model, batch)

    def validate(self, model: Head, batch: TripleBatch) -> dict[str, Tensor]:
        """The same."""
        content, style, target = (
            self.normalizer.normalize(self.of_data.denormalize(x)) for x in (batch.content, batch.style, batch.target)
        )
        bits = model.bits(self.glow, content, style, target + self.noise * torch.randn_like(target)).mean()
        return {"loss": bits, "bits_per_dim": bits}


def train(kind: Literal["laplace", "mixture"], folder: Path, root: Path, *, steps: int) -> Head:
    """Fit a head behind the Glow of a folder to the triples of the checkout's data; killed, the same call goes on.

    Raises:
        TimbreflowError: there is no data of the Glow's features, or it has not passed validation.
    """
    bundle = load_bundle(folder)
    glow, normalizer, noise = _parts(bundle)
    layout, device = Layout(root), torch.device("cpu")
    section = load_params(root / "params.yaml").train_glow
    few: dict[str, Any] = {"steps": steps, "batch_size": 16, "warmup_steps": min(100, steps // 10), "patience": 0}
    few |= {"learning_rate": 1e-3, "schedule": "cosine", "ema_decay": 0.99, "grad_accumulation": 1, "grad_clip": 1.0}
    few |= {"validate_every": max(1, steps // 3), "log_every": max(1, steps // 10), "checkpoint_every": 100}
    budget = dataclasses.replace(section.fit, **few)
    section = dataclasses.replace(section, fit=budget, crop_frames=128, pairs="triples", online_triples=0)
    data = open_triples(layout.mels, layout.audio, bundle.features, section, kind="log_mel", device=device)
    assert data.normalizer is not None
    torch.manual_seed(0)
    head = Head(kind, glow)
    objective = HeadObjective(glow, normalizer, data.normalizer, noise=noise)

    def log(step: int, values: Mapping[str, float]) -> None:
        print(f"{kind} {step}: {json.dumps(dict(values))}", file=sys.stderr, flush=True)

    passed = read_passed(layout.results("validate_data") / "passed.json")
    key = stable_hash(kind, weights_sha256(folder), dataclasses.asdict(budget), passed)
    workdir = layout.scratch("heads", f"{key:016x}")
    workdir.mkdir(parents=True, exist_ok=True)
    fit(head, objective, data.batches, data.validation, budget, workdir=workdir, log=log, device=device)
    return head


@torch.inference_mode()
def bits_of(
    density: Density, bundle: ModelBundle, clips: EvaluationClips
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits a value of each clip's target, with its own style and with that of the clip before it; noise of one seed."""
    _, normalizer, noise = _parts(bundle)
    extract = FeatureExtractor(bundle.features)
    draws = torch.Generator().manual_seed(0)
    own, wrong = [], []
    for batch in clips.batches(BATCH):
        content, style, target = (
            normalizer.normalize(extract(torch.from_numpy(sound)))
            for sound in (batch.content, batch.style, batch.target)
        )
        noisy = target + noise * torch.randn(target.shape, generator=draws)
        own.append(density(content, style, noisy))
        wrong.append(density(content, style.roll(1, dims=0), noisy))
    return torch.cat(own).double().numpy(), torch.cat(wrong).double().numpy()


def main() -> int:
    """Train and print; 2 after an error, which is one sentence."""
    options = _options()
    try:
        bundle = load_bundle(options.glow)
        glow, _, _ = _parts(bundle)
        whole = EvaluationClips(options.data, options.split, sample_rate=SAMPLE_RATE, max_triples=0)
        spread = np.linspace(0, len(whole) - 1, min(options.clips, len(whole))).round().astype(int)
        chosen = [whole.triple_ids[number] for number in spread]
        clips = EvaluationClips(options.data, options.split, sample_rate=SAMPLE_RATE, max_triples=0, only=chosen)

        def by_flow(content: Tensor, style: Tensor, target: Tensor) -> Tensor:
            return glow(target, content, style).likelihood.bits_per_dim

        def flow_samples(content: Tensor, style: Tensor, noise: torch.Generator) -> Tensor:
            return glow.transfer(content, style, temperature=1.0, generator=noise)

        figures = [_figures("glow, T = 1", by_flow, flow_samples, bundle, clips)]
        for kind in KINDS:
            head = train(kind, options.glow, options.root, steps=options.steps).eval()

            def by_head(content: Tensor, style: Tensor, target: Tensor, head: Head = head) -> Tensor:
                return head.bits(glow, content, style, target)

            def samples(content: Tensor, style: Tensor, noise: torch.Generator, head: Head = head) -> Tensor:
                del noise  # distributions of PyTorch take the global one
                return head(glow, content, style).sample()

            torch.manual_seed(0)
            figures.append(_figures(kind, by_head, samples, bundle, clips))
        for name, values, instruments in figures:
            line: dict[str, object] = {key: round(float(value.mean()), 3) for key, value in values.items()}
            for key in ("bits_per_dim", *SCORES):
                pair = [values[key], figures[0][1][key]]
                found = bootstrap(pair, lambda a, b: a - b, samples=2000, seed=0, clusters=instruments)
                line[f"{key}_difference"] = [round(bound, 3) for bound in (found.value, found.low, found.high)]
            print(json.dumps({"row": name, "clips": len(clips), **line}), flush=True)
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _figures(
    name: str,
    density: Density,
    samples: Callable[[Tensor, Tensor, torch.Generator], Tensor],
    bundle: ModelBundle,
    clips: EvaluationClips,
) -> tuple[str, dict[str, NDArray[np.float64]], list[str]]:
    own, wrong = bits_of(density, bundle, clips)
    scores, instruments = measure(bundle, samples, clips, SAMPLES, 1.0)
    return name, {"bits_per_dim": own, "style_gain": wrong - own, **{key: scores[key] for key in SCORES}}, instruments


def _parts(bundle: ModelBundle) -> tuple[Glow, Normalizer, float]:
    """A Glow with a decoder, frozen and in evaluation mode; its statistics; and the noise it was trained with."""
    glow, normalizer = bundle.model, bundle.normalizer
    if not isinstance(glow, Glow) or glow.decoder is None or normalizer is None:
        raise TimbreflowError("Heads take the place of a Glow's flow; give a Glow that has a decoder.")
    return glow.requires_grad_(False).eval(), normalizer, float(bundle.training["section"]["noise"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/audio"), help="folder with manifest and shards")
    parser.add_argument("--split", default="validation", help="split of its manifest, or name of the test set")
    parser.add_argument("--glow", type=Path, default=Path("released/glow"), help="folder of a Glow with a decoder")
    parser.add_argument("--root", type=Path, default=Path(), help="checkout whose data/mels the heads are trained on")
    parser.add_argument("--clips", type=int, default=24, help="triples, spread evenly (%(default)s)")
    parser.add_argument("--steps", type=int, default=1500, help="of each head, of 16 crops of 4 s (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
