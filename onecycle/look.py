"""Where to look for a peak: a short range test around what is usual for the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer

from lrfind.curve import LRCurve, NoSuggestion
from lrfind.ranks import Ranks
from lrfind.smoothing import read_shape
from lrfind.suggest import Suggestion
from lrfind.sweep import BLOCK, range_test
from lrfind.workload import Workload
from onecycle.optimizers import scales_itself, usual_lr

# The range test: so many times below and above what is usual, 7 steps a decade. One that began far below would rise
# through decades in which nothing moves, and reach the others colder: SGD then diverges below its best peak.
AROUND, STEPS = 100.0, 28
# Where it blew up within such a share of its steps, without an answer, a second one looks below, down to so many times
# below what is usual.
BLEW_UP, LOWEST, LOWER_STEPS = 0.6, 1e5, 21
# Each takes at most so large a share of the steps that there are, but never fewer than those. Longer pilots are worth
# more than a finer range test.
SHARE, FEWEST = 0.35, 12
# With an optimizer that scales its own steps a range test that points to more than so many times the usual rate has
# been misled.
HIGHEST_BEGIN = 10.0


@dataclass(frozen=True)
class Look:
    """What a range test says.

    Attributes:
        curve: The range test; of two, the one that had an answer, or the first.
        swept: Its suggestion; None where it has no answer.
        refusal: Why it has none.
        steps: Optimizer steps taken, of both if there were two.
    """

    curve: LRCurve
    swept: Suggestion | None
    refusal: str
    steps: int

    def begin(self, optimizer: Optimizer) -> float:
        """Return the first peak to try."""
        usual = usual_lr(optimizer)
        if self.swept is None:
            return usual
        # A range test that came down to a constant prediction, and no further, has not seen the model learn: it points
        # too low by half a decade in the mean, and by more than one in a quarter of all cases.
        lowest = read_shape(self.curve.lr, self.curve.loss).lowest
        learned = lowest < self.curve.facts.get("constant_loss", math.inf)
        begin = self.swept.lr if learned else math.sqrt(self.swept.lr * usual)
        return min(begin, HIGHEST_BEGIN * usual) if scales_itself(optimizer) else begin

    def alone(self, further: str = "") -> Suggestion:
        """Return what the range test says where no pilot says more.

        Raises:
            NoSuggestion: Where it has no answer, with its reason and what ``further`` is to be said.
        """
        if self.swept is None:
            raise NoSuggestion(f"{self.refusal} {further}".strip(), self.curve)
        return self.swept


def look(work: Workload, budget: int, others: Ranks, progress: bool) -> Look:
    """Sweep the rates around what is usual for the optimizer; those below too where that blows up at once.

    Args:
        work: What to train; left as it was.
        budget: Optimizer steps that there are for range tests and pilots.
        others: Ranks that hold the same workload: all say what the first has found.
        progress: Show a bar.
    """
    usual = usual_lr(work.optimizer)
    found = _sweep(work, usual / AROUND, usual * AROUND, _planned(STEPS, budget), others, progress)
    left = budget - found.steps
    if found.swept is not None or len(found.curve) >= BLEW_UP * _planned(STEPS, budget) or left < FEWEST:
        return found
    below = _sweep(work, usual / LOWEST, usual / AROUND, _planned(LOWER_STEPS, left), others, progress)
    told = found if below.swept is None else below
    return Look(told.curve, told.swept, told.refusal, found.steps + below.steps)


def _planned(most: int, budget: int) -> int:
    return min(most, max(int(SHARE * budget), FEWEST))


def _sweep(work: Workload, start_lr: float, end_lr: float, planned: int, others: Ranks, progress: bool) -> Look:
    own = range_test(work, start_lr=start_lr, end_lr=end_lr, num_iter=planned, progress=progress)
    curve = others.from_first(lambda: own)  # where the ranks' arithmetic differs in the last bit
    steps = steps_of(curve, planned, BLOCK if work.device.type != "cpu" else 1)
    try:
        return Look(curve, curve.suggest(), "", steps)
    except NoSuggestion as refusal:
        return Look(curve, None, str(refusal), steps)


def steps_of(curve: LRCurve, planned: int, block: int) -> int:
    """Return how many steps a sweep has taken: losses come home in blocks, and those behind the stop are dropped."""
    return min(planned, math.ceil(len(curve) / block) * block)
