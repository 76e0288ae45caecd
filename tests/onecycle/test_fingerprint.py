"""What makes two runs the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lrfind import Workload
from onecycle import CheckpointError, OneCycle
from onecycle.fingerprint import fingerprint, refuse_other

Make = Callable[..., Workload]
SHAPE = OneCycle(None)


def test_it_is_plain_data(make: Make):
    """JSON, and torch with weights_only=True, give back what went in."""
    found = fingerprint(make("adamw-tensor-lr", groups=True), SHAPE, ema_decay=0.9)
    assert json.loads(json.dumps(found)) == found


def test_training_does_not_change_it(make: Make):
    """lr, momentum and betas[0] are the schedule's; what it moves is no other optimizer."""
    for optimizer in ("sgd", "adam"):
        work = make(optimizer)
        before = fingerprint(work, SHAPE, ema_decay=None)
        OneCycle(0.5, 10).scheduler(work.optimizer)
        work.step(next(iter([[batch] for batch in work.train_loader])))
        assert fingerprint(work, SHAPE, ema_decay=None) == before


def test_the_peak_and_the_length_are_compared_elsewhere(make: Make):
    """They have messages of their own."""
    one = fingerprint(make(), OneCycle(0.1, 10), ema_decay=None)
    assert one == fingerprint(make(), OneCycle(0.2, 20), ema_decay=None)


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ({"a": 1}, {"a": 2}, r"a was 1 and is 2"),
        ({"a": {"b": [1, {"c": 3}]}}, {"a": {"b": [1, {"c": 4}]}}, r"a b 1 c was 3 and is 4"),
        ({"a": 1}, {}, r"a was 1 and is absent"),
        ({}, {"a": 1}, r"a was absent and is 1"),
        ({"a": [1]}, {"a": [1, 2]}, r"a was \[1\] and is \[1, 2\]"),
    ],
)
def test_the_first_difference_is_named(then, now, message: str):
    """With the way to it, what it was and what it is."""
    with pytest.raises(CheckpointError, match=r"runs/x holds another run: " + message + r"\. Build the workload"):
        refuse_other(then, now, Path("runs/x"))
    refuse_other(then, then, Path("runs/x"))


def test_the_second_beta_counts(make: Make):
    """The cycle moves the first one only."""
    one, other = make("adam"), make("adam")
    other.optimizer.param_groups[0]["betas"] = (0.9, 0.98)
    with pytest.raises(CheckpointError, match=r"parameter groups 0 further betas 0 was 0.999 and is 0.98"):
        refuse_other(fingerprint(one, SHAPE, ema_decay=None), fingerprint(other, SHAPE, ema_decay=None), Path("runs/x"))


def test_modules_are_compared_by_kind(make: Make):
    """A net with another activation has the same weights and is another net."""
    one, other = make(), make()
    other.model.dropout = torch.nn.AlphaDropout(0.3)
    with pytest.raises(CheckpointError, match=r"modules dropout was Dropout and is AlphaDropout"):
        refuse_other(fingerprint(one, SHAPE, ema_decay=None), fingerprint(other, SHAPE, ema_decay=None), Path("runs/x"))
