"""The ablation command in a tiny size: prepared data, arms, resumption, the table, and what is refused."""

import fcntl
import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from tiny_params import dump, tiny

from benchmarks import ablation
from benchmarks.ablation_table import comparable
from tests.frozen import freeze
from tests.sharded import run_all
from timbreflow.audio.features import FeatureConfig
from timbreflow.config import as_mapping, load_params, preset_text
from timbreflow.data.manifest import read_manifest, write_manifest
from timbreflow.files import write_json
from timbreflow.models.bundle import ModelBundle, load_bundle, save_bundle
from timbreflow.models.timbre_metric import TripletConfig, TripletNetwork
from timbreflow.stages import collect_midi
from timbreflow.stages.layout import Layout
from timbreflow.tracking.runs import flatten

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablations", ROOT / "benchmarks" / "ablations.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ablation.ROWS)
def test_every_row_changes_a_setting_of_the_preset_and_nothing_else(command: ModuleType, name: str) -> None:
    row = ablation.ROWS[name]
    reference = ablation.changed(command._params(None), ablation.short_training(row.section, 1500))
    before, flat = flatten(as_mapping(reference)), flatten(as_mapping(ablation.changed(reference, row.changes)))
    assert {key for key in flat if flat[key] != before[key]} == set(row.changes)
    assert row.reference in ("", *ablation.ROWS)
    assert not row.reference or ablation.ROWS[row.reference].system == row.system


def test_few_steps_of_a_refiner_reach_those_with_predicted_notes(command: ModuleType) -> None:
    section = ablation.changed(command._params(None), ablation.short_training("train_refiner", 600)).train_refiner
    assert section.note_steps == 0 and section.model.note_reader is None
    assert section.true_steps < section.fit.steps == 600


def test_arms_of_other_data_or_steps_are_not_compared() -> None:
    same = dict.fromkeys(("steps", "evaluation_digest", "data", "data_digest"), "")
    assert comparable(same, same)
    assert not comparable(same, {**same, "steps": 2})
    assert not comparable(same, {**same, "data_digest": "other"})
    assert comparable({**same, "data": "plain", "data_digest": "other"}, same)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reference_vqvae"], "no data to train on; run this command with --prepare"),
        (["--table"], "holds no ablation yet"),
        (["reference_vqvae", "--params", "nowhere.yaml"], "nowhere.yaml is missing"),
    ],
)
def test_what_is_missing_is_one_sentence(
    command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert command.main([*arguments, "--root", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and words in told


@pytest.mark.parametrize(
    "arguments", [[], ["no_such_row"], ["reference_vqvae", "--steps", "0"], ["reference_vqvae", "--clips", "all"]]
)
def test_senseless_options_are_refused(command: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)


def test_the_list_names_every_row(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ablation.ROWS)


def test_two_commands_at_one_arm_are_told_apart(
    command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Layout(tmp_path / ".scratch" / "ablations" / "data" / "varied")
    write_json(data.results("validate_data") / "passed.json", {"digest": ""})
    arm = tmp_path / ".scratch" / "ablations" / "reference_glow"
    arm.mkdir(parents=True)
    with open(arm / ".lock", "w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        # The row temperature_1 takes the weights of reference_glow, so it works in that folder too.
        for row in ("reference_glow", "temperature_1"):
            assert command.main([row, "--root", str(tmp_path)]) == 2
            assert "Another command is training or evaluating the arm reference_glow" in capsys.readouterr().err
    assert command.main(["reference_glow", "--root", str(tmp_path)]) == 2
    assert "There is no timbre_metric" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkout(command: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Notes, a timbre metric that was never trained, both data sets, and test sets cut from the varied one."""
    root = tmp_path_factory.mktemp("checkout")
    values = tiny(preset_text("cpu-long"))
    values["collect_midi"]["fractions"] = {}
    values["render_triples"]["clip_seconds"] = 4.0
    values["render_triples"]["triples"] = {"train": 12, "validation": 4, "test": 4, "test_seen": 4}
    (root / "params.yaml").write_text(dump(values), encoding="utf-8")
    params = load_params(root / "params.yaml")
    run_all(collect_midi, params.collect_midi, layout=Layout(root))
    Layout(root).soundfonts.mkdir(parents=True)
    torch.manual_seed(0)
    triplet = TripletNetwork(TripletConfig(12, 16, (4, 4, 4, 2)))
    features: FeatureConfig = params.audio
    save_bundle(root / "released" / "timbre_metric", ModelBundle("triplet", triplet, features, None))
    assert command.main(["--prepare", "--squares", "12", *_options(root)]) == 0
    made = Layout(root / ".scratch" / "ablations" / "data" / "varied")
    for split, name in (("test", "artificial"), ("test_seen", "seen")):
        folder = root / "data" / "testsets" / name
        folder.mkdir(parents=True)
        shutil.copytree(made.audio / split, folder / name)
        shutil.copy(made.audio / "clip_notes.parquet", folder)
        manifest = read_manifest(made.audio)
        clips = manifest[manifest["split"] == split].assign(split=name)
        write_manifest(folder, clips.assign(shard=clips["shard"].str.replace(f"{split}/", f"{name}/")))
        freeze(root, name)
    return root


def _options(root: Path) -> list[str]:
    return ["--root", str(root), "--params", str(root / "params.yaml")]


def _run(command: ModuleType, root: Path, row: str, *more: str) -> dict:
    sizes = ["--steps", "4", "--clips", "2"]
    assert command.main([row, *sizes, *_options(root), *more]) == 0
    return json.loads((root / "results" / "ablations" / f"{row}.json").read_text())


@pytest.mark.slow
def test_plain_data_is_plain_and_of_the_same_size(checkout: Path) -> None:
    tables = {
        kind: read_manifest(Layout(checkout / ".scratch" / "ablations" / "data" / kind).audio)
        for kind in ("plain", "varied")
    }
    assert len(tables["plain"]) == len(tables["varied"])
    timbres = [json.loads(text) for text in tables["plain"]["timbre"]]
    assert all(t["synthesis"] is None and t["equalizer"] is None and len(t["layers"]) == 1 for t in timbres)
    assert tables["varied"]["n_layers"].max() > 1


@pytest.mark.slow
def test_rows_one_by_one_make_the_table(
    command: ModuleType, checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No reference yet: the weights are trained all the same, and the reference finds them finished.
    hot = _run(command, checkout, "temperature_1")
    cold = _run(command, checkout, "reference_glow")
    assert hot["weights_sha256"] == cold["weights_sha256"] and hot["cpu_seconds"] == cold["cpu_seconds"] > 0
    assert hot["figures"] != cold["figures"] and set(hot["figures"]) == {"artificial", "seen"}
    reference = _run(command, checkout, "reference_vqvae")
    one = _run(command, checkout, "one_style_token")
    _run(command, checkout, "plain_timbres")
    assert one["weights_sha256"] != reference["weights_sha256"]
    arm = Layout(checkout / ".scratch" / "ablations" / "one_style_token")
    assert load_bundle(arm.model("vqvae")).model.config.style.n_tokens == 1
    heard = pd.read_csv(checkout / "results" / "ablations" / "per_clip" / "one_style_token.csv")
    for name, rows in heard.groupby("set"):
        ids = sorted(read_manifest(checkout / "data" / "testsets" / str(name))["triple_id"].unique())
        assert rows["triple_id"].tolist() == [ids[0], ids[2]]  # of four, spread evenly

    # What is finished is neither trained nor heard again.
    monkeypatch.setattr(ablation, "TestSetEvaluation", None)
    monkeypatch.setattr(ablation.train_vqvae, "run", None)
    assert _run(command, checkout, "one_style_token") == one

    capsys.readouterr()
    assert command.main(["--table", *_options(checkout)]) == 0
    text = capsys.readouterr().out
    assert text == (checkout / "results" / "ablations" / "table.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| \w+_", line)]
    assert len(rows) == 2 * 5
    for line in rows:
        held_against = any(name in line for name in ("one_style_token", "plain_timbres", "temperature_1"))
        assert (" to " in line) == held_against, line


@pytest.mark.slow
def test_a_killed_arm_goes_on_and_keeps_count_of_its_cost(
    command: ModuleType, checkout: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = ablation.train_vqvae.run

    def killed(*arguments: object, log: object, **keywords: object) -> None:
        def stop(step: int, values: dict) -> None:
            if step == 4:
                raise KeyboardInterrupt

        whole(*arguments, log=stop, **keywords)

    monkeypatch.setattr(ablation.train_vqvae, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        _run(command, checkout, "pairs_mixed")
    monkeypatch.setattr(ablation.train_vqvae, "run", whole)
    with caplog.at_level("INFO", logger="timbreflow"):
        result = _run(command, checkout, "pairs_mixed")
    assert "resumed at step 2 of 4" in caplog.text
    assert result["changes"] == {"train_vqvae.base.pairs": "mixed"} and result["steps"] == 4
