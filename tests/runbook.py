"""The commands of docs/operations.md, as tests type them."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
NOT_TYPED = ("pip install", "git pull", "make setup", "git clone")
"""What would change the environment, or ask another machine; the lines are left out."""


def blocks(heading: str, values: Mapping[str, str] | None = None) -> list[str]:
    """Blocks of commands below a heading, with values in place of the page's examples.

    Tests unpack the list, so that a block that is added without a test is an error.
    """
    section = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    found = []
    for block in re.findall(r"```sh\n(.*?)```", section[1], re.DOTALL):
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
