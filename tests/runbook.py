"""The commands of docs/operations.md, as tests type them."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
NOT_TYPED = {
    "git clone": "asks another machine; the tests clone the checkout itself",
    "git pull": "asks another machine",
    "make setup": "changes the environment that the tests run in",
    "make image": "needs a builder of images",
    "docker run": "needs a daemon, which the image is in",
    "pip install prefect-docker": "needs a daemon that starts containers",
    "dask scheduler": "a cluster: Dask and Ray are extras, which `make setup` does not install; benchmarks/runners.py",
    "dask worker": "a cluster",
    "TIMBREFLOW_RUNNER=dask": "a cluster",
    "ray start": "a cluster",
    "TIMBREFLOW_RUNNER=ray": "a cluster",
}
"""Words of lines that are left out, and why; test_documentation parses them."""


def blocks(heading: str, values: Mapping[str, str] | None = None, *, language: str = "sh") -> list[str]:
    """Blocks of commands below a heading, with values in place of the page's examples.

    Tests unpack the list, so that a block that is added without a test is an error.
    """
    section = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    found = []
    for block in re.findall(rf"```{language}\n(.*?)```", section[1], re.DOTALL):
        text = "\n".join(line for line in block.splitlines() if not any(words in line for words in NOT_TYPED))
        for example, value in (values or {}).items():
            text = text.replace(example, value)
        found.append(text)
    return found


def command(block: str) -> list[str]:
    """The block as a shell runs it, which stops at the first command that fails."""
    return ["bash", "-euo", "pipefail", "-c", block]


def type_in(block: str, root: Path, environment: Mapping[str, str]) -> str:
    """Type a block in a checkout; returns what it prints."""
    done = subprocess.run(
        command(block),
        cwd=root,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-5000:]}"
    return done.stdout
