"""`timbreflow promote` on real weights: evaluated, registered and compared as people do it, on tiny clips."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.stages.test_evaluate import write_clips, write_models
from tests.tiny_params import dump, tiny
from timbreflow.audio.features import FeatureExtractor
from timbreflow.cli import app
from timbreflow.config import Params, load_params, preset_text
from timbreflow.evaluation.clips import EvaluationClips
from timbreflow.models.bundle import load_bundle, save_bundle
from timbreflow.models.vqvae import VQVAE
from timbreflow.stages import evaluate
from timbreflow.stages.layout import Layout
from timbreflow.tracking.connection import connect

pytestmark = pytest.mark.slow
CRITERIA = {
    "lsd": {"better": "lower", "slack": 0.02, "limit": 100.0},
    "timbre_mfcc": {"better": "lower", "slack": 0.05, "limit": 10.0},
}


def train(layout: Layout, params: Params, *, steps: int) -> None:
    """Go on with the VQ-VAE of data/models, on the very clips that it is measured on: it gets better with each step."""
    folder = layout.model("vqvae")
    bundle = load_bundle(folder)
    model, normalizer = bundle.model, bundle.normalizer
    assert isinstance(model, VQVAE) and normalizer is not None
    extract = FeatureExtractor(params.audio)
    (batch,) = EvaluationClips(layout.audio, "test", sample_rate=params.audio.sample_rate, max_triples=0).batches(99)
    content, style, target = (
        normalizer.normalize(extract(torch.from_numpy(sound))) for sound in (batch.content, batch.style, batch.target)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (model(content, style).prediction - target).abs().mean().backward()
        optimizer.step()
    save_bundle(folder, bundle)


def change(layout: Layout, *, noise: float) -> None:
    """Other bytes: noise on the weights, as a share of each tensor's deviation, and a mark in the file's head."""
    path = layout.model("vqvae") / "weights.safetensors"
    generator = torch.Generator().manual_seed(0)
    weights = load_file(path)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.numel() > 1:
            weights[name] = tensor + noise * tensor.std() * torch.randn(tensor.shape, generator=generator)
    path.unlink()  # MLflow may have linked it
    save_file(weights, path, metadata={"noise": str(noise)})


def challenge(layout: Layout, params: Params, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Evaluate, register and promote what lies in data/models; exit code and what was printed."""
    evaluate.run(params.evaluate, params.audio, layout=layout, device="cpu")
    app(["register"], exit_on_error=False, result_action="return_value")
    capsys.readouterr()
    try:
        app(["promote", "vqvae"], exit_on_error=False, result_action="return_value")
    except SystemExit as ended:
        return int(str(ended.code)), capsys.readouterr().out
    return 0, capsys.readouterr().out


def test_noise_and_a_tie_are_refused_and_a_better_model_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    values = tiny(preset_text("default"))
    values["evaluate"] |= {"sets": ["test"], "systems": ["vqvae", "glow"], "examples": 0, "worst_examples": 0}
    values["evaluate"] |= {"griffin_lim_iterations": 8}
    values["register_models"]["gate"]["criteria"] = CRITERIA
    (tmp_path / "params.yaml").write_text(dump(values))
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    layout, params = Layout(tmp_path), load_params(tmp_path / "params.yaml")
    write_clips(layout, triples=8, seconds=2.0)
    write_models(layout, params.audio)
    train(layout, params, steps=20)
    champion = layout.model("vqvae") / "weights.safetensors"

    code, said = challenge(layout, params, capsys)
    assert (code, "version 1 is now the champion" in said) == (0, True), said
    good = champion.read_bytes()

    change(layout, noise=0.5)
    code, said = challenge(layout, params, capsys)
    assert code == 1 and "version 2 was not promoted" in said
    assert any("worse than the champion's" in line and "FAILED" in line for line in said.splitlines()), said

    champion.unlink()
    champion.write_bytes(good)
    change(layout, noise=0.0)
    code, said = challenge(layout, params, capsys)
    assert code == 1 and "version 3 was not promoted" in said
    failed = [line for line in said.splitlines() if "FAILED" in line]
    assert len(failed) == 1 and "better" in failed[0], "no criterion is worse, and none is better"

    train(layout, params, steps=150)
    code, said = challenge(layout, params, capsys)
    assert (code, "version 4 is now the champion" in said) == (0, True), said
    client = connect(tmp_path)
    assert int(client.get_model_version_by_alias("timbreflow-vqvae", "champion").version) == 4
    decisions = [client.get_model_version("timbreflow-vqvae", number).tags["decision"] for number in "1234"]
    assert decisions == ["promoted", "refused", "refused", "promoted"]
