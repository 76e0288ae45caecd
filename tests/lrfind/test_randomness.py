"""Tests of lrfind.randomness: random states as plain data."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lrfind import randomness
from lrfind.randomness import generator_state, random_states, set_generator_state, set_random_states

BITS = [np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64]
GENERATORS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "python": (random.Random(1), lambda g: [g.random(), g.gauss(0, 1)]),
    "numpy, old": (np.random.RandomState(1), lambda g: g.normal(size=3).tolist()),
    "torch": (torch.Generator().manual_seed(1), lambda g: torch.randn(3, generator=g).tolist()),
} | {
    bits.__name__: (np.random.Generator(bits(1)), lambda g: [g.normal(), g.integers(9, dtype=np.int32)])
    for bits in BITS
}


def through_a_file(states: Any) -> Any:
    """Write and read as a checkpoint is: weights only."""
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_go_back_also_through_a_file(name):
    """Every kind draws again what it drew, in the middle of a pair of normal draws too."""
    generator, draw = GENERATORS[name]
    draw(generator)
    state = generator_state(generator)
    expected = draw(generator)

    for kept in (state, through_a_file(state)):
        set_generator_state(generator, kept)
        assert draw(generator) == expected


def test_global_states_go_back_also_through_a_file():
    """Python's, numpy's and torch's global draws."""

    def draws() -> list[Any]:
        return [random.gauss(0, 1), np.random.normal(), torch.randn(2).tolist()]  # noqa: NPY002

    draws()
    states = random_states()
    expected = draws()

    for kept in (states, through_a_file(states)):
        set_random_states(kept)
        assert draws() == expected


@pytest.mark.parametrize("value", [None, 3, "seed", torch.zeros(2), np.zeros(2)])
def test_nothing_else_is_a_generator(value):
    """None for all that does not draw."""
    assert generator_state(value) is None


class Devices:
    """Stands for an accelerator's module, of one device or several."""

    def __init__(self, states: list[int]) -> None:
        self.states = states

    def get_rng_state(self) -> int:
        return self.states[0]

    def set_rng_state(self, state: int) -> None:
        self.states[0] = state


class ManyDevices(Devices):
    def get_rng_state_all(self) -> list[int]:
        return list(self.states)

    def set_rng_state_all(self, states: list[int]) -> None:
        self.states[:] = states


@pytest.mark.parametrize("devices", [Devices([5]), ManyDevices([5, 6])])
def test_accelerators_in_use_go_back(devices, monkeypatch):
    """Of every device where there are several, and of Apple's one."""
    before = list(devices.states)
    monkeypatch.setattr(randomness, "_accelerator_in_use", lambda: devices)

    states = random_states()
    devices.states[:] = [0] * len(before)
    set_random_states(states)

    assert devices.states == before


def test_accelerator_that_nobody_uses_is_not_started(monkeypatch):
    """Asking an idle one for its state would start it; a state whose accelerator is gone is passed over."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    idle = SimpleNamespace(is_initialized=lambda: False, get_rng_state=lambda: pytest.fail("started"))
    monkeypatch.setattr(torch, "get_device_module", lambda device: idle)

    states = random_states()

    assert "accelerator" not in states
    set_random_states(states | {"accelerator": [1]})
