"""Stage report: the results of evaluate as one page, tables and plots, without evaluating anything again."""

from itertools import combinations

import pandas as pd

from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.storage import read_evaluation
from timbreflow.evaluation.summary import Summary, plain, summarize
from timbreflow.evaluation.systems import SYSTEMS
from timbreflow.files import atomic_directory, atomic_file, read_json, write_json, write_text
from timbreflow.reporting.curves import read_curves
from timbreflow.reporting.html import SET_TITLES, render_report
from timbreflow.reporting.markdown import Table, render_markdown
from timbreflow.reporting.panels import save_panels
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult, ignore_metrics

STAGE = "report"
FOR_PEOPLE = ("lsd", "timbre", "note_score")
"""Metrics that `dvc metrics show` and `dvc exp show` list."""


def run(config: EvaluationConfig, *, layout: Layout, log: MetricLogger = ignore_metrics) -> StageResult:
    """Write results/report/{report.html, table.md, metrics.json, scores.json, plots/}, whole or not at all.

    It reads results/evaluate and the learning curves below results/train_*. Of `config` the draws of the bootstrap
    count; the page states the rest.

    Raises:
        TimbreflowError: a file of results/evaluate or a learning curve is missing or broken.
    """
    results = layout.results("evaluate")
    evaluation, metrics = read_evaluation(results), read_json(results / "metrics.json")
    present = set(evaluation.table["system"])
    models = [name for name, spec in SYSTEMS.items() if spec.competes and name in present]
    draws = {"samples": config.bootstrap_samples, "seed": config.seed}
    summaries = summarize(evaluation.table, pairs=list(combinations(models, 2)), **draws)
    gaps = metrics.get("generalisation_gap", {})
    page = render_report(
        summaries,
        evaluation,
        generalisation=gaps,
        curves=read_curves(layout.root / "results"),
        config=config,
        digests=metrics,
    )
    words = [
        render_markdown(Table(f"Set {name} ({SET_TITLES[name][0].lower()})", summary, evaluation.timing, gaps))
        for name, summary in summaries.items()
    ]
    with atomic_directory(layout.results(STAGE)) as place:
        write_text(place / "report.html", page)
        write_text(place / "table.md", "\n".join(words))
        scores = {name: {"systems": s.figures, "comparisons": s.differences} for name, s in summaries.items()}
        write_json(place / "scores.json", plain(scores))
        lead = summaries[config.sets[0]].values()
        few = {name: {key: lead[name][key] for key in FOR_PEOPLE if key in lead[name]} for name in models}
        write_json(place / "metrics.json", few)
        with atomic_file(place / "plots" / "systems.csv") as temporary:
            _rows(summaries).to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
        for example in evaluation.examples:
            if not example.worst_of:
                save_panels(place / "plots" / f"panels-{example.triple_id}.png", example)
    report = layout.results(STAGE) / "report.html"
    return StageResult(summary=f"The report is {report}.", files={"report": report})


def _rows(summaries: dict[str, Summary]) -> pd.DataFrame:
    """One row a set and system, metrics as columns, for bar charts of `dvc plots`."""
    return pd.DataFrame(
        {"set": split, "system": system, **row}
        for split, summary in summaries.items()
        for system, row in summary.values().items()
    )
