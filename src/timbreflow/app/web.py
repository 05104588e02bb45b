"""What our HTTP servers share: the address, the names that lead to it, and errors as one sentence of JSON."""

import socket
from collections.abc import Mapping

import uvicorn
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, ExceptionHandler

from timbreflow.errors import TimbreflowError

LOOPBACK = ("127.0.0.1", "localhost")


class Refused(TimbreflowError):
    """A request that is not served.

    Args:
        sentence: why.
        status: HTTP status.
        headers: of the answer.
    """

    def __init__(self, sentence: str, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


def refusal(_: Request, error: Exception) -> Response:
    """The answer to what was refused by us or by starlette: {"error": sentence}."""
    if isinstance(error, Refused):
        return sentence(str(error), error.status, error.headers)
    assert isinstance(error, HTTPException)
    return sentence(f"{error.detail.rstrip('.')}.", error.status_code, error.headers)


REFUSALS: dict[type[Exception], ExceptionHandler] = {Refused: refusal, HTTPException: refusal}
"""For `exception_handlers` of an application."""


def sentence(text: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """{"error": text}."""
    return JSONResponse({"error": text}, status, headers)


def own_names(*, loopback: bool) -> Middleware:
    """Refuses other names of the loopback: they would be another page in the same browser (DNS rebinding)."""
    return Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK] if loopback else ["*"])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        TimbreflowError: the address does not exist or is taken.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise TimbreflowError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}); name another --port or --host."
        ) from error


GRACE_SECONDS = 120
"""Longest wait of a server that was told to end for requests that have begun."""


def server_of(application: ASGIApp) -> uvicorn.Server:
    """Serves an application by `run(sockets=[...])`; nothing but errors is logged."""
    return uvicorn.Server(
        uvicorn.Config(application, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
    )
