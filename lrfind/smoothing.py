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
"""Standard deviation of the Gaussian kernel, in decades of lr, so that 50 and 1000 steps are smoothed alike."""
WIDEST_FRACTION = 1 / 16
"""... but at most this part of the sweep: a range of one decade must not be smoothed away."""
NARROWEST_STEPS = 0.5
"""... and at least this many steps: enough to bridge a step without a finite loss."""
CAP = 2.0
"""Losses are capped at the start plus this many times the drop. With a loss that falls to 0: 3x the start."""
PATIENCE = 3
"""So many non-finite losses in a row are lasting: the curve ends before them. Fewer are bridged."""
RISEN_NOISE = 8.0
"""To have risen, a smoothed curve must be this many times its own noise above its lowest point so far ..."""
RISEN_DROP = 0.1
"""... and this part of the whole drop, and above the start."""
_FLOAT32_STEPS = 1e-6
"""Differences below this part of the losses themselves are rounding: training runs in float32."""


@dataclass(frozen=True)
class Shape:
    """What a loss curve looks like, in indices and losses.

    ``smoothed``: shape ``(usable,)``, finite, up to the point of lasting non-finiteness. ``noise``: standard
    deviation of ``smoothed`` that comes from batch to batch noise. ``start``: loss before anything was
    learned. ``bottom``: index of the lowest smoothed loss before the curve rose. ``risen``: first index at
    which it had risen above the start again, or None.
    """

    smoothed: Array
    noise: float
    start: float
    bottom: int
    risen: int | None

    @property
    def drop(self) -> float:
        """How far the loss fell below the start, at least 0."""
        return max(0.0, self.start - float(self.smoothed[self.bottom]))

    @property
    def rounding(self) -> float:
        """A drop up to this could be float32 rounding."""
        return _FLOAT32_STEPS * max(abs(self.start), abs(float(self.smoothed[self.bottom])))


def usable_points(loss: Array) -> int:
    """Count the points before the losses stay non-finite; isolated nan or inf do not end a curve.

    >>> usable_points(np.array([3.0, np.nan, 2.0, np.nan, np.nan]))
    3
    >>> usable_points(np.array([3.0, np.inf, np.inf, np.inf, 2.0]))
    1
    """
    bad_in_a_row = 0
    for index, good in enumerate(np.isfinite(loss)):
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

    A Gaussian over the steps, normalised at the ends and where a loss is not finite, on losses capped at the
    start plus ``CAP`` times the drop. An exponential moving average, as in other tools, lags behind, and by
    more decades the fewer steps a decade has.

    Args:
        lr: shape ``(n,)``, above 0, never falling.
        loss: shape ``(n,)``, raw; finite losses within +-1e300.

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
    smoothed = smooth(lr, loss)
    smoothed = smoothed[: usable_points(loss)]
    sigma = kernel_steps(lr)
    # Averaging with Gaussian weights leaves this part of the standard deviation of independent noise.
    noise = _batch_noise(loss[: len(smoothed)]) / math.sqrt(max(1.0, 2 * math.sqrt(math.pi) * sigma))
    start = float(smoothed[0])
    lowest_so_far = np.minimum.accumulate(smoothed)
    margin = max(RISEN_NOISE * noise, RISEN_DROP * (start - float(smoothed.min())))
    above = (smoothed > start) & (smoothed > lowest_so_far + margin)
    risen = int(np.argmax(above)) if above.any() else None
    return Shape(
        smoothed=smoothed,
        noise=noise,
        start=start,
        bottom=int(np.argmin(smoothed[:risen])),
        risen=risen,
    )


def _capped(loss: Array, sigma: float) -> Array:
    """Cap losses far above the start; non-finite ones stay."""
    # Running medians: neither a single spike nor a single dip moves the start and the low of the cap.
    radius = max(2, round(sigma))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(np.where(np.isfinite(loss), loss, np.nan), radius, constant_values=np.nan), 2 * radius + 1
    )
    medians = np.nanmedian(windows, axis=1)
    start, low = float(medians[0]), float(medians.min())
    return np.minimum(loss, start + max(CAP * (start - low), RISEN_NOISE * _batch_noise(loss)))


def _gaussian(values: Array, sigma: float) -> Array:
    radius = min(len(values) - 1, max(PATIENCE, math.ceil(4 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    finite = np.isfinite(values)
    # About one of the values, so that a constant curve comes out exactly as it was.
    origin = values[finite][0]
    weighted = np.convolve(np.where(finite, values - origin, 0.0), kernel)
    weights = np.convolve(finite.astype(np.float64), kernel)
    inside = slice(radius, radius + len(values))
    return np.asarray(origin + weighted[inside] / weights[inside], dtype=np.float64)


def _batch_noise(loss: Array) -> float:
    """Standard deviation from step to step, by second differences: blind to slopes, robust to a blow-up."""
    finite = loss[np.isfinite(loss)]
    if len(finite) < 3:
        return 0.0
    bends = np.abs(finite[2:] - 2 * finite[1:-1] + finite[:-2])
    return 1.4826 * float(np.median(bends)) / math.sqrt(6)
