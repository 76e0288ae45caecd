"""Data of the tasks of ``diverse``: made-up tables, uneven classes, nets trained on the even classes, comments."""

from __future__ import annotations

import functools
import io
import tokenize
import unicodedata

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from experiments.tasks.assorted_data import stretches, wrong
from experiments.tasks.images import images
from experiments.tasks.nets import ResidualMLP, ResNet
from experiments.tasks.pretrained import pretrained
from experiments.tasks.tabular import cancer, split_rows
from experiments.tasks.task import Split
from experiments.tasks.text import encode, source

COMMENTED = (
    "dataclasses",
    "heapq",
    "locale",
    "pdb",
    "pickletools",
    "profile",
    "pydoc",
    "statistics",
    "typing",
    "_pydecimal",
    "argparse",
    "datetime",
    "difflib",
    "doctest",
    "enum",
    "inspect",
    "optparse",
    "platform",
    "subprocess",
    "tarfile",
    "threading",
)
SYMBOLS = " ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-\n"  # of the names of Unicode's characters


# Rows of numbers


@functools.cache
def voronoi(train: int) -> Split:
    """Seven classes: that of the nearest of 40 sites in five dimensions, each site of a class drawn for it."""
    rng = default_rng(80)
    sites, owners = rng.uniform(-1, 1, (40, 5)), np.arange(40) % 7
    x = rng.uniform(-1, 1, (train + 4000, 5))
    nearest = ((x[:, None] - sites) ** 2).sum(2).argmin(1)
    return split_rows(x, owners[nearest], train)


@functools.cache
def s_curve(train: int) -> Split:
    """Where along a sheet bent to an S does a point of three coordinates lie?"""
    from sklearn.datasets import make_s_curve

    points, places = make_s_curve(train + 3000, noise=0.1, random_state=81)
    return split_rows(points, places, train)


@functools.cache
def polynomial(train: int, noise: float) -> Split:
    """Twelve random products of one to three of 14 Gaussians, added up; ``noise`` in sd of the sum."""
    rng = default_rng(82)
    x = rng.normal(size=(train + 3000, 14))
    y = np.zeros(len(x))
    for degree in (1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3):
        y += rng.choice((-1, 1)) * x[:, rng.choice(14, degree, replace=False)].prod(1)
    return split_rows(x, y + rng.normal(0, noise, len(x)) * y.std(), train)


@functools.cache
def fraud(train: int) -> Split:
    """Is a payment false? One in 33 is; validated on as many of either kind, so accuracy is the mean recall."""
    rng = default_rng(83)
    count = train + 60000
    amount, hour = rng.lognormal(3.5, 1.2, count), rng.uniform(0, 24, count)
    age, distance = rng.gamma(2, 3, count), rng.exponential(20, count)  # of the account, in years; km from home
    habits = rng.normal(size=(count, 6))
    night = np.cos(2 * np.pi * (hour - 3) / 24)
    risk = 0.8 * np.log(amount) + 0.9 * night - 0.15 * age + 0.02 * distance + habits[:, 0] * habits[:, 1]
    risk += np.maximum(habits[:, 2], 0) * 1.5 + rng.normal(0, 0.5, count)
    x = np.column_stack([np.log(amount), hour, age, distance, habits])
    split = split_rows(x, (risk > np.quantile(risk, 1 - 1 / 33)).astype(int), train)
    chosen = torch.cat([(split.val_y == label).nonzero()[:1500, 0] for label in (0, 1)])
    return split._replace(val_x=split.val_x[chosen], val_y=split.val_y[chosen])


@functools.cache
def sensors(train: int) -> Split:
    """Which of five states is a machine in? Eight readings as they come: of units from hundredths to hundreds."""
    rng = default_rng(84)
    count = train + 3000
    state = rng.integers(5, size=count)
    units = np.array([0.02, 0.1, 0.5, 1.0, 3.0, 10.0, 50.0, 200.0])
    centres, spreads = rng.normal(0, 1, (5, 8)), rng.uniform(0.5, 1.4, (5, 8))
    drift = np.sin(rng.uniform(0, 2 * np.pi, (count, 1)) + np.arange(8))
    x = (4 + centres[state] + spreads[state] * rng.normal(size=(count, 8)) + drift) * units
    return split_rows(x, state, train, normalise=False)


@functools.cache
def mistaken_cancer(share: float) -> Split:
    """Breast cancer with a ``share`` of the training classes wrong."""
    split = cancer()
    return split._replace(train_y=wrong(split.train_y, share, 2))


# Images


@functools.cache
def uneven(name: str, many: int, few: int) -> Split:
    """``many`` images of each even class, ``few`` of each odd one; validated on all."""
    split = images(name)
    places = [(split.train_y == label).nonzero()[: few if label % 2 else many, 0] for label in range(10)]
    chosen = torch.cat(places)
    return split._replace(train_x=split.train_x[chosen], train_y=split.train_y[chosen])


@functools.cache
def odd_classes(name: str, train: int) -> Split:
    """``train`` images of the odd classes (as 0 to 4), those that ``pretrained_*`` here has not seen."""
    split = images(name)
    parts: list[Tensor] = []
    for x, y in ((split.train_x, split.train_y), (split.val_x, split.val_y)):
        places = (y % 2 == 1).nonzero()[:, 0]
        places = places[torch.from_numpy(default_rng(85).permutation(len(places)))]
        parts += [x[places], y[places] // 2]
    return Split(parts[0][:train], parts[1][:train], *parts[2:])


def _small_resnet() -> nn.Module:
    return ResNet(3, (16, 32), 5)


def _small_resmlp() -> nn.Module:
    return ResidualMLP(196, 64, 2, 5)


def pretrained_resnet(name: str) -> nn.Module:
    """Return a residual network for colour images trained on the even classes, with a fresh head."""
    return pretrained(f"{name}-even-classes-resnet", functools.partial(_even_classes, name), _small_resnet, 500)


def pretrained_resmlp(name: str) -> nn.Module:
    """Return a residual MLP for 14 x 14 pixels trained on the even classes, with a fresh head."""
    return pretrained(f"{name}-even-classes-resmlp", functools.partial(_even_classes, name), _small_resmlp, 500)


def _even_classes(name: str) -> tuple[Tensor, Tensor]:
    split = images(name)
    inside = split.train_y % 2 == 0
    return split.train_x[inside], split.train_y[inside] // 2


# Sequences


@functools.cache
def _comments() -> Tensor:
    """Codes of the comments of Python's standard library, one a line, without the sharps."""
    found = [
        text
        for module in COMMENTED
        for each in tokenize.generate_tokens(io.StringIO(source(module)).readline)
        if each.type == tokenize.COMMENT and (text := each.string.strip("#-= "))
    ]
    return encode("\n".join(found))


@functools.cache
def comments(length: int, train: int) -> Split:
    """Stretches of comments; targets are the characters that follow each."""
    return stretches(_comments().tolist(), length, train)


@functools.cache
def before_and_next(context: int) -> Split:
    """``context`` characters of comments and the one that follows; every tenth 1,500 validate."""
    codes = _comments()
    blocks = codes[: len(codes) // 1500 * 1500].view(-1, 1500)
    validate = torch.arange(len(blocks)) % 10 == 9
    train, val = (part.unfold(1, context + 1, 2).flatten(0, 1) for part in (blocks[~validate], blocks[validate]))
    val = val[torch.from_numpy(default_rng(86).permutation(len(val))[:5000])]
    return Split(*(part.contiguous() for part in (train[:, :-1], train[:, -1], val[:, :-1], val[:, -1])))


@functools.cache
def unicode_names(length: int, train: int) -> Split:
    """Stretches of the names of Unicode's characters below 0x3000, in any order; targets are what follows each."""
    found = [name for code in range(0x3000) if (name := unicodedata.name(chr(code), ""))]
    order = default_rng(87).permutation(len(found))
    text = "\n".join(found[index] for index in order)
    return stretches([SYMBOLS.index(symbol) for symbol in text], length, train)
