"""The loop's laws: it converges, resumes exactly, averages, warms up, clips, stops early, and refuses NaN."""

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn

from tests import small
from timbreflow.errors import TimbreflowError
from timbreflow.training.config import FitConfig
from timbreflow.training.fit import STOP_FILE, FitResult, fit
from timbreflow.training.seeding import seed_everything
from timbreflow.training.steps import build_optimizer, learning_rate, update_ema

CONFIG = dataclasses.replace(
    small.FIT,
    steps=60,
    batch_size=16,
    learning_rate=0.05,
    warmup_steps=5,
    log_every=5,
    validate_every=10,
    checkpoint_every=7,
    seed=3,
)
TRUTH = torch.tensor([[1.0, -2.0, 0.5]])


class Noisy(nn.Module):
    """Linear regression with dropout and a running statistic: randomness and buffers as in the real models."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.1)
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(self.norm(x)))


class Regression:
    criterion = "error"

    def __call__(self, model: Noisy, batch: Tensor, *, step: int) -> Mapping[str, Tensor]:
        noise = 0.01 * torch.randn(len(batch), 1)
        loss = (model(batch) - batch @ TRUTH.T.to(batch) - noise).square().mean()
        return {"loss": loss, "half": loss / 2}

    def validate(self, model: Noisy, batch: Tensor) -> Mapping[str, Tensor]:
        return {"error": (model(batch) - batch @ TRUTH.T.to(batch)).square().mean()}


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


def batches(start: int, *, kill_at: int = -1, nan_at: int = -1) -> Iterator[Tensor]:
    index = start
    while True:
        if index == kill_at:
            raise Killed
        batch = torch.randn(16, 3, generator=torch.Generator().manual_seed(index))
        yield batch * math.nan if index == nan_at else batch
        index += 1


def validation() -> list[Tensor]:
    return [torch.randn(64, 3, generator=torch.Generator().manual_seed(-1))]


def new_model() -> Noisy:
    seed_everything(0, "model")
    return Noisy()


def run(
    workdir: Path,
    config: FitConfig = CONFIG,
    model: Noisy | None = None,
    objective: Regression | None = None,
    **stop: int,
) -> tuple[FitResult, Noisy, list[tuple[int, dict[str, float]]]]:
    model = model or new_model()
    logged: list[tuple[int, dict[str, float]]] = []
    result = fit(
        model,
        objective or Regression(),
        lambda start: batches(start, **stop),
        validation(),
        config,
        workdir=workdir,
        log=lambda step, values: logged.append((step, dict(values))),
        device="cpu",
    )
    return result, model, logged


def test_converges_and_reports(tmp_path: Path) -> None:
    result, model, logged = run(tmp_path, dataclasses.replace(CONFIG, learning_rate=0.15))
    assert result.stopped == "finished" and result.steps == 60 and result.resumed_at == 0
    untrained = float(Regression().validate(new_model().eval(), validation()[0])["error"].detach())
    assert result.curves[-1]["val_error"] < 0.8 * result.curves[0]["val_error"] * untrained
    assert [row["step"] for row in result.curves] == [10, 20, 30, 40, 50, 60]
    assert result.curves[0]["train_half"] == pytest.approx(result.curves[0]["train_loss"] / 2)
    assert [step for step, values in logged if "train/loss" in values] == list(range(5, 61, 5))
    assert [step for step, values in logged if "val/error" in values] == list(range(10, 61, 10))
    assert not model.training


def test_returns_the_averaged_weights_of_the_best_step(tmp_path: Path) -> None:
    result, model, _ = run(tmp_path, dataclasses.replace(CONFIG, learning_rate=0.5, schedule="constant", steps=40))
    best = min(result.curves, key=lambda row: row["val_error"])
    assert (result.best_step, result.best_loss) == (best["step"], best["val_error"])
    with torch.no_grad():
        again = Regression().validate(model, validation()[0])["error"]
    assert float(again) == result.best_loss


@pytest.mark.parametrize("kill_at", [3, 7, 30, 59])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_killed_and_resumed_equals_unbroken(tmp_path: Path, kill_at: int, accumulation: int) -> None:
    config = dataclasses.replace(CONFIG, grad_accumulation=accumulation)
    whole, model, _ = run(tmp_path / "whole", config)
    with pytest.raises(Killed):
        run(tmp_path / "broken", config, kill_at=kill_at * accumulation)
    torch.rand(17)  # another process would not have this state either
    resumed, again, _ = run(tmp_path / "broken", config)
    assert resumed.resumed_at == kill_at - kill_at % 7
    assert resumed.curves == whole.curves and resumed.best_step == whole.best_step
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    _, model, _ = run(tmp_path)
    result, again, logged = run(tmp_path, kill_at=60)
    assert result.resumed_at == 60 and logged == []
    assert torch.equal(model.linear.weight, again.linear.weight)


def test_only_the_newest_checkpoint_stays_and_nothing_is_pickled(tmp_path: Path) -> None:
    (tmp_path / ".step-00000003-abandoned").mkdir(parents=True)
    run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000060"]
    assert {path.suffix for path in (tmp_path / "step-00000060").iterdir()} == {".safetensors", ".json"}


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(TimbreflowError, match="other settings"):
        run(tmp_path, dataclasses.replace(CONFIG, learning_rate=0.01))


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_broken_checkpoint_is_named(tmp_path: Path, name: str, damage: str) -> None:
    run(tmp_path)
    path = tmp_path / "step-00000060" / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:20])
    else:
        path.unlink()
    with pytest.raises(TimbreflowError, match="step-00000060"):
        run(tmp_path)


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match=r"loss is nan at step 31; .*step 28"):
        run(tmp_path, nan_at=30)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000028"]
    result, model, _ = run(tmp_path)
    assert result.resumed_at == 28
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


class Cliff(Regression):
    """Finite losses whose gradient is infinite, or `wild`, at the steps in `at`."""

    def __init__(self, at: range, *, wild: float = 0.0) -> None:
        self.at = at
        self.wild = wild

    def __call__(self, model: Noisy, batch: Tensor, *, step: int) -> Mapping[str, Tensor]:
        loss = super().__call__(model, batch, step=step)["loss"]
        bias = model.linear.bias.sum()
        nothing = bias - bias.detach()
        return {"loss": loss + ((self.wild * nothing if self.wild else nothing.sqrt()) if step in self.at else 0.0)}


@pytest.mark.parametrize("wild", [0.0, 1e6])
def test_infinite_and_wild_gradients_are_passed_over(
    wild: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result, model, logged = run(tmp_path, objective=Cliff(range(4, 8), wild=wild))
    assert result.steps == CONFIG.steps
    assert caplog.text.count("skipped, since the gradient is infinite or far too large") == 4
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    assert all(math.isfinite(value) for _, values in logged for value in values.values())
    assert result.curves[-1]["val_error"] < 0.8 * result.curves[0]["val_error"]


def test_ten_infinite_gradients_in_a_row_stop(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match=r"grad_norm is (nan|inf) at step 13; .*step 7"):
        run(tmp_path, objective=Cliff(range(3, 40)))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


def test_early_stop(tmp_path: Path) -> None:
    class Worse(Regression):
        calls = 0

        def validate(self, model: Noisy, batch: Tensor) -> Mapping[str, Tensor]:
            Worse.calls += 1
            return {"error": torch.tensor(float(abs(Worse.calls - 2)))}

    config = dataclasses.replace(CONFIG, patience=2)
    result, _, _ = run(tmp_path, config, objective=Worse())
    assert (result.stopped, result.steps, result.best_step) == ("early", 40, 20)
    again, _, _ = run(tmp_path, config, objective=Worse(), kill_at=40)
    assert (again.stopped, again.steps) == ("early", 40)


def test_a_stop_file_ends_the_fit_at_its_next_validation(tmp_path: Path) -> None:
    tmp_path.joinpath(STOP_FILE).touch()
    result, _, _ = run(tmp_path)
    assert (result.stopped, result.steps) == ("early", CONFIG.validate_every)


def test_no_validation_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="no validation"):
        fit(new_model(), Regression(), batches, [], CONFIG, workdir=tmp_path, log=lambda s, v: None, device="cpu")


def test_schedule_values() -> None:
    config = dataclasses.replace(CONFIG, steps=110, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == pytest.approx(1.0)
    assert learning_rate(config, 60) == pytest.approx(0.5)
    assert learning_rate(config, 109) == pytest.approx(0.0, abs=1e-3)
    rates = [learning_rate(config, step) for step in range(10, 110)]
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(dataclasses.replace(config, schedule="constant"), 109) == 1.0


def test_a_trapezoid_falls_in_the_last_fifth() -> None:
    config = dataclasses.replace(CONFIG, steps=100, learning_rate=1.0, warmup_steps=10, schedule="trapezoid")
    assert [learning_rate(config, step) for step in (10, 50, 80, 90, 99)] == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.05])


def test_ema_law_and_buffers() -> None:
    model = new_model()
    ema = copy.deepcopy(model)
    expected = ema.linear.weight.detach().clone()
    for step in range(1, 200):
        with torch.no_grad():
            model.linear.weight.add_(0.1)
            cast(Tensor, model.norm.running_mean).add_(1.0)
        update_ema(ema, model, decay=0.9, step=step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.linear.weight.detach()
    assert torch.allclose(ema.linear.weight, expected, atol=1e-4)
    assert torch.equal(cast(Tensor, ema.norm.running_mean), cast(Tensor, model.norm.running_mean))


def test_gradient_is_clipped(tmp_path: Path) -> None:
    class Steep(Regression):
        def __call__(self, model: Noisy, batch: Tensor, *, step: int) -> Mapping[str, Tensor]:
            return {"loss": 100 * model.linear.weight.sum()}

    def moved(clip: float) -> float:
        model = new_model()
        before = model.linear.weight.detach().clone()
        optimizer_free = torch.optim.SGD(model.parameters(), lr=1.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("timbreflow.training.fit.build_optimizer", lambda *_: optimizer_free)
            config = dataclasses.replace(
                CONFIG, grad_clip=clip, steps=1, learning_rate=1.0, warmup_steps=0, ema_decay=0.0
            )
            run(tmp_path / str(clip), config, model=model, objective=Steep())
        return float((model.linear.weight.detach() - before).norm())

    assert moved(1.0) == pytest.approx(1.0, rel=1e-3)
    assert moved(0.0) == pytest.approx(100 * math.sqrt(3), rel=1e-3)


def test_accumulated_gradient_is_that_of_the_larger_batch(tmp_path: Path) -> None:
    class Plain(Regression):
        def __call__(self, model: Noisy, batch: Tensor, *, step: int) -> Mapping[str, Tensor]:
            return {"loss": (model.linear(batch) - batch @ TRUTH.T).square().mean()}

    config = dataclasses.replace(CONFIG, steps=10, warmup_steps=0, grad_clip=0.0)
    _, parts, _ = run(tmp_path / "a", dataclasses.replace(config, grad_accumulation=2), objective=Plain())
    whole = new_model()
    joined = (torch.cat([next(batches(2 * n)), next(batches(2 * n + 1))]) for n in range(10))
    fit(whole, Plain(), lambda start: joined, validation(), config, workdir=tmp_path / "b", log=print, device="cpu")
    assert torch.allclose(parts.linear.weight, whole.linear.weight, atol=1e-5)


def test_vectors_are_not_decayed() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model.register_parameter("gain", nn.Parameter(torch.ones(1, 4, 1)))
    groups = build_optimizer(model, dataclasses.replace(CONFIG, weight_decay=0.1)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(model[0].weight)}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_bfloat16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Watched(Regression):
        def __call__(self, model: Noisy, batch: Tensor, *, step: int) -> Mapping[str, Tensor]:
            seen.append(model.linear(batch).dtype)
            return super().__call__(model, batch, step=step)

    result, model, _ = run(tmp_path, dataclasses.replace(CONFIG, precision="bfloat16"), objective=Watched())
    assert set(seen) == {torch.bfloat16}
    assert model.linear.weight.dtype == torch.float32
    assert result.best_loss < 0.5 * result.curves[0]["val_error"] + 0.1


def test_float64_trains_in_it_and_leaves_float32_weights(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Watched(Regression):
        def __call__(self, model: Noisy, batch: Tensor, *, step: int) -> Mapping[str, Tensor]:
            seen.append(batch.dtype)
            return super().__call__(model, batch, step=step)

        def validate(self, model: Noisy, batch: Tensor) -> Mapping[str, Tensor]:
            seen.append(batch.dtype)
            return super().validate(model, batch)

    result, model, _ = run(tmp_path, dataclasses.replace(CONFIG, precision="float64"), objective=Watched())
    assert set(seen) == {torch.float64}
    assert model.linear.weight.dtype == torch.float32
    assert result.best_loss < 0.5 * result.curves[0]["val_error"] + 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trains_and_resumes_on_cuda(tmp_path: Path, precision: Literal["float32", "bfloat16"]) -> None:
    config = dataclasses.replace(CONFIG, precision=precision)

    def on_gpu(kill_at: int) -> FitResult:
        return fit(
            new_model(),
            Regression(),
            lambda start: batches(start, kill_at=kill_at),
            validation(),
            config,
            workdir=tmp_path,
            log=lambda step, values: None,
            device="cuda",
        )

    with pytest.raises(Killed):
        on_gpu(30)
    result = on_gpu(-1)
    assert result.resumed_at == 28 and result.best_loss < result.curves[0]["val_error"]


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("learning_rate", -1.0), ("ema_decay", 1.0), ("patience", -1)]
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(TimbreflowError, match=f"fit.{name}"):
        dataclasses.replace(CONFIG, **cast(dict[str, Any], {name: value}))
