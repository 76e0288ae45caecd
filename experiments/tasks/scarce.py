"""Little data and wrong labels: runs whose best ``max_lr`` shows only late, once the model has learned by heart."""

from __future__ import annotations

import functools

from experiments.tasks.images import FASHION, MNIST, images
from experiments.tasks.nets import ResidualMLP, cnn, mlp
from experiments.tasks.optimizers import adam, adamw, nesterov, rmsprop, sgd
from experiments.tasks.tabular import SKLEARN, clusters, friedman
from experiments.tasks.task import Task, task

TASKS: list[Task] = [
    task(
        "digits300-flip30-mlp-sgd-b32",
        300,
        functools.partial(images, "digits", 300, flip=0.3),
        lambda: mlp(64, 256, 10),
        sgd(),
        32,
        needs=SKLEARN,
    ),
    task(
        "digits-flip50-resmlp-adamw-b64",
        400,
        functools.partial(images, "digits", flip=0.5),
        lambda: ResidualMLP(64, 64, 3, 10),
        adamw(),
        64,
        needs=SKLEARN,
    ),
    task(
        "mnist500-mlp-adam-b25",
        500,
        functools.partial(images, "MNIST", 500),
        lambda: mlp(196, 256, 128, 10),
        adam(),
        25,
        needs=MNIST,
    ),
    task(
        "mnist1k-flip60-cnn-nesterov-b50",
        400,
        functools.partial(images, "MNIST", 1000, flip=0.6),
        lambda: cnn(1, 8, 10, size=14, batch_norm=False),
        nesterov(),
        50,
        needs=MNIST,
    ),
    task(
        "fashion1k-flip20-mlp-adamw-b64",
        600,
        functools.partial(images, "FashionMNIST", 1000, flip=0.2),
        lambda: mlp(196, 256, 10),
        adamw(),
        64,
        needs=FASHION,
    ),
    task(
        "fashion500-cnn-rmsprop-b32",
        300,
        functools.partial(images, "FashionMNIST", 500),
        lambda: cnn(1, 8, 10, size=14, batch_norm=False),
        rmsprop(),
        32,
        needs=FASHION,
    ),
    task(
        "friedman1-noisy-small-mlp-sgd-b20",
        400,
        functools.partial(friedman, 1, 160, 3.0),
        lambda: mlp(10, 128, 1),
        sgd(),
        20,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "clusters-flip30-mlp-adam-b100",
        800,
        functools.partial(clusters, 2000, 24, 4, seed=7, flip=0.3),
        lambda: mlp(24, 128, 128, 4),
        adam(),
        100,
        needs=SKLEARN,
    ),
    task(
        "clusters300-resmlp-nesterov-b30",
        500,
        functools.partial(clusters, 300, 32, 5, seed=8),
        lambda: ResidualMLP(32, 64, 2, 5),
        nesterov(),
        30,
        needs=SKLEARN,
    ),
    task(
        "clusters-flip20-mlp-rmsprop-b64",
        400,
        functools.partial(clusters, 1500, 16, 3, seed=9, flip=0.2),
        lambda: mlp(16, 128, 3),
        rmsprop(),
        64,
        needs=SKLEARN,
    ),
]
