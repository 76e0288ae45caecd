"""Tests of onecycle.search: which peak is tried next and which is taken, on losses that are known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from onecycle.search import CAUTION, LITTLE, LITTLE_TIE, STEP, between, climb, leader, lowest, near_cliff

LOSS = st.one_of(st.floats(-1e6, 1e6), st.just(math.inf))
PEAK = st.floats(1e-5, 10.0)
TRIED = st.dictionaries(st.integers(-20, 4), st.integers(1, 64), min_size=1, max_size=6)


@given(PEAK, st.integers(1, 12), st.lists(LOSS, min_size=12, max_size=12))
def test_climb_tries_no_more_than_it_may(start, most, losses):
    """Whatever comes back: at least one peak and at most ``most``, the start first, all positive and apart, and what
    is reported is what was asked."""
    asked = []

    def loss_at(lr):
        asked.append(lr)
        return losses[len(asked) - 1]

    tried = climb(loss_at, start, most)

    assert 1 <= len(asked) <= most
    assert asked[0] == start
    assert list(tried.items()) == list(zip(asked, losses, strict=False))
    assert all(0 < lr < math.inf for lr in asked)
    apart = sorted(map(math.log10, asked))
    assert all(above - below > 0.09 for below, above in pairwise(apart))


@given(st.floats(-4, 1), st.floats(-4, 1), st.floats(0.2, 5), st.floats(0.2, 5), st.booleans())
def test_climb_finds_the_bottom(start, bottom, left, right, cliff):
    """With tries enough, the best peak tried of a curve with one bottom is within half a decade of it, also where the
    other side is a cliff."""

    def loss_at(lr):
        away = math.log10(lr) - bottom
        if cliff and away > 0.6:
            return math.inf
        return left * -away if away < 0 else right * away

    tried = climb(loss_at, 10**start, most=20)

    assert abs(math.log10(lowest(tried)) - bottom) <= STEP


@given(PEAK, st.integers(2, 8))
def test_climb_goes_down_while_all_diverges(start, most):
    """From a start that diverges, and as long as everything does, each peak is half a decade below the last."""
    tried = list(climb(lambda _: math.inf, start, most))

    assert tried == pytest.approx([start / 10 ** (STEP * index) for index in range(most)])


@given(PEAK, st.integers(0, 4))
def test_climb_stops_when_no_more_may_be_tried(start, most):
    """A loss of None ends the search; what was tried before counts."""
    left = iter([0.9, 0.8, 0.7, 0.6, 0.5][:most])

    assert len(climb(lambda _: next(left, None), start, 9)) == most


def test_climb_goes_down_a_plateau():
    """Equal losses are one plateau, whose lower end is the safer one: one look above, then down."""
    assert [round(math.log10(lr), 2) for lr in climb(lambda _: 0.7, 1.0, 4)] == [0.0, 0.5, -0.5, -1.0]


@given(st.lists(st.integers(-50, 50), min_size=10, max_size=10), st.sampled_from([0.5, 2.0, 8.0]), st.integers(-9, 9))
def test_climb_knows_no_unit_of_loss(losses, scale, shift):
    """loss -> a * loss + b tries the same peaks (in numbers that are exact)."""

    def tried(loss_of):
        values = iter(losses)
        return list(climb(lambda _: loss_of(next(values)), 0.1, 10))

    assert tried(float) == tried(lambda loss: scale * loss + shift)


@given(st.lists(st.integers(-50, 50), min_size=6, max_size=6), st.floats(1e-3, 1e3))
def test_climb_knows_no_unit_of_lr(losses, factor):
    """lr -> c * lr moves every peak by that factor."""

    def tried(start):
        values = iter(losses)
        return list(climb(lambda _: float(next(values)), start, 6))

    assert tried(0.1 * factor) == pytest.approx([factor * lr for lr in tried(0.1)], rel=1e-9)


def test_lowest_takes_the_lower_peak_of_equals():
    """Of equal losses, in whatever order they were tried, the lower peak; among infinite ones too."""
    assert lowest({1.0: 0.5, 0.1: 0.5, 0.3: 0.6}) == 0.1
    assert lowest({1.0: math.inf, 0.1: math.inf}) == 0.1


@given(TRIED, st.integers(1, 100))
@example({0: 5, -1: 5}, 1)
def test_leader_has_the_lowest_loss(tried, start):
    """Where something was learned: the lowest loss there is, the lower peak of equals."""
    losses = {10.0**power: float(loss) for power, loss in tried.items()}
    assume(start - min(losses.values()) >= LITTLE * start)

    assert leader(losses, float(start)) == lowest(losses)


@given(st.dictionaries(st.integers(-20, 4), st.floats(86, 120), min_size=1, max_size=6))
def test_leader_is_the_highest_of_equals_where_hardly_anything_was_learned(tried):
    """Where no loss has fallen by 15 %, or all rose: at least the lowest-loss peak, and to within 1 % of the start
    of the same loss."""
    losses = {10.0**power: loss for power, loss in tried.items()}
    pick, best = leader(losses, 100.0), lowest(losses)

    assert pick >= best
    assert losses[pick] <= losses[best] + LITTLE_TIE * 100.0
    assert between(losses, 100.0) == pick


@given(TRIED, st.integers(65, 100))
def test_between_lies_among_the_peaks_tried(tried, start):
    """Never above the highest, nor below the lowest by more than the caution."""
    losses = {10.0**power: float(loss) for power, loss in tried.items()}
    assume(start - min(losses.values()) >= LITTLE * start)
    answer = math.log10(between(losses, float(start))) + CAUTION

    assert math.log10(min(losses)) - 1e-9 <= answer <= math.log10(max(losses)) + 1e-9


@given(TRIED, st.integers(1, 100), st.integers(-20, 4))
def test_a_failed_peak_moves_nothing(tried, start, failed):
    """An infinite loss has no weight."""
    losses = {10.0**power: float(loss) for power, loss in tried.items() if power != failed}
    assume(losses)

    assert between(losses | {10.0**failed: math.inf}, start) == between(losses, start)


@given(TRIED, st.integers(1, 100), st.sampled_from([0.25, 2.0, 1024.0]))
def test_answers_know_no_scale(tried, start, scale):
    """loss -> a * loss gives the same peaks and sees the same cliff."""
    losses = {10.0**power: float(loss) for power, loss in tried.items()}
    scaled = {lr: scale * loss for lr, loss in losses.items()}
    best = leader(losses, start)

    assert leader(scaled, scale * start) == best
    assert between(scaled, scale * start) == pytest.approx(between(losses, start))
    assert near_cliff(scaled, best, scale * start) == near_cliff(losses, best, start)


@pytest.mark.parametrize(
    ("losses", "start", "best", "answer"),
    [
        ({0.1: math.inf, 0.3: math.inf}, 1.0, 0.1, 0.1),  # nothing to go by: the lower
        ({0.1: math.inf, 0.03: 0.9}, 1.0, 0.03, 0.03),
        ({0.1: 1.5, 0.3: 1.4}, 1.0, 0.3, 0.3),  # worse than untrained: no fall to share
        ({0.1: 1.4, 0.3: 1.405}, 1.0, 0.3, 0.3),  # the same, and equal
        ({0.1: 0.9, 0.3: 0.4, 0.03: math.inf}, math.inf, 0.3, 0.3 / 10**0.025),  # a start that is no number
        ({0.1: 0.5, 0.3: 0.4, 0.03: 0.9}, math.nan, 0.3, 0.3),
        ({0.1: 0.2}, 1.0, 0.1, 10**-1.025),  # alone
        ({0.1: 0.01, 1.0: 0.9, 0.01: 0.95}, 1.0, 0.1, 10**-1.025),  # far better than the rest
        ({0.1: 0.01, 1.0: 0.01, 0.01: 0.95}, 1.0, 0.1, 10**-0.525),  # two that are
        ({0.1: 0.5, 1.0: 0.5}, 1.0, 0.1, 10**-0.525),  # halfway, less a fortieth of a decade
        ({0.1: 0.525, 1.0: 0.5}, 1.0, 1.0, 10 ** (-1 / (math.e + 1) - 0.025)),  # a twentieth of the fall worse
        ({0.1: 0.105, 1.0: 0.1}, 1.0, 1.0, 10 ** (-1 / (math.e + 1) - 0.025)),  # a twentieth of the loss worse
        ({0.1: -0.95, 1.0: -1.0}, 0.0, 1.0, 10 ** (-1 / (math.e + 1) - 0.025)),
        ({0.1: 0.97, 0.3: 0.965, 1.0: 0.972, 3.0: 0.98}, 1.0, 1.0, 1.0),  # hardly anything was learned
    ],
)
def test_golden_answers(losses, start, best, answer):
    """Infinite losses, starts that are no number, and pilots that made it worse have an answer as well."""
    assert leader(losses, start) == best
    assert between(losses, start) == pytest.approx(answer)


@pytest.mark.parametrize(
    ("losses", "near"),
    [
        ({0.1: 0.5}, False),  # nothing above
        ({0.1: 0.5, 0.03: math.inf}, False),  # below does not count
        ({0.1: 0.5, 0.3: 0.6}, False),
        ({0.1: 0.5, 0.3: 0.74}, False),  # 0.26 of a fall of 0.5 are left
        ({0.1: 0.5, 0.3: 0.76}, True),
        ({0.1: 0.5, 0.3: math.inf}, True),
        ({0.1: 0.5, 0.2: 0.6, 0.3: math.inf}, False),  # the next above holds
    ],
)
def test_near_cliff(losses, near):
    """The next peak above has failed where less than half of the best fall, from 1.0, is left."""
    assert near_cliff(losses, 0.1, 1.0) is near


@pytest.mark.parametrize(("above", "near"), [(0.99, False), (1.5, False), (math.inf, True)])
def test_where_hardly_anything_was_learned_only_a_failure_is_a_cliff(above, near):
    """Of a fall by 5 % nobody can lose half."""
    assert near_cliff({0.1: 0.95, 0.3: above}, 0.1, 1.0) is near
