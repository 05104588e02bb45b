"""The store is made once, whoever asks first."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_processes_may_make_the_store_at_once(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from timbreflow.tracking.connection import connect, experiment_id\n"
    script += "root = Path(sys.argv[1]); print(experiment_id(connect(root), root))"
    both = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ids = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(ids) == 1
