"""Tests of lrfind.objects: what belongs to an object, and what is left alone."""

from __future__ import annotations

import argparse
import enum
import functools
import io
import logging
import threading
import weakref
from collections import OrderedDict, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler

from lrfind.objects import is_plain, referred, slots_of, vars_of


class Mine:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Slotted:
    __slots__ = ("__private", "empty", "value")

    def __init__(self) -> None:
        self.value, self.__private = 1, 2


class Below(Slotted):
    """Has a dictionary as well."""


class Colour(enum.Enum):
    RED = 1


PLAIN = [
    Mine(),
    Slotted(),
    SimpleNamespace(),
    nn.Linear(1, 1),
    torch.optim.SGD([torch.zeros(1, requires_grad=True)]),
    DataLoader([1]),
    SequentialSampler([1]),
    torch.amp.GradScaler("cpu"),
    Colour.RED,
]
NOT_PLAIN = [
    Mine,
    logging.getLogger(__name__),
    threading.Lock(),
    threading.current_thread(),
    Mine(lock=threading.RLock()),
    Path(),
    io.StringIO(),
    torch.device("cpu"),
    torch.get_default_dtype(),
    iter(DataLoader([1])),
    argparse.Namespace(),
    weakref.ref(Colour),
    np,
    torch,
    print,
    [],
    {},
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_attributes_are_state(value):
    """Modules, optimizers, loaders and objects of the user's own classes."""
    assert is_plain(value)


@pytest.mark.parametrize("value", NOT_PLAIN, ids=lambda value: type(value).__name__)
def test_attributes_are_somebody_elses(value):
    """Classes, Python's own objects, handles, what holds a lock."""
    assert not is_plain(value)


def test_dead_reference_is_no_trouble():
    """A proxy of an object that is gone raises on every touch; it is not touched."""
    holder = Mine(proxy=weakref.proxy(Mine()))

    assert is_plain(holder)
    assert not is_plain(vars(holder)["proxy"])
    assert list(referred(vars(holder)["proxy"])) == []


def test_slots_with_private_names_and_a_dictionary_below():
    """What is set is there, under the name it is stored with; what is not set is not."""
    below = Below()
    below.more = 3

    assert slots_of(below) == {"_Slotted__private": 2, "value": 1}
    assert vars_of(below) == {"more": 3}
    assert vars_of(3) == {}


def test_referred_goes_into_containers():
    """Items of every container; keys are names; attributes of a container's own class come first."""

    class Config(dict):
        pass

    config = Config(a=1)
    config.note = "x"

    assert list(referred({"k": 1})) == [1]
    assert list(referred(OrderedDict(k=2))) == [2]
    assert list(referred((1, 2))) == [1, 2]
    assert list(referred(deque([3]))) == [3]
    assert list(referred({4})) == [4]
    assert list(referred(config)) == ["x", 1]
    assert list(referred(list(range(5)), many=4)) == []
    assert list(referred("text")) == []


TEACHER = nn.Linear(1, 1)
NOISE = torch.Generator()
NUMBERS: list[int] = []


def helper() -> Any:
    return TEACHER


def loss(model: Any, batch: Any) -> Any:
    NUMBERS.append(1)
    return helper(), torch.rand(1, generator=NOISE), F(batch)


F = torch.nn.functional.relu


def test_functions_refer_to_modules_optimizers_and_generators():
    """By global name, through functions of the same package, in closures; never to lists or numbers."""
    optimizer, count = torch.optim.SGD(TEACHER.parameters()), [0]

    def closure() -> Any:
        count[0] += 1
        return optimizer, later

    assert list(referred(loss)) == [helper, NOISE]
    assert list(referred(helper)) == [TEACHER]
    assert list(referred(closure)) == [optimizer]
    later = 1
    assert later == 1


def test_methods_and_partials_refer_to_what_they_hold():
    """The object behind a bound method; function and arguments of a partial."""

    class Trainer:
        def loss(self) -> None: ...

    trainer = Trainer()

    assert next(iter(referred(trainer.loss))) is trainer
    assert list(referred(functools.partial(helper, 1, a=2))) == [helper, (1,), {"a": 2}]
