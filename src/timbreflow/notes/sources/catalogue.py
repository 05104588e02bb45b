"""What music, SoundFonts and recordings can be got from package managers: plain data, checked on Debian 12 and npm."""

from dataclasses import dataclass
from typing import Literal

CorpusKind = Literal["midi", "soundfont", "recordings"]
CorpusManager = Literal["python", "debian", "npm", "manual"]


@dataclass(frozen=True)
class Corpus:
    """One source.

    Attributes:
        name: what a person types, and the folder below data/corpora.
        kind: midi (any source of notes), soundfont or recordings.
        manager: what fetches it; `python` came with the installed packages, `manual` is the user's own download.
        packages: names at the manager.
        size: of the download, in bytes.
        licence: of the contents, as the package states it.
        inside: file or folder that matters, relative to the fetched folder (to the Python package for `python`).
        contents: one line for a person.
        role: of a SoundFont: whether it may be trained on.
    """

    name: str
    kind: CorpusKind
    manager: CorpusManager
    packages: tuple[str, ...]
    size: int
    licence: str
    inside: str
    contents: str
    role: Literal["train", "test"] = "train"


def _debian(  # noqa: PLR0917 - one row of a table
    name: str, kind: CorpusKind, size: int, licence: str, inside: str, contents: str, package: str = ""
) -> Corpus:
    return Corpus(name, kind, "debian", (package or name,), size, licence, inside, contents)


def _tonejs(instrument: str, size: int) -> Corpus:
    return Corpus(
        name=f"tonejs-{instrument}",
        kind="recordings",
        manager="npm",
        packages=(f"tonejs-instrument-{instrument}-mp3",),
        size=size,
        licence="CC-BY 3.0 (samples), MIT (package)",
        inside="package",
        contents=f"single recorded notes of a {instrument.replace('-', ' ')}; for the real test set, never trained on",
    )


CATALOGUE: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "music21", "midi", "python", ("music21",), 0,
            "public domain works, free encodings",
            "corpus", "some 630 polyphonic scores, Machaut's time to Webern; also music21/bach and other composers",
        ),
        Corpus(
            "music21-folk", "midi", "python", ("music21",), 0,
            "public domain works, free encodings",
            "corpus/ryansMammoth", "1,059 fiddle tunes of one voice (Ryan's Mammoth Collection, 1883)",
        ),
        _debian(
            "freedoom", "midi", 15_806_800, "BSD-3-Clause", "usr/share/games/doom",
            "multi-track music of a game, inside its two WADs",
        ),
        _debian(
            "freedm", "midi", 7_347_492, "BSD-3-Clause", "usr/share/games/doom",
            "multi-track music of a game, inside its WAD",
        ),
        _debian(
            "simutrans-data", "midi", 1_380_988, "Artistic-1.0", "usr/share/games/simutrans/music",
            "53 multi-track pieces of a game",
        ),
        _debian(
            "mma", "midi", 4_350_600, "GPL-2+", "usr/share",
            "73 example accompaniments, and 600 that the program plays from chords after the download",
        ),
        _debian(
            "pianobooster", "midi", 1_207_396, "CC-BY, GPL-3+", "usr/share/games/pianobooster/music",
            "14 piano pieces with accompaniment, in a .zip",
        ),
        Corpus(
            "lakh", "midi", "manual", ("http://hog.ee.columbia.edu/craffel/lmd/lmd_full.tar.gz",), 1_768_163_879,
            "CC-BY 4.0 (collection); the songs are their owners'", "lmd_full.tar.gz", "178,561 MIDI files",
        ),
        Corpus(
            "timgm6mb", "soundfont", "python", ("pretty_midi",), 0, "GPL-2 (font)", "TimGM6mb.sf2",
            "the default General MIDI font",
        ),
        _debian(
            "fluid-soundfont-gm", "soundfont", 119_610_208, "MIT", "usr/share/sounds/sf2/FluidR3_GM.sf2",
            "FluidR3, 148 MB; one family with FluidR3Mono and MuseScore_General",
        ),
        _debian(
            "fluidr3mono-gm-soundfont", "soundfont", 18_726_092, "MIT",
            "usr/share/fluidr3mono-gm-soundfont/FluidR3Mono_GM.sf3", "FluidR3 in mono, compressed",
        ),
        _debian(
            "musescore-general-soundfont-small", "soundfont", 34_150_714, "MIT, CC0",
            "usr/share/sounds/sf3/MuseScore_General_Lite.sf3", "MuseScore_General, compressed",
        ),
        _debian(
            "csound-soundfont", "soundfont", 3_740_268, "public domain", "usr/share/sounds/sf2/sf_GMbank.sf2",
            "small General MIDI font; one family with TimGM6mb",
        ),
        _debian(
            "denemo-data", "soundfont", 9_659_224, "GPL-2", "usr/share/sounds/sf2/A320U.sf2",
            "A320U; in part one family with TimGM6mb",
        ),
        _debian(
            "opl3-soundfont", "soundfont", 99_953_240, "CC-BY-SA-4.0", "usr/share/sounds/sf2/OPL-3_FM_128M.sf2",
            "sampled FM synthesis, a family of its own",
        ),
        Corpus(
            "minuet-data", "soundfont", "debian", ("minuet-data",), 27_057_444, "GeneralUser GS licence (free use)",
            "usr/share/minuet/soundfonts/GeneralUser-v1.47.sf2",
            "GeneralUser GS 1.47: TEST ONLY, the project's unseen font, never trained on", role="test",
        ),
        _tonejs("piano", 3_142_816),
        _tonejs("violin", 4_019_476),
        _tonejs("cello", 2_133_592),
        _tonejs("flute", 1_482_524),
        _tonejs("trumpet", 1_279_618),
        _tonejs("guitar-nylon", 557_824),
        _tonejs("organ", 5_116_658),
        _tonejs("xylophone", 91_839),
        _debian(
            "fretsonfire-songs-sectoid", "recordings", 29_087_520, "MIT",
            "usr/share/games/fretsonfire/data/songs", "guitar stems; never trained on",
        ),
        _debian(
            "fretsonfire-songs-muldjord", "recordings", 29_272_812, "CC-BY-SA-3.0",
            "usr/share/games/fretsonfire/data/songs", "guitar stems; never trained on",
        ),
    )
}  # fmt: skip
