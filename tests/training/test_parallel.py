"""Two processes with half a batch each do what one does with the whole batch."""

import dataclasses
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.stages import test_train_stages as tiny
from timbreflow import parallel
from timbreflow.data.sampling import StepSampler
from timbreflow.data.triples import TripleBatch, crop
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json
from timbreflow.models.bundle import load_bundle
from timbreflow.models.decoders import ConditionDropout
from timbreflow.models.glow.layers import ActNorm, FlowContext
from timbreflow.models.quantizer import Quantizer
from timbreflow.models.style import shift_bins, shuffle_chunks
from timbreflow.stages.layout import Layout
from timbreflow.training.auxiliary import contrastive_loss, invariance_loss

PROCESSES = 2
BATCH = 8


def _work(rank: int, port: int, work: Callable[..., Any], folder: Path) -> None:
    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with parallel.joined(torch.device("cpu")):
        torch.save(work(), folder / f"{rank}.pt")


def in_processes(work: Callable[..., Any], folder: Path) -> list[Any]:
    """What `work` returns in each of two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_work, (port, work, folder), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def parts() -> dict[str, Any]:
    """Every place where examples of a batch meet, or draw random numbers, with this process's part of a fixed batch."""
    results: dict[str, Any] = {}
    own = parallel.own
    torch.manual_seed(5)

    # Codebooks with silence in them: ties, dead codes, k-means and moving averages over three steps.
    quantizer = Quantizer(
        codebook_size=16, code_dim=8, heads=2, distance="euclidean", decay=0.8, dead_code_threshold=1.0, kmeans_iters=4
    )
    for step in range(3):
        torch.manual_seed(step)
        x = drawn(BATCH, 8, 20 + step)
        x[:, :, :5] = 0
        found = quantizer(own(x))
        results[f"codes {step}"] = parallel.gather(found.codes)
        results[f"commitment {step}"] = found.commitment_loss.detach()
    results["codebook"] = quantizer.codebooks.clone()
    results["cluster sizes"] = quantizer.vq._codebook.cluster_size.clone()

    # A gradient that goes through batch statistics, a codebook and both terms over pairs of clips.
    torch.manual_seed(7)
    net, norm = nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8, affine=False)
    first, second = own(drawn(BATCH, 8, 16)), own(drawn(BATCH, 8, 17))
    timbre = own(torch.arange(BATCH) % 3)

    def encode(x: Tensor) -> Tensor:
        return parallel.own(norm(parallel.gather(net(x))))

    a, b = encode(first), encode(second)
    loss = (a.square() * own(drawn(BATCH, 8, 16))).mean() + quantizer(a).commitment_loss
    loss = loss + invariance_loss(a, b) + contrastive_loss(a, b[..., :16], timbre, temperature=0.1)
    loss.backward()
    parallel.average_gradients(net.parameters())
    results["loss"] = torch.tensor(parallel.average({"loss": float(loss)}, torch.device("cpu"))["loss"])
    results["gradient"] = net.weight.grad
    results["running mean"] = norm.running_mean

    actnorm = ActNorm(8)
    actnorm.initialize(own(drawn(BATCH, 8, 16)), FlowContext(drawn(1, 1, 1), drawn(1, 1)))
    results["actnorm"] = torch.cat([actnorm.shift.detach(), actnorm.log_scale.detach()])

    torch.manual_seed(11)
    results["noise"] = parallel.gather(parallel.draw_like(torch.randn_like, own(drawn(BATCH, 3))))
    results["chunks"] = parallel.gather(shuffle_chunks(own(drawn(BATCH, 4, 32)), 4))
    results["bins"] = parallel.gather(shift_bins(own(drawn(BATCH, 12, 6)), 3))
    dropout = ConditionDropout(0.5, code_dim=4, n_tokens=2, token_dim=3).train()
    results["dropout"] = torch.cat([parallel.gather(x.detach()).flatten() for x in dropout(*_conditions())])
    batch = TripleBatch(*(own(drawn(BATCH, 4, 30)) for _ in range(3)), own(drawn(BATCH, 128, 30) > 0), timbre)
    results["crop"] = parallel.gather(crop(batch, 10, seed=3, number=4).target)
    sampler = iter(StepSampler(20, BATCH, seed=1, part=parallel.part(BATCH)))
    results["items"] = parallel.gather(torch.tensor([next(sampler), next(sampler)]).T.contiguous())
    with parallel.alone():
        results["alone"] = torch.tensor([parallel.size(), parallel.rank(), len(parallel.gather(timbre))])
    return results


def _conditions() -> tuple[Tensor, Tensor]:
    return parallel.own(drawn(BATCH, 4, 6)), parallel.own(drawn(BATCH, 2, 3))


@pytest.mark.slow
def test_every_part_sees_the_whole_batch(tmp_path: Path) -> None:
    whole, several = parts(), in_processes(parts, tmp_path)
    for rank, found in enumerate(several):
        for name, value in whole.items():
            if name == "alone":
                assert found[name].tolist() == [1, 0, BATCH // PROCESSES]
            else:
                torch.testing.assert_close(found[name], value, msg=f"{name} in process {rank}", rtol=1e-5, atol=1e-6)
    for name in ("codebook", "cluster sizes", "gradient"):
        assert torch.equal(several[0][name], several[1][name]), f"{name} differs between the processes"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vqvae", "glow"])
def test_a_training_in_two_processes_ends_like_one(name: str, tmp_path: Path) -> None:
    results = {"vqvae": "train_vqvae/base", "glow": "train_glow"}[name]
    numbers, weights = [], []
    for processes in (1, PROCESSES):
        layout = tiny.write_data(tmp_path / str(processes))
        if processes == 1:
            _train(name, layout)
        else:
            in_processes(_Training(name, layout), tmp_path)
        numbers.append(read_json(layout.results(results) / "metrics.json"))
        weights.append(load_bundle(layout.model(name)).model.state_dict())
        assert not list((layout.root / ".scratch").rglob("step-*"))
    one, two = numbers
    assert one.keys() == two.keys() and one["best_step"] == two["best_step"]
    assert two["val_loss"] == pytest.approx(one["val_loss"], rel=1e-3)
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)
    codebook = "content_path.quantizer.vq._codebook.embed"
    torch.testing.assert_close(weights[0][codebook], weights[1][codebook], rtol=1e-2, atol=1e-2)


@dataclasses.dataclass(frozen=True)
class _Training:
    name: str
    layout: Layout

    def __call__(self) -> Tensor:
        _train(self.name, self.layout)
        return torch.zeros(())


def _train(name: str, layout: Layout) -> None:
    run, _ = tiny.STAGES[name]
    section: Any = {"vqvae": tiny.BASE, "glow": tiny.GLOW}[name]
    run(layout, crop_frames=20, fit=dataclasses.replace(section.fit, grad_accumulation=2))


def test_one_process_is_left_as_it_is() -> None:
    x = torch.randn(4, 3)
    assert parallel.gather(x) is x and parallel.own(x) is x
    assert parallel.part(5) == slice(0, 5) and parallel.broadcast(3) == 3
    torch.manual_seed(0)
    expected = torch.randn_like(x)
    torch.manual_seed(0)
    assert torch.equal(parallel.draw_like(torch.randn_like, x), expected)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "size", lambda: 3)
    with pytest.raises(TimbreflowError, match="batch of 16 cannot be shared equally by 3 processes"):
        parallel.part(16)
