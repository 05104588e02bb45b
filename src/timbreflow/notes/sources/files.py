"""From the name of a source to its files: folders, single files, archives, known corpora."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from timbreflow.errors import TimbreflowError
from timbreflow.notes.sources.catalogue import CATALOGUE
from timbreflow.notes.sources.corpora import corpus_path
from timbreflow.notes.sources.music21 import SCORE_SUFFIXES, music21_scores, music21_tunes

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi", ".smf")
NOTE_SUFFIXES = MIDI_SUFFIXES + SCORE_SUFFIXES
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

ContainerKind = Literal["file", "zip", "tar", "wad", "other"]


@dataclass(frozen=True)
class Container:
    """A file on disk that is, or holds, music.

    Attributes:
        label: its path inside the source, with forward slashes.
        path: where it is.
        kind: a single music file, the kind of archive, or what is passed over.
        why: it is passed over, as the end of a sentence.
    """

    label: str
    path: str
    kind: ContainerKind
    why: str = ""


def containers(source: str, *, root: Path, corpora: Path) -> list[Container]:
    """What a source consists of, sorted by label; nothing is opened.

    Args:
        source: `music21`, `music21/<directory>`, `music21-folk`, the name of another corpus of the catalogue, or a
            path: a folder (searched through all its subfolders, linked ones too), a music file (.mid .midi .kar .rmi
            .smf .mxl .xml .musicxml .krn, each also as .gz), an archive (.zip .tar .tar.gz .tgz .tar.bz2 .tar.xz) or a
            .wad. Other files of a folder come as `other`.
        root: what relative paths are relative to.
        corpora: folder of fetched corpora.

    Raises:
        TimbreflowError: the source does not exist, is not here yet, or holds no file of these kinds.
    """
    if source == "music21" or source.startswith("music21/"):
        return [Container(label, str(file), "file") for label, file in music21_scores(source[8:] or None)]
    if source == "music21-folk":
        return [Container(label, str(file), "file") for label, file in music21_tunes()]
    path = Path(root, os.path.expanduser(source))
    corpus = CATALOGUE.get(source)
    if corpus is not None:
        path = corpus_path(corpus, corpora)
        if corpus.kind != "midi":
            raise TimbreflowError(f"corpus {source} holds {corpus.kind}, not notes; name another source.")
        if not path.exists():
            raise TimbreflowError(f"corpus {source} is not at {path}; run `timbreflow corpus fetch {source}`.")
    elif not path.exists():
        known = ", ".join(name for name, corpus in CATALOGUE.items() if corpus.kind == "midi")
        raise TimbreflowError(f"source {source} does not exist; name a folder, a file or one of {known}.")
    if path.is_dir():
        found = [
            Container(file.relative_to(path).as_posix(), str(file), "other" if why else _kind(file.name), why)
            for file, why in files_below(path)
        ]
        found.sort(key=lambda container: container.label)
    else:
        found = [Container(path.name, str(path), _kind(path.name))]
    if all(container.kind == "other" for container in found):
        raise TimbreflowError(
            f"source {source} holds no music file; looked for {' '.join(NOTE_SUFFIXES)} .zip {' '.join(_TAR_SUFFIXES)} "
            "and .wad."
        )
    return found


def files_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """All files of a folder and its subfolders, linked ones too, each real folder once; in no order.

    What is no file that can be read comes with the reason; an empty one for all others.
    """
    seen = set()
    waiting = deque([Path(folder)])
    problems: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        problems.append((Path(error.filename), f"it cannot be read ({error.strerror})"))

    while waiting:
        links = []
        # Folders before links to them, so that a path without a link is the one that counts.
        for where, names, files in os.walk(waiting.popleft(), onerror=note):
            status = os.stat(where)
            if (status.st_dev, status.st_ino) in seen:
                names.clear()
                problems.append((Path(where), "it links to a folder that is read already"))
                continue
            seen.add((status.st_dev, status.st_ino))
            links += [Path(where, name) for name in names if os.path.islink(os.path.join(where, name))]
            for name in files:
                file = Path(where, name)
                link = "it links to nothing" if file.is_symlink() else "it is no file"
                yield file, "" if file.is_file() else link
        waiting.extend(sorted(links))
    yield from problems


def _kind(name: str) -> ContainerKind:
    lower = name.lower()
    if is_music(lower):
        return "file"
    if lower.endswith(".zip"):
        return "zip"
    if lower.endswith(_TAR_SUFFIXES):
        return "tar"
    return "wad" if lower.endswith(".wad") else "other"


def is_music(name: str) -> bool:
    """Whether a file name has the ending of a music file; "._name" is a Mac's note about the file, not the file."""
    plain = name.lower().removesuffix(".gz")
    return plain.endswith(NOTE_SUFFIXES) and not name.rpartition("/")[2].startswith("._")


def clean_text(text: str) -> str:
    """Text without the half characters by which Python stands for undecodable file names; Parquet takes no others."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")
