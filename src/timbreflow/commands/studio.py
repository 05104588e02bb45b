"""`timbreflow studio`: a page on which musicians make transfers."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from timbreflow.commands.common import project_root, say
from timbreflow.commands.transfer import find_model
from timbreflow.errors import TimbreflowError

app = App()


@app.command
def studio(
    *,
    port: int = 7860,
    host: str = "127.0.0.1",
    open_browser: Annotated[bool, Parameter(name="--open")] = False,
) -> None:
    """Serve the studio: transfers, takes, blends and whole songs in the browser, until Ctrl+C.

    Args:
        port: of the page.
        host: interface that it is served on; the default reaches this machine alone.
        open_browser: open the page.
    """
    from timbreflow.app.studio.serve import serve

    if not 0 < port < 65536:
        raise TimbreflowError(f"--port {port} is not a port; give a number from 1 to 65535.")
    try:
        examples = project_root() / "docs" / "sounds"
    except TimbreflowError:
        examples = Path("docs") / "sounds"
    serve(find_model, host=host, port=port, examples=examples, report=say, inbrowser=open_browser)
