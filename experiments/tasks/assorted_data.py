"""Data of the tasks of ``assorted``: made-up tables, images with wrong or few labels, code and text as tokens."""

from __future__ import annotations

import functools
import io
import re
import token
import tokenize
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from experiments.tasks import data
from experiments.tasks.images import images, pretrained_cnn
from experiments.tasks.nets import CharRNN
from experiments.tasks.pretrained import pretrained
from experiments.tasks.tabular import clusters, split_rows
from experiments.tasks.task import Split
from experiments.tasks.text import MODULES, VOCABULARY, encode, sequences, source

TOKENS = 400  # that the model of code knows, of which the first eight stand for all others of a kind
WORDS = 500  # that the model of text knows; the first stands for all others
CENSUS = (9, 12, 14, 5, 6, 30)  # levels of each column
AUTHORS = ("configparser", "shutil", "smtplib", "statistics", "subprocess", "typing", "pickle", "ipaddress")


def wrong(classes: Tensor, share: float, count: int) -> Tensor:
    """Return ``classes`` with a share of them wrong: any of the other ``count - 1``."""
    rng = default_rng(40)
    chosen = torch.from_numpy(rng.random(len(classes)) < share)
    return torch.where(chosen, (classes + torch.from_numpy(rng.integers(1, count, len(classes)))) % count, classes)


def confused(classes: Tensor, share: float, count: int) -> Tensor:
    """Return ``classes`` with a share of them taken for the one that comes next."""
    chosen = torch.from_numpy(default_rng(41).random(len(classes)) < share)
    return torch.where(chosen, (classes + 1) % count, classes)


# Rows of numbers


@functools.cache
def circles(train: int, share: float) -> Split:
    """A circle around another; a ``share`` of the training classes is wrong."""
    from sklearn.datasets import make_circles

    split = split_rows(*make_circles(train + 4000, noise=0.12, factor=0.5, random_state=42), train)
    return split._replace(train_y=wrong(split.train_y, share, 2))


@functools.cache
def wrong_clusters(train: int, share: float) -> Split:
    """Ten classes in 30 dimensions, a ``share`` of the training classes wrong."""
    split = clusters(train, 30, 10, seed=43, per_class=1, separation=1.2)
    return split._replace(train_y=wrong(split.train_y, share, 10))


@functools.cache
def boards() -> Split:
    """Has the first player won? All 958 boards on which a game of noughts and crosses can end."""
    rows = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
    ends: dict[tuple[int, ...], int] = {}

    def play(board: tuple[int, ...], player: int) -> None:
        won = any(all(board[place] == 3 - player for place in row) for row in rows)
        if won or 0 not in board:
            ends[board] = int(won and player == 2)
            return
        for place in range(9):
            if board[place] == 0:
                play((*board[:place], player, *board[place + 1 :]), 3 - player)

    play((0,) * 9, 1)
    last = np.array(sorted(ends))
    return split_rows(np.eye(3)[last].reshape(-1, 27), np.array([ends[tuple(board)] for board in last]), train=500)


@functools.cache
def outliers(train: int) -> Split:
    """A linear function of 20 features, for one training row in six with a gross error."""
    from sklearn.datasets import make_regression

    split = split_rows(*make_regression(train + 4000, 20, n_informative=12, noise=40.0, random_state=44), train)
    rng = default_rng(44)
    errors = np.where(rng.random((train, 1)) < 1 / 6, rng.normal(0, 12, (train, 1)), 0)
    return split._replace(train_y=split.train_y + torch.tensor(errors, dtype=torch.float32))


@functools.cache
def arm(train: int) -> Split:
    """Where is the hand of an arm in the plane, given the angles of its four joints?"""
    rng = default_rng(45)
    angles = rng.uniform(-1.5, 1.5, (train + 4000, 4))
    turned, lengths = angles.cumsum(1), np.array([1.0, 0.8, 0.6, 0.4])
    hand = np.stack([(lengths * np.cos(turned)).sum(1), (lengths * np.sin(turned)).sum(1)], 1)
    return split_rows(angles, hand + rng.normal(0, 0.03, hand.shape), train)


@functools.cache
def districts(train: int) -> Split:
    """Log house prices of made-up districts around three cities, from columns of -124 to 219 as they come."""
    rng = default_rng(46)
    count = train + 3000
    place = rng.uniform((32, -124), (42, -114), (count, 2))  # degrees
    cities = np.array([(34.0, -118.2), (37.8, -122.4), (38.6, -121.5)])
    away = np.sqrt(((place[:, None] - cities) ** 2).sum(2))
    income = rng.lognormal(1.25, 0.45, count)  # ten thousands a year
    age = rng.integers(1, 53, count).astype(float)
    rooms = 3 + 0.6 * income + rng.normal(0, 0.8, count)
    bedrooms = rooms * rng.uniform(0.15, 0.3, count)
    households = rng.lognormal(1.4, 0.7, count)  # hundreds
    people = households * rng.lognormal(1.05, 0.2, count)
    price = np.log(income) + 0.8 * np.exp(-away / 1.5).sum(1) + 0.004 * age - 0.25 * np.log(people / households)
    x = np.stack([income, age, rooms, bedrooms, households, people, place[:, 0], place[:, 1]], 1)
    return split_rows(x, price + rng.normal(0, 0.15, count), train, normalise=False)


@functools.cache
def census(train: int) -> Split:
    """Does a person earn much? Made-up answers to six questions, each a whole number."""
    rng = default_rng(47)
    count = train + 4000
    x = np.stack([(rng.random(count) ** 1.5 * levels).astype(int) for levels in CENSUS], 1)
    effects = [rng.normal(size=levels)[x[:, column]] for column, levels in enumerate(CENSUS)]
    together = rng.normal(size=(CENSUS[1], CENSUS[2]))[x[:, 1], x[:, 2]]
    scores = np.sum(effects, 0) + 1.5 * together + rng.normal(0, 0.6, count)
    y = (scores > np.quantile(scores, 0.6)).astype(int)
    inputs, targets = torch.tensor(x), torch.tensor(y)
    return Split(inputs[:train], targets[:train], inputs[train:], targets[train:])


@functools.cache
def genes(train: int) -> Split:
    """Three kinds of tissue by 2,000 genes: 60 differ, and ten hidden factors move all of them."""
    rng = default_rng(48)
    count = train + 1500
    y = rng.integers(3, size=count)
    means = np.zeros((3, 2000))
    means[:, :60] = rng.normal(0, 0.8, (3, 60))
    x = means[y] + 0.5 * rng.normal(size=(count, 10)) @ rng.normal(size=(10, 2000)) + rng.normal(size=(count, 2000))
    return split_rows(x, y, train)


@functools.cache
def spectra() -> Split:
    """Mixtures of five substances, each with three peaks at one of 96 wavelengths; inputs and targets."""
    rng = default_rng(49)
    wavelengths = np.linspace(0, 1, 96)
    centres, widths = rng.random((5, 3, 1)), rng.uniform(0.02, 0.06, (5, 3, 1))
    pure = (rng.uniform(0.3, 1, (5, 3, 1)) * np.exp(-(((wavelengths - centres) / widths) ** 2))).sum(1)
    shares = rng.dirichlet(np.full(5, 0.7), 6000) * rng.uniform(0.5, 2, (6000, 1))
    mixed = 1 - np.exp(-2 * shares @ pure) + rng.normal(0, 0.02, (6000, 96))
    x = torch.tensor((mixed - mixed.mean(0)) / mixed.std(), dtype=torch.float32)
    return Split(x[:4000], x[:4000], x[4000:], x[4000:])


# Images


@functools.cache
def mislabelled(name: str, train: int, share: float, kind: str) -> Split:
    """``train`` images, a ``share`` of their classes "wrong" or "confused"."""
    split = images(name, train)
    return split._replace(train_y={"wrong": wrong, "confused": confused}[kind](split.train_y, share, 10))


@functools.cache
def full_size(name: str, train: int, *, inputs_as_targets: bool = False) -> Split:
    """MNIST or Fashion-MNIST as ``(n, 1, 28, 28)``, 1,500 to validate."""
    from torchvision import datasets

    tensors: list[Tensor] = []
    mean, sd = 0.0, 1.0
    for part, count in ((True, train), (False, 1500)):
        found = getattr(datasets, name)(data.root(), train=part)
        pixels = found.data[:count, None].numpy().astype(np.float64)
        if part:
            mean, sd = pixels.mean(), pixels.std()
        x = torch.tensor((pixels - mean) / sd, dtype=torch.float32)
        tensors += [x, x if inputs_as_targets else found.targets[:count].clone()]
    return Split(*tensors)


@functools.cache
def long_tail(name: str, most: int, least: int) -> Split:
    """Of the first class ``most`` images, of the last ``least``, between them a geometric row; validated on all."""
    split = images(name)
    counts = np.geomspace(most, least, 10).round().astype(int)
    places = [(split.train_y == label).nonzero()[:count, 0] for label, count in enumerate(counts.tolist())]
    chosen = torch.cat(places)
    return split._replace(train_x=split.train_x[chosen], train_y=split.train_y[chosen])


@functools.cache
def masked(name: str, side: int) -> Split:
    """Images with a square of the mean grey somewhere, and as targets the whole ones; rows of pixels."""
    split = images(name, inputs_as_targets=True)
    rng = default_rng(50)
    parts = []
    for whole in (split.train_x, split.val_x):
        size = whole.shape[-1]
        corner = rng.integers(size - side + 1, size=(2, len(whole), 1))
        inside = (np.arange(size) >= corner) & (np.arange(size) < corner + side)
        hidden = torch.from_numpy(inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        parts += [whole.masked_fill(hidden, 0.0).flatten(1), whole.flatten(1)]
    return Split(*parts)


@functools.cache
def digits_as_mnist(train: int) -> Split:
    """scikit-learn's digits in the middle of 14 x 14 pixels, as MNIST's are."""
    parts = [np.pad(x.numpy().astype(np.float64), ((0, 0), (0, 0), (3, 3), (3, 3))) for x in data.digits()[::2]]
    mean, sd = parts[0].mean(), parts[0].std()
    train_x, val_x = (torch.tensor((x - mean) / sd, dtype=torch.float32) for x in parts)
    _, train_y, _, val_y = data.digits()
    return Split(train_x[:train], train_y[:train], val_x, val_y)


def pretrained_on_mnist() -> nn.Module:
    """Return a CNN trained on half of MNIST's classes, with a fresh head for ten."""
    net = pretrained_cnn("MNIST")
    assert isinstance(net, nn.Sequential)
    net[-1] = nn.Linear(net[-1].in_features, 10)
    return net


# Sequences


def stretches(codes: Sequence[int], length: int, train: int) -> Split:
    """Stretches of ``length`` codes and, as targets, the next code at every place; every sixth 50 validate."""
    windows = torch.tensor(codes).unfold(0, length + 1, length + 1)
    validate = torch.arange(len(windows)) // 50 % 6 == 5
    x, y = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
    return Split(x[~validate][:train], y[~validate][:train], x[validate][:1000], y[validate][:1000])


@functools.cache
def words(length: int, train: int) -> Split:
    """Words and stops of Python's language reference, one after the other."""
    from pydoc_data.topics import topics

    found = re.findall("[a-z]+|[.,:()]", "\n".join(topics[key] for key in sorted(topics)).lower())
    known = {word: number for number, (word, _) in enumerate(Counter(found).most_common(WORDS - 1), start=1)}
    return stretches([known.get(word, 0) for word in found], length, train)


@functools.cache
def code_tokens(length: int, train: int) -> Split:
    """Tokens of Python's standard library: the commonest by themselves, others by their kind."""
    kinds = (token.NAME, token.NUMBER, token.STRING, token.OP, token.NEWLINE, token.INDENT, token.DEDENT)
    alone = (token.NEWLINE, token.INDENT, token.DEDENT)
    found = [
        (each.type, "" if each.type in alone else each.string)
        for module in MODULES
        for each in tokenize.generate_tokens(io.StringIO(source(module)).readline)
        if each.type in kinds
    ]
    common = Counter(each for each in found if each[0] not in (*alone, token.STRING)).most_common(TOKENS - 8)
    known = {each: number for number, (each, _) in enumerate(common, start=8)}
    return stretches([known.get(each, kinds.index(each[0])) for each in found], length, train)


@functools.cache
def shuffled_numbers(length: int, count: int) -> Split:
    """Digits in any order, and as targets the same in ascending order."""
    x = torch.from_numpy(default_rng(51).integers(10, size=(count + 1000, length)))
    y = x.sort(1).values
    return Split(x[:count], y[:count], x[count:], y[count:])


@functools.cache
def snippets(length: int, train: int) -> Split:
    """Which of eight modules does a stretch of ``length`` characters come from?"""
    parts = [encode(source(module)).unfold(0, length, length // 2) for module in AUTHORS]
    x = torch.cat(parts)
    y = torch.cat([torch.full((len(part),), label) for label, part in enumerate(parts)])
    # In blocks, so that no stretch to validate shares characters with one to train on, but for the blocks' ends.
    blocks = torch.arange(len(x)) // 40
    chosen = torch.from_numpy(default_rng(52).permutation(len(x)))
    validate = (blocks % 4 == 3)[chosen]
    return Split(
        x[chosen][~validate][:train],
        y[chosen][~validate][:train],
        x[chosen][validate][:2000],
        y[chosen][validate][:2000],
    )


def _char_gru() -> CharRNN:
    return CharRNN(nn.GRU, VOCABULARY, 24, 64)


def pretrained_on_topics() -> nn.Module:
    """Return a character model of Python's language reference, head and all."""

    def topics() -> tuple[Tensor, Tensor]:
        split = sequences("topics")
        return split.train_x, split.train_y

    return pretrained("topics-gru", topics, _char_gru, 600, lr=4e-3, fresh_head=False)
