"""The only importer of torchaudio.

torchaudio's wheels carry a compiled extension that is built against CUDA: beside a CPU build of torch,
`import torchaudio` fails on it, although every transform that this project uses is pure PyTorch. When that
happens a stub stands in for `torchaudio._extension` that says "no extension", and the import is tried again.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])


def _stand_in_for_extension() -> None:
    """Forget the half-made import and register the stub."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]
    stub = ModuleType("torchaudio._extension", "Stand-in for torchaudio's compiled extension: there is none.")
    vars(stub).update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False, fail_if_no_align=_unchanged)
    sys.modules["torchaudio._extension"] = stub


def _unchanged(function: FunctionT) -> FunctionT:
    # Forced alignment alone needs the extension; it is not used here, and fails by itself where it is called.
    return function


try:
    import torchaudio
except (ImportError, OSError):
    _stand_in_for_extension()
    import torchaudio

functional: ModuleType = torchaudio.functional
transforms: ModuleType = torchaudio.transforms
