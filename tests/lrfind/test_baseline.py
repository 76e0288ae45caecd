"""Tests of lrfind.baseline: the loss of the best constant prediction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lrfind.baseline import TARGET_NUMBERS, ConstantLoss, constant_loss


def best_constant(criterion: nn.Module, targets: Tensor, outputs: int) -> float:
    """Train the constant itself: an oracle that knows nothing of entropies and variances."""
    constant = torch.zeros(1, outputs, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = criterion(constant.expand(len(targets), -1), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    return closure().item()


def classes(*sizes: int) -> list[Tensor]:
    return [torch.randint(4, (size,)) for size in sizes]


@pytest.mark.parametrize(
    ("criterion", "targets", "outputs"),
    [
        (nn.CrossEntropyLoss(), classes(40, 40, 13), 4),
        (nn.CrossEntropyLoss(ignore_index=2), classes(40, 13), 4),
        (nn.MSELoss(), [torch.randn(30, 3) * 2 + 5, torch.randn(7, 3)], 3),
        (nn.BCEWithLogitsLoss(), [torch.rand(30, 3).round(), torch.rand(7, 3)], 3),
    ],
    ids=["cross entropy", "with ignored class", "mean squared error", "binary"],
)
def test_is_what_the_best_constant_gets(criterion, targets, outputs):
    """The closed form equals the loss of a constant that was trained to its optimum."""
    together = torch.cat(targets)
    together = together.double() if together.is_floating_point() else together

    assert constant_loss(criterion, targets) == pytest.approx(best_constant(criterion, together, outputs), abs=1e-6)


def test_counts_every_position():
    """Classes per pixel or token count one by one, also where sequences differ in length."""
    flat = constant_loss(nn.CrossEntropyLoss(), [torch.tensor([0, 0, 1, 1, 1, 1])])

    ragged = [torch.tensor([[0, 0]]), torch.tensor([[1, 1, 1, 1]])]

    assert constant_loss(nn.CrossEntropyLoss(), ragged) == flat


class Focal(nn.CrossEntropyLoss):
    """By descent a cross entropy, by value none."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 2 * super().forward(outputs, targets)


@pytest.mark.parametrize(
    ("criterion", "targets"),
    [
        (None, classes(8)),
        (nn.L1Loss(), [torch.randn(8)]),
        (Focal(), classes(8)),
        (nn.CrossEntropyLoss(weight=torch.ones(4)), classes(8)),
        (nn.CrossEntropyLoss(label_smoothing=0.1), classes(8)),
        (nn.CrossEntropyLoss(reduction="sum"), classes(8)),
        (nn.CrossEntropyLoss(), [torch.rand(8, 4)]),
        (nn.CrossEntropyLoss(), [torch.full((8,), -100)]),
        (nn.CrossEntropyLoss(), []),
        (nn.CrossEntropyLoss(), [torch.tensor(1)]),
        (nn.CrossEntropyLoss(), ["a", "b"]),
        (nn.MSELoss(), [torch.randn(4, 7), torch.randn(4, 9)]),
        (nn.MSELoss(), [torch.tensor([1.0, float("inf")])]),
        (nn.BCEWithLogitsLoss(), [torch.tensor([2.0, 3.0])]),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)), [torch.rand(8)]),
    ],
    ids=[
        "loss_fn",
        "other loss",
        "derived class",
        "class weights",
        "label smoothing",
        "sum",
        "probabilities",
        "all ignored",
        "no targets",
        "no dimension",
        "no tensors",
        "ragged",
        "infinite",
        "no probability",
        "pos_weight",
    ],
)
def test_is_none_where_it_is_not_known(criterion, targets):
    """Rather no baseline than a wrong one, and never an error at the end of a sweep."""
    assert constant_loss(criterion, targets) is None


def test_a_metric_of_batches_says_the_same():
    """Of whatever outputs; and forgets all when it is reset."""
    targets = classes(8, 8, 5)
    metric = ConstantLoss(nn.CrossEntropyLoss())
    for part in targets:
        metric.update(None, part)

    assert metric.compute() == constant_loss(nn.CrossEntropyLoss(), targets)
    metric.reset()
    assert math.isnan(metric.compute())


@pytest.mark.parametrize(("criterion", "target"), [(None, torch.tensor([1, 2])), (nn.MSELoss(), None)])
def test_the_metric_is_no_number_where_it_is_not_known(criterion, target):
    """A loss_fn, or batches without a target."""
    metric = ConstantLoss(criterion)
    metric.update(None, target)

    assert math.isnan(metric.compute())


def test_the_metric_keeps_a_million_numbers():
    """Images as targets would fill the memory."""
    metric = ConstantLoss(nn.MSELoss())
    half = torch.arange(2.0).repeat_interleave(TARGET_NUMBERS // 4)
    for _ in range(2):
        metric.update(None, half)
    metric.update(None, 100 * half)

    assert metric.compute() == 0.25
