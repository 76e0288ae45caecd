"""How other tools read a curve: each rule with its own smoothing, trimming and stop, its faults included.

For comparison, and for people who want the number they are used to. Every function takes our raw curve, cuts
it where that tool's sweep would have stopped, and returns the rate that tool would return for these losses.
Where the tool itself would crash, or answer nan or None, it raises ``NoSuggestion``.

What belongs to a tool's sweep rather than to its rule is not imitated: our rates are the rates really used.
Single precision, in which three of them hold the losses, is not either.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from lrfind.curve import LRCurve, NoSuggestion

Array = NDArray[np.float64]


def steepest(curve: LRCurve) -> float:
    """Return what ``LRFinder.plot`` of torch-lr-finder 0.2.2 suggests.

    Losses smoothed by ``s = 0.05 * loss + 0.95 * s`` up to ``s > 5 * best``; without the first 10 and the
    last 5, the point where ``s`` falls most from step to step.

    Faults: the average lags; the search goes on past the minimum; one nan spoils all later points, and the
    pick is then the point before it; the stop fails for losses at or below 0.

    Raises:
        NoSuggestion: If fewer than 17 points are left.

    Source:
        torch_lr_finder/lr_finder.py, ``range_test`` and ``plot``.
    """
    smoothed = _started_at_first_loss(curve.loss)
    skip_start, skip_end = 10, 5
    _need(len(smoothed), skip_start + skip_end + 2, "steepest")
    slopes = _gradient(smoothed[skip_start:-skip_end])
    return float(curve.lr[skip_start:-skip_end][np.argmin(slopes)])


def ignite(curve: LRCurve) -> float:
    """Return what ``FastaiLRFinder.lr_suggestion`` of pytorch-ignite 0.5.5 suggests.

    Smoothing and stop as `steepest`; the point before the minimum where ``s`` falls most from step to step.

    Faults: as `steepest`, but never past the minimum. A nan counts as the minimum. (Its sweep also records
    each rate one step late, which a curve from our sweep does not.)

    Raises:
        NoSuggestion: If the minimum is one of the first two points.

    Source:
        ignite/handlers/lr_finder.py, ``_log_lr_and_loss`` and ``lr_suggestion``.
    """
    smoothed = _started_at_first_loss(curve.loss)
    _need(len(smoothed), 3, "ignite")
    falling = smoothed[: int(np.argmin(smoothed)) + 1]
    _need(len(falling), 3, "ignite", "points up to the minimum")
    with np.errstate(invalid="ignore"):
        slopes = 0.5 * (falling[2:] - falling[:-2])
    return float(curve.lr[int(np.argmin(slopes)) + 1])


def lightning(curve: LRCurve) -> float:
    """Return what ``Tuner.lr_find(...).suggestion()`` of Lightning 2.6.6 suggests.

    Losses averaged with 0.98 and corrected for the start by ``1 - 0.98 ** (i + 2)``, up to ``s > 4 * best``;
    without the first 10, the last, and all that is not finite, the point of the steepest fall per unit of lr.

    Faults: the correction is one step off, so that each curve starts at 0.505 of its loss and rises; the
    slope is by lr and not by log lr, which on an exponential sweep favours the smallest rates; losses at or
    below 0 stop it at once.

    Raises:
        NoSuggestion: If fewer than two points are left, where that tool returns None, or two neighbours have
            the same lr, where its slope is nan.

    Source:
        lightning/pytorch/tuner/lr_finder.py, ``_LRCallback.on_train_batch_end`` and ``suggestion``.
    """
    average = best = 0.0
    smoothed: list[float] = []
    for step, loss in enumerate(curve.loss.tolist(), start=1):
        average = 0.98 * average + 0.02 * loss
        smoothed.append(average / (1 - 0.98 ** (step + 1)))
        diverged = step > 1 and smoothed[-1] > 4 * best
        if smoothed[-1] < best or step == 1:
            best = smoothed[-1]
        if diverged:
            break
    losses, lrs = np.array(smoothed[10:-1]), curve.lr[10 : max(10, len(smoothed) - 1)]
    finite = np.isfinite(losses)
    losses, lrs = losses[finite], lrs[finite]
    _need(len(losses), 2, "lightning", "finite points after the first 10 and without the last")
    if not (np.diff(lrs) > 0).all():
        raise NoSuggestion("lightning takes slopes by lr, and two steps have the same lr. Use another rule.")
    with np.errstate(over="ignore", invalid="ignore"):
        slopes = np.gradient(losses, lrs)
    return float(lrs[np.argmin(slopes)])


def minimum(curve: LRCurve) -> float:
    """Return what ``lr_find(suggest_funcs=minimum)`` of fastai 2.8.12 suggests: the lr of the minimum / 10.

    Losses as in all rules of fastai here: averaged with 0.98, corrected for the start, up to ``s > 4 *
    best``; without the first tenth of the planned steps (``facts["num_iter"]``, else the curve's length) and
    the last 5, cut at the first nan.

    Faults: the average lags, by more decades the fewer steps a decade has; losses at or below 0 stop it at
    once.

    Raises:
        NoSuggestion: If no point is left.

    Source:
        fastai/callback/schedule.py, ``minimum``.
    """
    lrs, losses = _as_fastai(curve, "minimum", at_least=1)
    return float(lrs[np.argmin(losses)]) / 10


def steep(curve: LRCurve) -> float:
    """Return what ``lr_find(suggest_funcs=steep)`` of fastai 2.8.12 suggests: the steepest fall per log lr.

    Losses as in `minimum`.

    Faults: as `minimum`; the search goes on past the minimum.

    Raises:
        NoSuggestion: If fewer than two points are left, or two neighbours have the same lr.

    Source:
        fastai/callback/schedule.py, ``steep``.
    """
    lrs, losses = _as_fastai(curve, "steep", at_least=2)
    if not (np.diff(lrs) > 0).all():
        raise NoSuggestion("steep takes slopes by log lr, and two steps have the same lr. Use another rule.")
    with np.errstate(invalid="ignore"):
        slopes = np.diff(losses) / np.diff(np.log(lrs))
    return float(lrs[np.argmin(slopes)])


def valley(curve: LRCurve) -> float:
    """Return what ``lr_find()`` of fastai 2.8.12 suggests by default: the middle of the longest descent.

    The longest strictly falling subsequence, of length k, ends at index e; with b = e - k, the index
    ``b + int((e - b) / 3) + int((e - b) / 6)``. Losses as in `minimum`.

    Faults: as `minimum`. A subsequence may skip points, so that b is not where it begins; b can even be -1,
    and the pick then the *largest* lr. On a curve that never falls the pick is the smallest.

    Raises:
        NoSuggestion: If no point is left.

    Source:
        fastai/callback/schedule.py, ``valley``; here in O(n log n) steps rather than O(n^2).
    """
    lrs, losses = _as_fastai(curve, "valley", at_least=1)
    lengths = _falling_lengths(losses)
    end = int(np.argmax(lengths))  # the first of the longest, as there
    begin = end - int(lengths[end]) if lengths[end] > 1 else 0
    third = (end - begin) / 3
    return float(lrs[begin + int(third) + int(third / 2)])


def slide(curve: LRCurve) -> float:
    """Return what ``lr_find(suggest_funcs=slide)`` of fastai 2.8.12 suggests: an interval slid down the curve.

    From the end, an interval of 15 points moves left while the slopes at its ends differ by more than 0.005;
    the pick is its left end. Losses as in `minimum`.

    Faults: as `minimum`; 0.005 is absolute, so that the pick depends on the scale of the loss and on the
    number of steps.

    Raises:
        NoSuggestion: If fewer than 16 points are left.

    Source:
        fastai/callback/schedule.py, ``slide``.
    """
    lrs, losses = _as_fastai(curve, "slide", at_least=16)
    slopes = _gradient(losses)
    right, left = len(losses) - 1, len(losses) - 16
    pick = left
    while left >= 0 and abs(slopes[right] - slopes[left]) > 0.005:
        pick = left
        right, left = right - 1, left - 1
    return float(lrs[pick])


def _started_at_first_loss(loss: Array) -> Array:
    """Smooth as torch-lr-finder and ignite do, up to and with the point at which they stop."""
    smoothed: list[float] = []
    best = np.inf
    for value in loss.tolist():
        smoothed.append(0.05 * value + 0.95 * smoothed[-1] if smoothed else value)
        best = smoothed[-1] if len(smoothed) == 1 else min(best, smoothed[-1])
        if smoothed[-1] > 5 * best:
            break
    return np.array(smoothed)


def _as_fastai(curve: LRCurve, rule: str, at_least: int) -> tuple[Array, Array]:
    """Smooth, stop and trim as fastai does: rates and losses that its rules see."""
    smoothed: list[float] = []
    average, best = 0.0, np.inf
    for step, loss in enumerate(curve.loss.tolist(), start=1):
        average = 0.98 * average + 0.02 * loss
        smoothed.append(average / (1 - 0.98**step))
        if smoothed[-1] < best:
            best = smoothed[-1]
        if smoothed[-1] > 4 * best:
            break
    planned = curve.facts.get("num_iter", len(curve))
    kept = slice(planned // 10, max(0, len(smoothed) - 5))
    losses = np.array(smoothed)[kept]
    is_nan = np.isnan(losses)
    if is_nan.any():
        losses = losses[: int(np.argmax(is_nan))]
    _need(len(losses), at_least, rule, "points after trimming")
    return curve.lr[kept][: len(losses)], losses


def _falling_lengths(losses: Array) -> NDArray[np.int64]:
    """Return, for each point, the length of the longest strictly falling subsequence that ends there.

    >>> _falling_lengths(np.array([3.0, 4.0, 2.0, 2.0, 1.0])).tolist()
    [1, 1, 2, 2, 3]
    """
    tails: list[float] = []  # tails[k]: minus the largest loss at which a fall of k + 1 points ends
    lengths = np.empty(len(losses), dtype=np.int64)
    for index, loss in enumerate((-losses).tolist()):
        place = bisect_left(tails, loss)
        tails[place : place + 1] = [loss]
        lengths[index] = place + 1
    return lengths


def _gradient(losses: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.gradient(losses), dtype=np.float64)


def _need(points: int, at_least: int, rule: str, what: str = "points up to its own stop") -> None:
    if points < at_least:
        raise NoSuggestion(
            f"The rule {rule!r} sees {points} {what} and needs {at_least}. "
            "Sweep in more steps (num_iter), or use the default rule."
        )
