"""What training changes, taken down and put back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lrfind import Workload
from onecycle.state import WorkState, as_plain

Make = Callable[..., Workload]


def steps(work: Workload, count: int = 4) -> None:
    """Take some steps, on the same batches each time."""
    torch.manual_seed(5)
    for _, batch in zip(range(count), work.train_loader, strict=False):
        work.step([batch])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw-tensor-lr", "rmsprop", "adagrad"])
def test_trap_1_a_state_can_be_put_back_twice(optimizer: str, make: Make, same):
    """Training on from it does not reach into it, and the tensors stay the same objects."""
    work, reference = make(optimizer), make(optimizer)
    steps(work)
    steps(reference)
    objects = [id(p) for p in work.model.parameters()], id(work.optimizer.param_groups[0]["lr"])
    state = WorkState(work, None)
    record = state.take()
    for _ in range(2):
        steps(work)
        assert not same(work, reference)
        state.put(record)
        assert same(work, reference)
    assert [id(p) for p in work.model.parameters()] == objects[0]
    if optimizer == "adamw-tensor-lr":
        assert id(work.optimizer.param_groups[0]["lr"]) == objects[1]


def test_state_that_was_not_there_is_absent_again(make: Make):
    """Moments of an optimizer, and the counter of the model."""
    work = make("adam")
    state = WorkState(work, None)
    record = state.take()
    steps(work)
    state.put(record)
    assert len(work.optimizer.state) == 0
    assert (work.model.calls, float(work.model.seen)) == (0, 0.0)


def test_averages_and_scaler_belong_to_it(make: Make):
    """They go back too."""
    work = make(grad_scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    average = AveragedModel(work.model)
    state = WorkState(work, average)
    average.update_parameters(work.model)
    record = state.take()
    kept = [tensor.clone() for tensor in average.state_dict().values()]
    steps(work)
    average.update_parameters(work.model)
    work.grad_scaler.update(2.0)
    state.put(record)
    assert all(map(torch.equal, average.state_dict().values(), kept))
    assert work.grad_scaler.get_scale() == 8.0


def test_modules_that_a_loss_captures_belong_to_it():
    """Found once, also where they share parts with the model."""
    model, head = nn.Linear(2, 2), nn.Linear(2, 1)
    work = Workload(
        model,
        torch.optim.SGD([*model.parameters(), *head.parameters()], 0.1),
        train_loader=[torch.ones(3, 2)],
        loss_fn=lambda model, batch: head(model(batch)).mean(),
    )
    state = WorkState(work, None)
    before = head.weight.clone()
    record = state.take()
    work.step([torch.ones(3, 2)])
    assert not torch.equal(head.weight, before)
    state.put(record)
    assert torch.equal(head.weight, before)
    assert len(record["modules"]) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_seen(bad: float, make: Make):
    """One number among them is enough."""
    work = make()
    state = WorkState(work, None)
    assert state.finite()
    with torch.no_grad():
        work.model.outer.bias[1] = bad
    assert not state.finite()


def test_plain_data_share_nothing():
    """Tensors are copies, also of what shares memory or has a gradient."""
    weight = nn.Parameter(torch.ones(2))
    plain = as_plain({"a": [weight, weight.view(2)], "size": weight.shape})
    with torch.no_grad():
        weight.zero_()
    assert [tensor.tolist() for tensor in plain["a"]] == [[1, 1], [1, 1]]
    assert not plain["a"][0].requires_grad
    assert plain["size"] == torch.Size([2])
