"""Secrets come from the environment alone, and are in nothing that a run writes, shows or records."""

import json
import logging
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import lifetime, orchestration
from timbreflow.app import servers
from timbreflow.errors import TimbreflowError
from timbreflow.network import without_password
from timbreflow.tracking import connection

SECRET = "Tr0ub4dor-planted"


@pytest.mark.parametrize(
    "text",
    [
        f"http://lab:{SECRET}@host:5000/api",
        f"postgresql+psycopg2://lab:{SECRET}@host/db",
        f"https://{SECRET}@host",
        f"http://lab:p@{SECRET}@host",
        f"postgresql://host/db?user=lab&password={SECRET}&sslmode=require",
        f"The server at http://lab:{SECRET}@host/api and http://lab:{SECRET}@other is gone; start it.",
        f"socks5://lab:{SECRET}/x@host:1080",
    ],
)
def test_addresses_are_shown_without_passwords(text: str) -> None:
    shown = without_password(text)
    assert SECRET not in shown
    assert "host" in shown


def test_addresses_without_passwords_are_shown_as_they_are() -> None:
    text = "The server at http://127.0.0.1:4200/api cannot be used; ask lab@example.org"
    assert without_password(text) == text


def test_errors_of_servers_have_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for address in (
        f"http://lab:{SECRET}@127.0.0.1:1/api",
        f"lab:{SECRET}@127.0.0.1:1",
    ):
        monkeypatch.setenv("PREFECT_API_URL", address)
        with (
            pytest.raises(TimbreflowError, match="PREFECT_API_URL") as caught,
            temporary_settings({PREFECT_API_URL: address}),
            lifetime.server(),
        ):
            pass
        assert SECRET not in str(caught.value)
    for address in (
        f"http://lab:{SECRET}@127.0.0.1:1",
        f"postgresql://lab:{SECRET}@127.0.0.1:1/mlflow",
        f"postgresql://127.0.0.1:1/mlflow?password={SECRET}",
        f"foo://{SECRET}@x",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(TimbreflowError, match="MLFLOW_TRACKING_URI") as caught:
            connection.connect(tmp_path)
        assert SECRET not in str(caught.value)


def test_links_to_mlflow_and_the_list_of_servers_have_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://lab:{SECRET}@127.0.0.1:1")
    monkeypatch.setattr(servers, "_healthy", lambda url: True)
    assert SECRET in str(servers.running_url(servers.MLFLOW, tmp_path)), "requests need it"
    links: list[str] = []
    monkeypatch.setattr(orchestration, "_tell", lambda tell: tell())
    monkeypatch.setattr(orchestration, "create_link_artifact", lambda link, **_: links.append(link))

    class Run:
        experiment, run_id = "1", "2"

    run: Any = Run()
    orchestration._Log(run, "evaluate", 0).link()
    assert links and SECRET not in links[0] and "127.0.0.1:1/#/experiments/1/runs/2" in links[0]
    shown = servers.start(tmp_path, [servers.MLFLOW])
    assert SECRET not in json.dumps(shown)


def test_values_that_mlflow_did_not_take_are_told_without_the_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from timbreflow.tracking.runs import FLUSH_VALUES, Run

    class Client:
        def log_batch(self, *_: Any, **__: Any) -> None:
            raise ConnectionError(f"no answer of http://lab:{SECRET}@127.0.0.1:1/api")

    client: Any = Client()
    with caplog.at_level(logging.WARNING):
        Run(client, "1", "2", tmp_path).log(1, {f"m{n}": 0.0 for n in range(FLUSH_VALUES)})
    assert "did not take" in caplog.text and SECRET not in caplog.text


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A checkout in which stages have run with secrets in every variable that may hold one; and what they printed."""
    from checkout import Checkout

    checkout = Checkout(tmp_path_factory.mktemp("planted") / "checkout")
    values = checkout.values()
    values["collect_midi"]["sources"] = ["music21/haydn"]
    checkout.write(values)
    assert checkout.run("timbreflow", "ui").returncode == 0
    ports = {name: checkout.environment[f"TIMBREFLOW_{name}_PORT"] for name in ("PREFECT", "MLFLOW")}
    keys = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_KEY", "GITHUB_TOKEN", "MLFLOW_TRACKING_PASSWORD")
    secrets = {name: f"{SECRET}-{name}" for name in keys}
    secrets |= {
        "MLFLOW_TRACKING_USERNAME": "lab",
        "PREFECT_API_URL": f"http://lab:{SECRET}-prefect@127.0.0.1:{ports['PREFECT']}/api",
        "MLFLOW_TRACKING_URI": f"http://lab:{SECRET}-mlflow@127.0.0.1:{ports['MLFLOW']}",
        "http_proxy": f"http://lab:{SECRET}-proxy@127.0.0.1:9",
        "https_proxy": f"http://lab:{SECRET}-proxy@127.0.0.1:9",
    }
    plain = dict(checkout.environment)
    checkout.environment |= secrets
    printed = []
    for command in (
        ["python", "-m", "flows.collect_midi"],
        ["python", "-m", "flows.train_glow"],
        ["timbreflow", "status"],
    ):
        printed.append(checkout.run(*command).stdout)
    # One that succeeds inside an MLflow run, and one that fails in it.
    script = (
        "from pathlib import Path\nfrom timbreflow.tracking.runs import open_run\n"
        "with open_run('evaluate', {'a': 1}, root=Path.cwd()) as run:\n    run.log(1, {'x': 1.0})\n"
        "    run.artifact(Path('params.yaml'))\n    raise SystemExit(0)\n"
    )
    printed.append(checkout.run("python", "-c", script).stdout)
    checkout.environment = plain
    runs = checkout.flow_runs()
    assert {run["name"] for run in runs} >= {"collect_midi", "train_glow"}, "the server with a password was not used"
    with urllib.request.urlopen(
        urllib.request.Request(
            f"http://127.0.0.1:{ports['MLFLOW']}/api/2.0/mlflow/experiments/search?max_results=10", method="GET"
        )
    ) as answer:
        assert "timbreflow" in answer.read().decode(), "the store with a password was not used"
    checkout.run("timbreflow", "stop")
    return checkout.root, "\n".join(printed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_planted_secret_is_in_any_file_or_line(planted: tuple[Path, str]) -> None:
    root, printed = planted
    assert SECRET not in printed, [line for line in printed.splitlines() if SECRET in line]
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and ".venv" not in path.parts]
    assert {"prefect.db", "mlflow.db", "prefect.log", "mlflow.log"} <= {path.name for path in files}
    leaking = [str(path.relative_to(root)) for path in files if SECRET.encode() in path.read_bytes()]
    assert leaking == []
