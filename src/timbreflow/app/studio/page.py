"""The page: what is on it, and how it is served."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from timbreflow.app.studio import markup
from timbreflow.app.studio.handlers import Studio
from timbreflow.inference.style import MOST_STYLES
from timbreflow.inference.synthesis import DEFAULT_TEMPERATURE, FURTHEST_TRANSPOSITION, STRONGEST

TITLE = "timbreflow studio"
INTRODUCTION = """# timbreflow studio
The notes of one recording, the sound of another. Nothing leaves this machine; files are deleted at the end."""


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
                label="or a MIDI file, first rendered with a SoundFont",
                file_types=[".mid", ".midi"],
                height=150,
                elem_id="score",
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
