"""The MLflow model, as code: two sound files in, a WAV file out.

MLflow runs this file itself (`mlflow.models.set_model` below) and hands it the folder of safetensors and JSON that was
logged with it; nothing is pickled. Columns `content` and `style` hold the bytes of any sound file that timbreflow
reads; over HTTP they are base64, and so is the answer's column `audio`.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import soundfile
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from timbreflow.errors import TimbreflowError
from timbreflow.inference.synthesis import DEFAULT_TEMPERATURE
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.devices import resolve_device

BUNDLE = "bundle"
"""Name of the logged folder among the model's artifacts."""


def signature() -> ModelSignature:
    """Columns and parameters of the model."""
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "content"), ColSpec("binary", "style")]),
        outputs=Schema([ColSpec("binary", "audio")]),
        params=ParamSchema(
            [ParamSpec("temperature", "double", DEFAULT_TEMPERATURE), ParamSpec("seed", "long", 0)],
        ),
    )


def example() -> tuple[pd.DataFrame, dict[str, Any]]:
    """A request: half a second of one tone, to be played by another, and the parameters; 9 kB of FLAC."""
    seconds, rate = np.arange(8000) / 16000, 16000

    def tone(frequency: float, partials: int) -> bytes:
        waves = [np.sin(2 * np.pi * frequency * number * seconds) / number for number in range(1, partials + 1)]
        file = io.BytesIO()
        soundfile.write(file, 0.3 * np.exp(-2 * seconds) * np.sum(waves, axis=0), rate, format="FLAC")
        return file.getvalue()

    sounds = pd.DataFrame({"content": [tone(440.0, 3)], "style": [tone(330.0, 6)]})
    return sounds, {"temperature": DEFAULT_TEMPERATURE, "seed": 0}


class TimbreTransferModel(PythonModel):
    """A bundle behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load safetensors and JSON from the folder that was logged as `bundle`."""
        self._transfer = TimbreTransfer.load(context.artifacts[BUNDLE], device=resolve_device())

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Transfer each row.

        Args:
            context: unused; `load_context` has read it.
            model_input: columns `content` and `style`, bytes of sound files.
            params: `temperature` and `seed`.

        Returns:
            One column, `audio`: bytes of a WAV file with the content's length, rate, channels and bits.

        Raises:
            MlflowException: a sound cannot be used (HTTP 400 over `mlflow models serve`).
        """
        given = params or {}
        temperature, seed = float(given.get("temperature", DEFAULT_TEMPERATURE)), int(given.get("seed", 0))
        pairs = zip(model_input["content"], model_input["style"], strict=True)
        return pd.DataFrame(
            {
                "audio": [
                    self._one(row, content, style, temperature=temperature, seed=seed)
                    for row, (content, style) in enumerate(pairs)
                ]
            }
        )

    def _one(self, row: int, content: bytes, style: bytes, *, temperature: float, seed: int) -> bytes:
        with tempfile.TemporaryDirectory(prefix="timbreflow-") as folder:
            paths = {part: Path(folder) / part for part in ("content", "style")}
            paths["content"].write_bytes(content)
            paths["style"].write_bytes(style)
            out = Path(folder) / "audio.wav"
            try:
                self._transfer.transfer_file(paths["content"], paths["style"], out, temperature=temperature, seed=seed)
            except TimbreflowError as error:
                message = str(error)
                for part, path in paths.items():
                    message = message.replace(str(path), f"{part} of row {row}")
                raise MlflowException(message, error_code=INVALID_PARAMETER_VALUE) from error
            return out.read_bytes()


mlflow.models.set_model(TimbreTransferModel())
