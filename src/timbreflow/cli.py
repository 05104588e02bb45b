"""The `timbreflow` command. Heavy imports are inside the commands, so that help is quick."""

import io
import os
import signal
import sys
import threading

from cyclopts import App, CycloptsError

from timbreflow.commands import (
    house,
    listening,
    models,
    monitoring,
    serving,
    songs,
    sources,
    studio,
    testsets,
    transfer,
)
from timbreflow.commands.common import PIPELINE
from timbreflow.errors import TimbreflowError
from timbreflow.system_errors import out_of_memory

app = App(
    name="timbreflow",
    # `main` tells SIGTERM from Ctrl-C.
    suppress_keyboard_interrupt=False,
    help="One-shot music timbre transfer: the notes of one recording, the sound of another.",
    help_epilogue="""For example

    timbreflow transfer melody.wav cello.wav -o melody-on-cello.wav
    timbreflow transfer melody.mp3 organ.flac -o out.flac --model glow --temperature 0.5
    timbreflow corpus list""",
    help_format="plaintext",
)
for group in (transfer, songs, studio, serving, sources, testsets, listening, models, monitoring, house):
    app.command(group.app, name="*")


def main() -> None:
    """Entry point: errors that the user can correct become one sentence and exit code 2."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that are no text of the terminal's encoding; they are escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        app(exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sys.exit(_fail(f"{error}; see `timbreflow --help`."))
    except TimbreflowError as error:
        sys.exit(_fail(str(error)))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("timbreflow"):
            raise
        command = " ".join(["timbreflow", *sys.argv[1:2]])
        extra = {"listen": "studio", "serve": "serve"}.get("".join(sys.argv[1:2]), "pipeline")
        remedy = PIPELINE.replace("pipeline", extra)
        sys.exit(_fail(f"`{command}` needs the {extra} packages ({error.name} is not installed): {remedy}."))
    except KeyboardInterrupt as interrupt:
        sys.exit(143 if isinstance(interrupt, _Terminated) else 130)
    except (MemoryError, RuntimeError) as error:
        if (lacking := out_of_memory(error)) is None:
            raise
        sys.exit(_fail(f"The memory is not enough ({lacking}); end other programs, or give shorter sounds."))
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            sys.exit(_fail(_os_error_sentence(error)))
        # The reader, such as `head`, has closed the pipe; Python's flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: what is half written goes away, as by Ctrl-C."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _os_error_sentence(error: OSError) -> str:
    """One sentence for an error of the system, with the file where there is one."""
    place = error.filename or "A file"
    if error.filename2:
        place = f"{place} -> {error.filename2}"
    return f"{place} cannot be used ({error.strerror or error}); check its folder, its permissions and the free space."


def _fail(sentence: str) -> int:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
