"""torchaudio's transforms work whether or not its compiled extension can be loaded."""

import subprocess
import sys

import pytest
import torch

from timbreflow.audio.torchaudio_compat import transforms


def test_the_transforms_that_we_use_work_with_gradients() -> None:
    audio = torch.randn(2, 4000, requires_grad=True)
    mel = transforms.MelSpectrogram(16000, n_fft=512, hop_length=128, n_mels=32)(audio)
    mfcc = transforms.MFCC(16000, n_mfcc=13, melkwargs={"n_fft": 512, "hop_length": 128, "n_mels": 32})(audio)
    assert mel.shape == (2, 32, 32)
    assert mfcc.shape == (2, 13, 32)
    (mel.sum() + mfcc.sum()).backward()
    assert audio.grad is not None
    assert torch.isfinite(audio.grad).all()
    spectrum = transforms.Spectrogram(n_fft=512, hop_length=128, power=1.0)(audio.detach())
    sound = transforms.GriffinLim(n_fft=512, hop_length=128, power=1.0, n_iter=4, length=4000)(spectrum)
    assert sound.shape == (2, 4000)
    assert torch.isfinite(sound).all()


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_an_extension_that_cannot_be_loaded_does_not_matter(error: str) -> None:
    program = f"""
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "torchaudio._extension":
            raise {error}("libc10_cuda.so: cannot open shared object file")
sys.meta_path.insert(0, Broken())
from timbreflow.audio.torchaudio_compat import transforms
import torch
print(transforms.MelSpectrogram(16000, n_mels=32)(torch.randn(1, 16000)).shape[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ["32"], done.stderr
