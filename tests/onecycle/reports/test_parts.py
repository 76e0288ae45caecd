"""onecycle.reports.parts: what is left of a long curve, and how numbers are written."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onecycle.reports.parts import Columns, thinned

CURVES = st.lists(st.floats(width=32), min_size=1, max_size=300).map(np.array)


@given(CURVES, st.integers(2, 40))
def test_thinning_keeps_the_ends_and_the_extremes(values: np.ndarray, most: int):
    """First, last, lowest and highest are there, in order, whatever is not finite; and few enough points."""
    kept = thinned(values, most)
    assert (np.diff(kept) > 0).all()
    assert {0, len(values) - 1} <= set(kept.tolist())
    finite = values[np.isfinite(values)]
    if len(finite):
        drawn = values[kept][np.isfinite(values[kept])]
        assert (drawn.min(), drawn.max()) == (finite.min(), finite.max())
    assert len(kept) <= max(most, 0) + 2


def test_thinning_keeps_the_extremes_of_each_stretch():
    """The envelope of a noisy curve is that of all its points, stretch by stretch."""
    values = np.random.default_rng(0).normal(size=10_000)
    kept = thinned(values, 200)
    for start in range(0, 10_000, 100):
        some = values[kept[(kept >= start) & (kept < start + 100)]]
        assert (some.min(), some.max()) == (values[start : start + 100].min(), values[start : start + 100].max())


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20))
def test_columns_hold_six_digits_or_nothing(values: list[float]):
    """What is finite is kept to 5e-6 of itself, what is not becomes None."""
    columns = Columns()
    for value, kept in zip(values, columns.values[columns.add(values)], strict=True):
        if math.isfinite(value):
            assert kept is not None
            assert math.isclose(kept, value, rel_tol=5e-6)
        else:
            assert kept is None
