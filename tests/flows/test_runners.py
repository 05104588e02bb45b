"""Shards that are lost with their workers are run again, and what cannot be mended is said in one sentence."""

import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any
from uuid import uuid4

import pytest
from prefect.futures import PrefectConcurrentFuture
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from flows.runners import MOST_FRUITLESS, Runner, chosen_runner, run_all
from timbreflow.errors import TimbreflowError

Outcome = Callable[[int, int], Exception | None]
"""What the call of a number does in a round."""


class Pool:
    """Stands for Prefect's pools; each instance is a round."""

    def __init__(self, outcome: Outcome, number: int) -> None:
        self.outcome, self.number, self.open = outcome, number, False

    def __enter__(self) -> "Pool":
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def submit(self, task: Any, call: dict[str, int]) -> Any:
        assert self.open
        future: Future[Any] = Future()
        if error := self.outcome(call["number"], self.number):
            future.set_exception(error)
        else:
            future.set_result(None)
        return PrefectConcurrentFuture(uuid4(), future)


def run(outcome: Outcome, n_calls: int = 5) -> tuple[int, list[Pool]]:
    """Calls that ended and the rounds they took."""
    pools: list[Pool] = []
    ended: list[None] = []

    def make() -> Any:
        pools.append(Pool(outcome, len(pools)))
        return pools[-1]

    runner = Runner("processes", "", "", make, (BrokenExecutor,))
    task: Any = None
    run_all(task, [{"number": k} for k in range(n_calls)], runner=runner, done=lambda: ended.append(None))
    assert not any(pool.open for pool in pools)
    return len(ended), pools


def test_what_was_lost_is_run_again_and_nothing_else() -> None:
    tried: list[tuple[int, int]] = []

    def outcome(number: int, round_: int) -> Exception | None:
        tried.append((round_, number))
        return BrokenExecutor("killed") if number in (1, 3) and round_ == 0 else None

    ended, pools = run(outcome)
    assert (ended, len(pools)) == (5, 2)
    assert {number for round_, number in tried if round_ == 1} == {1, 3}
    assert len(tried) == 7


def test_a_shard_that_kills_its_worker_ends_the_stage_with_one_sentence() -> None:
    with pytest.raises(TimbreflowError, match=r"died 3 times in a row \(BrokenExecutor\) with 1 shards left.*are kept"):
        run(lambda number, round_: BrokenExecutor("killed") if number == 2 else None)


def test_workers_may_die_often_as_long_as_shards_are_finished() -> None:
    ended, pools = run(lambda number, round_: BrokenExecutor("killed") if number > round_ else None, n_calls=8)
    assert ended == 8
    assert len(pools) > MOST_FRUITLESS


def test_an_error_of_a_shard_is_not_tried_again() -> None:
    tried: list[int] = []

    def outcome(number: int, round_: int) -> Exception | None:
        tried.append(number)
        return TimbreflowError("notes are missing; collect them.") if number == 1 else None

    with pytest.raises(TimbreflowError, match="notes are missing"):
        run(outcome)
    assert len(tried) == 5


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    def make() -> Any:
        raise OSError("timed out")

    runner = Runner("dask", "tcp://10.0.0.1:8786", "TIMBREFLOW_DASK_ADDRESS", make, ())
    with (
        pytest.raises(TimbreflowError, match=r"TIMBREFLOW_DASK_ADDRESS=tcp://10\.0\.0\.1:8786.*are kept"),
        runner.started(),
    ):
        pass


def test_a_scheduler_that_does_not_know_the_checkout_is_told_what_it_needs() -> None:
    class Client:
        def run_on_scheduler(self, *_: object) -> None:
            raise ModuleNotFoundError("No module named 'flows'")

    class DaskPool(Pool):
        client = Client()

    def make() -> Any:
        return DaskPool(lambda number, round_: None, 0)

    runner = Runner("dask", "tcp://10.0.0.1:8786", "TIMBREFLOW_DASK_ADDRESS", make, ())
    with pytest.raises(TimbreflowError, match="cannot import this checkout.*PYTHONPATH"), runner.started():
        pass


def test_local_workers_that_do_not_start_are_one_sentence() -> None:
    def make() -> Any:
        raise Exception("The node timed out.")

    runner = Runner("ray", "", "", make, ())
    with pytest.raises(TimbreflowError, match=r"did not start \(The node timed out\); run again"), runner.started():
        pass


@pytest.mark.parametrize(("name", "kind"), [("threads", ThreadPoolTaskRunner), ("processes", ProcessPoolTaskRunner)])
def test_the_environment_chooses_the_runner(name: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBREFLOW_RUNNER", name)
    monkeypatch.setenv("TIMBREFLOW_WORKERS", "3")
    chosen: Any = chosen_runner().make()
    assert isinstance(chosen, kind)
    assert chosen._max_workers == 3


@pytest.mark.parametrize(("name", "address"), [("dask", "tcp://127.0.0.1:8786"), ("ray", "ray://127.0.0.1:10001")])
def test_an_address_is_all_that_a_cluster_needs(name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(f"prefect_{name}", reason=f"{name} is an extra: pip install -e '.[{name}]'")
    monkeypatch.setenv("TIMBREFLOW_RUNNER", name)
    monkeypatch.setenv(f"TIMBREFLOW_{name.upper()}_ADDRESS", address)
    chosen: Any = chosen_runner().make()
    assert chosen.address == address


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("TIMBREFLOW_RUNNER", "nonsense", "threads, processes, dask or ray"),
        ("TIMBREFLOW_WORKERS", "many", "TIMBREFLOW_WORKERS"),
        ("TIMBREFLOW_WORKERS", "0", "TIMBREFLOW_WORKERS"),
    ],
)
def test_a_wrong_environment_is_named(variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(TimbreflowError, match=words):
        chosen_runner()


def test_a_runner_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBREFLOW_RUNNER", "ray")
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    monkeypatch.setitem(sys.modules, "prefect_ray.task_runners", None)
    with pytest.raises(TimbreflowError, match=r"\.\[ray\]"):
        chosen_runner()
