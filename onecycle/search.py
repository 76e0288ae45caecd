"""Which peak to try next, and which one to take: decisions on numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

# First step away from where the search began, in decades.
STEP = 0.5
# Losses that differ by less than this share of their fall, or of themselves where they stay above 0, are the same: the
# lower peak is the safer one. (Of themselves, because a loss near 0 has fallen far whatever the peak.)
TIE = 0.03
# A peak at which less than this share of the best fall is left has failed.
FAILED = 0.4
# Where the best fall is less than this share of the start hardly anything was learned: then losses that differ by less
# than this share of the start are the same, and the higher peak is the one that will get further.
LITTLE, LITTLE_TIE = 0.1, 0.01
# Two peaks nearer to each other than this, in decades, are the same.
SAME = 0.1


def climb(loss_at: Callable[[float], float | None], start: float, most: int) -> dict[float, float]:
    """Look for the lowest loss over log lr: up, down, or in between, as the losses so far say.

    Up first, because a range test's pick is more often too low than too high. While the best is the highest or the
    lowest peak tried, the next lies half a decade beyond it; once it lies between two others, the next lies halfway
    to the better neighbour, and the search ends when that is no news.

    Args:
        loss_at: Loss at a peak; inf where it diverges, None to try no more.
        start: First peak.
        most: Peaks to try, at most.

    Returns:
        Peak to loss, in the order tried.

    >>> import math
    >>> tried = climb(lambda lr: (math.log10(lr) + 1) ** 2, start=0.02, most=4)
    >>> [round(lr, 3) for lr in tried]
    [0.02, 0.063, 0.2, 0.112]
    """
    losses: dict[float, float] = {}
    following = start
    while len(losses) < most and not any(abs(math.log10(following / tried)) < SAME for tried in losses):
        loss = loss_at(following)
        if loss is None:
            break
        losses[following] = loss
        following = _next(losses)
    return losses


def lowest(losses: Mapping[float, float]) -> float:
    """Return the peak with the lowest loss, the lower peak of equals.

    >>> lowest({0.1: 0.5, 0.3: 0.4, 0.03: 0.4})
    0.03
    """
    return min(losses, key=lambda lr: (losses[lr], lr))


def cautious(losses: Mapping[float, float], start: float) -> float:
    """Return the lowest peak whose loss is the lowest, give or take 3 %: of the fall from ``start``, or of itself.

    Where no loss has fallen by a tenth, of equal ones (give or take 1 % of ``start``) the highest: what has hardly
    begun to learn says only which peaks it bears.

    >>> cautious({0.1: 0.51, 0.3: 0.5, 0.03: 0.8}, start=1.0), cautious({0.1: 0.96, 0.3: 0.965, 1.0: 0.99}, start=1.0)
    (0.1, 0.3)
    """
    best = losses[lowest(losses)]
    if not (math.isfinite(best) and math.isfinite(start)):
        return lowest(losses)
    if 0 <= start - best < LITTLE * abs(start):
        return max(lr for lr, loss in losses.items() if loss <= best + LITTLE_TIE * abs(start))
    scale = min(start - best, best) if best > 0 else start - best
    return min(lr for lr, loss in losses.items() if loss <= best + TIE * max(scale, 0.0))


def near_cliff(losses: Mapping[float, float], lr: float, start: float) -> bool:
    """Tell whether the next peak tried above ``lr`` has failed: lost most of the fall from ``start``, or diverged.

    >>> near_cliff({0.1: 0.5, 0.3: math.inf}, 0.1, start=1.0), near_cliff({0.1: 0.5, 0.3: 0.6}, 0.1, start=1.0)
    (True, False)
    """
    above = [tried for tried in losses if tried > lr]
    if not above:
        return False
    fall = start - losses[lowest(losses)]
    if fall < LITTLE * abs(start):
        return math.isinf(losses[min(above)])
    return losses[min(above)] > start - FAILED * fall


def _next(losses: Mapping[float, float]) -> float:
    tried = sorted(losses)
    best = lowest(losses)
    where = tried.index(best)
    step = math.pow(10.0, STEP)
    if len(tried) == 1:
        return best * step if math.isfinite(losses[best]) else best / step
    if where == len(tried) - 1:
        return best * step
    if where == 0:
        return best / step
    below, above = tried[where - 1], tried[where + 1]
    return math.sqrt(best * (above if losses[above] < losses[below] else below))
