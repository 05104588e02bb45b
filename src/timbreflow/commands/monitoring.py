"""`timbreflow monitor` and `monitor-reference`: is what is served still like what was trained on?"""

import sys
from pathlib import Path

from cyclopts import App

from timbreflow.commands.common import project, say

app = App()


@app.command(help_epilogue="For example\n\n    timbreflow monitor data/served --days 1 --out monitor.html")
def monitor(folder: Path, *, out: Path | None = None, days: int | None = None, reference: Path | None = None) -> None:
    """Compare the records of what was served with the training, and write a page.

    Limits are in params.yaml, section monitor. The exit code is 1 where a check alerts.

    Args:
        folder: the folder given to `timbreflow serve --record`.
        out: page to write; results/monitor/monitor.html by default.
        days: how far back to look; by default as in params.yaml.
        reference: file of `timbreflow monitor-reference` to compare with; by default data/monitor/reference.json where
            there is one, else the released one.
    """
    from timbreflow.monitoring.watch import watch

    params, layout = project()
    page = out or layout.results("monitor") / "monitor.html"
    report = watch(folder, params.monitor, root=layout.root, out=page, days=days, reference=reference)
    for check in report.checks if report.enough else ():
        print(f"{check.state:8} {check.sentence}")
    print(report.summary)
    say(f"wrote {page}")
    if report.alerts:
        sys.exit(1)


@app.command(
    name="monitor-reference",
    help_epilogue="For example\n\n    timbreflow monitor-reference data/audio",
)
def monitor_reference(clips: Path, *, out: Path | None = None, triples: int = 240) -> None:
    """Measure clips of the training, which `timbreflow monitor` then compares with.

    Args:
        clips: data/audio, whose training clips are taken, or a built test set such as data/testsets/seen.
        out: data/monitor/reference.json by default.
        triples: how many triples to measure, content and style of each.
    """
    from timbreflow.monitoring.watch import learn, own_reference

    _, layout = project()
    place = out or own_reference(layout.root)
    found = learn(clips, place, triples=triples)
    say(f"wrote {place}: {found.n_clips} clips of {found.source}")
