"""Everything a training step can change, taken down before and put back after: a sweep leaves no trace."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lrfind.batches import vars_of
from lrfind.position import loader_parts
from lrfind.randomness import generator_state, random_states, set_generator_state, set_random_states
from lrfind.workload import Workload

Restore = Callable[[], None]
Where = Literal["device", "cpu"] | Path

# What a module keeps in containers of its own, and is taken down as tensors.
_MODULE_TENSORS = ("_parameters", "_buffers")
# What an optimizer keeps per parameter and per group, likewise.
_OPTIMIZER_TENSORS = ("state", "param_groups")
_PEER_ITERATOR = ("_iterator", "run_counter")


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
        keep = _Keeper(where)
        losses = [loss for loss in (work.criterion, work.loss_fn) if isinstance(loss, nn.Module)]
        modules = {id(m): m for root in (work.model, *losses) for m in root.modules()}.values()
        self._keep = keep  # temporary files live as long as it does
        self._state: list[Restore] = [
            *(_module(module, keep) for module in modules),
            _optimizer(work.optimizer, keep),
        ]
        if work.grad_scaler is not None:
            self._state.append(_attributes(work.grad_scaler, keep))
        self._data = _data(work) if data else None

    def restore(self, *, data: bool = True) -> None:
        """Put everything back.

        Args:
            data: False leaves random states and the loaders as they are: the next sweep from the same weights
                then sees other batches.
        """
        with torch.no_grad():
            for restore in self._state:
                restore()
        if data and self._data is not None:
            self._data()


@contextmanager
def data_preserved(work: Workload) -> Iterator[None]:
    """Undo on exit, error or not, what reading the workload's loaders does: the data half of ``preserve``."""
    restore = _data(work)
    try:
        yield
    finally:
        restore()


@contextmanager
def preserve(work: Workload, where: Where = "device") -> Iterator[Snapshot]:
    """Undo on exit, error or not, everything that steps in the body do to ``work``.

    Restored, bit for bit, in the same tensor objects: parameters, buffers (non-persistent ones too), gradients,
    optimizer state (state that did not exist is absent again) and groups (keys, tensor learning rates), the
    grad scaler; each submodule's train/eval mode and plain attributes (counters, hidden states); the random
    states of Python, numpy, torch and its accelerators; generators and plain attributes of loader, sampler and
    dataset, so that an iterable dataset that counts its own position is rewound too.
    Not restored: the position of iterators and open files inside a dataset (``lrfind.batches.rewinds``), files,
    and what the body does to objects that are no part of the workload.

    Yields:
        The ``Snapshot``, whose ``restore()`` takes the body back to the start as often as it likes.

    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> work = Workload(model, optimizer, nn.MSELoss(), [(torch.ones(4, 2), torch.ones(4, 1))])
    >>> before = model.weight.clone()
    >>> with preserve(work):
    ...     _ = work.step([(torch.ones(4, 2), torch.ones(4, 1))])
    >>> torch.equal(model.weight, before), len(optimizer.state), model.weight.grad
    (True, 0, None)
    """
    snapshot = Snapshot(work, where)
    give_back_gradients = set_gradients_aside(work)
    try:
        yield snapshot
    finally:
        snapshot.restore()
        give_back_gradients()


def set_gradients_aside(work: Workload) -> Restore:
    """Leave the parameters without gradients; the function returned gives the same tensors back. Copies nothing."""
    parameters = {id(p): p for group in work.optimizer.param_groups for p in group["params"]}
    parameters |= {id(p): p for p in work.model.parameters()}
    gradients = [(parameter, parameter.grad) for parameter in parameters.values()]
    for parameter, _ in gradients:
        parameter.grad = None

    def give_back() -> None:
        for parameter, gradient in gradients:
            parameter.grad = gradient

    return give_back


class _Keeper:
    """Copies tensors, each once, and puts the copies back into the same tensor objects."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._seen: set[int] = set()
        if isinstance(where, Path):
            self._folder = tempfile.mkdtemp(prefix="lrfind-", dir=where)
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __call__(self, tensor: Tensor) -> Restore:
        if id(tensor) in self._seen:  # tied weights are registered more than once
            return lambda: None
        self._seen.add(id(tensor))
        with torch.no_grad():
            kept = tensor.detach().to("cpu", copy=True) if self._where == "cpu" else tensor.detach().clone()
        if isinstance(self._where, Path):
            return self._on_disk(tensor, kept)

        def restore() -> None:
            tensor.detach().copy_(kept)

        return restore

    def _on_disk(self, tensor: Tensor, kept: Tensor) -> Restore:
        file = os.path.join(self._folder, f"{len(self._seen)}.pt")
        torch.save(kept, file)

        def restore() -> None:
            tensor.detach().copy_(torch.load(file, map_location="cpu", weights_only=True))

        return restore


def _module(module: nn.Module, keep: _Keeper) -> Restore:
    registered = {name: dict(vars(module)[name]) for name in _MODULE_TENSORS}
    tensors = [keep(t) for named in registered.values() for t in named.values() if t is not None]
    attributes = _attributes(module, keep, skip=_MODULE_TENSORS)

    def restore() -> None:
        for name, named in registered.items():
            _refill(vars(module)[name], named)
        for restore_tensor in tensors:
            restore_tensor()
        attributes()

    return restore


def _optimizer(optimizer: torch.optim.Optimizer, keep: _Keeper) -> Restore:
    state = {parameter: _mapping(values, keep) for parameter, values in optimizer.state.items()}
    holders = dict(optimizer.state)
    groups = list(optimizer.param_groups)
    group_restores = [_mapping(group, keep, skip=("params",)) for group in groups]
    members = [list(group["params"]) for group in groups]
    attributes = _attributes(optimizer, keep, skip=_OPTIMIZER_TENSORS)

    def restore() -> None:
        _refill(optimizer.state, holders)
        for restore_values in state.values():
            restore_values()
        optimizer.param_groups[:] = groups
        for group, restore_group, params in zip(groups, group_restores, members, strict=True):
            restore_group()
            group["params"] = params
        attributes()

    return restore


def _mapping(mapping: dict[Any, Any], keep: _Keeper, skip: tuple[str, ...] = ()) -> Restore:
    kept = dict(mapping)
    tensors = [keep(value) for key, value in kept.items() if key not in skip and isinstance(value, Tensor)]
    others = {
        key: copy.deepcopy(value) for key, value in kept.items() if key not in skip and not isinstance(value, Tensor)
    }

    def restore() -> None:
        _refill(mapping, kept | copy.deepcopy(others))
        for restore_tensor in tensors:
            restore_tensor()

    return restore


def _attributes(thing: Any, keep: _Keeper | None = None, skip: tuple[str, ...] = ()) -> Restore:
    """Take down an object's attributes: what is bound, what plain containers hold, how far generators are.

    ``keep``: None leaves tensors' contents alone (a dataset's tensors are data, not state).
    """
    attributes = {name: value for name, value in vars_of(thing).items() if name not in skip}
    contents = [content for value in attributes.values() if (content := _content(value, keep)) is not None]

    def restore() -> None:
        # Through the dictionary: a DataLoader refuses to have its parts set, even to what they are.
        _refill(
            vars_of(thing),
            {name: vars_of(thing)[name] for name in skip if name in vars_of(thing)} | attributes,
        )
        for restore_content in contents:
            restore_content()

    return restore


def _content(value: Any, keep: _Keeper | None) -> Restore | None:
    if isinstance(value, Tensor):
        return keep(value) if keep is not None else None
    if isinstance(value, dict):
        return _mapping_content(value)
    if isinstance(value, list | deque | set):
        return partial(_replace, value, list(value))
    if (state := generator_state(value)) is not None:
        return partial(set_generator_state, value, state)
    return None


def _mapping_content(mapping: dict[Any, Any]) -> Restore:
    held = dict(mapping)
    inner = [_mapping_content(value) for value in held.values() if isinstance(value, dict)]

    def restore() -> None:
        _refill(mapping, held)
        for restore_inner in inner:
            restore_inner()

    return restore


def _replace(container: Any, items: Iterable[Any]) -> None:
    container.clear()
    (container.update if isinstance(container, set) else container.extend)(items)


def _refill(mapping: Any, items: dict[Any, Any]) -> None:
    mapping.clear()
    mapping.update(items)


def _data(work: Workload) -> Restore:
    """Take down the global random states and where the loaders stand."""
    restores: list[Restore] = [
        partial(set_random_states, random_states()),
        *(_part(part) for loader in (work.train_loader, work.val_loader) for part in loader_parts(loader)),
    ]

    def restore() -> None:
        for restore_one in restores:
            restore_one()

    return restore


def _part(part: Any) -> Restore:
    # The place of an iterator cannot be given back, so that what a torch-lr-finder iterator knows of it has to stay.
    restore = _attributes(part, skip=_PEER_ITERATOR if hasattr(part, "inputs_labels_from_batch") else ())
    if isinstance(part, DataLoader) and part.persistent_workers:
        # Workers that outlive an epoch have random states of their own: they are set aside, and the body starts
        # others.
        part._iterator = None
    return restore
