"""Optimizers as the tasks name them, with the lr that a user would write without looking."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop

from experiments.tasks.task import MakeOptimizer


def sgd(momentum: float = 0.9, **settings: Any) -> MakeOptimizer:
    """SGD with momentum at lr 0.1; with ``momentum=0`` OneCycle will turn momentum on."""
    return partial(SGD, lr=0.1, momentum=momentum, **settings)


def nesterov(**settings: Any) -> MakeOptimizer:
    """SGD with Nesterov momentum at lr 0.1."""
    return sgd(nesterov=True, **settings)


def adam(**settings: Any) -> MakeOptimizer:
    """Adam at lr 1e-3."""
    return partial(Adam, lr=1e-3, **settings)


def adamw(weight_decay: float = 0.01, **settings: Any) -> MakeOptimizer:
    """AdamW at lr 1e-3."""
    return partial(AdamW, lr=1e-3, weight_decay=weight_decay, **settings)


def rmsprop(**settings: Any) -> MakeOptimizer:
    """RMSprop at lr 1e-3, by default without momentum, which OneCycle will turn on."""
    return partial(RMSprop, lr=1e-3, **settings)


def adagrad(**settings: Any) -> MakeOptimizer:
    """Adagrad at lr 1e-2: no momentum that OneCycle could turn on."""
    return partial(Adagrad, lr=1e-2, **settings)


def radam(**settings: Any) -> MakeOptimizer:
    """RAdam at lr 1e-3."""
    return partial(RAdam, lr=1e-3, **settings)


def nadam(**settings: Any) -> MakeOptimizer:
    """NAdam at lr 1e-3."""
    return partial(NAdam, lr=1e-3, **settings)


def adamax(**settings: Any) -> MakeOptimizer:
    """Adamax at lr 2e-3."""
    return partial(Adamax, lr=2e-3, **settings)


def adadelta(**settings: Any) -> MakeOptimizer:
    """Adadelta at lr 1: no momentum that OneCycle could turn on."""
    return partial(Adadelta, lr=1.0, **settings)


# Parameter groups


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
