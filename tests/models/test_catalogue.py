"""The table of models: a section without an entry is named, not answered by StopIteration."""

import pytest

from timbreflow.errors import TimbreflowError
from timbreflow.models.catalogue import CATALOGUE, trained_by


def test_each_section_finds_its_model() -> None:
    assert [trained_by(model.section) for model in CATALOGUE] == list(CATALOGUE)


def test_a_section_without_an_entry_is_named() -> None:
    with pytest.raises(TimbreflowError, match="'train_new'; enter it in CATALOGUE"):
        trained_by("train_new")
