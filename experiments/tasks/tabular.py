"""Rows of numbers: scikit-learn's own data sets and generators, and mixtures drawn here."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.tasks.nets import ResidualMLP, mlp
from experiments.tasks.optimizers import adagrad, adam, adamw, nesterov, rmsprop, sgd
from experiments.tasks.task import Split, Task, task

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


@functools.cache
def cancer(normalise: bool = True) -> Split:
    """Breast cancer: 30 features, 2 classes; unnormalised they span 1e-3 to 1e3."""
    from sklearn.datasets import load_breast_cancer

    return split_rows(*load_breast_cancer(return_X_y=True), train=269, normalise=normalise)


@functools.cache
def diabetes() -> Split:
    """Diabetes: 10 features, one noisy target, 242 rows to train on."""
    from sklearn.datasets import load_diabetes

    return split_rows(*load_diabetes(return_X_y=True), train=242)


@functools.cache
def friedman(kind: int, train: int, noise: float = 1.0, normalise: bool = True) -> Split:
    """Friedman's regression problems 1, 2 and 3."""
    from sklearn import datasets

    make = getattr(datasets, f"make_friedman{kind}")
    return split_rows(*make(n_samples=train + 4000, noise=noise, random_state=kind), train, normalise=normalise)


@functools.cache
def clusters(
    train: int,
    features: int,
    classes: int,
    *,
    seed: int,
    per_class: int = 2,
    separation: float = 1.0,
    flip: float = 0.0,
) -> Split:
    """``make_classification``; a share ``flip`` of the training classes is redrawn, none to validate on."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        train + 4000,
        features,
        n_informative=features // 2,
        n_redundant=features // 4,
        n_classes=classes,
        n_clusters_per_class=per_class,
        class_sep=separation,
        flip_y=0.0,
        random_state=seed,
    )
    split = split_rows(inputs, targets, train)
    return split._replace(train_y=flipped(split.train_y, flip, classes))


def flipped(classes: Tensor, share: float, count: int) -> Tensor:
    """Return ``classes`` with a share of them redrawn from ``count`` classes."""
    rng = default_rng(1)
    redrawn = torch.from_numpy(rng.random(len(classes)) < share)
    return torch.where(redrawn, torch.from_numpy(rng.integers(count, size=len(classes))), classes)


@functools.cache
def imbalanced() -> Split:
    """Three classes of 92, 6 and 2 %; validated on equal shares, so accuracy is the classes' mean recall."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        60000, 16, n_informative=8, n_classes=3, weights=[0.92, 0.06], flip_y=0.0, random_state=5
    )
    split = split_rows(inputs, targets, train=3000)
    chosen = torch.cat([(split.val_y == label).nonzero()[:800, 0] for label in range(3)])
    chosen = chosen[torch.from_numpy(default_rng(0).permutation(len(chosen)))]
    return split._replace(val_x=split.val_x[chosen], val_y=split.val_y[chosen])


@functools.cache
def spirals() -> Split:
    """Three interleaved spirals in the plane."""
    rng = default_rng(2)
    labels = rng.integers(3, size=6000)
    radius = np.sqrt(rng.random(6000)) * 3
    angle = radius * 2.2 + labels * 2 * np.pi / 3 + rng.normal(0, 0.15, 6000)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return split_rows(points, labels, train=2000)


@functools.cache
def hastie() -> Split:
    """Is the squared norm of ten Gaussians above its median?"""
    from sklearn.datasets import make_hastie_10_2

    inputs, targets = make_hastie_10_2(8000, random_state=0)
    return split_rows(inputs, (targets > 0).astype(int), train=4000)


@functools.cache
def teacher(inputs: int, outputs: int, train: int, tails: bool = False) -> Split:
    """Outputs of a random two-layer network with 10 % noise; ``tails``: inputs from Student's t (3 degrees)."""
    rng: Generator = default_rng(3)
    x = rng.standard_t(3, (train + 4000, inputs)) if tails else rng.normal(size=(train + 4000, inputs))
    hidden = np.tanh(x @ rng.normal(size=(inputs, 20)) / np.sqrt(inputs))
    y = hidden @ rng.normal(size=(20, outputs))
    y += rng.normal(size=y.shape) * y.std() * 0.1
    return split_rows(x, y, train)


TASKS: list[Task] = [
    task("cancer-logistic-sgd-b16", 200, cancer, lambda: mlp(30, 2), sgd(), 16, needs=SKLEARN),
    task(
        "cancer-unnormalised-mlp-adam-b32",
        300,
        functools.partial(cancer, normalise=False),
        lambda: mlp(30, 64, 32, 2),
        adam(),
        32,
        needs=SKLEARN,
    ),
    task(
        "diabetes-mlp-adamw-b64",
        300,
        diabetes,
        lambda: mlp(10, 64, 64, 1),
        adamw(),
        64,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "diabetes-linear-sgd0-b16",
        300,
        diabetes,
        lambda: mlp(10, 1),
        sgd(momentum=0),
        16,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "friedman1-mlp-rmsprop-b64",
        500,
        functools.partial(friedman, 1, 2000),
        lambda: mlp(10, 64, 64, 1),
        rmsprop(),
        64,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "friedman2-unnormalised-mlp-nesterov-b128-clip1",
        500,
        functools.partial(friedman, 2, 3000, 10.0, normalise=False),
        lambda: mlp(4, 64, 64, 1),
        nesterov(),
        128,
        score="r2",
        clip=1.0,
        needs=SKLEARN,
    ),
    task(
        "friedman3-resmlp-nesterov-b32",
        600,
        functools.partial(friedman, 3, 2000, 0.05),
        lambda: ResidualMLP(4, 32, 2, 1),
        nesterov(),
        32,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "friedman1-small-mlp-adam-b8",
        400,
        functools.partial(friedman, 1, 80),
        lambda: mlp(10, 128, 64, 1),
        adam(),
        8,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "clusters-mlp-adagrad-b128",
        500,
        functools.partial(clusters, 6000, 20, 5, seed=1),
        lambda: mlp(20, 64, 64, 5),
        adagrad(),
        128,
        needs=SKLEARN,
    ),
    task(
        "clusters-flip40-mlp-nesterov-b50",
        800,
        functools.partial(clusters, 1000, 20, 3, seed=2, flip=0.4),
        lambda: mlp(20, 128, 128, 3),
        nesterov(),
        50,
        needs=SKLEARN,
    ),
    task(
        "clusters-logistic-adam-b1024",
        200,
        functools.partial(clusters, 8192, 40, 8, seed=3, per_class=1, separation=1.5),
        lambda: mlp(40, 8),
        adam(),
        1024,
        needs=SKLEARN,
    ),
    task(
        "clusters-resmlp-adamw-b256",
        300,
        functools.partial(clusters, 8000, 32, 6, seed=4),
        lambda: ResidualMLP(32, 48, 3, 6),
        adamw(),
        256,
        needs=SKLEARN,
    ),
    task(
        "imbalanced-mlp-adamw-b64-weighted",
        400,
        imbalanced,
        lambda: mlp(16, 64, 64, 3),
        adamw(),
        64,
        criterion=nn.CrossEntropyLoss(weight=torch.tensor([0.08, 1.2, 3.6])),
        needs=SKLEARN,
    ),
    task("spirals-mlp-adam-b1024", 500, spirals, lambda: mlp(2, 64, 64, 3, act=nn.Tanh), adam(), 1024),
    task("spirals-mlp-sgd0-b32", 1000, spirals, lambda: mlp(2, 48, 48, 48, 3), sgd(momentum=0), 32),
    task(
        "hastie-mlp-sgd-b256-clip",
        400,
        hastie,
        lambda: mlp(10, 100, 2, act=nn.Tanh),
        sgd(),
        256,
        clip=0.1,
        needs=SKLEARN,
    ),
    task(
        "teacher-mlp-sgd0-b8",
        1000,
        functools.partial(teacher, 20, 3, 4000),
        lambda: mlp(20, 64, 64, 3),
        sgd(momentum=0),
        8,
        score="r2",
    ),
    task(
        "teacher-heavytails-mlp-adagrad-b64",
        500,
        functools.partial(teacher, 16, 2, 4000, tails=True),
        lambda: mlp(16, 64, 64, 2, act=nn.GELU),
        adagrad(),
        64,
        score="r2",
    ),
]
