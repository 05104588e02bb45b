"""From test clips and systems to the per-clip table: all measuring is done here.

Used by the DVC stage, the frozen test sets and the ablations; `summary.summarize` computes figures from the table.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.manifest import ROLES
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips, TripleBatch
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.system import System, SystemContext
from timbreflow.evaluation.systems import SYSTEMS, batch_seed, spec_of
from timbreflow.inference.vocoding import open_inverter
from timbreflow.metrics.analysis import Analysis, FeatureCache, Truth
from timbreflow.metrics.onsets import TOLERANCE
from timbreflow.metrics.registry import measure_ceilings, measure_clip
from timbreflow.models.bundle import WEIGHTS, weights_sha256

Sound = NDArray[np.float32]
VOCODER = "vocoder"
"""Key of its weights beside those of the systems."""


@dataclass(frozen=True)
class Timing:
    """What a system costs: learned weights, and seconds of sound made in a second on this machine, None for copies."""

    times_real_time: float | None
    parameters: int


@dataclass(frozen=True)
class Example:
    """Sounds of a triple that are kept.

    Args:
        set: its test set.
        triple_id: its id.
        worst_of: the model that has one of its worst clips here; empty for triples spread evenly over the set.
        sample_rate: of the sounds, in Hz.
        sounds: content, style, target and systems to sound [N].
    """

    set: str
    triple_id: str
    worst_of: str
    sample_rate: int
    sounds: dict[str, Sound]


@dataclass(frozen=True)
class Evaluation:
    """What evaluating gives.

    Args:
        table: one row a set, triple and system: set, triple_id, description, instrument (of the target), system,
            every metric of `registry.PER_CLIP`, the ceilings of `registry.CEILINGS`, embedding and embedding_target.
        timing: system to cost.
        examples: sounds to listen to.
    """

    table: pd.DataFrame
    timing: dict[str, Timing]
    examples: list[Example]


def open_context(
    config: EvaluationConfig,
    features: FeatureConfig,
    *,
    model_folder: Callable[[str], Path],
    vocoder: Path | None,
    device: torch.device,
) -> SystemContext:
    """What systems are built from, by the settings of section `evaluate`; a folder that is not there is no vocoder."""
    inverter = partial(
        open_inverter, vocoder=vocoder, n_iter=config.griffin_lim_iterations, momentum=config.griffin_lim_momentum
    )
    return SystemContext(features, model_folder, device, config.temperature, config.variance_scale, inverter)


def weights_of(systems: Sequence[str], model_folder: Callable[[str], Path], vocoder: Path | None) -> dict[str, str]:
    """sha256 of the weights of every system that has some, and of the vocoder where there is one."""
    folders = {name: model_folder(SYSTEMS[name].weights) for name in systems if spec_of(name).weights}
    if vocoder is not None and (vocoder / WEIGHTS).is_file():
        folders[VOCODER] = vocoder
    return {name: weights_sha256(folder) for name, folder in folders.items()}


def evaluate(
    sets: Sequence[EvaluationClips],
    systems: Mapping[str, System],
    features: FeatureCache,
    config: EvaluationConfig,
    *,
    device: torch.device,
    examples: int = 0,
    worst: int = 0,
    onset_tolerance: float = TOLERANCE,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Run every system on every triple, batch by batch, so that memory does not grow with the set.

    Kept are the sounds of `examples` triples of each set, evenly spread over it, and of the `worst` ones of each model,
    by LSD. Of `config` seed and batch size count. `onset_tolerance` is the largest difference between onsets that
    match, in s. `progress` is called with the number of triples done.

    Raises:
        TimbreflowError: a clip cannot be read, or a system gives NaN or sound of another length.
    """
    seconds, length, done = dict.fromkeys(systems, 0.0), 0.0, 0
    tables: list[pd.DataFrame] = []
    kept: list[Example] = []
    for clips in sets:
        spread = np.linspace(0, len(clips) - 1, min(examples, len(clips))).round().astype(int)
        keeper = _Keeper(clips, {clips.triple_ids[index] for index in spread}, systems, worst)
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
        for number, batch in enumerate(clips.batches(config.batch_size)):
            inputs = {"content": batch.content, "style": batch.style, "target": batch.target}
            analyses = {role: features(sound) for role, sound in inputs.items()}
            outputs: dict[str, Sound] = {}
            own: dict[str, list[Analysis]] = {}
            for name, system in systems.items():
                if system.copies is not None:
                    own[name] = analyses[system.copies]
                    continue
                start = time.perf_counter()
                asked = {field: getattr(batch, field) for field in getattr(system, "asks", ())}
                seed = batch_seed(config.seed, clips.split, number)
                outputs[name] = _transfer(name, system, inputs, device, seed, **asked)
                if (
                    "triple_ids" not in asked
                ):  # systems by id read sound that was made elsewhere: their time has no meaning
                    seconds[name] += time.perf_counter() - start
                own[name] = features(outputs[name])
            for index, triple in enumerate(batch.triple_ids):
                figures = _measure(batch, index, analyses, own, onset_tolerance)
                for name, row in figures.items():
                    rows[name].append({"set": clips.split, **row})
                keeper.see(triple, {name: sound[index] for name, sound in {**inputs, **outputs}.items()}, figures)
            length += batch.content.size / clips.sample_rate
            done += len(batch)
            progress(done)
        kept += keeper.examples()
        tables += [pd.DataFrame(own) for own in rows.values()]
    timing = {
        name: Timing(length / seconds[name] if seconds[name] > 0 else None, system.parameters)
        for name, system in systems.items()
    }
    return Evaluation(pd.concat(tables, ignore_index=True), timing, kept)


class _Keeper:
    """Keeps the sounds of the triples `shown`, of all systems, and of the worst ones of each model by LSD."""

    def __init__(self, clips: EvaluationClips, shown: set[str], systems: Mapping[str, System], worst: int) -> None:
        self._clips, self._shown, self._n_worst = clips, shown, worst
        self._examples: list[Example] = []
        self._worst: dict[str, list[tuple[float, Example]]] = {
            name: [] for name, system in systems.items() if worst and system.parameters
        }

    def see(self, triple: str, sounds: Mapping[str, Sound], figures: Mapping[str, Mapping[str, Any]]) -> None:
        """Consider a triple: its inputs and outputs [N], and its rows of the table by system."""

        def example(systems: Iterable[str], worst_of: str = "") -> Example:
            # Copies, since a view would keep its whole batch in memory.
            chosen = {name: sounds[name].copy() for name in (*ROLES, *systems)}
            return Example(self._clips.split, triple, worst_of, self._clips.sample_rate, chosen)

        if triple in self._shown:
            self._examples.append(example(name for name in sounds if name not in ROLES))
        for name, entries in self._worst.items():
            lsd = figures[name]["lsd"]
            if len(entries) < self._n_worst or lsd > entries[-1][0]:
                entries.append((lsd, example([name], name)))
                entries.sort(key=lambda entry: -entry[0])
                del entries[self._n_worst :]

    def examples(self) -> list[Example]:
        """The chosen ones, then the worst of each model, worst first."""
        return self._examples + [example for entries in self._worst.values() for _, example in entries]


def _measure(
    batch: TripleBatch,
    index: int,
    inputs: Mapping[str, Sequence[Analysis]],
    outputs: Mapping[str, Sequence[Analysis]],
    onset_tolerance: float,
) -> dict[str, dict[str, Any]]:
    """System to row of the table, of one triple of a batch."""
    truth = Truth(batch.notes[index], batch.families[index], onset_tolerance)
    target = inputs["target"][index]
    facts = {
        "triple_id": batch.triple_ids[index],
        "description": batch.descriptions[index],
        "instrument": batch.instruments[index],
    }
    ceilings = measure_ceilings(inputs["content"][index], target, truth)
    return {
        name: {
            **facts,
            "system": name,
            **measure_clip(own[index], target, truth),
            **ceilings,
            "embedding": own[index].embedding,
            "embedding_target": target.embedding,
        }
        for name, own in outputs.items()
    }


def _transfer(
    name: str, system: System, inputs: Mapping[str, Sound], device: torch.device, seed: int, **asked: Any
) -> Sound:
    content, style, target = (torch.from_numpy(inputs[role]).to(device) for role in ("content", "style", "target"))
    sound = system.transfer(content, style, target, seed=seed, **asked).float().cpu().numpy()
    if len(sound) != len(inputs["content"]) or not np.isfinite(sound).all():
        raise TimbreflowError(f"the system {name} gave NaN or a batch of another size; train its model again.")
    return np.asarray(sound, dtype=np.float32)
