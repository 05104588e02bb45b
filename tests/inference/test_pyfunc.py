"""The MLflow model, saved and loaded as MLflow does it, with pickle forbidden."""

import io
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow.exceptions import MlflowException

from tests.inference.tiny import melody
from timbreflow.inference import pyfunc


def sound_file(audio: np.ndarray, rate: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format=kind)
    return buffer.getvalue()


CONTENT = sound_file(melody(1.3, 22050), 22050, "FLAC")
STYLE = sound_file(melody(1.0, 16000, seed=3), 16000, "WAV")


@pytest.fixture(scope="module")
def saved(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyfunc") / "model"
    mlflow.pyfunc.save_model(
        path,
        python_model=pyfunc.__file__,
        artifacts={pyfunc.BUNDLE: str(bundles["glow"])},
        signature=pyfunc.signature(),
        pip_requirements=["timbreflow"],
    )
    return path


@pytest.fixture(scope="module")
def model(saved: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        return mlflow.pyfunc.load_model(str(saved))


def test_nothing_is_pickled(saved: Path) -> None:
    suffixes = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert suffixes <= {".py", ".safetensors", ".json", ".yaml", ".txt", ""}
    assert "python_model.pkl" not in {path.name for path in saved.rglob("*")}


def test_bytes_in_wav_out(model: Any) -> None:
    frame = pd.DataFrame({"content": [CONTENT, STYLE], "style": [STYLE, CONTENT]})
    answer = model.predict(frame, params={"seed": 1, "temperature": 0.5})
    shapes = [soundfile.info(io.BytesIO(data)) for data in answer["audio"]]
    assert [(info.format, info.samplerate, info.frames) for info in shapes] == [
        ("WAV", 22050, round(1.3 * 22050)),
        ("WAV", 16000, 16000),
    ]


def test_parameters_reach_the_model(model: Any) -> None:
    frame = pd.DataFrame({"content": [CONTENT], "style": [STYLE]})
    first, same, other = (model.predict(frame, params={"seed": seed})["audio"][0] for seed in (1, 1, 2))
    assert first == same != other


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        (b"not a sound", STYLE, "content of row 0 cannot be read"),
        (CONTENT, b"", "style of row 0 is empty"),
        (CONTENT, sound_file(melody(0.1, 16000), 16000, "WAV"), "style of row 0 lasts 0.10 s"),
    ],
)
def test_bad_sound_names_row_and_column(model: Any, content: bytes, style: bytes, message: str) -> None:
    with pytest.raises(MlflowException, match=message) as caught:
        model.predict(pd.DataFrame({"content": [content], "style": [style]}))
    assert caught.value.get_http_status_code() == 400
    assert "/tmp" not in str(caught.value)


def test_an_unknown_device_is_refused_by_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBREFLOW_DEVICE", "gpu")
    with pytest.raises(Exception, match="TIMBREFLOW_DEVICE is 'gpu'; set it to auto, cpu, cuda"):
        mlflow.pyfunc.load_model(str(saved))
