"""What every adapter does once it can take the trainer's steps: measure, tell, and fill in the peak."""

from __future__ import annotations

import logging
from dataclasses import replace

from lrfind.progress import tell
from lrfind.workload import Workload
from onecycle.auto import Method, Pick, pick_with_curve
from onecycle.schedule import OneCycle

_log = logging.getLogger(__name__)


def measure(work: Workload, shape: OneCycle, method: Method, *, progress: bool) -> tuple[Pick, OneCycle]:
    """Return the pick for a cycle of this shape and length, and the cycle with that peak; ``work`` is left as it was.

    Args:
        work: Steps as the trainer will take them.
        shape: With its ``total_steps``.
        method: As in ``onecycle.pick_max_lr``.
        progress: Show progress bars, and print the pick and its warnings; False: they go to the log of this module.

    Raises:
        NoSuggestion: If neither the range test nor a pilot learns anything.
        RankError: Where another rank has failed.
    """
    steps = shape.require_total_steps()
    with work.ranks.together():
        pick = pick_with_curve(work, total_steps=steps, method=method, cycle=shape, progress=progress)
    suggestion = pick.suggestion
    if work.ranks.first:
        for line in (
            f"{suggestion}: {suggestion.evidence}",
            *(f"warning: {warning}" for warning in suggestion.warnings),
        ):
            (tell if progress else _log.info)(line)
    return pick, replace(shape, max_lr=suggestion.lr)
