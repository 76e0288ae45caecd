"""Images: scikit-learn's digits and photographs, MNIST, Fashion-MNIST, CIFAR-10 (JPEG)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from experiments.tasks import data
from experiments.tasks.nets import (
    ResidualMLP,
    ResNet,
    RowRNN,
    VisionTransformer,
    cnn,
    conv_autoencoder,
    mlp,
)
from experiments.tasks.optimizers import adagrad, adam, adamw, nesterov, rmsprop, sgd
from experiments.tasks.pretrained import pretrained
from experiments.tasks.tabular import SKLEARN, flipped
from experiments.tasks.task import Split, Task, task

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
def _half_of_the_classes(name: str, train: int) -> tuple[Split, Split]:
    """Classes 0 to 4 to pretrain on, all of 5 to 9 (as 0 to 4) to fine-tune on ``train`` images."""
    split = images(name)
    halves = []
    for low in (0, 5):
        parts: list[Tensor] = []
        for x, y in ((split.train_x, split.train_y), (split.val_x, split.val_y)):
            inside = (y >= low) & (y < low + 5)
            parts += [x[inside], y[inside] - low]
        halves.append(Split(*parts))
    first, second = halves
    return first, second._replace(train_x=second.train_x[:train], train_y=second.train_y[:train])


def fine_tuning(name: str, train: int) -> Split:
    """Images of the other half of the classes than those the network was trained on."""
    return _half_of_the_classes(name, train)[1]


def _small_cnn() -> nn.Sequential:
    return cnn(1, 8, 5, size=14, batch_norm=False, hidden=32)


def pretrained_cnn(name: str) -> nn.Module:
    """Return a CNN trained on the first half of the classes, with a fresh head."""

    def first_half() -> tuple[Tensor, Tensor]:
        split = _half_of_the_classes(name, 0)[0]
        return split.train_x, split.train_y

    return pretrained(f"{name}-14-first-half-cnn", first_half, _small_cnn, 300)


def body_and_head(body_lr: float, head_lr: float) -> Any:
    """Two parameter groups: the last layer at ``head_lr``, the rest at ``body_lr``."""

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        parameters: list[nn.Parameter] = list(model.parameters())
        return [{"params": parameters[:-2], "lr": body_lr}, {"params": parameters[-2:], "lr": head_lr}]

    return groups


def all_but_norms_decayed(weight_decay: float) -> Any:
    """Two parameter groups: matrices and filters decay, vectors (biases and norms) do not."""

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        parameters: Iterable[nn.Parameter] = list(model.parameters())
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    return groups


TASKS: list[Task] = [
    task(
        "digits-logistic-sgd0-b64",
        200,
        functools.partial(images, "digits"),
        lambda: mlp(64, 10),
        sgd(momentum=0),
        64,
        needs=SKLEARN,
    ),
    task(
        "digits80-mlp-adam-b16",
        300,
        functools.partial(images, "digits", 80),
        lambda: mlp(64, 128, 64, 10),
        adam(),
        16,
        needs=SKLEARN,
    ),
    task(
        "digits-cnn-nesterov-b32",
        250,
        functools.partial(images, "digits"),
        lambda: cnn(1, 8, 10, size=8, batch_norm=False),
        nesterov(),
        32,
        needs=SKLEARN,
    ),
    task(
        "digits-resmlp-adam-b8",
        600,
        functools.partial(images, "digits"),
        lambda: ResidualMLP(64, 48, 2, 10),
        adam(),
        8,
        needs=SKLEARN,
    ),
    task(
        "digits-autoencoder-sgd-b64",
        500,
        functools.partial(flat, "digits"),
        lambda: mlp(64, 48, 12, 48, 64),
        sgd(),
        64,
        score="r2",
        needs=SKLEARN,
    ),
    task(
        "mnist-mlp-nesterov-b128",
        400,
        functools.partial(images, "MNIST"),
        lambda: mlp(196, 128, 64, 10),
        nesterov(),
        128,
        needs=MNIST,
    ),
    task(
        "mnist-cnn-sgd-b512",
        150,
        functools.partial(images, "MNIST"),
        lambda: cnn(1, 6, 10, size=14, batch_norm=False, hidden=64),
        sgd(),
        512,
        needs=MNIST,
    ),
    task(
        "mnist-unnormalised-mlp-sgd-b64",
        300,
        functools.partial(images, "MNIST", normalise=False),
        lambda: mlp(196, 96, 10),
        sgd(),
        64,
        needs=MNIST,
    ),
    task(
        "mnist-autoencoder-adam-b128",
        400,
        functools.partial(flat, "MNIST"),
        lambda: mlp(196, 96, 16, 96, 196),
        adam(),
        128,
        score="r2",
        needs=MNIST,
    ),
    task(
        "mnist2k-flip40-cnn-adamw-b32",
        400,
        functools.partial(images, "MNIST", 2000, flip=0.4),
        lambda: cnn(1, 8, 10, size=14, batch_norm=False, hidden=64),
        adamw(),
        32,
        needs=MNIST,
    ),
    task(
        "mnist-rowgru-adam-b64",
        250,
        functools.partial(images, "MNIST"),
        lambda: RowRNN(14, 48, 10),
        adam(),
        64,
        needs=MNIST,
    ),
    task(
        "mnist-rowgru-sgd-b32-clip1",
        400,
        functools.partial(images, "MNIST"),
        lambda: RowRNN(14, 48, 10),
        sgd(),
        32,
        clip=1.0,
        needs=MNIST,
    ),
    task(
        "fashion-cnnbn-sgd-b64",
        350,
        functools.partial(images, "FashionMNIST"),
        lambda: cnn(1, 8, 10, size=14, batch_norm=True),
        sgd(weight_decay=5e-4),
        64,
        needs=FASHION,
    ),
    task(
        "fashion-cnn-adam-b32-clip",
        400,
        functools.partial(images, "FashionMNIST"),
        lambda: cnn(1, 8, 10, size=14, batch_norm=False),
        adam(),
        32,
        clip=0.5,
        needs=FASHION,
    ),
    task(
        "fashion-mlp-adamw-b256-decay2",
        300,
        functools.partial(images, "FashionMNIST"),
        lambda: mlp(196, 128, 10),
        adamw(weight_decay=2.0),
        256,
        needs=FASHION,
    ),
    task(
        "fashion200-cnnbn-sgd-b20",
        400,
        functools.partial(images, "FashionMNIST", 200),
        lambda: cnn(1, 8, 10, size=14, batch_norm=True),
        sgd(),
        20,
        needs=FASHION,
    ),
    task(
        "fashion-vit-adamw-b64",
        300,
        functools.partial(images, "FashionMNIST"),
        lambda: VisionTransformer(1, 14, 4, 32, 2, 10),
        adamw(weight_decay=0.05),
        64,
        needs=FASHION,
    ),
    task(
        "fashion-autoencoder-nesterov-b64",
        400,
        functools.partial(flat, "FashionMNIST"),
        lambda: mlp(196, 64, 16, 64, 196, act=nn.Tanh),
        nesterov(),
        64,
        score="r2",
        needs=FASHION,
    ),
    task(
        "fashion-finetune-sgd-b32-groups",
        250,
        functools.partial(fine_tuning, "FashionMNIST", 1000),
        functools.partial(pretrained_cnn, "FashionMNIST"),
        sgd(),
        32,
        groups=body_and_head(0.01, 0.1),
        needs=FASHION,
    ),
    task(
        "mnist-finetune-adamw-b64-groups",
        200,
        functools.partial(fine_tuning, "MNIST", 2000),
        functools.partial(pretrained_cnn, "MNIST"),
        adamw(),
        64,
        groups=body_and_head(2e-4, 1e-3),
        needs=MNIST,
    ),
    task(
        "cifar-resnet-nesterov-b64",
        300,
        functools.partial(images, "CIFAR-10"),
        lambda: ResNet(3, (12, 24), 10),
        nesterov(),
        64,
        groups=all_but_norms_decayed(5e-4),
        needs=CIFAR,
    ),
    task(
        "cifar-cnn-adamw-b64",
        300,
        functools.partial(images, "CIFAR-10"),
        lambda: cnn(3, 12, 10, size=16, batch_norm=False),
        adamw(),
        64,
        needs=CIFAR,
    ),
    task(
        "cifar-cnnbn-rmsprop-b128",
        200,
        functools.partial(images, "CIFAR-10"),
        lambda: cnn(3, 8, 10, size=16, batch_norm=True),
        rmsprop(momentum=0.9),
        128,
        needs=CIFAR,
    ),
    task(
        "cifar-mlp-adagrad-b256-dropout",
        250,
        functools.partial(images, "CIFAR-10"),
        lambda: mlp(768, 64, 64, 10, dropout=0.2),
        adagrad(),
        256,
        needs=CIFAR,
    ),
    task(
        "cifar-convautoencoder-adam-b32",
        300,
        functools.partial(images, "CIFAR-10", inputs_as_targets=True),
        lambda: conv_autoencoder(3, 12),
        adam(),
        32,
        score="r2",
        needs=CIFAR,
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
    task(
        "cifar-vit-adam-b32",
        300,
        functools.partial(images, "CIFAR-10"),
        lambda: VisionTransformer(3, 16, 4, 32, 2, 10),
        adam(),
        32,
        needs=CIFAR,
    ),
    task(
        "cifar2k-resnet-adamw-b32",
        400,
        functools.partial(images, "CIFAR-10", 2000),
        lambda: ResNet(3, (12, 24), 10),
        adamw(weight_decay=0.1),
        32,
        needs=CIFAR,
    ),
    task(
        "cifar-cnn-sgd0-b16-clip1",
        500,
        functools.partial(images, "CIFAR-10"),
        lambda: cnn(3, 10, 10, size=16, batch_norm=False),
        sgd(momentum=0),
        16,
        clip=1.0,
        needs=CIFAR,
    ),
    task(
        "cifar-autoencoder-sgd-b128",
        300,
        functools.partial(flat, "CIFAR-10"),
        lambda: mlp(768, 64, 768),
        sgd(),
        128,
        score="r2",
        needs=CIFAR,
    ),
    task(
        "mnist-finetune-sgd-b16-groups",
        300,
        functools.partial(fine_tuning, "MNIST", 500),
        functools.partial(pretrained_cnn, "MNIST"),
        sgd(),
        16,
        groups=body_and_head(0.02, 0.1),
        needs=MNIST,
    ),
    task(
        "fashion-cnnbn-rmsprop-b256",
        150,
        functools.partial(images, "FashionMNIST"),
        lambda: cnn(1, 6, 10, size=14, batch_norm=True),
        rmsprop(),
        256,
        needs=FASHION,
    ),
]
