"""The shape of a cycle, read off a scheduler that somebody else has built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.optim.lr_scheduler import OneCycleLR

from onecycle.schedule import OneCycle

# Divisions that give a number back are off in its last digits: 25.0 comes as 24.999999999999996.
DIGITS = 12


def planned(scheduler: Any, shape: OneCycle | None, total_steps: int) -> OneCycle:
    """Return the cycle that a trainer is to follow, without its peak.

    Args:
        scheduler: What the trainer has: a ``OneCycleLR``, of which shape and length are taken, or None.
        shape: What the user asked for; None for torch's default.
        total_steps: Length where there is no scheduler.

    Raises:
        ValueError: If the scheduler is another one, or both it and ``shape`` say what the cycle is like.

    >>> planned(None, None, 100).total_steps
    100
    """
    if scheduler is None:
        return replace(OneCycle(max_lr=None) if shape is None else shape, max_lr=None, total_steps=total_steps)
    if not isinstance(scheduler, OneCycleLR):
        raise ValueError(
            f"the trainer's scheduler must be a OneCycleLR, or none; got {type(scheduler).__name__}. A peak is "
            "measured for one cycle: leave the scheduler out, and OneCycleCallback builds it."
        )
    if shape is not None:
        raise ValueError(
            "the cycle has two shapes: that of the trainer's OneCycleLR and the one given as cycle. Leave out one."
        )
    return shape_of(scheduler)


def shape_of(scheduler: OneCycleLR) -> OneCycle:
    """Return shape and length of a scheduler, torch's or ours; its peak is left out.

    Source:
        What torch's ``OneCycleLR`` keeps: its phases, and the levels in the parameter group with the largest peak.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    >>> shape = shape_of(OneCycleLR(optimizer, max_lr=0.7, total_steps=90, pct_start=0.2, div_factor=10))
    >>> shape.pct_start, shape.div_factor, shape.final_div_factor, shape.total_steps, shape.max_lr
    (0.2, 10.0, 10000.0, 90, None)
    """
    group = max(scheduler.optimizer.param_groups, key=lambda group: float(group["max_lr"]))
    phases: list[Any] = list(scheduler._schedule_phases)
    total_steps = scheduler.total_steps
    flat = phases.pop() if phases[-1]["start_lr"] == phases[-1]["end_lr"] else None
    momentum = {name: group[name] for name in ("base_momentum", "max_momentum") if scheduler.cycle_momentum}
    return OneCycle(
        max_lr=None,
        total_steps=total_steps,
        pct_start=_rounded((phases[0]["end_step"] + 1) / total_steps),
        anneal_strategy=scheduler._anneal_func_type,
        cycle_momentum=scheduler.cycle_momentum,
        div_factor=_rounded(group["max_lr"] / group["initial_lr"]),
        final_div_factor=_rounded(group["initial_lr"] / group["min_lr"]),
        three_phase=len(phases) == 3,
        pct_flat=0.0 if flat is None else _rounded(1 - (phases[-1]["end_step"] + 1) / total_steps),
        **momentum,
    )


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
