"""The refiner: what an untrained one changes, what reaches its weights, and its variants."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests import small
from timbreflow.audio.features import Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json
from timbreflow.models.bundle import ModelBundle, Storage, load_bundle, save_bundle
from timbreflow.models.note_reader import TOO_SURE, NoteReaderConfig
from timbreflow.models.refiner import Refiner, RefinerConfig
from timbreflow.models.style import StyleConfig

STYLE = StyleConfig("tokens", width=8, dim=4, n_tokens=2, n_blocks=1, chunk_frames=0, max_bin_shift=0, noise=0.0)
CONFIG = RefinerConfig(
    n_features=small.MELS.n_mels,
    fmin=small.MELS.fmin,
    fmax=small.MELS.fmax,
    floor=small.MELS.floor,
    style=STYLE,
    lookup="learned",
    heads=2,
    widths=(8, 12),
)
READER = NoteReaderConfig(4, (1,))
VARIANTS = [{}, {"lookup": "hand_set"}, {"lookup": "none"}, {"widths": ()}, {"widths": (8,)}]


def refiner(**changes: object) -> Refiner:
    torch.manual_seed(1)
    model = Refiner(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    bands = model.config.n_features
    model.use_statistics(Normalizer(torch.full((bands,), -2.0), torch.full((bands,), 1.5)))
    return model


def inputs(clips: int = 2, frames: int = 20, reference: int = 28, bands: int = 24) -> tuple[torch.Tensor, ...]:
    """Prediction, content, style, and piano rolls with a note in each clip."""
    random = torch.Generator().manual_seed(3)
    rolls = [torch.rand(clips, 128, length, generator=random) * 0.3 for length in (frames, reference)]
    for number in range(clips):
        rolls[0][number, 60 + number, 3:9] = rolls[1][number, 57, 2:12] = 0.9
    spectra = (torch.randn(clips, bands, length, generator=random) - 2 for length in (frames, frames, reference))
    return (*spectra, *rolls)


@pytest.mark.parametrize("changes", VARIANTS)
def test_an_untrained_refiner_changes_nothing(changes: dict[str, object]) -> None:
    change = refiner(**changes)(*inputs())
    assert change.shape == (2, 24, 20)
    assert bool((change == 0).all())


@pytest.mark.parametrize("changes", VARIANTS)
def test_gradients_reach_every_weight(changes: dict[str, object]) -> None:
    model = refiner(**changes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model(*inputs()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_few_steps_bring_the_prediction_nearer_to_the_target(changes: dict[str, object]) -> None:
    model = refiner(**changes)
    prediction, *others = inputs()
    target = others[0] + 1.0
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        loss = F.l1_loss(prediction + model(prediction, *others), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_look_up_decides_what_comes_out() -> None:
    model = refiner()
    torch.nn.init.normal_(model.network.out_proj.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    *spectra, content_roll, style_roll = inputs()
    transposed = content_roll.roll(5, dims=1)
    assert not torch.allclose(
        model(*spectra, content_roll, style_roll), model(*spectra, transposed, style_roll), atol=1e-3
    )


@pytest.mark.parametrize("widths", [(8, 12, 16), (8, 12, 16, 20)])
def test_a_refiner_with_more_levels_begins_as_the_earlier_one(widths: tuple[int, ...]) -> None:
    earlier, deeper = refiner(widths=(8, 12), n_features=48).eval(), refiner(widths=widths, n_features=48).eval()
    for parameter in earlier.parameters():  # untrained, both change nothing
        torch.nn.init.normal_(parameter, std=0.1)
    deeper.load_state_dict(deeper.weights_of(earlier), strict=False)
    clips = inputs(bands=48)
    torch.testing.assert_close(deeper(*clips), earlier(*clips))
    deeper(*clips).square().sum().backward()
    assert deeper.network.ups[1].weight.grad.abs().sum() > 0  # the new levels learn


def test_a_refiner_of_other_widths_gives_its_weights_as_they_are() -> None:
    other = refiner(widths=(8, 16))
    assert refiner(widths=(8, 12, 16)).weights_of(other).keys() == other.state_dict().keys()


def test_without_a_reader_the_models_notes_are_taken_as_they_are() -> None:
    _, content, _, roll, _ = inputs()
    assert refiner().read(content, roll) is roll


def test_a_reader_hears_raw_features_by_the_refiners_statistics() -> None:
    _, content, _, roll, _ = inputs()
    model = refiner(note_reader=READER)
    torch.testing.assert_close(model.read(content, roll), (roll.logit(eps=1e-4) - TOO_SURE).sigmoid())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert model.note_reader is not None
    expected = model.note_reader((content + 2.0) / 1.5, roll)
    torch.testing.assert_close(model.note_logits(content, roll), expected)
    torch.testing.assert_close(model.read(content, roll), expected.sigmoid())


def test_gradients_reach_every_weight_of_the_reader() -> None:
    _, content, _, roll, _ = inputs()
    model = refiner(note_reader=READER)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.read(content, roll).square().mean().backward()
    assert model.note_reader is not None
    for name, parameter in model.note_reader.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("reader", [None, READER])
def test_a_bundle_gives_the_same_refiner_back_in_both_precisions(
    tmp_path: Path, reader: NoteReaderConfig | None
) -> None:
    model = refiner(note_reader=reader).eval()
    torch.nn.init.normal_(model.network.out_proj.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    bundle = ModelBundle("refiner", model, small.MELS, None)
    expected = model(*inputs())
    storages: tuple[Storage, ...] = ("float32", "float16")
    for storage in storages:
        save_bundle(tmp_path / "refiner", bundle, storage=storage)
        found = load_bundle(tmp_path / "refiner")
        assert found.kind == "refiner"
        tolerance = 1e-6 if storage == "float32" else 0.02
        torch.testing.assert_close(found.model(*inputs()), expected, atol=tolerance, rtol=tolerance)
        assert isinstance(found.model, Refiner)
        assert found.model.config.note_reader == reader


def test_a_bundle_of_before_the_reader_is_read(tmp_path: Path) -> None:
    save_bundle(tmp_path / "refiner", ModelBundle("refiner", refiner(), small.MELS, None))
    config = read_json(tmp_path / "refiner" / "config.json")
    del config["model"]["note_reader"]
    write_json(tmp_path / "refiner" / "config.json", config)
    found = load_bundle(tmp_path / "refiner").model
    assert isinstance(found, Refiner)
    assert found.note_reader is None


@pytest.mark.parametrize(
    ("changes", "words"), [({"heads": 0}, "heads"), ({"widths": (8, 0)}, "widths"), ({"widths": (8,) * 4}, "halved")]
)
def test_refused_shapes(changes: dict[str, object], words: str) -> None:
    with pytest.raises(TimbreflowError, match=words):
        refiner(**changes)
