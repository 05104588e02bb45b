"""HTML of the page's own parts; behaviour is in player.js and segment.js, looks in studio.css."""

from html import escape
from pathlib import Path
from urllib.parse import quote

from timbreflow.app.studio.people import Sound, Status
from timbreflow.app.studio.rendering import Result, Track

CSS = (Path(__file__).parent / "studio.css").read_text(encoding="utf-8")
PLAYER_JS = (Path(__file__).parent / "player.js").read_text(encoding="utf-8")
SEGMENT_JS = (Path(__file__).parent / "segment.js").read_text(encoding="utf-8")
REPAIRS_JS = (Path(__file__).parent / "repairs.js").read_text(encoding="utf-8")
"""Labels that Gradio's own parts lack."""


def address(path: Path) -> str:
    """Of a file, as the page asks for it."""
    return f"gradio_api/file={quote(str(path))}"


def message(sentence: str, *, failed: bool = False) -> str:
    """One sentence; a failure is read out at once."""
    if not sentence:
        return ""
    kind, role = ("failed", "alert") if failed else ("said", "status")
    return f'<p class="tf-{kind}" role="{role}">{escape(sentence)}</p>'


def progress(status: Status) -> str:
    """A bar with the time that is left."""
    if status.fraction is None:
        return message("Another job is at work; yours is next in line.")
    left = status.seconds_left
    text = "Starting…" if left is None else f"{status.fraction:.0%} done, about {clock(left)} left"
    return (
        f'<div class="tf-progress"><progress max="1" value="{status.fraction:.3f}" aria-label="Progress"></progress>'
        f"<span>{text}</span></div>"
    )


def clock(seconds: float) -> str:
    """Such as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def segment(sound: Sound, picture: Path, part: tuple[float, float]) -> str:
    """A waveform on which a part is shaded."""
    start, end = (place / sound.seconds * 100 for place in part)
    return (
        f'<div class="tf-segment" data-seconds="{sound.seconds:.3f}">'
        f'<img src="{address(picture)}" alt="Waveform of {escape(sound.name)}" draggable="false">'
        f'<div class="tf-part" style="left:{start:.2f}%;width:{end - start:.2f}%"></div></div>'
        f'<p class="tf-hint">{sound.seconds:.1f} s; used: {part[0]:.1f} to {part[1]:.1f} s. '
        "Drag over the waveform, or type start and end.</p>"
    )


def result(shown: Result, *, name: str) -> str:
    """Players that switch in sync, pictures, downloads and the command line."""
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{number}"{" checked" if number == shown.start else ""}>'
        f"<span>{escape(track.label)}</span></label>"
        for number, track in enumerate(shown.tracks)
    )
    tracks = "".join(_track(track, number, number == shown.start) for number, track in enumerate(shown.tracks))
    notes = "".join(f"<li>{escape(note)}</li>" for note in shown.notes)
    return f"""<section class="tf-player" aria-label="{escape(shown.title)}">
<h3>{escape(shown.title)}</h3>
<div class="tf-controls"><button type="button" class="tf-play" aria-label="Play">▶</button>
<input type="range" class="tf-seek" min="0" max="1000" value="0" aria-label="Place in the sound">
<output class="tf-time">0:00</output></div>
<fieldset class="tf-choices"><legend>Listen to</legend>{choices}</fieldset>
{tracks}
<ul class="tf-notes">{notes}</ul>
<p class="tf-label" id="{name}-command">The command line that makes the same</p>
<div class="tf-command"><code tabindex="0" aria-labelledby="{name}-command">{escape(shown.command)}</code>
<button type="button" class="tf-copy">Copy</button></div></section>"""


def _track(track: Track, number: int, chosen: bool) -> str:
    views = "".join(
        f'<div class="tf-view"><img class="tf-image-{kind.split()[0].lower()}" src="{address(path)}" '
        f'alt="{kind}: {escape(track.label)}"><i class="tf-head"></i></div>'
        for kind, path in track.pictures
    )
    downloads = "".join(
        f'<a href="{address(path)}" download="{escape(name)}">{kind}<span class="tf-hidden"> of {escape(track.label)}'
        "</span></a>"
        for kind, path, name in track.downloads
    )
    links = f'<span class="tf-downloads">Download {downloads}</span>' if downloads else ""
    return (
        f'<figure class="tf-track{" tf-chosen" if chosen else ""}" data-number="{number}">'
        f"<figcaption><b>{escape(track.label)}</b> <span>{escape(track.detail)}</span> {links}</figcaption>"
        f'{views}<audio preload="auto" src="{address(track.audio)}"></audio></figure>'
    )
