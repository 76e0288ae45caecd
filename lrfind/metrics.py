"""Metrics of a validation pass: any object with ``update``, ``compute`` and ``reset``, as torchmetrics has them."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Metric(Protocol):
    """What a validation pass asks of a metric. torchmetrics' metrics fit as they are."""

    def update(self, outputs: Any, targets: Any, /) -> Any:
        """Take in one batch."""

    def compute(self) -> Any:
        """Return the value over all batches since ``reset``: a float or a tensor of one element."""

    def reset(self) -> Any:
        """Forget all batches."""


class Accuracy:
    """Share of samples, 0 to 1, whose largest output is the target class.

    ``outputs``: logits of shape ``(batch, classes)`` or ``(batch, classes, ...)``, as ``nn.CrossEntropyLoss``
    takes them; ``targets``: class indices of shape ``(batch,)`` or ``(batch, ...)``. The count stays on the
    outputs' device until ``compute``, so an accelerator is not made to wait for each batch.

    >>> import torch
    >>> accuracy = Accuracy()
    >>> accuracy.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    >>> accuracy.compute()
    0.5
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._correct: Tensor | int = 0
        self._seen = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count the hits of one batch."""
        self._correct = self._correct + (outputs.argmax(dim=1) == targets).sum()
        self._seen += targets.numel()

    def compute(self) -> float:
        """Return the share of hits; NaN when there was no sample."""
        return float(self._correct) / self._seen if self._seen else float("nan")
