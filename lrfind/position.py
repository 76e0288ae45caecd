"""Where a loader stands: the generators and counters of loader, sampler and dataset, as plain data."""

from __future__ import annotations

from typing import Any

from lrfind.objects import vars_of
from lrfind.randomness import generator_state, set_generator_state

# Attributes through which loaders, samplers and datasets hold one another.
_LINKS = ("data_loader", "dataset", "datasets", "sampler", "batch_sampler", "transform", "transforms")


def loader_parts(loader: Any) -> list[Any]:
    """Return the objects behind a loader whose attributes can move while it is read, in a fixed order."""
    found: dict[int, Any] = {}
    waiting = [loader]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting += part
        elif id(part) not in found and vars_of(part):
            found[id(part)] = part
            waiting += [value for name in _LINKS if (value := vars_of(part).get(name)) is not None]
    return list(found.values())


def loader_state(loader: Any) -> list[dict[str, Any]]:
    """Return, for each part of a loader, its generators' states and its counters (plain numbers).

    >>> import torch
    >>> from torch.utils.data import DataLoader
    >>> loader = DataLoader(range(8), shuffle=True, generator=torch.Generator().manual_seed(0))
    >>> start = loader_state(loader)
    >>> first = list(loader)
    >>> set_loader_state(loader, start)
    >>> list(loader) == first
    True
    """
    return [
        {name: state for name, value in vars_of(part).items() if (state := _state(value)) is not None}
        for part in loader_parts(loader)
    ]


def set_loader_state(loader: Any, states: list[dict[str, Any]]) -> None:
    """Put a loader of the same make back to where ``loader_state`` found it.

    Raises:
        ValueError: If the loader has other parts.
    """
    parts = loader_parts(loader)
    if len(parts) != len(states):
        raise ValueError(
            f"the loader must have the parts it had when its state was taken; got {len(parts)} in place of "
            f"{len(states)}. Build it as it was then."
        )
    for part, state in zip(parts, states, strict=True):
        for name, value in state.items():
            if generator_state(vars_of(part).get(name)) is None:
                vars_of(part)[name] = value
            else:
                set_generator_state(vars_of(part)[name], value)


def _state(value: Any) -> Any:
    return value if isinstance(value, int | float) else generator_state(value)
