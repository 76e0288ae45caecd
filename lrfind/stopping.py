"""When a sweep is over before its end: the loss has blown up, or is no number any more."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from typing import Literal

WINDOW = 5
# Losses after which the start, the best and the noise are known well enough to say that anything has diverged.
WARMUP = 8
# A rise of this many standard deviations of the noise is the least that counts.
NOISE_FLOOR = 8.0
# A loss that has only risen must rise by so many times its mean rise per step.
ACCELERATION = 1.25
# Median of |difference of neighbours| for Gaussian noise of standard deviation 1.
MEDIAN_DIFFERENCE = 0.9539

Verdict = Literal["diverged", "non-finite"]


class StopRule:
    """Decides after each loss of a sweep whether to go on.

    The loss, as the median of the last 5 raw ones, has **diverged** once it stands above its best by more than
    ``stop_factor`` times what it had fallen by, and by more than 8 standard deviations of the noise between
    neighbours. Where it has not fallen it must climb faster than it did on the whole: a validation loss climbs
    steadily, if by little, while batch normalisation gets to know the data. Only differences enter, so ``loss``,
    ``loss + 100`` and ``-5 + 2 * loss`` stop at the same step (peers compare with a multiple of the best loss, which a
    negative loss breaks at once). It is **non-finite** once 3 of the last 5 are NaN or infinite; a single one is passed
    over.

    Args:
        stop_factor: Above 0; ``math.inf`` stops on non-finite losses alone.
        ceiling: A median of 5 above this has diverged whatever it fell by, in the first steps too.

    >>> rule = StopRule(stop_factor=2.0)
    >>> losses = [2.3, 2.3, 2.2, 2.1, 1.8, 1.5, 1.2, 1.0, 0.9, 0.9, 1.5, 4.0, 9.0, 30.0]
    >>> [rule.after(loss) for loss in losses][-3:]
    [None, None, 'diverged']
    """

    def __init__(self, stop_factor: float, *, ceiling: float = math.inf) -> None:
        if not stop_factor > 0:
            raise ValueError(
                f"stop_factor must be above 0; got {stop_factor!r}. It is how many times its fall the loss may rise "
                "again before the sweep stops; math.inf turns that off."
            )
        self.stop_factor = stop_factor
        self.ceiling = ceiling
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._differences: list[float] = []
        self._previous = math.nan
        self._start = math.nan
        self._best = math.inf
        self._count = 0

    def after(self, loss: float) -> Verdict | None:
        """Take in one raw loss; return why to stop, or None to go on."""
        recent = self._recent
        if math.isfinite(loss):
            recent.append(loss)
            self._count += 1
            if self._count > 1:
                insort(self._differences, abs(loss - self._previous))
            self._previous = loss
        else:
            recent.append(math.inf)
        if recent.count(math.inf) * 2 > WINDOW:
            return "non-finite"
        if len(recent) < WINDOW:
            return None
        level = sorted(recent)[WINDOW // 2]
        if level > self.ceiling:
            return "diverged"
        if math.isnan(self._start):
            self._start = level
        self._best = min(self._best, level)
        if self._count < WARMUP:
            return None
        rise, fall, noise = level - self._best, self.stop_factor * (self._start - self._best), self._noise()
        if not rise > max(fall, NOISE_FLOOR * noise):
            return None
        faster = (recent[-1] - recent[0]) / (WINDOW - 1) > ACCELERATION * rise / (self._count - WINDOW)
        return "diverged" if faster or fall > NOISE_FLOOR * noise else None

    def _noise(self) -> float:
        differences = self._differences
        # While the rates are too small to move the weights the loss stands still but for its last digit: that digit,
        # the smallest difference there is, is its noise then.
        digit = differences[min(bisect_right(differences, 0.0), len(differences) - 1)]
        return max(differences[len(differences) // 2] / MEDIAN_DIFFERENCE, digit)
