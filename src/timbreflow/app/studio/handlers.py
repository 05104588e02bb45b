"""What each part of the page calls: from the page's values to what it shows."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import gradio as gr

from timbreflow.app.studio import markup, pictures, rendering
from timbreflow.app.studio.people import People, Person, Sound
from timbreflow.app.studio.rendering import Result, StyleChoice
from timbreflow.errors import Cancelled, TimbreflowError
from timbreflow.inference.running import Cancel, Progress
from timbreflow.inference.songs import read_song
from timbreflow.inference.style import MOST_STYLES
from timbreflow.inference.synthesis import TransferArguments
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.devices import resolve_device

FindModel = Callable[[str], tuple[Path, str]]
"""Folder of a model by its name, and in words where it was found; asked anew for each job."""
MODELS = ("vqvae", "glow")
VERSION = re.compile(r"models:/[\w-]+(@[\w-]+|/\d+)")
EXAMPLES = {
    "Violin tune on a xylophone": ("violin-tune.ogg", "xylophone.ogg"),
    "Clavinet tune on a crystal": ("clavinet-tune.ogg", "crystal.ogg"),
}


class Studio:
    """What stands behind the page.

    Args:
        people: open pages.
        find_model: see `FindModel`.
        examples: folder with the sounds that ship.
    """

    def __init__(self, people: People, find_model: FindModel, examples: Path) -> None:
        self.people = people
        self.find_model = find_model
        self.examples = {
            label: (examples / content, examples / style)
            for label, (content, style) in EXAMPLES.items()
            if (examples / content).is_file() and (examples / style).is_file()
        }
        self._sessions: dict[tuple[Path, int], TimbreTransfer] = {}

    def session(self, model: str, version: str) -> tuple[TimbreTransfer, str, str]:
        """The model that is asked for, its name for the command line, and in words which it is."""
        wanted = version.strip() or model
        if wanted not in MODELS and not VERSION.fullmatch(wanted):
            raise TimbreflowError(
                f"{wanted} is no version of a registered model; write one such as models:/timbreflow-glow@champion."
            )
        folder, description = self.find_model(wanted)
        # Training writes new weights to the same folder.
        key = (folder, (folder / "weights.safetensors").stat().st_mtime_ns)
        if key not in self._sessions:
            self._sessions[key] = TimbreTransfer.load(folder, device=resolve_device())
        return self._sessions[key], wanted, description

    def content_given(self, upload: str | None, request: gr.Request) -> str:
        """Says what is wrong with a content, or special about it."""
        if upload is None:
            return ""
        try:
            sound = self.people[request.session_hash].content(upload)
        except TimbreflowError as error:
            return markup.message(str(error), failed=True)
        return markup.message(" ".join([f"{sound.name}, {markup.clock(sound.seconds)}.", *sound.notes]))

    def style_given(self, upload: str | None, request: gr.Request) -> tuple[str, float, float, str]:
        """Waveform with the active part, its start and end, and a message."""
        if upload is None:
            return "", 0, 0, ""
        person = self.people[request.session_hash]
        try:
            sound = person.style(upload)
        except TimbreflowError as error:
            return "", 0, 0, markup.message(str(error), failed=True)
        start, end = (round(place, 2) for place in sound.active)
        return self._segment(person, sound, sound.active), start, end, markup.message(" ".join(sound.notes))

    def part_typed(self, upload: str | None, start: float, end: float, request: gr.Request) -> str:
        """The waveform, shaded anew."""
        person = self.people[request.session_hash]
        try:
            sound = person.style(upload) if upload else None
        except TimbreflowError:
            return ""
        return self._segment(person, sound, _part(sound, start, end) or sound.active) if sound else ""

    def familiarity(self, upload: str | None, model: str, version: str, request: gr.Request) -> str:
        """How well the Glow knows a style, before anything is rendered."""
        if upload is None or not self.people.models.acquire(timeout=1):
            return ""
        try:
            sound = self.people[request.session_hash].style(upload)
            session, _, _ = self.session("glow", version if "glow" in version else "")
            return markup.message(rendering.familiarity(session, sound))
        except TimbreflowError:
            return ""  # the style's own message says what is wrong
        finally:
            self.people.models.release()

    def render(
        self, given: Mapping[str, Any], styles: Sequence[Any], *, request: gr.Request
    ) -> Iterator[tuple[str, Any, Any]]:
        """A transfer: progress, then the result; `styles` are upload, weight, start and end of each."""
        person = self.people[request.session_hash]

        def work(progress: Progress, cancel: Cancel) -> Result:
            upload = given["score"] or given["content"]
            if upload is None:
                raise TimbreflowError("Choose a content: a recording or a .mid file whose notes are kept.")
            sound = person.content(upload)
            chosen = _choices(person, styles)
            session, name, description = self.session(given["model"], given["version"])
            return rendering.transfer(
                session,
                person,
                sound,
                chosen,
                model=name,
                description=description,
                takes=int(given["takes"]),
                options=_options(given),
                progress=progress,
                cancel=cancel,
            )

        yield from self._run(person, work)

    def render_song(
        self, given: Mapping[str, Any], styles: Sequence[Any], *, request: gr.Request
    ) -> Iterator[tuple[str, Any, Any]]:
        """A song: progress, then the result; `styles` are track and upload of each."""
        person = self.people[request.session_hash]

        def work(progress: Progress, cancel: Cancel) -> Result:
            if given["score"] is None:
                raise TimbreflowError("Choose a song: a .mid file.")
            chosen: dict[int, StyleChoice] = {}
            for track, upload in zip(styles[::2], styles[1::2], strict=True):
                if upload is not None:
                    if track is None:
                        raise TimbreflowError("Choose the track that each style plays.")
                    if int(track) in chosen:
                        raise TimbreflowError(f"Track {track} gets two styles; give each track one.")
                    chosen[int(track)] = StyleChoice(person.style(upload))
            sound = person.content(given["score"])
            assert sound.score is not None
            session, name, description = self.session(given["model"], given["version"])
            return rendering.song(
                session,
                person,
                sound.score,
                sound.name,
                chosen,
                model=name,
                description=description,
                others=given["others"],
                options=_options(given),
                progress=progress,
                cancel=cancel,
            )

        yield from self._run(person, work)

    def song_given(self, score: str | None, request: gr.Request) -> list[Any]:
        """The tracks of a song, for each chooser, and a message."""
        none = [gr.update(choices=[], value=None)] * MOST_STYLES
        if score is None:
            return [*none, ""]
        try:
            sound = self.people[request.session_hash].content(score)
            assert sound.score is not None
            tracks = read_song(sound.score).tracks
        except TimbreflowError as error:
            return [*none, markup.message(str(error), failed=True)]
        pitched = [(track.description, track.number) for track in tracks if not track.is_drum]
        first = [number for _, number in pitched[:1]]
        updates = [
            gr.update(choices=pitched, value=first[0] if number == 0 and first else None)
            for number in range(MOST_STYLES)
        ]
        return [*updates, markup.message(f"{sound.name}: {len(tracks)} tracks, {markup.clock(sound.seconds)}.")]

    def cancel(self, request: gr.Request) -> str:
        """Stop this page's job."""
        person = self.people[request.session_hash]
        person.cancelled = True
        return markup.message("Cancelling…" if person.busy else "Nothing is running.")

    def show(self, number: int | None, request: gr.Request) -> str:
        """An earlier result."""
        results = self.people[request.session_hash].results
        return "" if number is None or number >= len(results) else _shown(results[number], number)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.people.leave(request.session_hash)

    def _run(self, person: Person, work: Callable[[Progress, Cancel], Result]) -> Iterator[tuple[str, Any, Any]]:
        try:
            for now in self.people.run(person, work):
                if not isinstance(now, Result):
                    yield markup.progress(now), gr.skip(), gr.skip()
                    continue
                person.results.append(now)
                number = len(person.results) - 1
                names = [(f"{one + 1}. {result.title}", one) for one, result in enumerate(person.results)]
                yield (
                    markup.message("Done."),
                    _shown(now, number),
                    gr.update(choices=names, value=number, visible=number > 0),
                )
        except Cancelled:
            yield markup.message("Cancelled; nothing was kept."), gr.skip(), gr.skip()
        except TimbreflowError as error:
            yield markup.message(person.sentence(str(error)), failed=True), gr.skip(), gr.skip()

    @staticmethod
    def _segment(person: Person, sound: Sound, part: tuple[float, float]) -> str:
        picture = sound.path.with_suffix(".png")
        if not picture.is_file():
            pictures.waveform(sound.path, picture)
        return markup.segment(sound, picture, part)


def _shown(result: Result, number: int) -> str:
    return markup.result(result, name=f"tf-{number}")


def _part(sound: Sound, start: float | None, end: float | None) -> tuple[float, float] | None:
    """A part that was chosen by hand; None is the automatic one."""
    given = (start or 0.0, end or 0.0)
    automatic = tuple(round(place, 2) for place in sound.active)
    return None if given in ((0.0, 0.0), automatic) else given


def _options(given: Mapping[str, Any]) -> TransferArguments:
    options = {name: given[name] for name in TransferArguments.__annotations__ if given.get(name) is not None}
    return cast(TransferArguments, options)


def _choices(person: Person, styles: Sequence[Any]) -> list[StyleChoice]:
    chosen = []
    for upload, weight, start, end in zip(styles[::4], styles[1::4], styles[2::4], styles[3::4], strict=True):
        if upload is not None:
            sound = person.style(upload)
            chosen.append(StyleChoice(sound, 1.0 if weight is None else weight, _part(sound, start, end)))
    return chosen
