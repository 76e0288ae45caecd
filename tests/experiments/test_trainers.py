"""The training contestants of the overhead experiment: that each does the same work."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from experiments import overhead
from experiments.contestants import Setup
from experiments.trainers import MAX_LR, SAVINGS, TRAININGS
from onecycle import OneCycle

STEPS = 12


def tiny() -> Setup:
    """Four batches an epoch."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    data = TensorDataset(torch.randn(16, 3), torch.randint(0, 2, (16,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Setup(model, optimizer, nn.CrossEntropyLoss(), DataLoader(data, 4, shuffle=True))


@pytest.mark.parametrize("contestant", [*TRAININGS, *SAVINGS], ids=lambda contestant: contestant.name)
def test_every_contestant_trains_the_same_cycle(contestant):
    """The same 12 optimizer steps at torch's rates each, or a time would compare different work."""
    if not contestant.here:
        pytest.skip(f"{contestant.package} is not installed (extra peers)")
    setup, lrs = tiny(), []
    setup.optimizer.register_step_post_hook(lambda optimizer, *_: lrs.append(optimizer.param_groups[0]["lr"]))
    start = setup.model.weight.clone()

    with overhead._quiet():
        contestant.prepare(setup, STEPS)()

    assert not torch.equal(setup.model.weight, start)
    if contestant.name != "fastai":  # it brings its own optimizer
        assert lrs == OneCycle(MAX_LR, STEPS).lrs().tolist()


def test_ours_and_the_loop_by_hand_end_alike():
    """Same weights, bit for bit: the times are those of the same run."""
    ends = []
    for contestant in TRAININGS[:2]:
        setup = tiny()
        torch.manual_seed(0)
        contestant.prepare(setup, STEPS)()
        ends.append(setup.model.weight)

    assert torch.equal(*ends)
