"""Everything a training step can change, taken down before and put back after: a sweep leaves no trace."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lrfind.objects import GENERATORS, MANY, is_plain, referred, slots_of, vars_of
from lrfind.randomness import generator_state, random_states, set_generator_state, set_random_states

if TYPE_CHECKING:
    from lrfind.workload import Workload  # which reads its loader under data_preserved

Restore = Callable[[], None]
Where = Literal["device", "cpu"] | Path

_NO_STATE = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size)
# The place of an iterator cannot be given back, so what a torch-lr-finder iterator knows of it stays as it is. The
# iterator of a DataLoader is its worker processes: preserve sets them aside.
_ITERATOR = ("_iterator", "run_counter")


class Snapshot:
    """The state of a workload at one moment, to be put back as often as needed: all but the gradients.

    Args:
        work: The workload.
        where: ``"device"`` keeps the copies beside the originals, ``"cpu"`` off the accelerator, a folder in
            temporary files there.
        data: False takes down weights and what belongs to them, but neither random states nor loaders.

    Memory: one copy of parameters, buffers and optimizer state, until the snapshot is dropped.

    Raises:
        ValueError: If ``where`` is none of these.
    """

    def __init__(self, work: Workload, where: Where = "device", *, data: bool = True) -> None:
        if where not in ("device", "cpu") and not (isinstance(where, Path) and where.is_dir()):
            raise ValueError(
                f"snapshot must be 'device', 'cpu' or the Path of an existing folder; got {where!r}. 'device' is "
                "fastest, 'cpu' holds no second copy of the model on the accelerator, a folder none in memory."
            )
        self._record = _Record(_Keeper(where))
        if data:
            self._record.take_data(work)
        self._record.take_state(work)

    def restore(self, *, data: bool = True) -> None:
        """Put everything back; worker processes that a loader keeps between epochs are let go.

        Args:
            data: False leaves random states and the loaders as they are: the next sweep from the same weights
                then sees other batches.

        Raises:
            ExceptionGroup: If something could not be put back; all the rest has been.
        """
        self._record.restore(data=data)


@contextmanager
def preserve(work: Workload, where: Where = "device") -> Iterator[Snapshot]:
    """Undo on exit, error or not, everything that steps in the body do to ``work``.

    Restored, bit for bit, in the same tensor objects: parameters, buffers (non-persistent ones too), gradients,
    optimizer state (state that did not exist is absent again) and groups (keys, tensor learning rates), the
    grad scaler; each submodule's train/eval mode and other attributes (counters, hidden states, objects of the
    user's own classes and what these hold); the random states of Python, numpy, torch and its accelerators; the
    generators and attributes of loader, sampler and dataset, so that an iterable dataset that counts its own
    position is rewound too. A Ctrl-C while things are put back waits until they are.
    Not restored: the position of iterators and open files inside a dataset (``lrfind.batches.rewinds``), a
    dataset's samples where reading changes them, files, and what the body does to objects that the workload does
    not hold. Of a function (``loss_fn``, a hook) modules, optimizers and random generators that it names count as
    held, lists and other variables do not.

    Yields:
        The ``Snapshot``, whose ``restore()`` takes the body back to the start as often as it likes.

    Raises:
        ExceptionGroup: If something could not be put back; all the rest has been.

    >>> from lrfind.workload import Workload
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> work = Workload(model, optimizer, torch.nn.MSELoss(), [(torch.ones(4, 2), torch.ones(4, 1))])
    >>> before = model.weight.clone()
    >>> with preserve(work):
    ...     _ = work.step([(torch.ones(4, 2), torch.ones(4, 1))])
    >>> torch.equal(model.weight, before), len(optimizer.state), model.weight.grad
    (True, 0, None)
    """
    snapshot = Snapshot(work, where)
    record = snapshot._record
    give_back = (_aside(record.leaves, "grad"), _aside(record.workers, "_iterator"))
    try:
        yield snapshot
    finally:
        with _ctrl_c_waits():
            try:
                snapshot.restore()
            finally:
                for give in give_back:
                    give()


@contextmanager
def data_preserved(work: Workload) -> Iterator[None]:
    """Undo on exit, error or not, what reading the workload's loaders does: the data half of ``preserve``."""
    record = _Record(_Keeper("device"))
    record.take_data(work)
    give_back = _aside(record.workers, "_iterator")
    try:
        yield
    finally:
        with _ctrl_c_waits():
            try:
                record.restore(data=True)
            finally:
                give_back()


def set_gradients_aside(work: Workload) -> Restore:
    """Leave the parameters without gradients; the function returned gives the same tensors back. Copies nothing."""
    parameters = {id(p): p for group in work.optimizer.param_groups for p in group["params"]}
    parameters |= {id(p): p for p in work.model.parameters()}
    return _aside(parameters.values(), "grad")


def _aside(holders: Iterable[Any], name: str) -> Restore:
    kept = [(holder, getattr(holder, name)) for holder in holders]
    for holder, _ in kept:
        setattr(holder, name, None)

    def give_back() -> None:
        for holder, value in kept:
            setattr(holder, name, value)

    return give_back


class _Record:
    """Walks from object to object and notes of each, once, how to put it back."""

    def __init__(self, keep: _Keeper) -> None:
        self.leaves: list[Tensor] = []  # tensors that can have a gradient
        self.workers: list[DataLoader[Any]] = []  # loaders that keep worker processes between epochs
        self._state: list[Restore] = []
        self._data: list[Restore] = []
        self._keep = keep
        self._seen: dict[int, Any] = {}  # holds the objects too, so that no other can get their ids

    def take_data(self, work: Workload) -> None:
        """Take down the global random states and where the loaders stand."""
        self._data.append(partial(set_random_states, random_states()))
        self._walk([work.train_loader, work.val_loader], "data")

    def take_state(self, work: Workload) -> None:
        """Take down model, optimizer, loss and what belongs to them; tensors are copied."""
        self._walk(
            [
                work.grad_scaler,
                *(work.metrics or {}).values(),
                work.loss_fn,
                work.criterion,
                work.optimizer,
                work.model,
                # Said outright for modules that keep them elsewhere than in attributes (TorchScript).
                *work.model.parameters(),
                *work.model.buffers(),
            ],
            "state",
        )
        self._seen.clear()

    def restore(self, *, data: bool) -> None:
        """Put back what was taken down, all of it even if a part fails.

        Raises:
            ExceptionGroup: Of what has failed.
        """
        failed: list[Exception] = []
        with _ctrl_c_waits(), torch.no_grad():
            for restore in (*self._state, *(self._data if data else ())):
                try:
                    restore()
                except Exception as error:
                    failed.append(error)
            if data:
                for loader in self.workers:
                    loader._iterator = None
        if failed:
            raise ExceptionGroup(
                f"{len(failed)} parts of the workload could not be put back after the sweep, everything else is as it "
                "was; build the workload anew to be sure.",
                failed,
            )

    def _walk(self, roots: list[Any], what: Literal["state", "data"]) -> None:
        waiting: list[tuple[Any, str]] = [(root, what) for root in roots]
        while waiting:
            value, what_of = waiting.pop()
            kind = type(value)
            if kind in _NO_STATE or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if issubclass(kind, Dataset | DataLoader):
                what_of = "data"
            elif issubclass(kind, Sampler):
                what_of = "sampler"  # where the loader stands, but its tensors are no samples
            restores = self._take(value, tensors=what_of != "data")
            (self._state if what_of == "state" else self._data).extend(restores)
            waiting += [(part, what_of) for part in referred(value, many=MANY if what_of == "data" else None)]

    def _take(self, value: Any, *, tensors: bool) -> Iterator[Restore]:
        kind = type(value)
        if issubclass(kind, Tensor):
            # Under inference mode made, outside of it constant.
            if tensors and not value.is_inference():
                yield self._tensor(value)
        elif issubclass(kind, np.ndarray):
            if tensors and value.flags.writeable:
                yield partial(np.copyto, value, value.copy())
        elif issubclass(kind, GENERATORS):
            yield partial(set_generator_state, value, generator_state(value))
        else:
            if issubclass(kind, dict):
                yield partial(_refill, value, dict(value))
            elif issubclass(kind, list | deque | set):
                yield partial(_replace, value, list(value))
            if is_plain(value):
                yield self._attributes(value)

    def _attributes(self, value: Any) -> Restore:
        skip: tuple[str, ...] = ()
        if isinstance(value, DataLoader):
            skip = _ITERATOR
            if value.persistent_workers:
                self.workers.append(value)
        elif hasattr(type(value), "inputs_labels_from_batch"):
            skip = _ITERATOR
        attributes = {name: part for name, part in vars_of(value).items() if name not in skip}
        slots = slots_of(value)

        def restore() -> None:
            # Through the dictionary: a DataLoader refuses to have its parts set, even to what they are.
            now = vars_of(value)
            _refill(now, attributes | {name: now[name] for name in skip if name in now})
            for name in slots_of(value).keys() - slots.keys():
                object.__delattr__(value, name)
            for name, part in slots.items():
                object.__setattr__(value, name, part)

        return restore

    def _tensor(self, tensor: Tensor) -> Restore:
        if tensor.is_leaf:
            self.leaves.append(tensor)
        memory = tensor.detach()
        kept = self._keep(_once(memory))
        leaf, requires_grad = tensor.is_leaf, tensor.requires_grad

        def restore() -> None:
            if not _same_memory(tensor, memory):
                tensor.data = memory
            _once(memory).copy_(kept())
            if leaf and tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)

        return restore


class _Keeper:
    """Copies tensors to where the copies are to lie; a copy is got back by a call."""

    def __init__(self, where: Where) -> None:
        self._where = where
        if isinstance(where, Path):
            self._folder = tempfile.mkdtemp(prefix="lrfind-", dir=where)
            self._files = 0
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __call__(self, tensor: Tensor) -> Callable[[], Tensor]:
        if isinstance(self._where, Path):
            return self._on_disk(tensor)
        kept = tensor.to("cpu", copy=True) if self._where == "cpu" else tensor.clone()
        return lambda: kept

    def _on_disk(self, tensor: Tensor) -> Callable[[], Tensor]:
        self._files += 1
        file = os.path.join(self._folder, f"{self._files}.pt")
        torch.save(tensor.clone(), file)
        return partial(torch.load, file, map_location="cpu", weights_only=True)


def _once(tensor: Tensor) -> Tensor:
    """Return a view that holds each number of an expanded tensor once: what is repeated cannot be written."""
    if tensor.layout is torch.strided and 0 in tensor.stride():
        for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            if stride == 0 and size > 1:
                tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _same_memory(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype, one.device, one.layout) != (other.shape, other.dtype, other.device, other.layout):
        return False
    # Sharded and other composed tensors have no memory of their own to compare.
    return one.layout is not torch.strided or not _plain_tensor(one) or one.data_ptr() == other.data_ptr()


def _plain_tensor(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter, torch.nn.Buffer)


def _refill(mapping: Any, items: dict[Any, Any]) -> None:
    # Only what has changed is touched: others may be reading. New keys would otherwise change the order.
    if len(mapping) != len(items) or not all(map(is_, mapping, items)):
        mapping.clear()
    for key, value in items.items():
        if key not in mapping or mapping[key] is not value:
            mapping[key] = value


def _replace(container: Any, items: list[Any]) -> None:
    if len(container) == len(items) and all(map(is_, container, items)):
        return
    container.clear()
    (container.update if isinstance(container, set) else container.extend)(items)


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Hold back a Ctrl-C until the body is through; only the main thread gets one."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    pressed: list[Any] = []
    signal.signal(signal.SIGINT, lambda *arguments: pressed.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            before(*pressed[-1])
