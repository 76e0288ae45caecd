"""The processes that take every step together, under DistributedDataParallel or ``fully_shard``: what they tell each
other, and what becomes of the others when one of them fails.

Launching them, moving gradients and sharding weights is torch's (``torchrun``, DDP, FSDP2).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

# A rank that fails gives the others so many seconds to fail of the same cause before it takes their connection away.
GRACE = 3.0
# Seconds between two looks for a rank that has failed.
POLL = 0.05


class RankError(RuntimeError):
    """Another rank has failed, and this one could not go on without it."""


class Ranks:
    """The processes that train one model together, each a *rank*. Every method but ``any_failed`` is for all to call.

    Args:
        group: Their process group; None for one process alone, which is told everything at once and waits for nobody.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.

    >>> alone = Ranks()
    >>> alone.size, alone.first, alone.gather("hello"), alone.means([0.5, 0.25])
    (1, True, ['hello'], [0.5, 0.25])
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.rank: int = 0 if group is None else dist.get_rank(group)
        self.size: int = 1 if group is None else dist.get_world_size(group)
        self._together = False
        self._entered = 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that draws, logs and writes for all."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return the value of every rank, by rank; anything that can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def means(self, values: Sequence[float]) -> list[float]:
        """Return the mean over the ranks of each of several numbers: the same bits on every rank."""
        if self.size == 1:
            return list(values)
        own = torch.tensor(values, dtype=torch.float64, device=self._device())
        each = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(each, own, group=self.group)
        # Added up here, in the order of the ranks: what a library's own sum does depends on how it cuts the data.
        return [sum(column) / self.size for column in zip(*(rank.tolist() for rank in each), strict=True)]

    def total(self, count: int) -> int:
        """Return the sum over the ranks."""
        if self.size == 1:
            return count
        number = torch.tensor(count, dtype=torch.int64, device=self._device())
        dist.all_reduce(number, group=self.group)
        return int(number)

    def any(self, flag: bool) -> bool:
        """Tell whether it is so on any rank."""
        return self.total(int(flag)) > 0

    def from_first(self, make: Callable[[], T]) -> T:
        """Have rank 0 call ``make`` and return its result on every rank.

        Raises:
            Exception: What ``make`` raises, on every rank.
        """
        if self.size == 1:
            return make()
        outcome: list[Any] = [None]
        if self.first:
            try:
                outcome = [(True, make())]
            except Exception as error:
                outcome = [(False, error)]
        dist.broadcast_object_list(outcome, group=self.group, group_src=0)
        good, result = outcome[0]
        if not good:
            raise result
        return cast(T, result)

    def in_step(self, items: Iterator[T]) -> Iterator[T]:
        """Yield ``items`` as long as every rank has a further one."""
        while True:
            item = next(items, _END)
            if self.any(item is _END):
                return
            yield item  # type: ignore[misc]

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the numbers that rank 0 has in ``tensors``."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, group=self.group, group_src=0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """See to it that no rank waits for one that has failed.

        Where the body raises on every rank, each raises its own error and the process group is as good as before.
        Where it raises on some, the others would wait in a collective for ever: after three seconds the failed rank
        closes the group, and the others raise a ``RankError`` that names it. The group is of no use afterwards.

        Raises:
            RankError: Where another rank has failed.
        """
        if self.size == 1 or self._together:
            yield
            return
        self._entered += 1
        self._together = True
        alarm = _Alarm(self.group, self.rank, self.size, self._entered)
        try:
            with alarm.watched():
                yield
        except BaseException as error:
            raised_by = alarm.raised_by(error)
            if raised_by is None:
                raise
            raise RankError(
                f"{raised_by}; rank {self.rank} of {self.size} could not go on without it. Mend that, then launch all "
                "ranks again."
            ) from error
        finally:
            self._together = False

    def _device(self) -> torch.device:
        if "cpu" in dist.get_backend_config(self.group):
            return torch.device("cpu")
        return torch.device(torch.accelerator.current_accelerator() or "cpu")


ALONE = Ranks()
_END = object()


class _Alarm:
    """What the ranks leave for each other in the store that they met through, which outlives their connection."""

    def __init__(self, group: Any, rank: int, size: int, entered: int) -> None:
        store = dist.distributed_c10d._get_default_store()
        self._store = dist.distributed_c10d.PrefixStore(f"lrfind/{restarts()}/{group.group_name}/{entered}", store)
        self._group, self._rank, self._size = group, rank, size

    def raised_by(self, error: BaseException) -> str | None:
        """Return which rank an error comes from and what it was; None where it is this rank's own."""
        try:
            return self._raised_by(error)
        except RuntimeError:  # the store is gone as well: whoever kept it has ended
            return None

    def _raised_by(self, error: BaseException) -> str | None:
        until = time.monotonic() + GRACE
        self._store.set(f"failed/{self._rank}", "")
        while time.monotonic() < until:
            if self._store.check(["closed by"]):
                return str(self._store.get("closed by").decode())
            if all(self._store.check([f"failed/{rank}"]) for rank in range(self._size)):
                return None
            time.sleep(POLL)
        text = f"rank {self._rank} failed: {type(error).__name__}: {error}"
        first = self._store.compare_set("closed by", "", text).decode()
        self._group.abort()
        return None if first == text else first

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Close this rank's end of the group too once another rank has closed its own.

        Gloo needs none of this: there a connection that one end has closed fails at the other.
        """
        if dist.get_backend(self._group) == dist.Backend.GLOO:
            yield
            return
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), name="lrfind ranks", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(1.0):
            with suppress(RuntimeError):
                if self._store.check(["closed by"]):
                    self._group.abort()
                    return


def restarts() -> int:
    """Return how many times ``torchrun`` has started the ranks anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def ranks_of(model: nn.Module) -> Ranks:
    """Return the processes that ``model`` is trained by: those of its DDP wrapper or of its sharded parameters.

    A plain model is trained by this process alone, whether or not torch.distributed is in use.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return Ranks(model.process_group)
    mesh: Any = next(
        (cast(Any, parameter).device_mesh for parameter in model.parameters() if is_sharded(parameter)), None
    )
    if mesh is None:
        return ALONE
    # A mesh of several dimensions (replicas of shards, tensor parallelism) takes all processes.
    return Ranks(mesh.get_group() if mesh.ndim == 1 else dist.group.WORLD)


def is_sharded(tensor: Any) -> bool:
    """Tell whether a tensor is spread over ranks, each of which holds a part."""
    # Without an import of the module, which takes half a second; who has made such a tensor has imported it.
    return isinstance(tensor, Tensor) and type(tensor) is not Tensor and hasattr(tensor, "device_mesh")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside a DDP wrapper; any other as it is."""
    return cast(nn.Module, model.module) if isinstance(model, nn.parallel.DistributedDataParallel) else model
