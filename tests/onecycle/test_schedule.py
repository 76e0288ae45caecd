"""Tests of onecycle.schedule: the cycle as a value."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import OneCycleLR as TorchOneCycleLR

from onecycle import OneCycle

SHAPES = [
    {},
    {"anneal_strategy": "linear"},
    {"three_phase": True},
    {"three_phase": True, "anneal_strategy": "linear"},
    {"pct_flat": 0.1},
    {"three_phase": True, "pct_flat": 0.25, "anneal_strategy": "linear"},
]


def lr_and_momentum_of_torch(cycle: OneCycle) -> list[tuple[float, float]]:
    """What torch's own scheduler sets at each step of the run."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    settings = asdict(cycle)
    del settings["pct_flat"]
    scheduler = TorchOneCycleLR(optimizer, **settings)
    values = []
    for step in range(cycle.total_steps):
        if step == 0:
            optimizer.step()
        else:
            scheduler.step()
        values.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
    return values


@st.composite
def cycles(draw: st.DrawFn) -> OneCycle:
    """Any cycle that torch's arguments can say, whole numbers of warm-up steps as likely as others."""
    total_steps = draw(st.integers(1, 300))
    three_phase = draw(st.booleans())
    pct_start = draw(
        st.floats(0, 0.499 if three_phase else 1) | st.integers(0, total_steps).map(lambda steps: steps / total_steps)
    )
    assume(not three_phase or pct_start < 0.5)
    base, top = sorted(draw(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999))))
    return OneCycle(
        draw(st.floats(1e-8, 1e3)),
        total_steps,
        pct_start=pct_start,
        anneal_strategy=draw(st.sampled_from(["cos", "linear"])),
        base_momentum=base,
        max_momentum=top,
        div_factor=draw(st.floats(0.1, 1e4)),
        final_div_factor=draw(st.floats(0.1, 1e6)),
        three_phase=three_phase,
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cycles())
def test_equals_torch_bit_for_bit(cycle):
    """Every lr and momentum of a run is the very number torch's scheduler sets, wherever torch has one."""
    try:
        expected = lr_and_momentum_of_torch(cycle)
    except ZeroDivisionError:
        assume(False)
    assert [(cycle.lr(step), cycle.momentum(step)) for step in range(cycle.total_steps)] == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("total_steps", [1, 2, 3, 7, 10, 50])
def test_arrays_hold_every_step(shape, total_steps):
    """lrs() and momentums() are lr(step) and momentum(step) for all steps, as float64."""
    cycle = OneCycle(0.5, total_steps, **shape)

    assert cycle.lrs().tolist() == [cycle.lr(step) for step in range(total_steps)]
    assert cycle.momentums().tolist() == [cycle.momentum(step) for step in range(total_steps)]
    assert cycle.lrs().dtype == np.float64


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("total_steps", [2, 7, 10, 50])
def test_past_the_end_holds_the_last_step(shape, total_steps):
    """After the end lr stays at min_lr and momentum at max_momentum, however far."""
    cycle = OneCycle(0.5, total_steps, **shape)

    for step in (total_steps, total_steps + 1, 10**9):
        assert cycle.lr(step) == cycle.lr(total_steps - 1) == pytest.approx(cycle.min_lr, abs=1e-16)
        assert cycle.momentum(step) == cycle.momentum(total_steps - 1) == pytest.approx(0.95)


@pytest.mark.parametrize("step", [-1, -0.5, math.nan])
def test_a_negative_step_is_refused(step):
    """There is nothing before step 0, and NaN is not a step."""
    with pytest.raises(ValueError, match=rf"at least 0, the first step; got {step}"):
        OneCycle(0.5, 10).lr(step)


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_no_setting_divides_by_zero(three_phase, strategy):
    """Each pct_start and length up to 50 has an lr in 0 .. max_lr at each step, where torch raises at construction."""
    torch_raised = 0
    for total_steps in range(1, 51):
        for pct_start in (0.0, 0.01, 1 / total_steps, 2 / total_steps, 0.25, 0.49, 0.5, 0.9, 1.0):
            if pct_start > 1 or (three_phase and pct_start >= 0.5):
                continue
            cycle = OneCycle(1.0, total_steps, pct_start=pct_start, three_phase=three_phase, anneal_strategy=strategy)
            assert all(0 <= cycle.lr(step) <= 1 for step in range(total_steps + 2)), cycle
            try:
                lr_and_momentum_of_torch(cycle)
            except ZeroDivisionError:
                torch_raised += 1
    assert torch_raised >= 45


@pytest.mark.parametrize(("total_steps", "pct_start"), [(10, 0.1), (100, 0.01), (2, 0.5), (1, 1.0)])
def test_a_warm_up_without_width_starts_at_the_peak(total_steps, pct_start):
    """pct_start * total_steps == 1 leaves the warm-up one step: the peak."""
    cycle = OneCycle(0.3, total_steps, pct_start=pct_start)

    assert cycle.lr(0) == 0.3
    assert cycle.momentum(0) == 0.85


def test_all_warm_up_ends_at_the_peak():
    """pct_start=1 rises to max_lr at the last step; only past the end it falls to min_lr."""
    cycle = OneCycle(0.3, 10, pct_start=1)

    assert (cycle.lr(9), cycle.lr(10)) == (0.3, cycle.min_lr)
    assert cycle.lrs().tolist() == sorted(cycle.lrs())


@pytest.mark.parametrize(("total_steps", "largest"), [(10, 1.0), (7, 0.981), (100, 1.0)])
def test_the_peak_is_met_where_it_falls_on_a_step(total_steps, largest):
    """max_lr is an lr of the run if pct_start * total_steps is whole; else the largest is below, as in torch."""
    assert OneCycle(1.0, total_steps).lrs().max() == pytest.approx(largest, abs=5e-4)


def test_momentum_mirrors_the_lr():
    """Momentum is highest where the lr is lowest, and base_momentum at the peak."""
    cycle = OneCycle(1.0, 100, anneal_strategy="linear", final_div_factor=1.0)
    lr_share = (cycle.lrs() - cycle.min_lr) / (1.0 - cycle.min_lr)
    momentum_share = (cycle.momentums() - 0.85) / 0.1

    np.testing.assert_allclose(lr_share + momentum_share, 1, atol=1e-12)


def test_momentum_that_is_not_cycled_is_none():
    """cycle_momentum=False says nothing of momentum, whose bounds are then not looked at."""
    cycle = OneCycle(1.0, 10, cycle_momentum=False, base_momentum=2.0)

    assert cycle.momentum(3) is None
    assert cycle.momentums() is None


@given(st.integers(-20, 20))
def test_lrs_scale_with_max_lr(exponent):
    """A max_lr 2**k times as large gives lrs 2**k times as large, exactly."""
    scale = 2.0**exponent
    assert (OneCycle(0.3 * scale, 50).lrs() == OneCycle(0.3, 50).lrs() * scale).all()


def test_three_phases_fall_as_they_rose():
    """The fall of a three-phase cycle is its rise backwards; then it goes on to min_lr."""
    cycle = OneCycle(1.0, 20, three_phase=True, pct_start=0.4, anneal_strategy="linear")
    lrs = cycle.lrs()

    np.testing.assert_allclose(lrs[7:15], lrs[7::-1], rtol=1e-12)
    assert [phase.name for phase in cycle.phases] == ["warm-up", "anneal-down", "annihilation"]
    assert lrs[-1] == pytest.approx(cycle.min_lr, abs=1e-16)


@pytest.mark.parametrize("shape", SHAPES)
def test_phases_follow_one_another(shape):
    """Each phase begins where, and at the levels that, the one before ended; the last one ends with the run."""
    phases = OneCycle(1.0, 60, **shape).phases

    assert phases[0].start == 0
    assert phases[-1].end == pytest.approx(59)
    for before, after in pairwise(phases):
        assert (before.end, before.end_lr, before.end_momentum) == (after.start, after.start_lr, after.start_momentum)


# lr and momentum by iteration, from the wide-resnet log of github.com/lnsmith54/hyperParam1 (max_iter 4882).
SMITHS_LOG = [
    (0, 0.1, 0.95),
    (200, 0.180142, 0.941095),
    (1000, 0.500712, 0.905476),
    (2200, 0.981567, 0.852048),
    (2400, 0.931434, 0.856857),
    (3400, 0.486198, 0.90138),
    (4200, 0.130009, 0.936999),
    (4400, 0.0409617, 0.945904),
    (4600, 0.0001, 0.947596),
    (4800, 0.0001, 0.943143),
]


@pytest.mark.parametrize(("step", "lr", "momentum"), SMITHS_LOG)
def test_smiths_cycle_follows_his_log(step, lr, momentum):
    """lr to 0.1 % of max_lr; momentum too but for the flat end, where his drifts down again by 0.007."""
    cycle = OneCycle.smith(max_lr=1.0, total_steps=4882)

    assert cycle.lr(step) == pytest.approx(lr, abs=1e-3)
    assert cycle.momentum(step) == pytest.approx(momentum, abs=1e-4 if step < 4500 else 7e-3)


def test_smiths_cycle_falls_straight_through_its_start():
    """The fall does not slow down at initial_lr, which is what three_phase=True does; then the end is flat."""
    cycle = OneCycle.smith(max_lr=1.0, total_steps=100)
    lrs = cycle.lrs()

    np.testing.assert_allclose(np.diff(lrs[45:92]), -(1.0 - 1e-4) / 46, rtol=1e-9)
    assert lrs[90] < cycle.initial_lr
    np.testing.assert_allclose(lrs[91:], 1e-4, rtol=1e-9)


def test_fastais_cycle_has_its_defaults():
    """div 25 and div_final 1e5 both divide max_lr; the peak is at a quarter."""
    cycle = OneCycle.fastai(max_lr=0.4, total_steps=100)

    assert cycle.initial_lr == pytest.approx(0.4 / 25)
    assert cycle.min_lr == pytest.approx(0.4 / 1e5)
    assert cycle.lrs().argmax() == 24
    assert (cycle.momentum(0), cycle.momentum(24), cycle.momentum(99)) == (0.95, 0.85, 0.95)


@pytest.mark.parametrize("preset", [OneCycle.smith, OneCycle.fastai])
def test_presets_can_be_changed(preset):
    """A preset is a OneCycle like any other: dataclasses.replace changes what should differ."""
    cycle = replace(preset(0.4), total_steps=100, div_factor=5)

    assert cycle.lr(0) == pytest.approx(0.4 / 5)


class Measured:
    """Something that is a number for float(), as a Suggestion is."""

    def __float__(self) -> float:
        return 0.25


@pytest.mark.parametrize("given_lr", [0.25, Measured(), torch.tensor(0.25), torch.tensor([0.25]), np.float32(0.25)])
def test_anything_that_float_takes_is_a_max_lr(given_lr):
    """A suggestion, tensor or numpy number is kept as the plain float it stands for."""
    max_lr = OneCycle(given_lr, 10).max_lr

    assert type(max_lr) is float
    assert max_lr == 0.25


def test_a_list_has_a_peak_per_group():
    """Each group has its own cycle; without a group the largest speaks."""
    cycle = OneCycle([0.1, Measured(), 0], 10, base_momentum=[0.8, 0.7, 0.6])

    assert cycle.lrs(group=0).tolist() == OneCycle(0.1, 10).lrs().tolist()
    assert cycle.lrs().tolist() == cycle.lrs(group=1).tolist() == OneCycle(0.25, 10).lrs().tolist()
    assert cycle.lrs(group=2).tolist() == [0] * 10
    assert (cycle.initial_lr, cycle.momentum(2), cycle.momentum(2, group=2)) == (0.01, 0.7, 0.6)
    with pytest.raises(ValueError, match=r"group must be in 0 \.\. 2.*got 3"):
        cycle.lr(0, group=3)


def test_a_cycle_without_length_is_a_shape():
    """It can be made, kept and completed; asking it for a step says what is missing."""
    shape = OneCycle(1.0, pct_start=0.2)

    for use in (lambda: shape.lr(0), shape.lrs, shape.momentums, lambda: shape.phases):
        with pytest.raises(ValueError, match=r"total_steps is not set. Give total_steps"):
            use()
    assert replace(shape, max_lr=0.5, total_steps=100) == OneCycle(0.5, 100, pct_start=0.2)


def test_a_cycle_without_a_peak_is_a_shape():
    """max_lr=None is a peak to be chosen; presets have it too; asking for an lr says what is missing."""
    shape = OneCycle.smith(None, 100)

    for use in (lambda: shape.lr(0), shape.lrs, lambda: shape.min_lr, lambda: shape.peaks):
        with pytest.raises(ValueError, match=r"max_lr is None. Give max_lr"):
            use()
    assert shape.momentum(0) == 0.95
    assert replace(shape, max_lr=0.5) == OneCycle.smith(0.5, 100)


def test_length_can_be_epochs():
    """epochs * steps_per_epoch is total_steps, numpy counts included."""
    assert OneCycle(1.0, epochs=3, steps_per_epoch=np.int64(7)) == OneCycle(1.0, 21)
    assert OneCycle(1.0, 21, epochs=3, steps_per_epoch=7) == OneCycle(1.0, 21)


def test_a_cycle_is_a_value():
    """Equal settings are equal and hash alike; copies, pickles and JSON come back equal; nothing can be set."""
    cycle = OneCycle([0.1, 0.2], 50, three_phase=True)
    cycle.lrs()

    assert cycle == OneCycle((0.1, 0.2), 50, three_phase=True) != OneCycle([0.1, 0.2], 51, three_phase=True)
    assert len({cycle, copy.deepcopy(cycle), pickle.loads(pickle.dumps(cycle))}) == 1
    assert OneCycle(**json.loads(json.dumps(asdict(cycle)))) == cycle
    with pytest.raises(AttributeError, match="max_lr"):
        cycle.max_lr = 1.0


BAD = [
    ({"max_lr": 0}, r"max_lr must be above 0 and finite.*got 0\."),
    ({"max_lr": -0.1}, r"max_lr must be above 0.*got -0\.1"),
    ({"max_lr": math.nan}, r"max_lr must be above 0.*got nan"),
    ({"max_lr": math.inf}, r"max_lr must be above 0.*got inf"),
    ({"max_lr": [0.1, -1]}, r"max_lr must be above 0.*got \[0\.1, -1\]"),
    ({"max_lr": [0, 0]}, r"in a list: none below 0, at least one above"),
    ({"max_lr": []}, r"max_lr must be a number, or a list.*got \[\]"),
    ({"max_lr": "auto"}, r"max_lr must be a number, or a list.*got 'auto'"),
    ({"max_lr": torch.ones(2)}, r"max_lr must be a number, or a list.*got tensor"),
    ({"max_lr": [0.1, None]}, r"max_lr must be a number, or a list.*got \[0\.1, None\]"),
    ({"total_steps": 0}, r"total_steps must be a whole number, at least 1; got 0"),
    ({"total_steps": -3}, r"total_steps must be a whole number, at least 1; got -3"),
    ({"total_steps": 10.0}, r"total_steps must be a whole number, at least 1; got 10\.0"),
    ({"total_steps": None, "epochs": 2, "steps_per_epoch": 0}, r"steps_per_epoch must be a whole number.*got 0"),
    ({"total_steps": None, "epochs": 2}, r"epochs and steps_per_epoch go together; got epochs=2, steps_per_epoch=None"),
    ({"epochs": 2, "steps_per_epoch": 3}, r"got total_steps=10, epochs=2, steps_per_epoch=3\. Give one or the other"),
    ({"pct_start": -0.1}, r"pct_start must be in 0 \.\. 1.*got -0\.1"),
    ({"pct_start": 30}, r"pct_start must be in 0 \.\. 1.*got 30\.0"),
    ({"pct_start": math.nan}, r"pct_start must be in 0 \.\. 1.*got nan"),
    ({"pct_flat": 1.0}, r"pct_flat must be at least 0 and below 1.*got 1\.0"),
    ({"pct_flat": math.nan}, r"pct_flat must be at least 0 and below 1.*got nan"),
    (
        {"pct_flat": 0.5, "pct_start": 0.6},
        r"pct_start \+ pct_flat must be at most 1; got pct_start=0\.6, pct_flat=0\.5",
    ),
    ({"three_phase": True, "pct_start": 0.5}, r"three_phase needs pct_start below 0\.5: rising and falling .*=0\.5"),
    ({"three_phase": True, "pct_start": 0.8}, r"three_phase needs pct_start below 0\.5.*=0\.8. Lower pct_start"),
    ({"three_phase": True, "pct_start": 0.45, "pct_flat": 0.1}, r"three_phase needs pct_start below 0\.45"),
    ({"anneal_strategy": "CATS"}, r"anneal_strategy must be 'cos' or 'linear'; got 'CATS'"),
    ({"div_factor": 0}, r"div_factor must be above 0 and finite.*got 0\.0"),
    ({"div_factor": math.nan}, r"div_factor must be above 0.*got nan"),
    ({"final_div_factor": -1}, r"final_div_factor must be above 0.*got -1\.0"),
    ({"final_div_factor": math.inf}, r"final_div_factor must be above 0 and finite.*got inf"),
    ({"base_momentum": -0.1}, r"momentum must be in 0 <= .*got base_momentum=-0\.1, max_momentum=0\.95"),
    ({"max_momentum": 1.0}, r"momentum must be in .*got base_momentum=0\.85, max_momentum=1\.0"),
    ({"max_momentum": math.nan}, r"momentum must be in .*max_momentum=nan"),
    ({"base_momentum": 0.95, "max_momentum": 0.85}, r"got base_momentum=0\.95, max_momentum=0\.85\. Swap them"),
    ({"base_momentum": "0.9"}, r"base_momentum must be a number, or a list.*got '0\.9'"),
    ({"max_lr": [0.1, 0.2], "base_momentum": [0.8, 0.8, 0.8]}, r"same length; got lengths .*'base_momentum': 3"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_a_value_out_of_range_is_refused_at_construction(settings, message):
    """The error says what is allowed, what was given and what to do; NaN never passes."""
    with pytest.raises(ValueError, match=message):
        OneCycle(**{"max_lr": 0.1, "total_steps": 10, **settings})
