"""The refiner beside a model: transfers and rows use it where it fits, and without one nothing changes."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.inference import tiny
from timbreflow.audio.features import Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.system import SystemContext
from timbreflow.evaluation.systems import DecoderAlone, ModelSystem, TrueRoll
from timbreflow.inference.refining import open_refiner, refiner_beside, refiner_sha256
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.inference.vocoding import identity
from timbreflow.models.bundle import ModelBundle, load_bundle, save_bundle
from timbreflow.models.glow.model import Glow
from timbreflow.models.note_reader import NoteReaderConfig
from timbreflow.models.refiner import Refiner, RefinerConfig
from timbreflow.models.vqvae import VQVAE
from timbreflow.notes.tables import Notes

FEATURES = tiny.FEATURES
CONTENT, STYLE = tiny.melody(2, 16000), tiny.melody(2, 16000, seed=1)


def save_models(folder: Path) -> None:
    """Untrained models whose piano-roll heads hear notes."""
    content = dataclasses.replace(tiny.CONTENT, pianoroll_head_width=8)
    for kind, build in (("vqvae", VQVAE), ("glow", Glow)):
        torch.manual_seed(2)
        model = build(dataclasses.replace(tiny.build(kind).config, content=content))  # type: ignore[arg-type, type-var]
        torch.nn.init.constant_(model.content_path.pianoroll_head.out_proj.bias, 0.0)  # type: ignore[union-attr, arg-type]
        normalizer = Normalizer(torch.full((40,), -1.0), torch.full((40,), 1.5))
        save_bundle(folder / kind, ModelBundle(kind, model, FEATURES, normalizer))


def save_refiner(folder: Path, *, trained: bool, fmax: float = FEATURES.fmax, reads: bool = False) -> None:
    torch.manual_seed(3)
    style = dataclasses.replace(tiny.STYLE)
    reader = NoteReaderConfig(4, (1,)) if reads else None
    model = Refiner(RefinerConfig(40, FEATURES.fmin, fmax, FEATURES.floor, style, "learned", 2, (8,), reader))
    if model.note_reader is not None:
        torch.nn.init.normal_(model.note_reader.out_proj.weight)
    if trained:
        torch.nn.init.normal_(model.network.out_proj.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    features = dataclasses.replace(FEATURES, fmax=fmax)
    save_bundle(folder / "refiner", ModelBundle("refiner", model, features, None))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    save_models(tmp_path)
    return tmp_path


def made(folder: Path, **options: float) -> np.ndarray:
    return TimbreTransfer.load(folder).transfer(CONTENT, STYLE, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["vqvae", "glow"])
def test_a_trained_refiner_is_heard_and_an_untrained_one_is_not(models: Path, kind: str) -> None:
    alone = made(models / kind)
    save_refiner(models, trained=False)
    np.testing.assert_array_equal(made(models / kind), alone)
    save_refiner(models, trained=True)
    assert np.abs(made(models / kind) - alone).max() > 0.01


@pytest.mark.parametrize("kind", ["vqvae", "glow"])
def test_a_refiner_with_a_reader_takes_the_notes_that_it_reads_in_content_and_style(models: Path, kind: str) -> None:
    save_refiner(models, trained=True, reads=True)
    session = TimbreTransfer.load(models / kind)
    synthesizer = session.synthesizer
    refiner = synthesizer.refiner
    assert refiner is not None
    seen: list[Tensor] = []
    refiner.register_forward_pre_hook(lambda _, given: seen.extend(given))
    session.transfer(CONTENT, STYLE)
    notes = load_bundle(models / kind).model.content_path.pianoroll  # type: ignore[operator, union-attr]
    for raw, roll in zip(seen[1:3], seen[3:], strict=True):
        with torch.inference_mode():
            heard = notes(synthesizer.normalizer.normalize(raw))
            torch.testing.assert_close(roll, refiner.read(raw, heard), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(roll, heard, atol=1e-2)


def test_a_conversion_is_not_refined(models: Path) -> None:
    def converted() -> np.ndarray:
        return TimbreTransfer.load(models / "glow").transfer(CONTENT, STYLE, mode="convert")

    alone = converted()
    save_refiner(models, trained=True)
    np.testing.assert_array_equal(converted(), alone)


def test_pieces_of_a_long_content_are_refined_each_with_the_style(models: Path) -> None:
    save_refiner(models, trained=True)
    session = TimbreTransfer.load(models / "vqvae")
    whole = session.transfer(tiny.melody(20, 16000), STYLE)
    assert whole.shape == (20 * 16000,)
    assert bool(np.isfinite(whole).all())


def sounds() -> list[Tensor]:
    return [torch.from_numpy(sound)[None] for sound in (CONTENT, STYLE, CONTENT)]


def context_of(folder: Path, *, refined: bool = True) -> SystemContext:
    return SystemContext(
        FEATURES, lambda name: folder, torch.device("cpu"), 0.0, 1.0, lambda _: lambda x, seed=0: x.flatten(1), refined
    )


def raw(folder: Path, *, refined: bool = True) -> Tensor:
    return ModelSystem(context_of(folder, refined=refined), "model").transfer(*sounds(), seed=0)


def test_rows_of_the_table_are_refined_unless_they_are_asked_without(models: Path) -> None:
    alone = raw(models / "vqvae")
    save_refiner(models, trained=True)
    assert not torch.allclose(raw(models / "vqvae"), alone, atol=1e-3)
    torch.testing.assert_close(raw(models / "vqvae", refined=False), alone)


def test_a_decoder_without_its_flow_is_refined_as_the_glow_is(models: Path) -> None:
    bundle = load_bundle(models / "glow")
    assert isinstance(bundle.model, Glow)
    model = Glow(dataclasses.replace(bundle.model.config, decoder_width=16, decoder_blocks=1))
    save_bundle(models / "glow", dataclasses.replace(bundle, model=model))
    save_refiner(models, trained=True)
    contexts = [context_of(models / "glow", refined=refined) for refined in (True, False)]
    refined, alone = (ModelSystem(context, "glow", DecoderAlone).transfer(*sounds(), seed=0) for context in contexts)
    assert not torch.allclose(refined, alone, atol=1e-3)


@pytest.mark.parametrize("reads", [False, True])
def test_a_model_that_is_told_the_contents_notes_still_finds_those_of_the_style(models: Path, reads: bool) -> None:
    bundle = load_bundle(models / "vqvae")
    assert isinstance(bundle.model, VQVAE)
    content = dataclasses.replace(bundle.model.config.content, pianoroll_channels=4)
    model = VQVAE(dataclasses.replace(bundle.model.config, content=content))
    save_bundle(models / "vqvae", dataclasses.replace(bundle, model=model))
    save_refiner(models, trained=True, reads=reads)
    system = TrueRoll(context_of(models / "vqvae"), "vqvae")
    refiner = system._synthesizer.refiner
    assert refiner is not None
    rolls: list[Tensor] = []
    refiner.register_forward_pre_hook(lambda _, given: rolls.extend(given[3:]))
    system.transfer(*sounds(), seed=0, notes=[Notes.of([0.2], [1.0], [60], [90])])
    given, found = rolls
    assert set(given.round(decimals=3).unique().tolist()) == {0.0, 1.0}
    with torch.inference_mode():
        features = system._synthesizer.features(sounds()[1])
        style = load_bundle(models / "vqvae").model.content_path.pianoroll(features)  # type: ignore[operator, union-attr]
        style = refiner.read(system._synthesizer.normalizer.denormalize(features), style)
    torch.testing.assert_close(found, style)


def test_only_a_refiner_that_fits_is_taken(models: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = load_bundle(models / "vqvae")
    place = refiner_beside(models / "vqvae")
    assert open_refiner(place, bundle) is None
    assert identity(models / "vqvae", models / "vocoder")["refiner_sha256"] == ""
    save_refiner(models, trained=True, fmax=7000.0)
    assert open_refiner(place, bundle) is None
    save_refiner(models, trained=True)
    assert isinstance(open_refiner(place, bundle), Refiner)
    assert len(refiner_sha256(models / "vqvae")) == 64
    deaf = tmp_path_factory.mktemp("deaf")
    tiny.save_bundles(deaf)  # models that predict no notes
    shutil.copytree(place, deaf / "refiner")
    assert refiner_sha256(deaf / "glow") == ""
    shutil.rmtree(place)
    shutil.copytree(models / "glow", place)
    with pytest.raises(TimbreflowError, match="holds a glow and no refiner"):
        open_refiner(place, bundle)
