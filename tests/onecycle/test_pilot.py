"""Tests of onecycle.pilot: short cycles that differ in their peak alone."""

from __future__ import annotations

import gc
import math
import multiprocessing
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lrfind import preserve
from lrfind.batches import endless
from lrfind.progress import Bar
from onecycle.pilot import Pilot, repeated_groups, run_pilot
from onecycle.schedule import OneCycle

SHAPE = OneCycle(max_lr=None)
HIDDEN = Bar("pilots", 1, shown=False)


def pilot(work, start, max_lr=0.1, *, steps=12, groups=None, shape=SHAPE):
    return run_pilot(work, start, shape, max_lr, steps=steps, groups=groups, bar=HIDDEN)


def recorded(work, monkeypatch) -> list[tuple[list[Any], torch.Tensor]]:
    """Note the batches of each step, and the random state that it begins with."""
    seen: list[tuple[list[Any], torch.Tensor]] = []
    step = type(work).step

    def noting(self, group):
        seen.append(([part.clone() for batch in group for part in batch], torch.get_rng_state()))
        return step(self, group)

    monkeypatch.setattr(type(work), "step", noting)
    return seen


def equal(one, other) -> bool:
    return all(
        torch.equal(state, state_too) and all(map(torch.equal, parts, parts_too))
        for (parts, state), (parts_too, state_too) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("loader", ["shuffle", "generator", "stream", "list", "workers"])
@pytest.mark.parametrize("groups", [None, 3])
def test_paired(make, monkeypatch, loader, groups):
    """Pilots of any peak see the same batches with the same random numbers, and one tried again is the same."""
    work = make("adamw", loader)
    with preserve(work) as start:
        seen = recorded(work, monkeypatch)
        first = pilot(work, start, 0.01, groups=groups)
        low = list(seen)
        seen.clear()
        second = pilot(work, start, 0.03, groups=groups)

        assert equal(low, seen)
        assert second.train_loss != first.train_loss
        assert pilot(work, start, 0.01, groups=groups) == first


def test_reads_a_few_groups_over_and_over(make, monkeypatch):
    """With ``groups``, these first batches of the loader come again in the same order; else the pilot reads on."""
    work = make(loader="list", accumulation_steps=2)
    with preserve(work) as start:
        seen = recorded(work, monkeypatch)
        pilot(work, start, steps=5, groups=2)
        repeated = [parts for parts, _ in seen]
        seen.clear()
        pilot(work, start, steps=5)
        on = [parts for parts, _ in seen]

    expected = [[part for batch in group for part in batch] for group in islice(endless(work.batches(), 2), 5)]
    assert all(torch.equal(repeated[index][0], expected[index % 2][0]) for index in range(5))
    assert all(all(map(torch.equal, one, other)) for one, other in zip(on, expected, strict=True))


@pytest.mark.parametrize("shape", [SHAPE, OneCycle.smith(None), OneCycle(None, three_phase=True), OneCycle.fastai(1.0)])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd0", "adamw-tensor-lr", "rmsprop", "adagrad"])
def test_follows_the_shape_of_the_cycle(make, monkeypatch, optimizer, shape):
    """Each group's lr, step by step, is that of the whole cycle; without momentum there is no warning."""
    work = make(optimizer, groups=True)
    ratios = [0.003 / float(work.optimizer.param_groups[1]["lr"]), 1.0]
    cycle = replace(shape, max_lr=0.2, total_steps=12)
    lrs = []
    work.optimizer.register_step_pre_hook(
        lambda optimizer, *_: lrs.append([float(group["lr"]) for group in optimizer.param_groups])
    )
    with preserve(work) as start:
        pilot(work, start, 0.2, shape=shape)

    assert lrs == [pytest.approx([cycle.lr(step) * ratio for ratio in ratios], rel=1e-5) for step in range(12)]


def test_one_that_diverges_stops_early(make):
    """A peak of 1e4 costs fewer steps than planned, is infinitely bad, and has learned nothing."""
    work = make("sgd0")
    with preserve(work) as start:
        good, bad = pilot(work, start, 0.1, steps=60), pilot(work, start, 1e4, steps=60)

    assert good.steps == 60
    assert good.learned
    assert bad.steps < 60
    assert (bad.loss, bad.train_loss, bad.val_loss) == (math.inf, math.inf, math.inf)
    assert (good.failed, bad.failed, bad.learned) == (False, True, False)
    assert math.isfinite(bad.first_loss)


@pytest.mark.parametrize("val", [True, False])
def test_compared_by_validation_where_there_is_any(make, val):
    """The loss is that of the validation set at the end, and without one the mean of the last fifth of the steps."""
    work = make(val=val)
    losses: list[float] = []
    step = work.step

    def noting(group):
        result = step(group)
        losses.append(float(result.loss))
        return result

    with preserve(work) as start:
        work.step = noting
        result = pilot(work, start, steps=20)
        expected = work.evaluate(metrics=False)["loss"] if val else None

    assert result.first_loss == pytest.approx(sum(losses[:3]) / 3)
    assert result.train_loss == pytest.approx(sum(losses[-4:]) / 4)
    assert result.val_loss == expected
    assert result.loss == (expected if val else result.train_loss)


def test_validates_on_no_more_batches_than_it_has_read(make):
    """A validation set of 90 batches is read up to as many batches as the pilot has steps, and at least 10."""
    work = make()
    work.val_loader = list(zip(*(part.split(1) for part in work.train_loader.dataset.tensors), strict=True))
    read = []
    forward = work.forward
    work.forward = lambda batch, model=None: read.append(work.model.training) or forward(batch, model)
    with preserve(work) as start:
        for steps, expected in ((8, 10), (30, 30)):
            read.clear()
            pilot(work, start, steps=steps)
            assert read.count(False) == expected


def test_first_loss_passes_over_what_is_no_number(make, overflows):
    """One infinite loss among the first three is left out of the loss before learning; three make it infinite."""
    work = make("sgd0", val=False, grad_scaler=torch.amp.GradScaler("cpu"))
    for at, finite in (((0,), True), ((0, 1), True), (range(99), False)):
        work.criterion = overflows(at)
        with preserve(work) as start:
            result = pilot(work, start, steps=8)
        assert math.isfinite(result.first_loss) is finite
        assert math.isfinite(result.train_loss) is finite


@pytest.mark.parametrize("val", [True, False])
def test_without_learning(make, val):
    """Where nothing depends on the weights that move, no pilot has learned, noise between batches or not."""
    work = make(loader="shuffle", val=val)
    for parameter in work.model.parameters():
        parameter.requires_grad_(False)
    work.model.norm.momentum = 0.0
    shift = nn.Parameter(torch.zeros(()))
    work.optimizer.add_param_group({"params": [shift]})
    criterion = work.criterion
    work.criterion = lambda outputs, targets: criterion(outputs + shift, targets)
    with preserve(work) as start:
        assert not any(pilot(work, start, lr, steps=20).learned for lr in (1e-3, 1e-2, 0.1))


@given(
    st.integers(-100, 100),
    st.integers(-100, 100),
    st.integers(-100, 100),
    st.sampled_from([0.5, 2.0, 16.0]),
    st.integers(-50, 50),
)
def test_learned_by_heart_knows_no_unit(first, train, val, scale, shift):
    """loss -> a * loss + b says the same of a pilot (in numbers that are exact)."""

    def says(scale, shift):
        one = Pilot(0.1, 10, scale * first + shift, scale * train + shift, scale * val + shift, 5.0)
        return one.learned_by_heart(0.25)

    assert says(scale, float(shift)) == says(1.0, 0.0)


@pytest.mark.parametrize(
    ("first", "train", "val", "by_heart"),
    [
        (2.3, 0.3, 0.4, False),  # validation keeps up
        (2.3, 0.3, 1.0, True),
        (2.3, 0.3, 3.0, True),  # validation has become worse
        (2.3, 0.3, None, False),
        (2.30, 2.31, 2.31, False),  # nothing was learned at all
        (2.3, 2.3, 2.4, False),
        (2.3, math.inf, math.inf, False),
    ],
)
def test_learned_by_heart(first, train, val, by_heart):
    """By heart: the training loss fell, the validation loss by less than 80 % of that."""
    assert Pilot(0.1, 10, first, train, val, 5.0).learned_by_heart(0.2) is by_heart


@given(st.integers(1, 400), st.integers(8, 200), st.floats(1.5, 20))
def test_repeats_as_often_as_the_run(per_epoch, steps, times):
    """A pilot that repeats goes over its groups as often as the run goes over all of its own, within what whole
    groups allow."""
    total = int(steps * times)
    exact = steps * per_epoch / total

    groups = repeated_groups(per_epoch, steps=steps, total_steps=total)

    assert abs(groups - exact) <= 0.5 or (groups == 1 and exact < 1)


def test_an_error_lets_the_workers_go(make):
    """An error in a step, kept with its traceback, leaves no worker process running."""
    work = make(loader="workers")
    gc.collect()
    before = len(multiprocessing.active_children())
    with preserve(work) as start:
        work.criterion = nn.L1Loss()
        with pytest.raises(Exception) as kept:  # noqa: PT011
            pilot(work, start)
        assert kept.value.__traceback__ is not None
        assert len(multiprocessing.active_children()) == before


@pytest.mark.parametrize(
    ("loss", "fall_z", "learned", "failed"),
    [
        (0.5, 10.0, True, False),
        (0.5, 1.0, False, False),  # within the noise
        (0.5, -1.0, False, False),
        (5.0, -10.0, False, True),  # worse than before
        (math.inf, 10.0, True, True),  # a validation loss that is no number
        (math.inf, -math.inf, False, True),
        (0.5, math.nan, False, True),
    ],
)
def test_learned_and_failed(loss, fall_z, learned, failed):
    """Learned and failed are a fall and a rise beyond the noise; in between is neither."""
    one = Pilot(0.1, 10, 2.3, 1.0, loss, fall_z)

    assert (one.learned, one.failed) == (learned, failed)


def test_losses_in_blocks_change_nothing_but_when_it_stops(make, monkeypatch):
    """Read ten at a time, as on an accelerator: the same pilot; one that diverges takes up to nine steps more."""
    work = make(loader="list")
    with preserve(work) as start:
        one, wild = pilot(work, start, 0.01, steps=24), pilot(work, start, 1e4, steps=24)
        monkeypatch.setattr("onecycle.pilot._block", lambda work: 10)
        assert pilot(work, start, 0.01, steps=24) == one
        in_blocks = pilot(work, start, 1e4, steps=24)
    assert in_blocks.failed
    assert wild.failed
    assert wild.steps <= in_blocks.steps < wild.steps + 10
