"""Stage register_models: the evaluated models become challengers in the registry.

DVC does not track the registry, so this stage writes only what follows from its inputs: the figures that the gate
compares. `register` is idempotent, and `timbreflow register` calls it again where DVC skipped the stage.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import Candidate, Evaluate, limits, measured, require_weights
from timbreflow.evaluation.gate_config import RegisterConfig
from timbreflow.evaluation.storage import read_table
from timbreflow.files import read_json, sha256_file, write_json
from timbreflow.models.catalogue import GATED, MODEL_FILES, is_bundle
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult

DECIMALS = 5
"""Of figures in metrics.json."""
Register = Callable[[Candidate], str]
"""Puts a model into the registry, once for the same weights, and says what it did."""


def candidates(config: RegisterConfig, *, layout: Layout) -> list[Candidate]:
    """The models of this checkout with their bundles and figures.

    Raises:
        TimbreflowError: a bundle is missing; the evaluation lacks a model, the gate's set or one of its metrics, or was
            made with another timbre metric.
    """
    results = layout.results("evaluate")
    metrics, table = read_json(results / "metrics.json"), read_table(results)
    found = []
    for model in GATED:
        folder = layout.model(model.name)
        if not is_bundle(folder):
            raise TimbreflowError(f"{folder} lacks {' or '.join(MODEL_FILES)}; run `dvc repro {model.stage}`.")
        own = measured(metrics, table, model.name)
        for check in limits(own, config.gate):
            stored = metrics.get(config.gate.set, {}).get(model.name, {}).get(check.metric)
            if stored is None or abs(stored - check.challenger) > 10**-DECIMALS:
                raise TimbreflowError(
                    f"{results}: metrics.json and per_clip.parquet differ in {check.metric} of {model.name} on "
                    f"{config.gate.set}; run `dvc repro evaluate`."
                )
        found.append(Candidate(model, folder, own, _data_tags(layout)))
    timbre_metric = layout.model("timbre_metric") / MODEL_FILES[1]
    weights = metrics.get("weights", {}).get("timbre_metric", {})
    require_weights(weights, {"weights_sha256": sha256_file(timbre_metric)}, str(timbre_metric.parent))
    return found


def released_candidates(evaluate: Evaluate, *, layout: Layout) -> list[Candidate]:
    """The models that git holds below released/, measured as the trained ones are, so that the gate can compare them.

    Where they come from is what their own record says: this checkout only measured them.

    Raises:
        TimbreflowError: nothing is released; whatever `evaluate` raises.
    """
    there = {model: layout.released / model.name for model in GATED if is_bundle(layout.released / model.name)}
    if not there:
        raise TimbreflowError(f"Nothing is released in {layout.released}; run `timbreflow register` without it.")
    return [
        Candidate(model, folder, measured(*evaluate(model, folder), model.name), _record(folder), released=True)
        for model, folder in there.items()
    ]


def _record(folder: Path) -> dict[str, str]:
    """Tags of a released model, from the training record in its config.json."""
    training = read_json(folder / MODEL_FILES[0]).get("training", {})
    tags = {"released": "yes", "data_digest": training.get("data", {}).get("digest", "")}
    tags |= {f"training_{key}": json.dumps(training[key]) for key in ("steps", "begun", "averaged") if key in training}
    tags["training_cost"] = training.get("release", {}).get("cost", "")
    return {key: value for key, value in tags.items() if value}


def run(config: RegisterConfig, *, layout: Layout, register: Register) -> StageResult:
    """Register every model and note its figures.

    results/register_models/metrics.json holds, for each registered name, the gate's figures and how many of its
    absolute limits they pass: no version, time or id.

    Raises:
        TimbreflowError: see `candidates`; whatever `register` raises.
    """
    sentences, numbers, table = [], {}, []
    for candidate in candidates(config, layout=layout):
        model = candidate.model
        checks = limits(candidate.measured, config.gate)
        sentences.append(register(candidate))
        numbers[model.registered] = {check.metric: round(check.challenger, DECIMALS) for check in checks} | {
            "limits_passed": sum(check.passed for check in checks),
            "limits": len(checks),
        }
        common = {"model": model.registered}
        table += [
            common | {"criterion": check.criterion, "figure": check.challenger, "passed": check.passed}
            for check in checks
        ]
    path = layout.results("register_models") / "metrics.json"
    write_json(path, numbers)
    return StageResult(
        summary=" ".join(sentences),
        metrics={f"{name}/{metric}": float(value) for name, own in numbers.items() for metric, value in own.items()},
        tables={"gate": table},
        files={"metrics": path},
    )


def _data_tags(layout: Layout) -> Mapping[str, str]:
    """Digest of the validated data, which validate_data wrote."""
    path = layout.results("validate_data") / "passed.json"
    digest = read_json(path).get("digest") if path.is_file() else None
    return {"data_digest": str(digest)} if digest else {}
