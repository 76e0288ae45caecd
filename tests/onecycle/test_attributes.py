"""Counters and generators that objects carry."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from onecycle.attributes import Attributes


class Holder:
    """Holds generators of every kind, nested, beside numbers."""

    def __init__(self) -> None:
        self.torch = torch.Generator().manual_seed(1)
        self.numpy = [np.random.default_rng(2), {"legacy": np.random.RandomState(3)}]
        self.python = random.Random(4)
        self.inner = SimpleNamespace(count=0, rate=0.5, name="x", flag=False, none=None)

    def draw(self) -> list[float]:
        """Draw from every generator."""
        return [
            float(torch.rand((), generator=self.torch)),
            float(self.numpy[0].random()),
            float(self.numpy[1]["legacy"].rand()),
            self.python.random(),
        ]


def test_generators_are_found_wherever_they_are_held():
    """Each goes on from where it was taken down."""
    holder = Holder()
    attributes = Attributes({"holder": holder})
    holder.draw()
    state = attributes.take()
    expected = holder.draw()
    attributes.put(state)
    assert holder.draw() == expected


def test_only_what_has_moved_is_kept():
    """A setting that a script changed between two attempts stays as the script says."""
    first, second = Holder(), Holder()
    attributes = Attributes({"holder": first})
    first.inner.count, first.inner.flag = 7, True
    state = attributes.take()
    assert state["values"] == {"holder.inner": {"count": 7, "flag": True}}
    second.inner.rate = 0.1
    Attributes({"holder": second}).put(state)
    assert vars(second.inner) == {"count": 7, "rate": 0.1, "name": "x", "flag": True, "none": None}


def test_what_has_not_moved_yet_goes_back_to_its_start():
    """Also an attribute that was not there, and one that a checkpoint brought."""
    holder = Holder()
    attributes = Attributes({"holder": holder})
    start = attributes.take()
    holder.inner.count, holder.inner.late = 5, 1
    later = attributes.take()
    attributes.put(start)
    assert holder.inner.count == 0
    assert not hasattr(holder.inner, "late")
    attributes.put(later)
    assert (holder.inner.count, holder.inner.late) == (5, 1)
    assert attributes.take()["values"] == later["values"]


def test_tensors_count_where_asked_for():
    """A hidden state is put back into a tensor of its own; a data set's tensors are left alone."""
    module = nn.Linear(2, 2)
    module.hidden = torch.zeros(3)
    attributes = Attributes({"model": module}, tensors=True)
    module.hidden = torch.ones(3)
    state = attributes.take()
    module.hidden = torch.full((3,), 2.0)
    attributes.put(state)
    assert torch.equal(module.hidden, torch.ones(3))
    module.hidden += 1
    assert torch.equal(state["values"]["model"]["hidden"], torch.ones(3))
    assert Attributes({"model": module}).take()["values"] == {}


def test_modes_and_handles_are_not_kept():
    """Train and eval mode are the run's to set, and a compiled forward stays."""
    module = nn.Linear(2, 2)
    module._compiled_call_impl = None
    attributes = Attributes({"model": module}, tensors=True)
    start = attributes.take()
    module.eval()
    module._compiled_call_impl = len
    assert attributes.take()["values"] == {}
    attributes.put(start)
    assert (module.training, module._compiled_call_impl) == (False, len)


def test_an_object_that_is_gone_is_named():
    """With the way to it."""
    holder = Holder()
    attributes = Attributes({"train_loader": SimpleNamespace(dataset=holder)})
    state = attributes.take()
    with pytest.raises(ValueError, match=r"got no train_loader.dataset.numpy.0, .*dataset.python.* Build them as they"):
        Attributes({"train_loader": SimpleNamespace()}).put(state)
