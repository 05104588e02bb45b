"""The note reader: what an untrained one says, what reaches its weights, how far it sees, and what it can learn."""

import pytest
import torch
import torch.nn.functional as F

from timbreflow.errors import TimbreflowError
from timbreflow.models.lookup import band_of
from timbreflow.models.note_reader import HIGHEST, LOWEST, TOO_SURE, NoteReader, NoteReaderConfig, gather_maps

BANDS = {"n_bands": 128, "fmin": 20.0, "fmax": 8000.0}


def reader(*, dilations: tuple[int, ...] = (1, 2), random: bool = False) -> NoteReader:
    torch.manual_seed(1)
    model = NoteReader(NoteReaderConfig(8, dilations), **BANDS)  # type: ignore[arg-type]
    if random:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(frames: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    return torch.randn(2, 128, frames, generator=random), torch.rand(2, 128, frames, generator=random)


def test_an_untrained_reader_keeps_the_models_roll_and_calibrates_it() -> None:
    features, roll = inputs()
    roll = roll.clamp(0.001, 0.999)
    torch.testing.assert_close((reader()(features, roll) + TOO_SURE).sigmoid(), roll)


def test_gradients_reach_every_weight() -> None:
    model = reader(random=True)
    model(*inputs()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_frame_is_heard_alike_in_a_clip_of_any_length() -> None:
    model = reader(random=True).eval()
    features, roll = inputs(40)
    reach = 1 + 1 + 2  # of the first convolution and of the blocks
    whole, part = model(features, roll), model(features[..., 10:30], roll[..., 10:30])
    torch.testing.assert_close(part[..., reach:-reach], whole[..., 10 + reach : 30 - reach], atol=1e-4, rtol=1e-4)
    changed = features.clone()
    changed[..., 20] += 1.0
    differs = (model(changed, roll) - whole).abs().amax((0, 1)) > 1e-4
    assert differs.nonzero().flatten().tolist() == list(range(20 - reach, 20 + reach + 1))


def test_pitches_that_cannot_be_read_are_only_calibrated() -> None:
    features, roll = inputs()
    heard = reader(random=True)(features, roll)
    for part in (slice(0, LOWEST), slice(HIGHEST + 1, 128)):
        torch.testing.assert_close(heard[:, part], roll[:, part].logit(eps=1e-4) - TOO_SURE)


def test_the_bands_of_a_pitch_are_those_of_its_partials() -> None:
    maps = gather_maps(**BANDS)  # type: ignore[arg-type]
    second_partial_of_a4 = maps[7, 69 - LOWEST]
    place = float(band_of(torch.tensor([880.0]).numpy(), **BANDS)[0])  # type: ignore[arg-type]
    assert abs(float((second_partial_of_a4 * torch.arange(128)).sum()) - place) < 1e-4
    assert float(maps.sum(-1).max()) <= 1 + 1e-5
    assert float(maps[-1, -1].sum()) == 0  # twelve times 4186 Hz


def test_notes_that_the_model_did_not_find_are_learned() -> None:
    """Each frame has the partials of one pitch and a roll that says nothing."""
    random = torch.Generator().manual_seed(3)
    model = reader(dilations=(1,))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        pitches = torch.randint(40, 90, (4,), generator=random)
        features = sum(model.gather[3 * k + 1, pitches - LOWEST] for k in range(1, 8))
        true = F.one_hot(pitches, 128).float()
        return features[:, :, None].expand(-1, -1, 6) * 3.0 - 1.0, true[:, :, None].expand(-1, -1, 6)  # type: ignore[index, union-attr]

    for _ in range(60):
        features, true = batch()
        loss = F.binary_cross_entropy_with_logits(model(features, torch.full_like(true, 0.03)), true)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, true = batch()
    heard = model(features, torch.full_like(true, 0.03))
    assert bool((heard.argmax(1) == true.argmax(1)).all())


@pytest.mark.parametrize("settings", [{"width": 2, "dilations": (1,)}, {"width": 8, "dilations": (0,)}])
def test_refused_shapes(settings: dict[str, object]) -> None:
    with pytest.raises(TimbreflowError, match="note_reader"):
        NoteReaderConfig(**settings)  # type: ignore[arg-type]
