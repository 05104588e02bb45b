"""How well a flow knows a style."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tests.inference.tiny import melody
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json
from timbreflow.inference.familiarity import (
    FILE,
    Familiarity,
    known_styles,
    read_known_styles,
    style_echo,
    write_known_styles,
)
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.bundle import weights_sha256

RATE = 16000
ROOT = Path(__file__).resolve().parents[2]


def test_a_rank_among_known_styles(tmp_path: Path) -> None:
    known = known_styles([(value, value / 100) for value in range(101)], weights="abc", source="clips")
    found = known.place(25.0, 0.9)
    assert (found.rank, found.echo_rank) == (pytest.approx(0.75), pytest.approx(0.1))
    assert known.place(-5.0, 0.0).rank == 1.0
    assert known.place(500.0, 0.0).rank == 0.0
    write_known_styles(tmp_path, known)
    assert read_known_styles(tmp_path, weights="abc") == known
    assert read_known_styles(tmp_path, weights="of a later training") is None
    old = {name: value for name, value in read_json(tmp_path / FILE).items() if name != "echoes"}
    write_json(tmp_path / FILE, old)
    assert read_known_styles(tmp_path, weights="abc") is None
    (tmp_path / FILE).write_text('{"weights_sha256": "abc"}')
    with pytest.raises(TimbreflowError, match=r"familiarity\.json is damaged"):
        read_known_styles(tmp_path, weights="abc")
    with pytest.raises(TimbreflowError, match="has 3 styles; give 20 or more"):
        known_styles([(1.0, 0.1)] * 3, weights="abc", source="clips")


@pytest.mark.parametrize(("rank", "word"), [(0.8, "knows such sounds well"), (0.1, "little"), (0.0, "unlike those")])
def test_words(rank: float, word: str) -> None:
    assert word in Familiarity(3.0, 0.5, 0.2, rank).words


def test_a_style_is_placed_by_likelihood_and_echo(bundles: dict[str, Path], tmp_path: Path) -> None:
    session = TimbreTransfer.load(bundles["glow"])
    style = melody(3, RATE, seed=2)
    with pytest.raises(TimbreflowError, match="no distribution of known styles"):
        session.familiarity(style)
    bits, echo = session.style_figures(
        session.styles.reference(session._given(style, style, None, None, session._options({}))[0]).features
    )
    figures = zip(np.linspace(bits - 1, bits + 3, 50), np.linspace(0.5 * echo, 1.5 * echo, 50), strict=True)
    session.known_styles = known_styles(figures, weights="", source="clips")
    found = session.familiarity(style)
    assert (found.bits_per_dim, found.echo) == (pytest.approx(bits), pytest.approx(echo))
    assert found.rank == pytest.approx(0.75, abs=0.02)
    assert found.echo_rank == pytest.approx(0.5, abs=0.02)
    soundfile.write(tmp_path / "style.wav", style, RATE, subtype="FLOAT")
    assert session.familiarity_of_file(tmp_path / "style.wav").echo == pytest.approx(found.echo, rel=1e-2)
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    assert session.familiarity(noise) != found
    both = session.familiarity([style, noise])
    assert both.echo_rank == min(session.familiarity(noise).echo_rank, found.echo_rank)


def test_a_style_that_the_model_returns_has_no_echo(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    synthesizer = TimbreTransfer.load(bundles["glow"]).synthesizer
    style = torch.randn(1, 40, 64)
    monkeypatch.setattr(synthesizer, "predict", lambda content, request: content)
    assert style_echo(synthesizer, style) == pytest.approx(0.0, abs=1e-6)
    duller = torch.linspace(0, -3, 40)[:, None]
    monkeypatch.setattr(synthesizer, "predict", lambda content, request: content + duller)
    assert style_echo(synthesizer, style) > 0.3


def test_a_vqvae_cannot_say(bundles: dict[str, Path]) -> None:
    with pytest.raises(TimbreflowError, match="A vqvae has no likelihood"):
        TimbreTransfer.load(bundles["vqvae"]).familiarity(melody(1, RATE))


def test_the_released_glow_brings_its_distribution() -> None:
    folder = ROOT / "released" / "glow"
    known = read_known_styles(folder, weights=weights_sha256(folder))
    assert known is not None
    assert known.n_styles >= 200
    for figures in (known.quantiles, known.echoes):
        assert (np.diff(figures) >= 0).all()
        assert len(figures) == 101
