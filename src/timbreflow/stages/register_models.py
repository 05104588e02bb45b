"""Stage register_models: the evaluated models become challengers in the registry.

DVC does not track the registry, so this stage writes only what follows from its inputs: the figures that the gate
compares. `register` is idempotent, and `timbreflow register` calls it again where DVC skipped the stage.
"""

from collections.abc import Callable, Mapping
from typing import Any

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate import DIGESTS, Evaluate, RegisterConfig, decide, require_measured, row
from timbreflow.files import read_json, sha256_file, write_json
from timbreflow.models.catalogue import GATED, MODEL_FILES, Candidate, KnownModel, is_bundle
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult

Register = Callable[[Candidate], str]
"""Puts a model into the registry, once for the same weights, and says what it did."""


def candidates(config: RegisterConfig, *, layout: Layout) -> list[Candidate]:
    """The models of this checkout with their bundles and figures.

    Raises:
        TimbreflowError: a bundle is missing; metrics.json lacks a model, the gate's set or one of its metrics, or was
            measured with another timbre metric.
    """
    metrics = read_json(layout.results("evaluate") / "metrics.json")
    found = []
    for model in GATED:
        folder = layout.model(model.name)
        if not is_bundle(folder):
            raise TimbreflowError(f"{folder} lacks {' or '.join(MODEL_FILES)}; run `dvc repro {model.stage}`.")
        found.append(Candidate(model, folder, _evaluation(metrics, model, config), _data_tags(layout)))
    timbre_metric = layout.model("timbre_metric") / MODEL_FILES[1]
    weights = {"weights_sha256": sha256_file(timbre_metric)}
    require_measured(metrics, "timbre_metric", weights, str(timbre_metric.parent))
    return found


def _evaluation(metrics: Mapping[str, Any], model: KnownModel, config: RegisterConfig) -> dict[str, Any]:
    """The part of metrics.json that belongs to one model."""
    figures = row(metrics, model.name, config.gate)
    if missing := [name for name in DIGESTS if not metrics.get(name)]:
        raise TimbreflowError(f"results/evaluate/metrics.json lacks {', '.join(missing)}; run `dvc repro evaluate`.")
    weights = {model.name: metrics.get("weights", {}).get(model.name)}
    return {name: metrics[name] for name in DIGESTS} | {"weights": weights, config.gate.set: {model.name: figures}}


def released_candidates(config: RegisterConfig, evaluate: Evaluate, *, layout: Layout) -> list[Candidate]:
    """The models that git holds below released/, measured as the trained ones are, so that the gate can compare them.

    Raises:
        TimbreflowError: nothing is released; whatever `evaluate` raises.
    """
    there = {model: layout.released / model.name for model in GATED if is_bundle(layout.released / model.name)}
    if not there:
        raise TimbreflowError(f"Nothing is released in {layout.released}; run `timbreflow register` without it.")
    # No run: it was trained in another checkout.
    tags = {"released": "yes", "run_id": ""}
    return [
        Candidate(model, folder, _evaluation(evaluate(model, folder), model, config), tags)
        for model, folder in there.items()
    ]


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
        decision = decide(row(candidate.evaluation, model.name, config.gate), None, config.gate)
        sentences.append(register(candidate))
        numbers[model.registered] = {check.metric: check.challenger for check in decision.checks} | {
            "limits_passed": sum(check.passed for check in decision.checks),
            "limits": len(decision.checks),
        }
        common = {"model": model.registered}
        table += [
            common | {"criterion": check.criterion, "figure": check.challenger, "passed": check.passed}
            for check in decision.checks
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
