"""Series and sequences made here: waves, sums, brackets."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray

from experiments.tasks.task import Split

BRACKETS = 3  # kinds; a token opens one of them or closes whichever is open
BASE = 5  # in which numbers are added


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


@functools.cache
def flat_waves(length: int, noise: float) -> Split:
    """Waves for a fully connected autoencoder."""
    split = waves(length, noise)
    train, val = split.train_x.flatten(1), split.val_x.flatten(1)
    return Split(train, train, val, val)


@functools.cache
def series(length: int, ahead: int) -> Split:
    """Two sines of unknown periods and a random walk: what come next? ``(n, 1, length, 1)`` to ``(n, ahead)``."""
    rng = default_rng(30)
    count = 7000
    times = np.arange(length + ahead)
    values = 0.1 * rng.normal(size=(count, len(times))).cumsum(1)
    for _ in range(2):
        period, phase, height = rng.uniform(5, 30, (count, 1)), rng.random((count, 1)), rng.uniform(0.3, 1, (count, 1))
        values += height * np.sin(2 * np.pi * (times / period + phase))
    tensors = torch.tensor(values, dtype=torch.float32)
    x, y = tensors[:, None, :length, None], tensors[:, length:]
    return Split(x[:4000], y[:4000], x[4000:], y[4000:])


@functools.cache
def mackey_glass(length: int, train: int, ahead: int, noise: float) -> Split:
    """The Mackey-Glass series ``ahead`` windows' steps on, from ``length`` noisy values: ``(n, 1, length, 1)``.

    Every sixth value of the series is one step; the last quarter validates.
    """
    count = train + 2000 + length + ahead
    series = list(default_rng(65).uniform(0.8, 1.2, 18))
    while len(series) < 6 * count + 1000:
        series.append(0.9 * series[-1] + 0.2 * series[-18] / (1 + series[-18] ** 10))
    values = np.array(series[1000:][::6][:count])
    values = (values - values.mean()) / values.std()
    windows = np.lib.stride_tricks.sliding_window_view(values, length)[: train + 2000]
    seen = windows + default_rng(66).normal(0, noise, windows.shape)
    x = torch.tensor(seen[:, None, :, None], dtype=torch.float32)
    y = torch.tensor(values[length + ahead - 1 :][: train + 2000, None], dtype=torch.float32)
    return Split(x[:train], y[:train], x[train:], y[train:])


@functools.cache
def shuffled_numbers(length: int, count: int) -> Split:
    """Digits in any order, and as targets the same in ascending order."""
    x = torch.from_numpy(default_rng(51).integers(10, size=(count + 1000, length)))
    y = x.sort(1).values
    return Split(x[:count], y[:count], x[count:], y[count:])


@functools.cache
def brackets(length: int, train: int) -> Split:
    """Brackets that open and close; targets are, at every place, the kind of the innermost open one, if any.

    A token from 1 to ``BRACKETS`` opens one of its kind, 0 closes the last that is open.
    """
    rng = default_rng(67)
    tokens, targets = [], []
    for _ in range(train + 1000):
        stack: list[int] = []
        row, tops = [], []
        for _ in range(length):
            token = int(rng.integers(1, BRACKETS + 1)) if not stack or rng.random() < 0.5 else 0
            if token:
                stack.append(token)
            else:
                stack.pop()
            row.append(token)
            tops.append(stack[-1] if stack else 0)
        tokens.append(row)
        targets.append(tops)
    x, y = torch.tensor(tokens), torch.tensor(targets)
    return Split(x[:train], y[:train], x[train:], y[train:])


@functools.cache
def sums(length: int, train: int) -> Split:
    """Two numbers of ``length`` digits, the lowest first, each pair of digits a token; targets: digits of the sum."""
    rng = default_rng(128)
    digits = rng.integers(BASE, size=(2, train + 1000, length))
    total, carry = np.zeros_like(digits[0]), np.zeros(len(digits[0]), dtype=int)
    for place in range(length):
        column: NDArray[np.int64] = digits[:, :, place].sum(0) + carry
        total[:, place], carry = column % BASE, column // BASE
    x, y = torch.tensor(digits[0] * BASE + digits[1]), torch.tensor(total)
    return Split(x[:train], y[:train], x[train:], y[train:])
