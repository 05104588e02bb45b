"""Train the vocoder, and find out on whole validation clips whether it may take the place of Griffin-Lim."""

import dataclasses
import shutil
from collections.abc import Sequence

import numpy as np
import torch

from timbreflow.audio.features import FeatureConfig, FeatureExtractor
from timbreflow.audio.inversion import GriffinLimInverter, Inverter
from timbreflow.data.crops import AudioCrops
from timbreflow.data.mels import read_statistics
from timbreflow.data.sampling import make_loader
from timbreflow.errors import TimbreflowError
from timbreflow.files import write_json
from timbreflow.inference.vocoding import VERDICT, VocoderInverter
from timbreflow.metrics.lsd import lsd
from timbreflow.metrics.stft import stft_distance
from timbreflow.models.bundle import ModelBundle, save_bundle
from timbreflow.models.devices import resolve_device
from timbreflow.models.vocoder import Vocoder
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult
from timbreflow.training.devices import loader_workers
from timbreflow.training.fit import fit
from timbreflow.training.products import begin_with, read_passed, record, summarize, work_key, write_curves
from timbreflow.training.seeding import seed_everything
from timbreflow.training.stft_discriminator import JudgedVocoder
from timbreflow.training.vocoder_config import VocoderTraining
from timbreflow.training.vocoder_objective import VocoderObjective

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

    Args:
        config: the section of params.yaml.
        features: the audio section.
        layout: paths.
        log: metric logger.
        device: overrides TIMBREFLOW_DEVICE.

    Raises:
        TimbreflowError: the data has not passed validation, does not fit the settings, or training diverged.
    """
    passed = read_passed(layout.results("validate_data") / "passed.json")
    place = resolve_device(device)
    normalizer, stored = read_statistics(layout.mels)
    if stored != features:
        raise TimbreflowError(
            f"{layout.mels} was made with other audio settings than params.yaml has; run extract_mels."
        )
    _check(config, features)
    length, size, seed = config.crop_frames * features.hop_length, config.fit.batch_size, config.fit.seed
    crops, held_out = (
        AudioCrops(layout.audio, split=split, sample_rate=features.sample_rate, length=length, seed=seed)
        for split in ("train", "validation")
    )
    places = held_out.spread(config.validation_crops)
    validation = [
        held_out.collate([held_out[number] for number in places[start : start + size]])
        for start in range(0, len(places), size)
    ]
    seed_everything(seed, "model")
    model = Vocoder(config.model)
    begun = ""
    if config.init_from:
        begun, _ = begin_with(model, layout.root / config.init_from, features)
    else:
        model.start_from(features, normalizer)
    workdir = layout.scratch("train_vocoder", work_key(f"train_vocoder{begun}", passed, config, features))
    result = fit(
        JudgedVocoder(model) if config.losses.adversarial else model,
        VocoderObjective(features, normalizer, losses=config.losses, noise=config.noise),
        lambda start: make_loader(
            crops, size, seed=seed, workers=loader_workers(place), device=place, start_step=start
        ),
        validation,
        config.fit,
        workdir=workdir,
        log=log,
        device=place,
    )
    bundle = ModelBundle("vocoder", model.to("cpu").eval(), features, normalizer)
    clips = [held_out.clip(number) for number in held_out.spread(config.comparison_clips)]
    figures = better_than_griffin_lim(bundle, clips)
    metrics = {**summarize(result, parameters=sum(p.numel() for p in model.parameters())), **figures}
    training = {
        "section": dataclasses.asdict(config),
        "data": passed,
        "begun": begun,
        **record(result),
        **figures,
    }
    # The verdict goes out with the weights in one rename: nobody ever reads a vocoder that was not judged.
    save_bundle(layout.model("vocoder"), dataclasses.replace(bundle, training=training))
    results = layout.results("train_vocoder")
    write_curves(results / "curves.csv", result.curves)
    write_json(results / "metrics.json", metrics)
    shutil.rmtree(workdir, ignore_errors=True)
    return StageResult(
        summary=f"Vocoder: {result.steps} steps, on {len(clips)} validation clips LSD {figures['lsd_vocoder']:.2f} dB "
        f"against Griffin-Lim's {figures['lsd_griffin_lim']:.2f}, multi-resolution STFT "
        f"{figures['stft_vocoder']:.3f} against {figures['stft_griffin_lim']:.3f}: "
        f"{'it is used' if figures[VERDICT] else 'Griffin-Lim stays'}",
        metrics=metrics,
        files={"curves": results / "curves.csv"},
        facts={"precision": result.precision},
    )


def better_than_griffin_lim(bundle: ModelBundle, clips: Sequence[np.ndarray]) -> dict[str, float]:
    """Compare the two inversions on the features of true sound.

    Args:
        bundle: the vocoder.
        clips: sounds [N] at the rate of the features.

    Returns:
        "<figure>_vocoder" and "<figure>_griffin_lim" for LSD (dB) and multi-resolution STFT distance, means over the
        clips; "beats_griffin_lim" is 1 where the vocoder is better on both, else 0.

    Raises:
        TimbreflowError: there are no clips, or one is shorter than a frame.
    """
    hop = bundle.features.hop_length
    if not clips or min(len(clip) for clip in clips) < hop:
        raise TimbreflowError("No validation clip can be compared; raise validation triples in params.yaml.")
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
                f"train_vocoder.model.{name} is {found}, but the audio section gives {wanted}; "
                "change it in params.yaml."
            )
