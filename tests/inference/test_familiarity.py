"""How well a flow knows a style."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.inference.tiny import melody
from timbreflow.errors import TimbreflowError
from timbreflow.inference.familiarity import FILE, Familiarity, known_styles, read_known_styles, write_known_styles
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.bundle import weights_sha256

RATE = 16000
ROOT = Path(__file__).resolve().parents[2]


def test_a_rank_among_known_styles(tmp_path: Path) -> None:
    known = known_styles(np.arange(101.0), weights="abc", source="clips")
    assert known.place(25.0).rank == pytest.approx(0.75)
    assert known.place(-5.0).rank == 1.0
    assert known.place(500.0).rank == 0.0
    write_known_styles(tmp_path, known)
    assert read_known_styles(tmp_path, weights="abc") == known
    assert read_known_styles(tmp_path, weights="of a later training") is None
    (tmp_path / FILE).write_text('{"weights_sha256": "abc"}')
    with pytest.raises(TimbreflowError, match=r"familiarity\.json is damaged"):
        read_known_styles(tmp_path, weights="abc")
    with pytest.raises(TimbreflowError, match="has 3 styles; give 20 or more"):
        known_styles([1.0, 2.0, 3.0], weights="abc", source="clips")


@pytest.mark.parametrize(("rank", "word"), [(0.8, "knows such sounds well"), (0.1, "little"), (0.0, "unlike those")])
def test_words(rank: float, word: str) -> None:
    assert word in Familiarity(3.0, rank).words


def test_a_style_is_placed_by_its_likelihood(bundles: dict[str, Path], tmp_path: Path) -> None:
    session = TimbreTransfer.load(bundles["glow"])
    style = melody(3, RATE, seed=2)
    with pytest.raises(TimbreflowError, match="no distribution of known styles"):
        session.familiarity(style)
    bits = session.bits_per_dim(
        session.styles.reference(session._given(style, style, None, None, session._options({}))[0]).features
    )
    session.known_styles = known_styles(np.linspace(bits - 1, bits + 3, 50), weights="", source="clips")
    found = session.familiarity(style)
    assert found.bits_per_dim == pytest.approx(bits)
    assert found.rank == pytest.approx(0.75, abs=0.02)
    soundfile.write(tmp_path / "style.wav", style, RATE, subtype="FLOAT")
    assert session.familiarity_of_file(tmp_path / "style.wav").rank == pytest.approx(found.rank, abs=1e-3)
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    assert session.familiarity([style, noise]).rank == session.familiarity(noise).rank < found.rank


def test_a_vqvae_cannot_say(bundles: dict[str, Path]) -> None:
    with pytest.raises(TimbreflowError, match="A vqvae has no likelihood"):
        TimbreTransfer.load(bundles["vqvae"]).familiarity(melody(1, RATE))


def test_the_released_glow_brings_its_distribution() -> None:
    folder = ROOT / "released" / "glow"
    known = read_known_styles(folder, weights=weights_sha256(folder))
    assert known is not None
    assert known.n_styles >= 200
    assert (np.diff(known.quantiles) >= 0).all()
    assert len(known.quantiles) == 101
