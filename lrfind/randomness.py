"""Random states as plain data: what a checkpoint stores and a snapshot puts back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Return the global random states of Python, numpy, torch and the accelerators in use.

    Plain numbers, strings and tensors only, so that ``torch.load(weights_only=True)`` reads them.

    >>> states = random_states()
    >>> first = torch.rand(2)
    >>> set_random_states(states)
    >>> torch.equal(torch.rand(2), first)
    True
    """
    states = {
        "python": random.getstate(),
        "numpy": _from_legacy(np.random.get_state()),  # noqa: NPY002  # the global state is what users draw from
        "torch": torch.get_rng_state(),
    }
    if (accelerator := _accelerator_in_use()) is not None:
        many = hasattr(accelerator, "get_rng_state_all")
        states["accelerator"] = accelerator.get_rng_state_all() if many else [accelerator.get_rng_state()]
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what ``random_states`` returned; an accelerator that is absent now is passed over."""
    random.setstate(_tuples(states["python"]))
    np.random.set_state(_to_legacy(states["numpy"]))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "accelerator" in states and (accelerator := _accelerator_in_use()) is not None:
        if hasattr(accelerator, "set_rng_state_all"):
            accelerator.set_rng_state_all(states["accelerator"])
        else:  # Apple's, of which there is one
            accelerator.set_rng_state(states["accelerator"][0])


def generator_state(value: Any) -> Any:
    """Return how far a random generator of torch, numpy or Python is, as plain data; None for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.RandomState):
        return _from_legacy(value.get_state())
    if isinstance(value, np.random.Generator):
        return _plain(value.bit_generator.state)
    return None


def set_generator_state(value: Any, state: Any) -> None:
    """Put a generator back to where ``generator_state`` found it."""
    if isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, random.Random):
        value.setstate(_tuples(state))
    elif isinstance(value, np.random.RandomState):
        value.set_state(_to_legacy(state))
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = _arrays(state)


def _accelerator_in_use() -> Any:
    # Asking an accelerator that nobody uses for its state would start it, which costs seconds and memory.
    if not torch.accelerator.is_available():
        return None
    module = torch.get_device_module(torch.accelerator.current_accelerator())
    in_use = not hasattr(module, "is_initialized") or module.is_initialized()
    return module if in_use and hasattr(module, "get_rng_state") else None


def _from_legacy(state: Any) -> list[Any]:
    name, keys, position, has_gauss, gauss = state
    return [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)]


def _to_legacy(state: list[Any]) -> tuple[Any, ...]:
    name, keys, position, has_gauss, gauss = state
    return name, keys.numpy().astype(np.uint32), position, has_gauss, gauss


def _tuples(state: Any) -> tuple[Any, ...]:
    version, numbers, gauss = state
    return version, tuple(numbers), gauss


def _plain(value: Any) -> Any:
    # numpy's generators keep integers of 128 bits and arrays of 64: as text they survive any reader.
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": str(value.dtype), "values": [str(item) for item in value.tolist()]}
    return f"int:{value}" if isinstance(value, int) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"array", "values"}:
            return np.array([int(item) for item in value["values"]], dtype=value["array"])
        return {key: _arrays(part) for key, part in value.items()}
    return int(value[4:]) if isinstance(value, str) and value.startswith("int:") else value
