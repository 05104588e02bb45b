"""A full disk in every writing stage: one sentence, nothing half-written, and after room is made the stage goes on."""

import re
from collections.abc import Iterator

import pytest
from checkout import Checkout

from tests.small_disk import small_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.xdist_group("full disk")]

STAGES = {
    "collect_midi": ["flows.collect_midi"],
    "render_triples": ["flows.render_triples"],
    "extract_mels": ["flows.extract_mels"],
    "validate_data": ["flows.validate_data"],
    "train_timbre_metric": ["flows.train_timbre_metric"],
    "train_vqvae@paper": ["flows.train_vqvae", "paper"],
    "train_vqvae@base": ["flows.train_vqvae", "base"],
    "train_glow": ["flows.train_glow"],
    "train_refiner": ["flows.train_refiner"],
    "train_vocoder": ["flows.train_vocoder"],
    "evaluate": ["flows.evaluate"],
    "report": ["flows.report"],
}
"""Stage to its command, in the order in which one needs the others."""
NO_SCRATCH = ("evaluate", "report", "validate_data")
"""Stages that write to results/ alone."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("full") / "checkout")
    assert checkout.run("timbreflow", "ui").returncode == 0
    yield checkout
    checkout.run("timbreflow", "stop")


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(checkout: Checkout, stage: str) -> None:
    command = ["python", "-m", *STAGES[stage]]
    place, kilobytes = (f"results/{stage}", 4) if stage in NO_SCRATCH else (".scratch", 16)
    with small_disk(checkout.root / place, kilobytes):
        result = checkout.run(*command)
    assert result.returncode == 2, result.stdout[-3000:]
    sentences = re.findall(r"^error: .*$", result.stdout, re.MULTILINE)
    assert len(sentences) == 1, result.stdout[-3000:]
    assert re.search(r"No space left|cannot be written|requested and \d+ written", sentences[0]), sentences
    again = checkout.run(*command)
    assert again.returncode == 0, again.stdout[-3000:]
