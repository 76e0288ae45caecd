"""Tests of onecycle.ageing: how an optimizer's own step changes with the number of steps."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RAdam, RMSprop

from onecycle.ageing import ageing


def sizes(optimizer, steps: int) -> list[float]:
    """Return how far each further step moves a weight whose gradient is always 1."""
    weight = optimizer.param_groups[0]["params"][0]
    moved = []
    for _ in range(steps):
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        moved.append(before - weight.item())
    return moved


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: Adagrad(weights, lr=0.1),
        lambda weights: Adagrad(weights, lr=0.1, lr_decay=0.05),
        lambda weights: RMSprop(weights, lr=0.1),
        lambda weights: RMSprop(weights, lr=0.1, alpha=0.9),
        lambda weights: RAdam(weights, lr=0.1),
        lambda weights: RAdam(weights, lr=0.1, betas=(0.9, 0.99)),
        lambda weights: RAdam(weights, lr=0.1, betas=(0.9, 0.6)),  # remembers too little to ever correct its steps
        lambda weights: RAdam(weights, lr=0.1, betas=(0.9, 0.5)),
        lambda weights: Adam(weights, lr=0.1),
        lambda weights: AdamW(weights, lr=0.1, weight_decay=0.0),
        lambda weights: SGD(weights, lr=0.1),
    ],
)
@pytest.mark.parametrize(("early", "late"), [(10, 11), (25, 400), (400, 25)])
def test_is_that_of_torchs_own_steps(make, early, late):
    """On a constant gradient torch's optimizer takes steps that differ by just this factor."""
    optimizer = make([torch.zeros(1, dtype=torch.float64, requires_grad=True)])
    expected = ageing(optimizer, early, late)
    moved = sizes(optimizer, max(early, late))

    assert expected == pytest.approx(moved[late - 1] / moved[early - 1], rel=1e-5)


@pytest.mark.parametrize("kind", [Adagrad, RMSprop, RAdam])
def test_goes_on_from_the_steps_that_were_taken(kind):
    """An optimizer that has trained before is as old as its state says."""
    optimizer = kind([torch.zeros(1, dtype=torch.float64, requires_grad=True)], lr=0.1)
    sizes(optimizer, 50)
    expected = ageing(optimizer, 10, 90)
    moved = sizes(optimizer, 90)

    assert expected == pytest.approx(moved[89] / moved[9], rel=1e-5)


def test_radam_at_its_first_steps():
    """Before RAdam rectifies its step the share is not defined; then the smallest that is stands in."""
    optimizer = RAdam([torch.zeros(1, requires_grad=True)])

    assert ageing(optimizer, 1, 5) == 1.0
    assert 1 < ageing(optimizer, 1, 10) < ageing(optimizer, 1, 100)
