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
LETTERS = 20  # of made-up languages


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


@functools.cache
def gestures(length: int, train: int, noise: float) -> Split:
    """A circle, an eight, a spiral, a zigzag or a nod? As drawn from somewhere on, ``(n, 1, length, 2)``."""
    rng = default_rng(146)
    count = train + 2500
    kinds, size = rng.integers(5, size=count), rng.uniform(0.6, 1.4, (count, 1))
    time = np.arange(length) / length + rng.random((count, 1))
    turn = 2 * np.pi * time
    saw = 2 * np.abs(2 * (time * 3 % 1) - 1) - 1
    shapes = np.stack(
        [
            [np.cos(turn), np.sin(turn)],
            [np.sin(2 * turn), np.sin(turn)],
            [time % 1 * np.cos(2 * turn), time % 1 * np.sin(2 * turn)],
            [2 * (time % 1) - 1, saw],
            [0.2 * np.sin(turn), np.sin(3 * turn)],
        ]
    )
    drawn = shapes[kinds, :, np.arange(count)] * size[..., None]
    lean = rng.normal(0, 0.4, count)
    turned = np.stack([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]]).transpose(2, 0, 1) @ drawn
    points = turned.transpose(0, 2, 1) + rng.normal(0, noise, (count, length, 2))
    x, y = torch.tensor(points[:, None], dtype=torch.float32), torch.tensor(kinds)
    return Split(x[:train], y[:train], x[train:], y[train:])


@functools.cache
def repeats(length: int, count: int, train: int) -> Split:
    """Tokens of ``count`` kinds; targets: is there one of its kind in the sequence, are there two, or more?"""
    x = torch.from_numpy(default_rng(147).integers(count, size=(train + 1000, length)))
    y = (x[:, :, None] == x[:, None]).sum(2).clamp(max=3) - 1
    return Split(x[:train], y[:train], x[train:], y[train:])


@functools.cache
def languages(length: int, train: int) -> Split:
    """Which of six made-up languages is a stretch of letters of? Each has its habits of which follows which."""
    rng = default_rng(148)
    count = train + 2500
    common, habits = rng.dirichlet(np.full(LETTERS, 0.5), LETTERS), rng.dirichlet(np.full(LETTERS, 0.3), (6, LETTERS))
    limits = (0.6 * common + 0.4 * habits).cumsum(2)
    kinds = rng.integers(6, size=count)
    letters = [rng.integers(LETTERS, size=count)]
    for _ in range(length - 1):
        below = limits[kinds, letters[-1]] < rng.random((count, 1))
        letters.append(np.minimum(below.sum(1), LETTERS - 1))
    x, y = torch.tensor(np.stack(letters, 1)), torch.tensor(kinds)
    return Split(x[:train], y[:train], x[train:], y[train:])
