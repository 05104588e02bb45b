"""`timbreflow serve`: transfers over HTTP."""

from pathlib import Path
from tempfile import TemporaryFile

from cyclopts import App

from timbreflow.commands.common import PIPELINE, say
from timbreflow.commands.transfer import find_model
from timbreflow.errors import TimbreflowError

app = App()


@app.command(
    help_epilogue="""For example

    timbreflow serve --model glow
    curl -F content=@melody.wav -F style=@cello.wav -F seed=1 http://127.0.0.1:8080/transfer -o out.wav"""
)
def serve(
    *,
    model: str = "vqvae",
    host: str = "127.0.0.1",
    port: int = 8080,
    concurrency: int = 1,
    queue: int = 8,
    max_bytes: int = 32_000_000,
    max_seconds: float = 120.0,
    record: Path | None = None,
) -> None:
    """Serve transfers over HTTP, until Ctrl+C or SIGTERM: POST /transfer and /batch, GET /healthz, /readyz, /metrics.

    Args:
        model: vqvae, glow, a folder of weights, or models:/NAME@ALIAS.
        host: interface to listen on; the default reaches this machine alone.
        port: 0 takes a free one.
        concurrency: transfers at a time; each takes a copy of the model and its share of the cores.
        queue: requests that may wait; the next one gets 503.
        max_bytes: of a request.
        max_seconds: of sound in a request.
        record: folder that gets a few figures of each transfer, for monitoring; no sound is kept.
    """
    if not 0 <= port < 65536:
        raise TimbreflowError(f"--port {port} is not a port; give a number from 0 to 65535.")
    from timbreflow.app.serving.limits import Limits
    from timbreflow.app.serving.server import serve as run

    limits = Limits(concurrency, queue, max_bytes, max_seconds)
    recorder = None
    if record is not None:
        try:
            from timbreflow.monitoring.recorder import Recorder
        except ModuleNotFoundError as error:
            raise TimbreflowError(f"--record needs {error.name}, which is not installed: {PIPELINE}.") from error
        try:
            record.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=record).close()
        except OSError as error:
            raise TimbreflowError(
                f"--record {record} cannot be written ({error.strerror}); name another folder."
            ) from error
        recorder = Recorder(record)
    folder, description = find_model(model)
    say(f"model: {description}")
    run(folder, model=model, host=host, port=port, limits=limits, report=say, recorder=recorder)
