"""What commands share: where the checkout is, and what they say."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from timbreflow.errors import TimbreflowError

if TYPE_CHECKING:
    from timbreflow.config import Params
    from timbreflow.stages.layout import Layout

PIPELINE = "type `make setup` in the checkout (or pip install '.[pipeline]' there)"
"""How to install what `transfer` does not need."""


def project_root() -> Path:
    """The checkout: the nearest folder upwards that holds dvc.yaml, else the one this package was installed from."""
    installed = Path(__file__).resolve().parents[3]
    for folder in (Path.cwd(), *Path.cwd().parents, installed):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise TimbreflowError(f"{Path.cwd()} is not in a timbreflow checkout; change to the folder that holds params.yaml.")


def project() -> "tuple[Params, Layout]":
    """Parameters and paths of the checkout."""
    from timbreflow.config import load_params
    from timbreflow.stages.layout import Layout

    layout = Layout(project_root())
    return load_params(layout.params), layout


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under their heads, on standard output."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def progress_bar() -> Iterator[Callable[[float], None]]:
    """A bar on standard error where that is a terminal; yields a function that takes the fraction that is done."""
    from tqdm import tqdm

    layout = "{percentage:3.0f}% |{bar}| {elapsed} so far, {remaining} left"
    with tqdm(total=1.0, file=sys.stderr, leave=False, bar_format=layout, disable=not sys.stderr.isatty()) as bar:

        def show(fraction: float) -> None:
            bar.update(fraction - bar.n)

        yield show


def say(sentence: str) -> None:
    """Print a message, which is not the result itself, to standard error."""
    print(sentence, file=sys.stderr)
