"""The page: what is on it, and which function each button calls."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, cast

import gradio as gr

from timbreflow.app.studio import markup, pictures, rendering
from timbreflow.app.studio.people import People, Person, Sound
from timbreflow.app.studio.rendering import Result, StyleChoice
from timbreflow.errors import Cancelled, TimbreflowError
from timbreflow.inference.songs import read_song
from timbreflow.inference.style import MOST_STYLES
from timbreflow.inference.synthesis import (
    DEFAULT_TEMPERATURE,
    FURTHEST_TRANSPOSITION,
    STRONGEST,
    TransferArguments,
)
from timbreflow.inference.transfer import Cancel, Progress, TimbreTransfer
from timbreflow.models.devices import resolve_device

FindModel = Callable[[str], tuple[Path, str]]
"""Folder of a model by its name, and in words where it was found; asked anew for each job."""
MODELS = ("vqvae", "glow")
VERSION = re.compile(r"models:/[\w-]+(@[\w-]+|/\d+)")
TITLE = "timbreflow studio"
INTRODUCTION = """# timbreflow studio
The notes of one recording, the sound of another. Nothing leaves this machine; files are deleted at the end."""
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


def build(studio: Studio) -> gr.Blocks:
    """The page."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 86400)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Tab("Recording"):
            _recording_tab(studio)
        with gr.Tab("Whole song"):
            _song_tab(studio)
        page.unload(studio.leave)
    return page


def _sound(label: str, name: str, *, editable: bool = False) -> gr.Audio:
    return gr.Audio(
        label=label, sources=["upload", "microphone"], type="filepath", elem_id=name, buttons=[],
        editable=editable,
        waveform_options=gr.WaveformOptions(show_recording_waveform=True),
    )  # fmt: skip


def _model(*, prefix: str) -> tuple[gr.Radio, gr.Textbox]:
    model = gr.Radio(
        [("vqvae – quicker, one sound", "vqvae"), ("glow – takes, keeps more of the playing", "glow")],
        value="vqvae",
        label="Model",
        info="The registry's champion where there is one, else the released model; the result says which.",
        elem_id=f"{prefix}-model",
    )
    version = gr.Textbox(label="or a version of the registry", placeholder="models:/timbreflow-glow@champion")
    return model, version


def _recording_tab(studio: Studio) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            gr.Markdown("## Content\nIts notes are kept.")
            content = _sound("Content", "content", editable=True)
            score = gr.File(
                label="or a MIDI file, played plainly first", file_types=[".mid", ".midi"], height=150, elem_id="score"
            )
            content_said = gr.HTML()
            if studio.examples:
                example = gr.Dropdown(list(studio.examples), label="Example", value=None)
        with gr.Column(min_width=300):
            gr.Markdown("## Style\nThe result sounds like it.")
            styles, given = [], []
            for number in range(MOST_STYLES):
                first = number == 0
                title = "Style 1" if first else f"Style {number + 1}, to blend"
                with gr.Accordion(title, open=first):
                    sound = _sound(f"Style {number + 1}", f"style-{number + 1}")
                    segment = gr.HTML(js_on_load=markup.SEGMENT_JS)
                    with gr.Row():
                        start = gr.Number(0, label="Start, s", minimum=0, step=0.1, min_width=80)
                        end = gr.Number(0, label="End, s", minimum=0, step=0.1, min_width=80)
                        weight = gr.Number(1, label="Weight", minimum=0, step=0.1, min_width=80)
                    said, known = gr.HTML(), gr.HTML()
                styles.append((sound, segment, start, end, said, known))
                given += [sound, weight, start, end]
    with gr.Row():
        with gr.Column(min_width=300):
            model, version = _model(prefix="recording")
            takes = gr.Radio(
                [("one", 1), ("four, ranked", 4)], value=1, label="Takes", info="Four need the glow.", elem_id="takes"
            )
        with gr.Column(min_width=300):
            strength = gr.Slider(
                0, STRONGEST, 1, step=0.05, label="Strength", info="0 the content's timbre, 1 the style's"
            )
            transpose = gr.Slider(
                -FURTHEST_TRANSPOSITION, FURTHEST_TRANSPOSITION, 0, step=1, label="Transpose, semitones"
            )
            mix = gr.Slider(0, 1, 1, step=0.05, label="Mix", info="0 the content itself, 1 the result alone")
        with gr.Column(min_width=300), gr.Accordion("More", open=False):
            temperature = gr.Slider(
                0, 1, DEFAULT_TEMPERATURE, step=0.05, label="Temperature (glow)", info="0 keeps most notes"
            )
            mode = gr.Radio(
                [("sample", "sample"), ("convert – keeps more articulation (glow)", "convert")],
                value="sample",
                label="Mode",
            )
            seed = gr.Number(0, label="Seed", minimum=0, precision=0)
            loudness = gr.Radio(
                [("keep the content's", "keep"), ("match the style's", "match")], value="keep", label="Loudness"
            )
            stereo = gr.Radio(
                [("mono", "mono"), ("middle only, sides stay", "mid"), ("each channel", "channels")],
                value="mono",
                label="Stereo",
            )
    options = {
        "content": content,
        "score": score,
        "model": model,
        "version": version,
        "takes": takes,
        "temperature": temperature,
        "mode": mode,
        "seed": seed,
        "strength": strength,
        "transpose": transpose,
        "mix": mix,
        "loudness": loudness,
        "stereo": stereo,
    }
    _buttons(studio, studio.render, options, given, name="render")
    for source in (content, score):
        source.change(studio.content_given, source, content_said, show_progress="hidden", api_visibility="private")
    for sound, segment, start, end, said, known in styles:
        sound.change(
            studio.style_given, sound, [segment, start, end, said], show_progress="hidden", api_visibility="private"
        ).then(studio.familiarity, [sound, model, version], known, show_progress="hidden", api_visibility="private")
        for bound in (start, end):
            bound.change(
                studio.part_typed, [sound, start, end], segment, show_progress="hidden", api_visibility="private"
            )
        segment.select(_dragged, None, [start, end], show_progress="hidden", api_visibility="private")
    if studio.examples:
        example.input(
            lambda label: tuple(map(str, studio.examples[label])) if label else (None, None),
            example,
            [content, styles[0][0]],
            show_progress="hidden",
            api_visibility="private",
        )


def _dragged(event: gr.EventData) -> tuple[float, float]:
    return round(event.start, 2), round(event.end, 2)


def _song_tab(studio: Studio) -> None:
    gr.Markdown("## Song\nA MIDI file. Tracks without a style are played by a plain SoundFont, or left out.")
    score = gr.File(label="Song (.mid)", file_types=[".mid", ".midi"], height=150, elem_id="song-file")
    said = gr.HTML()
    given, tracks = [], []
    with gr.Row():
        for number in range(MOST_STYLES):
            with gr.Column(min_width=260), gr.Accordion(f"Style {number + 1}", open=number == 0):
                track = gr.Dropdown([], label=f"Track of style {number + 1}", elem_id=f"song-track-{number + 1}")
                sound = _sound(f"Style {number + 1} of the song", f"song-style-{number + 1}")
            tracks.append(track)
            given += [track, sound]
    with gr.Row():
        with gr.Column(min_width=300):
            model, version = _model(prefix="song")
        with gr.Column(min_width=300):
            others = gr.Radio(
                [("plain", "plain"), ("left out", "leave-out")], value="plain", label="Tracks without a style"
            )
            strength = gr.Slider(0, STRONGEST, 1, step=0.05, label="Strength")
        with gr.Column(min_width=300):
            temperature = gr.Slider(0, 1, DEFAULT_TEMPERATURE, step=0.05, label="Temperature (glow)")
            seed = gr.Number(0, label="Seed", minimum=0, precision=0)
    options = {
        "score": score,
        "model": model,
        "version": version,
        "temperature": temperature,
        "seed": seed,
        "strength": strength,
        "others": others,
    }
    _buttons(studio, studio.render_song, options, given, name="song")
    score.change(studio.song_given, score, [*tracks, said], show_progress="hidden", api_visibility="private")


def _buttons(
    studio: Studio,
    render: Callable[..., Iterator[Any]],
    options: Mapping[str, Any],
    styles: Sequence[Any],
    *,
    name: str,
) -> None:
    """Render, cancel, progress, history and result."""
    with gr.Row():
        go = gr.Button("Render", variant="primary", elem_id=name)
        stop = gr.Button("Cancel", elem_id=f"{name}-cancel")
    said = gr.HTML(elem_id=f"{name}-said")
    history = gr.Dropdown([], label="History of this session", visible=False, elem_id=f"{name}-history")
    result = gr.HTML(js_on_load=markup.PLAYER_JS, elem_id=f"{name}-result")

    def run(request: gr.Request, *values: Any) -> Iterator[Any]:
        n = len(options)
        yield from render(dict(zip(options, values[:n], strict=True)), values[n:], request=request)

    go.click(
        run,
        [*options.values(), *styles],
        [said, result, history],
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    stop.click(studio.cancel, None, said, show_progress="hidden", concurrency_limit=None, api_visibility="private")
    history.input(studio.show, history, result, show_progress="hidden", api_visibility="private")


def serve_page(studio: Studio, *, host: str, port: int, files: Path, most_megabytes: int, inbrowser: bool) -> str:
    """Start to serve in the background; returns the address."""
    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue"
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
    )
    _, address, _ = (
        build(studio)
        .queue(default_concurrency_limit=8)
        .launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=inbrowser,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            allowed_paths=[str(files)],
            max_file_size=most_megabytes * 1_000_000,
            theme=theme,
            css=markup.CSS,
            js=markup.REPAIRS_JS,
            head=f"<meta name='description' content='{escape(TITLE)}'>",
        )
    )
    return address
