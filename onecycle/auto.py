"""``max_lr="auto"`` and ``"refine"``: the peak of a cycle, with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lrfind.curve import LRCurve
from lrfind.suggest import Suggestion
from lrfind.sweep import range_test
from lrfind.workload import Workload
from onecycle.schedule import OneCycle

Method = Literal["auto", "refine"]

SWEEP_STEPS = 100


@dataclass(frozen=True)
class Pick:
    """A suggestion and the range test that it came from."""

    suggestion: Suggestion
    curve: LRCurve


def pick_max_lr(
    work: Workload,
    *,
    total_steps: int,
    method: Method = "auto",
    cycle: OneCycle | None = None,
    progress: bool = True,
) -> Suggestion:
    """Return the peak for a cycle of ``total_steps``; the workload is left bit for bit as it was."""
    return pick_with_curve(work, total_steps=total_steps, method=method, cycle=cycle, progress=progress).suggestion


def pick_with_curve(
    work: Workload, *, total_steps: int, method: Method, cycle: OneCycle | None, progress: bool
) -> Pick:
    """Return what ``pick_max_lr`` returns, together with the range test."""
    curve = range_test(work, num_iter=SWEEP_STEPS, progress=progress)
    return Pick(replace(curve.suggest(), steps_used=len(curve)), curve)
