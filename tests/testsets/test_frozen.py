"""The released test sets keep the rules by which they were drawn: proved from the files in git alone."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from timbreflow.config import preset_names, preset_text
from timbreflow.data.splits import effect_split, held_out_programs, piece_split, program_groups
from timbreflow.errors import TimbreflowError
from timbreflow.rendering.config import SplitFractions
from timbreflow.rendering.sampler import INSTRUMENTS
from timbreflow.rendering.timbres import Timbre
from timbreflow.testsets.frozen import (
    FRACTIONS,
    SAMPLE_RATE,
    TEST_SETS,
    TRAINING_FONTS,
    ReleasedSet,
    digest_of_sound,
    fingerprint,
    fingerprint_distance,
    read_checksums,
    read_released,
)

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "released" / "testsets"
TEST_FONT = "GeneralUser-v1.47"
SETS = {name: read_released(RELEASED, name) for name in TEST_SETS}


def _bins(released: ReleasedSet) -> dict[str, tuple[bool, bool]]:
    """Bin of each clip by its notes, with the paper's medians, written out anew here."""
    found = {}
    for clip, notes in released.notes().items():
        times = np.arange(0, 8, 0.01) + 0.005
        sounding = (notes.onset[:, None] <= times) & (times < (notes.onset + notes.duration)[:, None])
        counts = sounding.sum(axis=0)
        found[clip] = (counts[counts > 0].mean() >= 1.16, notes.pitch.astype(float).mean() >= 62.8)
    return found


def _triples(released: ReleasedSet) -> pd.DataFrame:
    rows = released.manifest.assign(bin=released.manifest["clip_id"].map(_bins(released)))
    return rows.pivot(index="triple_id", columns="role", values=["bin", "program", "piece_id", "timbre", "clip_id"])


@pytest.mark.parametrize(("name", "least"), [("artificial", 200), ("seen", 200), ("real", 60)])
def test_sets_are_large_enough_and_complete(name: str, least: int) -> None:
    released = SETS[name]
    triples = _triples(released)
    assert len(triples) == released.checksums.triples >= least
    assert not triples.isna().to_numpy().any() and len(released.manifest) == 3 * len(triples)
    assert set(released.manifest["split"]) == {name} and set(released.sound.index) == set(released.manifest["clip_id"])
    assert digest_of_sound(released.sound["sha256"].to_dict()) == released.checksums.sound
    assert (released.manifest["n_samples"] == 8 * SAMPLE_RATE).all()


@pytest.mark.parametrize("preset", preset_names())
def test_no_test_piece_is_a_training_piece(preset: str) -> None:
    config = YAML(typ="safe").load(preset_text(preset))["render_triples"]
    splits = SplitFractions(**config["splits"])
    assert splits == FRACTIONS
    trained = {font["name"] for font in config["soundfonts"] if font["role"] == "train"}
    assert not trained & {TEST_FONT, *INSTRUMENTS}
    for released in SETS.values():
        assert {piece_split(piece, splits) for piece in released.manifest["piece_id"]} == {"test"}


def test_rendered_training_data_shares_no_piece_with_the_test_sets() -> None:
    manifest = ROOT / "data" / "audio" / "manifest.parquet"
    if not manifest.is_file():
        pytest.skip("data/audio is not rendered here")
    clips = pd.read_parquet(manifest, columns=["split", "piece_id", "soundfont"])
    heard = clips[clips["split"].isin(["train", "validation"])]
    for released in SETS.values():
        assert not set(heard["piece_id"]) & set(released.manifest["piece_id"])
    assert not set(heard["soundfont"]) & {TEST_FONT, *INSTRUMENTS}


def test_the_test_font_and_the_recordings_sound_in_no_seen_clip() -> None:
    seen = {layer.soundfont for text in SETS["seen"].manifest["timbre"] for layer in Timbre.from_text(text).layers}
    assert seen == set(SETS["seen"].checksums.sources) and not seen & {TEST_FONT, *INSTRUMENTS}
    assert set(SETS["artificial"].manifest["soundfont"]) == {TEST_FONT}
    assert set(SETS["real"].manifest["soundfont"]) == set(INSTRUMENTS) == set(SETS["real"].checksums.sources)


def test_effects_and_programs_lie_on_the_right_side_of_the_split() -> None:
    for name, side in (("artificial", "test"), ("seen", "train")):
        timbres = [Timbre.from_text(text) for text in SETS[name].manifest["timbre"]]
        settings = {effect.setting for timbre in timbres for effect in timbre.effects}
        assert {effect_split(setting, FRACTIONS.test_effects) for setting in settings} == {side}
        assert {len(timbre.layers) for timbre in timbres} == {1}
    held_out = held_out_programs(program_groups(()), FRACTIONS.test_programs)
    assert held_out.isdisjoint(SETS["seen"].manifest["program"])


def test_programs_near_a_training_font_were_dropped() -> None:
    dropped = json.loads((RELEASED / "dropped_programs.json").read_text())
    assert len(dropped) >= 5 and all(entry["distance_db"] <= 2.5 for entry in dropped)
    assert not {entry["nearest"]["soundfont"] for entry in dropped} & {TEST_FONT}
    manifest = SETS["artificial"].manifest
    used = set(zip(manifest["bank"].tolist(), manifest["program"].tolist(), strict=True))
    assert not used & {(entry["bank"], entry["program"]) for entry in dropped}


@pytest.mark.parametrize("name", ["artificial", "seen"])
def test_bins_and_programs_obey_the_paper(name: str) -> None:
    triples = _triples(SETS[name])
    assert (triples["bin"]["content"] == triples["bin"]["style"]).all()
    assert (triples["program"]["content"] != triples["program"]["style"]).all()
    assert (triples["program"]["target"] == triples["program"]["style"]).all()
    assert (triples["piece_id"]["content"] != triples["piece_id"]["style"]).all()
    assert Counter(triples["bin"]["content"]) == dict.fromkeys(
        [(a, b) for a in (False, True) for b in (False, True)], 60
    )
    used = Counter()
    for _, row in triples.iterrows():
        used.update((row["bin"]["content"], row["program"][role]) for role in ("content", "style"))
    assert max(used.values()) <= 4


def test_the_names_and_fonts_that_the_code_knows_are_those_of_the_released_sets() -> None:
    checksums = read_checksums(RELEASED)
    assert set(checksums) == set(TEST_SETS)
    assert set(checksums["seen"].sources) == set(TRAINING_FONTS)


@pytest.mark.parametrize("name", TEST_SETS)
def test_four_seconds_of_every_clip_have_an_onset(name: str) -> None:
    for notes in SETS[name].notes().values():
        assert len(set(notes.onset.astype(int).tolist())) >= 4


def test_targets_have_the_contents_notes_and_the_styles_timbre() -> None:
    for released in SETS.values():
        notes, triples = released.notes(), _triples(released)
        assert (triples["timbre"]["target"] == triples["timbre"]["style"]).all()
        for _, row in triples["clip_id"].iterrows():
            content, target = notes[row["content"]], notes[row["target"]]
            assert all(np.array_equal(getattr(content, f), getattr(target, f)) for f in ("onset", "pitch", "velocity"))


def test_seen_has_the_notes_of_artificial_in_the_same_order() -> None:
    columns = ["role", "piece_id", "track", "start", "transposition"]
    pd.testing.assert_frame_equal(SETS["seen"].manifest[columns], SETS["artificial"].manifest[columns])


def test_recorded_instruments_play_only_what_is_recorded() -> None:
    released = SETS["real"]
    notes = released.notes()
    for clip, name in zip(released.manifest["clip_id"], released.manifest["soundfont"], strict=True):
        assert (
            INSTRUMENTS[name].lowest <= notes[clip].pitch.min() <= notes[clip].pitch.max() <= INSTRUMENTS[name].highest
        )


def test_fingerprints_tell_a_gain_and_survive_rounding() -> None:
    rng = np.random.default_rng(0)
    sound = (rng.normal(size=2 * SAMPLE_RATE) * 3000).astype(np.int16)
    packed = fingerprint(sound).astype("<f2").tobytes()
    assert len(packed) == 128
    assert fingerprint_distance(fingerprint(sound), packed) < 0.05
    assert fingerprint_distance(fingerprint((sound // 2).astype(np.int16)), packed) == pytest.approx(6.02, abs=0.1)


def test_a_touched_table_and_a_wrong_name_are_one_sentence(tmp_path: Path) -> None:
    copy = shutil.copytree(RELEASED, tmp_path / "testsets")
    with pytest.raises(TimbreflowError, match="no test set 'fake'"):
        read_released(copy, "fake")
    with open(copy / "real" / "manifest.parquet", "ab") as file:
        file.write(b"x")
    with pytest.raises(TimbreflowError, match="git checkout"):
        read_released(copy, "real")
    (copy / "checksums.json").write_text('{"real": {"manifest": 1}}')
    with pytest.raises(TimbreflowError, match="not what this version reads"):
        read_checksums(copy)


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in RELEASED.rglob("*") if path.is_file()) < 3e6
