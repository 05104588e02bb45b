"""What all flows share: errors as one sentence."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_wrong_environment_ends_a_flow_with_one_sentence() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "flows.collect_midi"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TIMBREFLOW_RUNNER": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: TIMBREFLOW_RUNNER=nonsense")
    assert "Traceback" not in result.stderr
