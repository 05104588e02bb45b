"""Training on triples rendered on the fly ends with the weights of a training on the same triples from disk."""

import dataclasses
from typing import Any

import pytest

from tests import small
from tests.data.test_rendered_triples import FEW, stored
from tests.stages.test_train_stages import BASE, GLOW, PAPER
from timbreflow.errors import TimbreflowError
from timbreflow.files import write_json
from timbreflow.models.bundle import weights_sha256
from timbreflow.stages import train_glow, train_vqvae
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import ignore_metrics


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = stored(tmp_path_factory.mktemp("stored"), FEW)
    write_json(layout.results("validate_data") / "passed.json", {"data": "1234", "suites": ["manifest"]})
    return layout


def train(layout: Layout, name: str, online_triples: int) -> str:
    if name == "glow":
        section: Any = dataclasses.replace(GLOW, online_triples=online_triples)
        train_glow.run(section, small.MELS, FEW, layout=layout, log=ignore_metrics, device="cpu")
        return weights_sha256(layout.model("glow"))
    variant: Any = {"vqvae": "base", "vqvae-2021": "paper"}[name]
    section = dataclasses.replace({"base": BASE, "paper": PAPER}[variant], online_triples=online_triples)
    train_vqvae.run(variant, section, small.MELS, FEW, layout=layout, log=ignore_metrics, device="cpu")
    return weights_sha256(layout.model(name))


@pytest.mark.parametrize(
    "name", ["vqvae", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vqvae-2021", "glow"))]
)
def test_the_weights_are_those_of_a_training_from_disk(
    layout: Layout, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMBREFLOW_WORKERS", "1")
    from_disk = train(layout, name, 0)
    assert train(layout, name, FEW.triples.train) == from_disk
    if name == "vqvae":
        assert train(layout, name, 3 * FEW.triples.train) != from_disk


def test_online_triples_needs_the_settings_of_the_rendering(layout: Layout) -> None:
    with pytest.raises(TimbreflowError, match="online_triples"):
        train_glow.run(
            dataclasses.replace(GLOW, online_triples=5), small.MELS, layout=layout, log=ignore_metrics, device="cpu"
        )


def test_less_than_no_triple_is_refused() -> None:
    with pytest.raises(TimbreflowError, match="online_triples is -1"):
        dataclasses.replace(BASE, online_triples=-1)
