"""Tests of lrfind.groups: lr and momentum of parameter groups."""

from __future__ import annotations

import math

import pytest
import torch

from lrfind.groups import get_lr, get_momentum, lr_ratios, set_lr, set_momentum


def parameter(size: int = 2) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(size))


def step(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.ones_like(weight)
    optimizer.step()


class ThreeBetas(torch.optim.Optimizer):
    """An optimizer with three betas, as Adan and AdEMAMix have."""

    def __init__(self, params: list[torch.nn.Parameter]) -> None:
        super().__init__(params, {"lr": 0.1, "betas": (0.98, 0.92, 0.99)})


def test_tensor_lr_is_filled_in_place():
    """A tensor lr stays the same object: a compiled or captured step keeps reading it."""
    lr = torch.tensor(0.1, dtype=torch.float64)
    optimizer = torch.optim.Adam([parameter()], lr=lr, capturable=False, foreach=False)

    set_lr(optimizer.param_groups[0], 0.3)

    assert optimizer.param_groups[0]["lr"] is lr
    assert get_lr(optimizer.param_groups[0]) == 0.3


def test_float_lr_is_assigned_as_given():
    """A float lr is replaced by the very number given."""
    group = torch.optim.SGD([parameter()], lr=0.1).param_groups[0]

    set_lr(group, 1 / 3)

    assert group["lr"] == 1 / 3
    assert get_lr(group) == 1 / 3


@pytest.mark.parametrize(
    ("make", "before", "key", "after"),
    [
        (lambda p: torch.optim.SGD([p], momentum=0.9, nesterov=True), 0.9, "momentum", 0.5),
        (lambda p: torch.optim.SGD([p]), 0.0, "momentum", 0.5),
        (lambda p: torch.optim.RMSprop([p], momentum=0.8), 0.8, "momentum", 0.5),
        (lambda p: torch.optim.Muon([torch.nn.Parameter(torch.ones(2, 2))]), 0.95, "momentum", 0.5),
        (lambda p: torch.optim.Adam([p], betas=(0.7, 0.99)), 0.7, "betas", (0.5, 0.99)),
        (lambda p: torch.optim.AdamW([p]), 0.9, "betas", (0.5, 0.999)),
        (lambda p: ThreeBetas([p]), 0.98, "betas", (0.5, 0.92, 0.99)),
    ],
)
def test_momentum_is_read_and_written_where_each_optimizer_keeps_it(make, before, key, after):
    """SGD, RMSprop and Muon keep 'momentum', the Adam family betas[0]; the other betas stay."""
    optimizer = make(parameter())
    group = optimizer.param_groups[0]

    assert get_momentum(group) == before
    set_momentum(optimizer, group, 0.5)

    assert group[key] == after
    assert get_momentum(group) == 0.5


def test_tensor_beta_is_filled_in_place():
    """A tensor beta1 stays the same object, for the same reason as a tensor lr."""
    first, second = torch.tensor(0.9), torch.tensor(0.999)
    optimizer = torch.optim.Adam([parameter()], betas=(first, second), capturable=False, foreach=False)

    set_momentum(optimizer, optimizer.param_groups[0], 0.5)

    assert optimizer.param_groups[0]["betas"][0] is first
    assert first == 0.5
    assert optimizer.param_groups[0]["betas"][1] is second


def test_adagrad_has_no_momentum():
    """No momentum is None when read, and an error that names the keys when written."""
    optimizer = torch.optim.Adagrad([parameter()])

    assert get_momentum(optimizer.param_groups[0]) is None
    with pytest.raises(ValueError, match=r"'momentum' or 'betas'; a group of Adagrad has .*cycle_momentum=False"):
        set_momentum(optimizer, optimizer.param_groups[0], 0.5)


def test_warm_rmsprop_can_turn_momentum_on():
    """RMSprop stepped at momentum 0 goes on at 0.9 as if its momentum had been on and its buffer zero."""
    warm, reference = parameter(), parameter()
    optimizer = torch.optim.RMSprop([warm], lr=0.1)
    step(optimizer)
    with torch.no_grad():
        reference.copy_(warm)
    expected = torch.optim.RMSprop([reference], lr=0.1, momentum=0.9)
    step(expected)  # makes the state
    expected.state[reference]["square_avg"].copy_(optimizer.state[warm]["square_avg"])
    expected.state[reference]["momentum_buffer"].zero_()
    with torch.no_grad():
        reference.copy_(warm)

    set_momentum(optimizer, optimizer.param_groups[0], 0.9)
    for _ in range(3):
        step(optimizer)
        step(expected)

    assert torch.equal(warm, reference)


def test_momentum_buffers_of_sgd_are_left_to_sgd():
    """SGD makes its own buffer (the first gradient, undamped), so none is put there."""
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=0.1, dampening=0.5)
    step(optimizer)

    set_momentum(optimizer, optimizer.param_groups[0], 0.9)

    assert optimizer.state[weight].get("momentum_buffer") is None


def test_ratios_are_to_the_largest_lr():
    """The group with the largest lr has ratio 1, whichever place it has."""
    groups = [{"params": [parameter()], "lr": lr} for lr in (0.01, torch.tensor(0.5), 0.0)]

    assert lr_ratios(torch.optim.SGD(groups, foreach=False)) == [0.02, 1.0, 0.0]


def test_ratios_of_zero_lrs_are_one():
    """Where every lr is 0 there is no ratio to keep: the groups count as equal."""
    assert lr_ratios(torch.optim.SGD([{"params": [parameter()]}, {"params": [parameter()]}], lr=0.0)) == [
        1.0,
        1.0,
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_ratios_of_an_impossible_lr_are_refused(bad):
    """NaN, infinite and negative lrs are named in the error."""
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    optimizer.param_groups[0]["lr"] = bad

    with pytest.raises(ValueError, match=rf"finite and at least 0; got \[{bad}\]"):
        lr_ratios(optimizer)
