"""Data of the tasks of ``held_out``: made-up tables, sums with carries, signatures and statements of Python code."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray

from experiments.tasks.assorted_data import stretches, wrong
from experiments.tasks.tabular import split_rows
from experiments.tasks.task import Split
from experiments.tasks.text import encode, source

READ = (
    "_pydecimal",
    "_pyio",
    "argparse",
    "ast",
    "asyncio.base_events",
    "collections",
    "configparser",
    "datetime",
    "dataclasses",
    "email.message",
    "ftplib",
    "http.client",
    "http.cookiejar",
    "imaplib",
    "inspect",
    "logging",
    "optparse",
    "pickle",
    "platform",
    "shutil",
    "socket",
    "statistics",
    "subprocess",
    "tarfile",
    "threading",
    "typing",
    "unittest.case",
    "unittest.mock",
    "urllib.request",
    "xml.etree.ElementTree",
    "zipfile",
)
STATEMENTS = ("def", "for", "from", "if", "raise", "return")
LOOKS = (6, 4, 10, 2, 9, 5, 7)  # of a mushroom: levels of each column
BASE = 5  # in which numbers are added


# Rows of numbers


@functools.cache
def orbits(train: int) -> Split:
    """Where is a planet? From the share of its year that has passed, eccentricity and size of its orbit."""
    rng = default_rng(120)
    count = train + 3000
    passed, eccentricity = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, 0.8, count)
    size = rng.uniform(0.5, 2, count)
    angle = np.full(count, np.pi)
    for _ in range(30):  # Newton's method on Kepler's equation
        angle -= (angle - eccentricity * np.sin(angle) - passed) / (1 - eccentricity * np.cos(angle))
    place = size * np.stack([np.cos(angle) - eccentricity, np.sqrt(1 - eccentricity**2) * np.sin(angle)])
    return split_rows(np.stack([passed, eccentricity, size], 1), place.T + rng.normal(0, 0.03, (count, 2)), train)


@functools.cache
def throws(train: int) -> Split:
    """How far flies a ball? From its speed, angle, height at the start, drag and the wind."""
    rng = default_rng(121)
    count = train + 3000
    speed, slope, height = rng.uniform(5, 35, count), rng.uniform(0.1, 1.4, count), rng.uniform(0, 3, count)
    drag, wind = rng.uniform(0, 0.02, count), rng.normal(0, 4, count)
    place = np.stack([np.zeros(count), height])
    velocity = speed * np.stack([np.cos(slope), np.sin(slope)])
    for _ in range(800):
        moving = place[1] >= 0
        relative = velocity - np.stack([wind, np.zeros(count)])
        velocity = velocity - 0.01 * (drag * np.hypot(*relative) * relative + np.array([[0.0], [9.81]]))
        place = place + 0.01 * moving * velocity
    return split_rows(np.stack([speed, slope, height, drag, wind], 1), place[0] + rng.normal(0, 1, count), train)


@functools.cache
def correlated(train: int) -> Split:
    """A noisy linear function of 40 columns, which are mixtures of ten factors and a little of their own."""
    rng = default_rng(122)
    count = train + 3000
    x = rng.normal(size=(count, 10)) @ rng.normal(size=(10, 40)) + rng.normal(size=(count, 40))
    y = x @ rng.normal(size=40)
    return split_rows(x, y + rng.normal(0, 0.4, count) * y.std(), train)


@functools.cache
def patients(train: int, normalise: bool = True) -> Split:
    """Is a heart ill? Every second is; made up, from nine findings, unnormalised of 0 to 230."""
    rng = default_rng(123)
    count = train + 3000
    age, weight, height = rng.uniform(25, 85, count), rng.normal(78, 14, count), rng.normal(1.72, 0.09, count)
    smokes, pain = rng.integers(2, size=count), rng.integers(4, size=count)
    pressure = 95 + 0.5 * age + 0.2 * weight + rng.normal(0, 12, count)
    pulse, lipids = 205 - 0.8 * age + rng.normal(0, 15, count), rng.normal(5.4, 1.1, count)
    sugar = rng.lognormal(1.7, 0.2, count)
    bulk, ache = weight / height**2, np.array([0, 1, 2.5, 0])[pain]
    risk = (age - 55) / 15 + smokes * np.maximum(age - 40, 0) / 20 + np.abs(bulk - 24) / 5 + ache
    risk += np.maximum(pressure - 140, 0) / 12 + (lipids - 5.4) - (pulse - 160) / 25 + rng.normal(0, 0.8, count)
    x = np.stack([age, weight, height, smokes, pain == 2, pressure, pulse, lipids, sugar], 1)
    return split_rows(x, (risk > np.median(risk)).astype(int), train, normalise=normalise)


@functools.cache
def ellipses(train: int, share: float = 0.0) -> Split:
    """Six Gaussians in eight dimensions, of other centres and axes; a ``share`` of the training classes wrong."""
    rng = default_rng(125)
    y = rng.integers(6, size=train + 4000)
    axes, centres = rng.normal(0, 0.5, (6, 8, 8)), rng.normal(0, 0.8, (6, 8))
    x = np.einsum("ni,nij->nj", rng.normal(size=(len(y), 8)), axes[y]) + centres[y]
    split = split_rows(x, y, train)
    return split._replace(train_y=wrong(split.train_y, share, 6))


@functools.cache
def mushrooms(train: int) -> Split:
    """Tasty, edible or poisonous? Seven looks, each one of a few, as zeros and ones; pairs of them tell."""
    rng = default_rng(126)
    count = train + 3000
    looks = np.stack([rng.integers(levels, size=count) for levels in LOOKS], 1)
    danger = rng.normal(0, 0.4, count)
    for first, second in ((0, 2), (2, 4), (1, 5), (3, 6)):
        danger += rng.normal(size=(LOOKS[first], LOOKS[second]))[looks[:, first], looks[:, second]]
    x = np.concatenate([np.eye(levels)[looks[:, column]] for column, levels in enumerate(LOOKS)], 1)
    return split_rows(x, np.digitize(danger, np.quantile(danger, (0.3, 0.7))), train)


@functools.cache
def defects(train: int) -> Split:
    """Is a screw bad, by ten measures? One in 12 is; validated on as many of either kind."""
    rng = default_rng(127)
    count = train + 40000
    hidden = rng.normal(size=(count, 4))
    x = hidden @ rng.normal(size=(4, 10)) + 0.4 * rng.normal(size=(count, 10))
    harm = np.abs(hidden[:, 0]) + np.maximum(hidden[:, 1], 0) * 1.5 + 0.7 * hidden[:, 2] * hidden[:, 3]
    harm += rng.normal(0, 0.2, count)
    split = split_rows(x, (harm > np.quantile(harm, 11 / 12)).astype(int), train)
    chosen = torch.cat([(split.val_y == label).nonzero()[:1500, 0] for label in (0, 1)])
    return split._replace(val_x=split.val_x[chosen], val_y=split.val_y[chosen])


# Sequences


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
def _lines_of_code() -> tuple[str, ...]:
    """Lines of Python's standard library without their indents, once each, in any order."""
    found = sorted({line.strip() for module in READ for line in source(module).splitlines()})
    return tuple(found[index] for index in default_rng(129).permutation(len(found)))


@functools.cache
def signatures(length: int, train: int) -> Split:
    """Stretches of the first lines of functions and classes; targets are the characters that follow each."""
    found = [line for line in _lines_of_code() if line.startswith(("def ", "class "))]
    return stretches(encode("\n".join(found)).tolist(), length, train)


@functools.cache
def next_of_signature(context: int) -> Split:
    """``context`` characters of the first lines of functions and classes, and the one that follows."""
    parts = signatures(context, 20000)
    return Split(parts.train_x, parts.train_y[:, -1].contiguous(), parts.val_x, parts.val_y[:, -1].contiguous())


@functools.cache
def statements(length: int, most: int) -> Split:
    """With which keyword does a line of code begin? The ``length`` characters behind it; ``most`` of each kind."""
    rows, kinds = [], []
    for kind, keyword in enumerate(STATEMENTS):
        found = [line.removeprefix(keyword + " ") for line in _lines_of_code() if line.startswith(keyword + " ")]
        for rest in found[:most]:
            rows.append(encode(rest[:length].ljust(length)))
            kinds.append(kind)
    order = torch.from_numpy(default_rng(130).permutation(len(rows)))
    x, y = torch.stack(rows)[order], torch.tensor(kinds)[order]
    return Split(x[1200:], y[1200:], x[:1200], y[:1200])
