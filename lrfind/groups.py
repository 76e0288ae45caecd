"""Learning rate and momentum of an optimizer's parameter groups: read and written in one place.

Optimizers keep these two numbers in different ways. The lr is a float or, for ``capturable`` or compiled
optimizers, a tensor that must stay the same object. What one-cycle schedules call momentum is ``"momentum"``
in SGD, RMSprop and Muon, the first of ``"betas"`` in the Adam family, and nothing at all in Adagrad.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Group = dict[str, Any]


def get_lr(group: Group) -> float:
    """Return the lr of ``group`` as a float (of a tensor lr on an accelerator: waits for the device).

    >>> get_lr({"lr": torch.tensor(0.5)})
    0.5
    """
    return float(group["lr"])


def set_lr(group: Group, lr: float) -> None:
    """Set the lr of ``group``: a tensor is filled in place and stays the same object, else the float is stored.

    >>> group = {"lr": torch.tensor(0.5)}
    >>> set_lr(group, 0.25)
    >>> group
    {'lr': tensor(0.2500)}
    """
    group["lr"] = _replaced(group["lr"], lr)


def get_momentum(group: Group) -> float | None:
    """Return the momentum of ``group``: the first of ``"betas"``, else ``"momentum"``; None where it has neither.

    >>> get_momentum({"betas": (0.9, 0.999)}), get_momentum({"momentum": 0}), get_momentum({"lr_decay": 0})
    (0.9, 0.0, None)
    """
    if "betas" in group:
        return float(group["betas"][0])
    return float(group["momentum"]) if "momentum" in group else None


def set_momentum(optimizer: Optimizer, group: Group, value: float) -> None:
    """Set what :func:`get_momentum` reads; further betas stay, a tensor is filled in place.

    RMSprop makes its momentum buffers with the rest of its state, at a parameter's first step, and only if the
    momentum is above 0 by then. One that turns momentum on later looks for a buffer that is not there
    (``KeyError``), so it gets a zero one here, which is what it would hold had the momentum been on and unused.

    Raises:
        ValueError: If the group has no momentum.

    >>> optimizer = torch.optim.AdamW([torch.zeros(2, requires_grad=True)])
    >>> set_momentum(optimizer, optimizer.param_groups[0], 0.85)
    >>> optimizer.param_groups[0]["betas"]
    (0.85, 0.999)
    """
    if "betas" in group:
        betas = group["betas"]
        group["betas"] = (_replaced(betas[0], value), *betas[1:])
    elif "momentum" in group:
        momentum = group["momentum"]
        if momentum == 0 and value > 0:
            _add_missing_momentum_buffers(optimizer, group)
        group["momentum"] = _replaced(momentum, value)
    else:
        raise ValueError(
            f"momentum can be set where a parameter group has 'momentum' or 'betas'; a group of "
            f"{type(optimizer).__name__} has {sorted(key for key in group if key != 'params')}. "
            "Use another optimizer, or leave the momentum alone (cycle_momentum=False)."
        )


def lr_ratios(optimizer: Optimizer) -> list[float]:
    """Return each group's lr over the largest lr; all 1.0 where every lr is 0.

    Raises:
        ValueError: If an lr is negative or not finite.

    >>> weight, bias = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    >>> lr_ratios(torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 0.2}], lr=0.1))
    [0.5, 1.0]
    """
    lrs = [get_lr(group) for group in optimizer.param_groups]
    if not all(0 <= lr < math.inf for lr in lrs):
        raise ValueError(
            f"the lr of every parameter group must be finite and at least 0; got {lrs}. "
            "Set the groups' lr before measuring their ratios."
        )
    largest = max(lrs)
    return [lr / largest for lr in lrs] if largest > 0 else [1.0] * len(lrs)


def _replaced(old: float | Tensor, value: float) -> float | Tensor:
    return old.fill_(value) if isinstance(old, Tensor) else value


def _add_missing_momentum_buffers(optimizer: Optimizer, group: Group) -> None:
    for parameter in group["params"]:
        state = optimizer.state.get(parameter, {})
        # "square_avg" tells RMSprop from SGD, where a missing buffer is made at the next step.
        if "square_avg" in state and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
