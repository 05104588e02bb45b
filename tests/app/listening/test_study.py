"""Studies on disk, how they are made, and their export."""

import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyloudnorm
import pytest
import torch
from ruamel.yaml import YAML

from tests.app.listening.conftest import SYSTEMS
from timbreflow.app.listening import make
from timbreflow.app.listening.study import Study, read_study, write_study
from timbreflow.app.listening.webmushra import check_webmushra, webmushra_config
from timbreflow.audio.files import read_audio
from timbreflow.config import load_params
from timbreflow.errors import TimbreflowError
from timbreflow.stages.layout import Layout

ROOT = Path(__file__).resolve().parents[3]


def test_a_study_is_read_as_it_was_written(folder: Path, study: Study) -> None:
    assert read_study(folder) == study


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"per_listener": 99}, "per_listener is 99"),
        ({"format": 2}, "format is 2"),
        ({"trials": []}, "no trial"),
        ({"systems": 3}, "systems"),
        ({"surprise": 1}, "surprise is not a known parameter"),
    ],
)
def test_a_wrong_study_is_refused_in_one_sentence(folder: Path, change: dict[str, Any], words: str) -> None:
    yaml = YAML(typ="safe")
    yaml.dump({**yaml.load(folder / "study.yaml"), **change}, folder / "study.yaml")
    with pytest.raises(TimbreflowError, match=words) as error:
        read_study(folder)
    assert "study.yaml" in str(error.value)


@pytest.mark.parametrize("name", ["../../x.wav", "/etc/passwd", "clips/../../x.wav"])
def test_a_study_names_no_file_outside_its_folder(folder: Path, study: Study, name: str) -> None:
    first = dataclasses.replace(study.trials[0], reference=name)
    write_study(folder, dataclasses.replace(study, trials=[first, *study.trials[1:]]))
    with pytest.raises(TimbreflowError, match="lies outside the study"):
        read_study(folder)


def test_a_missing_clip_is_named(folder: Path, study: Study) -> None:
    name = study.trials[3].files[0]
    (folder / name).unlink()
    with pytest.raises(TimbreflowError, match=f"{name} is missing, and trial .* plays it"):
        read_study(folder)


def test_pairs_and_questions_are_balanced() -> None:
    trials = make.plan_trials(
        ["t0", "t1", "t2"], SYSTEMS, trials=26, kinds=["ab", "abx", "mushra"], draw=np.random.default_rng(1)
    )
    assert Counter(trial.kind for trial in trials) == {"ab": 18, "abx": 4, "mushra": 4}
    compared = Counter((trial.question, *trial.clips) for trial in trials if trial.kind == "ab")
    assert len(compared) == 6 and set(compared.values()) == {3}
    assert {trial.reference.split("-")[-1] for trial in trials if trial.question == "notes"} == {"content.wav"}
    assert all(set(trial.clips) == {*SYSTEMS, "reference", "anchor35"} for trial in trials if trial.kind == "mushra")


def test_clips_get_one_loudness_and_no_peak_passes_the_limit() -> None:
    draw = np.random.default_rng(0)
    clicks = np.zeros(32000, dtype=np.float32)
    clicks[::4000] = 1.0
    sounds = {"loud": 0.5 * draw.standard_normal(32000).astype(np.float32), "clicks": clicks}
    matched, lufs = make.match_loudness(sounds, 16000)
    meter = pyloudnorm.Meter(16000)
    loudness = [meter.integrated_loudness(sound.astype(float)) for sound in matched.values()]
    assert loudness == pytest.approx([lufs, lufs], abs=0.1)
    assert lufs < make.LUFS and max(np.abs(sound).max() for sound in matched.values()) == pytest.approx(make.PEAK)


def test_a_silent_clip_is_refused() -> None:
    with pytest.raises(TimbreflowError, match="x is silent"):
        make.match_loudness({"x": np.zeros(32000, dtype=np.float32)}, 16000)


def test_headphone_tones_are_those_of_woods_2017() -> None:
    loud, soft, inverted = (make.headphone_tone(name) for name in ("loud", "soft", "inverted"))
    assert 20 * np.log10(np.std(loud) / np.std(soft)) == pytest.approx(6.0, abs=0.01)
    assert np.array_equal(inverted[0], -inverted[1]) and np.array_equal(loud[0], loud[1])
    orders = {tuple(trial.clips) for trial in make.headphone_trials(np.random.default_rng(0))}
    assert len(orders) == 6


@pytest.mark.parametrize(
    ("page", "change"),
    [
        (0, {"type": "mushra"}),
        (0, {"reference": "/etc/x.wav"}),
        (0, {"stimuli": {}}),
        (0, {"colour": 1}),
        (0, {"reference": "a/../../x.wav"}),
    ],
)
def test_the_export_fits_the_schema_and_the_schema_refuses_others(
    study: Study, page: int, change: dict[str, Any]
) -> None:
    config = webmushra_config(study)
    check_webmushra(config)
    assert len(config["pages"][1]) == 1 + len(study.trials)
    config["pages"][1][1 + page].update(change)
    with pytest.raises(TimbreflowError, match="webMUSHRA export is invalid"):
        check_webmushra(config)


def test_a_mushra_page_leaves_reference_and_anchor_to_webmushra(study: Study) -> None:
    pages = [page for page in webmushra_config(study)["pages"][1][1:] if page["type"] == "mushra"]
    assert pages and all(set(page["stimuli"]) == set(SYSTEMS) and page["createAnchor35"] for page in pages)


class _Clips:
    """A test set of noise, in the form of `EvaluationClips`."""

    split = "real"

    def __init__(self, root: Path, split: str, *, sample_rate: int, max_triples: int, only: list[str]) -> None:
        self._ids = only

    def __len__(self) -> int:
        return len(self._ids)

    def batches(self, size: int) -> Any:
        draw = np.random.default_rng(0)
        for start in range(0, len(self._ids), size):
            ids = self._ids[start : start + size]
            sounds = {r: 0.1 * draw.standard_normal((len(ids), 16000)) for r in ("content", "style", "target")}
            yield SimpleNamespace(triple_ids=ids, **{r: sound.astype(np.float32) for r, sound in sounds.items()})


def test_make_writes_a_study_that_can_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = {n: SimpleNamespace(transfer=lambda c, s, t, *, seed, n=n: c * 0.5 + 0 * torch.ones(1)) for n in SYSTEMS}
    monkeypatch.setattr(make, "EvaluationClips", _Clips)
    monkeypatch.setattr(make, "built_systems", lambda names, *a, **k: {name: halves[name] for name in names})
    monkeypatch.setattr(make, "require_built", lambda *a: None)
    out = tmp_path / "study"
    config = load_params(ROOT / "params.yaml").evaluate
    made = make.make_study(out, "real", SYSTEMS, config, layout=Layout(ROOT), trials=12, say=lambda _: None)
    assert read_study(out) == made and made.per_listener == 12
    assert Counter(trial.kind for trial in made.trials) == {"ab": 8, "abx": 2, "mushra": 2}
    rates = {read_audio(path)[1] for path in (out / "clips").iterdir()}
    assert rates == {16000}
    exported = YAML(typ="safe").load(out / "webmushra" / "configs" / "timbreflow.yaml")
    check_webmushra(exported)
    named = {page["reference"] for page in exported["pages"][1][1:]}
    assert all((out / "webmushra" / name).is_file() for name in named)
    with pytest.raises(TimbreflowError, match="exists and is not an empty folder"):
        make.make_study(out, "real", SYSTEMS, config, layout=Layout(ROOT))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"systems": ["vqvae-2021", "oracle"]}, "vqvae-2021 has no sound to play.*train it.*or leave it out"),
        ({}, "run `timbreflow testset build real`"),
        ({"systems": ["oracle"]}, "name at least two"),
        ({"systems": ["oracle", "../../x"]}, "There is no system '../../x'"),
        ({"testset": "../../x"}, "There is no test set '../../x'"),
        ({"kinds": ["mos"]}, "choose from ab, abx, mushra"),
        ({"trials": 2}, "give at least one trial"),
    ],
)
def test_make_refuses_in_one_sentence(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    given = {"testset": "real", "systems": ["vqvae", "oracle"], **arguments}
    config = load_params(ROOT / "params.yaml").evaluate
    # Without data/, which may hold a trained vqvae-2021 and the test sets.
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "released").symlink_to(ROOT / "released")
    with pytest.raises(TimbreflowError, match=words):
        make.make_study(
            tmp_path / "x", given.pop("testset"), given.pop("systems"), config, layout=Layout(root), **given
        )
    assert not (tmp_path / "x").exists()
