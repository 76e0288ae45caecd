"""Where the tasks' data come from: what ships with scikit-learn and Python, or lies in the data root."""

from __future__ import annotations

import functools
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CACHE = Path(__file__).resolve().parent.parent / ".cache"
CIFAR_ARCHIVE = "cifar10-jpeg.tar.xz"
CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def root() -> Path | None:
    """The data root, from the environment variable ``LRFIND_DATA``."""
    return Path(value) if (value := os.environ.get("LRFIND_DATA")) else None


def missing(name: str) -> str | None:
    """Why the data cannot be read, or None: "scikit-learn", "MNIST", "FashionMNIST" or "CIFAR-10 (JPEG)"."""
    if name == "scikit-learn":
        try:
            import sklearn  # noqa: F401
        except ImportError:
            return "scikit-learn is not installed"
        return None
    where = {"CIFAR-10 (JPEG)": CIFAR_ARCHIVE}.get(name, f"{name}/raw")
    folder = root()
    if folder is None:
        return f"{name} is read from a data root: set LRFIND_DATA or pass --data-root"
    return None if (folder / where).exists() else f"{name} is not in the data root ({where})"


def kept(name: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors that ``build`` makes, from the file of that name if they were made before."""
    path = CACHE / "data" / f"{name}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = build()
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            torch.save(tensors, file)
        Path(file.name).replace(path)  # whole or not at all, also when two processes build it
    return torch.load(path, weights_only=True)


@functools.cache
def mnist_like(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images of ``(n, 1, 14, 14)`` in 0 .. 255 (means of 2 x 2 pixels) and their classes.

    12,000 to train on, 4,000 to validate; ``name``: "MNIST" or "FashionMNIST".
    """
    tensors = kept(f"{name}-14", lambda: _mnist_like(name))
    return tensors["train_x"], tensors["train_y"], tensors["val_x"], tensors["val_y"]


def _mnist_like(name: str) -> dict[str, Tensor]:
    from torchvision import datasets

    tensors = {}
    for part, train, count in (("train", True, 12000), ("val", False, 4000)):
        images = getattr(datasets, name)(root(), train=train)
        halved = torch.nn.functional.avg_pool2d(images.data[:count, None].float(), 2)
        tensors |= {f"{part}_x": halved, f"{part}_y": images.targets[:count].clone()}
    return tensors


@functools.cache
def cifar() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return CIFAR-10 (JPEG) as ``(n, 3, 16, 16)`` in 0 .. 255 (means of 2 x 2 pixels) and classes.

    10,000 to train on, 3,000 to validate.
    """
    tensors = kept("cifar10-jpeg-16", _cifar)
    return tensors["train_x"].float(), tensors["train_y"], tensors["val_x"].float(), tensors["val_y"]


def _cifar() -> dict[str, Tensor]:
    images: dict[str, list[Tensor]] = {"train": [], "test": []}
    classes: dict[str, list[int]] = {"train": [], "test": []}
    limits = {"train": 1000, "test": 300}
    for part, _, kind, image in cifar_images(limits):
        images[part].append(torch.from_numpy(np.asarray(image.reduce(2)).transpose(2, 0, 1).copy()))
        classes[part].append(kind)
    return {
        "train_x": torch.stack(images["train"]),
        "train_y": torch.tensor(classes["train"]),
        "val_x": torch.stack(images["test"]),
        "val_y": torch.tensor(classes["test"]),
    }


def cifar_images(limits: Mapping[str, int]) -> Iterator[tuple[str, int, int, Any]]:
    """Yield the images of CIFAR-10 (JPEG) in the order of the archive: part, number in its class, class, picture.

    Args:
        limits: So many of each class, for ``"train"`` and ``"test"``.
    """
    from PIL import Image

    folder = root()
    assert folder is not None, "missing() tells first"
    with tarfile.open(folder / CIFAR_ARCHIVE) as archive:
        for member in archive:
            path = Path(member.name)
            if path.suffix == ".jpg" and int(path.stem) < limits[path.parts[0]]:
                file: Any = archive.extractfile(member)
                yield path.parts[0], int(path.stem), CIFAR_CLASSES.index(path.parts[1]), Image.open(file).convert("RGB")


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scikit-learn's digits, ``(n, 1, 8, 8)`` in 0 .. 16, and classes: 997 to train, 800 to validate."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order], dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(classes[order])
    return x[:997], y[:997], x[997:], y[997:]
