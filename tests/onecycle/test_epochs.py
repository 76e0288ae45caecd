"""Tests of onecycle.epochs: by how much the peak falls for what a run of many epochs learns by heart."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecycle.epochs import LEFT_EPOCHS, MOST, WRONG_EPOCHS, too_high

EPOCHS = st.floats(0.01, 1e5)
SHARE = st.one_of(st.floats(-10, 10), st.sampled_from([math.inf, -math.inf, math.nan]))


@given(EPOCHS, SHARE, SHARE)
def test_lowers_and_not_too_far(epochs, wrong, left):
    """Whatever the pilots say: never up, and by no more than a decade and a half."""
    assert 0 <= too_high(epochs, wrong=wrong, left=left) <= MOST


@given(EPOCHS, EPOCHS, st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 2), st.floats(0, 2))
def test_more_of_anything_lowers_more(epochs, more_epochs, wrong, more_wrong, left, more_left):
    """More epochs, more wrong labels, more left to learn: the peak falls at least as far."""
    low = too_high(min(epochs, more_epochs), wrong=min(wrong, more_wrong), left=min(left, more_left))

    assert low <= too_high(max(epochs, more_epochs), wrong=max(wrong, more_wrong), left=max(left, more_left))


@given(EPOCHS, st.floats(-1, 0.05), st.floats(0, 0.3))
def test_nothing_to_learn_by_heart_lowers_nothing(epochs, wrong, left):
    """Data that come next are no worse than the validation set, and most of the loss has gone: however many epochs."""
    assert too_high(epochs, wrong=wrong, left=left) == 0


@given(st.floats(0.01, WRONG_EPOCHS), SHARE, SHARE)
def test_few_epochs_learn_nothing_by_heart(epochs, wrong, left):
    """Up to six epochs nothing is lowered, whatever is left."""
    assert too_high(epochs, wrong=wrong, left=left) == 0


@given(EPOCHS, SHARE, SHARE, st.floats(0, 1e9), st.floats(0, 1e9))
def test_smaller_models_learn_less_by_heart(epochs, wrong, left, capacity, more):
    """With fewer parameters a sample the peak falls no further; with less than one it does not fall."""
    low, high = (too_high(epochs, wrong=wrong, left=left, capacity=each) for each in sorted((capacity, more)))

    assert low <= high <= too_high(epochs, wrong=wrong, left=left)
    assert too_high(epochs, wrong=wrong, left=left, capacity=min(capacity, 1.0)) == 0


@pytest.mark.parametrize(
    ("epochs", "wrong", "left", "factor"),
    [
        (60, 0.3, 0.9, 10**1.25),  # ten times six epochs, wrong labels for certain
        (60, 0.075, 0.0, 10**0.625),  # half as certain
        (120, 0.0, 0.9, 10.0),  # ten times twelve epochs
        (120, 0.0, 0.4, 10**0.5),
        (LEFT_EPOCHS, 0.0, 0.9, 1.0),
        (1e6, 0.3, 0.9, 10**1.5),
    ],
)
def test_golden(epochs, wrong, left, factor):
    """A few values, worked out by hand."""
    assert 10 ** too_high(epochs, wrong=wrong, left=left) == pytest.approx(factor)


def test_golden_capacity():
    """Halfway between one parameter a sample and two and a half, in logarithms, half of the decades count."""
    assert too_high(60, wrong=0.3, left=0.9, capacity=2.5**0.5) == pytest.approx(0.625)
    assert too_high(60, wrong=0.3, left=0.9, capacity=2.5) == pytest.approx(1.25)
