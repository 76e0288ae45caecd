"""The one-cycle schedule as a value: learning rate and momentum at any step, without a model."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, SupportsIndex

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.optim import Optimizer

    from onecycle.scheduler import OneCycleLR

AnnealStrategy = Literal["cos", "linear"]
LRLevel = Literal["initial_lr", "max_lr", "min_lr"]
MomentumLevel = Literal["max_momentum", "base_momentum"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of the cycle. Its ends are levels by name, so that every parameter group has its own values.

    ``start`` and ``end`` are steps; as in torch they may fall between two steps, or before step 0, where a warm-up
    of less than one step leaves nothing of itself but a shifted start of the next phase.
    """

    name: str
    start: float
    end: float
    start_lr: LRLevel
    end_lr: LRLevel
    start_momentum: MomentumLevel
    end_momentum: MomentumLevel


def locate(ends: Sequence[float], step: float) -> tuple[int, float]:
    """Return the index of the phase that ``step`` is in, and how much of it is done, from 0 to 1.

    A phase without width is done where it begins, and the last one stays done: so no setting divides by zero, and a
    run that goes on past its schedule holds the last value. (torch divides by zero there, and turns up again.)

    >>> locate([2.0, 9.0], 1), locate([2.0, 9.0], 2), locate([2.0, 9.0], 9), locate([2.0, 9.0], 12)
    ((0, 0.5), (0, 1.0), (1, 1.0), (1, 1.0))
    >>> locate([0.0, 9.0], 0)
    (0, 1.0)
    """
    start, last = 0.0, len(ends) - 1
    for index, end in enumerate(ends):
        if step < end:
            return index, (step - start) / (end - start)
        if step == end or index == last:
            return index, 1.0
        start = end
    raise AssertionError("a schedule has at least one phase")


def curve_weight(strategy: AnnealStrategy, progress: float) -> float:
    """Return the part of :func:`blend` that all levels at one ``progress`` share."""
    return math.cos(math.pi * progress) + 1 if strategy == "cos" else progress


def blend(strategy: AnnealStrategy, start: float, end: float, weight: float) -> float:
    """Return the value between ``start`` and ``end``, by torch's own arithmetic so that it equals torch's bit for bit.

    >>> [blend("cos", 0.0, 1.0, curve_weight("cos", progress)) for progress in (0, 0.5, 1)]
    [0.0, 0.5, 1.0]
    """
    if strategy == "cos":
        return end + (start - end) / 2.0 * weight
    return (end - start) * weight + start


@dataclass(frozen=True, init=False)
class OneCycle:
    """One cycle of learning rate and momentum: up to ``max_lr``, then down far below where it began.

    The parameters are those of ``torch.optim.lr_scheduler.OneCycleLR``, with its names, defaults and meaning, and
    the values are equal to its values bit for bit at every step of a run. Where torch has no value, there is one
    here: a warm-up without width (``pct_start * total_steps == 1``) starts at the peak, and past the end the
    schedule holds ``min_lr``.

    The peak lies at step ``pct_start * total_steps - 1``. Where that is no whole number, it falls between two steps
    and no step trains at quite ``max_lr``, as in torch (0.981 of it with 7 steps). ``pct_start=1`` is a warm-up only
    and ends at the peak; a warm-up shorter than one step is left out, and the first step is already on the way down.

    With ``max_lr=None`` or without ``total_steps`` the cycle is a shape whose peak or length is not set yet: it can be
    handed to :func:`onecycle.fit`, and ``dataclasses.replace(cycle, max_lr=..., total_steps=...)`` makes the whole one.

    Args:
        max_lr: Peak learning rate: a number, a :class:`lrfind.Suggestion`, a tensor with one element, or a list
            with one peak per parameter group (then at least one above 0). None: not chosen yet.
        total_steps: Optimizer steps in the cycle. Or ``epochs`` and ``steps_per_epoch``, whose product it is.
        pct_start: Share of the steps, 0 to 1, that the learning rate rises.
        anneal_strategy: ``"cos"``: each phase is half a cosine; ``"linear"``: a straight line.
        cycle_momentum: Whether momentum (``betas[0]`` of Adam-like optimizers) is cycled, inversely to the lr.
        base_momentum: Momentum at the peak; a number or a list with one per parameter group.
        max_momentum: Momentum at start and end; a number or a list with one per parameter group.
        div_factor: ``initial_lr = max_lr / div_factor``.
        final_div_factor: ``min_lr = initial_lr / final_div_factor``.
        three_phase: Come down as one went up, to ``initial_lr``, then annihilate: anneal on to ``min_lr``. Rising
            and falling take ``pct_start`` each, so it must be below 0.5 or nothing is left for the third phase.
        pct_flat: Share of the steps, 0 to below 1, that the end stays flat at ``min_lr``. Not in torch, whose
            schedules reach ``min_lr`` at the very last step; see :meth:`smith`.

    Raises:
        ValueError: At construction, for a value outside its range.

    Source:
        Smith and Topin, arXiv:1708.07120; arithmetic of torch's ``OneCycleLR``.

    >>> cycle = OneCycle(max_lr=1.0, total_steps=10)
    >>> [round(cycle.lr(step), 2) for step in range(10)]
    [0.04, 0.52, 1.0, 0.95, 0.81, 0.61, 0.39, 0.19, 0.05, 0.0]
    >>> cycle.initial_lr, cycle.min_lr, cycle.momentum(0), cycle.momentum(2)
    (0.04, 4e-06, 0.95, 0.85)
    >>> [(phase.name, phase.start, phase.end) for phase in cycle.phases]
    [('warm-up', 0.0, 2.0), ('anneal-down', 2.0, 9.0)]
    """

    max_lr: float | tuple[float, ...] | None
    total_steps: int | None
    pct_start: float
    anneal_strategy: AnnealStrategy
    cycle_momentum: bool
    base_momentum: float | tuple[float, ...]
    max_momentum: float | tuple[float, ...]
    div_factor: float
    final_div_factor: float
    three_phase: bool
    pct_flat: float

    def __init__(
        self,
        max_lr: SupportsFloat | Sequence[SupportsFloat] | None,
        total_steps: SupportsIndex | None = None,
        *,
        epochs: SupportsIndex | None = None,
        steps_per_epoch: SupportsIndex | None = None,
        pct_start: float = 0.3,
        anneal_strategy: AnnealStrategy = "cos",
        cycle_momentum: bool = True,
        base_momentum: SupportsFloat | Sequence[SupportsFloat] = 0.85,
        max_momentum: SupportsFloat | Sequence[SupportsFloat] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        pct_flat: float = 0.0,
    ) -> None:
        values = {
            "max_lr": None if max_lr is None else _checked_peaks(max_lr),
            "total_steps": _checked_length(total_steps, epochs, steps_per_epoch),
            "pct_start": float(pct_start),
            "anneal_strategy": anneal_strategy,
            "cycle_momentum": bool(cycle_momentum),
            "base_momentum": per_group("base_momentum", base_momentum),
            "max_momentum": per_group("max_momentum", max_momentum),
            "div_factor": float(div_factor),
            "final_div_factor": float(final_div_factor),
            "three_phase": bool(three_phase),
            "pct_flat": float(pct_flat),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check_shape()
        if self.cycle_momentum:
            self._check_momentum()

    @classmethod
    def smith(cls, max_lr: SupportsFloat | Sequence[SupportsFloat] | None, total_steps: int | None = None) -> OneCycle:
        """Return the cycle of Smith's own 2018 runs: straight up, straight down through the start, a flat end.

        From a tenth of ``max_lr`` up in 46 % of the steps, down in as many to almost 0, then flat at ``1e-4 *
        max_lr`` for the last 8 %; momentum 0.95 to 0.85 and back. This is what the logs of his code show, and
        neither torch's ``three_phase=True`` (which slows down at the start's lr) nor its two phases (which take the
        whole rest of the run to come down). Follows the log to 0.1 % of ``max_lr``.

        Source:
            Smith, arXiv:1803.09820; wide-resnet log of github.com/lnsmith54/hyperParam1.

        >>> cycle = OneCycle.smith(max_lr=1.0, total_steps=100)
        >>> [round(cycle.lr(step), 4) for step in (0, 45, 80, 91, 99)]
        [0.1, 1.0, 0.2392, 0.0001, 0.0001]
        """
        return cls(
            max_lr,
            total_steps,
            pct_start=0.46,
            pct_flat=0.08,
            anneal_strategy="linear",
            div_factor=10.0,
            final_div_factor=1000.0,
        )

    @classmethod
    def fastai(cls, max_lr: SupportsFloat | Sequence[SupportsFloat] | None, total_steps: int | None = None) -> OneCycle:
        """Return the cycle of fastai's ``fit_one_cycle`` at its defaults: pct .25, down to ``max_lr / 1e5``.

        fastai's ``div_final`` divides ``max_lr``, where ``final_div_factor`` divides ``initial_lr``: hence 4000 here.

        >>> OneCycle.fastai(max_lr=1.0).min_lr
        1e-05
        """
        return cls(max_lr, total_steps, pct_start=0.25, div_factor=25.0, final_div_factor=1e5 / 25.0)

    @property
    def peaks(self) -> tuple[float, ...]:
        """``max_lr`` as a tuple: one for all parameter groups, or one each.

        Raises:
            ValueError: If ``max_lr`` is not chosen yet.
        """
        if self.max_lr is None:
            raise ValueError(
                "this OneCycle has no peak yet: max_lr is None. Give max_lr (lrfind.range_test(work).suggest() "
                "measures one); dataclasses.replace(cycle, max_lr=...) sets it later."
            )
        return self.max_lr if isinstance(self.max_lr, tuple) else (self.max_lr,)

    @property
    def initial_lr(self) -> float:
        """Learning rate at step 0, of the group with the largest peak."""
        return self._level("initial_lr", self._largest)

    @property
    def min_lr(self) -> float:
        """Learning rate that the cycle ends at, of the group with the largest peak."""
        return self._level("min_lr", self._largest)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The phases, in order.

        Raises:
            ValueError: If ``total_steps`` is not set.
        """
        steps, falls = self.require_total_steps(), 2 if self.three_phase else 1
        rise_end = float(self.pct_start * steps) - 1
        cycle_end = float((1 - self.pct_flat) * steps) - 1
        phases = [Phase("warm-up", 0.0, rise_end, "initial_lr", "max_lr", "max_momentum", "base_momentum")]
        if falls == 1:
            phases.append(
                Phase("anneal-down", rise_end, cycle_end, "max_lr", "min_lr", "base_momentum", "max_momentum")
            )
        else:
            fall_end = float(2 * self.pct_start * steps) - 2
            phases += [
                Phase("anneal-down", rise_end, fall_end, "max_lr", "initial_lr", "base_momentum", "max_momentum"),
                Phase("annihilation", fall_end, cycle_end, "initial_lr", "min_lr", "max_momentum", "max_momentum"),
            ]
        if self.pct_flat:
            phases.append(Phase("flat", cycle_end, steps - 1.0, "min_lr", "min_lr", "max_momentum", "max_momentum"))
        return tuple(phases)

    def lr(self, step: int, group: int | None = None) -> float:
        """Return the learning rate of optimizer step ``step``, counted from 0.

        From the last step on it is ``min_lr`` (with ``"linear"`` up to the rounding of torch's arithmetic, 1e-16 of
        ``max_lr``). Only a cycle that is all warm-up ends at ``max_lr`` and holds ``min_lr`` past the end.

        Args:
            step: Step about to be taken, from 0; past the end is allowed.
            group: Which of the peaks in ``max_lr``, if that is a list; None: the largest.

        Raises:
            ValueError: If ``step`` is negative, ``total_steps`` is not set, or there is no such group.

        >>> cycle = OneCycle(max_lr=[0.1, 1.0], total_steps=10)
        >>> round(cycle.lr(2), 4), round(cycle.lr(2, group=0), 4), cycle.lr(99)
        (1.0, 0.1, 4e-06)
        """
        phase, weight = self._at(step)
        group = self._checked_group(group)
        start, end = self._level(phase.start_lr, group), self._level(phase.end_lr, group)
        return blend(self.anneal_strategy, start, end, weight)

    def momentum(self, step: int, group: int | None = None) -> float | None:
        """Return the momentum of optimizer step ``step``; None if ``cycle_momentum`` is off.

        Arguments and errors are those of :meth:`lr`; past the end it holds ``max_momentum``.
        """
        phase, weight = self._at(step)
        group = self._checked_group(group)
        if not self.cycle_momentum:
            return None
        start, end = self._level(phase.start_momentum, group), self._level(phase.end_momentum, group)
        return blend(self.anneal_strategy, start, end, weight)

    def lrs(self, group: int | None = None) -> np.ndarray:
        """Return the learning rate of every step, shape ``(total_steps,)``, float64; ``group`` as in :meth:`lr`."""
        return np.array([self.lr(step, group) for step in range(self.require_total_steps())])

    def momentums(self, group: int | None = None) -> np.ndarray | None:
        """Return the momentum of every step, shape ``(total_steps,)``; None if ``cycle_momentum`` is off."""
        if not self.cycle_momentum:
            return None
        return np.array([self.momentum(step, group) for step in range(self.require_total_steps())])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw learning rate and momentum over the steps, phases named; see :func:`onecycle.plot.plot_schedule`."""
        from onecycle.plot import plot_schedule

        return plot_schedule(self, ax)

    def scheduler(self, optimizer: Optimizer) -> OneCycleLR:
        """Return a torch scheduler that moves ``optimizer`` along this cycle, at step 0.

        With one ``max_lr`` the parameter groups keep the ratios of their present learning rates: the group with the
        largest gets ``max_lr``. (torch gives it to every group.) With a list each group gets its own.

        An optimizer without momentum (Adagrad) gets its learning rate cycled alone, with a warning;
        ``cycle_momentum=False`` asks for that without one.

        Raises:
            ValueError: If ``total_steps`` is not set, or a list has another length than the optimizer has groups.

        >>> import torch
        >>> weight, bias = torch.nn.Linear(2, 1).parameters()
        >>> optimizer = torch.optim.SGD([{"params": weight}, {"params": bias, "lr": 0.02}], lr=0.01, momentum=0.9)
        >>> scheduler = OneCycle(max_lr=0.5, total_steps=100).scheduler(optimizer)
        >>> [group["max_lr"] for group in optimizer.param_groups]
        [0.25, 0.5]
        """
        # Here, not above: this file knows no optimizer, and onecycle.scheduler imports it.
        from onecycle.scheduler import scheduler_for

        return scheduler_for(self, optimizer)

    @property
    def _largest(self) -> int:
        return self.max_lr.index(max(self.max_lr)) if isinstance(self.max_lr, tuple) else 0

    def require_total_steps(self) -> int:
        """Return ``total_steps``.

        Raises:
            ValueError: If it is not set.
        """
        if self.total_steps is None:
            raise ValueError(
                "this OneCycle has no length yet: total_steps is not set. Give total_steps, or epochs and "
                "steps_per_epoch; dataclasses.replace(cycle, total_steps=...) sets it later."
            )
        return self.total_steps

    def _at(self, step: float) -> tuple[Phase, float]:
        if not step >= 0:
            raise ValueError(f"step must be at least 0, the first step; got {step!r}. Steps are counted from 0.")
        phases = self.phases
        index, progress = locate([phase.end for phase in phases], step)
        return phases[index], curve_weight(self.anneal_strategy, progress)

    def _checked_group(self, group: int | None) -> int:
        if group is None:
            return self._largest
        groups = max(self._list_lengths().values(), default=1)
        if not 0 <= group < groups:
            raise ValueError(
                f"group must be in 0 .. {groups - 1}, as many as max_lr={self.max_lr!r} has; got {group!r}. "
                "Give max_lr as a list with one peak per parameter group."
            )
        return group

    def _list_lengths(self) -> dict[str, int]:
        names = ("max_lr", "base_momentum", "max_momentum") if self.cycle_momentum else ("max_lr",)
        return {name: len(value) for name in names if isinstance(value := getattr(self, name), tuple)}

    def _level(self, name: LRLevel | MomentumLevel, group: int) -> float:
        def of_group(values: float | tuple[float, ...]) -> float:
            several = values if isinstance(values, tuple) else (values,)
            return several[group] if len(several) > 1 else several[0]

        if name in ("base_momentum", "max_momentum"):
            return of_group(getattr(self, name))
        # Divided one after the other, as torch does: the last bit depends on it.
        peak = of_group(self.peaks)
        if name == "max_lr":
            return peak
        return peak / self.div_factor if name == "initial_lr" else peak / self.div_factor / self.final_div_factor

    def _check_shape(self) -> None:
        if self.anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be 'cos' or 'linear'; got {self.anneal_strategy!r}. Use 'cos'.")
        for name in ("div_factor", "final_div_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be above 0 and finite, because a learning rate is divided by it; "
                    f"got {getattr(self, name)!r}. torch's defaults are div_factor=25 and final_div_factor=1e4."
                )
        if not 0 <= self.pct_start <= 1:
            raise ValueError(
                f"pct_start must be in 0 .. 1, a share of the steps; got {self.pct_start!r}. "
                "For a number of warm-up steps give warm_up_steps / total_steps."
            )
        if not 0 <= self.pct_flat < 1:
            raise ValueError(
                f"pct_flat must be at least 0 and below 1, a share of the steps; got {self.pct_flat!r}. "
                "0 anneals to the very end."
            )
        if self.three_phase and not 2 * self.pct_start < 1 - self.pct_flat:
            raise ValueError(
                f"three_phase needs pct_start below {(1 - self.pct_flat) / 2:g}: rising and falling take pct_start of "
                f"the steps each, and min_lr is reached in what they leave; got pct_start={self.pct_start!r}. "
                "Lower pct_start, or use three_phase=False."
            )
        if not self.pct_start <= 1 - self.pct_flat:
            raise ValueError(
                f"pct_start + pct_flat must be at most 1; got pct_start={self.pct_start!r}, "
                f"pct_flat={self.pct_flat!r}. Lower one of them."
            )

    def _check_momentum(self) -> None:
        lists = self._list_lengths()
        if len(set(lists.values())) > 1:
            raise ValueError(
                f"lists must have one value per parameter group, so the same length; got lengths {lists}. "
                "Give each group its value, or one number for all."
            )
        for group in range(max(lists.values(), default=1)):
            base, top = self._level("base_momentum", group), self._level("max_momentum", group)
            if not 0 <= base <= top < 1:
                raise ValueError(
                    "momentum must be in 0 <= base_momentum <= max_momentum < 1 (base is that at the peak); "
                    f"got base_momentum={base!r}, max_momentum={top!r}. "
                    "Swap them if that is it, or use cycle_momentum=False to leave momentum alone."
                )


def per_group(name: str, value: SupportsFloat | Sequence[SupportsFloat]) -> float | tuple[float, ...]:
    """Return a number, or a list with one number per parameter group, as plain floats.

    Plain, so that what reaches the optimizer is neither a tensor that somebody else changes nor a numpy number that
    ``torch.load(weights_only=True)`` refuses.

    Raises:
        ValueError: If it is neither.
    """
    numbers: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    try:
        floats = tuple(float(number) for number in numbers if isinstance(number, SupportsFloat))
    except (TypeError, ValueError, RuntimeError):  # a tensor with several elements
        floats = ()
    if len(floats) != len(numbers) or not floats:
        raise ValueError(
            f"{name} must be a number, or a list with one number per parameter group; got {value!r}. Give a float."
        )
    return floats if isinstance(value, (list, tuple)) else floats[0]


def _checked_peaks(max_lr: SupportsFloat | Sequence[SupportsFloat]) -> float | tuple[float, ...]:
    peaks = per_group("max_lr", max_lr)
    several = peaks if isinstance(peaks, tuple) else (peaks,)
    if not (all(0 <= peak < math.inf for peak in several) and max(several) > 0):
        raise ValueError(
            "max_lr must be above 0 and finite (in a list: none below 0, at least one above); "
            f"got {max_lr!r}. lrfind.range_test(work).suggest() measures one."
        )
    return peaks


def _checked_length(
    total_steps: SupportsIndex | None, epochs: SupportsIndex | None, steps_per_epoch: SupportsIndex | None
) -> int | None:
    if (epochs is None) != (steps_per_epoch is None):
        raise ValueError(
            "epochs and steps_per_epoch go together; "
            f"got epochs={epochs!r}, steps_per_epoch={steps_per_epoch!r}. Give both, or total_steps."
        )
    product = None
    if epochs is not None and steps_per_epoch is not None:
        product = _count("epochs", epochs) * _count("steps_per_epoch", steps_per_epoch)
    if total_steps is None:
        return product
    length = _count("total_steps", total_steps)
    if product not in (None, length):
        raise ValueError(
            f"total_steps must be epochs * steps_per_epoch where all are given; got total_steps={length}, "
            f"epochs={epochs!r}, steps_per_epoch={steps_per_epoch!r}. Give one or the other."
        )
    return length


def _count(name: str, value: SupportsIndex) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} must be a whole number, at least 1; got {value!r}. Count optimizer steps.")
    return count
