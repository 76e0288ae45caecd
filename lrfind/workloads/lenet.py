"""LeNet on images of 28 x 28, as in Smith's table of one-cycle results."""

from __future__ import annotations

import math
from pathlib import Path

from torch import nn

from lrfind.workload import Workload
from lrfind.workloads.images import Source, split
from lrfind.workloads.parts import OptimizerName, classifier


def lenet(
    source: Source,
    *,
    batch_size: int = 512,
    optimizer: OptimizerName = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    seed: int = 0,
    device: str | None = None,
    data_root: Path | str | None = None,
    val_size: int = 5_000,
) -> Workload:
    """Return LeNet on a data set of the MNIST family, with all images in memory.

    Args:
        source: The data set.
        batch_size: Images per step.
        optimizer: ``"sgd"`` or ``"adamw"``.
        momentum: Momentum of SGD, beta1 of AdamW; a cycle moves it unless told not to.
        weight_decay: Of all parameters.
        seed: Of the weights and of the order of the batches. The split is always the same.
        device: Where to train. Default: an accelerator where there is one, else the CPU.
        data_root: Folder that holds ``MNIST/raw`` or its like; what is missing there is downloaded into it. Default:
            the environment variable ``LRFIND_DATA``, else ``~/.cache/lrfind``.
        val_size: How many of the 60,000 training images to hold out for validation. 0 trains on all of them and
            validates on the 10,000 official test images: for a last figure, to compare with published ones, when
            nothing is chosen by it any more.

    Raises:
        ValueError: For a setting out of range.
        ModuleNotFoundError: Without torchvision, saying what to install.
        FileNotFoundError: Where the data are not, and cannot be downloaded to.

    Source:
        Smith, arXiv:1803.09820, table 1 (batch size 512, weight decay 0.0005).
    """
    return classifier(
        split(source, data_root, val_size),
        net,
        batch_size=batch_size,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        seed=seed,
        device=device,
    )


def net() -> nn.Module:
    """Return Caffe's LeNet: ``(n, 1, 28, 28)`` to logits ``(n, 10)``, 431,080 parameters.

    No activation after the convolutions, max pooling; weights uniform with variance 1 / fan-in (Caffe's "xavier"
    filler), biases 0.

    >>> sum(p.numel() for p in net().parameters())
    431080
    """
    model = nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            limit = math.sqrt(3 / layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -limit, limit)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # only None without bias
    return model
