"""Tests of lrfind.stopping: when a sweep is over."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrfind.stopping import StopRule


def stop(losses: list[float], factor: float = 2.0) -> tuple[int, str] | None:
    """Return index and verdict of the first stop."""
    rule = StopRule(factor)
    return next(((i, verdict) for i, loss in enumerate(losses) if (verdict := rule.after(loss)) is not None), None)


def typical(noise: float = 0.05, seed: int = 0, explosion: float = 1.6) -> list[float]:
    """Flat, a fall, and an explosion from step 80 on."""
    rng = random.Random(seed)
    losses = [2.3 - 1.5 / (1 + math.exp(-(i - 50) / 6)) + rng.gauss(0, noise) for i in range(80)]
    return losses + [losses[-1] + explosion**i for i in range(20)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_stops_after_the_explosion_and_not_before(noise, seed):
    """Noise alone never stops a sweep, an explosion does within its first dozen steps."""
    where, verdict = stop(typical(noise, seed))

    assert verdict == "diverged"
    assert 80 <= where <= 92


@given(
    seed=st.integers(0, 1000),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-1e4, 1e4),
)
def test_scale_and_shift_change_nothing(seed, scale, shift):
    """loss -> a * loss + b stops at the same step: negative and near-zero losses are losses."""
    losses = typical(seed=seed)

    assert stop([scale * loss + shift for loss in losses]) == stop(losses)


def test_above_the_ceiling_is_over_at_once():
    """As soon as the median of five losses is above the ceiling; a single loss above it is passed over."""
    rule = StopRule(2.0, ceiling=4.0)

    assert [rule.after(loss) for loss in [2.3, 9.0, 9.0, 2.3, 2.3, 2.3, 9.0, 9.0, 9.0]] == [None] * 8 + ["diverged"]
    assert stop([9.0] * 20) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_losses_stop_with_the_third_in_five(bad):
    """One or two are passed over, the third in the window ends the sweep with its own verdict."""
    losses = typical()[:60]

    assert stop([*losses[:30], bad, *losses[31:]]) is None
    assert stop([*losses[:30], bad, bad, *losses[32:]]) is None
    assert stop([*losses[:30], bad, losses[31], bad, losses[33], bad]) == (34, "non-finite")
    assert stop([*losses[:30], *[bad] * 10]) == (32, "non-finite")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_from_the_start(bad):
    """A loss that never was a number stops at once."""
    assert stop([bad] * 100) == (2, "non-finite")


@given(st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1.0, math.nan]))))
def test_never_fails(losses):
    """Any floats in any order: a verdict or none, no exception."""
    assert stop(losses) is None or stop(losses)[1] in ("diverged", "non-finite")


@pytest.mark.parametrize("value", [0.0, 1.0, -5.0, 1e-30])
def test_constant_loss_goes_on(value):
    """Nothing learned is no divergence."""
    assert stop([value] * 200) is None


@pytest.mark.parametrize("level", [1.1249, 100.0, -5.0])
def test_last_digit_of_a_standing_loss_is_no_divergence(level):
    """At rates too small to move the weights the loss jitters in its last digit of float32, upwards too."""
    digit = float(np.spacing(np.float32(abs(level))))
    jitter = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4]

    assert stop([level + digit * step for step in jitter]) is None


def test_infinite_factor_turns_divergence_off():
    """With math.inf only non-finite losses stop, also when the loss never fell."""
    rising = [1.0 + 10.0**i for i in range(60)]

    assert stop(rising) is not None
    assert stop(rising, math.inf) is None
    assert stop([*typical(), math.inf, math.inf, math.inf], math.inf) == (102, "non-finite")


def test_larger_factor_stops_later():
    """stop_factor counts how often the fall may be lost again."""
    stops = [stop(typical(noise=0.01), factor)[0] for factor in (0.5, 2.0, 20.0, 200.0)]

    assert stops == sorted(stops)
    assert stops[0] < stops[-1]


def test_one_spike_is_passed_over():
    """A single outlier, however large, moves no median of five."""
    losses = typical()[:70]
    losses[40] = 1e6

    assert stop(losses) is None


@pytest.mark.parametrize("growth", [1.1, 1.3, 1.8, 10.0])
def test_divergence_from_the_first_step(growth):
    """A sweep that starts too high stops within a few more steps than it takes to know the noise."""
    where, verdict = stop([2.3 * growth**i for i in range(50)])

    assert verdict == "diverged"
    assert where <= 20


@pytest.mark.parametrize("bad", [0, -1.0, math.nan])
def test_factor_out_of_range_is_refused(bad):
    """Zero, negative and NaN factors are named."""
    with pytest.raises(ValueError, match=rf"stop_factor must be above 0; got {bad}.*math\.inf turns that off"):
        StopRule(bad)


@pytest.mark.parametrize("turn", [40, 90])
def test_a_steady_climb_is_no_divergence(turn):
    """A validation loss that climbs by little and ever less before it falls, as batch normalisation makes it."""
    climb = [2.3 + 0.02 * (1 - 0.96**step) for step in range(turn)]
    fall = [climb[-1] - 0.1 * step for step in range(1, 11)]
    explosion = [fall[-1] * 1.8**step for step in range(1, 20)]

    where, verdict = stop([*climb, *fall, *explosion])

    assert verdict == "diverged"
    assert where > turn + 10
