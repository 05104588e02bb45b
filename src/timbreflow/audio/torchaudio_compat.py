"""The only importer of torchaudio.

torchaudio's wheels carry a compiled extension that is built against CUDA: beside a CPU build of torch,
`import torchaudio` fails on it, although every transform that this project uses is pure PyTorch. When that
happens a stub stands in for `torchaudio._extension` that says "no extension", and the import is tried again.
"""

import importlib
import sys
from types import ModuleType


def _import_torchaudio() -> ModuleType:
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        sys.modules["torchaudio._extension"] = _stub_extension()
        return importlib.import_module("torchaudio")


def _stub_extension() -> ModuleType:
    stub = ModuleType("torchaudio._extension", "Stand-in for torchaudio's compiled extension: there is none.")

    def fail_if_no_align(function: object) -> object:
        # Only forced alignment needs the extension; it is not used here and would fail with torchaudio's own message.
        return function

    vars(stub).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_RIR_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=fail_if_no_align,
    )
    return stub


torchaudio = _import_torchaudio()
transforms: ModuleType = importlib.import_module("torchaudio.transforms")
functional: ModuleType = importlib.import_module("torchaudio.functional")
