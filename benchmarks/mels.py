"""How fast log-mels are made in batches, beside librosa clip by clip.

- `ours`: `FeatureExtractor` on batches of clips, as the stage extract_mels makes them, on the CPU in one thread and, if
  there is one, on a CUDA device;
- `librosa`: `librosa.feature.melspectrogram` and the logarithm for each clip by itself, one thread.

They take turns over the same sound (noise of 8 s: a transform takes the same time whatever it is given) with the audio
settings of params.yaml. Seconds on the CPU are those of the core that was used (`time.process_time`), which other work
on the machine changes little. `largest_difference_db` compares the results. Figures are medians; the last line is JSON.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import librosa
import numpy as np
import torch
from small_data import ROOT

from timbreflow.audio.features import FeatureConfig, FeatureExtractor
from timbreflow.config import load_params

SECONDS = 8.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Log-mels in batches, beside librosa clip by clip.")
    parser.add_argument("--clips", type=int, default=32, help="clips of each pass, which are one batch (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each way (%(default)s)")
    options = parser.parse_args()
    if options.clips < 1 or options.repeats < 1:
        parser.error("--clips and --repeats must be 1 or more")
    torch.set_num_threads(1)
    print(json.dumps(measure(load_params(ROOT / "params.yaml").audio, options.clips, options.repeats)))
    return 0


def measure(features: FeatureConfig, n_clips: int, repeats: int) -> dict[str, Any]:
    """Medians of all ways.

    Args:
        features: settings; log_mel.
        n_clips: of each pass.
        repeats: passes of each way, interleaved.
    """
    random = np.random.default_rng(0)
    sound = 0.07 * random.standard_normal((n_clips, round(SECONDS * features.sample_rate)), dtype=np.float32)
    extractor, batch = FeatureExtractor(features).eval(), torch.from_numpy(sound)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: extractor(batch),
        "librosa": lambda: [_librosa(clip, features) for clip in sound],
    }
    if torch.cuda.is_available():
        fast, there = FeatureExtractor(features).eval().cuda(), batch.cuda()
        ways["ours_on_cuda"] = lambda: fast(there).cpu()  # waits for the device, as writing does
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        first = {name: way() for name, way in ways.items()}  # plans of the transforms, filters, compiled parts
        for repeat in range(repeats):
            for name, way in ways.items():
                clock = time.perf_counter if name.endswith("cuda") else time.process_time
                began = clock()
                way()
                seconds[name].append((clock() - began) / n_clips)
            figures = ", ".join(f"{name} {1000 * taken[-1]:.3f}" for name, taken in seconds.items())
            print(f"pass {repeat + 1} of {repeats}, ms a clip: {figures}", file=sys.stderr, flush=True)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    difference = np.abs(first["ours"].numpy() - np.stack(first["librosa"])).max() * 20 / np.log(10)
    return {
        "clips": n_clips,
        "repeats": repeats,
        "clip_seconds": SECONDS,
        "median_ms_per_clip": {name: round(1000 * taken, 3) for name, taken in median.items()},
        "times_real_time": {name: round(SECONDS / taken) for name, taken in median.items()},
        "ratio_to_librosa": {
            name: round(median["librosa"] / taken, 2) for name, taken in median.items() if name != "librosa"
        },
        "largest_difference_db": round(float(difference), 5),
    }


def _librosa(clip: np.ndarray, features: FeatureConfig) -> np.ndarray:
    """The same features of one clip."""
    mel = librosa.feature.melspectrogram(
        y=clip,
        sr=features.sample_rate,
        n_fft=features.n_fft,
        win_length=features.win_length,
        hop_length=features.hop_length,
        n_mels=features.n_mels,
        fmin=features.fmin,
        fmax=features.fmax,
        power=1.0,
        norm=None,
        pad_mode="constant",
    )
    return np.asarray(np.log(np.maximum(mel, features.floor))[:, : features.n_frames(len(clip))])


if __name__ == "__main__":
    sys.exit(main())
