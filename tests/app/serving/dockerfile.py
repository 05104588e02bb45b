"""Carries out a Dockerfile without a builder, as root: each step in a chroot on an overlay of this machine.

This machine takes the place of the base image, so its system libraries are not those of the image; instructions,
files, user, environment and the read-only root are.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

PYTHON = os.path.realpath(f"{sys.base_prefix}/bin/python3")
PATH = f"{Path(PYTHON).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Words and arguments, with lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in joined if line.strip()]


def context(root: Path) -> list[Path]:
    """Files that a builder would be given."""
    patterns = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in (".venv", ".git")]
        for path in (Path(folder, name).relative_to(root) for name in names):
            kept = True
            for pattern in patterns:
                wanted = pattern.startswith("!")
                if any(_matches(part, pattern.removeprefix("!")) for part in (path, *path.parents)):
                    kept = wanted
            if kept:
                files.append(path)
    return files


def _matches(path: Path, pattern: str) -> bool:
    return fnmatch(path.name if pattern.startswith("**/") else str(path), pattern.removeprefix("**/"))


@dataclass
class Image:
    """What a Dockerfile makes.

    Attributes:
        upper: all that differs from this machine.
        environment: of its processes.
        user: number of its user.
        entrypoint: its command.
        healthcheck: asks whether it is well.
        stages: the images before it, by name.
    """

    upper: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0"
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    stages: "dict[str, Image]" = field(default_factory=dict)

    def command(self, words: list[str], *, read_only: bool) -> list[str]:
        """A command line that runs words inside; /tmp is in memory."""
        root = self.upper.with_name(f"{self.upper.name}-root")
        work = self.upper.with_name(f"{self.upper.name}-work")
        for folder in (root, work):
            folder.mkdir(exist_ok=True)
        layers = f"lowerdir=/,upperdir={self.upper},workdir={work}" + ",ro" * read_only
        inside = ["env", "-i", *(f"{name}={value}" for name, value in self.environment.items())]
        user = self.user.partition(":")[0]
        inside = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *inside] if user != "0" else inside
        script = f"""
            mount --make-rprivate /
            mount -t overlay overlay -o {layers} {root}
            mount -t proc proc {root}/proc
            mount --rbind /dev {root}/dev
            mount -t tmpfs -o mode=1777 tmpfs {root}/tmp
            exec chroot {root} sh -c 'cd {self.workdir} && exec "$@"' sh {shlex.join([*inside, *words])}
        """
        return ["unshare", "--mount", "sh", "-euc", script]


def build(root: Path, folder: Path, arguments: dict[str, str]) -> Image:
    """Make the image of root/Dockerfile.

    Args:
        root: the context.
        folder: for its layers.
        arguments: for ARG, and into the environment of each RUN.
    """
    given = context(root)
    image, stages, values = Image(folder), dict[str, Image](), dict[str, str]()
    for word, text in instructions(root / "Dockerfile"):
        match word:
            case "FROM":
                image = Image(folder / f"stage{len(stages)}", stages=stages)
                image.upper.mkdir()
                _base(image.upper)
                stages[text.partition(" AS ")[2]] = image
            case "ARG":
                name, _, default = text.partition("=")
                values[name] = arguments.get(name, default)
            case "ENV":
                for pair in shlex.split(text):
                    name, _, value = pair.partition("=")
                    for known, text_of in {**image.environment, **values}.items():
                        value = value.replace(f"${known}", text_of)
                    image.environment[name] = value
            case "WORKDIR":
                image.workdir = text
                (image.upper / text[1:]).mkdir(parents=True, exist_ok=True)
            case "COPY":
                _copy(shlex.split(text), root, given, image, stages)
            case "RUN":
                outer = {**image.environment, **arguments}
                step = Image(image.upper, outer, workdir=image.workdir)
                done = subprocess.run(
                    step.command(["sh", "-c", text], read_only=False), capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"RUN {text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            case "USER":
                image.user = text
            case "HEALTHCHECK":
                image.healthcheck = json.loads(text.partition("CMD")[2])
            case "ENTRYPOINT":
                image.entrypoint = json.loads(text)
            case "EXPOSE":
                pass
            case _:
                raise AssertionError(f"{word} is not known here")
    return image


def _base(upper: Path) -> None:
    """Lets every user reach this machine's Python, which may lie in the home of root."""
    for folder in reversed(Path(PYTHON).parents):
        (upper / str(folder)[1:]).mkdir(exist_ok=True)


def _copy(words: list[str], root: Path, given: list[Path], image: Image, stages: dict[str, Image]) -> None:
    *sources, target = words
    if sources[0].startswith("--from="):
        stage = stages[sources[0].removeprefix("--from=")]
        shutil.copytree(stage.upper / sources[1][1:], image.upper / target[1:], symlinks=True)
        return
    for source in sources:
        found = [path for path in given if path.is_relative_to(source)]
        assert found, f"COPY {source}: .dockerignore leaves nothing of it"
        for path in found:
            inside = path.relative_to(source) if (root / source).is_dir() else path.name
            place = image.upper / image.workdir[1:] / target / inside
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, place)
