"""Whether a checkpoint is one of the run that is asked for, and how that run goes on from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, SupportsFloat

from lrfind.suggest import Suggestion
from onecycle.checkpoint import CheckpointError
from onecycle.schedule import OneCycle

MaxLR = SupportsFloat | Sequence[float] | Literal["auto", "refine"]
Resume = Literal["never", "auto", "extend"]
Peak = float | tuple[float, ...]


def as_peak(max_lr: SupportsFloat | Sequence[float], ratios: Sequence[float]) -> Peak:
    """Return a given ``max_lr`` as plain numbers: one, or one per parameter group.

    Args:
        max_lr: As given. Of a suggestion the rates of the groups count where the sweep had ranges of its own for them.
        ratios: Of the groups' learning rates to the largest.
    """
    if isinstance(max_lr, Suggestion):
        own = max_lr.group_lrs
        kept = len(own) == len(ratios) and all(map(_close, own, [max_lr.lr * ratio for ratio in ratios]))
        return max_lr.lr if kept or len(own) != len(ratios) else own
    peaks = OneCycle(max_lr).peaks
    return peaks if isinstance(max_lr, Sequence) else peaks[0]


def continuation(
    record: dict[str, Any], total_steps: int, peak: Peak | None, resume: Resume, where: Path
) -> dict[str, Any]:
    """Return the record to go on from: the checkpoint itself, or with ``"extend"`` the start of a further cycle.

    Args:
        record: The newest checkpoint.
        total_steps: Length asked for.
        peak: Peak asked for; None takes the recorded one.
        resume: ``"auto"`` or ``"extend"``. An extension that was begun already is gone on with.
        where: Folder of the run, for messages.

    Raises:
        CheckpointError: If the run cannot go on like that.
    """
    done, planned = record["step"], record["total_steps"]
    begun = total_steps == planned and record["first_step"] > 0
    if resume == "extend" and not begun:
        return _extended(record, total_steps, peak, where)
    if total_steps != planned:
        raise CheckpointError(
            f"the run in {where} is planned for {planned} steps, of which {done} are done; got "
            f"total_steps={total_steps}. Give {planned} to go on with it, or train it to its end and then add a second "
            'cycle with resume="extend".'
        )
    if peak not in (None, record["first_max_lr"]):
        raise CheckpointError(
            f"the run in {where} has the peak max_lr={record['first_max_lr']!r}; got max_lr={peak!r}. Give the same, "
            'or max_lr="auto" to take the recorded one, or another out_dir.'
        )
    return record


def _extended(record: dict[str, Any], total_steps: int, peak: Peak | None, where: Path) -> dict[str, Any]:
    done, planned = record["step"], record["total_steps"]
    if done < planned or total_steps <= done:
        raise CheckpointError(
            f'resume="extend" adds a cycle to a finished run; the run in {where} has done {done} of {planned} steps '
            f"and {total_steps} are asked for. Give total_steps above {planned} for a finished run, or finish it first "
            'with resume="auto".'
        )
    peak = record["max_lr"] if peak is None else peak
    further = {"first_step": done, "total_steps": total_steps, "max_lr": peak, "first_max_lr": peak, "scheduler": None}
    return record | further


def refuse_other_ratios(record: dict[str, Any], ratios: Sequence[float], where: Path) -> None:
    """Compare the ratios of the groups' learning rates with those over which one recorded peak was spread.

    Raises:
        CheckpointError: If they have other ratios.
    """
    if record["scheduler"] is None or isinstance(record["max_lr"], tuple):
        return
    then = [group["max_lr"] / record["max_lr"] for group in record["scheduler"]["groups"]]
    if not all(map(_close, then, ratios)):
        raise CheckpointError(
            f"{where} holds another run: the learning rates of the parameter groups were as {_listed(then)} and are "
            f"as {_listed(ratios)}. Give the optimizer the ratios of then, or give another out_dir."
        )


def _close(one: float, other: float) -> bool:
    # The rates of an optimizer that has been through a cycle have their ratios up to rounding.
    return math.isclose(one, other, rel_tol=1e-6)


def _listed(ratios: Sequence[float]) -> str:
    return " : ".join(f"{ratio:.4g}" for ratio in ratios)
