"""Device names from the environment: what is there is taken, what is not there is named."""

import pytest
import torch

from timbreflow.errors import TimbreflowError
from timbreflow.models.devices import resolve_device
from timbreflow.workers import available_cores


def test_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBREFLOW_DEVICE", "cpu")
    assert resolve_device() == torch.device("cpu")
    monkeypatch.delenv("TIMBREFLOW_DEVICE")
    assert resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cuda:99"])
def test_impossible_names_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TIMBREFLOW_DEVICE", name)
    with pytest.raises(TimbreflowError, match="TIMBREFLOW_DEVICE"):
        resolve_device()


def test_threads_follow_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        resolve_device("cpu")
        assert torch.get_num_threads() == available_cores()
    finally:
        torch.set_num_threads(before)
