"""Tests of onecycle.verdict: what is said of pilots whose losses are known."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from lrfind import LRCurve
from onecycle.ageing import ageing
from onecycle.epochs import too_high
from onecycle.pilot import Pilot, Validation
from onecycle.search import between
from onecycle.verdict import STREAM, _capacity, below_all, in_vain, losses_of, suggested

STEPS = 40
LRS = np.geomspace(1e-6, 10, 60)
SWEPT = LRCurve(LRS, 2.0 - 1.8 / (1 + (0.03 / LRS) ** 3), "range end").suggest()


def pilots(losses: dict[float, float], train: float = 0.2) -> list[Pilot]:
    """Return pilots in that order: peak to validation loss, from 2.0 at the start; inf where it diverged."""
    return [
        Pilot(lr, STEPS, 2.0, train, 9.0, 0.0, Validation(loss), Validation(2.0))
        if loss < math.inf
        else Pilot(lr, 5, 2.0, math.inf, -math.inf, math.inf, Validation(math.inf), Validation(2.0))
        for lr, loss in losses.items()
    ]


def said(work, losses, swept=SWEPT, total_steps=100, train=0.2):
    epochs = total_steps / (work.steps_per_epoch or total_steps)
    return suggested(pilots(losses, train), swept, work, total_steps=total_steps, epochs=epochs, rule="auto")


INSIDE = {0.1: 0.5, 0.3: 0.7, 0.03: 0.7}


def test_says_where_the_best_peak_lies(make):
    """As ``search.between`` does, with the range, the rule, and every group's rate; no warning."""
    found = said(make("adamw", groups=True), INSIDE)

    assert found.lr == pytest.approx(between(INSIDE, 2.0))
    assert found.rule == "auto"
    assert found.warnings == ()
    assert found.group_lrs[1] == pytest.approx(found.lr)
    assert re.fullmatch(
        r"3 pilots of 40 steps by validation loss \(0.03: 0.7, 0.1: 0.5, 0.3: 0.7\), "
        r"begun at 0.1, where a range test said \S+ and 0.01 is usual for AdamW",
        found.evidence,
    )


@pytest.mark.parametrize(
    ("first", "swept", "begun"),
    [
        (SWEPT.lr, SWEPT, f"begun at the {SWEPT.lr:.2g} of a range test"),
        (
            0.1,
            replace(SWEPT, lr=2.3),
            "begun at 0.1, where a range test said 2.3 and 0.1 is usual for SGD",
        ),
        (0.1, None, "without a range test"),
    ],
)
def test_says_where_pilots_began(make, first, swept, begun):
    """At what the range test said; elsewhere, where that cannot be or shows too little; at what is usual."""
    assert said(make(), {first: 0.5, 3 * first: 0.7, first / 3: 0.7}, swept).evidence.endswith(begun)


@pytest.mark.parametrize(("above", "most"), [(math.inf, 0.3), (1.9, math.inf)])
def test_keeps_away_from_a_cliff(make, above, most):
    """Where the next pilot above the best has failed, the pick is a quarter of a decade lower, and says so."""
    losses = {0.1: 0.5, 0.3: above}

    found = said(make(), losses)

    assert found.lr == pytest.approx(between(losses, 2.0) / 10**0.25)
    assert "; lowered from 0.094, since the next pilot above it diverged or learned far less" in found.evidence
    assert found.high == pytest.approx(min(most, found.lr * 10**0.9))


def test_lowers_once_for_a_cliff_and_for_many_epochs(make):
    """By the larger of the two."""
    work = make()
    losses = {0.1: 0.5, 0.3: math.inf}
    decades = too_high(240, wrong=0.0, left=0.95, capacity=_capacity(work))

    few, many = (said(work, losses, train=1.9, total_steps=epochs * work.steps_per_epoch) for epochs in (13, 240))

    assert decades > 0.25
    assert many.lr == pytest.approx(10 ** (-1.025 - decades))
    assert few.lr == pytest.approx(10 ** (-1.025 - 0.25))
    assert "for what 240 epochs learn by heart (its pilot leaves 95% of the training loss)" in many.evidence


@pytest.mark.parametrize(("optimizer", "moved"), [("sgd", None), ("adagrad", "raised"), ("rmsprop", "raised")])
def test_is_carried_over_to_the_length_of_the_run(make, optimizer, moved):
    """Where the optimizer's own steps shrink with their number, the run's peak is as much higher, and says so."""
    work = make(optimizer)
    age = ageing(work.optimizer, STEPS, 100)

    found = said(work, INSIDE)

    assert (age < 1) is (moved is not None)
    assert found.lr == pytest.approx(between(INSIDE, 2.0) / age)
    assert (f"{moved} from" in found.evidence) is (moved is not None)


@pytest.mark.parametrize(
    ("losses", "train", "decades"),
    [
        (INSIDE, 0.2, 1.2),
        ({0.1: 0.5, 0.3: 0.7, 1.0: 0.9}, 0.2, 1.7),  # the lowest peak tried is the best
        ({0.1: 0.7, 0.3: 0.5}, 0.2, 1.7),  # the highest
        (INSIDE, 1.9, 1.7),  # lowered for what many epochs learn by heart
    ],
)
def test_says_how_sure_it_is(make, losses, train, decades):
    """low..high is wider where the answer rests on the highest or lowest peak tried, or was lowered for many epochs."""
    work = make()

    found = said(work, losses, train=train, total_steps=60 * work.steps_per_epoch)

    assert math.log10(found.high / found.low) == pytest.approx(decades)


def test_the_range_ends_where_a_pilot_failed(make):
    """A peak that has been seen to fail is not in it."""
    assert said(make(), {0.1: 0.5, 0.3: 0.6, 0.5: math.inf, 0.03: 0.9}).high == 0.5


@pytest.mark.parametrize(("losses", "warned"), [(INSIDE, False), ({0.1: 0.5, 0.3: 0.7}, True)])
def test_warns_without_a_range_test_unless_pilots_bracket_the_answer(make, losses, warned):
    """Pilots that did worse on both sides of the best are an answer of their own."""
    found = said(make("sgd"), losses, swept=None)

    assert [*found.warnings] == warned * [
        "The range test gave no answer; the pilots began at 0.1, where 0.1 is usual for SGD. "
        "Look at its curve before a long run."
    ]


def test_warns_of_a_stream(make):
    """Whose batches no second pilot can see again."""
    work = make()
    work.train_loader = iter(list(work.train_loader))

    assert said(work, INSIDE).warnings == (STREAM,)


def test_counts_the_parameters_for_each_sample(make):
    """Those that train, over the samples of an epoch; unknown where a loader has no length."""
    work = make("sgd")
    samples = work.steps_per_epoch * work.batch_size
    weights = sum(weight.numel() for weight in work.model.parameters())

    assert _capacity(work) == pytest.approx(weights / samples)
    next(work.model.parameters()).requires_grad_(False)
    assert _capacity(work) < weights / samples
    assert _capacity(make("sgd", loader="stream")) == math.inf


@pytest.mark.parametrize(
    ("losses", "swept", "outcome"),
    [
        ({0.1: math.inf, 0.03: math.inf}, SWEPT, "All of them diverged"),
        ({0.1: 1.999, 0.03: 1.999}, None, "None of them learned"),
    ],
)
def test_no_answer(make, losses, swept, outcome):
    """Where all failed, or neither range test nor pilots have learned anything."""
    given = [replace(pilot, fall_z=min(pilot.fall_z, 1.0)) for pilot in pilots(losses)]

    assert suggested(given, swept, make(), total_steps=100, epochs=5, rule="auto") is None
    assert in_vain(given) == f"Then 2 pilots tried peaks from 0.03 to 0.1. {outcome}."


def test_below_all_that_failed():
    """Half a decade below the lowest, or what the range test said where that is lower still."""
    failed = pilots({0.1: math.inf, 0.03: math.inf})
    assert set(losses_of(failed).values()) == {math.inf}

    lowered, kept = (below_all(failed, replace(SWEPT, lr=lr, low=lr / 2)) for lr in (0.1, 0.001))

    assert (lowered.lr, lowered.high) == (pytest.approx(0.03 / 10**0.5), 0.03)
    assert lowered.low <= lowered.lr
    assert (kept.lr, kept.low) == (0.001, pytest.approx(0.001 / 10**0.45))
    assert "from a peak of 0.03 up, where the range test said 0.1" in lowered.warnings[-1]
    assert lowered.evidence.endswith("; lowered from 0.1, since 2 pilots failed")
