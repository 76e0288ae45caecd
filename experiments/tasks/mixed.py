"""Tasks of the third round: word vectors, matrix factorisation, pairs of images, denoising, many answers at once.

Held out until the rules were looked at on them too.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from experiments.tasks.images import CIFAR, FASHION, MNIST, body_and_head, fine_tuning, images, pretrained_cnn
from experiments.tasks.nets import (
    AttentionOverTokens,
    CharConvolution,
    CharRNN,
    Factors,
    ResNet,
    RowRNN,
    Siamese,
    TextCNN,
    VisionTransformer,
    WordFromContext,
    YesOrNo,
    cnn,
    conv_autoencoder,
    denoiser,
    group_norm_cnn,
    mlp,
    normed_mlp,
)
from experiments.tasks.optimizers import adagrad, adam, adamw, nesterov, radam, rmsprop, sgd
from experiments.tasks.sundry import waves
from experiments.tasks.tabular import SKLEARN, flipped, split_rows
from experiments.tasks.task import Split, Task, task
from experiments.tasks.text import VOCABULARY, lines, sequences

WORDS = 600  # that the word model knows; the first stands for all others
NAME = 32  # characters of a name


@functools.cache
def iris() -> Split:
    """Iris: 4 features, 3 classes, 45 rows to train on."""
    from sklearn.datasets import load_iris

    return split_rows(*load_iris(return_X_y=True), train=45)


@functools.cache
def redundant() -> Split:
    """Fifty features, of which eight say all there is and forty are mixtures of those."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        7000, 50, n_informative=8, n_redundant=40, n_classes=4, n_clusters_per_class=1, flip_y=0.0, random_state=20
    )
    return split_rows(inputs, targets, 3000)


@functools.cache
def blobs(classes: int) -> Split:
    """Round clusters in six dimensions that overlap."""
    from sklearn.datasets import make_blobs

    inputs, targets = make_blobs(12000, 6, centers=classes, cluster_std=3.0, random_state=21)
    return split_rows(inputs, targets, 8192)


@functools.cache
def checkerboard(train: int, flip: float) -> Split:
    """Is a point on a black or a white square of 4 x 4? A share ``flip`` of the training classes is redrawn."""
    points = default_rng(22).uniform(0, 4, (train + 4000, 2))
    split = split_rows(points, points.astype(int).sum(1) % 2, train)
    return split._replace(train_y=flipped(split.train_y, flip, 2))


@functools.cache
def formula(train: int) -> Split:
    """``exp(-a^2) cos(3 b) + c |d|`` of six Gaussians, with noise."""
    rng = default_rng(23)
    x = rng.normal(size=(train + 4000, 6))
    y = np.exp(-(x[:, 0] ** 2)) * np.cos(3 * x[:, 1]) + x[:, 2] * np.abs(x[:, 3]) + rng.normal(0, 0.2, len(x))
    return split_rows(x, y, train)


@functools.cache
def houses() -> Split:
    """Log prices of made-up houses, from numbers between 0 and 300 as they come: area, rooms, age and so on."""
    rng = default_rng(24)
    count = 6000
    area = rng.uniform(30, 300, count)
    rooms = np.clip(np.round(area / 30 + rng.normal(0, 1, count)), 1, None)
    age = rng.uniform(0, 100, count)
    distance = rng.uniform(0, 40, count)  # km to the centre
    income = rng.lognormal(3.5, 0.4, count)  # thousands a year, of the neighbours
    price = np.log(area) - 0.06 * distance + 0.02 * income * (distance < 15) + ((age - 50) / 60) ** 2
    x = np.stack([area, rooms, age, distance, income], 1)
    return split_rows(x, price + rng.normal(0, 0.1, count), 2500, normalise=False)


@functools.cache
def rare() -> Split:
    """One case in twenty is of the second class; validated on equal shares, so accuracy is the mean recall."""
    rng = default_rng(25)
    x = rng.normal(size=(44000, 12))
    scores = x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + x[:, 3] ** 2 / 2 - x[:, 4] + rng.normal(0, 0.3, len(x))
    split = split_rows(x, (scores > np.quantile(scores, 0.95)).astype(int), train=4000)
    chosen = torch.cat([(split.val_y == label).nonzero()[:1800, 0] for label in (0, 1)])
    return split._replace(val_x=split.val_x[chosen], val_y=split.val_y[chosen])


@functools.cache
def yes_or_no(answers: int) -> Split:
    """Questions about twenty Gaussians, each answered yes for half of all rows."""
    rng = default_rng(26)
    x = rng.normal(size=(7000, 20))
    hidden = np.maximum(x @ rng.normal(size=(20, 16)), 0)
    logits = hidden @ rng.normal(size=(16, answers))
    y = logits + rng.normal(size=logits.shape) * logits.std() * 0.3 > np.median(logits, 0)
    return split_rows(x, y.astype(int), 3000)


@functools.cache
def ratings(users: int, items: int) -> Split:
    """Who likes what? Each row is a user, an item and the user's noisy rating; four tastes explain most of it."""
    rng = default_rng(27)
    pairs = np.stack([rng.integers(users, size=16000), rng.integers(items, size=16000)], 1)
    likes = rng.normal(size=(users, 4)), rng.normal(size=(items, 4))
    scores = (likes[0][pairs[:, 0]] * likes[1][pairs[:, 1]]).sum(1) / 2
    scores += rng.normal(size=users)[pairs[:, 0]] + rng.normal(size=items)[pairs[:, 1]] + rng.normal(0, 0.5, 16000)
    x, y = torch.tensor(pairs), torch.tensor((scores - scores.mean()) / scores.std(), dtype=torch.float32)[:, None]
    return Split(x[:12000], y[:12000], x[12000:], y[12000:])


@functools.cache
def pairs(name: str) -> Split:
    """Two images as two channels: are they of the same class? Half of them are."""
    parts: list[Tensor] = []
    split = images(name)
    for x, y, count in ((split.train_x, split.train_y, 5000), (split.val_x, split.val_y, 2000)):
        rng = default_rng(28)
        places = [(y == label).nonzero()[:, 0].numpy() for label in range(10)]
        first = rng.integers(len(y), size=count)
        away = np.where(rng.random(count) < 0.5, 0, rng.integers(1, 10, count))
        labels = (y[first].numpy() + away) % 10
        other = np.array([rng.choice(places[label]) for label in labels])
        parts += [torch.cat([x[first], x[other]], 1), torch.tensor(away == 0).long()]
    return Split(*parts)


@functools.cache
def noisy(name: str, noise: float) -> Split:
    """Images with Gaussian noise on every pixel, and as targets those without."""
    split = images(name, inputs_as_targets=True)
    rng = default_rng(29)
    train, val = (
        x + torch.tensor(rng.normal(0, noise, x.shape), dtype=torch.float32) for x in (split.train_x, split.val_x)
    )
    return split._replace(train_x=train, val_x=val)


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
def context(reach: int) -> Split:
    """Words of Python's language reference from the ``reach`` before and after them."""
    from pydoc_data.topics import topics

    words = re.findall("[a-z]+", "\n".join(topics[key] for key in sorted(topics)).lower())
    known = {word: number for number, (word, _) in enumerate(Counter(words).most_common(WORDS - 1), start=1)}
    codes = torch.tensor([known.get(word, 0) for word in words])
    around = codes.unfold(0, 2 * reach + 1, 1)
    around = around[around[:, reach] > 0]
    x, y = torch.cat([around[:, :reach], around[:, reach + 1 :]], 1), around[:, reach]
    validate = torch.arange(len(y)) // 500 % 8 == 7
    return Split(x[~validate], y[~validate], x[validate], y[validate])


@functools.cache
def names() -> Split:
    """Is a character of Unicode a letter, a mark, a digit or a symbol, and of which sort? By its name."""
    kinds = ("Ll", "Lu", "Lo", "Mn", "No", "Po", "Sm", "So")
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    for code in range(0x1F900):
        name = unicodedata.name(chr(code), "")
        kind = unicodedata.category(chr(code))
        if kind in found and name and not name.startswith(("CJK", "HANGUL")):
            found[kind].append(name)
    rng = default_rng(31)
    rows = [
        (name, label)
        for label, kind in enumerate(kinds)
        for name in (found[kind][place] for place in rng.permutation(len(found[kind]))[:1200])
    ]
    rows = [rows[place] for place in rng.permutation(len(rows))]
    codes = [[ord(character) - 32 for character in f"{name:{NAME}}"[-NAME:]] for name, _ in rows]
    x, y = torch.tensor(codes), torch.tensor([label for _, label in rows])
    return Split(x[2500:], y[2500:], x[:2500], y[:2500])


TASKS: list[Task] = [
    task("iris-mlp-adamw-b8", 200, iris, lambda: mlp(4, 32, 32, 3), adamw(), 8, needs=SKLEARN),
    task(
        "redundant-logistic-sgd0-b128",
        250,
        redundant,
        lambda: mlp(50, 4),
        sgd(momentum=0),
        128,
        needs=SKLEARN,
    ),
    task("blobs-mlp-adamw-b1024", 200, lambda: blobs(20), lambda: mlp(6, 64, 64, 20), adamw(), 1024, needs=SKLEARN),
    task(
        "checkerboard-flip20-mlp-nesterov-b100",
        600,
        functools.partial(checkerboard, 2000, 0.2),
        lambda: mlp(2, 96, 96, 2),
        nesterov(),
        100,
    ),
    task(
        "formula-mlp-adam-b256",
        300,
        functools.partial(formula, 3000),
        lambda: mlp(6, 64, 64, 1, act=nn.GELU),
        adam(),
        256,
        score="r2",
    ),
    task(
        "houses-unnormalised-mlp-sgd-b32-clip1",
        500,
        houses,
        lambda: mlp(5, 48, 48, 1),
        sgd(),
        32,
        score="r2",
        clip=1.0,
    ),
    task(
        "rare-mlpbn-adam-b128",
        400,
        rare,
        lambda: normed_mlp(12, 64, 64, 2, norm=nn.BatchNorm1d),
        adam(),
        128,
    ),
    task(
        "multilabel-mlp-adamw-b64",
        300,
        functools.partial(yes_or_no, 8),
        lambda: YesOrNo(mlp(20, 96, 8, dropout=0.1)),
        adamw(),
        64,
    ),
    task(
        "ratings-factors-adagrad-b256",
        600,
        functools.partial(ratings, 300, 200),
        lambda: Factors(300, 200, 8),
        adagrad(),
        256,
        score="r2",
    ),
    task(
        "digits-flip25-cnn-rmsprop-b50",
        250,
        functools.partial(images, "digits", flip=0.25),
        lambda: cnn(1, 8, 10, size=8, batch_norm=False, hidden=48),
        rmsprop(),
        50,
        needs=SKLEARN,
    ),
    task(
        "digits-convautoencoder-adamw-b32",
        300,
        functools.partial(images, "digits", inputs_as_targets=True),
        lambda: conv_autoencoder(1, 16),
        adamw(),
        32,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "mnist-vit-sgd-b64-clip1",
        300,
        functools.partial(images, "MNIST"),
        lambda: VisionTransformer(1, 14, 7, 32, 1, 10),
        sgd(),
        64,
        clip=1.0,
        needs=MNIST,
    ),
    task(
        "mnist-siamese-cnn-adam-b32",
        300,
        functools.partial(pairs, "MNIST"),
        lambda: Siamese(cnn(1, 6, 32, size=14, batch_norm=False), 32),
        adam(),
        32,
        needs=MNIST,
    ),
    task(
        "fashion-unnormalised-cnn-sgd-b128",
        200,
        functools.partial(images, "FashionMNIST", normalise=False),
        lambda: cnn(1, 6, 10, size=14, batch_norm=False),
        sgd(),
        128,
        needs=FASHION,
    ),
    task(
        "fashion-mlpln-sgd0-b256",
        250,
        functools.partial(images, "FashionMNIST"),
        lambda: normed_mlp(196, 64, 64, 10, norm=nn.LayerNorm),
        sgd(momentum=0),
        256,
        needs=FASHION,
    ),
    task(
        "fashion-denoiser-adam-b16",
        200,
        functools.partial(noisy, "FashionMNIST", 1.0),
        lambda: denoiser(1, 8),
        adam(),
        16,
        score="r2",
        needs=FASHION,
    ),
    task(
        "fashion-finetune-from-mnist-nesterov-b25-groups",
        250,
        functools.partial(fine_tuning, "FashionMNIST", 800),
        functools.partial(pretrained_cnn, "MNIST"),
        nesterov(),
        25,
        groups=body_and_head(0.02, 0.1),
        needs=(*MNIST, *FASHION),
    ),
    task(
        "cifar-cnngn-rmsprop-b64",
        250,
        functools.partial(images, "CIFAR-10"),
        lambda: group_norm_cnn(3, 16, 10),
        rmsprop(),
        64,
        needs=CIFAR,
    ),
    task(
        "cifar-resnet-sgd-b256-decay",
        150,
        functools.partial(images, "CIFAR-10"),
        lambda: ResNet(3, (8, 16), 10),
        sgd(weight_decay=0.02),
        256,
        needs=CIFAR,
    ),
    task(
        "waves-autoencoder-sgd-b64",
        400,
        functools.partial(flat_waves, 48, 0.1),
        lambda: mlp(48, 48, 8, 48, 48, act=nn.Tanh),
        sgd(),
        64,
        score="r2",
    ),
    task(
        "series-gru-adam-b128-clip",
        200,
        functools.partial(series, 28, 4),
        lambda: RowRNN(1, 32, 4),
        adam(),
        128,
        score="r2",
        clip=0.5,
    ),
    task(
        "topics-words-sgd-b256",
        400,
        functools.partial(context, 2),
        lambda: WordFromContext(WORDS, 32),
        sgd(),
        256,
    ),
    task(
        "topics-charconv-nesterov-b32",
        300,
        functools.partial(sequences, "topics"),
        lambda: CharConvolution(VOCABULARY, 32),
        nesterov(),
        32,
    ),
    task(
        "code-rnn-rmsprop-b32-clip1",
        250,
        functools.partial(sequences, "code"),
        lambda: CharRNN(nn.RNN, VOCABULARY, 24, 64),
        rmsprop(),
        32,
        clip=1.0,
    ),
    task("lines-attention-adamw-b64", 250, lines, lambda: AttentionOverTokens(4001, 24, 10), adamw(), 64),
    task("names-charcnn-radam-b128", 200, names, lambda: TextCNN(64, 24, 8), radam(), 128),
]
