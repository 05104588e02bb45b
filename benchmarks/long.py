"""Peak memory of `timbreflow transfer` for a long file, beside that of a short one: each in a process of its own.

The last line is JSON: seconds, peak resident memory in MB, and the ratio.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from timbreflow.inference.transfer import TimbreTransfer

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Peak memory of a long and of a short transfer.")
    parser.add_argument("--minutes", type=float, nargs=2, default=(1.0, 60.0), help="of both files (1 60)")
    parser.add_argument("--stereo", default="mono", help="as of timbreflow transfer (%(default)s)")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        session = TimbreTransfer.released("vqvae")
        style, out = ROOT / "docs/sounds/xylophone.ogg", options.one.with_name("out.wav")
        session.transfer_file(options.one, style, out, stereo=options.stereo)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return 0
    sound, rate = soundfile.read(ROOT / "docs/sounds/violin-tune.ogg", dtype="float32")
    peaks = []
    for minutes in options.minutes:
        with tempfile.TemporaryDirectory(dir=ROOT) as folder:
            path = Path(folder) / "content.wav"
            repeats = round(minutes * 60 * rate / len(sound)) or 1
            with soundfile.SoundFile(path, "w", rate, 2) as file:
                for _ in range(repeats):
                    file.write(np.stack((sound, 0.5 * sound), axis=1))
            command = [sys.executable, __file__, "--one", str(path), "--stereo", options.stereo]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks.append(float(found.stdout.split()[-1]))
            print(f"{minutes:g} min: {peaks[-1]:.0f} MB", file=sys.stderr, flush=True)
    print(json.dumps({"minutes": options.minutes, "peak_mb": [round(p) for p in peaks], "ratio": peaks[1] / peaks[0]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
