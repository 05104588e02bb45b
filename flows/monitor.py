"""Compare what was served with the training, write the page, and fail where a check alerts; not a DVC stage."""

import sys
from pathlib import Path

from prefect import flow

from flows import ROOT
from flows.orchestration import LAYOUT, entry, keep, load, plain_task, run_page, tracked
from timbreflow.errors import TimbreflowError
from timbreflow.monitoring.watch import served, watch
from timbreflow.stages.result import StageResult


@flow(name="monitor", flow_run_name="monitor")
def monitor(folder: str = "") -> None:
    """One task; its checks and the page are artifacts. An alert fails the run, too few records do not.

    Args:
        folder: of records; data/served by default.
    """
    page, config = LAYOUT.results("monitor") / "monitor.html", load().monitor
    report = plain_task(watch)(Path(folder) if folder else served(ROOT), config, root=ROOT, out=page)
    rows = [{"state": check.state, "check": check.sentence} for check in report.checks]
    with tracked("monitor", config) as run:
        keep(run, "monitor", StageResult(report.summary, tables={"checks": rows}, files={"page": page}))
        if report.alerts:
            names = ", ".join(check.label for check in report.alerts)
            raise TimbreflowError(
                f"What is served is unlike the training ({names}); see {run_page(run, page)} or {page}."
            )


if __name__ == "__main__":
    entry(monitor, *sys.argv[1:])
