"""The HTTP server: POST /transfer and /batch, GET /healthz, /readyz and /metrics.

A request takes a place, is received into a private folder, waits for a worker, and leaves with its folder when its
answer was fetched. Whatever is wrong is one sentence of JSON: {"error": ...}.
"""

import asyncio
import logging
import signal
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from timbreflow.app.private import private_folder
from timbreflow.app.serving.forms import MEDIA_TYPES, Job, read_job
from timbreflow.app.serving.limits import FETCH_SECONDS, UPLOAD_SECONDS, Limits
from timbreflow.app.serving.metrics import Counted, Metrics
from timbreflow.app.serving.workers import Workers
from timbreflow.app.web import LOOPBACK, REFUSALS, Refused, listen, own_names, sentence, server_of
from timbreflow.audio.files import read_audio
from timbreflow.errors import Cancelled, TimbreflowError
from timbreflow.inference.running import Cancel
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.devices import resolve_device
from timbreflow.processes import few_arenas
from timbreflow.system_errors import out_of_memory

if TYPE_CHECKING:
    from timbreflow.monitoring.recorder import Recorder

MISTAKE = "This server made a mistake, which is in its log; the request is not done."
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Made:
    """What a job gave.

    Attributes:
        outputs: a sound file for each pair.
        notes: that a listener should be told.
        seconds: that the model worked.
    """

    outputs: Sequence[Path]
    notes: str
    seconds: float


class TransferServer:
    """The web application.

    Args:
        load: makes a session; called once for each worker, in a thread.
        model: name of what is served.
        folder: private, for what requests bring and get.
        limits: of requests.
        loopback: whether only this machine reaches it.
        recorder: is told each transfer.
        failed: called where no session could be made; the reason is in `failure`.
    """

    def __init__(
        self,
        load: Callable[[], TimbreTransfer],
        *,
        model: str,
        folder: Path,
        limits: Limits,
        loopback: bool = True,
        recorder: "Recorder | None" = None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.workers = Workers(limits)
        self.metrics = Metrics(model, running=lambda: self.workers.running, taken=lambda: self.workers.taken)
        self.failure: Exception | None = None
        self._load, self._failed, self._model, self._folder = load, failed, model, folder
        self._limits, self._loopback, self._recorder = limits, loopback, recorder

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/transfer", _Endpoint(partial(self._serve, batch=False)), methods=["POST"]),
            Route("/batch", _Endpoint(partial(self._serve, batch=True)), methods=["POST"]),
            Route("/healthz", self._alive),
            Route("/readyz", self._ready),
            Route("/metrics", self._figures),
        ]
        return Starlette(
            routes=routes,
            middleware=[
                Middleware(Counted, metrics=self.metrics, paths=frozenset(route.path for route in routes)),
                own_names(loopback=self._loopback),
            ],
            exception_handlers={**REFUSALS, OSError: _no_room, MemoryError: _no_room, Exception: _mistake},
            lifespan=self._life,
        )

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._begin())
        yield
        await loading
        self.workers.close()

    async def _begin(self) -> None:
        try:
            await self.workers.load(self._load)
        except Exception as error:
            self.failure = error
            self._failed()

    async def _alive(self, _: Request) -> Response:
        return JSONResponse({"alive": True})

    async def _ready(self, _: Request) -> Response:
        self.workers.require_ready()
        return JSONResponse({"ready": True, "model": self._model})

    async def _figures(self, _: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _serve(self, scope: Scope, receive: Receive, send: Send, *, batch: bool) -> None:
        request = Request(scope, receive)
        # Whoever left gets no answer.
        with (
            suppress(Cancelled, ClientDisconnect),
            self.workers.place() as release,
            TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as name,
        ):

            async def send_and_release(message: Message) -> None:
                # Who has the whole answer may send the next request.
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    release()
                await send(message)

            folder = Path(name)
            job = await self._received(request, folder, batch=batch)
            made = await self._made(request, job, folder)
            answer = await run_in_threadpool(_archive if batch else _sound, job, made, folder)
            with suppress(TimeoutError):
                async with asyncio.timeout(FETCH_SECONDS):
                    await answer(scope, receive, send_and_release)
            if self._recorder is not None:
                await self.workers.finish(partial(self._record, self._recorder, job, made))

    async def _received(self, request: Request, folder: Path, *, batch: bool) -> Job:
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                return await read_job(request, folder, self._limits, batch=batch)
        except TimeoutError as error:
            raise Refused(f"The request did not arrive within {UPLOAD_SECONDS:g} s; send less.", 408) from error

    async def _made(self, request: Request, job: Job, folder: Path) -> _Made:
        def make(session: TimbreTransfer, cancel: Cancel) -> _Made:
            outputs: list[Path] = []
            notes: list[str] = []
            began = time.monotonic()
            for number, (content, styles) in enumerate(job.pairs, 1):
                out = folder / f"{number}.{job.format}"
                outputs.append(out)
                notes += session.transfer_file(content, styles, out, cancel=cancel, **job.options).notes
            return _Made(outputs, job.said(" ".join(notes), folder), time.monotonic() - began)

        try:
            made = await self.workers.run(request, make)
        except (Cancelled, OSError):
            raise
        except TimbreflowError as error:
            raise Refused(job.said(str(error), folder), 422) from error
        except Exception as error:  # starlette's own handler would end the connection
            if out_of_memory(error):
                raise MemoryError(str(error)) from error
            log.exception("A transfer failed")
            raise Refused(MISTAKE, 500) from error
        self.metrics.transfer_seconds.observe(made.seconds)
        self.metrics.audio_seconds.inc(job.seconds)
        return made

    def _record(self, recorder: "Recorder", job: Job, made: _Made, session: TimbreTransfer) -> None:
        """Tell the recorder; that never fails what it tells of."""
        rate = session.sample_rate
        blend = job.options["blend"] or [1.0]
        for (content, styles), output in zip(job.pairs, made.outputs, strict=True):
            used = (content, styles[int(np.argmax(blend))], output)
            try:
                mono = [read_audio(path, sample_rate=rate)[0].mean(axis=0) for path in used]
                recorder.record(
                    mono[0],
                    mono[1],
                    mono[2],
                    rate,
                    model=self._model,
                    familiarity=partial(session.familiarity, sample_rate=rate) if session.known_styles else None,
                    seconds=made.seconds / len(job.pairs),
                )
            except Exception:
                log.exception("A transfer was not recorded")


@dataclass(frozen=True)
class _Endpoint:
    """An endpoint that answers by itself: starlette takes a plain function for one that returns a response."""

    serve: Callable[[Scope, Receive, Send], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.serve(scope, receive, send)


def _sound(job: Job, made: _Made, _: Path) -> Response:
    return FileResponse(
        made.outputs[0],
        headers={"Timbreflow-Notes": made.notes.encode("ascii", "backslashreplace").decode()} if made.notes else None,
        media_type=MEDIA_TYPES[job.format],
        filename=f"transfer.{job.format}",
    )


def _archive(_: Job, made: _Made, folder: Path) -> Response:
    """All sounds as 1.wav, 2.wav ... in a zip, which is not compressed."""
    path = folder / "transfers.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for output in made.outputs:
            archive.write(output, output.name)
    return FileResponse(path, media_type="application/zip", filename=path.name)


def _no_room(_: Request, error: Exception) -> Response:
    log.warning("A request could not be kept: %s", error)
    return sentence("This server has no room for the request; try again later, or send less.", 507)


def _mistake(_: Request, error: Exception) -> Response:
    """The server's log gets the traceback from uvicorn."""
    return sentence(MISTAKE, 500)


def serve(
    folder: Path,
    *,
    model: str,
    host: str,
    port: int,
    limits: Limits,
    report: Callable[[str], None],
    recorder: "Recorder | None" = None,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; requests that have a place are finished first.

    Args:
        folder: of the model.
        model: its name.
        host: address of an interface.
        port: 0 takes a free one.
        limits: of requests.
        report: told the address.
        recorder: is told each transfer.

    Raises:
        TimbreflowError: the address cannot be listened on, or the model cannot be loaded.
    """

    def load() -> TimbreTransfer:
        session = TimbreTransfer.load(folder, device=resolve_device())
        # What the first transfer compiles and allocates is not left to the first request.
        tone = np.sin(np.arange(session.sample_rate) / 10).astype(np.float32)
        session.transfer(tone, tone)
        return session

    def stop(*_: int | FrameType | None) -> None:
        server.should_exit = True

    few_arenas()
    with listen(host, port) as bound, private_folder("timbreflow-serve-") as files:
        transfers = TransferServer(
            load,
            model=model,
            folder=files,
            limits=limits,
            loopback=host in LOOPBACK,
            recorder=recorder,
            failed=stop,
        )
        server = server_of(transfers.application())
        # uvicorn raises the signal again when it has ended, which by default would be the end without cleaning up.
        signal.signal(signal.SIGTERM, stop)
        place = f"[{host}]" if ":" in host else host
        report(f"serving {model} at http://{place}:{bound.getsockname()[1]} (Ctrl-C ends it)")
        if host not in LOOPBACK:
            report(f"note: whoever reaches {host} can use this server, without a password.")
        with suppress(KeyboardInterrupt):
            server.run(sockets=[bound])
    if transfers.failure is not None:
        raise transfers.failure
