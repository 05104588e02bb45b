"""The table of a test set from files on disk: real clips, untrained tiny models, stored rows and what goes wrong."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from tiny_params import tiny

from benchmarks.train_family import run as train_family
from tests.frozen import freeze
from timbreflow.audio.features import FeatureExtractor, Normalizer
from timbreflow.audio.files import encode_flac
from timbreflow.config import parse_params, preset_text
from timbreflow.data.manifest import read_manifest, write_clip_notes, write_manifest
from timbreflow.data.shards import AudioShards, write_shard
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.stored import COLUMNS, StoredRow, stored_path, write_stored
from timbreflow.evaluation.clips import EvaluationClips, digest_of_clips
from timbreflow.evaluation.summary import Summary
from timbreflow.evaluation.systems import Oracle
from timbreflow.inference.vocoding import VERDICT
from timbreflow.metrics.family import FamilyConfig, load_family_classifier
from timbreflow.models.bundle import ModelBundle, load_bundle, save_bundle, weights_sha256
from timbreflow.models.glow.model import Glow
from timbreflow.models.refiner import Refiner
from timbreflow.models.timbre_metric import TripletConfig, TripletNetwork
from timbreflow.models.vocoder import Vocoder
from timbreflow.models.vqvae import VQVAE
from timbreflow.stages.layout import Layout
from timbreflow.testsets import recompute as recompute_stage
from timbreflow.testsets import sources as testset_sources
from timbreflow.testsets.baselines import BUILDERS
from timbreflow.testsets.evaluate import TestSetEvaluation, generalisation_gap, run
from timbreflow.testsets.examples import worst_triples, write_examples
from timbreflow.testsets.frozen import TRAINING_FONTS
from timbreflow.testsets.recompute import recompute, store

PARAMS = parse_params(tiny(preset_text("default")), source="tiny")
CONFIG = dataclasses.replace(PARAMS.evaluate, batch_size=2, bootstrap_samples=100)
RATE, SECONDS, TRIPLES = 16_000, 2.0, 3
PROGRAMS = {0: (1.0, 0.5, 0.3, 0.2), 19: (1.0, 1.0, 0.0, 1.0), 73: (1.0, 0.05, 0.02, 0.0)}


def tones(pitches: list[int], program: int) -> np.ndarray:
    """A clip [N] of decaying tones one after another; the program decides the partials."""
    step = int(SECONDS * RATE / len(pitches))
    time = np.arange(step) / RATE
    notes = [
        sum(
            gain * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * (k + 1) * time)
            for k, gain in enumerate(PROGRAMS[program])
        )
        * np.exp(-3 * time)
        for pitch in pitches
    ]
    sound = np.concatenate(notes).astype(np.float32)
    return np.asarray(0.07 * sound / np.sqrt(np.mean(sound**2)), dtype=np.float32)


def write_set(folder: Path, split: str, *, seed: int) -> None:
    """A folder in the schema of data/audio."""
    draw = np.random.default_rng(seed)
    clips, rows, notes = [], [], []
    for number in range(TRIPLES):
        melody, other = (draw.integers(55, 75, size=4).tolist() for _ in range(2))
        before, after = draw.choice(list(PROGRAMS), size=2, replace=False).tolist()
        for role, pitches, program in (("content", melody, before), ("style", other, after), ("target", melody, after)):
            clip = f"{split}-{number}-{role}"
            sound = tones(pitches, program)
            clips.append((clip, encode_flac(sound, RATE)))
            step = SECONDS / len(pitches)
            notes += [
                {"clip_id": clip, "onset": i * step, "duration": 0.9 * step, "pitch": pitch, "velocity": 90}
                for i, pitch in enumerate(pitches)
            ]
            rows.append(
                {
                    **dict.fromkeys(("track", "transposition", "bank", "n_effects"), 0),
                    **dict.fromkeys(("start", "gain_db"), 0.0),
                    **{"clip_id": clip, "triple_id": f"{split}-{number}", "split": split, "role": role},
                    **{"piece_id": f"p{number}", "duration": SECONDS, "timbre_id": f"t{program}", "soundfont": "tones"},
                    # The last target is layered: it has no family.
                    **{"program": program, "n_layers": 1 + (number == TRIPLES - 1), "timbre": "{}", "class_id": "0"},
                    **{"n_onsets": 4, "n_samples": len(sound), "peak": 0.2, "rms": 0.07},
                }
            )
    shard = f"{split}/shard-00000.tar"
    entries = {entry.clip_id: entry for entry in write_shard(folder / shard, clips)}
    places = [entries[row["clip_id"]] for row in rows]
    write_manifest(
        folder,
        [
            {**row, "shard": shard, "offset": entry.offset, "nbytes": entry.nbytes}
            for row, entry in zip(rows, places, strict=True)
        ],
    )
    write_clip_notes(folder, notes)


def write_released(root: Path) -> None:
    """Untrained released models with true statistics."""
    torch.manual_seed(0)
    raw = FeatureExtractor(PARAMS.audio)(torch.from_numpy(tones([60, 64, 67, 72], 0))[None])[0]
    normalizer = Normalizer(raw.mean(dim=1), raw.std(dim=1) + 0.5)
    base = VQVAE(PARAMS.train_vqvae.base.model)
    for name, kind, model in (("vqvae", "vqvae", base), ("glow", "glow", Glow(PARAMS.train_glow.model))):
        for buffer in model.buffers():  # actnorm and codebooks count as initialised
            if buffer.dtype == torch.bool or buffer.numel() == 1:
                buffer.fill_(1)
        save_bundle(root / name, ModelBundle(kind, model, PARAMS.audio, normalizer), storage="float16")
    triplet = TripletNetwork(TripletConfig(12, 16, (4, 4, 4, 2)))
    save_bundle(root / "timbre_metric", ModelBundle("triplet", triplet, PARAMS.audio, None))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("clone"))
    for seed, name in enumerate(("artificial", "seen", "real")):
        write_set(layout.root / "data" / "testsets" / name, name, seed=seed)
        freeze(layout.root, name)
    write_released(layout.root / "released")
    return layout


def scores_of(layout: Layout, *, lsd: float, metric_digest: str = "") -> StoredRow:
    """Made-up figures of musaicing on the clips that are there."""
    evaluation = TestSetEvaluation("artificial", CONFIG, layout=layout, device="cpu")
    rows = [
        {"triple_id": f"artificial-{n}", **dict.fromkeys(COLUMNS[1:], 0.25), "lsd": lsd + n} for n in range(TRIPLES)
    ]
    return StoredRow(
        "musaicing",
        "artificial",
        evaluation.test_digest,
        metric_digest or evaluation.stored_metric_digest,
        pd.DataFrame(rows),
    )


@pytest.fixture(scope="module")
def table(layout: Layout) -> str:
    write_stored(stored_path(layout.baselines, "musaicing", "artificial"), scores_of(layout, lsd=10.0))
    run("artificial", CONFIG, layout=layout, device="cpu")
    return run("seen", CONFIG, layout=layout, device="cpu").summary


def test_a_fresh_clone_gets_the_table_and_is_told_what_is_left_out(layout: Layout, table: str) -> None:
    folder = layout.root / "results" / "testsets" / "artificial"
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.json",
        "per_clip.parquet",
        "table.md",
        "timing.json",
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    shown = ["content_copied", "style_copied", "musaicing", "vqvae", "glow", "oracle"]
    assert sorted(metrics["systems"]) == sorted(shown)
    assert metrics["systems"]["musaicing"]["lsd"]["value"] == pytest.approx(11.0)
    assert metrics["systems"]["oracle"]["timbre_gap_closed"]["value"] == pytest.approx(1.0)
    assert set(metrics["comparisons"]) == {"glow - vqvae"}
    assert set(metrics["weights"]) == {"vqvae", "glow"}
    clips = pd.read_parquet(folder / "per_clip.parquet")
    assert clips.groupby("system").size().to_dict() == dict.fromkeys(shown, TRIPLES)
    words = (folder / "table.md").read_text()
    assert "VQ-VAE, 2021 recipe is left out" in words
    assert "Ulyanov-Lebedev is left out" in words
    assert "Glow's decoder, without flow is left out: The model glow has no decoder" in words  # a small model
    assert "12.16" in words  # the 2021 paper's VQ-VAE


def test_both_sets_give_the_gap_to_unseen_timbres(layout: Layout, table: str) -> None:
    assert "Gap seen -> unseen" in table
    stored = {
        name: json.loads((layout.root / "results" / "testsets" / name / "metrics.json").read_text())
        for name in ("artificial", "seen")
    }
    unseen, seen = (stored[name]["systems"]["glow"]["timbre"]["value"] for name in ("artificial", "seen"))
    assert stored["seen"]["generalisation_gap"]["glow"]["timbre"] == pytest.approx((unseen - seen) / seen, rel=0.01)
    assert stored["artificial"]["generalisation_gap"] == {}


def test_tables_through_two_vocoders_are_not_compared(layout: Layout, table: str) -> None:
    path = layout.root / "results" / "testsets" / "seen" / "metrics.json"
    stored = json.loads(path.read_text())
    summary = Summary(TRIPLES, {}, {})
    assert generalisation_gap("artificial", summary, stored, path.parents[1]) == ({}, [])
    for part in ("vocoder", "refiner"):
        other = {**stored, "weights": {**stored["weights"], part: "another"}}
        assert "another vocoder or refiner" in generalisation_gap("artificial", summary, other, path.parents[1])[1][0]


def test_models_are_measured_with_the_refiner_beside_them_unless_without_it_is_asked_for(
    layout: Layout, tmp_path: Path
) -> None:
    released = layout.released / "refiner"
    torch.manual_seed(1)
    model = Refiner(PARAMS.train_refiner.model)
    torch.nn.init.normal_(model.network.out_proj.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    save_bundle(released, ModelBundle("refiner", model, PARAMS.audio, None))
    try:
        for name, refined in (("with", True), ("without", False)):
            run("real", CONFIG, layout=layout, systems=["vqvae"], out=tmp_path / name, refined=refined, device="cpu")
    finally:
        shutil.rmtree(released)
    stored = {name: json.loads((tmp_path / name / "real" / "metrics.json").read_text()) for name in ("with", "without")}
    assert set(stored["with"]["weights"]) == {"vqvae", "refiner"}
    assert set(stored["without"]["weights"]) == {"vqvae"}
    figures = [stored[name]["systems"]["vqvae"]["lsd"]["value"] for name in stored]
    assert abs(figures[0] - figures[1]) > 0.01


def test_a_stored_row_that_computes_the_same_is_reproduced_and_another_is_not(
    layout: Layout, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = recompute("artificial", "oracle", CONFIG, layout=layout, clips=2, device="cpu")
    assert again.reproduced
    assert again.clips == 2
    # The stored figures of musaicing were made up here.
    monkeypatch.setitem(BUILDERS, "musaicing", lambda context, layout, say: Oracle(context))
    other = recompute("artificial", "musaicing", CONFIG, layout=layout, clips=2, device="cpu")
    assert not other.reproduced
    assert "10.500 stored" in other.sentence
    assert "NOT reproduced" in other.sentence


def test_a_slow_row_that_was_stored_is_reproduced_by_its_own_code(layout: Layout) -> None:
    path = store("seen", "musaicing", CONFIG, layout=layout, device="cpu")
    assert path == layout.root / "released" / "baselines" / "musaicing" / "seen.csv"
    again = recompute("seen", "musaicing", CONFIG, layout=layout, clips=2, device="cpu")
    assert again.reproduced
    with pytest.raises(TimbreflowError, match="with every table"):
        store("seen", "glow", CONFIG, layout=layout, device="cpu")


def test_a_row_of_other_weights_is_not_computed_again(
    layout: Layout, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(layout.root / "results" / "testsets" / "artificial", tmp_path / "artificial")
    path = tmp_path / "artificial" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["weights"]["glow"] = "0123456789ab" + metrics["weights"]["glow"][12:]
    path.write_text(json.dumps(metrics))
    monkeypatch.setattr(recompute_stage, "TestSetEvaluation", None)
    with pytest.raises(
        TimbreflowError, match="Glow is of weights of glow with sha256 0123456789ab and .*released/glow"
    ):
        recompute("artificial", "glow", CONFIG, layout=layout, clips=2, out=tmp_path, device="cpu")


def test_the_released_vocoder_is_heard_in_every_row_of_its_features(layout: Layout, tmp_path: Path) -> None:
    clone = Layout(Path(shutil.copytree(layout.root, tmp_path / "clone")))
    plain = run("real", CONFIG, layout=clone, systems=("glow",), out=tmp_path / "plain", device="cpu").metrics
    bundle = load_bundle(clone.root / "released" / "vqvae")
    config = dataclasses.replace(
        PARAMS.train_vocoder.model, n_features=bundle.features.n_mels, hop_length=bundle.features.hop_length
    )
    vocoder = ModelBundle("vocoder", Vocoder(config), bundle.features, bundle.normalizer, {VERDICT: 1})
    save_bundle(clone.root / "released" / "vocoder", vocoder)
    heard = run("real", CONFIG, layout=clone, systems=("glow",), out=tmp_path / "heard", device="cpu").metrics
    moved = {key.split("/")[2] for key in plain if key.endswith("/lsd") and plain[key] != heard[key]}
    assert moved == {"glow", "oracle"}
    weights = json.loads((tmp_path / "heard" / "real" / "metrics.json").read_text())["weights"]
    assert weights["vocoder"] == weights_sha256(clone.root / "released" / "vocoder")
    with pytest.raises(TimbreflowError, match="oracle is of weights of vocoder with sha256 unknown"):
        recompute("real", "oracle", CONFIG, layout=clone, clips=1, out=tmp_path / "plain", device="cpu")


def test_examples_are_heard_and_seen(layout: Layout, tmp_path: Path) -> None:
    chosen = ("artificial-0", "artificial-2")
    said = write_examples("artificial", chosen, CONFIG, layout=layout, out=tmp_path / "out", device="cpu")
    assert [sentence.split(",")[0] for sentence in said] == list(chosen)
    names = ["content", "glow", "oracle", "style", "target", "vqvae"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [f"{triple}.png" for triple in chosen] + [f"{triple}-{name}.ogg" for triple in chosen for name in names]
    )
    sound, rate = soundfile.read(tmp_path / "out" / "artificial-0-glow.ogg")
    assert (len(sound), rate) == (int(SECONDS * RATE), RATE)
    content, _ = soundfile.read(tmp_path / "out" / "artificial-0-content.ogg")
    # As loud as the content, less where its peak would clip.
    assert sound.std() == pytest.approx(content.std(), rel=0.05) or abs(sound).max() > 0.9
    with pytest.raises(TimbreflowError, match="no triple artificial-9; its ids go from artificial-0 to artificial-2"):
        write_examples("artificial", ["artificial-9"], CONFIG, layout=layout, out=tmp_path, device="cpu")


def test_the_worst_triples_are_those_of_the_last_evaluation(layout: Layout, table: str) -> None:
    del table  # it was written to results/testsets
    rows = pd.read_parquet(layout.results("testsets") / "artificial" / "per_clip.parquet")
    errors = rows[rows["system"] == "vqvae"].set_index("triple_id")["lsd"]
    worst = worst_triples("artificial", 2, layout=layout)
    assert len(worst) == 2 and worst[0] == errors.idxmax()
    assert errors[worst].min() >= errors.drop(worst).max()
    with pytest.raises(TimbreflowError, match=r"per_clip.parquet is missing; evaluate again"):
        worst_triples("nowhere", 2, layout=layout)
    with pytest.raises(TimbreflowError, match="no row mine"):
        worst_triples("artificial", 2, layout=layout, system="mine")


def test_fonts_that_are_missing_are_fetched_or_all_named(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, said = [], []

    def offline(name: str, root: Path) -> None:
        asked.append(name)
        raise TimbreflowError("the line is dead.")

    monkeypatch.setattr(testset_sources, "fetch", offline)
    others = [name for name in TRAINING_FONTS if name != "TimGM6mb"]
    with pytest.raises(TimbreflowError, match=f"are missing .*corpus fetch {' '.join(others)}`") as caught:
        store("seen", "transcribe_and_render", CONFIG, layout=layout, device="cpu", say=said.append)
    assert asked == others and len(said) == len(others)
    assert "\n" not in str(caught.value)


def test_stored_figures_of_other_metrics_are_left_out_or_refused(layout: Layout, table: str, tmp_path: Path) -> None:
    path = stored_path(layout.baselines, "musaicing", "artificial")
    kept = path.read_bytes()
    write_stored(path, scores_of(layout, lsd=10.0, metric_digest="another"))
    try:
        with pytest.raises(TimbreflowError, match="other clips or metrics"):
            run("artificial", CONFIG, layout=layout, systems=["musaicing"], out=tmp_path, device="cpu")
    finally:
        path.write_bytes(kept)


def test_late_onsets_count_on_the_real_set_alone(layout: Layout) -> None:
    """The same clips as a set of recordings, with notes that git has 100 ms early."""
    for name in ("real", "artificial"):
        folder = layout.root / "data" / "testsets" / name
        path = folder / "clip_notes.parquet"
        kept = path.read_bytes()
        notes = pd.read_parquet(path)
        write_clip_notes(folder, notes.assign(onset=(notes["onset"] - 0.1).astype("float32")))
        freeze(layout.root, name)
        report = run(name, CONFIG, layout=layout, systems=["oracle"], clips=2, device="cpu")
        path.write_bytes(kept)
        freeze(layout.root, name)
        score = report.metrics[f"testset/{name}/content_copied/onset_f1"]
        assert score > 0.5 if name == "real" else score < 0.2


def test_families_are_judged_where_the_target_has_one(layout: Layout, tmp_path: Path) -> None:
    data = Layout(tmp_path)
    for number, split in enumerate(("train", "validation")):
        write_set(tmp_path / split, split, seed=10 + number)
    tables = [pd.read_parquet(tmp_path / split / "manifest.parquet") for split in ("train", "validation")]
    for split in ("train", "validation"):
        shutil.copytree(tmp_path / split / split, data.audio / split)
    write_manifest(data.audio, pd.concat(tables, ignore_index=True))
    place = layout.root / "released" / "family_classifier"
    family = FamilyConfig(hidden=16, batch_size=16, steps=60)
    try:
        report = train_family(layout=data, config=family, folder=place)
        assert load_family_classifier(place).facts["validation_clips"] == 6
        assert report.metrics["validation_accuracy"] > 0.5
        shown = run("artificial", CONFIG, layout=layout, systems=["glow"], clips=0, out=tmp_path / "out", device="cpu")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    assert "true targets' families" in shown.summary
    clips = pd.read_parquet(tmp_path / "out" / "artificial" / "per_clip.parquet")
    assert clips.groupby("triple_id")["family"].apply(lambda column: column.isna().all()).tolist() == [False] * 2 + [
        True
    ]


def encode_anew(folder: Path, split: str, *, gain: float = 1.0) -> None:
    """What another libFLAC makes of a set: the same samples in other bytes at other places; or, with a gain, not so."""
    manifest, shards = read_manifest(folder), AudioShards(folder, sample_rate=RATE)
    rows = manifest.set_index("clip_id")[["shard", "offset", "nbytes"]]
    clips = []
    for clip, place in rows.iterrows():
        made = io.BytesIO()
        # `AudioShards` gives the 16-bit samples exactly.
        soundfile.write(made, gain * shards.read(*place), RATE, "PCM_16", format="FLAC", compression_level=0.0)
        clips.append((str(clip), made.getvalue()))
    entries = {entry.clip_id: entry for entry in write_shard(folder / split / "shard-00000.tar", clips)}
    for column in ("offset", "nbytes"):
        manifest[column] = [getattr(entries[clip], column) for clip in manifest["clip_id"]]
    write_manifest(folder, manifest.assign(peak=manifest["peak"] * 0.999))


@pytest.fixture
def copy(layout: Layout, tmp_path: Path) -> Layout:
    """Another checkout with the same set and weights."""
    for part in ("released", "data/testsets/artificial"):
        shutil.copytree(layout.root / part, tmp_path / part)
    return Layout(tmp_path)


def test_a_stored_row_is_taken_where_another_encoder_made_the_sound_and_the_temperature_is_another(
    layout: Layout, copy: Layout
) -> None:
    folder = copy.root / "data" / "testsets" / "artificial"
    write_stored(stored_path(copy.baselines, "musaicing", "artificial"), scores_of(layout, lsd=10.0))
    before = digest_of_clips([TestSetEvaluation("artificial", CONFIG, layout=copy, device="cpu").clips])
    encode_anew(folder, "artificial")
    other = TestSetEvaluation("artificial", CONFIG, layout=copy, device="cpu")
    assert digest_of_clips([other.clips]) != before
    hot = dataclasses.replace(CONFIG, temperature=CONFIG.temperature + 0.1)
    out = copy.root / "out"
    run("artificial", hot, layout=copy, systems=["musaicing"], out=out, device="cpu")
    metrics = json.loads((out / "artificial" / "metrics.json").read_text())
    assert metrics["systems"]["musaicing"]["lsd"]["value"] == pytest.approx(11.0)
    # Of rows that draw, the temperature is part of the digest; fewer clips have another one.
    assert metrics["metric_digest"] != other.metric_digest
    assert TestSetEvaluation("artificial", CONFIG, layout=copy, clips=2, device="cpu").test_digest != other.test_digest


@pytest.mark.parametrize("what", ["manifest", "clip_notes", "fewer", "garbage", "louder", "shard"])
def test_a_set_that_is_not_the_released_one_is_refused(copy: Layout, what: str) -> None:
    folder = copy.root / "data" / "testsets" / "artificial"
    manifest = read_manifest(folder)
    if what == "manifest":
        write_manifest(folder, manifest.assign(program=manifest["program"] + 1))
    elif what == "clip_notes":
        notes = pd.read_parquet(folder / "clip_notes.parquet")
        write_clip_notes(folder, notes.assign(pitch=notes["pitch"] + 1))
    elif what == "fewer":
        write_manifest(folder, manifest[manifest["triple_id"] != "artificial-0"])
    elif what == "garbage":
        (folder / "manifest.parquet").write_bytes(b"garbage")
    elif what == "louder":
        encode_anew(folder, "artificial", gain=0.5)
    else:
        (folder / "artificial" / "shard-00000.tar").unlink()
    with pytest.raises(TimbreflowError, match="run `timbreflow testset build artificial`"):
        run("artificial", CONFIG, layout=copy, systems=["oracle"], device="cpu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"testset": "nothing"}, "no test set"),
        ({"systems": ["vqvea"]}, "no system"),
        ({"systems": ["vqvae-2021"]}, "vqvae-2021"),
        ({"systems": ["ulyanov_lebedev"]}, "ulyanov_lebedev/artificial.csv is missing"),
    ],
)
def test_what_is_asked_for_and_not_there_is_one_sentence(layout: Layout, arguments: dict, words: str) -> None:
    with pytest.raises(TimbreflowError, match=words):
        run(**{"testset": "artificial", **arguments}, config=CONFIG, layout=layout, device="cpu")


def test_a_missing_set_a_stray_row_and_a_stray_name_are_refused(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "released").symlink_to(layout.root / "released")
    with pytest.raises(TimbreflowError, match="timbreflow testset build artificial"):
        run("artificial", CONFIG, layout=Layout(tmp_path), device="cpu")
    with pytest.raises(TimbreflowError, match="is missing"):
        recompute("real", "musaicing", CONFIG, layout=layout, device="cpu")
    with pytest.raises(TimbreflowError, match="1 or more"):
        recompute("artificial", "musaicing", CONFIG, layout=layout, clips=0, device="cpu")


def test_another_programs_files_are_a_row_of_the_table(layout: Layout, tmp_path: Path) -> None:
    """The targets themselves, as files, must score as well as a perfect system does; the content as content copied."""
    clips = EvaluationClips(layout.root / "data" / "testsets" / "real", "real", sample_rate=RATE, max_triples=0)
    for batch in clips.batches(1):
        for role in ("target", "content"):
            (tmp_path / role).mkdir(exist_ok=True)
            sound = np.pad(getattr(batch, role)[0], (0, 800))
            soundfile.write(tmp_path / role / f"{batch.triple_ids[0]}.wav", sound, RATE, "PCM_16")
    shared = {"layout": layout, "systems": ["oracle"], "device": "cpu"}
    made = run("real", CONFIG, outputs=tmp_path / "target", name="mine", out=tmp_path / "out", **shared)
    figures = {key.removeprefix("testset/real/"): value for key, value in made.metrics.items()}
    assert figures["mine/lsd"] < 0.5 < figures["oracle/lsd"]
    assert f"Cut to 2 s: {TRIPLES} of {TRIPLES} outputs in {tmp_path / 'target'}, by 0.05 s at most." in made.summary
    costs = [line for line in made.summary.splitlines() if line.startswith("mine ")][-1]
    assert costs.split()[-2:] == ["-", "-"], "neither speed nor size is known"
    assert "mine" in (tmp_path / "out" / "real" / "table.md").read_text(encoding="utf-8")
    before = sorted(layout.root.rglob("*"))
    copied = run("real", CONFIG, outputs=tmp_path / "content", **shared).metrics
    assert copied["testset/real/content/lsd"] == pytest.approx(copied["testset/real/content_copied/lsd"], abs=0.02)
    assert sorted(layout.root.rglob("*")) == before, "a table with another program's row is not the project's"
    with pytest.raises(TimbreflowError, match="has a row glow already"):
        run("real", CONFIG, outputs=tmp_path / "content", name="glow", **shared)
