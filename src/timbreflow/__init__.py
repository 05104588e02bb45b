"""timbreflow: one-shot music timbre transfer with a VQ-VAE and a conditioned Glow."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from timbreflow.errors import TimbreflowError

if TYPE_CHECKING:
    from timbreflow.inference.transfer import TimbreTransfer

__all__ = ["TimbreTransfer", "TimbreflowError"]

# Threads of OpenMP that spin while they wait for each other are slowed some thirty times by any other program that
# wants a core. The variable counts only when it is set before torch is imported, hence here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    """`timbreflow.TimbreTransfer`, which needs torch: imported when it is asked for."""
    if name == "TimbreTransfer":
        return import_module("timbreflow.inference.transfer").TimbreTransfer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
