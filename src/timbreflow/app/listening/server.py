"""The page of a listening test: starlette serves it, `Answers` stores what listeners say."""

import json
import secrets
import socket
import sqlite3
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from timbreflow.app.listening.answers import Answers, Refused, Step
from timbreflow.app.listening.study import HEADPHONES, LABELS, QUESTIONS, TRAINING, read_study
from timbreflow.errors import TimbreflowError

LOOPBACK = ("127.0.0.1", "localhost")
LONGEST_BODY = 10_000
"""Bytes; an answer has some hundred."""
MONTH = 30 * 24 * 3600
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; media-src 'self' blob:; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


class ListeningTest:
    """The web application of one study.

    Args:
        folder: of the study.
        open_to_all: whether anybody who reaches it may take part; else only those with the token's link.

    Raises:
        TimbreflowError: the study or its database cannot be used, or a clip is missing.
    """

    def __init__(self, folder: Path, *, open_to_all: bool) -> None:
        self._folder, self.study = folder, read_study(folder)
        self.answers = Answers(folder, self.study)
        self._open = open_to_all
        # Cookies hold for all ports of a host, and two studies may be served from one.
        self._cookie, self._key = (f"{name}-{self.answers.token[:6]}" for name in ("listener", "key"))
        self._page = (resources.files("timbreflow.app.listening") / "page.html").read_text("utf-8")

    def application(self) -> Starlette:
        """The ASGI application."""
        # Another name that leads here would be another page in the same browser (DNS rebinding).
        hosts = [*LOOPBACK] if self._open else ["*"]
        return Starlette(
            routes=[
                Route("/", self._index),
                Route("/api/study", self._guarded(self._describe)),
                Route("/api/sessions", self._guarded(self._begin), methods=["POST"]),
                Route("/api/sessions/{name}", self._guarded(self._session)),
                Route("/api/sessions/{name}/answers", self._guarded(self._answer), methods=["POST"]),
                Route("/api/sessions/{name}/sound/{position}/{slot}", self._guarded(self._sound)),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
            exception_handlers={
                Refused: lambda _, error: _sentence(str(error), error.status),
                HTTPException: lambda _, error: _sentence(f"{error.detail}.", error.status_code),
                sqlite3.Error: lambda _, error: _sentence(f"The answer could not be saved ({error}); try again.", 503),
            },
        )

    async def _index(self, request: Request) -> Response:
        given = request.query_params.get("token")
        if given is not None and self._fits(given):
            # The token leaves the address bar, so that nobody passes it on by chance.
            response: Response = RedirectResponse("/", 303, HEADERS)
            response.set_cookie(self._key, given, max_age=MONTH, httponly=True, samesite="lax")
            return response
        if not self._admitted(request):
            return HTMLResponse("<p>Open the whole link that you were sent; this address alone is not enough.</p>", 403)
        return HTMLResponse(self._page, headers=HEADERS)

    def _describe(self, request: Request) -> dict[str, Any]:
        session = self.answers.session_of(request.cookies.get(self._cookie, ""))
        return {"title": self.study.title, "consent": self.study.consent.split("\n\n"), "session": session}

    def _begin(self, request: Request) -> Response:
        name, secret = self.answers.begin()
        response = JSONResponse({"name": name}, 201)
        response.set_cookie(self._cookie, secret, max_age=MONTH, httponly=True, samesite="strict")
        return response

    def _session(self, request: Request) -> dict[str, Any]:
        return {"name": request.path_params["name"], "steps": [_shown(step) for step in self._steps(request)]}

    async def _answer(self, request: Request) -> dict[str, Any]:
        length = request.headers.get("content-length", "")
        if not (length.isdecimal() and len(length) < 10 and int(length) <= LONGEST_BODY):
            raise Refused("This is too long for an answer; nothing was saved.", 413)
        try:
            given = json.loads(await request.body())
            position, answer, seconds = given["position"], given["answer"], float(given.get("seconds", 0))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Refused("This is no answer that can be read; nothing was saved.", 422) from error
        name, secret = request.path_params["name"], self._secret(request)
        left = await run_in_threadpool(self.answers.save, name, secret, position, answer, seconds)
        step = (await run_in_threadpool(self.answers.steps, name, secret))[position]
        shown = {"right": step.slots.index(step.trial.right)} if step.role == TRAINING else {}
        return {"left": left, **shown}

    def _sound(self, request: Request) -> Response:
        position, slot = request.path_params["position"], request.path_params["slot"]
        steps = self._steps(request)
        if not (position.isdecimal() and len(position) < 10 and int(position) < len(steps)):
            raise Refused("There is no such step in this session.", 404)
        step = steps[int(position)]
        files = {str(index): step.trial.clips[name] for index, name in enumerate(step.slots)}
        files |= {"reference": step.reference()} if step.reference() else {}
        if slot not in files:
            raise Refused("There is no such sound in this step.", 404)
        path = self._folder / files[slot]
        if not path.is_file():
            raise Refused(
                "A sound of this step is missing, please tell who invited you; your answers so far are saved.", 404
            )
        return FileResponse(path, media_type="audio/wav", headers={"Cache-Control": "private, max-age=3600"})

    def _steps(self, request: Request) -> list[Step]:
        return self.answers.steps(request.path_params["name"], self._secret(request))

    def _secret(self, request: Request) -> str:
        return request.cookies.get(self._cookie, "")

    def _fits(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self.answers.token.encode())

    def _admitted(self, request: Request) -> bool:
        return self._open or self._fits(request.cookies.get(self._key, ""))

    def _guarded(self, endpoint: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            if not self._admitted(request):
                raise Refused("Open the whole link that you were sent; this address alone is not enough.", 403)
            result = endpoint(request) if endpoint == self._answer else run_in_threadpool(endpoint, request)
            value = await result
            return value if isinstance(value, Response) else JSONResponse(value, headers={"Cache-Control": "no-store"})

        return respond


def serve(folder: Path, *, host: str, port: int, say: Callable[[str], None] = print) -> None:
    """Serve a study until Ctrl-C.

    Args:
        folder: of the study.
        host: address to listen on; only the loopback is open without a token.
        port: 0 takes a free one.
        say: gets the link for listeners.

    Raises:
        TimbreflowError: the study cannot be used, or the address is taken.
    """
    test = ListeningTest(folder, open_to_all=host in LOOPBACK)
    try:
        bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        test.answers.close()
        raise TimbreflowError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}); name another --port or --host."
        ) from error
    with bound:
        place = f"{_reachable(host)}:{bound.getsockname()[1]}"
        link = f"http://{place}/" if host in LOOPBACK else f"http://{place}/?token={test.answers.token}"
        say(f"Listeners open {link} (Ctrl-C ends it; answers are in {test.answers.path})")
        config = uvicorn.Config(test.application(), log_level="warning", access_log=False)
        try:
            uvicorn.Server(config).run(sockets=[bound])
        except KeyboardInterrupt:
            pass
        finally:
            test.answers.close()


def _reachable(host: str) -> str:
    """An address that others can type."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Sends nothing: the system only chooses the interface.
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _shown(step: Step) -> dict[str, Any]:
    """What the page may know of a step: neither systems nor which trials check the listener."""
    return {
        "position": step.position,
        "kind": HEADPHONES if step.role == HEADPHONES else step.trial.kind,
        "training": step.role == TRAINING,
        "question": QUESTIONS.get(step.trial.question, "Which tone is softest?"),
        "reference": LABELS[step.trial.question] if step.reference() else "",
        "slots": len(step.slots),
        "answered": step.answer is not None,
    }


def _sentence(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)
