"""The one-cycle schedule on an optimizer: torch's ``OneCycleLR``, and right where torch's is not."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrfind.groups import Group, get_lr, get_momentum, lr_ratios, set_lr, set_momentum
from onecycle.schedule import AnnealStrategy, OneCycle, Phase, blend, curve_weight, locate, per_group

LR_LEVELS = ("initial_lr", "max_lr", "min_lr")
GROUP_KEYS = (*LR_LEVELS, "max_momentum", "base_momentum", "own_momentum")


class OneCycleLR(torch.optim.lr_scheduler.OneCycleLR):
    """Drop-in for ``torch.optim.lr_scheduler.OneCycleLR``: same arguments, same values at every step of a run.

    What differs is what goes wrong there:

    - Past the end it holds the last value (torch's lr turns up again or, with ``"linear"``, goes below 0, then it
      raises). One step past is silent, since training loops step once after the last batch; the next one warns.
    - A warm-up without width (``pct_start * total_steps == 1``) starts at the peak, and ``pct_start=1.0`` can be
      stepped to its end. torch: ``ZeroDivisionError``.
    - ``three_phase`` with ``pct_start`` of 0.5 and more, which never comes to its end, is refused.
    - A parameter group that is added in mid-cycle joins at the present step, with its own peak: its ``"max_lr"`` if
      it was given one, else its lr. :meth:`add_param_group` does both at once; a group that was added to the
      optimizer joins at the next :meth:`step`. torch: ``KeyError``.
    - :meth:`load_state_dict` also puts lr, momentum and their levels back into the parameter groups, so it does not
      matter whether the optimizer was loaded before this scheduler was built, after, or not at all.
    - RMSprop that was stepped without momentum gets the buffer that it lacks. torch: ``KeyError``.
    - :meth:`restore_momentum` gives back the momentum that was found, which torch overwrites for good.

    As in torch one ``max_lr`` goes to every group; :meth:`onecycle.OneCycle.scheduler` keeps the ratios of their lrs.

    Args:
        optimizer: Optimizer whose parameter groups are moved; at construction they go to step 0.
        max_lr: Peak learning rate, or a list with one per parameter group.
        total_steps: Steps in the cycle; counts before ``epochs * steps_per_epoch``.
        pct_start, anneal_strategy, cycle_momentum, div_factor, final_div_factor, three_phase:
            As in :class:`onecycle.OneCycle`.
        base_momentum, max_momentum: Momentum at the peak, and at both ends; a number, or a list with one per
            parameter group. As in torch any finite number from 0.
        last_epoch: -1 starts the cycle; k resumes after k steps, from the levels that a loaded optimizer carries.

    Raises:
        TypeError: If ``optimizer`` is none.
        ValueError: For a value outside its range, or if there is no momentum to cycle in any group.
        KeyError: If ``last_epoch`` is not -1 and a parameter group carries no levels.

    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    >>> scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]
    (1.0, 0.85)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: SupportsFloat | Sequence[SupportsFloat],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: AnnealStrategy = "cos",
        cycle_momentum: bool = True,
        base_momentum: SupportsFloat | Sequence[SupportsFloat] = 0.85,
        max_momentum: SupportsFloat | Sequence[SupportsFloat] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}.")
        cycle = OneCycle(
            max_lr,
            total_steps,
            epochs=epochs if total_steps is None else None,
            steps_per_epoch=steps_per_epoch if total_steps is None else None,
            pct_start=pct_start,
            anneal_strategy=anneal_strategy,
            cycle_momentum=False,  # its limits are those of OneCycle; torch's are wider
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            three_phase=three_phase,
        )
        self.optimizer = optimizer
        self.total_steps = cycle.require_total_steps()
        self._take_phases(_as_torch(cycle.phases))
        self._anneal_func_type = cycle.anneal_strategy
        self._div_factor, self._final_div_factor = cycle.div_factor, cycle.final_div_factor
        self.cycle_momentum = cycle_momentum
        groups = optimizer.param_groups
        peaks = _one_each("max_lr", cycle.max_lr if isinstance(cycle.max_lr, tuple) else cycle.peaks[0], groups)
        bases = _one_each("base_momentum", per_group("base_momentum", base_momentum), groups)
        tops = _one_each("max_momentum", per_group("max_momentum", max_momentum), groups)
        if cycle_momentum:
            _check_momentum(optimizer, bases, tops)
            self.use_beta1 = any("betas" in group for group in groups)
            self._joining_momentum = bases[0], tops[0]
        if last_epoch == -1:
            for group, peak, base, top in zip(groups, peaks, bases, tops, strict=True):
                self._set_levels(group, peak, base, top)
            for group in reversed(groups):  # so that it is the first which keeps the very tensor
                _unshare_lr(group, groups)
        else:
            _check_resumable(groups)
        # Not torch's own __init__, whose checks and phases are the ones replaced above.
        LRScheduler.__init__(self, optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's lr at the present step, and set its momentum; called by :meth:`step`.

        See ``get_last_lr()`` for the lrs in use.
        """
        if not self._get_lr_called_within_step:
            warnings.warn(
                "get_lr() sets the momentum and is for step() to call; get_last_lr() returns the lrs in use.",
                UserWarning,
                stacklevel=2,
            )
        step = self.last_epoch
        if step == self.total_steps + 1:
            warnings.warn(
                f"this schedule of total_steps={self.total_steps} has ended, and is stepped on; the lr stays at its "
                "minimum. Train for total_steps optimizer steps, or give a larger total_steps.",
                UserWarning,
                stacklevel=4,
            )
        strategy = self._anneal_func_type
        index, progress = locate(self._phase_ends, step)
        phase, weight = self._schedule_phases[index], curve_weight(strategy, progress)
        start_lr, end_lr = phase["start_lr"], phase["end_lr"]
        start_momentum, end_momentum = phase["start_momentum"], phase["end_momentum"]
        lrs: list[float | Tensor] = []
        for group in self.optimizer.param_groups:
            if "min_lr" not in group:
                self._join(group)
            lrs.append(blend(strategy, group[start_lr], group[end_lr], weight))
            if self.cycle_momentum and "max_momentum" in group:
                momentum = blend(strategy, group[start_momentum], group[end_momentum], weight)
                set_momentum(self.optimizer, group, momentum)
        return lrs

    def add_param_group(self, group: Group) -> None:
        """Add a parameter group to the optimizer, at the present step of the cycle from its first step on.

        Args:
            group: As for ``Optimizer.add_param_group``. Its peak is its ``"max_lr"``, else its ``"lr"``, else the
                optimizer's default lr.
        """
        self.optimizer.add_param_group(group)
        self._update_lr(self.last_epoch)

    def restore_momentum(self) -> None:
        """Give every group the momentum (or ``betas[0]``) back that it had before the cycle; call it after training.

        >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], betas=(0.5, 0.9))
        >>> scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
        >>> scheduler.restore_momentum()
        >>> optimizer.param_groups[0]["betas"]
        (0.5, 0.9)
        """
        for group in self.optimizer.param_groups:
            if "own_momentum" in group:
                set_momentum(self.optimizer, group, group.pop("own_momentum"))

    def state_dict(self) -> dict[str, Any]:
        """Return the state: torch's, and lr, momentum and levels of each parameter group.

        A copy: it does not change with later steps. Loads with ``torch.load(weights_only=True)``.
        """
        state: dict[str, Any] = copy.deepcopy(super().state_dict())
        state["groups"] = [
            {key: group[key] for key in GROUP_KEYS if key in group}
            # What is in use, not what this cycle says: a SequentialLR may have another schedule in charge.
            | {"lr": get_lr(group), "momentum": get_momentum(group)}
            for group in self.optimizer.param_groups
        ]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state, and put lr, momentum and levels back into the parameter groups.

        The loaded schedule replaces this one's, length and peaks included. A state of torch's own ``OneCycleLR``
        loads too; it holds no values of the groups, so they stay as they are, as in torch.

        Raises:
            ValueError: If the state has more parameter groups than the optimizer; nothing is changed then.

        Warns:
            UserWarning: If the loaded schedule has another ``total_steps`` or ``max_lr``.
        """
        state = copy.deepcopy(state_dict)
        saved_groups = state.pop("groups", [])
        groups = self.optimizer.param_groups
        if len(saved_groups) > len(groups):
            raise ValueError(
                f"the state must have at most as many parameter groups as the optimizer; got {len(saved_groups)}, "
                f"and {len(groups)} in the optimizer. Add those that were added in mid-cycle, then load."
            )
        legacy = state.pop("anneal_func", None)  # of torch before 2.4, which saved the function
        if legacy is not None:
            state["_anneal_func_type"] = legacy.__name__.removeprefix("_annealing_")
        self._warn_of_another_schedule(state, saved_groups)
        super().load_state_dict(state)
        self._take_phases(self._schedule_phases)
        for group, saved in zip(groups, saved_groups, strict=False):
            group.update({key: saved[key] for key in GROUP_KEYS if key in saved})
            set_lr(group, saved["lr"])
            if saved["momentum"] is not None:
                set_momentum(self.optimizer, group, saved["momentum"])

    def _follow(self, cycle: OneCycle) -> None:
        """Take the phases of ``cycle``, which may be others than torch's arguments can say; go to step 0."""
        self._take_phases(_as_torch(cycle.phases))
        self._update_lr(0)

    def _take_phases(self, phases: list[Any]) -> None:
        self._schedule_phases = phases
        self._phase_ends = [phase["end_step"] for phase in phases]

    def _join(self, group: Group) -> None:
        groups = self.optimizer.param_groups
        peak = group.get("max_lr", None)
        if peak is None:
            # A tensor lr that is the optimizer's default is one that this cycle has been filling.
            sharing = _sharing_lr(group, groups)
            peak = sharing[0]["max_lr"] if sharing else get_lr(group)
        _unshare_lr(group, groups)
        base, top = self._joining_momentum if self.cycle_momentum else (0.0, 0.0)
        self._set_levels(group, float(peak), base, top)
        self.base_lrs.append(group["initial_lr"])

    def _set_levels(self, group: Group, peak: float, base_momentum: float, max_momentum: float) -> None:
        group["max_lr"] = peak
        group["initial_lr"] = peak / self._div_factor
        group["min_lr"] = group["initial_lr"] / self._final_div_factor
        momentum = get_momentum(group)
        if self.cycle_momentum and momentum is not None:
            group.setdefault("own_momentum", momentum)
            group["max_momentum"], group["base_momentum"] = max_momentum, base_momentum

    def _warn_of_another_schedule(self, state: dict[str, Any], saved_groups: list[dict[str, Any]]) -> None:
        mine, other = [self.total_steps], [state.get("total_steps", self.total_steps)]
        for group, saved in zip(self.optimizer.param_groups, saved_groups, strict=False):
            if "max_lr" in group and "max_lr" in saved:
                mine.append(group["max_lr"])
                other.append(saved["max_lr"])
        # Peaks worked out from the lrs of a loaded optimizer are the same up to rounding.
        if not np.allclose(mine, other, rtol=1e-6, atol=0):
            warnings.warn(
                f"the loaded schedule replaces this one, and is another: total_steps={other[0]}, max_lr={other[1:]} "
                f"instead of total_steps={mine[0]}, max_lr={mine[1:]}. Build the scheduler with the values of the run "
                "that goes on, or start a new one without loading its state.",
                UserWarning,
                stacklevel=3,
            )


def scheduler_for(cycle: OneCycle, optimizer: Optimizer) -> OneCycleLR:
    """Return a scheduler that moves ``optimizer`` along ``cycle``; see :meth:`onecycle.OneCycle.scheduler`."""
    peaks = (
        list(cycle.peaks)
        if isinstance(cycle.max_lr, tuple)
        else [cycle.peaks[0] * ratio for ratio in lr_ratios(optimizer)]
    )
    cycle_momentum = cycle.cycle_momentum
    if cycle_momentum and not _has_momentum(optimizer):
        warnings.warn(
            f"{type(optimizer).__name__} has no momentum to cycle: only the learning rate is. "
            "cycle_momentum=False asks for that without this warning.",
            UserWarning,
            stacklevel=3,
        )
        cycle_momentum = False
    scheduler = OneCycleLR(
        optimizer,
        peaks,
        cycle.require_total_steps(),
        pct_start=cycle.pct_start,
        anneal_strategy=cycle.anneal_strategy,
        cycle_momentum=cycle_momentum,
        base_momentum=cycle.base_momentum,
        max_momentum=cycle.max_momentum,
        div_factor=cycle.div_factor,
        final_div_factor=cycle.final_div_factor,
        three_phase=cycle.three_phase,
    )
    if cycle.pct_flat:
        scheduler._follow(cycle)
    return scheduler


def _as_torch(phases: Sequence[Phase]) -> list[Any]:
    # The form in which torch's scheduler keeps them, so that states go from one to the other.
    return [
        {
            "end_step": phase.end,
            "start_lr": phase.start_lr,
            "end_lr": phase.end_lr,
            "start_momentum": phase.start_momentum,
            "end_momentum": phase.end_momentum,
        }
        for phase in phases
    ]


def _one_each(name: str, value: float | tuple[float, ...], groups: list[Group]) -> tuple[float, ...]:
    values = value if isinstance(value, tuple) else (value,) * len(groups)
    if len(values) != len(groups):
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups, or be one number; "
            f"got {len(values)} values for {len(groups)} groups. Give one value per group."
        )
    return values


def _sharing_lr(group: Group, groups: list[Group]) -> list[Group]:
    if not isinstance(group["lr"], Tensor):
        return []
    return [other for other in groups if other is not group and other["lr"] is group["lr"]]


def _unshare_lr(group: Group, groups: list[Group]) -> None:
    # torch hands a tensor lr to all groups as one object, so that filling it for one would set it for all.
    if _sharing_lr(group, groups):
        group["lr"] = group["lr"].clone()


def _has_momentum(optimizer: Optimizer) -> bool:
    return any(get_momentum(group) is not None for group in optimizer.param_groups)


def _check_momentum(optimizer: Optimizer, bases: Sequence[float], tops: Sequence[float]) -> None:
    if not _has_momentum(optimizer):
        raise ValueError(
            "optimizer must support momentum or beta1 with `cycle_momentum` option enabled; "
            f"{type(optimizer).__name__} has neither. Use cycle_momentum=False, or OneCycle(...).scheduler(optimizer), "
            "which then cycles the learning rate alone."
        )
    if not all(0 <= momentum < math.inf for momentum in (*bases, *tops)):
        raise ValueError(
            "base_momentum and max_momentum must be finite and at least 0; "
            f"got base_momentum={list(bases)}, max_momentum={list(tops)}. torch's defaults are 0.85 and 0.95."
        )


def _check_resumable(groups: list[Group]) -> None:
    for index, group in enumerate(groups):
        missing = [key for key in LR_LEVELS if key not in group]
        if missing:
            raise KeyError(
                f"param {missing[0]!r} is not specified in param_groups[{index}] when resuming with last_epoch >= 0. "
                "Load the optimizer's state of the interrupted run first; or use last_epoch=-1 and load_state_dict."
            )
