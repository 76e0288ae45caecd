"""What kind of optimizer this is: whether it scales its own steps, and where its learning rates usually lie."""

from __future__ import annotations

from torch.optim import Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

SCALE_THEMSELVES = (Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop)
# The middle of what suits: of the optimizers named, of others with betas, of the rest.
USUAL = {"RMSprop": 1e-3, "Adagrad": 0.2}
USUAL_WITH_BETAS, USUAL_SGD = 1e-2, 0.1


def scales_itself(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer divides its steps by the size of its gradients, as Adam does and its kin.

    Then a rate means nearly the same whatever the size of the loss, and no step is longer for a steep one.

    >>> import torch
    >>> weight = [torch.zeros(2, requires_grad=True)]
    >>> scales_itself(AdamW(weight)), scales_itself(torch.optim.SGD(weight))
    (True, False)
    """
    return isinstance(optimizer, SCALE_THEMSELVES)


def usual_lr(optimizer: Optimizer) -> float:
    """Return the middle of the learning rates that suit an optimizer as the peak of a cycle.

    Source:
        The design tasks of ``experiments.regret``.

    >>> import torch
    >>> weight = [torch.zeros(2, requires_grad=True)]
    >>> usual_lr(torch.optim.SGD(weight)), usual_lr(AdamW(weight)), usual_lr(RMSprop(weight))
    (0.1, 0.01, 0.001)
    """
    with_betas = any("betas" in group for group in optimizer.param_groups)
    return USUAL.get(type(optimizer).__name__, USUAL_WITH_BETAS if with_betas else USUAL_SGD)
