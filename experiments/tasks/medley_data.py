"""Data of the tasks of ``medley``: made-up tables and series, boxes in images, docstrings, brackets, code."""

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
from experiments.tasks.nets import VisionTransformer, cnn
from experiments.tasks.pretrained import pretrained
from experiments.tasks.tabular import flipped, split_rows
from experiments.tasks.task import Split
from experiments.tasks.text import MODULES, encode, source

DOCUMENTED = (
    "asyncio.base_events",
    "_pydecimal",
    "_pyio",
    "collections",
    "contextlib",
    "datetime",
    "email.message",
    "enum",
    "fractions",
    "ftplib",
    "functools",
    "http.client",
    "imaplib",
    "logging",
    "pathlib",
    "platform",
    "random",
    "socket",
    "ssl",
    "textwrap",
    "threading",
    "unittest.case",
    "urllib.request",
    "xml.etree.ElementTree",
    "zipfile",
)
BRACKETS = 3  # kinds; a token opens one of them or closes whichever is open
TAGS = 6  # of characters of code: blank, name, keyword, number or operator, string, comment


# Rows of numbers


@functools.cache
def trees(train: int, flip: float = 0.0) -> Split:
    """Five classes by the votes of six decision trees on 12 features; a share ``flip`` of those to train redrawn."""
    rng = default_rng(60)
    x = rng.normal(size=(train + 4000, 12))
    votes = np.zeros((len(x), 5))
    for _ in range(6):
        features, thresholds = rng.choice(12, 4, replace=False), rng.normal(0, 0.5, 4)
        leaves = (x[:, features] > thresholds) @ (1 << np.arange(4))
        votes += rng.normal(size=(16, 5))[leaves]
    split = split_rows(x, votes.argmax(1), train)
    return split._replace(train_y=flipped(split.train_y, flip, 5))


@functools.cache
def pendulum(train: int) -> Split:
    """Where is a damped pendulum after a while, and how fast? From angle, speed, damping and the time."""
    rng = default_rng(61)
    count = train + 3000
    start = rng.uniform(-2, 2, (2, count))
    damping, time = rng.uniform(0, 0.5, count), rng.uniform(0, 3, count)
    angle, speed = start
    for _ in range(300):
        speed = speed + time / 300 * (-2 * np.sin(angle) - damping * speed)
        angle = angle + time / 300 * speed
    return split_rows(np.stack([*start, damping, time], 1), np.stack([angle, speed], 1), train)


@functools.cache
def bikes(train: int) -> Split:
    """Log of the bicycles hired in an hour, made up, from hour, day, weather and holiday as they come: -10 to 365."""
    rng = default_rng(62)
    count = train + 3000
    hour, day = rng.integers(24, size=count), rng.integers(1, 366, count)
    warmth = 12 - 11 * np.cos(2 * np.pi * (day - 20) / 365) + rng.normal(0, 4, count)  # degrees
    humidity, wind = rng.uniform(25, 100, count), rng.gamma(2, 7, count)
    holiday = rng.random(count) < 0.3
    rush = np.exp(-((hour - 8) ** 2) / 3) + 1.2 * np.exp(-((hour - 17.5) ** 2) / 5)
    leisure = np.exp(-((hour - 14) ** 2) / 20)
    demand = 0.15 + np.where(holiday, leisure, rush + 0.3 * leisure)
    demand = demand * np.exp(-(((warmth - 22) / 14) ** 2)) * np.where(humidity > 85, 0.5, 1) / (1 + wind / 40)
    x = np.stack([hour, day, warmth, humidity, wind, holiday], 1)
    return split_rows(x, np.log(demand + 0.02) + rng.normal(0, 0.15, count), train, normalise=False)


@functools.cache
def curve(train: int) -> Split:
    """A wavy function of one number, with noise."""
    rng = default_rng(63)
    x = rng.uniform(-2, 2, (train + 2000, 1))
    y = np.sin(3 * x[:, 0]) + 0.5 * np.cos(7 * x[:, 0]) + rng.normal(0, 0.2, len(x))
    return split_rows(x, y, train)


# Images


@functools.cache
def boxes(train: int) -> Split:
    """Where does the bright rectangle in a noisy image lie? Its left, top, width and height."""
    rng = default_rng(64)
    count, side = train + 2000, 16
    size = rng.integers(3, 10, (2, count, 1))
    corner = (rng.random((2, count, 1)) * (side - size + 1)).astype(int)
    inside = (np.arange(side) >= corner) & (np.arange(side) < corner + size)
    x = rng.normal(0, 0.5, (count, side, side)) + rng.uniform(0.8, 2, (count, 1, 1)) * (
        inside[1][:, :, None] & inside[0][:, None, :]
    )
    places = np.concatenate([*corner, *size], 1).astype(np.float64)
    split = split_rows(x.reshape(count, -1), places, train)
    return split._replace(
        train_x=split.train_x.view(-1, 1, side, side).contiguous(),
        val_x=split.val_x.view(-1, 1, side, side).contiguous(),
    )


@functools.cache
def other_half(name: str, train: int) -> Split:
    """``train`` images of the classes 5 to 9 (as 0 to 4), those that ``pretrained_*`` has not seen."""
    split = images(name)
    parts: list[Tensor] = []
    for x, y in ((split.train_x, split.train_y), (split.val_x, split.val_y)):
        places = (y >= 5).nonzero()[:, 0]
        places = places[torch.from_numpy(default_rng(69).permutation(len(places)))]
        parts += [x[places], y[places] - 5]
    return Split(parts[0][:train], parts[1][:train], *parts[2:])


def _small_cnnbn() -> nn.Module:
    return cnn(3, 12, 5, size=16, batch_norm=True)


def _small_vit() -> nn.Module:
    return VisionTransformer(1, 14, 7, 32, 2, 5)


def pretrained_cnnbn(name: str) -> nn.Module:
    """Return a CNN with BatchNorm trained on the first half of the classes, with a fresh head."""
    return pretrained(f"{name}-first-half-cnnbn", functools.partial(_first_half, name), _small_cnnbn, 400)


def pretrained_vit(name: str) -> nn.Module:
    """Return a vision transformer trained on the first half of the classes, with a fresh head."""
    return pretrained(f"{name}-first-half-vit", functools.partial(_first_half, name), _small_vit, 400)


def _first_half(name: str) -> tuple[Tensor, Tensor]:
    split = images(name)
    inside = split.train_y < 5
    return split.train_x[inside], split.train_y[inside]


# Sequences


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
def docstrings(length: int, train: int) -> Split:
    """Stretches of docstrings of Python's standard library; targets are the characters that follow each."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        text
        for module in DOCUMENTED
        for node in ast.walk(ast.parse(source(module)))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
    ]
    return stretches(encode("\n\n".join(found)).tolist(), length, train)


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
def syntax(length: int, train: int) -> Split:
    """Stretches of code of Python's standard library; targets are the kinds of the characters (``TAGS``)."""
    x, y = (torch.cat(parts) for parts in zip(*map(_tagged, MODULES), strict=True))
    windows, tags = (part[: len(part) // length * length].view(-1, length) for part in (x, y))
    validate = torch.arange(len(windows)) // 50 % 6 == 5
    order = torch.from_numpy(default_rng(68).permutation(int((~validate).sum()))[:train])
    return Split(windows[~validate][order], tags[~validate][order], windows[validate][:1000], tags[validate][:1000])


def _tagged(module: str) -> tuple[Tensor, Tensor]:
    """Codes of the characters of a module, and their kinds."""
    text = source(module)
    lines = text.splitlines(keepends=True)
    tags = [[0] * len(line) for line in lines]
    kinds = {tokenize.NAME: 1, tokenize.NUMBER: 3, tokenize.OP: 3, tokenize.STRING: 4, tokenize.COMMENT: 5}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        # An f-string is one token or, from Python 3.12 on, several.
        kind = 4 if tokenize.tok_name[token.type].startswith("FSTRING") else kinds.get(token.type, 0)
        kind = 2 if kind == 1 and keyword.iskeyword(token.string) else kind
        (first, left), (last, right) = token.start, token.end
        for row in range(first, min(last, len(lines)) + 1):
            begin, end = left if row == first else 0, right if row == last else len(lines[row - 1])
            for place in range(begin, min(end, len(lines[row - 1]))):
                tags[row - 1][place] = kind
    kept = [
        tag
        for line, row in zip(lines, tags, strict=True)
        for tag, character in zip(row, line, strict=True)
        if character == "\n" or " " <= character <= "~"
    ]
    return encode(text), torch.tensor(kept)
