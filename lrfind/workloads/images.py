"""Images that torchvision reads: where they lie, how they are split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lrfind.workloads.parts import Split, extra

TRAIN_SIZE = 60_000


class Source(NamedTuple):
    """A data set of the MNIST family."""

    workload: str  # the name both commands know
    dataset: str  # torchvision's class, and its folder in the data root
    mean: float  # of all training pixels, scaled to 0 .. 1
    sd: float


def split(source: Source, data_root: Path | str | None, val_size: int) -> Split:
    """Return all images, normalised, as ``(n, 1, 28, 28)``; the held-out ones are always the same.

    Args:
        source: What to read.
        data_root: Folder that holds ``MNIST/raw`` or its like. Default: the environment variable ``LRFIND_DATA``,
            else ``~/.cache/lrfind``. What is missing there is downloaded.
        val_size: How many training images to hold out; 0 validates on the test images.

    Raises:
        ValueError: If ``val_size`` is out of range.
        ModuleNotFoundError: Without torchvision.
        FileNotFoundError: Where the data are not, and cannot be downloaded to.
    """
    if not 0 <= val_size < TRAIN_SIZE:
        raise ValueError(
            f"val_size must be in 0 .. {TRAIN_SIZE - 1}; got {val_size!r}. It counts training images held out for "
            "validation; 0 validates on the test images."
        )
    x, y = _read(source, data_root, train=True)
    if val_size == 0:
        return Split(x, y, *_read(source, data_root, train=False))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    val, train = order[:val_size], order[val_size:]
    return Split(x[train], y[train], x[val], y[val])


def _read(source: Source, data_root: Path | str | None, *, train: bool) -> tuple[Tensor, Tensor]:
    name = source.dataset
    dataset = getattr(extra("torchvision.datasets", "torchvision", source.workload), name)
    root = _root(data_root)
    try:
        images = dataset(root, train=train, download=True)  # downloads only what is not there
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise FileNotFoundError(
            f"{name} must lie in the data root as {name}/raw/train-images-idx3-ubyte and so on, or be downloadable "
            f"into it; got {str(root)!r}, where it is not, and the download failed: {reason}. Give another folder by "
            "--data-root (data_root) or the environment variable LRFIND_DATA, or try again with a network."
        ) from error
    pixels = images.data[:, None].float().div_(255).sub_(source.mean).div_(source.sd)
    return pixels, images.targets


def _root(given: Path | str | None) -> Path:
    named = given or os.environ.get("LRFIND_DATA")
    if not named:
        return Path.home() / ".cache" / "lrfind"
    root = Path(named).expanduser()
    if not root.is_dir():
        name = "data_root" if given else "LRFIND_DATA"
        raise FileNotFoundError(
            f"{name} must be an existing folder; got {str(named)!r}. "
            f"Create it and the data are downloaded into it, or leave {name} out."
        )
    return root
