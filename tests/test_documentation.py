"""What the documentation points at is there: files, headings, make targets, and commands with their options.

Each block of the runbook is typed by a test; what none can type is parsed here.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import runners
from tests.runbook import NOT_TYPED, PAGE
from timbreflow.cli import app
from timbreflow.commands.serving import app as serving

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


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_can_read_every_block(name: str) -> None:
    for block in re.findall(r"```sh\n(.*?)```", text_of(name), re.DOTALL):
        read = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        # A placeholder such as FOLDER is a word; a heredoc that does not end is only a warning.
        assert (read.returncode, read.stderr) == (0, ""), block


def test_every_block_of_the_runbook_is_typed_by_a_test() -> None:
    """A test asks for a section's blocks by its heading, and unpacks as many as there are."""
    sections = re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    with_commands = {heading for heading, text in sections if "```sh" in text}
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    asked = set(re.findall(r"""blocks\(\s*["'](.+?)["'],? *[,)\n]""", tests))
    # No line of the first can be typed; the others need a whole pipeline with its registry, and are parsed only.
    parsed = {"Where shards run", "Experiments", "Where a version comes from", "From an alert to new training data"}
    assert with_commands - asked <= parsed
    assert asked <= {heading for heading, _ in sections}


def not_typed() -> dict[str, list[str]]:
    """Lines that no test types, by the words that name them."""
    lines = list(typed("docs/operations.md"))
    return {words: [line for line in lines if words in line] for words in NOT_TYPED}


def test_what_no_test_types_is_on_the_page_with_a_reason() -> None:
    assert all(not_typed().values())
    assert all(NOT_TYPED.values())


def test_runners_of_a_cluster_are_named_as_the_code_names_them() -> None:
    for runner, address in (("dask", runners.DASK_ADDRESS), ("ray", runners.RAY_ADDRESS)):
        (line,) = not_typed()[f"TIMBREFLOW_RUNNER={runner}"]
        assert re.fullmatch(rf"{runners.VARIABLE}={runner} {address}=\S*HOST:\d+ \.venv/bin/dvc repro", line)


def test_the_docker_worker_s_options_are_prefect_s() -> None:
    (line,) = not_typed()["pip install prefect-docker"]
    install, _, worker = line.partition(" && ")
    assert install == ".venv/bin/pip install prefect-docker"
    program, *arguments = shlex.split(worker)
    assert program == ".venv/bin/prefect"
    asked = subprocess.run(
        [Path(sys.executable).with_name("prefect"), *arguments, "--help"], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    assert "--type" in asked.stdout


def test_images_are_run_as_they_are_built() -> None:
    """Their names are make's, what follows are options of `timbreflow serve`, and docker knows its own."""
    builds = {line: make_n(line) for line in not_typed()["make image"] if not re.search("=…|-check", line)}
    assert {re.search(r"--tag (\S+)", build)[1] for build in builds.values()} == {"timbreflow", "timbreflow-pipeline"}  # type: ignore[index]
    for line in not_typed()["docker run"]:
        words = shlex.split(line)
        options = words[words.index("timbreflow") + 1 :]
        serving.parse_args(["serve", *options], exit_on_error=False, print_error=False)
        if shutil.which("docker"):
            nowhere = os.environ | {"DOCKER_HOST": "tcp://127.0.0.1:9"}
            refused = subprocess.run(words, env=nowhere, capture_output=True, text=True, check=False)
            assert "connect" in refused.stderr, refused.stderr


def make_n(line: str) -> str:
    """What make would run."""
    return subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
