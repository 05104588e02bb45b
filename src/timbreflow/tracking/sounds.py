"""The sounds of an evaluation's first examples, to be heard on MLflow's page."""

import tempfile
from pathlib import Path

from timbreflow.evaluation.storage import read_evaluation, save_sounds
from timbreflow.files import read_json
from timbreflow.tracking.connection import clear_errors, connect

SOUNDS = "examples"
"""Folder among a run's artifacts."""
MAX_BYTES = 2_000_000


@clear_errors
def keep_sounds(evaluation: Path, run_file: Path, *, root: Path) -> None:
    """Keep content, style, target and every system's output with a run, as Ogg Vorbis: whole examples up to 2 MB.

    Args:
        evaluation: folder of an evaluation, whose worst clips are left to the report.
        run_file: what `Run.write_run_json` wrote.
        root: of the checkout.

    Raises:
        TimbreflowError: a file is missing or broken; MLflow refuses.
    """
    client, run_id = connect(root), read_json(run_file)["run_id"]
    left = MAX_BYTES
    for example in read_evaluation(evaluation).examples:
        if example.worst_of:
            continue
        with tempfile.TemporaryDirectory() as folder:
            save_sounds(Path(folder) / example.triple_id, example, suffix=".ogg")
            left -= sum(file.stat().st_size for file in Path(folder).iterdir())
            if left < 0:
                return
            client.log_artifacts(run_id, folder, SOUNDS)
