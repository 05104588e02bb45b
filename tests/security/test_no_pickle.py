"""Nothing that a user can supply is unpickled or run: each reader is handed a pickle that would make a file."""

import ast
import gzip
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tests.inference.tiny import save_bundles
from tests.small import FIT
from timbreflow.app.listening.answers import DATABASE, Answers
from timbreflow.app.listening.study import STUDY, read_study
from timbreflow.audio.files import read_audio
from timbreflow.config import load_params
from timbreflow.data.manifest import read_manifest
from timbreflow.data.mels import MelShards
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.stored import read_stored
from timbreflow.evaluation.storage import read_table
from timbreflow.files import read_json
from timbreflow.inference.pairs import read_pairs
from timbreflow.inference.songs import read_song
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.metrics.family import load_family_classifier
from timbreflow.models.bundle import load_bundle
from timbreflow.notes.pieces import Reject
from timbreflow.notes.reading import read_piece
from timbreflow.notes.sources.archives import Item
from timbreflow.notes.tables import NoteTables
from timbreflow.rendering.soundfonts import played_samples
from timbreflow.tracking.registry import resolve
from timbreflow.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
LOADERS = {"pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
CALLS = {"torch.load", "pd.read_pickle", "pandas.read_pickle", "joblib.load", "eval", "exec", "os.system"}


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._place),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What must not exist after the test."""
    mark = tmp_path / "was-run"
    pickle.loads(pickle.dumps(Payload(tmp_path / "works")))
    assert (tmp_path / "works").exists(), "the payload itself must work"
    return mark


def no_library(source: str, path: Path) -> list[str]:
    """Imports and calls of a file that could unpickle or run data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.partition(".")[0] in LOADERS]
            case ast.ImportFrom(module=str(module)):
                found += [module] if module.partition(".")[0] in LOADERS else []
            case ast.Call(func=function, keywords=keywords):
                found += [ast.unparse(function)] if ast.unparse(function) in CALLS else []
                for keyword in keywords:
                    value = ast.unparse(keyword.value)
                    if (keyword.arg, value) in (("allow_pickle", "True"), ("weights_only", "False"), ("shell", "True")):
                        found.append(f"{keyword.arg}={value}")
    return [f"{path}: {words}" for words in found]


def test_the_code_names_no_unpickler() -> None:
    assert no_library("import pickle\ntorch.load(x, weights_only=False)", Path("x")) != []
    files = [path for folder in ("src", "flows") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    assert [line for path in files for line in no_library(path.read_text(encoding="utf-8"), path)] == []


def refuses(read: Callable[[], object], mark: Path) -> None:
    with pytest.raises((TimbreflowError, Reject)):
        read()
    assert not mark.exists()


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "sound": ("a.wav", read_audio),
    "song": ("a.mid", read_song),
    "notes": ("a.musicxml", lambda path: read_piece(Item(path.name, path.read_bytes(), 1), limits())),
    "note table": ("notes.parquet", lambda path: NoteTables.read(path.parent)),
    "manifest": ("manifest.parquet", lambda path: read_manifest(path.parent)),
    "clip table": ("per_clip.parquet", lambda path: read_table(path.parent)),
    "features": ("a.npy", lambda path: MelShards(path.parent).shard(path.name)),
    "stored row": ("a.csv", read_stored),
    "pairs": ("a.csv", read_pairs),
    "soundfont": ("a.sf2", played_samples),
    "json": ("a.json", read_json),
    "params": ("params.yaml", load_params),
    "study": (STUDY, lambda path: read_study(path.parent)),
}


def limits() -> Any:
    from timbreflow.config import preset_params

    return preset_params("default").collect_midi.limits


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", READERS)
def test_a_pickle_in_place_of_a_file_is_refused(kind: str, packed: bool, tmp_path: Path, mark: Path) -> None:
    name, read = READERS[kind]
    data = pickle.dumps(Payload(mark))
    (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    refuses(lambda: read(tmp_path / name), mark)


def test_an_array_of_objects_is_refused(tmp_path: Path, mark: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[[Payload(mark)]]], dtype=object))
    refuses(lambda: MelShards(tmp_path).shard("a.npy"), mark)


def test_a_table_of_objects_stays_bytes(tmp_path: Path, mark: Path) -> None:
    pd.DataFrame({"set": [pickle.dumps(Payload(mark))]}).to_parquet(tmp_path / "per_clip.parquet")
    assert isinstance(read_table(tmp_path)["set"][0], bytes)
    assert not mark.exists()


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir", "python/name:os.mkdir", "python/module:os"])
def test_yaml_runs_nothing(tag: str, tmp_path: Path, mark: Path) -> None:
    for name, read in (
        ("params.yaml", lambda: load_params(tmp_path / "params.yaml")),
        (STUDY, lambda: read_study(tmp_path)),
    ):
        (tmp_path / name).write_text(f"title: !!{tag} ['{mark}']\n")
        refuses(read, mark)


def test_a_pickled_model_is_refused(tmp_path: Path, mark: Path) -> None:
    folder = save_bundles(tmp_path)["vqvae"]
    torch.save({"x": Payload(mark)}, folder / "weights.safetensors")
    refuses(lambda: load_bundle(folder), mark)
    refuses(lambda: TimbreTransfer.load(folder), mark)
    # Files of other names beside it are no part of it.
    folder = save_bundles(tmp_path)["glow"]
    for name in ("python_model.pkl", "model.pt", "pytorch_model.bin", "weights.pt", "hook.py"):
        (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    load_bundle(folder)
    assert not mark.exists()


def test_pickled_weights_of_the_families_are_refused(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    (tmp_path / "config.json").write_text("{}")
    refuses(lambda: load_family_classifier(tmp_path), mark)


@pytest.mark.parametrize("name", ["model", "ema", "optimizer", "best"])
def test_a_pickled_checkpoint_is_refused(name: str, tmp_path: Path, mark: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints = Checkpoints(tmp_path, FIT, model=model, ema=torch.nn.Linear(2, 2), optimizer=optimizer)
    from timbreflow.training.checkpoint import FitState

    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoints.save(FitState(step=1), {"x": torch.ones(1)})
    checkpoints.load()
    torch.save({"x": Payload(mark)}, tmp_path / "step-00000001" / f"{name}.safetensors")
    refuses(checkpoints.load, mark)


def test_a_database_of_answers_stays_text(tmp_path: Path, mark: Path) -> None:
    from tests.app.listening.conftest import small_study, write_small

    write_small(tmp_path / "study", small_study())
    (tmp_path / "study" / DATABASE).write_bytes(pickle.dumps(Payload(mark)))
    refuses(lambda: Answers(tmp_path / "study", read_study(tmp_path / "study")), mark)


def test_a_model_of_the_registry_gives_its_weights_and_runs_no_code(tmp_path: Path, mark: Path) -> None:
    """Whoever may write to the registry can put code and pickles beside the weights; a transfer takes the weights."""
    from mlflow import MlflowClient

    from timbreflow.tracking.connection import connect
    from timbreflow.tracking.registry import BUNDLE

    client: MlflowClient = connect(tmp_path)
    source = tmp_path / "planted"
    save_bundles(source / "artifacts")
    (source / "artifacts" / "vqvae").rename(source / "artifacts" / BUNDLE)
    (source / "python_model.pkl").write_bytes(pickle.dumps(Payload(mark)))
    (source / "model.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    flavor = {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl", "code": "."}
    (source / "MLmodel").write_text(json.dumps({"flavors": {"python_function": flavor}}))
    client.create_registered_model("timbreflow-vqvae")
    client.create_model_version("timbreflow-vqvae", source=source.as_uri())
    folder = resolve("models:/timbreflow-vqvae/1", root=tmp_path).folder
    load_bundle(folder)
    assert not mark.exists()


def test_safetensors_of_another_model_are_no_code_either(tmp_path: Path, mark: Path) -> None:
    folder = save_bundles(tmp_path)["vqvae"]
    save_file(
        {"x": torch.frombuffer(bytearray(pickle.dumps(Payload(mark))), dtype=torch.uint8)},
        folder / "weights.safetensors",
    )
    refuses(lambda: load_bundle(folder), mark)
