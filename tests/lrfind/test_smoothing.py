"""Tests of lrfind.smoothing: no lag, no leak, and the same curve read the same way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrfind.smoothing import kernel_steps, read_shape, smooth, usable_points

LR = np.geomspace(1e-7, 10, 161)  # 20 steps per decade
ANY_LOSS = st.floats(allow_nan=True, allow_infinity=True)


def falls_and_blows_up(lr: np.ndarray) -> np.ndarray:
    return 2.3 - 1.8 / (1 + (0.01 / lr) ** 1.5) + np.minimum((lr / 1.6) ** 3, 50)


@given(st.lists(ANY_LOSS, max_size=60), st.floats(1e-6, 1e6))
def test_finite_up_to_lasting_non_finiteness(losses, ratio):
    """Any losses: as many smoothed values as losses, finite before the usable end and nan after it, within the
    range of the finite losses."""
    loss = np.array(losses, dtype=float)
    lr = np.geomspace(1e-3, 1e-3 * max(1.0, ratio), len(loss)) if len(loss) else np.array([])

    smoothed, usable = smooth(lr, loss), usable_points(loss)

    assert smoothed.shape == loss.shape
    assert np.isfinite(smoothed[:usable]).all()
    assert np.isnan(smoothed[usable:]).all()
    if usable:
        numbers = loss[:usable][np.abs(loss[:usable]) <= 1e150]
        slack = 1e-9 * np.abs(numbers).max()
        assert smoothed[:usable].min() >= numbers.min() - slack
        assert smoothed[:usable].max() <= numbers.max() + slack


@pytest.mark.parametrize("value", [1.0, -3.7, 0.0, 1e-30, 1e30])
@pytest.mark.parametrize("points", [1, 2, 10, 100])
def test_constant_losses_stay_as_they_are(value, points):
    """Trap 9: a constant loss is that constant from index 0 on, to the last bit."""
    assert smooth(np.geomspace(1e-7, 10, points), np.full(points, value)).tolist() == [value] * points


def test_no_lag():
    """A straight line in log lr stays where it is away from the ends; a moving average shifts it by 19 steps."""
    line = np.linspace(3.0, 1.0, len(LR))

    smoothed = smooth(LR, line)

    assert smoothed[20:-20] == pytest.approx(line[20:-20], abs=1e-9)


@pytest.mark.parametrize("blow_up", [1e2, 1e6, 1e30, 1e200, math.inf])
def test_a_blow_up_does_not_leak_back(blow_up):
    """Three diverged losses at the end change nothing half a decade earlier, however large they are."""
    calm = 2.3 - 1.8 / (1 + (0.01 / LR) ** 1.5)
    loss = calm.copy()
    loss[-3:] = blow_up

    assert smooth(LR, loss)[:-20] == pytest.approx(smooth(LR, calm)[:-20], abs=1e-3)
    assert np.nanmax(smooth(LR, loss)) < 6.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 1, 80, 159])
def test_a_single_bad_loss_is_bridged(bad, step):
    """Trap 7: one nan or inf leaves its neighbours as they were, and gets the value between them."""
    loss = falls_and_blows_up(LR)
    damaged = loss.copy()
    damaged[step] = bad

    assert np.isfinite(smooth(LR, damaged)).all()
    assert smooth(LR, damaged) == pytest.approx(smooth(LR, loss), abs=0.06)


@pytest.mark.parametrize(
    ("loss", "usable"),
    [
        ([], 0),
        ([math.nan], 0),
        ([1.0, math.nan], 1),
        ([math.nan, 1.0, math.nan, math.nan, 1.0], 5),
        ([1.0, 1.0, math.nan, math.inf, -math.inf, 1.0], 2),
        ([math.nan, math.nan, math.nan, 1.0], 0),
        ([1.0, 1e200, 2.0], 3),
    ],
)
def test_three_in_a_row_end_a_curve(loss, usable):
    """Up to two bad losses in a row are bridged, three are lasting, and a bad end is cut."""
    assert usable_points(np.array(loss, dtype=float)) == usable


@given(
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-1e3, 1e3),
    seed=st.integers(0, 2**32 - 1),
    noise=st.floats(0, 0.5),
)
def test_losses_may_be_scaled_and_shifted(scale, shift, seed, noise):
    """Trap 8: loss -> a * loss + b smooths to a * smoothed + b, and the shape keeps its indices."""
    loss = falls_and_blows_up(LR) + noise * np.random.default_rng(seed).normal(size=len(LR))
    moved = scale * loss + shift

    assert smooth(LR, moved) == pytest.approx(scale * smooth(LR, loss) + shift, rel=1e-6, abs=1e-6 * scale)
    before, after = read_shape(LR, loss), read_shape(LR, moved)
    assert (after.bottom, after.risen, after.halfway) == (before.bottom, before.risen, before.halfway)
    assert after.fall_z == pytest.approx(before.fall_z, rel=1e-4)


@pytest.mark.parametrize("steps", [50, 100, 400, 1000])
def test_width_is_in_decades(steps):
    """The kernel is 0.2 decades wide, however many steps a decade has."""
    assert kernel_steps(np.geomspace(1e-7, 10, steps)) * 8 / (steps - 1) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("lr", "steps"),
    [
        (np.geomspace(0.1, 1, 160), 10.0),  # one decade: a sixteenth of the sweep, not 0.2 decades
        (np.full(160, 0.1), 10.0),
        (np.geomspace(1e-7, 10, 10), 0.5),  # one step is 0.9 decades
        (np.linspace(1e-7, 10, 100), 0.2 * 99 / 8),  # linear: by the mean decades per step
        (np.array([0.1]), 0.5),
    ],
)
def test_width_suits_odd_sweeps(lr, steps):
    """Narrow, constant, coarse and linear sweeps are smoothed by a sensible number of steps."""
    assert kernel_steps(lr) == pytest.approx(steps)


def test_shape_of_a_known_curve():
    """Start, bottom, halfway and rise of an analytic curve, within a kernel's width of where calculus puts them."""
    shape = read_shape(LR, falls_and_blows_up(LR))
    decades = np.log10(LR)

    assert shape.start == pytest.approx(2.3, abs=1e-3)
    assert decades[shape.bottom] == pytest.approx(-0.8, abs=0.25)
    assert decades[shape.halfway] == pytest.approx(-2.0, abs=0.15)
    assert shape.risen is not None
    assert decades[shape.risen] == pytest.approx(0.2, abs=0.25)
    assert shape.noise < 0.01
    assert shape.fall_z > 50


def test_a_dip_after_the_blow_up_is_not_the_bottom():
    """Trap 11: a loss that comes back below its minimum after diverging, even for a decade, does not move the
    bottom."""
    lr = np.geomspace(1e-7, 1e3, 201)
    loss = falls_and_blows_up(lr)
    dipped = loss.copy()
    dipped[-20:] = 0.0

    assert smooth(lr, dipped)[-1] < smooth(lr, loss).min()
    assert read_shape(lr, dipped).bottom == read_shape(lr, loss).bottom


@pytest.mark.parametrize("draw", ["normal", "laplace", "lognormal"])
def test_pure_noise_seldom_counts_as_a_fall(draw):
    """Of 200 flat, noisy curves (seed 0) at most 8 % fall by 4 standard errors, heavy tails included."""
    rng = np.random.default_rng(0)
    falls = [read_shape(LR, 2.3 + 0.1 * getattr(rng, draw)(size=len(LR))).fall_z for _ in range(200)]

    assert np.mean(np.array(falls) > 4) <= 0.08


def test_noise_is_that_of_the_smoothed_curve_at_its_bottom():
    """Known noise of 0.2 that shrinks to 0.02: `noise` is 0.02 by what the kernel leaves of it (40 seeds)."""
    calm = np.where(np.arange(len(LR)) < 100, 2.3, 0.5)
    scale = np.where(np.arange(len(LR)) < 100, 0.2, 0.02)
    draws = [scale * np.random.default_rng(seed).normal(size=len(LR)) for seed in range(40)]

    said = np.mean([read_shape(LR, calm + noise).noise for noise in draws])
    seen = np.std([smooth(LR, calm + noise)[130] for noise in draws])

    assert said == pytest.approx(seen, rel=0.3)


def settles_below_its_start(lr: np.ndarray, settled: float) -> np.ndarray:
    """Falls from 100 to 10 around lr 1e-3, humps to 60, which is below the start, at 0.1, and settles from 1 on."""
    x = np.log10(lr)
    fall = 10 + 90 / (1 + np.exp((x + 4) * 6))
    hump = 50 * np.exp(-0.5 * ((x + 1) / 0.25) ** 2)
    return fall + hump + (settled - 10) / (1 + np.exp(-(x + 0.5) * 12))


@pytest.mark.parametrize("settled", [5.0, 10.0, 50.0])
def test_a_hump_below_the_start_ends_the_descent(settled):
    """A loss that blows up without coming back to its start, and settles on hardly less than before, has risen: the
    bottom lies before the hump. So it does where the loss stays up."""
    shape = read_shape(LR, settles_below_its_start(LR, settled))

    assert shape.risen is not None
    assert LR[shape.bottom] < LR[shape.risen] < 0.1
    assert smooth(LR, settles_below_its_start(LR, settled))[shape.risen] < shape.start


def test_a_bump_before_a_further_fall_is_no_end():
    """Where the loss falls far below what it was before the bump, it went on learning: the bottom lies behind."""
    loss = settles_below_its_start(LR, 10.0) + np.where(LR > 0.6, -60.0, 0.0)

    shape = read_shape(LR, loss)

    assert shape.risen is None
    assert LR[shape.bottom] > 0.6


def test_a_low_bump_is_no_hump():
    """A bump by a tenth of the fall is passed over, as is one that does not stand out of the noise."""
    x = np.log10(LR)
    calm = 10 + 90 / (1 + np.exp((x + 4) * 6)) - 2 * np.maximum(x + 4, 0)
    bump = np.exp(-0.5 * ((x + 1) / 0.25) ** 2)
    noise = np.random.default_rng(0).normal(size=len(LR))

    assert read_shape(LR, calm + 9 * bump).risen is None
    assert read_shape(LR, 0.1 * calm + 6 * bump + 5 * noise).risen is None


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_a_hump_may_be_scaled_and_shifted(scale, shift):
    """Trap 8 for humps: loss -> a * loss + b rises at the same step."""
    loss = settles_below_its_start(LR, 9.0)

    assert read_shape(LR, scale * loss + shift).risen == read_shape(LR, loss).risen
