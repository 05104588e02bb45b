"""What the documentation points at is there: files, headings, make targets, and commands with their options."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from timbreflow.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Headings of a page as their links are written."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def typed(name: str) -> Iterator[str]:
    """Command lines of a page's blocks, and those in its prose."""
    text = text_of(name)
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from (re.split(r"\s+# ", line)[0] for line in block.replace("\\\n", " ").splitlines())
    yield from re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    broken = []
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text_of(name)):
        file, _, anchor = target.partition("#")
        place = (page.parent / file) if file else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_is_one(name: str) -> None:
    lines = [line for line in typed(name) if re.match(r"(\w+=\S+ )*make [a-z]", line)]
    wanted = {word for line in lines for word in re.findall(r"(?<=make )[a-z-]+", line)}
    assert wanted <= TARGETS


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_of_timbreflow_is_one(name: str) -> None:
    unknown = []
    for line in typed(name):
        found = re.match(r"(?:\.venv/bin/)?timbreflow ([a-z]+)\b(.*)", line)
        if found is None:
            continue
        if found[1] not in app:
            unknown.append(line)
            continue
        command, sub = app[found[1]], found[2].split()[:1]
        if sub and sub[0] in command:
            command = command[sub[0]]
        if command.default_command is None:
            unknown += [line] if sub else []
            continue
        words = [word.partition("=")[0] for word in re.split(r"\s+", found[2]) if re.match(r"--[a-z]", word)]
        options = {option for argument in command.assemble_argument_collection() for option in argument.names}
        unknown += [f"{found[1]} {word}" for word in words if word.rstrip(",.;") not in options | {"--help"}]
    assert unknown == []


def test_the_makefile_lists_every_target_that_is_for_people() -> None:
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0] for line in shown.splitlines()}
    assert TARGETS - listed <= {"anew"}
    assert "ops-demo" in listed
