"""A pilot: a cycle much shorter than the real one, and longer at its peak, to see what that peak does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from statistics import fmean, median

from torch import Tensor

from lrfind.baseline import ConstantLoss
from lrfind.batches import Batch, endless
from lrfind.groups import get_momentum
from lrfind.metrics import Metric, OutputStd, share_of_hits
from lrfind.preserve import Snapshot
from lrfind.progress import Bar
from lrfind.stopping import MEDIAN_DIFFERENCE, NOISE_FLOOR, WINDOW, StopRule
from lrfind.sweep import BLOCK
from lrfind.validation import validate
from lrfind.workload import Workload
from onecycle.optimizers import scales_itself
from onecycle.schedule import OneCycle

# A pilot takes so large a share of its steps to go up, and as large a share to come down; between them it stays at its
# peak. A run that is ten times as long learns ten times as much at lower rates too, and meets its cliffs later: a
# cycle of the run's own shape, shortened, finds peaks best that are a quarter of a decade too high.
SLOPE = 0.2
# Share of a pilot's steps, at its end, whose mean is its training loss.
TAIL = 0.2
# Losses at its start whose mean is that of the untrained model.
HEAD = 3
# A pilot ends early where its loss has risen by so many times its fall; not where the optimizer scales its own steps,
# which brings the model back from a rise that the short way up has made.
STOP_FACTOR = 2.0
# Weight of the share of the training loss that is left, beside those of a validation loss and of hits, 1 each.
TRAINING = 0.1
# A fall or rise of the training loss by so many standard errors is one; so is a fall of the validation loss by such a
# share of itself.
FALL, VAL_FALL = 2.0, 0.01
# A model whose outputs differ between samples by less than this share of what they did before answers all alike. With
# inputs in hundreds its loss may have fallen far to get there, from that of wild guesses to that of the commonest one.
CONSTANT = 0.01
# A pilot whose loss rose by so many standard deviations of the noise, and ended less than this share below its start,
# has wrecked the model, which now gives the commonest answer whatever it sees: a little better than untrained.
RISE, LITTLE = 3.0, 0.07


@dataclass(frozen=True)
class Validation:
    """What data say of a model in eval mode, those of the validation set or others.

    Attributes:
        loss: Mean loss.
        hits: Of the workload's metrics the first that is a share of hits, such as the accuracy; None if none is.
        output_std: Standard deviation of the outputs between samples; None where there is no telling.
        constant_loss: Loss of the best constant prediction; None where ``lrfind.baseline`` does not know it.
    """

    loss: float
    hits: float | None = None
    output_std: float | None = None
    constant_loss: float | None = None


def validated(work: Workload, steps: int) -> Validation | None:
    """Return what the validation set says of the model as it is; None without one.

    Read are no more batches than a pilot of ``steps`` reads, at least 10: it must stay cheap.
    """
    if work.val_loader is None:
        return None
    return _judged(work, work.val_loader, max(steps, 10))


def _judged(work: Workload, loader: Iterable[Batch], batches: int) -> Validation:
    hits = share_of_hits(work.metrics)
    metrics = {hits: work.metrics[hits]} if hits else {}
    more: dict[str, Metric] = {"output std": OutputStd(), "constant loss": ConstantLoss(work.criterion)}
    values = validate(work, loader, work.module, metrics, batches, more)
    told = (values[hits] if hits else math.nan, values["output std"], values["constant loss"])
    return Validation(values["loss"], *map(_or_none, told))


def ceiling(losses: Sequence[float]) -> float:
    """Return the training loss above which a pilot is not worth going on with, by the losses of a range test.

    It has risen above its start by twice as much as the range test fell, and by more than the noise; ``inf`` where
    that never fell.

    >>> ceiling([2.0, 2.0, 2.0, 1.8, 1.5, 1.2, 1.0, 1.0, 1.0, 3.0, 9.0])
    4.0
    """
    known = [loss if math.isfinite(loss) else math.inf for loss in losses]
    start, noise = _first(known), _noise([loss for loss in known[: len(known) // 2] if loss < math.inf])
    fall = start - min(median(known[at : at + WINDOW]) for at in range(max(1, len(known) - WINDOW + 1)))
    return start + max(STOP_FACTOR * fall, NOISE_FLOOR * noise) if noise < fall < math.inf else math.inf


@dataclass(frozen=True)
class Pilot:
    """Outcome of one pilot.

    Attributes:
        max_lr: Its peak.
        steps: Optimizer steps taken: fewer than planned where it diverged.
        first_loss: Training loss before it had learned: mean of the first three, without those that are no number.
        train_loss: Mean over the last fifth of its steps; inf where it diverged.
        fall_z: How far the training loss fell, in standard errors of the noise between batches; -inf where it diverged.
        rise_z: How far above its beginning it has been (means of three), in standard deviations of that noise.
        validation: Of the validation set, at its end: a loss of inf where it diverged. None without a ``val_loader``.
        before: The same before its first step.
        unseen: Of the training batches that came next, which it has not trained on in this pass; None where it was not
            asked for, or diverged.
    """

    max_lr: float
    steps: int
    first_loss: float
    train_loss: float
    fall_z: float
    rise_z: float
    validation: Validation | None = None
    before: Validation | None = None
    unseen: Validation | None = None

    @property
    def loss(self) -> float:
        """What pilots are compared by: the training loss; where there is a validation set, its loss.

        Where hits are counted too, the mean of that loss and of the share of misses left, in units of the loss at the
        start: the loss alone rises long before the accuracy falls, where a model grows sure of its errors.
        Above that of the untrained model a loss says how sure the model is, hardly how good, and counts as that. Where
        the hits do not tell either, as with rare classes that none of the pilots finds yet, the training loss does:
        the share of it that is left counts a tenth.
        """
        if self.validation is None or self.before is None:
            return self.train_loss
        loss, hits = self.validation.loss, self.validation.hits
        worst, guessed = self.start, self.before.hits
        if hits is None or guessed is None or not (guessed < 1 and worst > 0 and loss < math.inf):
            return loss
        shares = min(loss / worst, 1.0) + (1 - hits) / (1 - guessed) + TRAINING * min(self.left, 1.0)
        return worst * shares / (2 + TRAINING)

    @property
    def untrained(self) -> float:
        """What ``loss`` was before the first step."""
        return self.first_loss if self.before is None else self.before.loss

    @property
    def start(self) -> float:
        """What a fall of ``loss`` is counted from: the untrained model's, or a constant prediction's if that is lower.

        With inputs in hundreds an untrained model is wildly wrong, and to come down to a constant is no learning.
        """
        constant = None if self.before is None else self.before.constant_loss
        return self.untrained if constant is None else min(self.untrained, constant)

    @property
    def learned(self) -> bool:
        """Whether a loss fell: that of training by more than the noise between batches, or that of validation."""
        if self.fall_z > FALL:
            return True
        if self.validation is None or self.before is None:
            return False
        return self.before.loss - self.validation.loss > VAL_FALL * abs(self.before.loss)

    @property
    def constant(self) -> bool:
        """Whether the model now answers the same whatever it sees: its outputs hardly differ between samples."""
        after, before = (judged.output_std if judged else None for judged in (self.validation, self.before))
        return after is not None and before is not None and after < CONSTANT * before

    @property
    def failed(self) -> bool:
        """Whether it diverged, made the training loss worse, wrecked the model, or learned nothing and ended higher.

        Worse: by more than the noise between batches. Wrecked: it answers the same whatever it sees; or so it seems by
        its losses.
        """
        if not (math.isfinite(self.loss) and self.fall_z >= -FALL) or self.constant:
            return True
        if self.rise_z > RISE and self.untrained - self.loss < LITTLE * abs(self.untrained):
            return True
        return not self.learned and self.loss > self.untrained

    @property
    def left(self) -> float:
        """Share of the training loss that is left at its end; 0 where that loss began at 0 or below."""
        return self.train_loss / self.first_loss if self.first_loss > 0 else 0.0

    @property
    def unlearned(self) -> float:
        """Share of the loss that is left at its end, of training or of validation, whichever is more."""
        if self.validation is None or not self.start > 0:
            return self.left
        return max(self.left, self.validation.loss / self.start)

    @property
    def wrong(self) -> float:
        """By how much training data hardly seen are above the validation set, as a share of the loss before its start.

        0 where there is no telling.
        """
        if self.unseen is None or self.validation is None or self.before is None or not self.before.loss > 0:
            return 0.0
        return (self.unseen.loss - self.validation.loss) / self.before.loss


@dataclass(frozen=True)
class Plan:
    """What the pilots of a search have in common.

    Attributes:
        shape: Shape of the real cycle, whose slopes and momentum a pilot takes.
        steps: Optimizer steps.
        unseen: Groups of batches to look at after the last step, for ``Pilot.unseen``; 0: none.
        before: What ``validated`` says where they begin.
        ceiling: A training loss that stays above this has diverged, unless the optimizer scales its own steps.
    """

    shape: OneCycle
    steps: int
    unseen: int = 0
    before: Validation | None = None
    ceiling: float = math.inf


def run_pilot(work: Workload, start: Snapshot, plan: Plan, max_lr: float, bar: Bar) -> Pilot:
    """Go back to ``start`` and train one short cycle.

    Args:
        work: What to train; left as the pilot leaves it.
        start: Where every pilot begins, batches and random numbers included, so that they differ in the peak alone.
        plan: The rest that they share.
        max_lr: Peak of the pilot.
        bar: Progress.
    """
    start.restore()
    with work.training():
        pilot = _train(work, plan, max_lr, bar)
    if plan.before is None:
        return pilot
    validation = validated(work, plan.steps) if math.isfinite(pilot.train_loss) else None
    if validation is None or not math.isfinite(validation.loss):
        validation = Validation(math.inf)
    return replace(pilot, validation=validation, before=plan.before)


def _train(work: Workload, plan: Plan, max_lr: float, bar: Bar) -> Pilot:
    steps = plan.steps
    slope = max(1, round(SLOPE * steps))
    scheduler = _slopes(work, plan.shape, max_lr, slope).scheduler(work.optimizer)
    rule = StopRule(math.inf) if scales_itself(work.optimizer) else StopRule(STOP_FACTOR, ceiling=plan.ceiling)
    losses: list[float] = []
    unread: list[Tensor] = []
    block, taken = _block(work), 0
    # Closed at once: an error's traceback would keep the loader's worker processes alive.
    with closing(endless(work.batches(), work.accumulation_steps)) as stream:
        for group in islice(stream, steps):
            result = work.step(group)
            taken += 1
            unread.append(result.loss)
            if result.stepped and not slope <= taken < steps - slope:
                scheduler.step()
            if len(unread) < block and taken < steps:
                continue
            for loss in work.losses(unread):
                losses.append(loss)
                bar.advance(f"peak {max_lr:.1e}, loss {loss:.4g}" if bar.shown else "")
                if rule.after(loss) is not None:
                    return Pilot(max_lr, taken, _first(losses), math.inf, -math.inf, math.inf)
            unread.clear()
        following = [batch for group in islice(stream, plan.unseen) for batch in group]
        judged = _judged(work, following, len(following)) if following and math.isfinite(losses[-1]) else None
    first_loss, tail = _first(losses), max(1, round(TAIL * len(losses)))
    train_loss = _or_inf(fmean(losses[-tail:]))
    noise = _noise(losses)
    fall_z = _over(first_loss - train_loss, noise * math.sqrt(1 / HEAD + 1 / tail))
    rise_z = _over(max(_means(losses)) - first_loss, noise)
    return Pilot(max_lr, len(losses), first_loss, train_loss, fall_z, rise_z, unseen=judged)


def _slopes(work: Workload, shape: OneCycle, max_lr: float, slope: int) -> OneCycle:
    """Return the cycle of a pilot without the stay at its peak, which is its step ``slope - 1``."""
    has_momentum = any(get_momentum(group) is not None for group in work.optimizer.param_groups)
    return replace(
        shape,
        max_lr=max_lr,
        total_steps=2 * slope,
        pct_start=0.5,
        three_phase=False,
        pct_flat=0.0,
        cycle_momentum=shape.cycle_momentum and has_momentum,
    )


def _block(work: Workload) -> int:
    """Return how many losses stay on the device before they are brought home together."""
    return 1 if work.device.type == "cpu" else BLOCK


def _first(losses: Sequence[float]) -> float:
    return fmean([loss for loss in losses[:HEAD] if math.isfinite(loss)] or [math.inf])


def _means(losses: Sequence[float]) -> list[float]:
    """Return the means of so many neighbours as ``first_loss`` is the mean of."""
    return [_first(losses[at : at + HEAD]) for at in range(max(1, len(losses) - HEAD + 1))]


def _over(difference: float, error: float) -> float:
    if error > 0:
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


def _noise(losses: Sequence[float]) -> float:
    """Return the standard deviation between batches, by the differences of neighbours: blind to slopes."""
    differences = [abs(after - before) for before, after in pairwise(losses)]
    return median(differences) / MEDIAN_DIFFERENCE if differences else 0.0


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
