"""Train the vocoder, and compare it with Griffin-Lim on whole validation clips: the better one is used."""

from collections.abc import Sequence

import numpy as np
import torch

from timbreflow.audio.features import FeatureConfig, FeatureExtractor
from timbreflow.audio.inversion import GriffinLimInverter, Inverter
from timbreflow.data.crops import AudioCrops
from timbreflow.data.mels import read_statistics
from timbreflow.data.sampling import make_loader
from timbreflow.errors import TimbreflowError
from timbreflow.inference.vocoding import VERDICT, VocoderInverter
from timbreflow.metrics.lsd import lsd
from timbreflow.metrics.stft import stft_distance
from timbreflow.models.bundle import ModelBundle
from timbreflow.models.vocoder import Vocoder
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.stages.training import Training
from timbreflow.training.config import VocoderTraining
from timbreflow.training.data import TrainingData
from timbreflow.training.device import loader_workers
from timbreflow.training.discriminator import VocoderWithDiscriminator
from timbreflow.training.objectives import VocoderObjective
from timbreflow.training.seeding import seed_everything

FIGURES = {"lsd": lsd, "stft": stft_distance}
"""What the vocoder must be better at, both of them; lower is better."""


def run(
    config: VocoderTraining,
    features: FeatureConfig,
    *,
    layout: Layout,
    log: MetricLogger,
    device: str | None = None,
) -> StageResult:
    """Train and store `data/models/vocoder` and `results/train_vocoder/`.

    Raises:
        TimbreflowError: the data has not passed validation, does not fit the settings, or training diverged.
    """
    training = Training("train_vocoder", config, features, layout=layout, log=log, device=device)
    place = training.device
    normalizer, stored = read_statistics(layout.mels)
    if stored != features:
        raise TimbreflowError(
            f"{layout.mels} was made with other audio settings than this training has; run extract_mels."
        )
    _check(config, features)
    length, size, seed = config.crop_frames * features.hop_length, config.fit.batch_size, config.fit.seed
    crops, held_out = (
        AudioCrops(layout.audio, split=split, sample_rate=features.sample_rate, length=length, seed=seed)
        for split in ("train", "validation")
    )
    places = held_out.spread(config.validation_crops)
    seed_everything(seed, "model")
    model = Vocoder(config.model)
    if not training.begin(model, features):
        model.start_from(features, normalizer)
    data = TrainingData(
        batches=lambda start: make_loader(
            crops, size, seed=seed, workers=loader_workers(place), device=place, start_step=start
        ),
        validation=[
            held_out.collate([held_out[number] for number in places[start : start + size]])
            for start in range(0, len(places), size)
        ],
        features=features,
        normalizer=normalizer,
    )
    clips = [held_out.clip(number) for number in held_out.spread(config.comparison_clips)]
    return training.run(
        model,
        VocoderObjective(features, normalizer, losses=config.losses, noise=config.noise),
        data,
        trained=VocoderWithDiscriminator(model) if config.losses.adversarial else None,
        compare=lambda bundle: better_than_griffin_lim(bundle, clips),
        summary=lambda result, metrics: (
            f"Vocoder: {result.steps} steps, on {len(clips)} validation clips LSD {metrics['lsd_vocoder']:.2f} dB "
            f"against Griffin-Lim's {metrics['lsd_griffin_lim']:.2f}, multi-resolution STFT "
            f"{metrics['stft_vocoder']:.3f} against {metrics['stft_griffin_lim']:.3f}: "
            f"{'it is used' if metrics[VERDICT] else 'Griffin-Lim stays'}"
        ),
    )


def better_than_griffin_lim(bundle: ModelBundle, clips: Sequence[np.ndarray]) -> dict[str, float]:
    """Compare the two inversions on the features of true sounds [N].

    Returns:
        "<figure>_vocoder" and "<figure>_griffin_lim" for LSD (dB) and multi-resolution STFT distance, means over the
        clips; "beats_griffin_lim" is 1 where the vocoder is better on both, else 0.

    Raises:
        TimbreflowError: there are no clips, or one is shorter than a frame.
    """
    hop = bundle.features.hop_length
    if not clips or min(len(clip) for clip in clips) < hop:
        raise TimbreflowError("No validation clip can be compared; render more validation triples.")
    inverters: dict[str, Inverter] = {
        "vocoder": VocoderInverter(bundle),
        "griffin_lim": GriffinLimInverter(bundle.features),
    }
    extract = FeatureExtractor(bundle.features)
    found: dict[str, list[float]] = {}
    for clip in clips:
        with torch.no_grad():
            mel = extract(torch.from_numpy(clip)[None])
        # What lies beyond the last whole frame is in no feature.
        true = clip[: len(clip) // hop * hop]
        for name, invert in inverters.items():
            made = invert(mel)[0].numpy()
            for figure, distance in FIGURES.items():
                found.setdefault(f"{figure}_{name}", []).append(distance(made, true))
    means = {name: float(np.mean(values)) for name, values in sorted(found.items())}
    wins = all(means[f"{figure}_vocoder"] < means[f"{figure}_griffin_lim"] for figure in FIGURES)
    return {**means, VERDICT: int(wins)}


def _check(config: VocoderTraining, features: FeatureConfig) -> None:
    """Compare the network's shape with the features."""
    for name, found, wanted in (
        ("n_features", config.model.n_features, features.n_features),
        ("hop_length", config.model.hop_length, features.hop_length),
    ):
        if found != wanted:
            raise TimbreflowError(
                f"train_vocoder.model.{name} is {found}, but the audio section gives {wanted}; set it to that."
            )
