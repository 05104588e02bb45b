"""The loop that plays every test triple to every system and measures what comes back."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips, TripleBatch
from timbreflow.evaluation.systems import System, batch_seed
from timbreflow.metrics.analysis import Analyser, Analysis, compare
from timbreflow.metrics.onsets import TOLERANCE, onset_f1
from timbreflow.notes.tables import Notes

Sound = NDArray[np.float32]
Measure = Callable[[Analysis, Analysis, Notes], dict[str, float]]
"""Takes an output, its target and the notes that are truly in it; gives metrics by name."""


@dataclass
class Example:
    """A triple that is shown in the report.

    Args:
        split: its set.
        triple_id: its id.
        description: what is heard.
        sample_rate: of all its sounds, in Hz.
        inputs: role to sound [N].
        outputs: system to sound [N].
        scores: system to metric to figure.
    """

    split: str
    triple_id: str
    description: str
    sample_rate: int
    inputs: dict[str, Sound]
    outputs: dict[str, Sound] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class SetResult:
    """What one test set gave.

    Args:
        split: name of the set.
        rows: one a triple and system: set, triple_id, system, metrics, onset_f1_content, onset_f1_target.
        embeddings: system (and "target") to timbre embeddings [n, D].
        seconds: system to time spent making sound, in s.
        audio_seconds: length of the sound that each system made, in s.
        examples: the triples that were asked for.
        worst: model to its worst triples by LSD, worst first.
    """

    split: str
    rows: list[dict[str, str | float]]
    embeddings: dict[str, NDArray[np.float32]]
    seconds: dict[str, float]
    audio_seconds: float
    examples: list[Example]
    worst: dict[str, list[Example]]


@dataclass(frozen=True)
class Timing:
    """What a system costs.

    Args:
        times_real_time: seconds of sound made in a second, on the machine of this run; None for copies.
        parameters: learned weights.
    """

    times_real_time: float | None
    parameters: int


def evaluate_set(
    clips: EvaluationClips,
    systems: Mapping[str, System],
    analyse: Analyser,
    *,
    sample_rate: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    examples: int,
    worst: int,
    progress: Callable[[int], None],
    measure: Measure = compare,
    onset_tolerance: float = TOLERANCE,
) -> SetResult:
    """Evaluate all systems on one set, batch by batch, so that memory does not grow with the set.

    Args:
        clips: the set.
        systems: rows by name.
        analyse: measures sound.
        sample_rate: of the clips, in Hz.
        batch_size: triples at once.
        seed: of sampling and of Griffin-Lim's first phases.
        device: where systems take their input.
        examples: triples to keep for listening, evenly spread over the set.
        worst: worst triples of each model to keep.
        progress: called with the number of triples done.
        measure: metrics of one output.
        onset_tolerance: of the ceilings onset_f1_content and onset_f1_target, in s; the one that `measure` goes by.

    Raises:
        TimbreflowError: a clip cannot be read, or a system gives NaN or sound of another length.
    """
    shown = {clips.triple_ids[i] for i in np.linspace(0, len(clips) - 1, min(examples, len(clips))).round().astype(int)}
    result = SetResult(clips.split, [], {}, dict.fromkeys(systems, 0.0), 0.0, [], {})
    embeddings: dict[str, list[NDArray[np.float32]]] = {name: [] for name in (*systems, "target")}
    done = 0
    for number, batch in enumerate(clips.batches(batch_size)):
        inputs = {"content": batch.content, "style": batch.style, "target": batch.target}
        heard = {role: analyse(sound) for role, sound in inputs.items()}
        outputs: dict[str, Sound] = {}
        analyses: dict[str, list[Analysis]] = {}
        for name, system in systems.items():
            if system.copies is not None:
                outputs[name], analyses[name] = inputs[system.copies], heard[system.copies]
                continue
            start = time.perf_counter()
            ids = {"triple_ids": batch.triple_ids} if getattr(system, "by_id", False) else {}
            outputs[name] = _transfer(name, system, inputs, device, batch_seed(seed, clips.split, number), **ids)
            if not ids:  # systems by id read sound that was made elsewhere: their time says nothing
                result.seconds[name] += time.perf_counter() - start
            analyses[name] = analyse(outputs[name])
        scored = _score(batch, heard, analyses, measure, onset_tolerance)
        for index in range(len(batch)):
            _keep(
                result,
                batch,
                index,
                inputs,
                outputs,
                scored=scored[index],
                systems=systems,
                sample_rate=sample_rate,
                shown=shown,
                worst=worst,
            )
        for name, batch_analyses in (*analyses.items(), ("target", heard["target"])):
            embeddings[name].extend(analysis.embedding for analysis in batch_analyses)
        result.audio_seconds += batch.content.size / sample_rate
        done += len(batch)
        progress(done)
    result.embeddings = {name: np.stack(rows) for name, rows in embeddings.items()}
    return result


def _transfer(
    name: str, system: System, inputs: Mapping[str, Sound], device: torch.device, seed: int, **ids: list[str]
) -> Sound:
    content, style, target = (torch.from_numpy(inputs[role]).to(device) for role in ("content", "style", "target"))
    made: Tensor = system.transfer(content, style, target, seed=seed, **ids)
    sound = made.float().cpu().numpy()
    if len(sound) != len(inputs["content"]) or not np.isfinite(sound).all():
        raise TimbreflowError(f"the system {name} gave NaN or a batch of another size; train its model again.")
    return np.asarray(sound, dtype=np.float32)


def _score(
    batch: TripleBatch,
    heard: Mapping[str, list[Analysis]],
    analyses: Mapping[str, list[Analysis]],
    measure: Measure,
    onset_tolerance: float,
) -> list[dict[str, dict[str, float]]]:
    """[B] of system to metric to figure."""
    scored = []
    for index, truth in enumerate(batch.notes):
        target = heard["target"][index]
        ceilings = {
            f"onset_f1_{role}": onset_f1(heard[role][index].notes, truth, tolerance=onset_tolerance)
            for role in ("content", "target")
        }
        scored.append({name: measure(own[index], target, truth) | ceilings for name, own in analyses.items()})
    return scored


def _keep(
    result: SetResult,
    batch: TripleBatch,
    index: int,
    inputs: Mapping[str, Sound],
    outputs: Mapping[str, Sound],
    *,
    scored: Mapping[str, dict[str, float]],
    systems: Mapping[str, System],
    sample_rate: int,
    shown: set[str],
    worst: int,
) -> None:
    """Take a triple's figures into the result, and its sound where it is an example or among the worst so far."""
    triple = batch.triple_ids[index]
    for name, figures in scored.items():
        result.rows.append({"set": result.split, "triple_id": triple, "system": name, **figures})

    def example(names: list[str]) -> Example:
        # Copies, since a view would keep its whole batch in memory.
        return Example(
            result.split,
            triple,
            batch.descriptions[index],
            sample_rate,
            {role: sound[index].copy() for role, sound in inputs.items()},
            {name: outputs[name][index].copy() for name in names},
            {name: scored[name] for name in names},
        )

    makers = [name for name, system in systems.items() if system.copies is None]
    if triple in shown:
        result.examples.append(example(makers))
    for name in makers:
        if systems[name].parameters == 0 or worst == 0:
            continue
        ranked = result.worst.setdefault(name, [])
        if len(ranked) < worst or scored[name]["lsd"] > ranked[-1].scores[name]["lsd"]:
            ranked.append(example([name]))
            ranked.sort(key=lambda entry: -entry.scores[name]["lsd"])
            del ranked[worst:]
