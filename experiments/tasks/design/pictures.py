"""Two photographs, and boxes drawn in noise."""

from __future__ import annotations

import functools

from experiments.tasks.nets import cnn, mlp
from experiments.tasks.optimizers import adam, nesterov, rmsprop
from experiments.tasks.splits.images import boxes, patches, photograph
from experiments.tasks.splits.rows import SKLEARN
from experiments.tasks.task import Task, task

TASKS: list[Task] = [
    task(
        "boxes-cnn-nesterov-b64",
        250,
        functools.partial(boxes, 5000),
        lambda: cnn(1, 8, 4, size=16, batch_norm=False, hidden=48),
        nesterov(),
        64,
        score="r2",
    ),
    task(
        "china-coordinates-mlp-adam-b512",
        400,
        functools.partial(photograph, "china.jpg"),
        lambda: mlp(24, 64, 64, 3),
        adam(),
        512,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "flower-patches-autoencoder-rmsprop-b128",
        400,
        functools.partial(patches, "flower.jpg"),
        lambda: mlp(144, 64, 24, 64, 144),
        rmsprop(),
        128,
        score="r2",
        needs=SKLEARN,
    ),
]
