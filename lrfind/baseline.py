"""The loss of the best constant prediction: what a model that has learned nothing but the targets' mean gets.

A network on unnormalised inputs starts far above it, and one whose weights have blown up may settle on it: a fall
from the one to the other is no learning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Targets of so many numbers, of images say, are enough to tell it by.
TARGET_NUMBERS = 1_000_000


def constant_loss(criterion: Callable[..., Tensor] | None, targets: Sequence[Any]) -> float | None:
    """Return the mean loss of the best constant prediction of ``targets``, or None where that is not known.

    Known for ``CrossEntropyLoss`` on class indices (the entropy of the class frequencies), ``MSELoss`` (the
    variance per output), ``BCEWithLogitsLoss`` (the binary entropy per output), each without class weights or
    label smoothing and with ``reduction="mean"``. Not for classes derived from these.

    Args:
        criterion: The loss.
        targets: Target tensors of some batches.

    >>> round(constant_loss(nn.CrossEntropyLoss(), [torch.tensor([0, 1]), torch.tensor([1, 0])]), 4)
    0.6931
    """
    if not targets or not all(isinstance(target, Tensor) and target.ndim for target in targets):
        return None
    if getattr(criterion, "reduction", None) != "mean" or getattr(criterion, "weight", None) is not None:
        return None
    # Of exactly these classes: a focal loss is a CrossEntropyLoss by descent only.
    kind = type(criterion)
    with torch.no_grad():
        if kind is nn.CrossEntropyLoss:
            return _entropy(criterion, targets)
        if len({target.shape[1:] for target in targets}) > 1:
            return None  # sequences of different lengths have no mean target
        if kind is nn.MSELoss:
            return _finite(_stacked(targets).var(dim=0, correction=0).mean())
        if kind is nn.BCEWithLogitsLoss and getattr(criterion, "pos_weight", None) is None:
            share = _stacked(targets).mean(dim=0)
            return _finite(-(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)).mean())
    return None


class ConstantLoss:
    """``constant_loss`` of data that come in batches, as a metric: NaN where it is not known.

    Targets of more than a million numbers are told by those that came first.

    Args:
        criterion: The loss.

    >>> constant = ConstantLoss(nn.MSELoss())
    >>> for targets in ([[1.0], [2.0]], [[3.0], [4.0]]):
    ...     constant.update(None, torch.tensor(targets))
    >>> constant.compute()
    1.25
    """

    def __init__(self, criterion: Callable[..., Tensor] | None) -> None:
        self.criterion = criterion
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._targets: list[Any] = []
        self._numbers = 0

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in the targets of one batch."""
        if self.criterion is not None and self._numbers < TARGET_NUMBERS:
            self._targets.append(targets)
            self._numbers += targets.numel() if isinstance(targets, Tensor) else 0

    def compute(self) -> float:
        """Return the loss."""
        # On the CPU: some devices know no double precision.
        targets = [part.cpu() if isinstance(part, Tensor) else part for part in self._targets]
        loss = constant_loss(self.criterion, targets)
        return math.nan if loss is None else loss


def _entropy(criterion: Any, targets: Sequence[Tensor]) -> float | None:
    if criterion.label_smoothing or any(target.is_floating_point() for target in targets):
        return None
    classes = torch.cat([target.reshape(-1) for target in targets])
    _, counts = torch.unique(classes[classes != criterion.ignore_index], return_counts=True)
    total = int(counts.sum())
    return -math.fsum(n / total * math.log(n / total) for n in counts.tolist()) if total else None


def _stacked(targets: Sequence[Tensor]) -> Tensor:
    return torch.cat([target.reshape(len(target), -1) for target in targets]).double()


def _finite(loss: Tensor) -> float | None:
    return float(loss) if math.isfinite(loss) else None
