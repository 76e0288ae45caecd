"""Tests of onecycle.look: which rates are swept, what that costs, and where pilots begin."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lrfind import LRCurve
from lrfind.curve import NoSuggestion
from lrfind.ranks import ALONE
from onecycle import look

FALLS = 2.0 - 1.8 / (1 + (0.03 / np.geomspace(1e-3, 10, 28)) ** 3)


def told(loss, start_lr=1e-3, end_lr=10.0, **settings) -> LRCurve:
    return LRCurve(np.geomspace(start_lr, end_lr, len(loss)), loss, "range end", **settings)


def scripted(monkeypatch, *curves) -> list[dict]:
    """Answer with these curves in turn, the last one for ever, and return what was asked."""
    asked: list[dict] = []

    def range_test(work, **settings):
        asked.append(settings)
        return curves[min(len(asked), len(curves)) - 1]

    monkeypatch.setattr(look, "range_test", range_test)
    return asked


def found(work, budget=130) -> look.Look:
    return look.look(work, budget, ALONE, progress=False)


@pytest.mark.parametrize(("optimizer", "usual"), [("sgd", 0.1), ("adamw", 0.01), ("rmsprop", 0.001), ("adagrad", 0.2)])
def test_sweeps_two_decades_on_either_side_of_the_usual(make, monkeypatch, optimizer, usual):
    """In 28 steps, whatever rate the optimizer comes with."""
    asked = scripted(monkeypatch, told(FALLS))

    found(make(optimizer))

    [sweep] = asked
    assert sweep["start_lr"] == pytest.approx(usual / 100)
    assert sweep["end_lr"] == pytest.approx(usual * 100)
    assert sweep["num_iter"] == 28


@pytest.mark.parametrize(("budget", "steps"), [(20, 12), (40, 14), (79, 27), (80, 28), (1000, 28)])
def test_sweeps_in_a_third_of_the_budget(make, monkeypatch, budget, steps):
    """At most 28 steps, and never fewer than 12."""
    asked = scripted(monkeypatch, told(FALLS))

    found(make("sgd"), budget)

    assert asked[0]["num_iter"] == steps


def test_looks_below_where_it_blew_up_at_once(make, monkeypatch):
    """From a hundred-thousandth of the usual rate up to where the first began; both cost; the second one answers."""
    below = told(2.0 - 1.8 / (1 + (3e-5 / np.geomspace(1e-6, 1e-3, 21)) ** 3), 1e-6, 1e-3)
    asked = scripted(monkeypatch, told(np.geomspace(2.3, 1e6, 8)), below)

    answer = found(make("sgd"))

    assert [sweep["num_iter"] for sweep in asked] == [28, 21]
    assert asked[1]["start_lr"] == pytest.approx(1e-6)
    assert asked[1]["end_lr"] == pytest.approx(1e-3)
    assert answer.curve is below
    assert answer.swept == below.suggest()
    assert answer.steps == 8 + 21


def test_a_second_sweep_without_an_answer_is_not_told_of(make, monkeypatch):
    """The first one's reason is given, which says at what rates it blew up."""
    first = told(np.geomspace(2.3, 1e6, 12))
    scripted(monkeypatch, first, told(np.full(21, 2.3), 1e-6, 1e-3))

    answer = found(make("sgd"))

    assert answer.curve is first
    assert answer.steps == 12 + 21
    with pytest.raises(NoSuggestion, match=r"blew up .* Sweep from a lower start_lr\. And more\.") as refused:
        answer.alone("And more.")
    assert refused.value.curve is first


@pytest.mark.parametrize("loss", [np.full(28, 2.3), FALLS, np.concatenate([np.full(17, 2.3), [1e9]])])
def test_looks_below_only_where_it_blew_up_at_once(make, monkeypatch, loss):
    """A loss that never moves, one that falls, and one that blows up late say nothing of rates below."""
    asked = scripted(monkeypatch, told(loss))

    found(make("sgd"))

    assert len(asked) == 1


@pytest.mark.parametrize("budget", [20, 30, 60, 130])
def test_both_sweeps_fit_into_the_budget(make, monkeypatch, budget):
    """However little there is."""
    asked = scripted(monkeypatch, told(np.geomspace(2.3, 1e6, 7)), told(np.full(21, 2.3)))

    answer = found(make("sgd"), budget)

    assert answer.steps <= 7 + sum(sweep["num_iter"] for sweep in asked[1:]) <= budget
    assert len(asked) == 2


def test_no_second_sweep_where_too_few_steps_are_left(make, monkeypatch):
    """On an accelerator, where losses come home in blocks, the first one may have taken most of a small budget."""
    asked = scripted(monkeypatch, told(np.geomspace(2.3, 1e6, 7)))
    monkeypatch.setattr(look, "steps_of", lambda curve, planned, block: 10)

    answer = found(make("sgd"), 20)

    assert len(asked) == 1
    assert answer.steps == 10


@pytest.mark.parametrize(("points", "block", "steps"), [(41, 1, 41), (41, 10, 50), (40, 10, 40), (87, 10, 88)])
def test_steps_behind_the_stop_count(points, block, steps):
    """On an accelerator losses come home ten at a time, and the steps after the one that stopped it were taken too."""
    assert look.steps_of(told(np.ones(points)), 88, block) == steps


@pytest.mark.parametrize(
    ("optimizer", "highest"), [("adamw", 0.1), ("rmsprop", 0.01), ("adagrad", 2.0), ("sgd", math.inf)]
)
def test_begins_no_higher_than_ten_times_the_usual(make, monkeypatch, optimizer, highest):
    """A range test that points to 8 misleads about an optimizer that scales its own steps, and about no other."""
    work = make(optimizer)
    late = told(2.0 - 1.8 / (1 + (20 / np.geomspace(1e-6, 100, 42)) ** 9), 1e-6, 100)
    scripted(monkeypatch, late)

    begin = found(work).begin(work.optimizer)

    assert late.suggest().lr > 2.0
    assert begin == pytest.approx(min(late.suggest().lr, highest))


@pytest.mark.parametrize(
    ("constant", "begin"), [(None, "swept"), (0.3, "swept"), (0.1, "halfway")], ids=["unknown", "beaten", "not beaten"]
)
def test_begins_halfway_to_the_usual_where_a_range_test_has_learned_nothing(make, monkeypatch, constant, begin):
    """Down to a constant prediction is no learning, wherever that fall points; a model without inputs falls so too."""
    work = make("sgd")
    lrs = np.geomspace(1e-6, 10, 42)
    curve = told(2.0 - 1.8 / (1 + (1e-4 / lrs) ** 3) + (lrs / 0.01) ** 2, 1e-6)  # falls at 1e-4, rises from 0.003 on
    if constant is not None:
        curve = replace(curve, facts=curve.facts | {"constant_loss": constant})
    scripted(monkeypatch, curve)
    swept = curve.suggest().lr

    first = found(work).begin(work.optimizer)

    assert swept < 1e-3
    assert first == pytest.approx({"swept": swept, "halfway": math.sqrt(swept * 0.1)}[begin])
