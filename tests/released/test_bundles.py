"""Every released bundle loads, under the model's one name, and computes what it computed when it was released."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from timbreflow.models.bundle import load_bundle
from timbreflow.models.catalogue import CATALOGUE

RELEASED = Path(__file__).resolve().parents[2] / "released"


def drawn(rows: int, frames: int, seed: int) -> Tensor:
    return torch.randn(2, rows, frames, generator=torch.Generator().manual_seed(seed))


def prediction(model: Any) -> Tensor:
    rows = model.config.n_features
    found: Tensor = model(drawn(rows, 37, 1), drawn(rows, 21, 2)).prediction
    return found


def flow(model: Any) -> Tensor:
    """A sample at temperature 0, and the likelihood of a third clip."""
    content, style, x = drawn(128, 37, 1), drawn(128, 21, 2), drawn(128, 37, 3)
    output = model(x, content, style)
    return torch.cat([model.sample(output.conditions, temperature=0.0).flatten(), output.likelihood.nll_per_dim])


def change(model: Any) -> Tensor:
    """What the refiner adds where its last layer has been trained, and the notes that it reads."""
    spectra = (drawn(128, 37, 1), drawn(128, 37, 2), drawn(128, 21, 3))
    found: Tensor = model(*spectra, drawn(128, 37, 4).sigmoid(), drawn(128, 21, 5).sigmoid())
    return torch.cat([found.flatten(), model.note_logits(spectra[1], drawn(128, 37, 4).sigmoid()).flatten()])


# The flattened output at every quarter of its length, computed by the code of the release.
EXPECTED: dict[str, tuple[Callable[[Any], Tensor], list[float]]] = {
    "vqvae": (prediction, [0.05691, 0.47094, 0.26993, 0.43832, -0.61151]),
    "glow": (
        flow,
        [-0.01611, 0.45247, 0.14548, 0.47882, 7.19349],
    ),  # 36 of 37 frames: the flow takes whole groups of four
    "refiner": (change, [3.1114, 1.41352, -3.244, -3.7254, -1.49039]),
    "timbre_metric": (lambda model: model(drawn(12, 50, 6)).cumsum(-1), [0.0, 2.55116, 0.0, 2.62339, 3.63534]),
    "vocoder": (lambda model: model(drawn(128, 7, 4)), [0.01079, -0.00105, -0.02185, 0.02412, -0.01365]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_released_model_computes_what_it_did(name: str) -> None:
    compute, expected = EXPECTED[name]
    with torch.no_grad():
        found = compute(load_bundle(RELEASED / name).model).flatten()
    places = torch.tensor([0, len(found) // 4, len(found) // 2, 3 * len(found) // 4, len(found) - 1])
    torch.testing.assert_close(found[places], torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_every_model_of_the_catalogue_is_released_or_a_stored_row() -> None:
    stored = {path.name for path in (RELEASED / "baselines").iterdir()}
    for model in CATALOGUE:
        assert model.name in stored or load_bundle(RELEASED / model.name).kind == model.kind
    assert set(EXPECTED) == {model.name for model in CATALOGUE} - stored
