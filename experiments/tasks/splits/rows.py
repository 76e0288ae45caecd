"""Rows of numbers: cut into those to train on and those to validate."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from torch import Tensor

from experiments.tasks.task import Split

SKLEARN = ("scikit-learn",)


def split_rows(inputs: NDArray, targets: NDArray, train: int, *, normalise: bool = True) -> Split:
    """Shuffled: the first ``train`` rows to train on, the rest to validate; scaled by training statistics.

    Whole-number targets are classes, others become columns of mean 0 and sd 1.
    """
    order = default_rng(0).permutation(len(inputs))
    inputs, targets = inputs[order].astype(np.float64), targets[order]
    if normalise:
        inputs = (inputs - inputs[:train].mean(0)) / (inputs[:train].std(0) + 1e-12)
    if targets.dtype.kind == "f":
        targets = ((targets - targets[:train].mean(0)) / targets[:train].std(0)).reshape(len(targets), -1)
        y: Tensor = torch.tensor(targets, dtype=torch.float32)
    else:
        y = torch.tensor(targets, dtype=torch.long)
    x = torch.tensor(inputs, dtype=torch.float32)
    return Split(x[:train], y[:train], x[train:], y[train:])


def equally_validated(split: Split, classes: int, each: int) -> Split:
    """Return ``split`` with the first ``each`` rows of every class to validate, one class after the other.

    Accuracy is then the mean recall of the classes.
    """
    chosen = torch.cat([(split.val_y == label).nonzero()[:each, 0] for label in range(classes)])
    return split._replace(val_x=split.val_x[chosen], val_y=split.val_y[chosen])
