"""Start the studio and clean up behind it."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from timbreflow.app.private import private_folder
from timbreflow.app.studio.people import MOST_MEGABYTES, People
from timbreflow.errors import TimbreflowError

OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_SHARE": "False"}
"""Read by Gradio when it is imported: nothing is sent, nothing is fetched."""
INSTALL = "type `make studio` in the checkout (or pip install '.[studio]' there)"


def serve(
    find_model: Callable[[str], tuple[Path, str]],
    *,
    host: str,
    port: int,
    examples: Path,
    report: Callable[[str], None],
    inbrowser: bool,
) -> None:
    """Serve the page until the process is interrupted; then its folder is deleted.

    Args:
        find_model: folder of a model by its name, and in words where it was found.
        host: address of an interface.
        port: of the page.
        examples: folder with the sounds that ship.
        report: told where the page is.
        inbrowser: open it.

    Raises:
        TimbreflowError: Gradio is not installed, or the port is taken.
    """
    with private_folder("timbreflow-studio-") as files:
        os.environ.update(OFFLINE, GRADIO_TEMP_DIR=str(files / "uploads"))
        try:
            from timbreflow.app.studio.handlers import Studio
            from timbreflow.app.studio.page import serve_page
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("timbreflow"):
                raise
            raise TimbreflowError(f"The studio needs {error.name}, which is not installed: {INSTALL}.") from error
        signal.signal(signal.SIGTERM, _interrupt)
        studio = Studio(People(files), find_model, examples)
        try:
            address = serve_page(
                studio, host=host, port=port, files=files, most_megabytes=MOST_MEGABYTES, inbrowser=inbrowser
            )
        except OSError as error:
            raise TimbreflowError(
                f"Port {port} of {host} cannot be used; stop the program that uses it, or choose another by --port."
            ) from error
        report(f"studio: {address} (end it with Ctrl+C)")
        if host not in ("127.0.0.1", "localhost", "::1"):
            report(f"note: whoever reaches {host} can use the studio, without a password.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            report("the studio has ended; its files are deleted.")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
