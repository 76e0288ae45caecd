"""What a search may ask for next."""

from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from onecycle.search import climb
from onecycle.speculation import upcoming

outcomes = st.one_of(st.floats(0.01, 10.0), st.just(math.inf))


def search(loss_at: Callable[[float], float | None]) -> dict[float, float]:
    """Return what a climb from 0.1 tries."""
    return climb(loss_at, 0.1, most=5)


@given(st.lists(outcomes, min_size=8, max_size=8), st.integers(1, 6))
def test_a_search_answered_in_rounds_tries_what_it_tries_alone(losses: list[float], count: int) -> None:
    """Whatever the losses, the path is the same as one after another, in no more rounds than peaks."""
    answers: dict[float, float] = {}

    def loss_of(max_lr: float) -> float:
        return losses[round(math.log10(max_lr) * 8) % len(losses)]

    def loss_at(max_lr: float) -> float:
        nonlocal rounds
        if max_lr not in answers:
            rounds += 1
            peaks = upcoming(search, answers, count)
            assert peaks[0] == max_lr
            assert len(set(peaks)) == len(peaks) <= count
            answers.update({peak: loss_of(peak) for peak in peaks})
        return answers[max_lr]

    rounds = 0
    in_rounds = search(loss_at)
    assert in_rounds == search(loss_of)
    assert rounds <= len(in_rounds)


def test_four_at_a_time_take_half_the_rounds() -> None:
    """A climb of five peaks takes three rounds of four, or fewer."""
    answers: dict[float, float] = {}
    rounds = []

    def loss_at(max_lr: float) -> float:
        if max_lr not in answers:
            rounds.append(max_lr)
            answers.update({peak: (math.log10(peak) + 0.2) ** 2 for peak in upcoming(search, answers, 4)})
        return answers[max_lr]

    assert len(search(loss_at)) == 5
    assert len(rounds) <= 3


def test_nothing_follows_a_search_that_has_ended() -> None:
    """Where all that it asks for is known there is nothing to do."""
    known = search(lambda max_lr: abs(math.log10(max_lr) + 1))
    assert upcoming(search, known, 3) == []
