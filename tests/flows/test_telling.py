"""A Prefect server that goes away ends no work, and is told of in one sentence."""

import logging
from collections.abc import Callable
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import lifetime, orchestration, promote
from timbreflow.errors import TimbreflowError
from timbreflow.training import progress as training_progress

NOWHERE = "http://127.0.0.1:1/api"


def ask_nowhere() -> None:
    with temporary_settings({PREFECT_API_URL: NOWHERE}), get_client(sync_client=True) as client:
        client.read_flow_runs(limit=1)


def test_a_server_that_is_gone_is_one_warning_and_is_left_alone_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    tell, asked = lifetime.Teller(), []

    def count() -> None:
        asked.append(1)
        ask_nowhere()

    with caplog.at_level(logging.WARNING, "timbreflow"):
        assert [tell(count) for _ in range(5)] == [None] * 5
    assert len(asked) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the work goes on" in caplog.text


def test_a_server_that_is_back_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(lifetime, "time", SimpleNamespace(monotonic=lambda: clock[0]))  # other threads keep their clock
    tell = lifetime.Teller()
    answers: list[Callable[[], Any]] = [lambda: (_ for _ in ()).throw(httpx.ConnectError("refused")), lambda: "shown"]
    assert [tell(answer) for answer in answers] == [None, None]
    clock[0] += lifetime.SECONDS_OF_SILENCE
    assert tell(answers[1]) == "shown"


def test_an_error_that_is_not_the_servers_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        lifetime.Teller()(lambda: 1 / 0)


def test_the_progress_of_a_training_survives_a_client_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def refused(progress: float, **_: Any) -> None:
        asked.append(progress)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(orchestration, "_tell", lifetime.Teller())
    monkeypatch.setattr(orchestration, "create_progress_artifact", lambda progress, **_: "id")
    monkeypatch.setattr(orchestration, "update_progress_artifact", refused)
    orchestration._Progress("train_glow", 10).show(10, done=True)
    assert asked == [100]


def test_the_progress_of_a_training_has_its_loss_its_pace_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the training's own Progress: the names of its values are not written twice."""
    shown: list[tuple[float, str]] = []
    clock = [1000.0]

    def show(progress: float, description: str, **_: Any) -> None:
        shown.append((progress, description))

    for module in (orchestration, training_progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(orchestration, "_tell", lambda call: call())
    monkeypatch.setattr(orchestration, "create_progress_artifact", lambda progress, **_: "id")
    monkeypatch.setattr(orchestration, "update_progress_artifact", show)
    sent: Any = SimpleNamespace(log=lambda step, values: None)
    log = orchestration._Log(sent, "train_vqvae/base", 100)
    config: Any = SimpleNamespace(steps=100, log_every=1, batch_size=8, grad_accumulation=1, precision="fp32")
    watch: Any = SimpleNamespace(data_wait=0.0, device="cpu", wanted=False)
    progress = training_progress.Progress(config, 0, log, watch)
    for step in range(1, 12):
        clock[0] += 6
        progress.update(step, {"loss": 4 / step}, finite=True)
    progress.close(11)
    # 10 steps after the first one took 60 s, so that the other 89 take 534 s.
    assert shown[-1] == (11.0, "train_vqvae/base: 11 of 100, loss 0.3636, 1.3 examples a second, 9 min left")
    assert len(shown) == 11
    log.end()
    assert shown[-1] == (100.0, "train_vqvae/base: 100 of 100, loss 0.3636, 1.3 examples a second")


@pytest.mark.parametrize("promoted", [True, False])
def test_a_promotion_whose_server_has_gone_ends_as_it_was_decided(
    promoted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refused(markdown: str, **_: Any) -> None:
        asked.append(markdown)
        raise httpx.ConnectError("refused")

    failed = [] if promoted else [SimpleNamespace(criterion="lsd")]
    result = SimpleNamespace(
        registered="timbreflow-glow",
        version="7",
        promoted=promoted,
        decision=SimpleNamespace(failed=failed),
        table=lambda: "the table",
    )
    monkeypatch.setattr(promote, "create_markdown_artifact", refused)
    monkeypatch.setattr(promote, "plain_task", lambda function: lambda *_, **__: result)
    monkeypatch.setattr(orchestration, "running_url", lambda server, root: "http://127.0.0.1:5000")
    with nullcontext() if promoted else pytest.raises(TimbreflowError, match="glow was refused: it fails lsd"):
        promote.promote.fn(promote.Model.GLOW)
    page = "http://127.0.0.1:5000/#/models/timbreflow-glow/versions/7?workflowType=machine_learning"
    assert asked == [f"```\nthe table\n```\n\n[Version 7 in MLflow]({page})"]


class Flow:
    """Stands for a Prefect flow whose server goes away before or after its function."""

    name = "sleeper"

    def __init__(self, *, starts: bool, error: Exception | None = None) -> None:
        self._starts, self._error = starts, error

    def fn(self) -> None:
        if self._error:
            raise self._error

    def __call__(self) -> None:
        if self._starts:
            with suppress(TimbreflowError):
                self.fn()
        raise httpx.ConnectError("refused")


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "server", nullcontext)
    monkeypatch.setattr(lifetime, "cancellable", nullcontext)
    monkeypatch.setattr(lifetime, "alone", lambda name: nullcontext())
    monkeypatch.setattr(lifetime, "mark_dead_runs", lambda: None)


@pytest.mark.usefixtures("no_server")
def test_without_its_work_done_a_flow_ends_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    flow: Any = Flow(starts=False)
    with pytest.raises(SystemExit) as ended:
        orchestration.entry(flow)
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: The Prefect server at") and len(error.splitlines()) == 1


@pytest.mark.usefixtures("no_server")
def test_with_its_work_done_a_flow_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    flow: Any = Flow(starts=True)
    orchestration.entry(flow)
    assert "the work is done" in capsys.readouterr().err


@pytest.mark.usefixtures("no_server")
def test_the_flows_own_error_is_not_hidden_by_the_servers(capsys: pytest.CaptureFixture[str]) -> None:
    flow: Any = Flow(starts=True, error=TimbreflowError("the notes are missing; run collect_midi."))
    with pytest.raises(SystemExit):
        orchestration.entry(flow)
    assert capsys.readouterr().err == "error: the notes are missing; run collect_midi.\n"


@pytest.mark.parametrize(
    ("error", "kept"),
    [(httpx.ConnectError("refused"), False), (TimbreflowError("no"), False), (KeyError("a fault of the code"), True)],
    ids=["server gone", "own error", "fault"],
)
def test_only_faults_of_the_code_are_logged_with_their_traceback(error: Exception, kept: bool) -> None:
    record = logging.LogRecord("prefect.flow_runs", logging.ERROR, "", 0, "failed", None, (type(error), error, None))
    for check in logging.getLogger("prefect.flow_runs").filters:
        assert not callable(check) or check(record)
    assert (record.exc_info is not None) is kept
