"""scikit-learn's digits: 1,797 real handwritten digits of 8 x 8 pixels. Nothing to download; trained in seconds."""

from __future__ import annotations

import torch
from torch import nn

from lrfind.workload import Workload
from lrfind.workloads.parts import OptimizerName, Split, classifier, extra


def make(
    *,
    batch_size: int = 64,
    optimizer: OptimizerName = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    seed: int = 0,
    device: str | None = None,
) -> Workload:
    """Return a small convolutional net with batch normalisation on scikit-learn's digits.

    Args:
        batch_size: Images per step; 1,437 are trained on.
        optimizer: ``"sgd"`` or ``"adamw"``.
        momentum: Momentum of SGD, beta1 of AdamW; a cycle moves it unless told not to.
        weight_decay: Of all parameters.
        seed: Of the weights and of the order of the batches. The split is always the same.
        device: Where to train. Default: an accelerator where there is one, else the CPU.

    Returns:
        A ``Workload`` whose validation data are 360 images, every class in its proportion.

    Raises:
        ValueError: For a setting out of range.
        ModuleNotFoundError: Without scikit-learn, saying what to install.
    """
    return classifier(
        split(),
        net,
        batch_size=batch_size,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        seed=seed,
        device=device,
    )


def split() -> Split:
    """Return the images as ``(n, 1, 8, 8)``, mean 0 and sd 1 over the pixels trained on: 80 % and 20 %."""
    datasets = extra("sklearn.datasets", "scikit-learn", "digits")
    model_selection = extra("sklearn.model_selection", "scikit-learn", "digits")
    pixels, classes = datasets.load_digits(return_X_y=True)
    parts = model_selection.train_test_split(pixels, classes, test_size=0.2, stratify=classes, random_state=0)
    train_x, val_x, train_y, val_y = map(torch.from_numpy, parts)
    mean, sd = train_x.mean(), train_x.std()
    train_x, val_x = (((x - mean) / sd).float().reshape(-1, 1, 8, 8) for x in (train_x, val_x))
    return Split(train_x, train_y.long(), val_x, val_y.long())


def net() -> nn.Module:
    """Return the net: ``(n, 1, 8, 8)`` to logits ``(n, 10)``, 94,186 parameters.

    >>> sum(p.numel() for p in net().parameters())
    94186
    """
    return nn.Sequential(
        *_block(1, 32),
        *_block(32, 64),
        nn.MaxPool2d(2),
        *_block(64, 128),
        nn.AdaptiveAvgPool2d(1),  # what is averaged over the places overfits less than a layer for each of them
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    # No bias: the normalisation behind it takes any constant out again.
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]
