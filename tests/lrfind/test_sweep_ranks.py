"""Trap 15: a range test by several processes under DDP."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import lrfind
from lrfind.ranks import RankError
from tests.ranks import on_ranks, results, sharded

# The module: lrfind.preserve is the function.
PRESERVE: Any = importlib.import_module("lrfind.preserve")
SAMPLES, BATCH = 96, 24  # of all ranks together: divisible by 2 and 4


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, 6, generator=generator)
    return TensorDataset(inputs, (inputs @ torch.randn(6, 3, generator=generator)).argmax(dim=1))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.0), nn.Linear(16, 3))


def workload(size: int, how: str = "ddp", **settings: Any) -> lrfind.Workload:
    """Return the same training for any number of ranks: their batches together are the same."""
    model: nn.Module = net()
    sampler: Any = None
    if size > 1:
        model = DistributedDataParallel(model) if how == "ddp" else sharded(model)
        sampler = DistributedSampler(data(), shuffle=False)
    loader = DataLoader(data(), BATCH // size, sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    settings = {"criterion": nn.CrossEntropyLoss()} | settings
    return lrfind.Workload(model, optimizer, train_loader=loader, val_loader=loader, **settings)


def own(work: lrfind.Workload) -> list[Tensor]:
    """Return what this rank holds of the weights."""
    return [getattr(part, "_local_tensor", part).detach().clone() for part in work.model.parameters()]


def sweep(size: int, how: str, settings: dict[str, Any]) -> dict[str, Any]:
    work = workload(size, how)
    before = own(work)
    curve = lrfind.range_test(work, start_lr=1e-3, progress=False, **settings)
    return {
        "lr": curve.lr,
        "loss": curve.loss,
        "status": curve.status,
        "facts": dict(curve.facts),
        "pick": curve.suggest().lr,
        "same": all(map(torch.equal, before, own(work))) and not work.optimizer.state,
    }


@pytest.mark.parametrize(
    ("size", "how", "settings"),
    [(2, "ddp", {}), (4, "ddp", {"val_batches": "all"}), (2, "fsdp", {}), (4, "fsdp", {"val_batches": "all"})],
)
def test_15_ranks_return_one_curve_and_it_is_that_of_a_single_process(
    size: int, how: str, settings: dict[str, Any]
) -> None:
    """Every rank has the same curve and pick, bit for bit; a single process on the same batches has them up to 1e-4.

    float32 gradients are added up in another order; near divergence every difference grows.
    """
    alone = sweep(1, "alone", settings)
    first, *others = results(size, sweep, size, how, settings)
    for other in others:
        np.testing.assert_array_equal(other["loss"], first["loss"])
        assert (other["status"], other["pick"]) == (first["status"], first["pick"])
        assert other["facts"] == first["facts"]
    assert all(outcome["same"] for outcome in (first, *others))
    assert first["status"] == alone["status"]
    calm = first["lr"] < 0.1
    np.testing.assert_array_equal(first["lr"][calm], alone["lr"][: len(calm)][calm])
    np.testing.assert_allclose(first["loss"][calm], alone["loss"][: len(calm)][calm], rtol=1e-4)
    assert first["pick"] == pytest.approx(alone["pick"], rel=0.1)  # about a step of the sweep


class Spike:
    """A cross-entropy that is 1,000 times as large on rank 1 from some call on."""

    def __init__(self, rank: int, at: int) -> None:
        self.rank, self.at, self.calls = rank, at, 0

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        self.calls += 1
        inputs, targets = batch
        loss = nn.functional.cross_entropy(model(inputs), targets)
        return loss * 1000 if self.rank == 1 and self.calls > self.at else loss


def spike() -> tuple[int, str, int]:
    rank = torch.distributed.get_rank()
    loss_fn = Spike(rank, at=40)
    work = workload(2, criterion=None, loss_fn=loss_fn)
    curve = lrfind.range_test(work, start_lr=1e-6, end_lr=1e-3, progress=False)
    return len(curve), curve.status, len(work.optimizer.state)


def test_15_a_spike_on_one_rank_stops_both_at_the_same_step() -> None:
    """The loss of rank 1 alone blows up: both stop, after the same step."""
    first, second = results(2, spike)
    assert first == second
    assert first[1] == "diverged"
    assert 40 < first[0] < 50


class Fails:
    """A loss that raises on rank 1 at its twentieth call."""

    def __init__(self, rank: int) -> None:
        self.rank, self.calls = rank, 0

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        self.calls += 1
        if self.rank == 1 and self.calls == 20:
            raise ArithmeticError("no more")
        inputs, targets = batch
        return nn.functional.cross_entropy(model(inputs), targets)


def fail_on_one(how: str) -> dict[str, Any]:
    work = workload(2, how, criterion=None, loss_fn=Fails(torch.distributed.get_rank()))
    before = own(work)
    begun = time.monotonic()
    with pytest.raises((ArithmeticError, RankError)) as raised:
        lrfind.range_test(work, start_lr=1e-6, progress=False)
    return {
        "seconds": time.monotonic() - begun,
        "kind": type(raised.value).__name__,
        "text": str(raised.value),
        "same": all(map(torch.equal, before, own(work))) and not work.optimizer.state,
    }


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_15_an_error_on_one_rank_is_raised_on_both_and_both_are_as_before(how: str) -> None:
    """Rank 1 raises its own error, rank 0 one that names rank 1, within 30 s; both workloads are put back."""
    first, second = results(2, fail_on_one, how)
    assert (first["kind"], second["kind"]) == ("RankError", "ArithmeticError")
    assert first["text"].startswith("rank 1 failed: ArithmeticError: no more; rank 0 of 2 could not go on without it.")
    assert first["same"]
    assert second["same"]
    assert max(first["seconds"], second["seconds"]) < 30


def fail_on_all() -> tuple[str, float]:
    work = workload(2, criterion=None, loss_fn=Fails(1))
    with pytest.raises(ArithmeticError, match="no more"):
        lrfind.range_test(work, start_lr=1e-6, progress=False)
    work = workload(2)
    return lrfind.range_test(work, start_lr=1e-3, progress=False).status, work.ranks.total(1)


def test_15_an_error_on_all_ranks_leaves_the_group_in_use() -> None:
    """Where every rank raises, each raises its own error, and a further sweep runs."""
    assert results(2, fail_on_all) == [("diverged", 2)] * 2


def same_data() -> None:
    loader = DataLoader(data(), 8, shuffle=True, generator=torch.Generator().manual_seed(0))
    model = DistributedDataParallel(net())
    lrfind.Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), loader)


def test_15_the_same_data_on_every_rank_is_refused_with_the_remedy() -> None:
    """A loader that draws the same batches on both ranks is refused, naming ``DistributedSampler``."""
    for outcome in on_ranks(2, same_data):
        assert isinstance(outcome, ValueError)
        assert str(outcome) == (
            "train_loader must give each rank data of its own; got the same batches on ranks 0 and 1 of 2, so that "
            "2 processes would do the work of fewer. Pass DataLoader(dataset, batch_size, "
            "sampler=torch.utils.data.DistributedSampler(dataset))."
        )


def copied() -> tuple[int, int]:
    """Return how many numbers a snapshot holds of the weights, and how many this rank does."""
    work = workload(4, "fsdp")
    held = 0
    keep = PRESERVE._Keeper.__call__

    def counted(self: Any, tensor: Tensor) -> Any:
        nonlocal held
        held += getattr(tensor, "_local_tensor", tensor).numel()
        return keep(self, tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PRESERVE._Keeper, "__call__", counted)
        PRESERVE.Snapshot(work, data=False)
    return held, sum(part.numel() for part in own(work))


def test_15_no_rank_copies_more_than_its_own_part() -> None:
    """Of weights sharded over four ranks each keeps the numbers it holds, and those alone."""
    for held, part in results(4, copied):
        assert held == part
