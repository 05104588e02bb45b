"""Threads with a model each, and the places of requests that run or wait for one."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

import torch
from starlette.requests import Request

from timbreflow.app.serving.limits import Limits
from timbreflow.app.web import Refused
from timbreflow.errors import Cancelled
from timbreflow.inference.running import Cancel
from timbreflow.inference.transfer import TimbreTransfer

T = TypeVar("T")
LOADING_SECONDS = 5
"""After which to ask again while the model is being loaded."""
MEMORY = 0.8
"""Weight of what was known in the running mean of seconds a job."""


class Workers:
    """Runs jobs, at most `concurrency` at a time, in the order of their coming.

    Every thread has its own session: one keeps the last styles, and it is not made for several threads.

    Args:
        limits: of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="transfer")
        self._free: SimpleQueue[TimbreTransfer] = SimpleQueue()
        self._mean_seconds = 1.0
        self.ready = False
        self.taken = 0

    @property
    def running(self) -> int:
        """Jobs that run."""
        return self._limits.concurrency - self._free.qsize() if self.ready else 0

    async def load(self, load: Callable[[], TimbreTransfer]) -> None:
        """Make the sessions.

        Args:
            load: makes one.
        """
        # Threads that compute at the same time share the cores.
        torch.set_num_threads(max(1, torch.get_num_threads() // self._limits.concurrency))
        loop = asyncio.get_running_loop()
        for _ in range(self._limits.concurrency):
            self._free.put(await loop.run_in_executor(self._pool, load))
        self.ready = True

    def require_ready(self) -> None:
        """Raises `Refused` while the model is being loaded."""
        if not self.ready:
            raise _later("The model is still being loaded", LOADING_SECONDS)

    @contextmanager
    def place(self) -> Iterator[Callable[[], None]]:
        """A place for a request; yields what gives it back before the block ends.

        Raises:
            Refused: the model is not loaded yet, or every place is taken.
        """
        self.require_ready()
        if self.taken >= self._limits.places:
            turns = self.taken / self._limits.concurrency
            raise _later(f"All {self._limits.places} places are taken", round(turns * self._mean_seconds))
        self.taken += 1
        held = True

        def release() -> None:
            nonlocal held
            self.taken -= held
            held = False

        try:
            yield release
        finally:
            release()

    async def run(self, request: Request, job: Callable[[TimbreTransfer, Cancel], T]) -> T:
        """Do a job in a thread, unless its client leaves.

        Args:
            request: whose body was read.
            job: gets a session, and what it is to ask whether to stop.

        Raises:
            Cancelled: the client left, and the job has ended.
        """
        stop = Event()

        def timed(session: TimbreTransfer) -> T:
            began = time.monotonic()
            try:
                return job(session, stop.is_set)
            finally:
                self._mean_seconds += (1 - MEMORY) * (time.monotonic() - began - self._mean_seconds)

        task = self._submit(timed)
        result = asyncio.wrap_future(task)
        gone = asyncio.ensure_future(_left(request))
        first: set[asyncio.Future[Any]] = {result, gone}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                stop.set()
                task.cancel()
                await asyncio.wait({result})
            if result.cancelled():
                raise Cancelled("The client left before its turn.")
            return await result
        finally:
            stop.set()
            gone.cancel()

    async def finish(self, job: Callable[[TimbreTransfer], None]) -> None:
        """Do in a thread what is left to do when the answer was sent."""
        await asyncio.wrap_future(self._submit(job))

    def _submit(self, job: Callable[[TimbreTransfer], T]) -> Future[T]:
        def work() -> T:
            session = self._free.get_nowait()
            try:
                return job(session)
            finally:
                self._free.put(session)

        return self._pool.submit(work)

    def close(self) -> None:
        """Wait for the threads to end."""
        self._pool.shutdown()


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _later(why: str, seconds: int) -> Refused:
    wait = max(1, seconds)
    return Refused(f"{why}; try again in {wait} s.", 503, {"Retry-After": str(wait)})
