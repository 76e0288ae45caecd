"""What an object is made of: its attributes, and what else it refers to that a training step could change."""

from __future__ import annotations

import functools
import queue
import random
import socket
import sys
import threading
import types
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

# Of torch's own objects these are followed; the others are handles, contexts and streams.
_OF_TORCH = (nn.Module, torch.optim.Optimizer, torch.amp.GradScaler, Dataset, Sampler, DataLoader)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# An object that holds one of these is in use by somebody else at the same time: it is left alone.
_LIVE = (
    threading.Thread,
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Event,
    queue.Queue,
    socket.socket,
)
# A longer container that belongs to a dataset holds samples, which are not followed.
MANY = 1000


def vars_of(value: Any) -> dict[str, Any]:
    """Return the attribute dictionary of an object, empty for one that has none."""
    attributes = getattr(value, "__dict__", None)
    return attributes if isinstance(attributes, dict) else {}


def slots_of(value: Any) -> dict[str, Any]:
    """Return the attributes that an object keeps in ``__slots__``, as far as they are set."""
    kind = cast(Hashable, type(value))  # mypy takes type[Any] for something without a hash
    return {name: getattr(value, name) for name in _slot_names(kind) if hasattr(value, name)}


@functools.cache
def _slot_names(kind: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            names.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def is_plain(value: Any) -> bool:
    """Tell whether an object's attributes are its state: a module, an optimizer, an object of a user's class.

    Not so for objects of Python's own library and most of torch's (loggers, files, processes, streams), nor for an
    object that holds a lock or a thread.
    """
    kind = type(value)
    if issubclass(kind, _OF_TORCH) or kind is types.SimpleNamespace:
        return True
    package = kind.__module__.partition(".")[0]
    if issubclass(kind, type) or package in sys.stdlib_module_names or package == "torch":
        return False
    held = [*vars_of(value).values(), *slots_of(value).values()]
    return not any(issubclass(type(part), _LIVE) for part in held)


def referred(value: Any, *, many: int | None = None) -> Iterable[Any]:
    """Return what an object refers to and a training step could change: parts, items, attributes.

    Of a function: the modules, optimizers and random generators among the names it uses.

    Args:
        value: Any object.
        many: Longest container whose items are returned. Default: any.
    """
    kind = type(value)
    if issubclass(kind, dict | list | tuple | set | frozenset | deque):
        own = list(vars_of(value).values()) if is_plain(value) else []
        if many is not None and len(value) > many:
            return own
        return [*own, *(value.values() if issubclass(kind, dict) else value)]
    if kind is types.FunctionType:
        return _captured(value)
    if kind is types.MethodType:
        return (value.__self__, value.__func__)
    if kind is functools.partial:
        return (value.func, value.args, value.keywords)
    if is_plain(value):
        return [*vars_of(value).values(), *slots_of(value).values()]
    return ()


def _captured(function: types.FunctionType) -> list[Any]:
    package = _package(function)
    if package in sys.stdlib_module_names or package == "torch":
        return []
    cells = [_content(cell) for cell in function.__closure__ or ()]
    names = [function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__]
    followed = (nn.Module, torch.optim.Optimizer, *GENERATORS)
    return [
        value
        for value in (*cells, *names)
        if issubclass(type(value), followed) or (type(value) is types.FunctionType and _package(value) == package)
    ]


def _package(function: types.FunctionType) -> str:
    return (function.__module__ or "").partition(".")[0]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None
