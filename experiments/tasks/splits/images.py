"""Images: scikit-learn's digits and photographs, MNIST, Fashion-MNIST, CIFAR-10 (JPEG)."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor

from experiments.tasks import data
from experiments.tasks.splits.labels import confused, flipped, wrong
from experiments.tasks.splits.rows import split_rows
from experiments.tasks.task import Split

MNIST = ("MNIST",)
FASHION = ("FashionMNIST",)
CIFAR = ("CIFAR-10 (JPEG)",)


@functools.cache
def images(
    name: str,
    train: int | None = None,
    *,
    normalise: bool = True,
    flip: float = 0.0,
    inputs_as_targets: bool = False,
) -> Split:
    """One of the image sets, by default scaled to mean 0 and sd 1 over all training pixels."""
    sets = {"digits": data.digits, "CIFAR-10": data.cifar}
    train_x, train_y, val_x, val_y = sets[name]() if name in sets else data.mnist_like(name)
    if normalise:
        pixels = train_x.numpy().astype(np.float64)
        mean, sd = float(pixels.mean()), float(pixels.std())
        train_x, val_x = (train_x - mean) / sd, (val_x - mean) / sd
    if train is not None:
        chosen = torch.from_numpy(default_rng(0).permutation(len(train_x))[:train])
        train_x, train_y = train_x[chosen], train_y[chosen]
    if inputs_as_targets:
        train_x, val_x = train_x[:5000], val_x[:1500]
        return Split(train_x, train_x, val_x, val_x)
    return Split(train_x, flipped(train_y, flip, 10), val_x, val_y)


@functools.cache
def flat(name: str) -> Split:
    """An image set for a fully connected autoencoder: rows of pixels as inputs and as targets."""
    split = images(name, inputs_as_targets=True)
    return Split(*(part.flatten(1) for part in split))


@functools.cache
def photograph(name: str) -> Split:
    """Pixel position, as sines and cosines of six octaves, to colour.

    Of every fourth pixel a random half trains, 6,000 others validate.
    """
    from sklearn.datasets import load_sample_image

    # In numpy, whose results do not depend on the number of threads: the runs are cached by these bits.
    pixels = load_sample_image(name)[::4, ::4].astype(np.float64)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in pixels.shape[:2]), indexing="ij"), -1)
    angles = (places[..., None, :] * np.pi * 2.0 ** np.arange(-1, 5)[:, None]).reshape(-1, 12)
    colours = ((pixels - pixels.mean((0, 1))) / pixels.std()).reshape(-1, 3)
    x = torch.tensor(np.concatenate([np.sin(angles), np.cos(angles)], 1), dtype=torch.float32)
    y = torch.tensor(colours, dtype=torch.float32)
    order = torch.from_numpy(default_rng(0).permutation(len(x)))
    half = len(x) // 2
    train, val = order[:half], order[half : half + 6000]
    return Split(x[train], y[train], x[val], y[val])


@functools.cache
def patches(name: str) -> Split:
    """12 x 12 grey patches of a photograph, each less its mean, as inputs and as targets."""
    from sklearn.datasets import load_sample_image

    grey = load_sample_image(name).mean(2)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (12, 12))[::6, ::6].reshape(-1, 144)
    cut = torch.tensor((windows - windows.mean(1, keepdims=True)) / 32, dtype=torch.float32)
    cut = cut[torch.from_numpy(default_rng(0).permutation(len(cut)))]
    return Split(cut[1500:], cut[1500:], cut[:1500], cut[:1500])


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


@functools.cache
def uneven(name: str, many: int, few: int) -> Split:
    """``many`` images of each even class, ``few`` of each odd one; validated on all."""
    split = images(name)
    places = [(split.train_y == label).nonzero()[: few if label % 2 else many, 0] for label in range(10)]
    chosen = torch.cat(places)
    return split._replace(train_x=split.train_x[chosen], train_y=split.train_y[chosen])


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
