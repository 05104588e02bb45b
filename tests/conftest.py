"""What all tests share: a quiet, offline, single-threaded environment that touches nothing outside tmp_path."""

import os
import sys
from pathlib import Path

from hypothesis import settings

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    GX_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    TQDM_DISABLE="1",
)
os.environ.pop("MLFLOW_TRACKING_URI", None)

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent / "pipeline")]

# How long an example takes says how busy the machine is.
settings.register_profile("timbreflow", deadline=None)
settings.load_profile("timbreflow")
