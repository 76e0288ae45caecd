"""Some classes of an image set: those that a net is trained on before, and those that it is fine-tuned on."""

from __future__ import annotations

import functools

import torch
from numpy.random import default_rng
from torch import Tensor

from experiments.tasks.splits.images import images
from experiments.tasks.task import Split

Classes = tuple[int, ...]

FIRST_HALF: Classes = (0, 1, 2, 3, 4)
SECOND_HALF: Classes = (5, 6, 7, 8, 9)
EVEN: Classes = (0, 2, 4, 6, 8)
ODD: Classes = (1, 3, 5, 7, 9)
GARMENTS: Classes = (0, 2, 3, 4, 6)  # of Fashion-MNIST: what is worn above the waist
ANIMALS: Classes = (3, 4, 5, 6, 7)  # of CIFAR-10: those with four legs


def of_classes(x: Tensor, y: Tensor, classes: Classes) -> tuple[Tensor, Tensor]:
    """Return the images of some classes, numbered in that order."""
    places = torch.isin(y, torch.tensor(classes)).nonzero()[:, 0]
    return x[places], torch.searchsorted(torch.tensor(classes), y[places])


def class_by_class(x: Tensor, y: Tensor, classes: Classes) -> tuple[Tensor, Tensor]:
    """Return the images of the first of some classes, then those of the next, numbered in that order."""
    x, y = of_classes(x, y, classes)
    order = y.argsort(stable=True)
    return x[order], y[order]


@functools.cache
def some_classes(name: str, classes: Classes, train: int, *, seed: int | None = None) -> Split:
    """``train`` images of some classes, with a ``seed`` in any order."""
    split = images(name)
    parts: list[Tensor] = []
    for x, y in ((split.train_x, split.train_y), (split.val_x, split.val_y)):
        chosen_x, chosen_y = of_classes(x, y, classes)
        if seed is not None:
            order = torch.from_numpy(default_rng(seed).permutation(len(chosen_y)))
            chosen_x, chosen_y = chosen_x[order], chosen_y[order]
        parts += [chosen_x, chosen_y]
    return Split(parts[0][:train], parts[1][:train], *parts[2:])


@functools.cache
def other_classes(name: str, seen: Classes, train: int) -> Split:
    """``train`` images of the classes that are not among those ``seen`` before."""
    split = images(name)
    unseen = tuple(label for label in range(10) if label not in seen)
    x, y = class_by_class(split.train_x, split.train_y, unseen)
    chosen = torch.from_numpy(default_rng(105).permutation(len(x))[:train])
    return Split(x[chosen], y[chosen], *class_by_class(split.val_x, split.val_y, unseen))
