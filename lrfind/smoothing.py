"""Read the shape of a loss curve: smooth it without lag, cap a blow-up, find where it turned.

Pure numpy: losses in, numbers out. Everything here is equivariant: ``loss -> a * loss + b`` (a > 0) moves
the smoothed losses likewise and leaves every index as it was, and a factor on the rates changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The constants of how a curve is read, all in one place.
WIDTH_DECADES = 0.2
"""Standard deviation of the Gaussian kernel in decades of lr: 50 and 1000 steps are smoothed alike."""
WIDEST_FRACTION = 1 / 16
"""... but at most this part of the sweep: a range of one decade must not be smoothed away."""
NARROWEST_STEPS = 0.5
"""... and at least this many steps: enough to bridge a step without a finite loss."""
CAP = 2.0
"""Losses are capped at the start plus this many times the drop. With a loss that falls to 0: 3x the start."""
PATIENCE = 3
"""So many non-finite losses in a row are lasting: the curve ends before them. Fewer are bridged."""
CAP_NOISE = 8.0
"""... or, on a curve that hardly falls, plus this many standard deviations of the noise between batches."""
RISEN_AFTER = 0.5
"""A smoothed curve has risen once, after this part of its drop, it is above its start by ..."""
RISEN_DROP = 0.5
"""... this part of its drop, and ..."""
RISEN_NOISE = 5.0
"""... this many standard deviations of its noise."""
HUMP_DROP = 0.3
"""So does a rise of this share of the drop from the lowest point so far, if nothing ..."""
HUMP_BACK = 0.1
"""... after it is lower than that point by this share."""
HUGE = 1e150
"""A loss beyond this counts as infinite, so that no square of a difference overflows."""
_FLOAT32_STEPS = 1e-6
"""Differences below this part of the losses themselves are rounding: training runs in float32."""


@dataclass(frozen=True)
class Shape:
    """What a loss curve looks like, in indices and losses.

    ``smoothed``: shape ``(usable,)``, finite, up to the point of lasting non-finiteness. ``bottom``: index
    of the lowest smoothed loss before the curve rose. ``risen``: first index at which it had risen above its
    start again, or None. ``halfway``: last index before ``bottom`` at which no more than half of the drop
    was reached. ``fall_z``: how far the mean raw loss fell across ``halfway``, in standard errors. ``noise``:
    standard deviation that the noise between batches leaves in ``smoothed`` around the bottom.
    """

    smoothed: Array
    bottom: int
    risen: int | None
    halfway: int
    fall_z: float
    noise: float

    @property
    def start(self) -> float:
        """Smoothed loss at the first step."""
        return float(self.smoothed[0])

    @property
    def lowest(self) -> float:
        """Smoothed loss at the bottom."""
        return float(self.smoothed[self.bottom])

    @property
    def drop(self) -> float:
        """How far the loss fell below the start, at least 0."""
        return max(0.0, self.start - self.lowest)

    @property
    def rounding(self) -> float:
        """A drop up to this could be float32 rounding."""
        return _FLOAT32_STEPS * max(abs(self.start), abs(self.lowest))


def is_number(loss: Array) -> NDArray[np.bool_]:
    """Say which losses are numbers to work with: not nan, not infinite, not beyond ``HUGE``."""
    return np.asarray(np.abs(loss) <= HUGE)


def usable_points(loss: Array) -> int:
    """Count the points before the losses stay non-finite; isolated nan or inf do not end a curve.

    >>> usable_points(np.array([3.0, np.nan, 2.0, np.nan, np.nan]))
    3
    >>> usable_points(np.array([3.0, np.inf, np.inf, np.inf, 2.0]))
    1
    """
    bad_in_a_row = 0
    for index, good in enumerate(is_number(loss)):
        bad_in_a_row = 0 if good else bad_in_a_row + 1
        if bad_in_a_row == PATIENCE:
            return index - PATIENCE + 1
    return len(loss) - bad_in_a_row


def kernel_steps(lr: Array) -> float:
    """Return the standard deviation of the smoothing kernel in steps.

    It is ``WIDTH_DECADES`` by the sweep's mean decades per step. A linear sweep is thus smoothed evenly over
    its steps as well; by distance in log lr its first steps would not be smoothed at all, and its upper half
    into one.

    Args:
        lr: shape ``(n,)``, n >= 1, above 0, never falling.

    >>> round(kernel_steps(np.geomspace(1e-7, 10, 161)), 2)  # 20 steps per decade
    4.0
    """
    widest = WIDEST_FRACTION * len(lr)
    decades = float(np.log10(lr[-1]) - np.log10(lr[0]))
    steps = WIDTH_DECADES * (len(lr) - 1) / decades if decades > 0 else widest
    return max(NARROWEST_STEPS, min(steps, widest))


def smooth(lr: Array, loss: Array) -> Array:
    """Smooth losses without lag; a blow-up at the end does not leak back.

    A Gaussian over the steps, normalised at the ends and where a loss is no number, on losses capped at the
    start plus ``CAP`` times the drop. An exponential moving average, as in other tools, lags behind, and by
    more decades the fewer steps a decade has.

    Args:
        lr: shape ``(n,)``, above 0, never falling.
        loss: shape ``(n,)``, raw.

    Returns:
        Shape ``(n,)``: finite up to the point of lasting non-finiteness, nan from there on.

    >>> smooth(np.geomspace(1e-3, 1, 4), np.array([1.0, np.nan, 1.0, 1.0])).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    smoothed = np.full(len(loss), np.nan)
    usable = usable_points(loss)
    if usable:
        sigma = kernel_steps(lr)
        smoothed[:usable] = _gaussian(_capped(loss[:usable], sigma), sigma)
    return smoothed


def read_shape(lr: Array, loss: Array) -> Shape:
    """Smooth a curve and find its start, its lowest point and where it rose again.

    The lowest point is searched only before the rise, so that a dip after divergence changes nothing.

    Args:
        lr: shape ``(n,)``, above 0, never falling.
        loss: shape ``(n,)``, raw, with at least one usable point.
    """
    smoothed = smooth(lr, loss)[: usable_points(loss)]
    start = float(smoothed[0])
    drop = start - float(smoothed.min())
    noise = _robust_noise(loss)
    # Gaussian weights leave one part in 2 sqrt(pi) sigma of the variance of independent noise.
    left_over = 1 / math.sqrt(max(1.0, 2 * math.sqrt(math.pi) * kernel_steps(lr)))
    fallen = int(np.argmax(smoothed <= start - RISEN_AFTER * drop))
    above = smoothed[fallen:] > start + max(RISEN_DROP * drop, RISEN_NOISE * left_over * noise)
    risen = fallen + int(np.argmax(above)) if above.any() else None
    if risen is None:
        risen = _hump(smoothed, max(HUMP_DROP * drop, RISEN_NOISE * left_over * noise), HUMP_BACK * drop)
    bottom = int(np.argmin(smoothed[:risen]))
    half = (start + float(smoothed[bottom])) / 2
    halfway = int(np.flatnonzero(smoothed[: bottom + 1] >= half)[-1])
    low_end = bottom + int(np.argmax(np.append(smoothed[bottom:] > half, True)))
    fall_z, noise_after = _contrast(loss[: halfway + 1], loss[halfway + 1 : low_end], noise)
    return Shape(smoothed, bottom, risen, halfway, fall_z, left_over * noise_after)


def _hump(smoothed: Array, height: float, back: float) -> int | None:
    """Return where the loss has risen by ``height`` from its lowest and never falls ``back`` below that again.

    Far above its start's scale a network may blow up well below its start, and settle on a constant prediction: what
    comes after the hump is no learning, even where it is a little lower.
    """
    low = np.minimum.accumulate(smoothed)
    later = np.minimum.accumulate(smoothed[::-1])[::-1]
    risen = (smoothed - low > height) & (later > low - back)
    return int(np.argmax(risen)) if risen.any() else None


def _contrast(before: Array, after: Array, noise: float) -> tuple[float, float]:
    """Return the fall of the mean from before to after in standard errors, and the noise after."""
    before, after = before[is_number(before)], after[is_number(after)]
    if len(before) == 0 or len(after) == 0:
        return 0.0, noise
    # The noise of a batch shrinks with its loss, so each side has its own, unless it is too short to tell.
    noise_before, noise_after = (_rms_noise(side) if len(side) >= 5 else noise for side in (before, after))
    error = math.sqrt(noise_before**2 / len(before) + noise_after**2 / len(after))
    fall = float(before.mean() - after.mean())
    return (fall / error if error > 0 else math.copysign(math.inf, fall)), noise_after


def _capped(loss: Array, sigma: float) -> Array:
    """Cap losses far above the start; those that are no number stay none."""
    # Running medians: neither a single spike nor a single dip moves the start and the low of the cap.
    radius = max(2, round(sigma))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(np.where(is_number(loss), loss, np.nan), radius, constant_values=np.nan), 2 * radius + 1
    )
    medians = np.nanmedian(windows, axis=1)
    start, low = float(medians[0]), float(medians.min())
    cap = start + max(CAP * (start - low), CAP_NOISE * _robust_noise(loss))
    return np.where(is_number(loss), np.minimum(loss, cap), np.nan)


def _gaussian(values: Array, sigma: float) -> Array:
    radius = min(len(values) - 1, max(PATIENCE, math.ceil(4 * sigma - 1e-9)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    finite = is_number(values)
    # About one of the values, so that a constant curve comes out exactly as it was.
    origin = values[finite][0]
    weighted = np.convolve(np.where(finite, values - origin, 0.0), kernel)
    weights = np.convolve(finite.astype(np.float64), kernel)
    inside = slice(radius, radius + len(values))
    return np.asarray(origin + weighted[inside] / weights[inside], dtype=np.float64)


def _bends(loss: Array) -> Array:
    """Second differences, scaled to the standard deviation of the noise between steps: blind to slopes."""
    finite = loss[is_number(loss)]
    return (finite[2:] - 2 * finite[1:-1] + finite[:-2]) / math.sqrt(6)


def _rms_noise(loss: Array) -> float:
    bends = _bends(loss)
    return math.sqrt(float(np.mean(bends**2))) if len(bends) else 0.0


def _robust_noise(loss: Array) -> float:
    """Noise between batches on the whole of a curve, its blow-up included."""
    bends = _bends(loss)
    return 1.4826 * float(np.median(np.abs(bends))) if len(bends) else 0.0
