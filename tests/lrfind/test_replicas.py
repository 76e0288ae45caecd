"""Processes that each hold a whole workload."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import lrfind
import onecycle
from lrfind.ranks import RankError
from tests.ranks import on_ranks, results


def workload(seed: int = 0) -> lrfind.Workload:
    """Return the same whole workload everywhere."""
    torch.manual_seed(seed)
    inputs = torch.randn(512, 6)
    data = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
    loader = DataLoader(data, 16, shuffle=True, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return lrfind.Workload(model, optimizer, nn.CrossEntropyLoss(), loader, DataLoader(data, 512))


def sweep(spread: bool) -> tuple[list[Any], float, bool]:
    work = workload()
    before = [parameter.clone() for parameter in work.model.parameters()]
    # Shorter than an epoch, so that one after another they read the same batches as side by side.
    curve = lrfind.range_test(work, start_lr=1e-3, num_iter=30, repeats=4, spread=spread, progress=False)
    losses = [each.loss for each in (curve, *curve.replicates)]
    return losses, curve.suggest().lr, all(map(torch.equal, before, work.model.parameters()))


@pytest.mark.parametrize("size", [2, 3])
def test_repeats_side_by_side_are_those_one_after_another(size: int) -> None:
    """Four repeats on 2 and on 3 ranks: on each the curves that a single process measures, and nothing changed."""
    expected, pick, _ = sweep(spread=False)
    for losses, picked, same in results(size, sweep, True):
        assert picked == pick
        assert same
        for one, other in zip(losses, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def pick(spread: bool, steps: int) -> tuple[float, str, int]:
    found = onecycle.pick_max_lr(workload(), total_steps=steps, method="refine", spread=spread, progress=False)
    return found.lr, found.evidence, found.steps_used


def test_pilots_side_by_side_get_further_for_the_same_price() -> None:
    """Three ranks agree on a pick that rests on at least as many pilots as one process can pay for."""
    _, alone, _ = pick(spread=False, steps=300)
    first, *others = results(3, pick, True, 300)
    assert others == [first] * 2
    assert int(first[1].split(" pilots")[0]) >= int(alone.split(" pilots")[0])


def test_pilots_side_by_side_without_a_group_are_pilots_one_after_another() -> None:
    """``spread`` in a process that is alone changes nothing."""
    assert pick(spread=True, steps=300) == pick(spread=False, steps=300)


def other_weights() -> None:
    lrfind.range_test(workload(seed=dist.get_rank()), repeats=2, spread=True, progress=False)


def test_other_weights_are_refused() -> None:
    """Ranks that were seeded apart are told so, and how to mend it."""
    for refused in on_ranks(2, other_weights):
        assert isinstance(refused, ValueError)
        assert str(refused).startswith(
            "spread=True needs the same weights on every rank; got others on rank 1 than on rank 0. Seed every rank"
        )


def data_parallel() -> None:
    work = workload()
    torch.manual_seed(dist.get_rank())
    loader = [(torch.randn(4, 6), torch.zeros(4, dtype=torch.long))]
    model = DistributedDataParallel(work.model)
    shared = lrfind.Workload(model, work.optimizer, nn.CrossEntropyLoss(), loader)
    lrfind.range_test(shared, repeats=2, spread=True, progress=False)


def test_a_model_that_the_ranks_share_is_refused() -> None:
    """Under DDP the batches are spread, and the repeats cannot be as well."""
    for refused in on_ranks(2, data_parallel):
        assert isinstance(refused, ValueError)
        assert str(refused).startswith("spread=True needs a workload that each rank holds as a whole; got a model that")


def fail_on_one() -> None:
    work = workload()

    def fails(lr: float, loss: float) -> None:
        if dist.get_rank() == 1 and lr > 0.1:
            raise ArithmeticError("no more")

    lrfind.range_test(work, repeats=2, spread=True, on_point=fails, progress=False)


def test_an_error_in_one_repeat_is_told_by_the_other_ranks() -> None:
    """The rank that waits for the curve of one that has failed raises too, and names it."""
    first, second = on_ranks(2, fail_on_one)
    assert isinstance(second, ArithmeticError)
    assert isinstance(first, RankError)
    assert str(first).startswith("rank 1 failed: ArithmeticError: no more; rank 0 of 2")
