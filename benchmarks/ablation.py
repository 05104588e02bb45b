"""Ablations: one changed setting an arm, equal steps, and the same test clips for all of them.

An arm is a checkout in small: a folder whose data, test sets and timbre metric are links, and whose weights are its
own. So the stages train and evaluate it as they do everything else, and a training that was killed goes on. All weights
are those of the best validation, and validation is on true triples in every arm.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.manifest import read_manifest, write_manifest
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.stored import COLUMNS
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.digest import digest_of_metrics
from timbreflow.evaluation.summary import plain, summarize
from timbreflow.files import atomic_file, read_json, sha256_file, stable_hash, write_json
from timbreflow.models.bundle import WEIGHTS, weights_sha256
from timbreflow.models.catalogue import is_bundle, known_model
from timbreflow.stages import train_glow, train_refiner, train_vqvae
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger
from timbreflow.stages.training import read_passed
from timbreflow.testsets.evaluate import TestSetEvaluation
from timbreflow.testsets.frozen import read_released, require_built
from timbreflow.testsets.weights import require_weights
from timbreflow.training.config import GlowTraining, RefinerTraining, TripleTraining, VQVAETraining

TESTSETS = ("artificial", "seen")
Section = TypeVar("Section")


@dataclass(frozen=True)
class Row:
    """One arm.

    Args:
        system: what is trained, as `SYSTEMS` calls it; a refiner is trained behind the released VQ-VAE, whose row it is
            evaluated as.
        reference: the row it is compared with; "" for a reference.
        changes: names of params.yaml to values.
        data: which prepared data set it is trained on.
    """

    system: Literal["vqvae", "glow", "refiner"]
    reference: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: Literal["plain", "varied"] = "varied"

    @property
    def section(self) -> str:
        """Its section of params.yaml."""
        return known_model(self.system).section

    @property
    def evaluated(self) -> str:
        """The system that is evaluated."""
        return "vqvae" if self.system == "refiner" else self.system

    @property
    def trains(self) -> bool:
        """False where the weights are those of the reference."""
        return not any(name.startswith("evaluate.") for name in self.changes)


ROWS: dict[str, Row] = {
    "reference_vqvae": Row("vqvae", ""),
    "pairs_self_supervised": Row("vqvae", "reference_vqvae", {"train_vqvae.base.pairs": "self_supervised"}),
    "pairs_mixed": Row("vqvae", "reference_vqvae", {"train_vqvae.base.pairs": "mixed"}),
    "one_style_token": Row("vqvae", "reference_vqvae", {"train_vqvae.base.model.style.n_tokens": 1}),
    "invariance": Row("vqvae", "reference_vqvae", {"train_vqvae.base.losses.invariance": 0.05}),
    "no_roll_hint": Row("vqvae", "reference_vqvae", {"train_vqvae.base.model.content.pianoroll_channels": 0}),
    "plain_timbres": Row("vqvae", "reference_vqvae", data="plain"),
    "reference_glow": Row("glow", ""),
    "flow_alone": Row("glow", "reference_glow", {"train_glow.model.decoder_width": 0}),
    "no_style_norm": Row("glow", "reference_glow", {"train_glow.model.style_norm": False}),
    "noise_0.05": Row("glow", "reference_glow", {"train_glow.noise": 0.05}),
    "noise_0.2": Row("glow", "reference_glow", {"train_glow.noise": 0.2}),
    "temperature_0": Row("glow", "reference_glow", {"evaluate.temperature": 0.0}),
    "temperature_0.5": Row("glow", "reference_glow", {"evaluate.temperature": 0.5}),
    "temperature_1": Row("glow", "reference_glow", {"evaluate.temperature": 1.0}),
    "reference_refiner": Row("refiner", ""),
    "no_lookup": Row("refiner", "reference_refiner", {"train_refiner.model.lookup": "none"}),
    "hand_set_lookup": Row("refiner", "reference_refiner", {"train_refiner.model.lookup": "hand_set"}),
    "no_2d_refiner": Row("refiner", "reference_refiner", {"train_refiner.model.widths": ()}),
}
"""Every row, in the order of the table."""


def short_training(section: str, steps: int) -> dict[str, Any]:
    """Changes for every arm: true triples, so many steps from scratch to a learning rate of 0, no early end.

    Features become sound as the models make them, without the variance scale that was chosen for trained ones. A
    refiner looks up true notes in a third of the steps, then those that the transfer model predicts.
    """
    fit = {"steps": steps, "batch_size": 16, "warmup_steps": min(100, steps // 10), "schedule": "cosine"}
    fit |= {"ema_decay": 0.99, "validate_every": max(1, min(250, steps // 3)), "patience": 0}
    common = {"pairs": "triples", "crop_frames": 128, "init_from": ""} | {f"fit.{key}": fit[key] for key in fit}
    if section == "train_refiner":  # without a reader, which would take all of so few steps
        common |= {"note_steps": 0, "model.note_reader": None, "true_steps": steps // 3}
    return {f"{section}.{key}": value for key, value in common.items()} | {"evaluate.variance_scale": 1.0}


def changed(config: Section, changes: Mapping[str, Any]) -> Section:
    """A copy of nested frozen dataclasses with other values under dotted names."""
    for name, value in changes.items():
        field, _, rest = name.partition(".")
        new = changed(getattr(config, field), {rest: value}) if rest else value
        config = dataclasses.replace(config, **{field: new})  # type: ignore[type-var]
    return config


def run(
    name: str,
    section: TripleTraining,
    features: FeatureConfig,
    evaluate: EvaluationConfig,
    *,
    layout: Layout,
    data: Path,
    out: Path,
    clips: int,
    log: MetricLogger,
    device: str | None = None,
) -> dict[str, Any]:
    """Train and evaluate one arm; write OUT/NAME.json and OUT/per_clip/NAME.csv. What is finished is not done again.

    Args:
        name: one of `ROWS`.
        section: its training, with all changes.
        features: section `audio`.
        evaluate: section `evaluate`, with all changes; its sets, systems and max_triples are not looked at.
        layout: of the checkout that holds data/testsets and the timbre metric.
        data: folder with data/audio, data/mels and results/validate_data/passed.json.
        out: folder of the figures.
        clips: triples of each test set, evenly spread over it; 0 takes all.
        log: metric logger.
        device: auto, cpu or cuda; None takes TIMBREFLOW_DEVICE.

    Returns:
        Content of OUT/NAME.json.

    Raises:
        TimbreflowError: data, a test set or the timbre metric is missing, training diverged, or another command is
            at work on the arm.
    """
    row = ROWS[name]
    with _open_arm(layout, name if row.trains else row.reference, data) as arm:
        passed = read_passed(arm.results("validate_data") / "passed.json")
        # Before the training, so that a missing set is named before hours are spent.
        sets = [_spread_set(layout.testsets / testset, arm, clips) for testset in TESTSETS]
        cost = _train(section, features, arm, passed, log=log, device=device)
        weights = weights_sha256(_weights(arm, section))
        # Another temperature is another arm, measured in the same way.
        metrics = digest_of_metrics(require_weights(arm, "timbre_metric") / WEIGHTS, evaluate, drawn=False)
        manifests = [sha256_file(place / "manifest.parquet") for place in sets]
        facts = {
            "row": name,
            "reference": row.reference,
            "changes": row.changes,
            "data": row.data,
            "data_digest": passed["digest"],
            "steps": section.fit.steps,
            "clips": clips,
            "weights_sha256": weights,
            "cpu_seconds": round(cost, 1),
            "evaluation_digest": f"{stable_hash(metrics, manifests):016x}",
            "temperature": evaluate.temperature,
        }
        json_file, clips_file = out / f"{name}.json", out / "per_clip" / f"{name}.csv"
        if json_file.is_file() and clips_file.is_file():
            stored: dict[str, Any] = read_json(json_file)
            if {key: stored.get(key) for key in facts} == facts:
                return stored
        table = _evaluate(row.evaluated, evaluate, arm, log=log, device=device)
        summaries = summarize(table, samples=evaluate.bootstrap_samples, seed=evaluate.seed)
        figures = {testset: plain(summary.figures[row.evaluated]) for testset, summary in summaries.items()}
        with atomic_file(clips_file) as temporary:
            columns = ["set", *(name for name in COLUMNS if name in table)]
            table[columns].to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
        result = {**facts, "figures": figures}
        write_json(json_file, result)
        return result


def link_to(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, in place of the link that may be there.

    Raises:
        TimbreflowError: there is no such target.
    """
    if not target.exists():
        raise TimbreflowError(f"{target} is missing; run the stages that make it (`make run`), or name other data.")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


@contextmanager
def _open_arm(layout: Layout, name: str, data: Path) -> Iterator[Layout]:
    """The folder of an arm, .scratch/ablations/NAME, with links to what it does not make itself; for one at a time."""
    arm, given = Layout(layout.scratch("ablations", name)), Layout(data)
    with _alone(arm.root):
        metric = require_weights(layout, "timbre_metric")
        link_to(arm.audio, given.audio)
        link_to(arm.mels, given.mels)
        link_to(arm.results("validate_data"), given.results("validate_data"))
        link_to(arm.root / metric.relative_to(layout.root), metric)
        if ROWS[name].system == "refiner":
            link_to(arm.model("vqvae"), layout.released / "vqvae")
        yield arm


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process, however that ends.

    Raises:
        TimbreflowError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout as error:
        raise TimbreflowError(
            f"Another command is training or evaluating the arm {folder.name}; wait for its end and run this again."
        ) from error


def _spread_set(source: Path, arm: Layout, clips: int) -> Path:
    """The arm's test set of so many triples. They lie bin by bin: the first ones alone would be of one bin."""
    require_built(source, read_released(source.parents[2] / "released" / "testsets", source.name))
    place = arm.root / "data" / "testsets" / source.name
    manifest = read_manifest(source)
    ids = np.sort(manifest["triple_id"].unique())
    count = min(clips or len(ids), len(ids))
    chosen = ids[np.arange(count) * len(ids) // count]
    write_manifest(place, manifest[manifest["triple_id"].isin(chosen)])
    for name in ("clip_notes.parquet", source.name):
        link_to(place / name, source / name)
    return place


def _weights(arm: Layout, section: TripleTraining) -> Path:
    return arm.model("vqvae" if isinstance(section, VQVAETraining) else section.section.removeprefix("train_"))


def _train(
    section: TripleTraining,
    features: FeatureConfig,
    arm: Layout,
    passed: Any,
    *,
    log: MetricLogger,
    device: str | None,
) -> float:
    """Train where it is not done yet; returns the CPU seconds it cost, those before interruptions included."""
    key = f"{stable_hash(json.dumps(dataclasses.asdict(section)), dataclasses.asdict(features), passed):016x}"
    ledger = arm.root / "cost.json"
    known = read_json(ledger) if ledger.is_file() else {}
    spent = float(known["cpu_seconds"]) if known.get("key") == key else 0.0
    if known.get("key") == key and known["finished"] and is_bundle(_weights(arm, section)):
        return spent
    begun, written = sum(os.times()[:4]), time.monotonic()

    def note(*, finished: bool) -> float:
        total = spent + sum(os.times()[:4]) - begun
        write_json(ledger, {"key": key, "cpu_seconds": total, "finished": finished})
        return total

    def counted(step: int, values: Mapping[str, float]) -> None:
        nonlocal written
        if time.monotonic() - written > 5:
            written = time.monotonic()
            note(finished=False)
        log(step, values)

    note(finished=False)
    if isinstance(section, VQVAETraining):
        train_vqvae.run("base", section, features, layout=arm, log=counted, device=device)
    elif isinstance(section, RefinerTraining):
        train_refiner.run(section, features, layout=arm, log=counted, device=device)
    elif isinstance(section, GlowTraining):
        train_glow.run(section, features, layout=arm, log=counted, device=device)
    return note(finished=True)


def _evaluate(
    system: str, config: EvaluationConfig, arm: Layout, *, log: MetricLogger, device: str | None
) -> pd.DataFrame:
    """The per-clip table of the arm on all sets."""
    sets = [TestSetEvaluation(name, config, layout=arm, device=device, part=True) for name in TESTSETS]
    return pd.concat([each.run([system], log=log).table for each in sets], ignore_index=True)
