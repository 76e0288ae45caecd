"""Data of the tasks of ``various``: made-up tables, turned images, nets trained on some classes, strings and names."""

from __future__ import annotations

import ast
import functools
import io
import keyword
import tokenize

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from experiments.tasks.assorted_data import stretches
from experiments.tasks.images import images
from experiments.tasks.nets import ResNet, cnn
from experiments.tasks.pretrained import pretrained
from experiments.tasks.tabular import cancer, split_rows
from experiments.tasks.task import Split
from experiments.tasks.text import VOCABULARY, encode, source

QUOTED = (
    "argparse",
    "ast",
    "configparser",
    "ctypes.util",
    "dataclasses",
    "decimal",
    "email._header_value_parser",
    "ftplib",
    "http.cookiejar",
    "inspect",
    "ipaddress",
    "locale",
    "mimetypes",
    "optparse",
    "pdb",
    "pickletools",
    "pydoc",
    "shutil",
    "ssl",
    "tarfile",
    "typing",
    "unittest.mock",
    "uuid",
    "webbrowser",
    "zipfile",
)
GARMENTS = (0, 2, 3, 4, 6)  # of Fashion-MNIST: what is worn above the waist
ANIMALS = (3, 4, 5, 6, 7)  # of CIFAR-10: those with four legs


# Rows of numbers


@functools.cache
def concrete(train: int) -> Split:
    """How strong is concrete, made up, by its kilograms of this and that a cubic metre and its age in days?"""
    rng = default_rng(100)
    count = train + 3000
    cement, slag = rng.uniform(100, 540, count), rng.uniform(0, 350, count) * (rng.random(count) < 0.6)
    water, softener = rng.uniform(125, 245, count), rng.uniform(0, 30, count) * (rng.random(count) < 0.6)
    coarse, fine = rng.uniform(800, 1140, count), rng.uniform(600, 990, count)
    age = rng.choice((1, 3, 7, 14, 28, 56, 90, 180, 365), count).astype(float)
    binder = cement + 0.6 * slag
    ripe = np.log1p(age) / np.log(29) * (1 - 0.3 * (slag > 0) * np.exp(-age / 20))
    strength = 96 / 6 ** ((water - 1.5 * softener) / binder) * ripe + 0.01 * (coarse - 0.5 * fine)
    x = np.stack([cement, slag, water, softener, coarse, fine, age], 1)
    return split_rows(x, strength + rng.normal(0, 4, count), train)


@functools.cache
def loans(train: int) -> Split:
    """Will a debtor pay? One in 15 does not; validated on as many of either kind, so accuracy is the mean recall."""
    rng = default_rng(101)
    count = train + 40000
    income, debt = rng.lognormal(1.2, 0.5, count), rng.lognormal(0.5, 0.9, count)
    age, late = rng.uniform(20, 75, count), rng.poisson(0.7, count).astype(float)
    rate, term = rng.uniform(1, 14, count), rng.integers(1, 11, count).astype(float)
    burden = debt * (rate / 100 + 1 / term) / income
    risk = 3 * np.tanh(2 * burden) + 0.7 * late + 1.2 * (age < 27) + 0.1 * rate + rng.normal(0, 0.6, count)
    x = np.stack([np.log(income), np.log(debt), age, late, rate, term], 1)
    split = split_rows(x, (risk > np.quantile(risk, 14 / 15)).astype(int), train)
    chosen = torch.cat([(split.val_y == label).nonzero()[:1500, 0] for label in (0, 1)])
    return split._replace(val_x=split.val_x[chosen], val_y=split.val_y[chosen])


@functools.cache
def octants(train: int) -> Split:
    """Eight classes: on which side of three wavy surfaces in nine dimensions does a point lie?"""
    rng = default_rng(102)
    x = rng.normal(size=(train + 4000, 9))
    turned = x @ np.linalg.qr(rng.normal(size=(9, 9)))[0]
    sides = turned[:, :3] + np.sin(2.5 * turned[:, 3:6]) > 0
    return split_rows(x, sides @ (1 << np.arange(3)), train)


@functools.cache
def few_patients(train: int) -> Split:
    """Breast cancer with ``train`` rows to train on, all the others to validate."""
    split = cancer()
    x, y = torch.cat([split.train_x, split.val_x]), torch.cat([split.train_y, split.val_y])
    return Split(x[:train], y[:train], x[train:], y[train:])


# Images


@functools.cache
def turned(name: str, train: int) -> Split:
    """By how many quarters is an image turned? ``train`` images, each turned once."""
    split = images(name, train)
    parts = []
    for x, seed in ((split.train_x, 103), (split.val_x, 104)):
        quarters = torch.from_numpy(default_rng(seed).integers(4, size=len(x)))
        each = torch.stack([x.rot90(count, (2, 3)) for count in range(4)])
        parts += [each[quarters, torch.arange(len(x))], quarters]
    return Split(*parts)


def _of_classes(x: Tensor, y: Tensor, classes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images of some classes, numbered in that order."""
    places = torch.cat([(y == label).nonzero()[:, 0] for label in classes])
    return x[places], torch.tensor([classes.index(label) for label in y[places].tolist()])


@functools.cache
def other_classes(name: str, seen: tuple[int, ...], train: int) -> Split:
    """``train`` images of the classes that are not among those ``seen`` before."""
    split = images(name)
    unseen = tuple(label for label in range(10) if label not in seen)
    x, y = _of_classes(split.train_x, split.train_y, unseen)
    chosen = torch.from_numpy(default_rng(105).permutation(len(x))[:train])
    return Split(x[chosen], y[chosen], *_of_classes(split.val_x, split.val_y, unseen))


def _garment_net() -> nn.Module:
    return cnn(1, 10, 5, size=14, batch_norm=True, hidden=32)


def _animal_net() -> nn.Module:
    return ResNet(3, (12, 24), 5)


def pretrained_on_garments() -> nn.Module:
    """Return a CNN with BatchNorm trained on five classes of Fashion-MNIST, with a fresh head."""
    return pretrained("FashionMNIST-garments", functools.partial(_seen, "FashionMNIST", GARMENTS), _garment_net, 500)


def pretrained_on_animals() -> nn.Module:
    """Return a residual network trained on five classes of CIFAR-10, with a fresh head."""
    return pretrained("CIFAR-10-animals", functools.partial(_seen, "CIFAR-10", ANIMALS), _animal_net, 500)


def _seen(name: str, classes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    split = images(name)
    return _of_classes(split.train_x, split.train_y, classes)


# Sequences


@functools.cache
def strings(length: int, train: int) -> Split:
    """Stretches of the strings of more than a word in Python's standard library; targets are what follows each."""
    found = [
        text
        for module in QUOTED
        for node in ast.walk(ast.parse(source(module)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in (text := node.value.strip())
    ]
    return stretches(encode("\n".join(found)).tolist(), length, train)


@functools.cache
def identifiers() -> tuple[str, ...]:
    """The names of four letters or more in the code of Python's standard library, once each, in any order."""
    found = {
        each.string
        for module in QUOTED
        for each in tokenize.generate_tokens(io.StringIO(source(module)).readline)
        if each.type == tokenize.NAME and len(each.string) >= 4 and each.string.isascii()
    }
    names = sorted(name for name in found if not keyword.iskeyword(name))
    return tuple(names[index] for index in default_rng(106).permutation(len(names)))


@functools.cache
def next_of_name(context: int) -> Split:
    """``context`` characters of a name, blanks before its first, and the one that follows; every tenth name validates.

    The last of every name is a line feed.
    """
    parts: dict[bool, list[Tensor]] = {False: [], True: []}
    for index, name in enumerate(identifiers()):
        codes = torch.cat([torch.zeros(context, dtype=torch.long), encode(name + "\n")])
        parts[index % 10 == 9].append(codes.unfold(0, context + 1, 1))
    train, val = torch.cat(parts[False]), torch.cat(parts[True])
    assert int(train.max()) == VOCABULARY - 1
    return Split(*(part.contiguous() for part in (train[:, :-1], train[:, -1], val[:, :-1], val[:, -1])))
