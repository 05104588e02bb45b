"""A study on disk: study.yaml, which people may read and edit, and the clips that it names.

A trial compares clips of one triple of a test set:

- ab: which of two clips keeps the notes of a reference, or sounds more like its instrument;
- abx: which of two clips the reference is a copy of;
- mushra: every clip is rated from 0 to 100 against a reference (ITU-R BS.1534), a hidden copy of it and a low-passed
  anchor among them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import LiteralScalarString

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, sha256_file
from timbreflow.plain_yaml import load_yaml
from timbreflow.schema import parse

STUDY = "study.yaml"
FORMAT = 1
KINDS = ("ab", "abx", "mushra")
QUESTIONS = {
    "notes": "Which one keeps the notes of X?",
    "timbre": "Which one sounds more like the instrument of Y?",
    "same": "Which one is the same as X?",
    "near": "How near is each one to the reference?",
}
LABELS = {"notes": "X", "timbre": "Y", "same": "X", "near": "Reference"}
"""What the page calls the reference: the content (notes), the style (timbre), a copy (same), the target (near)."""
REFERENCE, ANCHOR = "reference", "anchor35"
"""The hidden copy and the anchor of mushra trials, low-passed at 3.5 kHz; the names that webMUSHRA gives them."""
TRAINING, CATCH, HEADPHONES = "training", "catch", "headphones"
"""Roles of steps that are no trials of the study."""
HEADPHONES_TO_PASS = 5
"""Of six: the criterion of Woods et al. 2017."""
CATCHES_TO_PASS = 0.8
"""Share of catch trials that a listener must get right; five of six by chance have a probability of 11 %."""


@dataclass(frozen=True)
class Trial:
    """One comparison.

    Args:
        id: its name in answers and tables.
        kind: one of `KINDS`, or headphones.
        question: one of `QUESTIONS`; empty for headphones.
        triple: of the test set, for people.
        clips: system (or reference, anchor35, target, copies) to its file, relative to the study.
        reference: file of the reference; empty where there is none (abx: the reference is one of the clips).
        right: the clip that is right, in trials that check the listener; else empty.
    """

    id: str
    kind: str
    question: str
    triple: str
    clips: dict[str, str]
    reference: str
    right: str

    @property
    def files(self) -> list[str]:
        """All sound files, relative to the study."""
        return [*self.clips.values(), *([self.reference] if self.reference else [])]


@dataclass(frozen=True)
class Study:
    """What is asked, of which sound.

    Args:
        format: of this file.
        title: on the page.
        consent: what a listener agrees to; empty lines part paragraphs.
        testset: name of the frozen set.
        test_digest: of the frozen set.
        seed: of all draws.
        lufs: integrated loudness of every clip.
        systems: name to what people call it.
        per_listener: trials that one listener gets, drawn from all so that each is heard equally often.
        listeners: how many are planned; results state the power that they give.
        trials: of the study.
        training: one trial that is not counted, with its right answer shown.
        catches: trials with an obvious answer, each given twice with sides exchanged.
        headphones: trials of the headphone check.
    """

    format: int
    title: str
    consent: str
    testset: str
    test_digest: str
    seed: int
    lufs: float
    systems: dict[str, str]
    per_listener: int
    listeners: int
    trials: list[Trial]
    training: list[Trial]
    catches: list[Trial]
    headphones: list[Trial]

    @cached_property
    def by_id(self) -> dict[str, Trial]:
        """Every trial by its id."""
        return {t.id: t for t in (*self.trials, *self.training, *self.catches, *self.headphones)}

    def role(self, trial: str) -> str:
        """training, catch, headphones, or else the kind of a trial that counts."""
        for role, trials in ((TRAINING, self.training), (CATCH, self.catches), (HEADPHONES, self.headphones)):
            if any(t.id == trial for t in trials):
                return role
        return self.by_id[trial].kind


def write_study(folder: Path, study: Study) -> None:
    """Write FOLDER/study.yaml."""
    # People edit this text: it stands there as lines.
    write_yaml(folder / STUDY, {**asdict(study), "consent": LiteralScalarString(study.consent)})


def write_yaml(path: Path, values: Any) -> None:
    """Write plain values in their order."""
    yaml = YAML()
    yaml.width = 4096
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yaml.dump(values, file)


def read_study(folder: Path) -> Study:
    """Read and check a study.

    Raises:
        TimbreflowError: study.yaml is missing or wrong, names a file outside the study, or a clip is missing.
    """
    path = folder / STUDY
    if not path.is_file():
        raise TimbreflowError(f"{path} is missing; make a study with `timbreflow listen make --out {folder}`.")
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except (YAMLError, ValueError, OSError) as error:
        raise TimbreflowError(f"{path} is no YAML ({' '.join(str(error).split())}); correct it.") from error
    if not isinstance(values, Mapping):
        raise TimbreflowError(f"{path} is no study; make one with `timbreflow listen make`.")
    try:
        study = parse(Study, values, otherwise="make the study again")
    except TimbreflowError as error:
        raise TimbreflowError(f"{path}: {error}") from error
    _check(study, folder)
    return study


def digest_of(folder: Path) -> str:
    """sha256 of study.yaml: answers belong to one study."""
    return sha256_file(folder / STUDY)


def _check(study: Study, folder: Path) -> None:
    def refuse(what: str) -> TimbreflowError:
        return TimbreflowError(f"{folder / STUDY}: {what}; correct it or make the study again.")

    if study.format != FORMAT:
        raise refuse(f"format is {study.format}, and this version reads {FORMAT}")
    everything = (*study.trials, *study.training, *study.catches, *study.headphones)
    if not study.trials:
        raise refuse("there is no trial")
    if len(study.by_id) < len(everything):
        raise refuse("two trials have one id")
    if not 1 <= study.per_listener <= len(study.trials):
        raise refuse(f"per_listener is {study.per_listener}, and there are {len(study.trials)} trials")
    for trial in everything:
        if trial.kind not in (*KINDS, HEADPHONES):
            raise refuse(f"trial {trial.id} has the kind {trial.kind}, which is none of {', '.join(KINDS)}")
        if (trial.question not in QUESTIONS) != (trial.kind == HEADPHONES):
            raise refuse(f"trial {trial.id} asks {trial.question!r}, which is none of {', '.join(QUESTIONS)}")
        if trial.kind in ("ab", "abx") and len(trial.clips) != 2:
            raise refuse(f"trial {trial.id} compares {len(trial.clips)} clips instead of 2")
        if trial.right and trial.right not in trial.clips:
            raise refuse(f"trial {trial.id} has no clip {trial.right}")
        for name in trial.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise refuse(f"trial {trial.id} names {name}, which lies outside the study")
            if not (folder / name).is_file():
                raise TimbreflowError(
                    f"{folder / name} is missing, and trial {trial.id} plays it; copy it back or make the study again."
                )
