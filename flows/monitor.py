"""Compare what was served with the training, write the page, and fail where a check alerts; not a DVC stage."""

import sys
from functools import partial
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows import ROOT
from flows.lifetime import Teller
from flows.orchestration import LAYOUT, entry, load, plain_task
from timbreflow.errors import TimbreflowError
from timbreflow.monitoring.watch import served, watch


@flow(name="monitor", flow_run_name="monitor")
def monitor(folder: str = "") -> None:
    """One task; its checks are the artifact. An alert fails the run, too few records do not.

    Args:
        folder: of records; data/served by default.
    """
    page = LAYOUT.results("monitor") / "monitor.html"
    report = plain_task(watch)(Path(folder) if folder else served(ROOT), load().monitor, root=ROOT, out=page)
    rows = "\n".join(f"| {check.state} | {check.sentence} |" for check in report.checks)
    markdown = f"{report.summary}\n\n| | check |\n|---|---|\n{rows}\n\nThe page: `{page}`"
    about = "What was served, beside the training"
    Teller()(partial(create_markdown_artifact, markdown=markdown, key="monitor", description=about))
    if report.alerts:
        names = ", ".join(check.label for check in report.alerts)
        raise TimbreflowError(f"What is served is unlike the training ({names}); see {page}.")


if __name__ == "__main__":
    entry(monitor, *sys.argv[1:])
