"""How an optimizer's own step grows or shrinks with the number of steps, at one learning rate."""

from __future__ import annotations

import math

from torch.optim import Adagrad, Optimizer, RAdam, RMSprop

# RAdam corrects its steps from so long a memory on.
SHORTEST = 5.0


def ageing(optimizer: Optimizer, early: int, late: int) -> float:
    """Return how large a step is after ``late`` steps, as a share of one after ``early``: same lr, same gradients.

    Adagrad divides by the root of the sum of all squared gradients, and by what ``lr_decay`` asks for, so its steps
    shrink. RMSprop divides by the root of a running mean that begins at 0, and does not correct for that, so its first
    steps are too large. RAdam leaves part of the step out until enough squared gradients have been seen. Others are
    the same at any age: 1.0.

    A peak that suits a cycle of ``early`` steps suits one of ``late`` steps when it is divided by this.

    Args:
        optimizer: The optimizer; of several parameter groups the first one's settings count.
        early: Optimizer steps from now, at least 1; those that its state has behind it come on top.
        late: Likewise.

    Source:
        torch's optimizers; Liu et al., arXiv:1908.03265, for RAdam.

    >>> import torch
    >>> weight = [torch.zeros(2, requires_grad=True)]
    >>> ageing(Adagrad(weight), 25, 400), ageing(torch.optim.SGD(weight), 25, 400)
    (0.25, 1.0)
    >>> round(ageing(RMSprop(weight, alpha=0.99), 25, 400), 2), round(ageing(RAdam(weight), 25, 400), 2)
    (0.48, 4.37)
    """
    settings = optimizer.param_groups[0]
    taken = max((int(state.get("step", 0)) for state in optimizer.state.values()), default=0)
    early, late = taken + early, taken + late
    if isinstance(optimizer, Adagrad):
        decay = float(settings["lr_decay"])
        return math.sqrt(early / late) * (1 + (early - 1) * decay) / (1 + (late - 1) * decay)
    if isinstance(optimizer, RMSprop):
        alpha = float(settings["alpha"])
        return math.sqrt((1 - alpha**early) / (1 - alpha**late))
    if isinstance(optimizer, RAdam):
        beta = float(settings["betas"][1])
        return _rectification(beta, late) / _rectification(beta, early)
    return 1.0


def _rectification(beta: float, step: int) -> float:
    """Return the share of Adam's step that RAdam takes; while that is not defined, at its first steps, the smallest.

    It is never defined where ``beta`` remembers too little, up to 2/3; then each step is a whole one.
    """
    longest = 2 / (1 - beta) - 1
    if longest <= SHORTEST:
        return 1.0
    length = max(longest - 2 * step * beta**step / (1 - beta**step), SHORTEST)
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
