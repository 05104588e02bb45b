"""Triples on their way to a model: stored features from disk or in the device's memory, or features made from sound."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal

import numpy as np
import torch
from torch import Tensor

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer
from timbreflow.data.audio_triples import AudioTripleDataset, fit_normalizer, to_features
from timbreflow.data.quantization import Quantization
from timbreflow.data.rendered_triples import RenderedTriples
from timbreflow.data.renderer import RenderInputs
from timbreflow.data.sampling import StepSampler, make_loader
from timbreflow.data.triples import TripleBatch, TripleDataset, Triples, crop
from timbreflow.errors import TimbreflowError
from timbreflow.parallel import part
from timbreflow.training.config import TripleTraining
from timbreflow.training.device import BatchT, loader_workers
from timbreflow.workers import local_process_count, worker_count

logger = logging.getLogger(__name__)

STATISTICS_TRIPLES = 256
"""Training triples that the mean and deviation of computed features are taken from."""
PRELOAD_VARIABLE = "TIMBREFLOW_PRELOAD"
CLIPS_AT_ONCE = 1000


@dataclass(frozen=True)
class TrainingData(Generic[BatchT]):
    """What a training reads, and what its bundle must remember of it.

    Attributes:
        batches: n -> endless batches from batch number n.
        validation: the same batches at each reading; true triples where there are any, whatever training uses.
        features: settings of the features.
        normalizer: their statistics; None where the model takes raw features.
    """

    batches: Callable[[int], Iterable[BatchT]]
    validation: Iterable[BatchT]
    features: FeatureConfig
    normalizer: Normalizer | None

    def check(self, n_features: int, *, setting: str) -> None:
        """Compare a model's number of feature rows, and the name of its setting, with the data's.

        Raises:
            TimbreflowError: they differ.
        """
        if n_features != self.features.n_features:
            raise TimbreflowError(
                f"{setting} is {n_features}, but the features have {self.features.n_features} rows; set it to that."
            )


def open_triples(
    mels: Path,
    audio: Path,
    features: FeatureConfig,
    config: TripleTraining,
    *,
    kind: Literal["log_mel", "log_stft"],
    device: torch.device,
    rendering: RenderInputs | None = None,
) -> TrainingData[TripleBatch]:
    """Open training and validation triples: from `mels` where it holds features of this kind, else from `audio`.

    With `config.online_triples` training triples are rendered by loader processes from `rendering`; statistics and
    validation triples are the stored ones. Features that are not stored are made on `device`.

    Raises:
        TimbreflowError: data is missing or was made with other audio settings.
    """
    wanted = dataclasses.replace(features, kind=kind)
    if kind != features.kind:
        return _computed(audio, wanted, config, device, rendering)
    stored = TripleDataset(mels, audio, split="train", pairs=config.pairs)
    if stored.features != wanted:
        raise TimbreflowError(f"{mels} was made with other audio settings than this training has; run extract_mels.")
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
    return TrainingData(
        batches=lambda start: _cropped(load(start), config, start),
        validation=_spread(held_out, config.validation_triples, config.fit.batch_size),
        features=wanted,
        normalizer=stored.normalizer,
    )


def _require_notes(dataset: Triples, config: TripleTraining) -> None:
    """Refuse recordings where notes are to be learned: their piano rolls are empty, so silence would be learned."""
    if dataset.held_out_pairs == "self_supervised" and config.needs_notes:
        raise TimbreflowError("Recordings have no notes to learn; set losses.roll to 0, as train_vqvae.paper has it.")


def _rendered(
    features: FeatureConfig,
    normalizer: Normalizer | None,
    config: TripleTraining,
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
    config: TripleTraining,
    device: torch.device,
    rendering: RenderInputs | None,
) -> TrainingData[TripleBatch]:
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
    return TrainingData(
        batches=lambda start: _cropped(convert(_load(chosen, config, device, start)), config, start),
        # Converted once: every validation sees the same spectra.
        validation=[batch.to("cpu") for batch in validation],
        features=features,
        normalizer=normalizer,
    )


def _load(
    dataset: Triples | RenderedTriples, config: TripleTraining, device: torch.device, start: int
) -> Iterable[Any]:
    renders = isinstance(dataset, RenderedTriples)
    if renders:  # takes longer than a step, so it must run beside the model even on the CPU
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


def _cropped(batches: Iterable[TripleBatch], config: TripleTraining, start: int) -> Iterator[TripleBatch]:
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


class DeviceTriples:
    """Triples whose features, as they are stored, and piano rolls are copied to a device once.

    Batches are those of the loader, in its order; 60,000 clips of 8 s take 4 GB with 8 bits.
    """

    def __init__(self, dataset: TripleDataset, device: torch.device) -> None:
        self._device = device
        notes, styles, targets = dataset.positions.to_numpy().T
        contents = np.where(dataset.self_supervised, targets, notes)
        clips, places = np.unique(np.stack([contents, styles, targets]), return_inverse=True)
        self._content, self._style, self._target = torch.from_numpy(places.reshape(3, -1)).to(device)
        # Content and target have one piano roll, since they play the same notes.
        noted, rolls = np.unique(notes, return_inverse=True)
        self._roll = torch.from_numpy(rolls).to(device)
        self._timbre = dataset.timbre(slice(None)).to(device)
        self._features = self._filled(len(clips), lambda part: dataset.stored(clips[part]))
        frames = self._features.shape[-1]
        self._rolls = self._filled(len(noted), lambda part: dataset.piano_rolls(noted[part], frames))
        self._mean, self._std = (x[:, None].to(device) for x in (dataset.normalizer.mean, dataset.normalizer.std))
        self._quantization = dataset.quantization

    def _filled(self, count: int, read: Callable[[slice], Tensor]) -> Tensor:
        first = read(slice(0, 1))
        filled = torch.empty(count, *first.shape[1:], dtype=first.dtype, device=self._device)
        for start in range(0, count, CLIPS_AT_ONCE):
            chosen = slice(start, start + CLIPS_AT_ONCE)
            filled[chosen] = read(chosen).to(self._device)
        return filled

    def __getitem__(self, items: Sequence[int]) -> TripleBatch:
        """A batch of triples by their numbers."""
        chosen = torch.tensor(items).to(self._device)
        return TripleBatch(
            content=self._load(self._content[chosen]),
            style=self._load(self._style[chosen]),
            target=self._load(self._target[chosen]),
            content_roll=self._rolls[self._roll[chosen]],
            timbre=self._timbre[chosen],
        )

    def batches(self, batch_size: int, start: int, *, seed: int) -> Iterator[TripleBatch]:
        """Endless batches from batch number `start`: as `make_loader` gives them, but on the device."""
        sampler = StepSampler(len(self._content), batch_size, seed, start, part=part(batch_size))
        return (self[items] for items in sampler)

    def _load(self, places: Tensor) -> Tensor:
        features = self._features[places].float()
        if self._quantization is not None:
            features.mul_(self._quantization.step).add_(self._quantization.low)
        return features.sub_(self._mean).div_(self._std)


def may_preload(dataset: TripleDataset, device: torch.device) -> bool:
    """Whether the triples go into the memory of the device: TIMBREFLOW_PRELOAD, which is auto, 1 or 0.

    auto does so on a CUDA device where they take at most a quarter of the memory that is free.

    Raises:
        TimbreflowError: the variable says something else.
    """
    asked = os.environ.get(PRELOAD_VARIABLE, "auto")
    if asked not in {"auto", "1", "0"}:
        raise TimbreflowError(f"{PRELOAD_VARIABLE} is {asked!r}; set it to auto, 1 or 0.")
    if asked != "auto" or device.type != "cuda":
        return asked == "1"
    clip = dataset.stored(dataset.positions["target"].to_numpy()[:1])
    clips = len(np.unique(dataset.positions.to_numpy()))
    size = clips * (clip.numel() * clip.element_size() + clip.shape[-1] * 128)
    return size <= torch.cuda.mem_get_info(device)[0] / 4
