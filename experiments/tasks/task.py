"""What a task of the regret study is, and the pieces from which the families make theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from experiments.tasks import data
from lrfind.metrics import Accuracy
from lrfind.workload import Workload

Score = Literal["accuracy", "r2"]
MakeOptimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]


class Split(NamedTuple):
    """Training and validation tensors, samples first; for an autoencoder the targets are the inputs."""

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor


@dataclass(frozen=True)
class Task:
    """One workload to train with OneCycle: data x model x optimizer x batch size.

    Data are the same for every seed; the seed draws the initial weights and the order of the batches. The
    optimizer comes with the lr that a user would write without looking, and with the ratios of its groups.

    Args:
        name: Says what the task is.
        total_steps: Optimizer steps of the real run.
        score: Name of the entry of ``Workload.evaluate()`` that counts, higher is better: share of hits, or
            1 - squared error / variance (of each output about its mean).
        make: Called with a seed, returns the workload. Seeds torch's global generator.
        constant_score: Called without arguments, returns the score of the best constant predictor.
        needs: Data sets that have to lie in the data root, as named in ``experiments.tasks.data``.
        split: Whether picks on it were looked at while rules were chosen ("design"), or only at the end ("held-out").
    """

    name: str
    total_steps: int
    score: Score
    make: Callable[[int], Workload]
    constant_score: Callable[[], float]
    needs: tuple[str, ...] = ()
    split: Literal["design", "held-out"] = "design"

    def missing(self) -> str | None:
        """Why the task cannot run here, or None."""
        return next((reason for name in self.needs if (reason := data.missing(name))), None)


class R2:
    """1 - squared error / variance, summed over samples and outputs; the variance is about each output's mean.

    >>> r2 = R2()
    >>> r2.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [3.0]]))
    >>> r2.compute()
    0.5
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._error = 0.0
        self._seen = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in one batch; samples first, any further shape."""
        exact = targets.double().flatten(1)
        self._error += float((outputs.double().flatten(1) - exact).square().sum())
        self._sum = self._sum + exact.sum(0)
        self._squares = self._squares + exact.square().sum(0)
        self._seen += len(exact)

    def compute(self) -> float:
        """Return the share of variance explained, at most 1; NaN for outputs that are not finite."""
        variance = torch.as_tensor(self._squares - self._sum**2 / self._seen).sum()
        return 1 - self._error / float(variance)


def task(
    name: str,
    total_steps: int,
    split: Callable[[], Split],
    net: Callable[[], nn.Module],
    optimizer: MakeOptimizer,
    batch_size: int,
    *,
    score: Score = "accuracy",
    criterion: nn.Module | None = None,
    groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
    clip: float | None = None,
    needs: tuple[str, ...] = (),
) -> Task:
    """Return a task in which ``net`` maps inputs to targets.

    With "accuracy" targets are classes, one a sample or one a position, and the default criterion is the
    cross-entropy; with "r2" they are regressed on with the squared error. ``groups`` makes parameter groups
    of the model, by default one.
    """
    metric = {"accuracy": Accuracy, "r2": R2}[score]
    loss = criterion or {"accuracy": nn.CrossEntropyLoss, "r2": nn.MSELoss}[score]()

    def of_positions(model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        outputs, targets = model(batch[0]).flatten(0, -2), batch[-1].flatten()
        return loss(outputs, targets), outputs, targets

    def make(seed: int) -> Workload:
        tensors = split()
        torch.manual_seed(seed)
        model = net()
        order = torch.Generator().manual_seed(seed)
        positions = score == "accuracy" and tensors.train_y.ndim > 1
        return Workload(
            model,
            optimizer(groups(model) if groups else model.parameters()),
            None if positions else loss,
            train_loader=DataLoader(
                TensorDataset(tensors.train_x, tensors.train_y),
                batch_size,
                shuffle=True,
                drop_last=True,
                generator=order,
            ),
            val_loader=DataLoader(
                # A generator of its own, so that an evaluation draws nothing from the global one.
                TensorDataset(tensors.val_x, tensors.val_y),
                1000,
                generator=torch.Generator(),
            ),
            loss_fn=of_positions if positions else None,
            clip_grad_norm=clip,
            metrics={score: metric()},
        )

    @functools.cache
    def constant_score() -> float:
        if score == "r2":
            return 0.0
        tensors = split()
        guess = tensors.train_y.flatten().bincount().argmax()
        return float((tensors.val_y == guess).double().mean())

    return Task(name, total_steps, score, make, constant_score, needs)
