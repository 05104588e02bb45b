"""flows/prefect.yaml and its twin for containers: what they deploy exists, and takes the parameters that they give."""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.utilities.callables import parameter_schema
from ruamel.yaml import YAML

from flows.pipeline import Stage
from flows.promote import Model, promote
from timbreflow.errors import TimbreflowError
from timbreflow.models.catalogue import GATED

ROOT = Path(__file__).resolve().parents[2]


def deployments(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = YAML(typ="safe").load((ROOT / "flows" / name).read_text())["deployments"]
    return found


def stages() -> list[str]:
    names = []
    for name, stage in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"].items():
        names += [f"{name}@{key}" for key in stage["foreach"]] if "foreach" in stage else [name]
    return names


def test_every_stage_has_a_deployment_of_its_own() -> None:
    single = {
        each["parameters"]["only"]: each for each in deployments("prefect.yaml") if "only" in each.get("parameters", {})
    }
    assert list(single) == stages() == [stage.value for stage in Stage]
    assert all(each["name"] == name.replace("@", "-") for name, each in single.items())


@pytest.mark.parametrize(
    ("name", "monitoring"), [("prefect.yaml", "monitor-nightly"), ("prefect-docker.yaml", "monitor-docker")]
)
def test_what_trains_or_evaluates_runs_one_at_a_time(name: str, monitoring: str) -> None:
    queues = {each["name"]: each["work_pool"].get("work_queue_name") for each in deployments(name)}
    assert {name for name, queue in queues.items() if queue != "gpu"} == {monitoring}


def test_the_models_to_promote_are_those_of_the_catalogue_by_either_name() -> None:
    assert [model.value for model in Model] == [model.name for model in GATED]
    assert [Model(model.registered) for model in GATED] == list(Model)
    schema = parameter_schema(promote).model_dump()
    assert schema["definitions"]["Model"]["enum"] == [model.name for model in GATED]
    with pytest.raises(TimbreflowError, match="no model 'nonsense'; choose one of vqvae, glow"):
        promote.validate_parameters({"name": "nonsense"})


@pytest.mark.parametrize("name", ["prefect.yaml", "prefect-docker.yaml"])
def test_flows_exist_take_their_parameters_and_describe_them(name: str) -> None:
    for each in deployments(name):
        path, _, function = each["entrypoint"].partition(":")
        flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), function)
        known = inspect.signature(flow.fn).parameters
        assert set(each.get("parameters", {})) <= set(known)
        if "parameters" in each:
            flow.validate_parameters(each["parameters"])
        described = parameter_schema(flow).model_dump()["properties"]
        assert all("description" in described[parameter] for parameter in known), each["name"]


def test_another_stage_is_refused() -> None:
    from flows.pipeline import pipeline

    with pytest.raises(prefect.exceptions.ParameterTypeError):
        pipeline.validate_parameters({"only": "train_gllow"})


def test_a_docker_work_pool_knows_what_it_is_given() -> None:
    (known,) = Path(prefect.__file__).parent.rglob("aggregate-worker-metadata.json")
    template = json.loads(known.read_text())["prefect-docker"]["docker"]["default_base_job_configuration"]
    for each in deployments("prefect-docker.yaml"):
        assert set(each["work_pool"]["job_variables"]) <= set(template["variables"]["properties"])
        assert each["work_pool"]["job_variables"]["image"] == "timbreflow-pipeline"
