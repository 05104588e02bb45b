"""The scores that come with the Python package music21, and which of them are used.

music21's licence file says that some encodings are restricted and to look into each; that was done for music21 9.9:
licence lines (`<rights>` in MusicXML, `!!!YE*` in kern) were read in every score file. Directories are allowed by name,
with the reason, so that a new version of music21 adds nothing unseen.
"""

from pathlib import Path

from timbreflow.errors import TimbreflowError
from timbreflow.notes.sources.corpora import package_folder

SCORE_SUFFIXES = (".mxl", ".xml", ".musicxml", ".krn")
TUNE_SUFFIX = ".abc"

_OLD = (
    "bach", "beethoven", "chopin", "cpebach", "handel", "haydn", "johnson_j_r", "joplin", "liliuokalani", "lusitano",
    "monteverdi", "mozart", "schubert", "schumann_clara", "schumann_robert", "trecento", "verdi", "webern",
)  # fmt: skip

ALLOWED: dict[str, str] = {
    **dict.fromkeys(_OLD, "works in the public domain, no restriction in the files"),
    "beach": "work in the public domain, encoding CC-BY-SA",
    "ciconia": "work in the public domain, encoding CC-BY-SA 3.0",
    "corelli": "work in the public domain, encoding CC-BY",
    "luca": "work in the public domain, encoding CC-BY-SA 3.0",
    "weber": "work in the public domain, encoding released to the public domain",
}
"""Directories of the default corpus and why each may be used."""

BY_NAME_ONLY: dict[str, str] = {
    "palestrina": "encodings copyright 2000 John Miller, 'rights to all derivative electronic formats reserved'",
}
"""Directories that are read only when a person names them (`music21/palestrina`), and what they should know.

Left out altogether: essenFolksong (non-commercial), airdsAirs ('Jack Campin 2009', nothing said of its use), josquin,
miscFolk, nottingham-dataset and oneills1850 (many ABC tunes a file), leadSheet ('all rights reserved'), schoenberg
(works protected in many places until recently), demos and theoryExercises (not music).
"""

FOLK = "ryansMammoth"
"""Directory of the source music21-folk: 1,059 fiddle tunes, one a file, of Ryan's Mammoth Collection (Boston 1883, in
the public domain), contributed as ABC by people whom the files name; none of them restricts its use.
"""

_CCARH = "CCARH 1994, 'rights to all derivative electronic formats reserved'"
_UT_ORPHEUS = "read from an edition that is marked (c) Ut Orpheus 2003"
_TWIN = "the same music in another encoding, which could end up on the other side of a split"

LEFT_OUT_FILES: dict[str, str] = {
    "bach/bwv277.krn": _CCARH,
    "bach/bwv281.krn": _CCARH,
    "bach/bwv366.krn": _CCARH,
    "monteverdi/madrigal.5.4.mxl": _UT_ORPHEUS,
    "monteverdi/madrigal.5.5.mxl": _UT_ORPHEUS,
    "monteverdi/madrigal.3.1_old.mxl": _TWIN,
    "beethoven/opus18no1/movement1.krn": _TWIN,
    "beethoven/opus18no1/movement2.krn": _TWIN,
    "beethoven/opus18no1/movement3.krn": _TWIN,
    "beethoven/opus18no1/movement4.krn": _TWIN,
}
"""Files of allowed directories that are not read, and why."""


def music21_scores(directory: str | None = None) -> list[tuple[str, Path]]:
    """Score files of music21's corpus as (path inside the corpus, file), sorted.

    Args:
        directory: one of `ALLOWED` or `BY_NAME_ONLY`; None means all of `ALLOWED`.

    Raises:
        TimbreflowError: music21 is not installed with its corpus, or there is no such directory.
    """
    corpus = _corpus()
    if directory is not None and directory not in ALLOWED and directory not in BY_NAME_ONLY:
        names = ", ".join([*ALLOWED, *BY_NAME_ONLY])
        raise TimbreflowError(f"music21/{directory} is not a source; choose one of {names}.")
    found = []
    for name in sorted(ALLOWED) if directory is None else [directory]:
        for file in (corpus / name).rglob("*"):
            label = file.relative_to(corpus).as_posix()
            if file.suffix.lower() in SCORE_SUFFIXES and label not in LEFT_OUT_FILES:
                found.append((label, file))
    return sorted(found)


def music21_tunes() -> list[tuple[str, Path]]:
    """The tunes of `FOLK` as (path inside the corpus, file), sorted.

    Raises:
        TimbreflowError: music21 is not installed with its corpus.
    """
    corpus = _corpus()
    files = sorted((corpus / FOLK).glob(f"*{TUNE_SUFFIX}"))
    if not files:
        raise TimbreflowError(f"{corpus / FOLK} holds no tune; run `pip install --force-reinstall music21`.")
    return [(file.relative_to(corpus).as_posix(), file) for file in files]


def _corpus() -> Path:
    package = package_folder("music21")
    corpus = None if package is None else package / "corpus"
    if corpus is None or not corpus.is_dir():
        raise TimbreflowError("music21's corpus is not installed; run `pip install music21`.")
    return corpus
