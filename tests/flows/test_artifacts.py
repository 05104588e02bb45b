"""What a stage shows: links that a browser opens, pictures, and the page of data that failed."""

from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from prefect.logging.loggers import disable_run_logger

from flows import monitor, orchestration, render_triples
from flows.pictures import pictures
from tests.monitoring.served import CONFIG, reference, serve
from tests.stages.test_render_triples import write_notes
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.gate_config import CriterionConfig
from timbreflow.monitoring.figures import Ears
from timbreflow.monitoring.reference import write_reference
from timbreflow.monitoring.watch import own_reference, served
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult
from timbreflow.tracking.connection import connect
from timbreflow.validation.failure import Checked, InvalidData

SECTION = CriterionConfig("lower", 0.02, 20.0)  # any section of params.yaml
Shown = dict[str, dict[str, Any]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shown:
    """Artifacts by key, of flows in a checkout of its own; Prefect is not asked, MLflow is real."""
    seen: Shown = {}

    def keep(*_: Any, key: str, **values: Any) -> str:
        assert key not in seen, "a second artifact of this key would hide the first"
        seen[key] = values
        return key

    for kind in ("image", "link", "markdown", "progress", "table"):
        monkeypatch.setattr(orchestration, f"create_{kind}_artifact", keep)
    monkeypatch.setattr(orchestration, "_tell", lambda call: call())
    monkeypatch.setattr(orchestration, "plain_task", lambda function, **_: function)
    monkeypatch.setattr(orchestration, "running_url", lambda server, root: "http://127.0.0.1:5000")
    monkeypatch.setattr(orchestration, "url_for", lambda *_: "http://127.0.0.1:4200/runs/flow-run/7")
    monkeypatch.setattr(orchestration, "runtime", SimpleNamespace(flow_run=SimpleNamespace(id="7")))
    for module in (orchestration, render_triples):
        monkeypatch.setattr(module, "LAYOUT", Layout(tmp_path))
    monkeypatch.setattr(orchestration, "ROOT", tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return seen


def stage(name: str, run: Any) -> ModuleType:
    module = ModuleType(f"timbreflow.stages.{name}")
    module.run = run  # type: ignore[attr-defined]
    return module


def write_passed(root: Path) -> None:
    folder = Layout(root).results("validate_data")
    folder.mkdir(parents=True)
    (folder / "passed.json").write_text('{"digest": "abc"}')


def test_links_and_pictures_open_in_a_browser(shown: Shown, tmp_path: Path) -> None:
    write_passed(tmp_path)
    results = Layout(tmp_path).results("report")

    def run(*_: Any, **__: Any) -> StageResult:
        (results / "plots").mkdir(parents=True)
        (results / "report.html").write_text("<p>report</p>")
        for number in range(5):
            Image.new("RGB", (4, 4)).save(results / "plots" / f"panels-{number}.png")
        files = {"report": results / "report.html", "panels-0": results / "plots" / "panels-0.png"}
        return StageResult("The report.", files=files)

    with disable_run_logger():
        orchestration.run_tracked(stage("report", run), "report", SECTION)
    (stored,) = connect(tmp_path).search_runs([connect(tmp_path).get_experiment_by_name("timbreflow").experiment_id])
    page = f"http://127.0.0.1:5000/#/experiments/{stored.info.experiment_id}/runs/{stored.info.run_id}"
    training = "?workflowType=machine_learning"
    assert shown["report-mlflow"]["link"] == f"{page}{training}"
    assert shown["report-report"]["link"] == f"{page}/artifacts/report.html{training}"
    links = [values[name] for values in shown.values() for name in ("link", "image_url") if name in values]
    assert all(link.startswith("http://127.0.0.1:5000/") for link in links)
    picture = f"http://127.0.0.1:5000/get-artifact?path=panels-0.png&run_uuid={stored.info.run_id}"
    assert shown["report-picture-panels-0"]["image_url"] == picture
    assert len([key for key in shown if key.startswith("report-picture-panels")]) == 3
    kept = {file.path for file in connect(tmp_path).list_artifacts(stored.info.run_id)}
    assert kept == {"report.html", "panels-0.png", "panels-1.png", "panels-2.png"}
    assert stored.data.tags["mlflow.note.content"] == "The report."
    assert stored.data.tags["prefect_url"].endswith("/flow-run/7")


def test_a_training_has_a_picture_of_its_curves(tmp_path: Path) -> None:
    steps = range(10, 50, 10)
    curves = pd.DataFrame(
        {"step": steps, "train_loss": 3.0, "train_l1": 2.0, "train_lr": 0.1, "val_loss": [None, 2, None, 1]}
    )
    curves.to_csv(tmp_path / "curves.csv", index=False)
    (picture,) = pictures(tmp_path)
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width < 500, "one panel: loss, which both have"
    pd.DataFrame({"step": [1], "train_a": [1.0]}).to_csv(tmp_path / "curves.csv", index=False)
    assert pictures(tmp_path) == [picture]


def test_data_that_failed_has_its_page_in_the_run(shown: Shown, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("<p>failed</p>")
    failure = Checked("mels", "expect_x", "finite", "", "1 of 30 rows", False)

    def run(*_: Any, **__: Any) -> StageResult:
        raise InvalidData([failure], page, what="data", remedy="then look")

    with disable_run_logger(), pytest.raises(InvalidData):
        orchestration.run_validation(stage("validate_data", run), SECTION)
    client = connect(tmp_path)
    (stored,) = client.search_runs([client.get_experiment_by_name("timbreflow").experiment_id])
    assert stored.info.status == "FAILED"
    assert f"/runs/{stored.info.run_id}/artifacts/index.html?" in shown["validate-data-data-docs"]["link"]
    assert shown["validate-data-failures"]["table"] == [{"what": str(failure)}]
    assert [file.path for file in client.list_artifacts(stored.info.run_id)] == ["index.html"]


@pytest.mark.parametrize("strange", [False, True])
def test_the_page_of_the_monitoring_opens_in_a_browser(
    strange: bool, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ears, "weights", "ears")
    write_reference(own_reference(tmp_path), reference())
    serve(served(tmp_path), style={"band_hz": 7900.0} if strange else {})
    for name, value in {
        "ROOT": tmp_path,
        "LAYOUT": Layout(tmp_path),
        "load": lambda: SimpleNamespace(monitor=CONFIG),
        "plain_task": lambda function: function,
    }.items():
        monkeypatch.setattr(monitor, name, value)
    alert = pytest.raises(
        TimbreflowError, match=r"unlike the training \(style: band\); see http\S*/monitor\.html\S* or /"
    )
    with disable_run_logger(), alert if strange else nullcontext():
        monitor.monitor.fn()
    client = connect(tmp_path)
    (stored,) = client.search_runs([client.get_experiment_by_name("timbreflow").experiment_id])
    assert stored.info.status == ("FAILED" if strange else "FINISHED")
    assert f"/runs/{stored.info.run_id}/artifacts/monitor.html?" in shown["monitor-page"]["link"]
    assert shown["monitor-page"]["link"].startswith("http://127.0.0.1:5000/")
    assert [file.path for file in client.list_artifacts(stored.info.run_id)] == ["monitor.html"]
    assert len(shown["monitor-checks"]["table"]) == 12 + 3
    assert ("ALERT: style: band" in shown["monitor"]["markdown"]) == strange


def test_nothing_is_rendered_from_notes_that_fail(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notes(tmp_path / "data" / "notes", n_pieces=2)  # too few for training, validation and test
    monkeypatch.setattr(render_triples, "plain_task", lambda function, **_: function)
    monkeypatch.setattr(render_triples, "load", lambda: pytest.fail("went on"))
    with disable_run_logger(), pytest.raises(InvalidData, match="suite pieces, column table: .*observed 2"):
        render_triples.render_triples.fn()
    assert "observed 2" in shown["notes-failures"]["table"][0]["what"]
    assert (tmp_path / "results" / "collect_midi" / "data_docs" / "index.html").is_file()


def test_good_notes_go_on_to_the_rendering(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notes(tmp_path / "data" / "notes")
    went: list[Any] = []
    monkeypatch.setattr(render_triples, "plain_task", lambda function, **_: function)
    monkeypatch.setattr(render_triples, "load", lambda: SimpleNamespace(render_triples="section"))
    monkeypatch.setattr(render_triples, "run_shards", lambda stage, section: went.append(section))
    with disable_run_logger():
        render_triples.render_triples.fn()
    assert went == ["section"]
    assert shown["notes-history"]["table"][0]["failed"] == "0"
    assert str(tmp_path) not in str(shown), "a browser opens no local file"
