"""What Prometheus is told."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GONE = 499
"""Status of a request whose client left before the answer, as in nginx."""
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The figures of one server.

    Args:
        model: name of what is served.
        running: how many transfers run.
        taken: how many requests have a place.
    """

    def __init__(self, model: str, *, running: Callable[[], int], taken: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("timbreflow_model", "What is served", registry=registry).info({"model": model})
        self.requests = Counter(
            "timbreflow_requests", "Answers; 499: the client had left", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "timbreflow_request_seconds", "From request to answer", ["path"], buckets=SECONDS, registry=registry
        )
        self.transfer_seconds = Histogram(
            "timbreflow_transfer_seconds", "Work of the model on a request", buckets=SECONDS, registry=registry
        )
        self.audio_seconds = Counter("timbreflow_audio_seconds", "Sound that was transferred", registry=registry)
        for name, text, count in (
            ("timbreflow_transfers_running", "Transfers that run now", running),
            ("timbreflow_requests_in_server", "Requests that have a place now, running or waiting", taken),
        ):
            Gauge(name, text, registry=registry).set_function(count)

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self.registry)


class Counted:
    """Counts and times the answers of an application.

    Args:
        app: the application.
        metrics: get the figures.
        paths: that are told apart; others are one.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, began = GONE, time.monotonic()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.request_seconds.labels(path).observe(time.monotonic() - began)
        return None
