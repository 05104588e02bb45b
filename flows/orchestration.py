"""What every flow shares: parameters, task runner, tracking, artifacts, and errors in the shell."""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
from prefect import Flow, Task, get_run_logger, runtime, tags
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import TagsContext
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import get_call_parameters
from prefect.utilities.urls import url_for
from safetensors import SafetensorError

from flows import ROOT, lifetime
from flows.pictures import pictures
from flows.runners import chosen_runner, run_all
from timbreflow.app.servers import HOST, MLFLOW, running_url
from timbreflow.config import Params, as_mapping, load_params
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json
from timbreflow.network import without_password
from timbreflow.processes import process_tag
from timbreflow.progress_lines import format_time
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import StageResult, ignore_metrics
from timbreflow.stages.shards import run_shard
from timbreflow.system_errors import out_of_memory
from timbreflow.tracking.cache import remove_damaged
from timbreflow.tracking.runs import Run, open_run
from timbreflow.validation.failure import InvalidData
from timbreflow.workers import process_count, process_rank

PARENT_TASK = "TIMBREFLOW_PARENT_TASK"
"""Environment variable that holds the id of a task run of flows.pipeline for the flows that DVC starts in it."""
SECONDS_FOR_PARENT = 10.0
"""Until Prefect has stored that task run, of which it learns by an event."""
PROGRESS_SECONDS = 2.0
LAYOUT = Layout(ROOT)
_tell = lifetime.Teller()


def plain_task(function: Callable[..., Any], **options: Any) -> Any:
    """A Prefect task without caching, which is DVC's work."""
    return Task(function, cache_policy=NO_CACHE, persist_result=False, **options)


def load() -> Params:
    """Parameters of this checkout."""
    return load_params(LAYOUT.params)


def run_shards(stage: ModuleType, *sections: Any) -> None:
    """Plan a sharded stage, run its shards as tasks of the chosen runner, finish it and publish its result."""
    name, runner = _name(stage), chosen_runner()
    shards = plain_task(stage.plan, name=f"plan {name}")(*sections, layout=LAYOUT)
    worker = plain_task(run_shard, name=f"{name} shard", task_run_name=f"{name} shard")
    calls = [{"stage": name, "shard": shard, "sections": sections, "layout": LAYOUT} for shard in shards]
    run_all(worker, calls, runner=runner, done=_Progress(name, len(shards)).advance)
    publish(name, plain_task(stage.finish, name=f"finish {name}")(*sections, layout=LAYOUT))


def run_stage(stage: ModuleType, *arguments: Any, **keywords: Any) -> None:
    """Run a stage without shards as one task, and publish its result."""
    publish(_name(stage), _run(stage, *arguments, **keywords))


def _name(stage: ModuleType) -> str:
    return stage.__name__.rpartition(".")[2]


def _run(stage: ModuleType, *arguments: Any, **keywords: Any) -> StageResult:
    report: StageResult = plain_task(stage.run, name=_name(stage))(*arguments, layout=LAYOUT, **keywords)
    return report


def run_tracked(stage: ModuleType, results: str, section: Any, *arguments: Any) -> None:
    """Run a stage as `run_stage` does, inside an MLflow run; a training also shows its progress as an artifact.

    The run has the name of the results folder, such as `train_vqvae/base`, and the stage's section of params.yaml under
    the same dotted names. Of the processes of a torchrun the first one does so; the others only compute.
    """
    if process_rank() > 0:
        stage.run(*arguments, layout=LAYOUT, log=ignore_metrics)
        return
    with tracked(results, section) as run:
        steps = section.fit.steps if hasattr(section, "fit") else 0
        digest = read_json(LAYOUT.results("validate_data") / "passed.json")["digest"]
        run.dataset("data/audio data/mels", digest, context="training" if steps else "evaluation")
        log = _Log(run, results, steps)
        if not steps:
            log.link()
        report = _run(stage, *arguments, log=log)
        log.end()
        keep(run, results, report)
        run.write_run_json(LAYOUT.results(results) / "run.json")


def run_validation(stage: ModuleType, section: Any, *arguments: Any) -> None:
    """Run a validation inside an MLflow run, which keeps its page, also where data failed."""
    name = _name(stage)
    with tracked(name, section) as run:
        log = _Log(run, name, 0)
        log.link()
        try:
            report = _run(stage, section, *arguments, log=log)
        except InvalidData as error:
            rows = [{"what": str(failure)} for failure in error.failures]
            keep(run, name, StageResult(str(error), tables={"failures": rows}, files={"data docs": error.page}))
            raise
        keep(run, name, report)


def tracked(results: str, section: Any) -> AbstractContextManager[Run]:
    """An MLflow run with the name of a results folder, a section of params.yaml, and the place of this flow run."""
    place = {"prefect_flow_run": str(runtime.flow_run.id), "prefect_url": str(url_for("flow-run", runtime.flow_run.id))}
    return open_run(results, {results.replace("/", "."): as_mapping(section)}, root=ROOT, tags=place)


def keep(run: Run, results: str, report: StageResult) -> None:
    """Keep a result, its files and its pictures in an MLflow run, and publish it."""
    run.describe(report.summary)
    run.log_params(report.facts)
    shown = pictures(LAYOUT.results(results))
    for path in [*report.files.values(), *shown]:
        run.artifact(path)
    publish(results, report, run=run, shown=shown)


class _Log:
    """Sends a stage's values to its MLflow run and, of a training, the progress to Prefect.

    Args:
        stage: name of the results folder.
        steps: of the training; 0: none.
    """

    def __init__(self, run: Run, stage: str, steps: int) -> None:
        self._run, self._stage, self._steps = run, stage, steps
        self._progress = _Progress(stage, steps) if steps else None

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(step, values)
        if self._progress:
            self._progress.show(step, values)

    def resume(self, checkpoints: Path) -> None:
        self._run.resume(checkpoints)
        self.link()

    def link(self) -> None:
        """Show where the MLflow run is, as soon as that is known."""
        link = run_page(self._run)
        _tell(lambda: create_link_artifact(link=link, link_text="MLflow run", key=_key(f"{self._stage}-mlflow")))

    def end(self) -> None:
        if self._progress:
            self._progress.show(self._steps, done=True)


class _Progress:
    def __init__(self, stage: str, steps: int) -> None:
        self._stage, self._steps, self._step = stage, steps, 0
        self._shown = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._values: dict[str, float] = {}
        key = f"{_key(stage)}-progress"
        self._id: Any = _tell(lambda: create_progress_artifact(0.0, key=key, description=stage))

    def advance(self) -> None:
        """Count a finished step."""
        self._step += 1
        self.show(self._step, done=self._step == self._steps)

    def show(self, step: int, values: Mapping[str, float] | None = None, *, done: bool = False) -> None:
        """Show a step with the training's last values, and the time that is left at the pace since the first one."""
        now = time.monotonic()
        self._first = self._first or (step, now)
        if "train/loss" in (values or {}):
            self._values = dict(values or {})
        if self._id is None or not (done or now - self._shown >= PROGRESS_SECONDS):
            return
        self._shown = now
        progress = min(100.0, 100.0 * step / self._steps)
        about = self._about(step, now)
        _tell(lambda: update_progress_artifact(artifact_id=self._id, progress=progress, description=about))

    def _about(self, step: int, now: float) -> str:
        """Step, loss, pace and time that is left, as far as they are known."""
        parts = [f"{self._stage}: {step} of {self._steps}"]
        if "train/loss" in self._values:
            parts.append(f"loss {self._values['train/loss']:.4f}")
            parts.append(f"{self._values['examples_per_second']:.1f} examples a second")
        first, then = self._first or (step, now)
        if first < step < self._steps:
            parts.append(f"{format_time((now - then) / (step - first) * (self._steps - step))} left")
        return ", ".join(parts)


def _mlflow() -> str:
    """Address of MLflow's page, which is the one of `make ui` where none answers now."""
    pages = without_password(running_url(MLFLOW, ROOT) or f"http://{HOST}:{MLFLOW.wanted_port}")
    return pages.replace("***@", "")  # the browser asks for them


def mlflow_page(path: str) -> str:
    """A page of MLflow, in its mode for training; the other one is for language models."""
    return f"{_mlflow()}/#/{path}?workflowType=machine_learning"


def run_page(run: Run, file: Path | None = None) -> str:
    """Page of a run, or of a file among its artifacts."""
    artifact = f"/artifacts/{quote(file.name)}" if file else ""
    return mlflow_page(f"experiments/{run.experiment}/runs/{run.run_id}{artifact}")


def publish(stage: str, report: StageResult, *, run: Run | None = None, shown: Sequence[Path] = ()) -> None:
    """Show a stage's result as Prefect artifacts: a sentence with its numbers, its tables, files and pictures.

    Files and pictures are links to the stage's MLflow run: browsers open no local files from a page.
    """
    get_run_logger().info(report.summary)
    numbers = "\n".join(f"| {name} | {value:.5g} |" for name, value in report.metrics.items())
    table = f"\n\n| metric | value |\n|---|---|\n{numbers}" if numbers else ""
    markdown, key, about = report.summary + table, _key(stage), f"Summary of {stage}"
    _tell(partial(create_markdown_artifact, markdown=markdown, key=key, description=about))
    for name, rows in report.tables.items():
        key, about = _key(f"{stage}-{name}"), f"{stage}: {name}"
        _tell(partial(create_table_artifact, table=rows, key=key, description=about))
    if run is None:
        return
    for name, path in report.files.items():
        link, key = run_page(run, path), _key(f"{stage}-{name}")
        _tell(partial(create_link_artifact, link=link, link_text=name, key=key))
    for path in shown:
        url = f"{_mlflow()}/get-artifact?path={quote(path.name)}&run_uuid={run.run_id}"
        key, about = _key(f"{stage}-picture-{path.stem}"), f"{stage}: {path.stem}"
        _tell(partial(create_image_artifact, image_url=url, key=key, description=about))


def entry(flow: Flow[Any, Any], *arguments: Any, sharded: bool = False, shared: bool = False) -> None:
    """Run a flow as a command, tagged with its process; errors, also the system's, become one sentence and exit code 2.

    The wrong runner of a flow with shards is an error before a server is started. A `shared` flow may be run by several
    processes of `torchrun`: the first one runs the flow, the others its function, so that there is one flow run and one
    MLflow run.
    """
    lifetime.end_with_parents()
    end = lifetime.ends_without_teardown() if flow.fn.__module__ == "__main__" else lambda **_: None
    outcome = _noting_its_end(flow)
    try:
        if process_count() > 1 and not shared:
            raise TimbreflowError(f"{flow.name} runs in one process; start it with `python -m` instead of torchrun.")
        if process_rank() > 0:
            with _joined():
                flow.fn(*arguments)
            return
        if sharded:
            chosen_runner()
        only = lifetime.alone("-".join([flow.name, *arguments]))
        with lifetime.terminable(), only, lifetime.server(), tags(process_tag()), lifetime.patient():
            # DVC sets this variable for what it starts, and has by now brought back what the stage reads.
            if (stage := os.environ.get("DVC_STAGE")) and (damage := remove_damaged(ROOT, stage)):
                raise TimbreflowError(damage)
            lifetime.remove_part_files(flow.name, *arguments[:1])
            lifetime.mark_dead_runs()
            with _joined() if shared else nullcontext(), lifetime.cancellable():
                _start(flow, *arguments)
        end()
    except KeyboardInterrupt as interrupt:
        print("error: interrupted; run it again to go on: finished work is kept.", file=sys.stderr)
        sys.exit(143 if isinstance(interrupt, lifetime.Terminated) else 130)
    except httpx.HTTPError as error:
        gone = f"The Prefect server at {PREFECT_API_URL.value()} stopped answering ({lifetime.reason(error)})"
        gone = without_password(gone)
        if outcome == [None]:
            print(f"{gone}: the work is done, but Prefect shows this run without its end.", file=sys.stderr)
            # Prefect's threads would try for two minutes more.
            end(now=True)
            return
        # Prefect could not be told of the flow's own error, but the person at the shell can.
        own = [sentence for failure in outcome if (sentence := _sentence(failure))]
        print(f"error: {own[0] if own else f'{gone}; start it and run again: finished work is kept.'}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if (sentence := _sentence(error)) is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)


def _start(flow: Flow[Any, Any], *arguments: Any) -> None:
    """Run a flow, below the task of flows.pipeline that started this process where there is one."""
    parent = os.environ.get(PARENT_TASK)
    if parent is None or not _is_stored(UUID(parent)):
        flow(*arguments)
        return
    parameters = get_call_parameters(flow.fn, arguments, {})
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(flow, parameters=parameters, tags=[process_tag()], parent_task_run_id=UUID(parent))
    run_flow(flow, flow_run=run, parameters=parameters)


def _is_stored(task_run: UUID) -> bool:
    """Whether Prefect knows a task run; waits a little for it."""
    deadline = time.monotonic() + SECONDS_FOR_PARENT
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            with suppress(ObjectNotFound):
                client.read_task_run(task_run)
                return True
            time.sleep(0.2)
    return False


def _noting_its_end(flow: Flow[Any, Any]) -> list[BaseException | None]:
    """A list that gets what the function of a flow raised, or None as soon as only Prefect's own work is left.

    Its tasks get no tags of the flow: Prefect would ask the server, at the start of each, for every tag's limit.
    """
    outcome: list[BaseException | None] = []
    function = flow.fn

    @wraps(function)
    def noting(*arguments: Any, **named: Any) -> None:
        try:
            with TagsContext(current_tags=set()), lifetime.terminable():
                function(*arguments, **named)
        except BaseException as error:
            outcome.append(error)
            raise
        outcome.append(None)

    flow.fn = noting
    return outcome


def _sentence(error: BaseException | None) -> str | None:
    """What a person is told of an error that is no fault of the code; None for others."""
    if isinstance(error, TimbreflowError):
        return str(error)
    if (lacking := out_of_memory(error)) is not None:
        return (
            f"The memory is not enough ({lacking}); end other programs, or set TIMBREFLOW_WORKERS or the stage's "
            "batch_size lower, and run again: finished work is kept."
        )
    return _refused(error) if isinstance(error, OSError | SafetensorError) else None


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
    """Log what becomes one sentence without the traceback that Prefect adds to every exception."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, KeyboardInterrupt | httpx.HTTPError) or _sentence(error):
        record.exc_info = None
    return True


# Messages of stages, such as the step of a training and the time that is left, are shown in the shell too.
logging.getLogger("timbreflow").setLevel(logging.INFO)

for _logger in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_logger).addFilter(_one_sentence)


def _key(text: str) -> str:
    """Prefect takes lower-case letters, digits and dashes in artifact keys."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
