"""Prefect flows: one file, one DVC stage, one flow. No maths, no paths, no hyperparameters.

Importing this package configures Prefect for this checkout before Prefect is imported: its home is `.prefect/`, its API
the server that `make ui` started or, where none answers, a temporary one on the same database, so that the next `make
ui` also shows the flow runs of a plain `dvc repro`.
"""

import os
from pathlib import Path

from timbreflow.app.servers import prefect_environment

ROOT = Path(os.environ.get("TIMBREFLOW_ROOT", Path(__file__).resolve().parent.parent))
_environment = prefect_environment(ROOT)
for _name in set(os.environ) - set(_environment):
    del os.environ[_name]
os.environ.update(_environment)
