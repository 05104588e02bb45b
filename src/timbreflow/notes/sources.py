"""From the name of a source to the bytes of its files: folders, single files, archives, game data, known corpora.

Archives are read as a stream and never unpacked, so links, absolute paths and `..` in them do no harm.
"""

import os
import tarfile
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from isal import isal_zlib

from timbreflow.errors import TimbreflowError
from timbreflow.files import stable_hash
from timbreflow.notes.catalogue import CATALOGUE
from timbreflow.notes.corpora import corpus_path
from timbreflow.notes.pieces import Reject
from timbreflow.notes.scores import SCORE_SUFFIXES, music21_scores, music21_tunes
from timbreflow.notes.tars import open_tar
from timbreflow.notes.wad import midi_lumps

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi", ".smf")
NOTE_SUFFIXES = MIDI_SUFFIXES + SCORE_SUFFIXES
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_HEADER_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_MOST_HEADER_BYTES = 1_000_000

ContainerKind = Literal["file", "zip", "tar", "wad", "other"]
# What the readers of archives raise on damaged ones; zlib.error and lzma's derive from Exception alone.
_ARCHIVE_ERRORS: tuple[type[Exception], ...] = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    cast("type[Exception]", isal_zlib.error),
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


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


@dataclass(frozen=True)
class Item:
    """One music file.

    Attributes:
        path: inside the source, such as `folder/archive.zip/song.mid`.
        data: its bytes, at most `max_bytes + 1` of them.
        size: its true size in bytes.
        reject: why it is not read, if so.
    """

    path: str
    data: bytes
    size: int
    reject: Reject | None = None


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
        raise TimbreflowError(f"source {source} does not exist; name a folder, a file or one of {_known_names()}.")
    if path.is_dir():
        found = sorted(_in_folder(path), key=lambda container: container.label)
    else:
        found = [Container(path.name, str(path), _kind(path.name))]
    if all(container.kind == "other" for container in found):
        raise TimbreflowError(
            f"source {source} holds no music file; looked for {' '.join(NOTE_SUFFIXES)} .zip {' '.join(_TAR_SUFFIXES)} "
            "and .wad."
        )
    return found


def _known_names() -> str:
    return ", ".join(name for name, corpus in CATALOGUE.items() if corpus.kind == "midi")


def _in_folder(folder: Path) -> Iterator[Container]:
    for file, why in files_below(folder):
        label = file.relative_to(folder).as_posix()
        yield Container(label, str(file), "other", why) if why else Container(label, str(file), _kind(file.name))


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


def passed_over(path: str, why: str = "") -> Item:
    """A file that is not read because it is no music, or no file."""
    return Item(path, b"", 0, Reject("passed_over", f"{why or 'files of its kind are not read'}."))


@dataclass(frozen=True)
class Share:
    """Which of the music files of a container are read; decided by number and name alone, so nobody lists it first.

    Attributes:
        part: of archives, the files are read whose number leaves remainder `part` by `parts`.
        parts: number of shares, at least 1.
        fraction: of all files, those whose stable hash of the path lies in this share of all hashes, 0 to 1.
    """

    part: int = 0
    parts: int = 1
    fraction: float = 1.0

    def holds(self, index: int, path: str) -> bool:
        """Whether file number `index`, with this path inside the source, is read."""
        if index % self.parts != self.part:
            return False
        return self.fraction >= 1 or stable_hash("sample", clean_text(path)) < self.fraction * 2**64


def clean_text(text: str) -> str:
    """Text without the half characters by which Python stands for undecodable file names; Parquet takes no others."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")


def read_items(container: Container, *, max_bytes: int, share: Share) -> Iterator[Item]:
    """The music files of a container, in its own order.

    What cannot be read comes as an item with an error; after damage in the middle of an archive, one such item stands
    for the rest.

    Args:
        container: from `containers`.
        max_bytes: larger files are cut after `max_bytes + 1` bytes (their true size is kept).
        share: which of its files.
    """
    n_read = 0
    try:
        for item in _shared_items(container, max_bytes, share):
            n_read += 1
            yield item
    except _ARCHIVE_ERRORS as error:
        yield _unreadable(container, n_read, error)
    except Exception as error:
        if type(error).__name__ != "LZMAError":  # importing lzma fails where Python was built without it
            raise
        yield _unreadable(container, n_read, error)


def _unreadable(container: Container, n_read: int, error: Exception) -> Item:
    where = "" if container.kind == "file" else f" after {n_read} files of this share"
    detail = f"it cannot be read{where} ({str(error) or type(error).__name__})."
    return Item(container.label, b"", 0, Reject("broken", detail))


def _shared_items(container: Container, max_bytes: int, share: Share) -> Iterator[Item]:
    if container.kind == "zip":
        yield from _zip_items(container, max_bytes, share)
    elif container.kind == "tar":
        yield from _tar_items(container, max_bytes, share)
    elif container.kind == "wad":
        for index, (name, data, size) in enumerate(midi_lumps(Path(container.path), max_bytes)):
            if share.holds(index, f"{container.label}/{name}"):
                yield Item(f"{container.label}/{name}", data, size)
    elif container.kind == "other":
        yield passed_over(container.label, container.why)
    elif share.holds(0, container.label):
        with open(container.path, "rb") as file:
            data = file.read(max_bytes + 1)
        yield Item(container.label, data, max(len(data), os.path.getsize(container.path)))


def _zip_items(container: Container, max_bytes: int, share: Share) -> Iterator[Item]:
    with zipfile.ZipFile(container.path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if share.part == 0:
            others = (member.filename for member in members if not is_music(member.filename))
            yield from (passed_over(f"{container.label}/{name}") for name in others)
        for index, member in enumerate(member for member in members if is_music(member.filename)):
            label = f"{container.label}/{member.filename}"
            if not share.holds(index, label):
                continue
            try:
                with archive.open(member) as file:
                    data = file.read(max_bytes + 1)
            except _ARCHIVE_ERRORS as error:
                # Encrypted, of an unknown compression or damaged: the other members can still be read.
                reject = Reject("broken", f"it cannot be read from the archive ({error}).")
                yield Item(label, b"", member.file_size, reject)
                continue
            yield Item(label, data, max(len(data), member.file_size if len(data) > max_bytes else 0))


class _Member(tarfile.TarInfo):
    """A header that does not claim a long name or attributes of gigabytes, which tarfile would read into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        """Read a header.

        Raises:
            ReadError: it claims too much.
        """
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADER_TYPES and member.size > _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of it claims {member.size} bytes")
        return member


def _tar_items(container: Container, max_bytes: int, share: Share) -> Iterator[Item]:
    index = -1
    with open_tar(container.path, tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or it would grow to 180 MB for Lakh
            label = f"{container.label}/{member.name}"
            if not member.isreg() or not is_music(member.name):
                if not member.isdir():
                    yield passed_over(label, "" if member.isreg() else "links and devices in an archive are not read")
                continue
            index += 1
            file = archive.extractfile(member) if share.holds(index, label) else None
            if file is not None:
                yield Item(label, file.read(max_bytes + 1), member.size)


def count_members(container: Container) -> int:
    """Number of music files in a .zip, from its directory; 1 for anything else, or where the directory is damaged."""
    if container.kind != "zip":
        return 1
    try:
        with zipfile.ZipFile(container.path) as archive:
            return max(sum(is_music(name) for name in archive.namelist()), 1)
    except _ARCHIVE_ERRORS:
        return 1
