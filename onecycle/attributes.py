"""Counters and random generators that objects carry as attributes, and that move while they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrfind.objects import GENERATORS, MANY, is_plain, referred, slots_of, vars_of
from lrfind.randomness import generator_state, set_generator_state

# The run itself puts modules into the mode that they are to be in.
_NOT_KEPT = ("training",)


class Attributes:
    """What moves about objects and all that they refer to: their generators, and their attributes that are numbers.

    An attribute has moved once it differs from what it was when this was built; the others (a dropout rate, a
    number of workers) stay what the script sets them to, whatever a checkpoint was written with.

    Args:
        roots: The objects, by name; what they hold is found from there.
        tensors: Whether attributes that are tensors count too (a hidden state), besides numbers.

    >>> class Counter:
    ...     def __init__(self):
    ...         self.count, self.generator = 0, torch.Generator().manual_seed(0)
    >>> counter = Counter()
    >>> attributes = Attributes({"counter": counter})
    >>> counter.count = 3
    >>> state = attributes.take()
    >>> state["values"]
    {'counter': {'count': 3}}
    >>> drawn = torch.rand(1, generator=counter.generator)
    >>> counter.count = 4
    >>> attributes.put(state)
    >>> counter.count, torch.equal(torch.rand(1, generator=counter.generator), drawn)
    (3, True)
    """

    def __init__(self, roots: Mapping[str, Any], *, tensors: bool = False) -> None:
        self._kinds = (int, float, type(None), *((Tensor,) if tensors else ()))
        self._generators: dict[str, Any] = {}
        self._holders: dict[str, Any] = {}
        for path, value in _walk(roots):
            if isinstance(value, GENERATORS):
                self._generators[path] = value
            elif vars_of(value) and is_plain(value):
                self._holders[path] = value
        self._start = {path: self._values(holder) for path, holder in self._holders.items()}
        self._moved: dict[str, set[str]] = {path: set() for path in self._holders}

    def take(self) -> dict[str, Any]:
        """Return what has moved, by object, as plain data that ``torch.load(weights_only=True)`` reads."""
        values = {}
        for path, holder in self._holders.items():
            now = self._values(holder)
            moved = self._note_moved(path, now)
            if moved:
                values[path] = {name: now[name] for name in sorted(moved) if name in now}
        generators = {path: generator_state(generator) for path, generator in self._generators.items()}
        return {"generators": generators, "values": values}

    def put(self, state: dict[str, Any]) -> None:
        """Put everything to where ``take`` found it; what had not moved then goes to where it began.

        Raises:
            ValueError: If an object that ``take`` saw is not there.
        """
        lost = [*(state["generators"].keys() - self._generators), *(state["values"].keys() - self._holders)]
        if lost:
            raise ValueError(
                f"loaders, model and loss must hold the objects that they held when the checkpoint was written; got "
                f"no {', '.join(sorted(lost))}. Build them as they were then."
            )
        for path, generator in state["generators"].items():
            set_generator_state(self._generators[path], generator)
        for path, holder in self._holders.items():
            then, start, attributes = state["values"].get(path, {}), self._start[path], vars_of(holder)
            for name in self._note_moved(path, self._values(holder)) | then.keys():
                if name in then or name in start:
                    attributes[name] = _beside(attributes.get(name), then[name] if name in then else start[name])
                else:
                    attributes.pop(name, None)

    def _note_moved(self, path: str, now: dict[str, Any]) -> set[str]:
        """Return which attributes have moved at any time."""
        start, moved = self._start[path], self._moved[path]
        moved.update(name for name, value in now.items() if not _same(value, start.get(name, now)))
        return moved

    def _values(self, holder: Any) -> dict[str, Any]:
        return {
            name: value.detach().clone() if isinstance(value, Tensor) else _pythons(value)
            for name, value in vars_of(holder).items()
            if isinstance(value, self._kinds) and name not in _NOT_KEPT
        }


def _walk(roots: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each object that ``roots`` are made of once, with the way to it."""
    seen: dict[int, Any] = {}
    waiting = list(roots.items())[::-1]
    while waiting:
        path, value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        yield path, value
        parts = list(referred(value, many=MANY))
        names = [*vars_of(value), *slots_of(value)]
        if not (is_plain(value) and len(names) == len(parts)):
            names = [str(index) for index in range(len(parts))]
        waiting += [(f"{path}.{name}", part) for name, part in zip(names, parts, strict=True)][::-1]


def _pythons(value: Any) -> Any:
    # numpy's double is a float, and yet weights_only=True does not read it.
    return value.item() if isinstance(value, np.generic) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def _beside(present: Any, value: Any) -> Any:
    """Return ``value``, a tensor of its own on the device where the present one is."""
    if not isinstance(value, Tensor):
        return value
    return value.to(present.device, copy=True) if isinstance(present, Tensor) else value.clone()
