"""SoundFonts and recordings of the test sets: found, fetched where missing, checked, and played."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from timbreflow.errors import TimbreflowError
from timbreflow.files import sha256_file
from timbreflow.notes.sources.catalogue import CATALOGUE
from timbreflow.notes.sources.corpora import corpus_path, fetch
from timbreflow.notes.tables import Notes
from timbreflow.rendering.clips import RenderedClip, render_recipe
from timbreflow.rendering.sampler import INSTRUMENTS, Sampler, render_sampled
from timbreflow.rendering.soundfonts import BUNDLED, bundled_soundfont, install_soundfont
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.triples import ClipRecipe
from timbreflow.stages.layout import Layout
from timbreflow.testsets.frozen import TRAINING_FONTS, read_checksums

Say = Callable[[str], None]


def locate(name: str, layout: Layout, *, say: Say) -> Path:
    """Path of a SoundFont file or of a folder of recordings; one that is missing is fetched.

    `name` is the stem of a SoundFont, or an entry of `sampler.INSTRUMENTS`; `say` gets one line a fetch.

    Raises:
        TimbreflowError: it is missing and cannot be fetched.
    """
    if name in INSTRUMENTS:
        folder = corpus_path(CATALOGUE[name], layout.corpora)
        return folder if folder.is_dir() else _fetch(name, layout, say)
    for path in (layout.soundfonts / f"{name}.sf2", layout.soundfonts / f"{name}.sf3"):
        if path.is_file():
            return path
    if name == BUNDLED:
        return bundled_soundfont()
    fetched = _fetch(name, layout, say)
    install_soundfont(fetched, layout.soundfonts)
    return layout.soundfonts / fetched.name


def digest(path: Path) -> str:
    """sha256 of a SoundFont, or of the names and contents of a folder's .mp3 files."""
    if path.is_file():
        return sha256_file(path)
    lines = [f"{file.name} {sha256_file(file)}\n" for file in sorted(path.glob("*.mp3"))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_sources(sources: Mapping[str, str], layout: Layout, *, say: Say) -> dict[str, Path]:
    """Paths of sources, given as name -> sha256, after a check of their sha256.

    Raises:
        TimbreflowError: one is missing and cannot be fetched, or is another file.
    """
    paths = {name: locate(name, layout, say=say) for name in sources}
    for name, path in paths.items():
        found = digest(path)
        if found != sources[name]:
            raise TimbreflowError(
                f"{path} has sha256 {found}, but the test sets were made with {sources[name]}; "
                f"move it away and run `timbreflow corpus fetch {name}`."
            )
    return paths


def require_training_fonts(layout: Layout, *, say: Say) -> dict[str, Path]:
    """Find or fetch all of `TRAINING_FONTS`, and check that they are those of the set `seen`; returns their paths.

    Raises:
        TimbreflowError: some cannot be fetched (all of them are named), or one is another file.
    """
    paths, missing = {}, {}
    for name in TRAINING_FONTS:
        try:
            paths[name] = locate(name, layout, say=say)
        except TimbreflowError as error:
            missing[name] = error
    if missing:
        raise TimbreflowError(
            f"The training fonts {', '.join(missing)} are missing and could not be fetched "
            f"({next(iter(missing.values()))}); run `timbreflow corpus fetch {' '.join(missing)}`."
        )
    released = read_checksums(layout.released_testsets)["seen"].sources
    check_sources({name: released[name] for name in TRAINING_FONTS if name in released}, layout, say=say)
    return paths


class Players:
    """Renders clips of test sets: timbres of SoundFonts by FluidSynth, recorded instruments by the sampler.

    Args:
        paths: of SoundFonts and folders of recordings, by name.
        sample_rate: in Hz.
    """

    def __init__(self, paths: Mapping[str, Path], *, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        fonts = {name: path for name, path in paths.items() if name not in INSTRUMENTS}
        folders = {name: path for name, path in paths.items() if name in INSTRUMENTS}
        self._synthesizer = Synthesizer(fonts, sample_rate=sample_rate) if fonts else None
        self.sampler = Sampler(folders, sample_rate=sample_rate)

    def render(self, recipe: ClipRecipe, notes: Notes) -> RenderedClip | None:
        """A clip, or None where its instrument does not reach the notes or is silent."""
        if recipe.timbre.layers[0].soundfont in INSTRUMENTS:
            return render_sampled(recipe, notes, self.sampler)
        if self._synthesizer is None:
            raise TimbreflowError(
                f"clip {recipe.clip_id} needs a SoundFont that the set does not name; create it anew."
            )
        return render_recipe(recipe, notes, self._synthesizer)

    def close(self) -> None:
        """Free the SoundFonts."""
        if self._synthesizer is not None:
            self._synthesizer.close()


def _fetch(name: str, layout: Layout, say: Say) -> Path:
    say(f"{name} is not on this machine; fetching it.")
    try:
        fetched = fetch(name, layout.corpora)
    except TimbreflowError as error:
        raise TimbreflowError(f"{name} is missing: {error} Then run `timbreflow corpus fetch {name}`.") from error
    if fetched.path is None:
        raise TimbreflowError(fetched.message)
    return fetched.path
