"""Labels that are wrong: redrawn, of another class, or taken for the next one."""

from __future__ import annotations

import torch
from numpy.random import default_rng
from torch import Tensor


def wrong(classes: Tensor, share: float, count: int) -> Tensor:
    """Return ``classes`` with a share of them wrong: any of the other ``count - 1``."""
    rng = default_rng(40)
    chosen = torch.from_numpy(rng.random(len(classes)) < share)
    return torch.where(chosen, (classes + torch.from_numpy(rng.integers(1, count, len(classes)))) % count, classes)


def confused(classes: Tensor, share: float, count: int) -> Tensor:
    """Return ``classes`` with a share of them taken for the one that comes next."""
    chosen = torch.from_numpy(default_rng(41).random(len(classes)) < share)
    return torch.where(chosen, (classes + 1) % count, classes)


def flipped(classes: Tensor, share: float, count: int) -> Tensor:
    """Return ``classes`` with a share of them redrawn from ``count`` classes."""
    rng = default_rng(1)
    redrawn = torch.from_numpy(rng.random(len(classes)) < share)
    return torch.where(redrawn, torch.from_numpy(rng.integers(count, size=len(classes))), classes)
