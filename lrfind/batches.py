"""Loaders as streams of batches, and a faster way to read tensors that already lie in memory.

A *group* is what one optimizer step takes: ``accumulation_steps`` batches, fewer at the end of an epoch whose
number of batches is no multiple of it. The range test and the training run group alike.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from lrfind.objects import MANY, is_plain, referred, vars_of

Batch = Any
Group = list[Batch]


def epoch(loader: Iterable[Batch], group_size: int = 1) -> Iterator[Group]:
    """Yield the groups of one pass over ``loader``.

    >>> list(epoch([1, 2, 3, 4, 5], group_size=2))
    [[1, 2], [3, 4], [5]]
    """
    batches = iter(loader)
    if group_size == 1:
        for batch in batches:
            yield [batch]
        return
    while group := list(itertools.islice(batches, group_size)):
        yield group


def endless(loader: Iterable[Batch], group_size: int = 1) -> Generator[Group]:
    """Yield groups for ever: at its end ``loader`` is read again from the start.

    Raises:
        ValueError: If a pass yields no batch (an empty loader, or one that can be iterated only once).
    """
    while True:
        empty = True
        for group in epoch(loader, group_size):
            empty = False
            yield group
        if empty:
            raise ValueError(
                f"train_loader yielded no batch; got {loader!r}. It must yield at least one batch each time it "
                "is iterated: check that the dataset is not empty, that drop_last does not drop its only batch, "
                "and pass a loader (or a list of batches) rather than a generator, which ends after one pass."
            )


def steps_per_epoch(loader: Iterable[Batch], group_size: int = 1) -> int | None:
    """Return the number of optimizer steps in one pass, or None where ``loader`` has no length.

    >>> steps_per_epoch([1, 2, 3, 4, 5], group_size=2)
    3
    """
    try:
        batches = len(loader)  # type: ignore[arg-type]  # the TypeError of a loader without length is the answer
    except (TypeError, NotImplementedError):
        return None
    return math.ceil(batches / group_size)


def batch_size(batch: Batch) -> int:
    """Return the number of samples in ``batch``: the first dimension of the first tensor found in it.

    Searched depth first through tuples, lists and dicts; a batch without such a tensor counts as one sample.

    >>> batch_size({"ids": torch.zeros(8, 128), "mask": None})
    8
    """
    size = _first_size(batch)
    return 1 if size is None else size


def _first_size(value: Any) -> int | None:
    if isinstance(value, Tensor):
        return value.shape[0] if value.ndim else None
    parts: Iterable[Any]
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        parts = value
    else:
        return None
    return next((size for size in map(_first_size, parts) if size is not None), None)


def to_device(value: Any, device: torch.device) -> Any:
    """Return ``value`` with every tensor in it on ``device``; containers keep their type.

    Objects with a ``to`` method of their own (a tokenizer's batch, a packed sequence) are asked to move
    themselves. Copies from pinned memory do not wait.
    """
    if isinstance(value, Tensor):
        return value if value.device == device else value.to(device, non_blocking=True)
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(part, device) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(to_device(part, device) for part in value)
    if isinstance(value, dict):
        moved = {key: to_device(part, device) for key, part in value.items()}
        if type(value) is dict:
            return moved
        like = copy.copy(value)  # an OrderedDict, a defaultdict, a batch class of the user's
        like.update(moved)
        return like
    return value


def home(losses: Sequence[Tensor]) -> list[float]:
    """Bring tensors without dimensions home from the device, in one transfer.

    >>> home([torch.tensor(0.5), torch.tensor(0.25)])
    [0.5, 0.25]
    """
    if len(losses) == 1:
        return [float(losses[0])]
    numbers: list[float] = torch.stack(list(losses)).tolist() if losses else []
    return numbers


def fast(loader: Iterable[Batch]) -> Iterable[Batch]:
    """Return a loader with the same batches, read faster where that is possible, else ``loader`` itself.

    A plain ``DataLoader`` over a ``TensorDataset`` of dense, contiguous tensors, read in the main process with
    torch's default collate, takes its samples one by one and stacks them. The loader returned here has the same
    batch sampler and generator, so it draws the same random numbers in the same order, but indexes the tensors
    once a batch: same batches, bit for bit. Subclasses and custom parts are left alone, since they may do
    something of their own. Wrappers of torch-lr-finder (``TrainDataLoaderIter`` and children) are unwrapped, with
    their ``inputs_labels_from_batch`` applied to each batch, unless they have a ``__next__`` of their own.
    """
    if hasattr(type(loader), "inputs_labels_from_batch") and _of_the_peer(type(loader), "__next__"):
        return _Unwrapped(loader)
    if not (
        type(loader) is DataLoader
        and type(loader.dataset) is TensorDataset
        and loader.batch_sampler is not None
        and loader.num_workers == 0
        and loader.collate_fn is default_collate
        and not loader.pin_memory
        and all(map(_indexable_at_once, loader.dataset.tensors))
    ):
        return loader
    return DataLoader(
        _WholeBatches(loader.dataset.tensors),
        batch_sampler=loader.batch_sampler,
        collate_fn=_already_a_batch,
        generator=loader.generator,
    )


def _indexable_at_once(tensor: Tensor) -> bool:
    # Contiguous, because stacking samples gives contiguous batches while indexing keeps the source's strides.
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not tensor.requires_grad
    )


class _WholeBatches(Dataset[list[Tensor]]):
    """Tensors indexed by a whole batch of indices, through the ``__getitems__`` that DataLoader asks for."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitems__(self, indices: Any) -> Any:
        try:
            # Through numpy, which reads a list five times as fast as torch does.
            where = torch.from_numpy(np.array(indices)) if isinstance(indices, list) else torch.as_tensor(indices)
            return [tensor.index_select(0, where.to(tensor.device)) for tensor in self.tensors]
        except (IndexError, RuntimeError, TypeError):
            # A sampler of one's own with something else in store, such as indices from the end: as it ever was.
            return default_collate([tuple(tensor[index] for tensor in self.tensors) for index in indices])


def _already_a_batch(batch: list[Tensor]) -> list[Tensor]:
    return batch


def _of_the_peer(kind: type, method: str) -> bool:
    return getattr(getattr(kind, method, None), "__module__", "").startswith("torch_lr_finder.")


class _Unwrapped:
    """One pass over the loader inside a torch-lr-finder iterator, through the user's batch function."""

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper
        self.loader = wrapper.data_loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.wrapper.inputs_labels_from_batch, iter(self.loader))


def rewinds(loader: Iterable[Batch]) -> bool:
    """Tell whether reading ``loader`` again gives its samples again.

    False for an iterator of Python's own, and for a loader that holds one (a generator, an open file) in an
    iterable dataset, a sampler or itself: what a range test draws from those is lost to training.

    >>> rewinds([1, 2, 3]), rewinds(iter([1, 2, 3]))
    (True, False)
    """
    waiting: list[Any] = [loader]
    seen: dict[int, Any] = {}
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        # The attributes of an object of the user's own class are put back, and its place with them.
        if hasattr(type(part), "__next__") and not is_plain(part):
            return False
        if isinstance(part, Dataset) and not isinstance(part, IterableDataset):
            waiting += [value for value in vars_of(part).values() if isinstance(value, Dataset | list | tuple)]
        elif isinstance(part, DataLoader) or hasattr(type(part), "inputs_labels_from_batch"):
            waiting += [value for name, value in vars_of(part).items() if name != "_iterator"]
        else:
            waiting += referred(part, many=MANY)
    return True
