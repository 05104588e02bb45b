"""The webhook of a Prefect server: what it is sent, and that setting it twice is setting it once. That the server calls
it is in tests/benchmarks/test_ops_demo.py."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.server.utilities.user_templates import render_user_template
from prefect.testing.utilities import prefect_test_harness

from flows import alerts
from timbreflow.errors import TimbreflowError


def test_set_again_the_address_is_another_and_the_automations_are_the_same() -> None:
    with prefect_test_harness(server_startup_timeout=120):
        for url in ("http://127.0.0.1:9/old", "http://127.0.0.1:9/new"):
            alerts.set_alerts(url)
        with get_client(sync_client=True) as client:
            found = [each for name in alerts.ALERTS for each in client.read_automations_by_name(name)]
        assert len(found) == len(alerts.ALERTS) == 3
        assert Webhook.load(alerts.BLOCK).url.get_secret_value() == "http://127.0.0.1:9/new"
        assert "127.0.0.1:9" not in str([Automation.read(name=name) for name in alerts.ALERTS])
        payload = found[1].actions[0].payload
    state = SimpleNamespace(message='glow was refused: "lsd"\nfails')
    flow_run = SimpleNamespace(name="promote-glow", state=state)
    body = asyncio.run(render_user_template(payload.replace("|ui_url", ".name"), {"flow_run": flow_run}))
    assert json.loads(body) == {"text": 'No promotion: glow was refused: "lsd"\nfails Run promote-glow, promote-glow'}


@pytest.mark.parametrize("url", ["", "hooks.example.org/secret", "file:///etc/passwd"])
def test_an_address_that_cannot_be_called_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(TimbreflowError, match=r"^TIMBREFLOW_ALERT_URL must be the http") as refused:
        alerts.set_alerts(url)
    assert "secret" not in str(refused.value)


def test_without_a_server_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert alerts.main() == 2
    assert "type `make ui`" in capsys.readouterr().err
