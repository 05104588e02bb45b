"""Have a Prefect server call a webhook when a run fails, a challenger is refused, or what is served drifts.

    TIMBREFLOW_ALERT_URL=https://hooks.example.org/... .venv/bin/python -m flows.alerts

The address, which may hold a key, is kept by the server in a block of type Webhook; run it again to change it. It
is the server that calls, also where a run's process was killed. The body is `{"text": "..."}`, which Slack, Mattermost
and others take.
"""

import os
import sys
from typing import cast
from uuid import UUID

import httpx
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.types import SecretDict
from pydantic import SecretStr

from flows.lifetime import reason
from timbreflow.errors import TimbreflowError

VARIABLE = "TIMBREFLOW_ALERT_URL"
BLOCK = "timbreflow-alerts"
ALERTS = {
    "timbreflow: a run of the pipeline failed": ("pipeline", "The pipeline failed"),
    "timbreflow: a promotion was refused or failed": ("promote", "No promotion"),
    "timbreflow: what is served has drifted, or monitoring failed": ("monitor", "Monitoring"),
}
"""Name of the automation -> its flow, and how its message begins."""


def set_alerts(url: str) -> None:
    """Make the block and the automations of a server, or bring them up to date.

    Args:
        url: that is called, by POST.

    Raises:
        TimbreflowError: it is no http(s) address.
    """
    if not url.startswith(("http://", "https://")):
        raise TimbreflowError(f"{VARIABLE} must be the http:// or https:// address that is to be called; set it.")
    block = Webhook(url=SecretStr(url), headers=SecretDict({"Content-Type": "application/json"}))
    document = cast(UUID, block.save(BLOCK, overwrite=True))
    for name, (flow, title) in ALERTS.items():
        wanted = _automation(name, flow, title, document)
        try:
            known = cast(Automation, Automation.read(name=name))
        except ValueError:
            wanted.create()
            continue
        wanted.id = known.id
        wanted.update()


def _automation(name: str, flow: str, title: str, block: UUID) -> Automation:
    # Somebody sits before a run without a deployment.
    related: list[ResourceSpecification | dict[str, str | list[str]]] = [
        {"prefect.resource.role": "flow", "prefect.resource.name": flow},
        {"prefect.resource.role": "deployment"},
    ]
    trigger = EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related=related,
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
        posture=Posture.Reactive,
        threshold=1,
    )
    text = f"{title}: {{{{ flow_run.state.message }}}} Run {{{{ flow_run.name }}}}, {{{{ flow_run|ui_url }}}}"
    payload = f'{{% set text %}}{text}{{% endset %}}{{"text": {{{{ text|string|tojson }}}}}}'
    return Automation(
        name=name,
        description="Made by `python -m flows.alerts`.",
        trigger=trigger,
        actions=[CallWebhook(block_document_id=block, payload=payload)],
    )


def main() -> int:
    """Exit code 0, or 2 after one sentence."""
    if "PREFECT_API_URL" not in os.environ:
        print("error: no Prefect server answers for this checkout; type `make ui`.", file=sys.stderr)
        return 2
    try:
        set_alerts(os.environ.get(VARIABLE, ""))
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except httpx.HTTPError as error:
        print(f"error: the Prefect server cannot be used ({reason(error)}); start it.", file=sys.stderr)
        return 2
    print(f"The server calls the webhook from now on: {'; '.join(ALERTS)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
