"""Tests of onecycle.optimizers: which scale their own steps, and where their rates lie."""

from __future__ import annotations

import pytest
import torch
from torch import optim

from onecycle.optimizers import scales_itself, usual_lr


def made(kind, **settings):
    return kind([torch.zeros(3, requires_grad=True)], lr=0.1, **settings)


@pytest.mark.parametrize(
    ("kind", "scales"),
    [
        (optim.Adagrad, True),
        (optim.Adam, True),
        (optim.Adamax, True),
        (optim.AdamW, True),
        (optim.NAdam, True),
        (optim.RAdam, True),
        (optim.RMSprop, True),
        (optim.ASGD, False),
        (optim.SGD, False),
    ],
)
def test_one_that_scales_itself_takes_the_same_step_for_a_steeper_loss(kind, scales):
    """With a gradient a thousand times as large, to within 1 %; its tenth step: RAdam's first five are not scaled."""
    moved = []
    for slope in (1.0, 1000.0):
        optimizer = made(kind)
        weight = optimizer.param_groups[0]["params"][0]
        weight.grad = torch.full_like(weight, slope)
        for _ in range(10):
            before = weight.detach().clone()
            optimizer.step()
        moved.append(float((weight.detach() - before).abs().max()))

    assert scales_itself(made(kind)) is scales
    assert (moved[1] == pytest.approx(moved[0], rel=0.01)) is scales


def test_a_subclass_scales_itself_too():
    """As those of libraries do."""

    class Own(optim.AdamW):
        pass

    assert scales_itself(made(Own))
    assert usual_lr(made(Own)) == 0.01


@pytest.mark.parametrize(
    ("kind", "usual"),
    [(optim.SGD, 0.1), (optim.AdamW, 0.01), (optim.Adamax, 0.01), (optim.RMSprop, 0.001), (optim.Adagrad, 0.2)],
)
def test_usual(kind, usual):
    """By name, or by betas."""
    assert usual_lr(made(kind)) == usual
