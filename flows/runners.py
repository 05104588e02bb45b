"""Where the shards of a stage run: threads, processes, Dask or Ray, and what happens when workers or schedulers die.

A shard depends on its arguments alone and is moved into place when it is complete, so a lost one is run again, by any
worker, and never left incomplete.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from prefect import Task
from prefect.futures import as_completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from timbreflow.errors import TimbreflowError
from timbreflow.workers import worker_count

VARIABLE = "TIMBREFLOW_RUNNER"
DASK_ADDRESS = "TIMBREFLOW_DASK_ADDRESS"
RAY_ADDRESS = "TIMBREFLOW_RAY_ADDRESS"

MOST_FRUITLESS = 3
"""After so many rounds in a row that lost workers and finished no shard, the shards themselves must be the cause."""

_RAY_STORE = 128 << 20
"""Bytes of Ray's object store, by default a third of the memory; shards return nothing."""

logger = logging.getLogger("timbreflow.runners")


@dataclass(frozen=True)
class Runner:
    """A way to run shards.

    Args:
        name: as TIMBREFLOW_RUNNER has it.
        address: of the scheduler, from `variable`; empty where this process starts its own workers.
        make: makes a task runner, not yet started.
        lost: errors of a future that mean that its worker or the scheduler died, not that the shard failed.
    """

    name: str
    address: str
    variable: str
    make: Callable[[], TaskRunner[Any]]
    lost: tuple[type[BaseException], ...]

    @contextmanager
    def started(self) -> Iterator[TaskRunner[Any]]:
        """A task runner that takes tasks.

        Raises:
            TimbreflowError: the scheduler does not answer or cannot import the code, or the workers do not start.
        """
        with ExitStack() as stack:
            try:
                pool = stack.enter_context(self.make())
                # Dask connects at the first access to its client, and its scheduler must import what tasks use.
                if (client := getattr(pool, "client", None)) and self.address:
                    client.run_on_scheduler(import_module, __name__)
            except ModuleNotFoundError as error:
                raise TimbreflowError(
                    f"The {self.name} scheduler at {self.variable}={self.address} cannot import this checkout; start "
                    "it and its workers with PYTHONPATH set to the checkout's folder."
                ) from error
            # Ray raises a plain Exception where its processes start slowly.
            except Exception as error:
                raise TimbreflowError(self._no_start(error)) from error
            yield pool

    def _no_start(self, error: Exception) -> str:
        if self.address:
            return (
                f"No {self.name} scheduler answers at {self.variable}={self.address}; start it, or correct or unset "
                "the variable, and run again: finished shards are kept."
            )
        return (
            f"The workers of the runner {self.name} did not start ({str(error).rstrip('.')}); run again, or set "
            f"{VARIABLE} to another runner: finished shards are kept."
        )


def chosen_runner() -> Runner:
    """The runner that TIMBREFLOW_RUNNER names, sized by TIMBREFLOW_WORKERS or at the address of a scheduler.

    Raises:
        TimbreflowError: the name is unknown, or its extra is not installed.
    """
    name = os.environ.get(VARIABLE, "processes")
    workers = worker_count()
    try:
        match name:
            case "threads":
                return Runner(name, "", "", lambda: ThreadPoolTaskRunner(max_workers=workers), ())
            case "processes":
                from concurrent.futures import BrokenExecutor

                return Runner(name, "", "", lambda: ProcessPoolTaskRunner(max_workers=workers), (BrokenExecutor,))
            case "dask":
                return _dask(workers)
            case "ray":
                return _ray(workers)
            case _:
                raise TimbreflowError(f"{VARIABLE}={name} is not a runner; set it to threads, processes, dask or ray.")
    except ImportError as error:
        raise TimbreflowError(
            f"{VARIABLE}={name} needs an extra; "
            f"install it with `.venv/bin/pip install -c requirements.lock -e '.[{name}]'`."
        ) from error


def _dask(workers: int) -> Runner:
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker
    from prefect_dask.task_runners import DaskTaskRunner

    address = os.environ.get(DASK_ADDRESS, "")
    # One thread each, since effects hold Python's global lock. The dashboard would listen on all addresses.
    cluster = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    make = partial(DaskTaskRunner, **({"address": address} if address else {"cluster_kwargs": cluster}))
    return Runner("dask", address, DASK_ADDRESS, make, (KilledWorker, FutureCancelledError, CommClosedError))


def _ray(workers: int) -> Runner:
    # Before Ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from prefect_ray.task_runners import RayTaskRunner
    from ray.exceptions import RayError

    address = os.environ.get(RAY_ADDRESS, "")
    local = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _RAY_STORE}
    make = partial(RayTaskRunner, **({"address": address} if address else {"init_kwargs": local}))
    return Runner("ray", address, RAY_ADDRESS, make, (RayError, ConnectionError))


def run_all(task: Task[..., Any], calls: Iterable[dict[str, Any]], *, runner: Runner, done: Callable[[], None]) -> None:
    """Run a task once for each of its calls, given as arguments by name; calls lost with their workers are run again.

    Raises:
        TimbreflowError: a call raised it; the scheduler does not answer; or workers die again and again.
    """
    left, fruitless = list(calls), 0
    while left:
        before = len(left)
        left, reason = _one_round(task, left, runner, done)
        fruitless = fruitless + 1 if len(left) == before else 0
        if left and fruitless == MOST_FRUITLESS:
            raise TimbreflowError(
                f"Workers of the runner {runner.name} died {fruitless} times in a row ({reason}) with {len(left)} "
                "shards left; run again with fewer workers (TIMBREFLOW_WORKERS) or more memory: finished shards are "
                "kept."
            )
        if left:
            logger.warning("%d shards were lost with their workers (%s) and are run again", len(left), reason)


def _one_round(
    task: Task[..., Any], calls: list[dict[str, Any]], runner: Runner, done: Callable[[], None]
) -> tuple[list[dict[str, Any]], str]:
    """The calls that were lost, and why."""
    lost, reason = [], ""
    with runner.started() as pool:
        futures: dict[Any, dict[str, Any]] = {}
        for call in calls:
            try:
                futures[pool.submit(task, call)] = call
            except runner.lost as error:
                lost.append(call)
                reason = type(error).__name__
        for future in as_completed(list(futures)):
            try:
                future.result()
                done()
            except runner.lost as error:
                lost.append(futures[future])
                reason = type(error).__name__
    return lost, reason
