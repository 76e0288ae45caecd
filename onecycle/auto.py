"""``max_lr="auto"`` and ``"refine"``: a range test, and short pilots around what it says."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lrfind.curve import LRCurve
from lrfind.preserve import preserve
from lrfind.progress import Bar
from lrfind.ranks import ALONE, Ranks
from lrfind.replicas import replicas
from lrfind.suggest import Suggestion
from lrfind.workload import Workload
from onecycle.epochs import WRONG_EPOCHS
from onecycle.look import look
from onecycle.pilot import Pilot, Plan, ceiling, run_pilot, validated
from onecycle.schedule import OneCycle
from onecycle.search import climb
from onecycle.speculation import LossAt, upcoming
from onecycle.verdict import below_all, in_vain, losses_of, suggested

Method = Literal["auto", "refine"]

# What may be spent: steps, and share of the run.
AUTO_STEPS, AUTO_SHARE = 100, 0.1
REFINE_SHARE = 0.5
# A pilot is no shorter than this, in steps.
MIN_PILOT = 8
# Two pilots; three where each has as many steps as this, and is no smaller a share of the run; up to five where each
# has as many as that. Where some diverge early, further ones for what that saves.
FEWEST_PILOTS, PILOTS, MOST_PILOTS = 2, 3, 5
SHORT_PILOT, PILOT_SHARE = 24, 0.05
LONG_PILOT = 50
# After its last step a pilot looks at the training batches that come next: so many, of so many samples, and no more
# than an epoch.
UNSEEN_BATCHES, UNSEEN_SAMPLES = 10, 512


@dataclass(frozen=True)
class Pick:
    """A suggestion with the range test that it began with and the pilots that decided."""

    suggestion: Suggestion
    curve: LRCurve
    pilots: tuple[Pilot, ...]


def pick_max_lr(
    work: Workload,
    *,
    total_steps: int,
    method: Method = "auto",
    cycle: OneCycle | None = None,
    progress: bool = True,
    spread: bool = False,
) -> Suggestion:
    """Return the peak for a cycle; the workload is left bit for bit as it was.

    A short range test, from a hundredth to a hundred times what is usual for the optimizer, says where to look; where
    it blew up at once, one below it; where it learned no more than a constant prediction, halfway to what is usual. Two
    to five pilots, cycles as long as the budget allows that stay at their peaks, all from the same weights on the same
    batches, say what is best there: where there is a ``val_loader`` by validation loss, and in equal parts by the
    accuracy where the workload measures one (the first of its metrics with ``higher_is_better`` and a
    ``plot_upper_bound`` of 1, as torchmetrics have), with a little of the training loss. The answer is their mean in
    log lr, weighted by how well they did, and lower where the next peak above has failed: its loss diverged or rose, or
    the model came to answer the same whatever it sees. What a run of many epochs learns by heart, wrong labels above
    all, a short pilot does not show; but it shows what is left to be learned so, and the answer is lowered for that,
    the more epochs the more, unless the model has too few parameters to learn it. Where an optimizer's own step changes
    with the number of steps (Adagrad, RMSprop, RAdam) the answer is carried over to the run's length.

    Args:
        work: What will be trained.
        total_steps: Optimizer steps of the run that the peak is for.
        method: ``"auto"``: at most 100 steps and 10 % of the run; ``"refine"``: at most 50 % of the run, fewer when
            the answer is clear.
        cycle: Shape of the cycle. Default: torch's.
        progress: Show progress bars.
        spread: Run pilots side by side on the ranks of torch.distributed, each of which holds the whole workload (a
            plain model, all the data): in the time of one pilot every rank tries a peak that the search may ask for
            next, so that it gets further for the same price, and all return the same.

    Returns:
        A ``Suggestion``; its ``steps_used`` counts every optimizer step taken (pilots of all ranks), its ``evidence``
        names them. ``low`` to ``high`` held the best peak for more than 85 % of the picks of ``experiments.regret``.

    Raises:
        ValueError: For an unknown method, or fewer than 40 ``total_steps`` to refine.
        NoSuggestion: If neither the range test nor a pilot learns anything.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Linear(3, 1)
    >>> batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3)]
    >>> work = Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), batches)
    >>> pick = pick_max_lr(work, total_steps=200, progress=False)
    >>> 0.001 < pick.lr < 2.0, pick.steps_used <= 120
    (True, True)
    """
    others = replicas(work, spread)
    with work.ranks.together(), others.together():
        return pick_with_curve(
            work, total_steps=total_steps, method=method, cycle=cycle, progress=progress, others=others
        ).suggestion


def pick_with_curve(
    work: Workload, *, total_steps: int, method: Method, cycle: OneCycle | None, progress: bool, others: Ranks = ALONE
) -> Pick:
    """Return what ``pick_max_lr`` returns, together with the range test and the pilots.

    Args:
        work: As for ``pick_max_lr``, like the rest.
        others: Ranks that hold the same workload and run pilots at the same time.
    """
    progress = progress and work.ranks.first and others.first
    budget = _budget(total_steps, method)
    per_epoch = work.steps_per_epoch or total_steps  # a loader without a length tells no epochs
    epochs = total_steps / per_epoch
    found = look(work, budget, others, progress)
    left = budget - found.steps
    number, steps = _pilots(left, total_steps)
    if number == 0:
        return Pick(replace(found.alone(), steps_used=found.steps), found.curve, ())
    unseen = _unseen(work, per_epoch) if work.val_loader is not None and epochs > WRONG_EPOCHS else 0
    begin = found.begin(work.optimizer)
    pilots: list[Pilot] = []
    run: dict[float, Pilot] = {}  # those of other ranks too, that the search has not asked for yet
    spent = 0
    with preserve(work) as start, Bar("pilots", steps * number, shown=progress) as bar:
        plan = Plan(
            OneCycle(max_lr=None) if cycle is None else cycle,
            steps,
            unseen=unseen,
            before=validated(work, steps),
            ceiling=ceiling(found.curve.loss.tolist()),
        )

        def search(loss_at: LossAt) -> dict[float, float]:
            return climb(loss_at, begin, MOST_PILOTS)

        def loss_at(max_lr: float) -> float | None:
            nonlocal spent
            if max_lr not in run:
                if spent + steps > left:
                    return None
                peaks = [max_lr] if others.size == 1 else upcoming(search, losses_of(run.values()), others.size)
                mine = peaks[others.rank : others.rank + 1]
                own = [run_pilot(work, start, plan, peak, bar) for peak in mine]
                side_by_side = [pilot for each in others.gather(own) for pilot in each]
                run.update({pilot.max_lr: pilot for pilot in side_by_side})
                spent += max(pilot.steps for pilot in side_by_side)
            pilots.append(run[max_lr])
            return losses_of([run[max_lr]])[max_lr]

        search(loss_at)
    suggestion = suggested(pilots, found.swept, work, total_steps=total_steps, epochs=epochs, rule=method)
    if suggestion is None:
        suggestion = below_all(pilots, found.alone(in_vain(pilots)))
    used = found.steps + sum(pilot.steps for pilot in run.values())
    return Pick(replace(suggestion, steps_used=used), found.curve, tuple(pilots))


def _unseen(work: Workload, per_epoch: int) -> int:
    """Return how many groups of batches a pilot looks at after its last step."""
    samples = (work.batch_size or UNSEEN_SAMPLES) * work.accumulation_steps
    return min(per_epoch, max(UNSEEN_BATCHES, math.ceil(UNSEEN_SAMPLES / samples)))


def _budget(total_steps: int, method: Method) -> int:
    if method not in get_args(Method):
        raise ValueError(f"method must be 'auto' or 'refine'; got {method!r}. 'auto' costs a tenth of a run or so.")
    if not isinstance(total_steps, int) or isinstance(total_steps, bool) or not total_steps >= 1:
        raise ValueError(
            f"total_steps must be a whole number of at least 1; got {total_steps!r}. "
            "It counts the optimizer steps of the run that the peak is for."
        )
    if method == "auto":
        return AUTO_STEPS + int(AUTO_SHARE * total_steps)
    if total_steps < 40:
        raise ValueError(
            f"refine may spend half a run, and needs 20 steps for that; got total_steps={total_steps}. "
            "Use 'auto', or train longer."
        )
    return int(REFINE_SHARE * total_steps)


def _pilots(left: int, total_steps: int) -> tuple[int, int]:
    """Return how many pilots, and how many steps each, for what is left of the budget."""
    least = math.ceil(PILOT_SHARE * total_steps)
    number = PILOTS if left // PILOTS >= max(SHORT_PILOT, least) else FEWEST_PILOTS
    number = max(number, min(left // max(LONG_PILOT, least), MOST_PILOTS))
    steps = left // number
    return (number, steps) if steps >= MIN_PILOT else (0, 0)
