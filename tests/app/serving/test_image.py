"""The image: what goes into it, and that its Dockerfile makes a server."""

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import soundfile

from tests.app.serving.conftest import running
from tests.app.serving.dockerfile import build, context, instructions
from tests.inference.conftest import bundles  # noqa: F401

ROOT = Path(__file__).resolve().parents[3]
SOUNDS = ROOT / "docs" / "sounds"
STEPS = instructions(ROOT / "Dockerfile")


def make(folder: Path, path: str, *variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-f", ROOT / "Makefile", "image", *variables],
        cwd=folder,
        env={"PATH": path},
        capture_output=True,
        text=True,
    )


def test_only_what_the_image_needs_is_given_to_the_builder() -> None:
    files = {str(path) for path in context(ROOT)}
    assert {path.split("/")[0] for path in files} == {
        *["requirements.lock", "pyproject.toml", "README.md", "LICENSE", "src", "released"]
    }
    with open(ROOT / "pyproject.toml") as file:
        shipped = {line for line in file.read().split('"') if line.startswith("released/")}
    assert {"/".join(path.split("/")[:2]) for path in files if path.startswith("released")} == shipped
    assert not any("__pycache__" in path for path in files)
    assert "src/timbreflow/app/serving/server.py" in files


def test_the_image_has_pinned_bases_no_root_and_a_health_check() -> None:
    bases = [text.split()[0] for word, text in STEPS if word == "FROM"]
    assert len(bases) == 3 and all(base.startswith("python:3.12.") and "-slim-" in base for base in bases)
    words = [word for word, _ in STEPS]
    stages = [i for i, word in enumerate(words) if word == "FROM"][1:]
    for first, last in zip(stages, [*stages[1:], len(words)], strict=True):
        stage = words[first:last]
        assert stage.index("USER") > max(i for i, word in enumerate(stage) if word == "RUN")
    assert words.index("HEALTHCHECK") > stages[-1]
    assert all(text.split(":")[0] not in ("0", "root") for word, text in STEPS if word == "USER")


def test_without_a_builder_make_image_says_so(tmp_path: Path) -> None:
    for tool in ("bash", "make", "cat", "grep", "realpath"):
        (tmp_path / tool).symlink_to(shutil.which(tool))  # type: ignore[arg-type]
    done = make(tmp_path, str(tmp_path))
    assert done.returncode == 2
    assert "error: an image needs docker, podman or buildah, and none is installed" in done.stderr


@pytest.mark.parametrize(("tool", "format_"), [("docker", []), ("podman", ["--format", "docker"])])
def test_make_image_calls_the_builder_that_is_there(tmp_path: Path, tool: str, format_: list[str]) -> None:
    for name in ("bash", "make", "cat", "grep", "realpath", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name))  # type: ignore[arg-type]
    (tmp_path / tool).write_text('#!/bin/sh\necho called: "$@"\n')
    (tmp_path / tool).chmod(0o755)
    done = make(tmp_path, str(tmp_path))
    # An OCI manifest has no health check.
    assert done.stdout.split("called: ")[1].split() == ["build", *format_, "--tag", "timbreflow", "."]
    done = make(tmp_path, str(tmp_path), "TARGET=pipeline")
    words = ["build", *format_, "--target", "pipeline", "--tag", "timbreflow-pipeline", "."]
    assert done.stdout.split("called: ")[1].split() == words


DOCKER = """\
#!/bin/sh
echo "$@" >> calls
case "$1 $3" in
  "run --read-only") echo 1f2e ;;
  "inspect {{.State.Status}} {{.State.Health.Status}}") cat state ;;
  "inspect {{.State.ExitCode}}") echo 0 ;;
  "exec id") cat user ;;
  "exec touch") exit 1 ;;
  "port 8080") cat address ;;
esac
"""


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize(
    ("state", "user", "part"),
    [
        ("running healthy", "10001", ""),
        ("running healthy", "0", "error: timbreflow runs as root"),
        ("exited unhealthy", "10001", "error: timbreflow is not healthy after 0 s, but exited unhealthy"),
    ],
)
def test_make_image_check_asks_the_container(
    bundles: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    state: str,
    user: str,
    part: str,
) -> None:
    for name, text in (("docker", DOCKER), ("state", state), ("user", user)):
        (tmp_path / name).write_text(text)
    (tmp_path / "docker").chmod(0o755)
    script = (ROOT / ".ci" / "image.sh").read_text().replace('cd "$(dirname "$0")/.."', f"cd {tmp_path}")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    with running(bundles["vqvae"], tmp_path / "serving") as run:
        (tmp_path / "address").write_text(f"127.0.0.1:{run.client.base_url.port}\n")
        done = subprocess.run(
            ["bash", "-c", script, "image.sh", "timbreflow"],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
    calls = (tmp_path / "calls").read_text()
    assert "--read-only --tmpfs /tmp:size=1g --cap-drop ALL" in calls and calls.endswith("rm --force 1f2e\n")
    assert (done.returncode, part in done.stderr) == (int(bool(part)), True), done.stderr
    assert ("transfers a sound, and ends with 0" in done.stdout) is (not part)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="chroots need root")
def test_the_dockerfile_makes_a_server_that_needs_nothing_but_tmp(tmp_path: Path) -> None:
    arguments = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    # The packages come from wherever this machine gets them.
    image = build(ROOT, tmp_path, {**arguments, "TORCH_INDEX": ""})
    installed = image.upper / "opt" / "timbreflow"
    packages = {path.name.split("-")[0].lower() for path in installed.glob("lib/python*/site-packages/*.dist-info")}
    assert {"torch", "starlette", "uvicorn", "timbreflow"} <= packages
    assert not packages & {"mlflow", "prefect", "dvc", "pandas", "gradio"}
    assert not any(name.startswith("nvidia") for name in packages)
    worker = image.stages["pipeline"]
    tried = ["sh", "-c", "dvc --version && prefect --version && python -c 'import mlflow'"]
    asked = worker.command(tried, read_only=True)
    assert subprocess.run(asked, check=False).returncode == 0

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    words = [word.replace("0.0.0.0", "127.0.0.1") for word in image.entrypoint]
    server = subprocess.Popen(
        image.command([*words, "--port", port], read_only=True), stderr=subprocess.PIPE, text=True
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            end = time.monotonic() + 120
            while time.monotonic() < end and server.poll() is None:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
            assert server.poll() is None, server.communicate()[1]
            files = {
                name: (SOUNDS / f"{sound}.ogg").read_bytes()
                for name, sound in (("content", "violin-tune"), ("style", "xylophone"))
            }
            answer = client.post("/transfer", files=files)
        assert answer.status_code == 200, answer.text
        (tmp_path / "out.wav").write_bytes(answer.content)
        assert soundfile.info(tmp_path / "out.wav").duration == pytest.approx(8, abs=0.01)

        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "Uid:\t10001\t10001\t10001\t10001" in status
        check = [word.replace("8080", port) for word in image.healthcheck]
        assert subprocess.run(image.command(check, read_only=True), check=False).returncode == 0
    finally:
        server.terminate()
        _, said = server.communicate(timeout=60)
    assert server.returncode == 0, said
    as_root = replace(image, user="0")
    touched = subprocess.run(
        as_root.command(["touch", "/x"], read_only=True), capture_output=True, text=True, check=False
    )
    assert "Read-only file system" in touched.stderr
    assert subprocess.run(image.command(check, read_only=True), capture_output=True, check=False).returncode != 0
