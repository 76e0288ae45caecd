"""A pilot: a whole one-cycle run, much shorter than the real one, to see what a peak does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import cycle as around
from itertools import islice, pairwise
from statistics import fmean, median

from torch import Tensor

from lrfind.batches import endless
from lrfind.groups import get_momentum
from lrfind.preserve import Snapshot
from lrfind.progress import Bar
from lrfind.stopping import MEDIAN_DIFFERENCE, StopRule
from lrfind.sweep import BLOCK
from lrfind.workload import Workload
from onecycle.schedule import OneCycle

# Share of a pilot's steps, at its end, whose mean is its training loss.
TAIL = 0.2
# Losses at its start whose mean is that of the untrained model.
HEAD = 3
STOP_FACTOR = 2.0
# A fall or rise of the training loss by so many standard errors is one.
FALL = 2.0


@dataclass(frozen=True)
class Pilot:
    """Outcome of one pilot.

    Attributes:
        max_lr: Its peak.
        steps: Optimizer steps taken: fewer than planned where it diverged.
        first_loss: Training loss before it had learned: mean of the first three, without those that are no number.
        train_loss: Mean over the last fifth of its steps; inf where it diverged.
        val_loss: At its end; None without a ``val_loader``, inf where it diverged.
        fall_z: How far the training loss fell, in standard errors of the noise between batches; -inf where it diverged.
    """

    max_lr: float
    steps: int
    first_loss: float
    train_loss: float
    val_loss: float | None
    fall_z: float

    @property
    def loss(self) -> float:
        """What pilots are compared by: the validation loss where there is one."""
        return self.train_loss if self.val_loss is None else self.val_loss

    @property
    def learned(self) -> bool:
        """Whether the training loss fell by more than the noise between batches."""
        return self.fall_z > FALL

    @property
    def failed(self) -> bool:
        """Whether it diverged, made the training loss worse, or learned nothing and ended above its start.

        Worse: by more than the noise between batches.
        """
        if not (math.isfinite(self.loss) and self.fall_z >= -FALL):
            return True
        return not self.learned and self.loss > self.first_loss

    def learned_by_heart(self, share: float) -> bool:
        """Whether the validation loss fell less than the training loss, by more than ``share`` of the latter's fall.

        False where the training loss did not fall: then nothing was learned, by heart or otherwise.
        """
        if self.val_loss is None or not self.train_loss < self.first_loss:
            return False
        return self.val_loss - self.train_loss > share * (self.first_loss - self.train_loss)


def run_pilot(
    work: Workload, start: Snapshot, shape: OneCycle, max_lr: float, *, steps: int, groups: int | None, bar: Bar
) -> Pilot:
    """Go back to ``start`` and train one short cycle.

    Args:
        work: What to train; left as the pilot leaves it.
        start: Where every pilot begins, batches and random numbers included, so that they differ in the peak alone.
        shape: Shape of the real cycle.
        max_lr: Peak of the pilot.
        steps: Optimizer steps.
        groups: Read only the first so many groups of batches, over and over; None: read on.
        bar: Progress.
    """
    start.restore()
    with work.training():
        return _train(work, shape, max_lr, steps, groups, bar)


def _train(work: Workload, shape: OneCycle, max_lr: float, steps: int, groups: int | None, bar: Bar) -> Pilot:
    optimizer = work.optimizer
    has_momentum = any(get_momentum(group) is not None for group in optimizer.param_groups)
    cycle = replace(shape, max_lr=max_lr, total_steps=steps, cycle_momentum=shape.cycle_momentum and has_momentum)
    scheduler = cycle.scheduler(optimizer)
    rule = StopRule(STOP_FACTOR)
    losses: list[float] = []
    unread: list[Tensor] = []
    block, taken = _block(work), 0
    # Closed at once: an error's traceback would keep the loader's worker processes alive.
    with closing(endless(work.batches(), work.accumulation_steps)) as stream:
        for group in islice(stream if groups is None else around(list(islice(stream, groups))), steps):
            result = work.step(group)
            taken += 1
            unread.append(result.loss)
            if result.stepped:
                scheduler.step()
            if len(unread) < block and taken < steps:
                continue
            for loss in work.losses(unread):
                losses.append(loss)
                bar.advance(f"peak {max_lr:.1e}, loss {loss:.4g}" if bar.shown else "")
                if rule.after(loss) is not None:
                    val_loss = None if work.val_loader is None else math.inf
                    return Pilot(max_lr, taken, _first(losses), math.inf, val_loss, -math.inf)
            unread.clear()
    first_loss, tail = _first(losses), max(1, round(TAIL * len(losses)))
    train_loss = _or_inf(fmean(losses[-tail:]))
    fall, error = first_loss - train_loss, _noise(losses) * math.sqrt(1 / HEAD + 1 / tail)
    fall_z = fall / error if error > 0 else math.copysign(math.inf, fall) if fall else 0.0
    if work.val_loader is None:
        return Pilot(max_lr, len(losses), first_loss, train_loss, None, fall_z)
    # Not more of the validation set than the pilot itself has read: it must stay cheap.
    val_loss = _or_inf(work.evaluate(max_batches=max(steps, 10), metrics=False)["loss"])
    return Pilot(max_lr, len(losses), first_loss, train_loss, val_loss, fall_z)


def repeated_groups(per_epoch: int, *, steps: int, total_steps: int) -> int:
    """Return how many groups of batches, of so many in an epoch, give a pilot as many epochs as the real run has.

    A run of many epochs learns its data by heart, a short pilot on all the data does not, and picks a peak that
    will. A pilot on as small a share of the data as it is a share of the steps sees each sample as often as the
    real run will, and shows it.

    >>> repeated_groups(50, steps=100, total_steps=1000)
    5
    """
    return max(1, round(steps * per_epoch / total_steps))


def _block(work: Workload) -> int:
    """Return how many losses stay on the device before they are brought home together."""
    return 1 if work.device.type == "cpu" else BLOCK


def _first(losses: Sequence[float]) -> float:
    return fmean([loss for loss in losses[:HEAD] if math.isfinite(loss)] or [math.inf])


def _noise(losses: Sequence[float]) -> float:
    """Return the standard deviation between batches, by the differences of neighbours: blind to slopes."""
    differences = [abs(after - before) for before, after in pairwise(losses)]
    return median(differences) / MEDIAN_DIFFERENCE if differences else 0.0


def _or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
