"""What the built-in workloads share: loaders over tensors in memory, a seeded model, an optimizer by name."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lrfind.workload import Workload

OptimizerName = Literal["sgd", "adamw"]

# No batch size of a validation pass changes its result, and this one is fast everywhere.
VAL_BATCH_SIZE = 1000


class Split(NamedTuple):
    """Inputs of shape ``(n, ...)`` and class indices of shape ``(n,)``, to train on and to validate on."""

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor


def classifier(
    split: Split,
    net: Callable[[], nn.Module],
    *,
    batch_size: int,
    optimizer: OptimizerName,
    momentum: float,
    weight_decay: float,
    seed: int,
    device: str | None,
) -> Workload:
    """Return the workload of training ``net()`` on ``split`` by cross-entropy.

    The weights and the order of the batches follow from ``seed`` alone; the global random state is neither read nor
    moved. The optimizer's own lr is a placeholder: a range test and a cycle set theirs. Under ``torchrun`` the batch
    size is that of each rank.

    Raises:
        ValueError: For a setting out of range.
    """
    _check(batch_size, optimizer, momentum, weight_decay)
    where = _device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = net()
    # Twice as fast as the default layout for a small convolutional net on a CPU, and no slower elsewhere.
    model.to(where).to(memory_format=torch.channels_last)
    step: torch.optim.Optimizer
    if optimizer == "sgd":
        step = torch.optim.SGD(model.parameters(), lr=0.01, momentum=momentum, weight_decay=weight_decay)
    else:
        step = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(momentum, 0.999), weight_decay=weight_decay)
    train_x, train_y, val_x, val_y = (part.to(where) for part in split)
    return Workload(
        model,
        step,
        nn.CrossEntropyLoss(),
        _shuffled(TensorDataset(train_x, train_y), batch_size, seed),
        DataLoader(TensorDataset(val_x, val_y), VAL_BATCH_SIZE),
    )


def _shuffled(data: TensorDataset, batch_size: int, seed: int) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader of the data in random order; of several ranks each reads its part."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        return DataLoader(data, batch_size, sampler=DistributedSampler(data, seed=seed))
    return DataLoader(data, batch_size, shuffle=True, generator=torch.Generator().manual_seed(seed))


def extra(module: str, package: str, workload: str) -> ModuleType:
    """Import a module of the extra ``examples``.

    Raises:
        ModuleNotFoundError: Saying what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the workload {workload!r} reads its data through {package}, which is not installed "
            f'({error}). Install it: pip install "lrfind-onecycle[examples]".',
            name=error.name,
        ) from error


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # unknown; or known, but not on this machine
        raise ValueError(
            f"device must be one that torch can use here, such as 'cpu' or 'cuda'; got {name!r} "
            f"({str(error).splitlines()[0]}). Leave it out for the best there is."
        ) from error


def _check(batch_size: int, optimizer: str, momentum: float, weight_decay: float) -> None:
    if not batch_size >= 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size!r}. It counts images per step.")
    if optimizer not in get_args(OptimizerName):
        raise ValueError(
            f"optimizer must be one of {', '.join(map(repr, get_args(OptimizerName)))}; got {optimizer!r}. "
            "For another one, write a function that returns a Workload and give FILE.py:FUNCTION."
        )
    if not 0 <= momentum < 1:
        raise ValueError(
            f"momentum must be at least 0 and below 1; got {momentum!r}. 0.9 is usual (for adamw it is beta1)."
        )
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be a finite number of at least 0; got {weight_decay!r}. 0 turns it off.")
