"""Tasks of the second round, of all kinds: held out until the rules were looked at on them too."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.random import default_rng
from torch import nn

from experiments.tasks.images import CIFAR, FASHION, MNIST, body_and_head, fine_tuning, flat, images, pretrained_cnn
from experiments.tasks.nets import BagOfTokens, CharRNN, CharTransformer, ResidualMLP, ResNet, RowRNN, cnn, mlp
from experiments.tasks.optimizers import adagrad, adam, adamw, nesterov, rmsprop, sgd
from experiments.tasks.tabular import SKLEARN, clusters, flipped, friedman, imbalanced, split_rows
from experiments.tasks.task import Split, Task, task
from experiments.tasks.text import LENGTH, VOCABULARY, lines, sequences


@functools.cache
def wine(normalise: bool = True) -> Split:
    """Wine: 13 features, 3 classes, 90 rows to train on; unnormalised they span 0.1 to 1,000."""
    from sklearn.datasets import load_wine

    return split_rows(*load_wine(return_X_y=True), train=90, normalise=normalise)


@functools.cache
def moons(train: int, noise: float, flip: float) -> Split:
    """Two interleaved half-moons; a share ``flip`` of the training classes is redrawn."""
    from sklearn.datasets import make_moons

    split = split_rows(*make_moons(train + 4000, noise=noise, random_state=0), train)
    return split._replace(train_y=flipped(split.train_y, flip, 2))


@functools.cache
def shells(classes: int) -> Split:
    """Concentric shells of a Gaussian in eight dimensions, equally many points in each."""
    from sklearn.datasets import make_gaussian_quantiles

    return split_rows(*make_gaussian_quantiles(n_samples=8000, n_features=8, n_classes=classes, random_state=0), 4000)


@functools.cache
def swiss_roll() -> Split:
    """Where along a rolled-up sheet does a point of three coordinates lie?"""
    from sklearn.datasets import make_swiss_roll

    return split_rows(*make_swiss_roll(6000, noise=0.3, random_state=0), 3000)


@functools.cache
def marked_sums(length: int) -> Split:
    """Sequences of numbers, two of which are marked: their sum. Shaped as images: ``(n, 1, length, 2)``."""
    rng = default_rng(4)
    values, marks = rng.uniform(-1, 1, (8000, length)), np.zeros((8000, length))
    for half in (slice(0, length // 2), slice(length // 2, length)):
        places = rng.integers(half.start, half.stop, 8000)
        marks[np.arange(8000), places] = 1
    x = torch.tensor(np.stack([values, marks], 2)[:, None], dtype=torch.float32)
    y = torch.tensor((values * marks).sum(1, keepdims=True), dtype=torch.float32)
    return Split(x[:5000], y[:5000], x[5000:], y[5000:])


@functools.cache
def waves(length: int, noise: float, train: int = 4000) -> Split:
    """Which of six shapes has a noisy wave of unknown phase and period? ``(n, 1, length)``."""
    rng = default_rng(6)
    count = train + 3000
    labels = rng.integers(6, size=count)
    phase, period = rng.random((count, 1)), rng.uniform(0.2, 0.5, (count, 1))
    turn = (np.arange(length) / length / period + phase) % 1
    shapes = np.stack(
        [
            np.sin(2 * np.pi * turn),
            np.sign(np.sin(2 * np.pi * turn)),
            2 * turn - 1,
            1 - 2 * turn,
            2 * np.abs(2 * turn - 1) - 1,
            np.where(turn < 0.2, 1.5, -0.375),
        ]
    )
    x = shapes[labels, np.arange(count)] + rng.normal(0, noise, (count, length))
    tensors = torch.tensor(x[:, None], dtype=torch.float32), torch.tensor(labels)
    return Split(tensors[0][:train], tensors[1][:train], tensors[0][train:], tensors[1][train:])


@functools.cache
def waves_by_row(length: int, noise: float) -> Split:
    """Waves as sequences of one number a step: ``(n, 1, length, 1)``."""
    split = waves(length, noise)
    return split._replace(train_x=split.train_x[..., None], val_x=split.val_x[..., None])


def wave_cnn(width: int, classes: int) -> nn.Sequential:
    """Two strided convolutions over time with BatchNorm, and a linear head on the mean over time."""
    layers: list[nn.Module] = []
    for before, after in ((1, width), (width, 2 * width)):
        layers += [nn.Conv1d(before, after, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), *mlp(2 * width, classes))


def _images(name: str, train: int | None = None, flip: float = 0.0) -> Callable[[], Split]:
    return functools.partial(images, name, train, flip=flip)


TASKS: list[Task] = [
    task("wine-mlp-sgd-b8", 150, wine, lambda: mlp(13, 32, 3), sgd(), 8, needs=SKLEARN),
    task(
        "wine-unnormalised-mlp-adamw-b16",
        250,
        functools.partial(wine, normalise=False),
        lambda: mlp(13, 48, 48, 3),
        adamw(),
        16,
        needs=SKLEARN,
    ),
    task(
        "moons-flip30-mlp-nesterov-b16",
        400,
        functools.partial(moons, 200, 0.2, 0.3),
        lambda: mlp(2, 64, 64, 2, act=nn.Tanh),
        nesterov(),
        16,
        needs=SKLEARN,
    ),
    task(
        "shells-deep-mlp-sgd0-b64",
        500,
        functools.partial(shells, 3),
        lambda: mlp(8, 64, 64, 64, 64, 3),
        sgd(momentum=0),
        64,
        needs=SKLEARN,
    ),
    task(
        "shells-mlp-adagrad-b32-clip",
        400,
        functools.partial(shells, 2),
        lambda: mlp(8, 64, 2),
        adagrad(),
        32,
        clip=0.2,
        needs=SKLEARN,
    ),
    task(
        "swissroll-resmlp-adamw-b128",
        250,
        swiss_roll,
        lambda: ResidualMLP(3, 48, 2, 1),
        adamw(),
        128,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "friedman1-unnormalised-mlp-adam-b16-huber",
        300,
        functools.partial(friedman, 1, 600, 2.0, normalise=False),
        lambda: mlp(10, 64, 64, 1),
        adam(),
        16,
        score="r2",
        criterion=nn.SmoothL1Loss(),
        needs=SKLEARN,
    ),
    task(
        "imbalanced-mlp-nesterov-b32",
        400,
        imbalanced,
        lambda: mlp(16, 96, 3),
        nesterov(weight_decay=1e-3),
        32,
        needs=SKLEARN,
    ),
    task(
        "clusters-noisy-mlp-rmsprop-b16",
        500,
        functools.partial(clusters, 600, 30, 4, seed=11, flip=0.25),
        lambda: mlp(30, 96, 48, 4, dropout=0.1),
        rmsprop(),
        16,
        needs=SKLEARN,
    ),
    task(
        "sums-gru-adam-b64-clip1",
        400,
        functools.partial(marked_sums, 16),
        lambda: RowRNN(2, 32, 1),
        adam(),
        64,
        score="r2",
        clip=1.0,
    ),
    task(
        "waves-lstm-rmsprop-b32-clip1",
        300,
        functools.partial(waves_by_row, 32, 0.3),
        lambda: RowRNN(1, 32, 6, nn.LSTM),
        rmsprop(),
        32,
        clip=1.0,
    ),
    task(
        "waves-cnnbn-sgd-b128",
        200,
        functools.partial(waves, 64, 0.6),
        lambda: wave_cnn(16, 6),
        sgd(),
        128,
    ),
    task(
        "digits-rowrnn-sgd-b16-clip1",
        500,
        _images("digits"),
        lambda: RowRNN(8, 64, 10, nn.RNN),
        sgd(),
        16,
        clip=1.0,
        needs=SKLEARN,
    ),
    task(
        "fashion-rowlstm-nesterov-b64-clip",
        300,
        _images("FashionMNIST"),
        lambda: RowRNN(14, 40, 10, nn.LSTM),
        nesterov(),
        64,
        clip=0.5,
        needs=FASHION,
    ),
    task(
        "mnist-cnnbn-sgd0-b256",
        150,
        _images("MNIST"),
        lambda: cnn(1, 6, 10, size=14, batch_norm=True),
        sgd(momentum=0),
        256,
        needs=MNIST,
    ),
    task(
        "mnist-deep-mlp-sgd0-b32",
        400,
        _images("MNIST"),
        lambda: mlp(196, 64, 64, 64, 64, 10),
        sgd(momentum=0),
        32,
        needs=MNIST,
    ),
    task(
        "mnist150-cnn-adam-b15",
        300,
        _images("MNIST", 150),
        lambda: cnn(1, 8, 10, size=14, batch_norm=False),
        adam(),
        15,
        needs=MNIST,
    ),
    task(
        "fashion400-flip40-cnnbn-adamw-b40",
        400,
        _images("FashionMNIST", 400, flip=0.4),
        lambda: cnn(1, 8, 10, size=14, batch_norm=True),
        adamw(),
        40,
        needs=FASHION,
    ),
    task(
        "cifar1k-resnet-sgd-b50-decay",
        300,
        _images("CIFAR-10", 1000),
        lambda: ResNet(3, (8, 16), 10),
        sgd(weight_decay=5e-3),
        50,
        needs=CIFAR,
    ),
    task(
        "cifar-cnnbn-adam-b256-smoothed",
        150,
        _images("CIFAR-10"),
        lambda: cnn(3, 8, 10, size=16, batch_norm=True),
        adam(),
        256,
        criterion=nn.CrossEntropyLoss(label_smoothing=0.1),
        needs=CIFAR,
    ),
    task(
        "mnist-autoencoder-sgd-b32",
        400,
        functools.partial(flat, "MNIST"),
        lambda: mlp(196, 64, 24, 64, 196),
        sgd(),
        32,
        score="r2",
        needs=MNIST,
    ),
    task(
        "fashion-finetune-adam-b32-groups",
        200,
        functools.partial(fine_tuning, "FashionMNIST", 600),
        functools.partial(pretrained_cnn, "FashionMNIST"),
        adam(),
        32,
        groups=body_and_head(2e-4, 1e-3),
        needs=FASHION,
    ),
    task(
        "topics-lstm-adamw-b64",
        200,
        functools.partial(sequences, "topics"),
        lambda: CharRNN(nn.LSTM, VOCABULARY, 16, 48),
        adamw(),
        64,
    ),
    task(
        "code6k-transformer-nesterov-b16-clip1",
        300,
        functools.partial(sequences, "code", 6000),
        lambda: CharTransformer(VOCABULARY, LENGTH, 24, 1),
        nesterov(),
        16,
        clip=1.0,
    ),
    task("lines-bag-sgd-b128", 300, lines, lambda: BagOfTokens(4001, 24, 10), sgd(), 128),
]
