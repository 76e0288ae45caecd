"""Which peak to try next, and which one to take: decisions on numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

# First step away from where the search began, in decades.
STEP = 0.5
# A peak counts e times less for each such share of the best fall, or of the lowest loss where that is above 0 and
# smaller, by which its loss is above the lowest. (Of the loss, because one near 0 has fallen far whatever the peak.)
NEAR = 0.05
# The answer lies so many decades below their mean: too high a peak costs more than too low a one.
CAUTION = 0.025
# A peak at which less than this share of the best fall is left has failed.
FAILED = 0.5
# Where the best fall is less than this share of the start hardly anything was learned: then losses that differ by less
# than this share of the start are the same, and the higher peak is the one that will get further.
LITTLE, LITTLE_TIE = 0.15, 0.01
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


def leader(losses: Mapping[float, float], start: float) -> float:
    """Return the peak to go by: that of the lowest loss; where hardly anything was learned the highest of equals.

    Hardly anything: no loss has fallen by 15 % of ``start``. Equal is then what differs by 1 % of it: it says no more
    than which peaks the model bears.

    >>> leader({0.1: 0.51, 0.3: 0.5, 0.03: 0.8}, start=1.0), leader({0.1: 0.96, 0.3: 0.965, 1.0: 0.99}, start=1.0)
    (0.3, 0.3)
    """
    best = losses[lowest(losses)]
    if not _little(best, start):
        return lowest(losses)
    return max(lr for lr, loss in losses.items() if loss <= best + LITTLE_TIE * abs(start))


def between(losses: Mapping[float, float], start: float) -> float:
    """Return where the best peak lies among those tried: their mean in log lr, a little lower.

    Each counts ``exp(-worse / 0.05)``, where it is worse than the lowest loss by such a share of the best fall from
    ``start``, or of that loss. Where hardly anything was learned, or nothing, it is ``leader``.

    >>> round(between({0.1: 0.52, 0.3: 0.5, 0.03: 0.8}, start=1.0), 3), between({0.1: 0.96, 0.3: 0.965}, start=1.0)
    (0.201, 0.3)
    """
    best = losses[lowest(losses)]
    scale = min(start - best, best) if best > 0 else start - best
    if not 0 < scale < math.inf or _little(best, start):
        return leader(losses, start)
    weights = {lr: math.exp((best - loss) / (NEAR * scale)) for lr, loss in losses.items()}
    mean = sum(weight * math.log10(lr) for lr, weight in weights.items()) / sum(weights.values())
    return 10 ** (mean - CAUTION)


def near_cliff(losses: Mapping[float, float], lr: float, start: float) -> bool:
    """Tell whether the next peak tried above ``lr`` has failed: lost most of the fall from ``start``, or diverged.

    >>> near_cliff({0.1: 0.5, 0.3: math.inf}, 0.1, start=1.0), near_cliff({0.1: 0.5, 0.3: 0.6}, 0.1, start=1.0)
    (True, False)
    """
    above = [tried for tried in losses if tried > lr]
    if not above:
        return False
    best = losses[lowest(losses)]
    if start - best < LITTLE * abs(start):
        return math.isinf(losses[min(above)])
    return losses[min(above)] > start - FAILED * (start - best)


def _little(best: float, start: float) -> bool:
    return math.isfinite(best) and start - best < LITTLE * abs(start)


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
