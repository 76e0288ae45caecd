"""A loader of which every rank reads a part: checked to be one, read in step, in a new order each pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, default_collate

from lrfind.batches import Batch, steps_per_epoch
from lrfind.ranks import Ranks

# Batches that must all be the same on two ranks before they are taken for the same data.
COMPARED = 4


class Shards:
    """A loader as several ranks read it: the same number of batches on each, with its sampler told of each pass.

    Args:
        loader: Of this rank.
        ranks: Who reads along.
        batches: How many batches a pass has on the rank that has fewest; None where a loader has no length: then the
            pass ends where the first rank's ends.
        epoch: Number of the first pass read, for ``set_epoch`` of the sampler. Default: the sampler's own.

    >>> list(Shards([1, 2, 3], Ranks(), batches=2))
    [1, 2]
    """

    def __init__(self, loader: Iterable[Batch], ranks: Ranks, *, batches: int | None, epoch: int | None = None) -> None:
        self.loader = loader
        self.ranks = ranks
        self._batches = batches
        self._told = [part for part in _parts(loader) if callable(getattr(part, "set_epoch", None))]
        own = next((part.epoch for part in self._told if isinstance(getattr(part, "epoch", None), int)), 0)
        self._epoch = own if epoch is None else epoch

    def __len__(self) -> int:
        if self._batches is None:
            raise TypeError("this loader has no length")  # what a DataLoader over a stream raises
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        for part in self._told:
            part.set_epoch(self._epoch)
        self._epoch += 1
        batches = iter(self.loader)
        if self._batches is None and self.ranks.size > 1:
            return self.ranks.in_step(batches)
        return islice(batches, self._batches)


def has_epochs(loader: Iterable[Batch]) -> bool:
    """Tell whether something in a loader wants to be told the number of each pass (``set_epoch``)."""
    return any(callable(getattr(part, "set_epoch", None)) for part in _parts(loader))


def fewest(loader: Iterable[Batch], ranks: Ranks) -> int | None:
    """Return the number of batches in a pass on the rank that has fewest; None where one does not know."""
    counts = ranks.gather(steps_per_epoch(loader))
    known = [count for count in counts if count is not None]
    return min(known) if len(known) == len(counts) else None


def equal_sizes(loader: Iterable[Batch], ranks: Ranks) -> bool:
    """Tell whether the batches that the ranks read at the same time have as many samples on each, by their loaders."""
    plain = (
        type(loader) is DataLoader
        and type(loader.batch_sampler) is BatchSampler
        and loader.collate_fn is default_collate
        and hasattr(loader.sampler, "__len__")
    )
    own = (len(loader.sampler), loader.batch_size, loader.drop_last) if plain else None  # type: ignore[attr-defined]
    everywhere = ranks.gather(own)
    return own is not None and all(other == own for other in everywhere)


def refuse_same_data(loader: Iterable[Batch], ranks: Ranks) -> None:
    """Compare the first batches of the ranks, unless a ``DistributedSampler`` vouches for them.

    Raises:
        ValueError: If two ranks read the same.
    """
    if ranks.size == 1 or not ranks.any(not _distributed(loader, ranks)):
        return
    digests = ranks.gather([_digest(batch) for batch in islice(iter(loader), COMPARED)])
    first: dict[tuple[bytes, ...], int] = {}
    for rank, digest in enumerate(map(tuple, digests)):
        if digest and digest in first:
            raise ValueError(
                f"train_loader must give each rank data of its own; got the same batches on ranks {first[digest]} and "
                f"{rank} of {ranks.size}, so that {ranks.size} processes would do the work of fewer. Pass "
                "DataLoader(dataset, batch_size, sampler=torch.utils.data.DistributedSampler(dataset))."
            )
        first.setdefault(digest, rank)


def _distributed(loader: Iterable[Batch], ranks: Ranks) -> bool:
    return any(
        isinstance(part, DistributedSampler) and (part.num_replicas, part.rank) == (ranks.size, ranks.rank)
        for part in _parts(loader)
    )


def _parts(loader: Any) -> list[Any]:
    """Return a loader and what decides on its samples."""
    loader = getattr(loader, "data_loader", loader)  # inside a torch-lr-finder iterator
    parts = [loader]
    for name in ("sampler", "batch_sampler", "dataset"):
        part = getattr(loader, name, None)
        parts += [part, getattr(part, "sampler", None)]
    return list({id(part): part for part in parts if part is not None}.values())


def _digest(batch: Batch) -> bytes:
    sha = hashlib.sha256()
    waiting = [batch]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor):
            sha.update(part.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
        else:
            sha.update(repr(part).encode())
    return sha.digest()
