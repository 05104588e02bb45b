"""params.yaml is read strictly, and every preset that ships can be built."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tiny_params import dump, tiny

from timbreflow.commands import house
from timbreflow.config import Params, as_mapping, load_params, parse_params, preset_names, preset_text, write_preset
from timbreflow.errors import TimbreflowError
from timbreflow.models.glow.model import Glow
from timbreflow.models.refiner import Refiner
from timbreflow.models.vocoder import Vocoder
from timbreflow.models.vqvae import VQVAE
from timbreflow.stages.training import begin_with

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def values() -> dict[str, Any]:
    return as_mapping(load_params(ROOT / "params.yaml"))


def test_params_yaml_is_the_default_preset() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == preset_text("default")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_parses_and_its_tiny_models_can_be_built(name: str, tmp_path: Path) -> None:
    write_preset(name, tmp_path / "params.yaml")
    assert isinstance(load_params(tmp_path / "params.yaml"), Params)
    small = parse_params(tiny(preset_text(name)), source=name)
    VQVAE(small.train_vqvae.paper.model)
    VQVAE(small.train_vqvae.base.model)
    Glow(small.train_glow.model)


@pytest.mark.parametrize("name", [name for name in preset_names() if name != "default"])
def test_a_preset_is_the_default_with_differences(name: str) -> None:
    default, other = preset_text("default"), preset_text(name)
    assert default != other
    assert default.splitlines()[3] == other.splitlines()[3]  # the comments and the order stay


def test_a_preset_may_lie_on_another() -> None:
    gpu, base = (parse_params(YAML(typ="safe").load(preset_text(name)), source=name) for name in ("gpu", "cpu-long"))
    assert gpu.render_triples.soundfonts == base.render_triples.soundfonts
    assert gpu.train_glow.model == base.train_glow.model
    assert gpu.train_glow.fit.batch_size > base.train_glow.fit.batch_size


def test_a_preset_may_clear_a_mapping_of_the_one_below() -> None:
    clear, base = (YAML(typ="safe").load(preset_text(name))["collect_midi"] for name in ("fine-tune", "cpu-long"))
    assert base["fractions"]
    assert clear["fractions"] == {}


@pytest.mark.parametrize(
    ("section", "key", "value", "own"),
    [
        ("collect_midi", "sources", ["music21", "~/midi"], "collect_midi.sources"),
        ("train_glow", "l1", 0.25, "train_glow.l1"),
        ("collect_midi", "fractions", {"~/midi": 0.5}, "collect_midi.fractions.~/midi"),
    ],
)
def test_a_preset_replaces_settings_of_ones_own_only_when_asked(
    section: str, key: str, value: Any, own: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    write_preset("cpu-long", path)
    write_preset("gpu", path)
    values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    values[section][key] = value
    path.write_text(before := dump(values))
    with pytest.raises(TimbreflowError) as caught:
        write_preset("default", path)
    assert f"would lose your own {own}; " in str(caught.value)
    assert "timbreflow preset default --force" in str(caught.value)
    assert path.read_text() == before
    write_preset("default", path, force=True)
    assert path.read_text() == preset_text("default")


def test_a_params_file_that_cannot_be_read_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("collect_midi: [~/midi")
    with pytest.raises(TimbreflowError, match="cannot be read"):
        write_preset("default", path)
    path.write_text("")
    write_preset("default", path)
    assert load_params(path)


def test_what_each_preset_takes_is_told() -> None:
    rows = {row[0]: row for row in house.PRESETS[1:]}
    assert set(rows) == set(preset_names())
    table = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for row in rows.values():
        assert f"| {' | '.join(row)} |" in table


def test_released_weights_fit_the_preset_that_trains_them_on() -> None:
    params = parse_params(YAML(typ="safe").load(preset_text("fine-tune")), source="fine-tune")
    base, glow, vocoder = params.train_vqvae.base, params.train_glow, params.train_vocoder
    assert begin_with(VQVAE(base.model), ROOT / base.init_from, params.audio)[1]
    assert begin_with(Glow(glow.model), ROOT / glow.init_from, params.audio)[1]
    refiner = params.train_refiner
    assert begin_with(Refiner(refiner.model), ROOT / refiner.init_from, params.audio)[1]
    assert begin_with(Vocoder(vocoder.model), ROOT / vocoder.init_from, params.audio)[1]


@pytest.mark.parametrize("name", preset_names())
def test_most_steps_of_a_preset_train_the_refiner_as_it_is_used(name: str) -> None:
    """With notes that are heard, not with true ones, and not the reader alone."""
    section = parse_params(YAML(typ="safe").load(preset_text(name)), source=name).train_refiner
    assert max(section.note_steps, section.true_steps) <= section.fit.steps / 2
    assert section.note_steps == 0 or not section.init_from


def test_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="nonsense.*default"):
        write_preset("nonsense", tmp_path / "params.yaml")
    assert list(tmp_path.iterdir()) == []


def test_round_trip(values: dict[str, Any]) -> None:
    assert as_mapping(parse_params(values, source="test")) == values


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("train_glow", "fit", "stepz"), 3, "train_glow.fit.stepz is not a known parameter"),
        (("nonsense",), {}, "nonsense is not a known parameter"),
        (("train_glow", "noise"), "0.1", "train_glow.noise"),
        (("train_glow", "fit", "steps"), 1.5, "train_glow.fit.steps"),
        (("audio", "hop_length"), 4096, "hop_length"),
        (("audio", "sample_rate"), 22050, "sample_rate"),
        (("audio", "n_mels"), 80, "n_mels"),
        (("render_triples", "clip_seconds"), 8.001, "clip_seconds"),
        (("render_triples", "soundfonts", 0, "role"), "judge", "role"),
        (("train_vqvae", "base", "pairs"), "quadruples", "pairs"),
        (("train_glow", "noise"), 0.0, "noise"),
        (("train_glow", "l1_every"), 0, "params.yaml.*l1_every"),
        (("train_glow", "fit", "validate_every"), 0, "validate_every"),
        (("train_glow", "crop_frames"), -1, "train_glow.crop_frames is -1"),
        (("train_glow", "online_triples"), -1, "train_glow.online_triples is -1"),
        (("train_vqvae", "base", "crop_frames"), -128, "train_vqvae.crop_frames is -128"),
        (("evaluate", "bootstrap_samples"), 0, "bootstrap_samples is 0"),
        (("evaluate", "batch_size"), 0, "batch_size is 0"),
        (("evaluate", "max_triples"), -1, "max_triples is -1"),
        (("evaluate", "temperature"), -0.1, "temperature is -0.1"),
        (("evaluate", "griffin_lim_momentum"), 1.0, "griffin_lim_momentum is 1.0"),
        (("evaluate", "griffin_lim_iterations"), 0, "griffin_lim_iterations is 0"),
        (("evaluate", "examples"), -1, "examples is -1"),
        (("evaluate", "worst_examples"), -1, "worst_examples is -1"),
        (("evaluate", "sets"), [], r"evaluate.sets is \[\]; name at least one"),
        (("evaluate", "sets"), ["test", "tset"], "tset.*test_seen"),
        (("evaluate", "sets"), ["test", "test"], "each once"),
        (("evaluate", "systems"), ["vqvae", "glow", "oracel"], "oracel.*oracle"),
        (("evaluate", "systems"), ["vqvae", "oracle"], "evaluate.systems lacks glow"),
        (("evaluate", "sets"), ["test_seen"], "gate.set is test, which evaluate.sets does not name"),
        (("register_models", "gate", "criteria"), {}, "no criteria"),
        (
            ("register_models", "gate", "criteria"),
            {"lsd_ratio": {"better": "lower", "slack": 0.0, "limit": 1.0}},
            "lsd_ratio is not measured clip by clip",
        ),
        (("collect_midi", "sources"), [], "collect_midi.sources names no source"),
        (("collect_midi", "files_per_shard"), 0, "files_per_shard is 0"),
        (("collect_midi", "max_duration"), -1.0, "max_duration is -1.0"),
    ],
)
def test_mistakes_are_named(path: tuple[str | int, ...], value: Any, words: str, values: dict[str, Any]) -> None:
    place: Any = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(TimbreflowError, match=words) as caught:
        parse_params(values, source="params.yaml")
    assert "params.yaml" in str(caught.value)


def test_a_missing_key_is_named(values: dict[str, Any]) -> None:
    del values["train_glow"]["fit"]["seed"]
    with pytest.raises(TimbreflowError, match=r"train_glow\.fit\.seed is missing"):
        parse_params(values, source="params.yaml")


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (("train_glow", "model"), "bound", "max_log_scale"),
        (("train_glow", "model"), "hidden", "hidden_channels"),
        (("train_glow", "model", "style"), "roll_bins", "max_bin_shift"),
        (("train_vqvae", "base", "model", "content"), "roll_hint", "pianoroll_channels"),
        (("train_vqvae", "paper", "model", "content"), "roll_width", "pianoroll_head_width"),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(
    path: tuple[str, ...], old: str, new: str, values: dict[str, Any]
) -> None:
    section = values
    for key in path:
        section = section[key]
    section[old] = section.pop(new)
    with pytest.raises(TimbreflowError, match=rf"params.yaml: {'.'.join(path)}.{old} is now called {new}; rename it."):
        parse_params(values, source="params.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "not valid YAML"),
        ("", "params.yaml is empty.*preset default"),
        ("# only a comment", "holds no sections.*preset default"),
        ("- a list", "holds no sections"),
        ("train_glow: {fit: {seed: 2021-01-01}}", r"train_glow\.fit\.seed = 2021-01-01 is a date"),
        ("a: 2021-13-45", "not valid YAML.*correct"),
        ("a: {b: !!binary aGk=}", r"a\.b = .* is a bytes"),
        ("2021-01-01: 3", "2021-01-01 is a date"),
        ("a: 1\nb: 2\na: 3", 'params.yaml has the key "a" twice in line 3; remove'),
    ],
)
def test_a_broken_file_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(TimbreflowError, match=words):
        load_params(tmp_path / "params.yaml")


def test_a_file_that_is_not_utf8_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes("a: \u00fc".encode("latin-1"))
    with pytest.raises(TimbreflowError, match=r"params.yaml is not UTF-8 text \(byte 3\); save"):
        load_params(tmp_path / "params.yaml")


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="timbreflow preset default"):
        load_params(tmp_path / "params.yaml")


def test_exponents_are_numbers(tmp_path: Path, values: dict[str, Any]) -> None:
    text = dump(values).replace("learning_rate: 0.001", "learning_rate: 1e-3")
    (tmp_path / "params.yaml").write_text(text)
    assert load_params(tmp_path / "params.yaml").train_glow.fit.learning_rate == pytest.approx(1e-3)


def test_sections_are_frozen() -> None:
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.train_glow.fit.steps = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        (("render_triples",), "counterparts", "complete_squares"),
        (("train_vqvae", "base"), "on_the_fly", "online_triples"),
        (("train_glow",), "on_the_fly", "online_triples"),
    ],
)
def test_an_old_name_is_told_its_new_one(section: tuple[str, ...], old: str, new: str, values: dict[str, Any]) -> None:
    place: Any = values
    for key in section:
        place = place[key]
    place[old] = place.pop(new)
    with pytest.raises(TimbreflowError) as caught:
        parse_params(values, source="params.yaml")
    assert str(caught.value) == f"params.yaml: {'.'.join(section)}.{old} is now called {new}; rename it."
