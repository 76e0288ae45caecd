"""What pilots say: the suggestion, its range, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from lrfind.batches import rewinds
from lrfind.groups import lr_ratios
from lrfind.metrics import share_of_hits
from lrfind.suggest import Suggestion
from lrfind.workload import Workload
from onecycle.ageing import ageing
from onecycle.epochs import too_high
from onecycle.optimizers import usual_lr
from onecycle.pilot import Pilot
from onecycle.search import STEP, between, leader, near_cliff

# Where the next pilot above has failed the pick keeps this factor away: the real run stays longer near its peak.
CLIFF_MARGIN = 10**0.25
# The best peak lay within so many decades below and above the pick in more than 80 % of the design tasks of the regret
# study; where it was lowered for many epochs, or rests on the highest or lowest peak tried, within these.
BELOW, ABOVE = 0.45, 0.75
UNSURE_BELOW, UNSURE_ABOVE = 0.8, 0.9
STREAM = (
    "The loader reads a stream that cannot be rewound: each pilot saw other batches, which blurs their comparison, and "
    "training will not see those again. Pass a loader that starts anew at each pass."
)


def losses_of(pilots: Iterable[Pilot]) -> dict[float, float]:
    """Return peak to loss, inf where the pilot failed."""
    return {pilot.max_lr: math.inf if pilot.failed else pilot.loss for pilot in pilots}


def suggested(
    pilots: Sequence[Pilot],
    swept: Suggestion | None,
    work: Workload,
    *,
    total_steps: int,
    epochs: float,
    rule: str,
) -> Suggestion | None:
    """Return the suggestion that pilots give; None if all failed, or nothing has learned in range test or pilots.

    Args:
        pilots: In the order run, at least one.
        swept: What the range test said; None where it had no answer.
        work: What they trained.
        total_steps: Optimizer steps of the run that the peak is for.
        epochs: The same in epochs.
        rule: Name of the rule.
    """
    losses = losses_of(pilots)
    best = next(pilot for pilot in pilots if pilot.max_lr == leader(losses, pilots[0].start))
    if all(pilot.failed for pilot in pilots) or (swept is None and not best.learned):
        return None
    inside = min(pilot.max_lr for pilot in pilots) < best.max_lr < max(pilot.max_lr for pilot in pilots)
    evidence = f"{_compared(pilots, work)}, {_begun(pilots[0].max_lr, swept, work)}"
    lr = between(losses, best.start)
    decades = too_high(epochs, wrong=best.wrong, left=best.unlearned, capacity=_capacity(work))
    cliff = near_cliff(losses, best.max_lr, best.start)
    if decades:
        evidence += f"; lowered from {lr:.2g}, for what {epochs:.0f} epochs learn by heart ({_by_heart(best)})"
        lr /= max(10**decades, CLIFF_MARGIN if cliff else 1.0)
    elif cliff:
        evidence += f"; lowered from {lr:.2g}, since the next pilot above it diverged or learned far less"
        lr /= CLIFF_MARGIN
    failed = [pilot.max_lr for pilot in pilots if pilot.failed and pilot.max_lr > lr]
    age = ageing(work.optimizer, best.steps, total_steps)
    if age != 1:
        moved, change = ("raised", "shrink") if age < 1 else ("lowered", "grow")
        evidence += f"; {moved} from {lr:.2g}, since {type(work.optimizer).__name__}'s steps {change} with their number"
        lr, failed = lr / age, [peak / age for peak in failed]
    below, above = (BELOW, ABOVE) if inside and not decades else (UNSURE_BELOW, UNSURE_ABOVE)
    return Suggestion(
        lr,
        low=lr / 10**below,
        high=min([lr * 10**above, *failed]),
        rule=rule,
        warnings=(
            *(() if swept is not None or inside else (_unsure(pilots, work),)),
            *(() if work.train_loader is None or rewinds(work.train_loader) else (STREAM,)),
        ),
        group_lrs=tuple(lr * ratio for ratio in lr_ratios(work.optimizer)),
        evidence=evidence,
    )


def below_all(pilots: Sequence[Pilot], swept: Suggestion) -> Suggestion:
    """Return the range test's suggestion, lowered to where the search would have gone on: every pilot failed."""
    failed = min(pilot.max_lr for pilot in pilots)
    lr = min(swept.lr, failed / 10**STEP)
    return replace(
        swept,
        lr=lr,
        low=min(swept.low, lr / 10**BELOW),
        high=failed,
        group_lrs=tuple(rate * lr / swept.lr for rate in swept.group_lrs),
        warnings=(
            *swept.warnings,
            f"Every pilot diverged, made the loss worse or wrecked the model, from a peak of {failed:.2g} up, where "
            f"the range test said {swept.lr:.2g}. Check the first losses of a short run, and lower max_lr further if "
            "they rise.",
        ),
        evidence=f"{swept.evidence}; lowered from {swept.lr:.2g}, since {len(pilots)} pilots failed",
    )


def in_vain(pilots: Sequence[Pilot]) -> str:
    """Say that no pilot is of use."""
    peaks = [pilot.max_lr for pilot in pilots]
    outcome = "None of them learned" if any(math.isfinite(pilot.loss) for pilot in pilots) else "All of them diverged"
    return f"Then {len(pilots)} pilots tried peaks from {min(peaks):.2g} to {max(peaks):.2g}. {outcome}."


def _compared(pilots: Sequence[Pilot], work: Workload) -> str:
    """Say how many pilots there were, and what they were compared by."""
    told = "training loss" if pilots[0].validation is None else "validation loss"
    if any(pilot.validation is not None and pilot.validation.hits is not None for pilot in pilots):
        told += f" and {share_of_hits(work.metrics)}"
    losses = ", ".join(
        f"{pilot.max_lr:.2g}: {pilot.loss:.4g}" for pilot in sorted(pilots, key=lambda each: each.max_lr)
    )
    return f"{len(pilots)} pilots of {max(pilot.steps for pilot in pilots)} steps by {told} ({losses})"


def _unsure(pilots: Sequence[Pilot], work: Workload) -> str:
    usual = usual_lr(work.optimizer)
    return (
        f"The range test gave no answer; the pilots began at {pilots[0].max_lr:.2g}, where {usual:.2g} is usual for "
        f"{type(work.optimizer).__name__}. Look at its curve before a long run."
    )


def _begun(at: float, swept: Suggestion | None, work: Workload) -> str:
    if swept is None:
        return "without a range test"
    if at == swept.lr:
        return f"begun at the {at:.2g} of a range test"
    usual = f"{usual_lr(work.optimizer):.2g} is usual for {type(work.optimizer).__name__}"
    return f"begun at {at:.2g}, where a range test said {swept.lr:.2g} and {usual}"


def _by_heart(best: Pilot) -> str:
    """Say what shows that there is something to be learned by heart."""
    kind = "training" if best.unlearned == best.left else "validation"
    told = f"its pilot leaves {best.unlearned:.0%} of the {kind} loss"
    if best.unseen is not None and best.validation is not None and best.wrong > 0:
        told += (
            f", {best.unseen.loss:.3g} on data that come next, where the validation loss is {best.validation.loss:.3g}"
        )
    return told


def _capacity(work: Workload) -> float:
    """Return the parameters to train for each training sample; inf where their number is unknown."""
    if work.steps_per_epoch is None or work.batch_size is None:
        return math.inf
    samples = work.steps_per_epoch * work.batch_size * work.accumulation_steps * work.ranks.size
    return sum(weight.numel() for weight in work.model.parameters() if weight.requires_grad) / samples
