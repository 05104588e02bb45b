"""Bundles round-trip exactly, and everything that does not fit is one sentence."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.errors import TimbreflowError
from timbreflow.models.bundle import ModelBundle, build_model, load_bundle, save_bundle, weights_sha256

FEATURES = FeatureConfig(
    kind="log_mel",
    sample_rate=16000,
    n_fft=2048,
    win_length=2000,
    hop_length=500,
    n_mels=12,
    fmin=20.0,
    fmax=8000.0,
    floor=0.01,
)


def bundle_of(kind: str, config: Any) -> ModelBundle:
    torch.manual_seed(0)
    model = build_model(kind, asdict(config)).eval()
    normalizer = None if kind == "triplet" else Normalizer(mean=torch.randn(12), std=torch.rand(12) + 0.5)
    return ModelBundle(kind, model, FEATURES, normalizer, {"steps": 3, "loss": 0.5})


@pytest.fixture
def saved(tmp_path: Path, base_config: Any) -> Path:
    save_bundle(tmp_path / "model", bundle_of("vqvae", base_config))
    return tmp_path / "model"


def test_round_trip(any_kind_config: tuple[str, Any], tmp_path: Path) -> None:
    bundle = bundle_of(*any_kind_config)
    digest = save_bundle(tmp_path / "model", bundle)
    loaded = load_bundle(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "weights.safetensors"]
    assert loaded.kind == bundle.kind
    assert loaded.model.config == bundle.model.config
    assert loaded.features == FEATURES
    assert loaded.training == {"steps": 3, "loss": 0.5}
    assert not loaded.model.training
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    if bundle.normalizer is None:
        assert loaded.normalizer is None
    else:
        assert loaded.normalizer is not None
        assert torch.equal(loaded.normalizer.mean, bundle.normalizer.mean)
    assert digest == weights_sha256(tmp_path / "model") == save_bundle(tmp_path / "again", bundle)


def test_same_answers_after_loading(glow_config: Any, tmp_path: Path) -> None:
    bundle = bundle_of("glow", glow_config)
    x = torch.randn(1, 12, 20)
    bundle.model.train()(x, x, x)  # moves the codebook, which must travel too
    bundle.model.eval()
    save_bundle(tmp_path / "model", bundle)
    loaded = load_bundle(tmp_path / "model")
    expected = bundle.model.transfer(x, x, temperature=0.0)  # type: ignore[operator]
    assert torch.equal(loaded.model.transfer(x, x, temperature=0.0), expected)  # type: ignore[operator]


def test_half_precision(saved: Path, base_config: Any, tmp_path: Path) -> None:
    bundle = bundle_of("vqvae", base_config)
    with torch.no_grad():
        bundle.model.decoder.out_proj.bias.fill_(1e6)  # type: ignore[union-attr, operator]
    save_bundle(tmp_path / "half", bundle, storage="float16")
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (saved, tmp_path / "half")]
    assert sizes[1] < 0.7 * sizes[0]
    loaded = load_bundle(tmp_path / "half").model.state_dict()
    assert loaded["decoder.out_proj.bias"][0] == 1e6
    for name, tensor in bundle.model.state_dict().items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-3, atol=1e-4)


def test_8_bits_hold_each_block_of_large_weights_and_rounding_again_changes_nothing(
    base_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timbreflow.models.bundle.MIN_QUANTIZED", 200)
    bundle = bundle_of("vqvae", base_config)
    weight = bundle.model.decoder.out_proj.weight  # type: ignore[union-attr]
    with torch.no_grad():
        weight.view(-1)[:64] = 0.0  # type: ignore[operator, union-attr]
        weight.view(-1)[64:128] *= 1e-6  # type: ignore[operator, union-attr]
    digest = save_bundle(tmp_path / "small", bundle, storage="int8")
    stored = load_file(tmp_path / "small" / "weights.safetensors")
    quantized = [name for name, value in stored.items() if value.dtype == torch.int8]
    assert "decoder.out_proj.weight" in quantized
    assert not [name for name in quantized if stored[name].ndim < 2]
    again = load_bundle(tmp_path / "small")
    loaded = again.model.state_dict()
    for name, tensor in bundle.model.state_dict().items():
        if name in quantized:
            steps = tensor.view(-1, 64).abs().amax(1) / 127
            assert bool(((loaded[name] - tensor).view(-1, 64).abs().amax(1) <= 0.51 * steps).all())
    assert save_bundle(tmp_path / "again", again, storage="int8") == digest


def test_a_flow_is_not_stored_in_8_bits(glow_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timbreflow.models.bundle.MIN_QUANTIZED", 64)
    save_bundle(tmp_path / "glow", bundle_of("glow", glow_config), storage="int8")
    stored = load_file(tmp_path / "glow" / "weights.safetensors")
    parts = {name.split(".")[0] for name, value in stored.items() if value.dtype == torch.int8}
    assert "style_encoder" in parts and "flow" not in parts


def test_replaces_an_older_bundle(saved: Path, glow_config: Any) -> None:
    save_bundle(saved, bundle_of("glow", glow_config))
    assert load_bundle(saved).kind == "glow"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


OLD_SETTINGS = {
    "max_log_scale": "bound",
    "hidden_channels": "hidden",
    "max_bin_shift": "roll_bins",
    "pianoroll_channels": "roll_hint",
    "pianoroll_head_width": "roll_width",
}
OLD_MODULES = {
    "in_proj": "inlet",
    "in_norm": "inlet_norm",
    "out_proj": "outlet",
    "out_norm": "outlet_norm",
    "pianoroll_head": "roll_head",
    "pianoroll_encoder": "roll_hint",
}


def as_format_1(folder: Path) -> dict[str, Any]:
    """Rewrite a bundle with the names of format 1; return its settings."""

    def older(values: Any) -> Any:
        return {OLD_SETTINGS.get(k, k): older(v) for k, v in values.items()} if isinstance(values, dict) else values

    settings: dict[str, Any] = older(json.loads((folder / "config.json").read_text())["model"])
    edit(folder, format=1, model=settings)
    weights = load_file(folder / "weights.safetensors")
    renamed = {".".join(OLD_MODULES.get(word, word) for word in name.split(".")): x for name, x in weights.items()}
    save_file(renamed, folder / "weights.safetensors")
    return settings


def test_format_1_is_read_as_the_same_model(any_kind_config: tuple[str, Any], tmp_path: Path) -> None:
    bundle = bundle_of(*any_kind_config)
    save_bundle(tmp_path / "old", bundle)
    as_format_1(tmp_path / "old")
    loaded = load_bundle(tmp_path / "old").model
    assert loaded.config == bundle.model.config
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in bundle.model.state_dict().items())
    edit(tmp_path / "old", format=2)
    if bundle.kind != "triplet":  # whose names are the same
        with pytest.raises(TimbreflowError, match="cannot be used"):
            load_bundle(tmp_path / "old")


@pytest.mark.parametrize("kind", ["vqvae", "glow"])
def test_what_format_1_may_lack_is_off(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = request.getfixturevalue({"vqvae": "base_config", "glow": "glow_config"}[kind])
    old = tmp_path / "old"
    save_bundle(old, bundle_of(kind, replace(config, content=replace(config.content, pianoroll_channels=0))))
    settings = as_format_1(old)
    del settings["content"]["roll_hint"]
    if kind == "glow":
        del settings["decoder_width"], settings["decoder_blocks"]
    edit(old, model=settings)
    assert load_bundle(old).model.config.content.pianoroll_channels == 0
    del settings["content"]["width"]
    edit(old, model=settings)
    with pytest.raises(TimbreflowError, match="content.width is missing; add it, or make the model again"):
        load_bundle(old)


def test_missing_files(saved: Path) -> None:
    with pytest.raises(TimbreflowError, match=r"config\.json is missing"):
        load_bundle(saved.parent / "nowhere")
    (saved / "weights.safetensors").unlink()
    with pytest.raises(TimbreflowError, match=r"weights\.safetensors is missing"):
        load_bundle(saved)
    with pytest.raises(TimbreflowError, match=r"weights\.safetensors is missing"):
        weights_sha256(saved)


def test_wrong_format_kind_and_keys(saved: Path) -> None:
    edit(saved, format=3)
    with pytest.raises(TimbreflowError, match="format 3"):
        load_bundle(saved)
    edit(saved, format=2, kind="gan")
    with pytest.raises(TimbreflowError, match="'gan' is not a kind"):
        load_bundle(saved)
    edit(saved, kind="vqvae", surprise=1)
    with pytest.raises(TimbreflowError, match="must have the keys"):
        load_bundle(saved)
    (saved / "config.json").write_text("[]")
    with pytest.raises(TimbreflowError, match="format"):
        load_bundle(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(TimbreflowError, match="not valid JSON"):
        load_bundle(saved)


def test_broken_or_foreign_weights(saved: Path) -> None:
    path = saved / "weights.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({k: v for k, v in weights.items() if k != name}, path)
    with pytest.raises(TimbreflowError, match="does not fit"):
        load_bundle(saved)
    save_file({**weights, name: torch.zeros(1, 2, 3, 4)}, path)
    with pytest.raises(TimbreflowError, match="does not fit"):
        load_bundle(saved)
    save_file({**weights, "decoder.out_proj.bias": torch.full((12,), float("nan"))}, path)
    with pytest.raises(TimbreflowError, match="not finite"):
        load_bundle(saved)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TimbreflowError, match="not a safetensors file"):
        load_bundle(saved)
    path.write_bytes(b"")
    with pytest.raises(TimbreflowError, match="not a safetensors file"):
        load_bundle(saved)


def test_nan_weights_are_not_written(saved: Path, base_config: Any) -> None:
    bundle = bundle_of("vqvae", base_config)
    with torch.no_grad():
        next(bundle.model.parameters()).fill_(float("nan"))
    before = weights_sha256(saved)
    with pytest.raises(TimbreflowError, match="not finite"):
        save_bundle(saved, bundle)
    assert weights_sha256(saved) == before


def test_kind_must_match(glow_config: Any, tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="holds a glow"):
        save_bundle(tmp_path / "model", replace(bundle_of("glow", glow_config), kind="vqvae"))
    assert not (tmp_path / "model").exists()


def test_config_round_trip_through_json(any_kind_config: tuple[str, Any]) -> None:
    kind, config = any_kind_config
    assert build_model(kind, json.loads(json.dumps(asdict(config)))).config == config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("hidden_channels",), "128", "hidden_channels"),
        (("style_norm",), 1, "style_norm"),
        (("n_steps",), 2.5, "n_steps"),
        (("content", "encoder"), "conv", "content.encoder"),
        (("content", "depth"), 2, "content.depth is not a known parameter"),
        (("content",), 3, "content"),
    ],
)
def test_wrong_fields_are_named(glow_config: Any, path: tuple[str, ...], value: Any, message: str) -> None:
    values = asdict(glow_config)
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(TimbreflowError, match=message):
        build_model("glow", values)


def test_missing_field_and_unknown_kind(glow_config: Any) -> None:
    values = asdict(glow_config)
    del values["max_log_scale"]
    with pytest.raises(TimbreflowError, match="max_log_scale is missing"):
        build_model("glow", values)
    with pytest.raises(TimbreflowError, match="not a kind"):
        build_model("diffusion", values)
