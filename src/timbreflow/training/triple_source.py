"""Triples on their way to a model, whatever their features: stored mels, or spectra made from sound on the device."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer
from timbreflow.data.audio_triples import AudioTripleDataset, fit_normalizer, to_features
from timbreflow.data.quantization import Quantization
from timbreflow.data.rendered_triples import RenderedTriples
from timbreflow.data.renderer import RenderInputs
from timbreflow.data.sampling import make_loader
from timbreflow.data.triples import TripleBatch, TripleDataset, Triples, crop
from timbreflow.errors import TimbreflowError
from timbreflow.training.config import GlowTraining, VQVAETraining
from timbreflow.training.device_triples import DeviceTriples, may_preload
from timbreflow.training.devices import loader_workers
from timbreflow.workers import local_process_count, worker_count

logger = logging.getLogger(__name__)

STATISTICS_TRIPLES = 256
"""Training triples that the mean and deviation of computed features are taken from."""


@dataclass(frozen=True)
class TripleSource:
    """What `fit` reads, and what the bundle must remember.

    Attributes:
        batches: n -> endless batches from batch number n.
        validation: the same batches at each reading; true triples where there are any, whatever training uses.
        features: settings of the features.
        normalizer: their statistics.
    """

    batches: Callable[[int], Iterable[TripleBatch]]
    validation: Iterable[TripleBatch]
    features: FeatureConfig
    normalizer: Normalizer

    def check(self, n_features: int, *, section: str) -> None:
        """Compare a model's number of feature rows with the data's.

        Raises:
            TimbreflowError: they differ.
        """
        if n_features != self.features.n_features:
            raise TimbreflowError(
                f"{section} is {n_features}, but the features have {self.features.n_features} rows; "
                "change it in params.yaml."
            )


def open_source(
    mels: Path,
    audio: Path,
    features: FeatureConfig,
    config: VQVAETraining | GlowTraining,
    *,
    kind: Literal["log_mel", "log_stft"],
    device: torch.device,
    rendering: RenderInputs | None = None,
) -> TripleSource:
    """Open training and validation triples: from `mels` where it holds features of this kind, else from `audio`.

    With `config.online_triples` training triples are rendered by loader processes; statistics and validation triples
    are the stored ones.

    Args:
        mels: data/mels.
        audio: data/audio.
        features: the audio section of params.yaml.
        config: pairs, validation_triples, crop_frames, and the batch size and seed of its fit.
        kind: which features the model takes.
        device: where features are made when they are not stored.
        rendering: what online triples are rendered from.

    Raises:
        TimbreflowError: data is missing or was made with other audio settings.
    """
    wanted = dataclasses.replace(features, kind=kind)
    if kind != features.kind:
        return _computed(audio, wanted, config, device, rendering)
    stored = TripleDataset(mels, audio, split="train", pairs=config.pairs)
    if stored.features != wanted:
        raise TimbreflowError(f"{mels} was made with other audio settings than params.yaml has; run extract_mels.")
    _require_notes(stored, config)
    held_out = TripleDataset(mels, audio, split="validation", pairs=stored.held_out_pairs)
    chosen = (
        _rendered(wanted, stored.normalizer, config, rendering, quantization=stored.quantization)
        if config.online_triples
        else stored
    )
    load: Callable[[int], Iterable[TripleBatch]] = partial(_load, chosen, config, device)
    if chosen is stored and may_preload(stored, device):
        preloaded = DeviceTriples(stored, device)
        logger.info("all training triples are in the memory of %s", device)
        load = partial(preloaded.batches, config.fit.batch_size, seed=config.fit.seed)
    return TripleSource(
        batches=lambda start: _cropped(load(start), config, start),
        validation=_spread(held_out, config.validation_triples, config.fit.batch_size),
        features=wanted,
        normalizer=stored.normalizer,
    )


def _require_notes(dataset: Triples, config: VQVAETraining | GlowTraining) -> None:
    """Refuse recordings where notes are to be learned: without any known, silence would be."""
    if dataset.held_out_pairs == "self_supervised" and config.losses.roll > 0:
        raise TimbreflowError("Recordings have no notes to learn; set losses.roll to 0, as train_vqvae.paper has it.")


def _rendered(
    features: FeatureConfig,
    normalizer: Normalizer | None,
    config: VQVAETraining | GlowTraining,
    rendering: RenderInputs | None,
    *,
    quantization: Quantization | None = None,
) -> RenderedTriples:
    """Training triples rendered by loader processes: features, or sound where there is no normalizer."""
    if rendering is None:
        raise TimbreflowError("online_triples needs the settings and notes of render_triples; set it to 0.")
    return RenderedTriples(
        rendering,
        features,
        normalizer,
        quantization=quantization,
        split="train",
        count=config.online_triples,
        pairs=config.pairs,
    )


def _computed(
    audio: Path,
    features: FeatureConfig,
    config: VQVAETraining | GlowTraining,
    device: torch.device,
    rendering: RenderInputs | None,
) -> TripleSource:
    """Spectra that are not stored: 1025 bins would take eight times the room of the mels, and decoding is quick."""
    sound = AudioTripleDataset(audio, features, split="train", pairs=config.pairs)
    _require_notes(sound, config)
    held_out = AudioTripleDataset(audio, features, split="validation", pairs=sound.held_out_pairs)
    extractor = FeatureExtractor(features).to(device)
    normalizer = fit_normalizer(sound, extractor, n_triples=STATISTICS_TRIPLES, device=device)
    chosen = _rendered(features, None, config, rendering) if config.online_triples else sound

    def convert(loader: Iterable[TripleBatch]) -> Iterator[TripleBatch]:
        for batch in loader:
            yield to_features(batch.to(device), extractor, normalizer)

    validation = convert(_spread(held_out, config.validation_triples, config.fit.batch_size))
    return TripleSource(
        batches=lambda start: _cropped(convert(_load(chosen, config, device, start)), config, start),
        # Converted once: the same spectra are looked at in every validation.
        validation=[batch.to("cpu") for batch in validation],
        features=features,
        normalizer=normalizer,
    )


def _load(
    dataset: Triples | RenderedTriples, config: VQVAETraining | GlowTraining, device: torch.device, start: int
) -> Iterable[Any]:
    renders = isinstance(dataset, RenderedTriples)
    if renders:  # takes longer than a step, so that it must go on beside the model even on the CPU
        workers = max(1, worker_count() // local_process_count())
    else:  # stored features are only copied, for which a thread is faster than a process that pickles them
        workers = 0 if isinstance(dataset, TripleDataset) else loader_workers(device)
    return make_loader(
        dataset,
        config.fit.batch_size,
        seed=config.fit.seed,
        workers=workers,
        device=device,
        start_step=start,
        start_method="spawn" if renders else None,
    )


def _cropped(batches: Iterable[TripleBatch], config: VQVAETraining | GlowTraining, start: int) -> Iterator[TripleBatch]:
    for number, batch in enumerate(batches, start):
        yield crop(batch, config.crop_frames, seed=config.fit.seed, number=number)


def _spread(dataset: Triples, count: int, batch_size: int) -> list[TripleBatch]:
    """Batches of at most `count` items, evenly spread over the dataset, all of one size where they can be."""
    count = min(count, len(dataset))
    if count > batch_size:
        count -= count % batch_size
    chosen = [item * len(dataset) // count for item in range(count)]
    return [
        dataset.collate([dataset[item] for item in chosen[start : start + batch_size]])
        for start in range(0, count, batch_size)
    ]
