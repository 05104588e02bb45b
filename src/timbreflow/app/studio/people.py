"""Who is at the page: a private folder for each, what they gave, and the one model lock that they share.

Names of uploads are shown and never used as paths: a file is kept as content-3.wav or style-4.flac.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from secrets import token_hex
from threading import Lock, Thread
from typing import Any

from timbreflow.audio.files import FORMATS, audio_info
from timbreflow.errors import Cancelled, TimbreflowError
from timbreflow.files import link_or_copy
from timbreflow.inference.running import Cancel, Progress
from timbreflow.inference.songs import SCORES, render_midi
from timbreflow.inference.streaming.recordings import open_recording
from timbreflow.inference.style import LONGEST_STYLE_SECONDS, SHORTEST_STYLE_SECONDS

MOST_MEGABYTES = 700
"""Of an upload: an hour of stereo at 44.1 kHz in 16 bits is 635 MB."""
LONGEST_CONTENT_SECONDS = 3600.0
LONGEST_STYLE_FILE_SECONDS = 600.0
POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Sound:
    """A sound that somebody gave.

    Attributes:
        path: in the private folder.
        name: of the file as it was uploaded, to be shown.
        seconds: its length.
        active: start and end, in s, of the part that is used where it is a style.
        notes: sentences for people.
        score: it was played from this .mid file.
    """

    path: Path
    name: str
    seconds: float
    active: tuple[float, float]
    notes: tuple[str, ...] = ()
    score: Path | None = None


@dataclass(frozen=True)
class Status:
    """How far a job is.

    Attributes:
        fraction: 0 to 1; None where it waits for another job.
        seconds_left: estimated; None where nobody knows.
    """

    fraction: float | None = None
    seconds_left: float | None = None


@dataclass(eq=False)
class Person:
    """One open page.

    Attributes:
        folder: private, for all that this page gives and makes.
        results: what it has made, the newest last.
        cancelled: the running job is to stop.
    """

    folder: Path
    results: list[Any] = field(default_factory=list)
    cancelled: bool = False
    busy: bool = False
    _sounds: dict[tuple[str, str], Sound] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def content(self, upload: str | Path) -> Sound:
        """An uploaded recording or .mid file as a content.

        Raises:
            TimbreflowError: it cannot be used; the sentence has the name that it was uploaded under.
        """
        return self._sound(Path(upload), "content", LONGEST_CONTENT_SECONDS, 0.0)

    def style(self, upload: str | Path) -> Sound:
        """An uploaded recording as a style; errors as in `content`."""
        return self._sound(Path(upload), "style", LONGEST_STYLE_FILE_SECONDS, SHORTEST_STYLE_SECONDS)

    @contextmanager
    def result_folder(self) -> Iterator[Path]:
        """For one result; it goes away where that fails."""
        folder = self.folder / f"result-{next(self._numbers)}"
        folder.mkdir()
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def new_file(self, stem: str, suffix: str) -> Path:
        """A name that nobody has chosen."""
        return self.folder / f"{stem}-{next(self._numbers)}{suffix}"

    def sentence(self, text: str) -> str:
        """A text with the names that its reader knows."""
        for sound in self._sounds.values():
            for path in filter(None, (sound.score, sound.path)):
                text = text.replace(str(path), sound.name)
        return text

    def _sound(self, upload: Path, role: str, longest: float, shortest: float) -> Sound:
        key = (str(upload), role)
        if key not in self._sounds:
            self._sounds[key] = self._taken(upload, role, longest, shortest)
        return self._sounds[key]

    def _taken(self, upload: Path, role: str, longest: float, shortest: float) -> Sound:
        is_score = role == "content" and upload.suffix.lower() in SCORES
        suffix = ".mid" if is_score else upload.suffix.lower()
        own = self.new_file(role, suffix if is_score or suffix in FORMATS else ".wav")
        try:
            if upload.stat().st_size > MOST_MEGABYTES * 1e6:
                raise TimbreflowError(f"{upload.name} has over {MOST_MEGABYTES} MB; cut it into parts.")
            link_or_copy(upload, own)
            path, notes = own, list[str]()
            if is_score:
                path = own.with_suffix(".wav")
                notes.append(render_midi(own, path).replace(str(own), upload.name))
            seconds = audio_info(path).seconds
            if seconds > longest:
                raise TimbreflowError(
                    f"{upload.name} lasts {seconds / 60:.0f} minutes; give a {role} of at most {longest / 60:.0f}."
                )
            recording = open_recording(path, minimum_seconds=shortest)
        except TimbreflowError as error:
            own.unlink(missing_ok=True)
            own.with_suffix(".wav").unlink(missing_ok=True)
            raise TimbreflowError(str(error).replace(str(own), upload.name)) from error
        notes += [note.replace(str(path), upload.name) for note in recording.notes]
        sound = Sound(path, upload.name, seconds, recording.active_part(LONGEST_STYLE_SECONDS), tuple(notes))
        return replace(sound, score=own) if is_score else sound


class People:
    """All open pages of a studio.

    Args:
        folder: private to the studio, deleted by its owner at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._people: dict[str, Person] = {}
        self._lock = Lock()
        self.models = Lock()
        """Held by whoever uses a model: two cores have room for one job at a time."""

    def __getitem__(self, key: str | None) -> Person:
        """The person behind a page's key, new where it was not seen."""
        with self._lock:
            if (key or "") not in self._people:
                # Addresses of files are the only key to them.
                folder = self.folder / f"person-{token_hex(16)}"
                folder.mkdir()
                self._people[key or ""] = Person(folder)
            return self._people[key or ""]

    def leave(self, key: str | None) -> None:
        """A page was closed: its job stops and its files go."""
        with self._lock:
            person = self._people.pop(key or "", None)
        if person is None:
            return
        person.cancelled = True
        while person.busy:
            time.sleep(POLL_SECONDS)
        shutil.rmtree(person.folder, ignore_errors=True)

    def run(self, person: Person, work: Callable[[Progress, Cancel], Any]) -> Iterator[Any]:
        """Do a job when the models are free; yields `Status` until the last value, which is what the job returned.

        Raises:
            TimbreflowError: the job failed, or this person has one already.
            Cancelled: the person did not want to wait.
        """
        if person.busy:
            raise TimbreflowError("This page has a job that still runs; wait for it, or cancel it.")
        person.busy, person.cancelled = True, False
        done: list[Any] = []
        failed: list[BaseException] = []
        fraction: list[float] = []
        began: list[float] = []

        def job() -> None:
            try:
                while not self.models.acquire(timeout=POLL_SECONDS):
                    if person.cancelled:
                        raise Cancelled("The job was cancelled before it began.")
                try:
                    began.append(time.monotonic())
                    done.append(work(fraction.append, lambda: person.cancelled))
                finally:
                    self.models.release()
            except BaseException as error:
                failed.append(error)
            finally:
                person.busy = False

        thread = Thread(target=job, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                yield _status(began, fraction)
                thread.join(POLL_SECONDS)
        except GeneratorExit:
            person.cancelled = True
            raise
        if failed:
            raise failed[0]
        yield done[0]


def _status(began: list[float], fraction: list[float]) -> Status:
    if not began:
        return Status()
    if not fraction or fraction[-1] <= 0:
        return Status(0.0)
    spent = time.monotonic() - began[0]
    return Status(fraction[-1], spent * (1 / fraction[-1] - 1))
