"""Metrics of a validation pass: any object with ``update``, ``compute`` and ``reset``, as torchmetrics has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
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
    takes them; ``targets``: class indices of shape ``(batch,)`` or ``(batch, ...)``, or class probabilities of the
    shape of ``outputs``, of which the largest counts. The counts stay on the outputs' device until ``compute``, so
    an accelerator is not made to wait for each batch.

    Args:
        ignore_index: A target class that is not counted, as in ``nn.CrossEntropyLoss``.

    >>> import torch
    >>> accuracy = Accuracy()
    >>> accuracy.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    >>> accuracy.compute()
    0.5
    """

    # As torchmetrics' classes say of themselves: see share_of_hits.
    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(self, ignore_index: int = -100) -> None:
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._correct: Tensor | int = 0
        self._seen: Tensor | int = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count the hits of one batch."""
        if targets.is_floating_point():
            targets = targets.argmax(dim=1)
        counted = targets != self.ignore_index
        self._correct = self._correct + ((outputs.argmax(dim=1) == targets) & counted).sum()
        self._seen = self._seen + counted.sum()

    def compute(self) -> float:
        """Return the share of hits; NaN when there was no sample."""
        seen = int(self._seen)
        return int(self._correct) / seen if seen else float("nan")


class OutputStd:
    """Standard deviation of a model's outputs between samples; 0 where it answers the same whatever it sees.

    Within a batch, root mean square over outputs and batches. Outputs that are no tensor of floating-point numbers, and
    batches of one sample, are passed over; NaN when there were no others.

    >>> import torch
    >>> std = OutputStd()
    >>> std.update(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    >>> std.compute() == 0.5**0.5
    True
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._variances: list[Tensor] = []

    def update(self, outputs: Any, targets: Any = None) -> None:
        """Take in one batch; samples first, any further shape."""
        if isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.ndim and len(outputs) > 1:
            self._variances.append(outputs.detach().float().var(dim=0, correction=0).mean())

    def compute(self) -> float:
        """Return the standard deviation."""
        return math.sqrt(float(torch.stack(self._variances).mean())) if self._variances else math.nan


def share_of_hits(metrics: Mapping[str, Metric]) -> str | None:
    """Return the name of the first metric that rises to 1 as a model gets better, such as an accuracy; None if none.

    A metric says so by ``higher_is_better = True`` and ``plot_upper_bound = 1.0``, as torchmetrics' do.

    >>> share_of_hits({"accuracy": Accuracy()}), share_of_hits({})
    ('accuracy', None)
    """
    return next(
        (
            name
            for name, metric in metrics.items()
            if getattr(metric, "higher_is_better", None) is True and getattr(metric, "plot_upper_bound", None) == 1.0
        ),
        None,
    )
