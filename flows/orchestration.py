"""What every flow shares: parameters, task runner, tracking, artifacts, and errors in the shell."""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from prefect import Flow, Task, get_run_logger, tags
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from safetensors import SafetensorError

from flows import ROOT, lifetime
from flows.runners import chosen_runner, run_all
from timbreflow.config import Params, as_mapping, load_params
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult, ignore_metrics
from timbreflow.stages.shards import run_shard
from timbreflow.tracking.runs import open_run
from timbreflow.workers import process_count, process_rank

PARENT_RUN = "TIMBREFLOW_PARENT_RUN"
"""Environment variable that holds the id of flows.pipeline for the flows that DVC starts."""
PROGRESS_SECONDS = 2.0
LAYOUT = Layout(ROOT)


def plain_task(function: Callable[..., Any], **options: Any) -> Any:
    """A Prefect task without caching, which is DVC's work."""
    return Task(function, cache_policy=NO_CACHE, persist_result=False, **options)


def load() -> Params:
    """Parameters of this checkout."""
    return load_params(LAYOUT.params)


def run_shards(stage: ModuleType, *sections: Any) -> None:
    """Plan a sharded stage, run its shards as tasks of the chosen runner, finish it and publish its result."""
    name = stage.__name__.rpartition(".")[2]
    runner = chosen_runner()
    shards = plain_task(stage.plan, name=f"plan {name}")(*sections, layout=LAYOUT)
    worker = plain_task(run_shard, name=f"{name} shard", task_run_name=f"{name} shard")
    calls = [{"stage": name, "shard": shard, "sections": sections, "layout": LAYOUT} for shard in shards]
    run_all(worker, calls, runner=runner, done=_Progress(name, len(shards)).advance)
    _publish(name, plain_task(stage.finish, name=f"finish {name}")(*sections, layout=LAYOUT))


def run_stage(stage: ModuleType, *arguments: Any, results: str = "", **keywords: Any) -> StageResult:
    """Run a stage without shards as one task, and publish its result under the name of its results folder."""
    name = stage.__name__.rpartition(".")[2]
    report: StageResult = plain_task(stage.run, name=name)(*arguments, layout=LAYOUT, **keywords)
    _publish(results or name, report)
    return report


def run_tracked(stage: ModuleType, results: str, section: Any, *arguments: Any) -> None:
    """Run a stage as `run_stage` does, inside an MLflow run; a training also shows its progress as an artifact.

    The run has the name of the results folder, such as `train_vqvae/base`, and the stage's section of params.yaml under
    the same dotted names. Of the processes of a torchrun the first one does so; the others only compute.
    """
    if process_rank() > 0:
        stage.run(*arguments, layout=LAYOUT, log=ignore_metrics)
        return
    with open_run(results, {results.replace("/", "."): as_mapping(section)}, root=ROOT) as run:
        steps = section.fit.steps if hasattr(section, "fit") else 0
        digest = read_json(LAYOUT.results("validate_data") / "passed.json")["digest"]
        run.dataset("data/audio data/mels", digest, context="training" if steps else "evaluation")
        progress = _Progress(results, steps) if steps else None

        def log(step: int, values: Mapping[str, float]) -> None:
            run.log(step, values)
            if progress:
                progress.show(step)

        report = run_stage(stage, *arguments, results=results, log=log)
        if progress:
            progress.show(steps, done=True)
        run.describe(report.summary)
        run.log_params(report.facts)
        for path in report.files.values():
            run.artifact(path)
        run.write_run_json(LAYOUT.results(results) / "run.json")


class _Progress:
    def __init__(self, stage: str, steps: int) -> None:
        self._steps, self._step = steps, 0
        self._shown = time.monotonic()
        self._id: Any = create_progress_artifact(progress=0.0, key=f"{_key(stage)}-progress", description=stage)

    def advance(self) -> None:
        """Count a finished step."""
        self._step += 1
        self.show(self._step, done=self._step == self._steps)

    def show(self, step: int, *, done: bool = False) -> None:
        now = time.monotonic()
        if done or now - self._shown >= PROGRESS_SECONDS:
            self._shown = now
            update_progress_artifact(artifact_id=self._id, progress=min(100.0, 100.0 * step / self._steps))


def _publish(stage: str, report: StageResult) -> None:
    """Show a stage's result as Prefect artifacts: a sentence with its numbers, its tables, links to its files."""
    get_run_logger().info(report.summary)
    numbers = "\n".join(f"| {name} | {value:.5g} |" for name, value in report.metrics.items())
    table = f"\n\n| metric | value |\n|---|---|\n{numbers}" if numbers else ""
    create_markdown_artifact(markdown=report.summary + table, key=_key(stage), description=f"Summary of {stage}")
    for name, rows in report.tables.items():
        create_table_artifact(table=rows, key=_key(f"{stage}-{name}"), description=f"{stage}: {name}")
    for name, path in report.files.items():
        create_link_artifact(link=path.resolve().as_uri(), link_text=name, key=_key(f"{stage}-{name}"))


def entry(flow: Flow[Any, Any], *arguments: Any, sharded: bool = False, shared: bool = False) -> None:
    """Run a flow as a command, tagged with its parent; errors, also the system's, become one sentence and exit code 2.

    The wrong runner of a flow with shards is an error before a server is started. A `shared` flow may be run by several
    processes of `torchrun`: the first one runs the flow, the others its function, so that there is one flow run and one
    MLflow run.
    """
    parent = os.environ.get(PARENT_RUN)
    marks = [lifetime.process_tag(), *([f"pipeline:{parent}"] if parent else [])]
    lifetime.end_with_dvc()
    try:
        if process_count() > 1 and not shared:
            raise TimbreflowError(f"{flow.name} runs in one process; start it with `python -m` instead of torchrun.")
        if process_rank() > 0:
            with _joined():
                flow.fn(*arguments)
            return
        if sharded:
            chosen_runner()
        with lifetime.alone("-".join([flow.name, *arguments])), lifetime.server(), tags(*marks):
            lifetime.mark_dead_runs_as_crashed()
            with _joined() if shared else nullcontext():
                flow(*arguments)
    except (TimbreflowError, OSError, SafetensorError) as error:
        print(f"error: {error if isinstance(error, TimbreflowError) else _refused(error)}", file=sys.stderr)
        sys.exit(2)


def _refused(error: OSError | SafetensorError) -> str:
    """One sentence for an error of the system, most often a full disk."""
    place = getattr(error, "filename", None) or "A file"
    reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return (
        f"{place} cannot be written or read ({reason}); make room on the disk or correct its permissions, and run "
        "again: finished work is kept."
    )


def _joined() -> AbstractContextManager[None]:
    """Join the other processes of torchrun."""
    from timbreflow.models.devices import resolve_device
    from timbreflow.parallel import joined

    return joined(resolve_device())


def profiled_arguments() -> list[str]:
    """Arguments of a training's command; `--profile` among them is a short form of TIMBREFLOW_PROFILE=1."""
    if "--profile" in sys.argv:
        from timbreflow.training.progress import PROFILE_VARIABLE

        os.environ[PROFILE_VARIABLE] = "1"
    return [argument for argument in sys.argv[1:] if argument != "--profile"]


def _one_sentence(record: logging.LogRecord) -> bool:
    """Log a TimbreflowError without the traceback that Prefect adds to every exception."""
    if record.exc_info and isinstance(record.exc_info[1], TimbreflowError):
        record.exc_info = None
    return True


# Messages of stages, such as the step of a training and the time that is left, are shown in the shell too.
logging.getLogger("timbreflow").setLevel(logging.INFO)

for _logger in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_logger).addFilter(_one_sentence)


def _key(text: str) -> str:
    """Prefect takes lower-case letters, digits and dashes in artifact keys."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
