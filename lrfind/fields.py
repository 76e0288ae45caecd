"""How large weight decay, momentum or another field of the optimizer may be: a range test at each value."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrfind.compare import Comparison, compare
from lrfind.curve import LRCurve, NoSuggestion
from lrfind.groups import get_momentum, set_momentum
from lrfind.smoothing import read_shape
from lrfind.suggest import Rule, Suggestion, resolve
from lrfind.sweep import range_test
from lrfind.workload import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What "still allows a high max_lr" means, all in one place.
LOSS_SHARE = 0.1
"""A sweep goes as low as the best one if it misses by no more than this part of what that one fell by ..."""
LOSS_NOISE = 2.0
"""... or by this many standard deviations of the noise that is left in its smoothed losses, if that is more."""
LR_SHARE = 0.5
"""Its max_lr is high if it is at least this part of the highest one among those."""


@dataclass(frozen=True, eq=False, repr=False)
class FieldTest:
    """A curve for each value of an optimizer's field, and the value they speak for.

    The value is the largest that still allows a high ``max_lr``. First come only those whose lowest smoothed loss is
    as low as the lowest of all: above it by no more than 10 % of what that curve fell by, or two standard deviations
    of its noise if that is more. The highest ``max_lr`` among them is the measure: of those that reach at least half
    of it, the largest value is taken.

    Attributes:
        field: what was varied.
        values: in the order they were given.
        comparison: the curves, under the names ``"weight_decay 0.0001"`` and so on, and their picks.
    """

    field: str
    values: tuple[float, ...]
    comparison: Comparison

    @property
    def value(self) -> float:
        """The value chosen.

        Raises:
            NoSuggestion: If no curve gives a ``max_lr``.
        """
        return self._chosen().value

    @property
    def suggestion(self) -> Suggestion:
        """What the curve of the chosen value says on ``max_lr``.

        Raises:
            NoSuggestion: If no curve gives one.
        """
        return self.comparison.picks[_name(self.field, self.value)]

    @property
    def evidence(self) -> str:
        """What the choice rests on.

        Raises:
            NoSuggestion: If no curve gives a ``max_lr``.
        """
        return self._chosen().evidence

    @property
    def warnings(self) -> tuple[str, ...]:
        """Full sentences, each with what to do. Empty: nothing looked wrong.

        Raises:
            NoSuggestion: If no curve gives a ``max_lr``.
        """
        value, found = self.value, []
        if len(self.values) > 1 and value == max(self.values):
            found.append(f"{_said(value)} is the largest value tested, so a larger one may do too. Test further up.")
        if len(self.values) > 1 and value == min(self.values):
            found.append(
                f"{_said(value)} is the smallest value tested, so a smaller one may do better. Test lower ones."
            )
        return (*found, *self.suggestion.warnings)

    def table(self) -> list[dict[str, Any]]:
        """Return a row per value; see `lrfind.compare.Comparison.table`."""
        return self.comparison.table()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw all curves with their picks, that of the chosen value thick; see `lrfind.plot.plot_comparison`."""
        from lrfind.plot import plot_comparison

        curves, picks, reasons = self.comparison.curves, self.comparison.picks, self.comparison.reasons
        chosen = _name(self.field, self.value) if picks else None
        return plot_comparison(curves, picks, reasons, ax, chosen=chosen)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        try:
            said = f"{self.field} {_said(self.value)}, {self.suggestion}: {self.evidence}"
        except NoSuggestion as reason:
            said = str(reason)
        return f"{self.comparison}\n{said}"

    __repr__ = __str__

    def _chosen(self) -> _Choice:
        readings = [
            _read(value, self.comparison.curves[name], self.comparison.picks[name].lr)
            for value in self.values
            if (name := _name(self.field, value)) in self.comparison.picks
        ]
        if not readings:
            raise NoSuggestion(
                f"No value of {self.field} gives a curve that max_lr can be read off. The reasons are in the table; "
                "sweep from a lower start_lr, or test smaller values."
            )
        return _choose(self.field, readings)


def field_test(
    work: Workload, field: str, values: Sequence[float], *, rule: str | Rule | None = None, **settings: Any
) -> FieldTest:
    """Sweep the learning rate once per value of an optimizer's field, and choose the largest that trains well.

    Every sweep starts from the same weights and random states and sees the same batches; afterwards the workload is
    bit for bit as it was, the field included, also after an error.

    Args:
        work: What to train.
        field: A number that each of the optimizer's parameter groups holds, such as ``"weight_decay"``, ``"eps"`` or
            ``"dampening"``; it is set in all groups. ``"momentum"`` is beta1 in the Adam family.
        values: At least one, each finite and at least 0. Factors of 3 or 10 between them are usual.
        rule: Rule of the picks, as for ``lrfind.suggest``.
        settings: Of ``range_test``: ``val_batches=8`` compares validation losses, ``repeats=3`` averages.

    Returns:
        A ``FieldTest``: ``float(test)`` is the value, ``test.suggestion`` its ``max_lr``, ``print(test)`` the table
        and the reason, ``test.plot()`` all curves in one picture.

    Raises:
        ValueError: For an unknown field, a value out of range or one that the optimizer refuses, before any step.
        KeyboardInterrupt: On Ctrl-C, everything restored; the values so far are its attribute ``test``.

    Source:
        Smith, arXiv:1803.09820, section 4: larger learning rates, and more of each kind of regularization, as long
        as the range test still goes as low and as high.

    >>> import torch
    >>> model = torch.nn.Linear(3, 1)
    >>> batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3)]
    >>> work = Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.MSELoss(), batches)
    >>> test = field_test(work, "weight_decay", [0, 1e-3, 1.0], start_lr=1e-4, progress=False)
    >>> float(test), work.optimizer.param_groups[0]["weight_decay"]
    (0.001, 0)
    """
    resolve(rule)  # an unknown one is not to be found out after the sweeps
    _check_field(work.optimizer, field)
    numbers = _checked_values(field, values)
    if field == "momentum" and "momentum" in settings:
        raise ValueError(
            f"momentum is what the sweeps vary here; got momentum={settings['momentum']!r} as well. Leave it out."
        )
    for value in numbers:
        _check_accepted(work.optimizer, field, value)
    curves: dict[str, LRCurve] = {}
    try:
        for value in numbers:
            curves[_name(field, value)] = _sweep(work, field, value, settings)
    except KeyboardInterrupt as stop:
        done = [*curves.values(), *([stop.curve] if hasattr(stop, "curve") else [])]
        named = {_name(field, value): curve for value, curve in zip(numbers, done, strict=False)}
        if named:
            stop.test = FieldTest(field, numbers[: len(named)], compare(named, rule))  # type: ignore[attr-defined]
        raise
    return FieldTest(field, numbers, compare(curves, rule))


def weight_decay_test(
    work: Workload, values: Sequence[float], *, rule: str | Rule | None = None, **settings: Any
) -> FieldTest:
    """Choose the weight decay: ``field_test`` of ``"weight_decay"``.

    Smith tries 1e-3, 1e-4, 1e-5 and 0 for large nets, 1e-2 .. 1e-4 for small ones.

    >>> import torch
    >>> model = torch.nn.Linear(3, 1)
    >>> batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3)]
    >>> work = Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.MSELoss(), batches)
    >>> weight_decay_test(work, [1e-4, 1e-3], start_lr=1e-4, progress=False).field
    'weight_decay'
    """
    return field_test(work, "weight_decay", values, rule=rule, **settings)


def momentum_test(
    work: Workload, values: Sequence[float], *, rule: str | Rule | None = None, **settings: Any
) -> FieldTest:
    """Choose the momentum at the peak of a cycle (``base_momentum``): ``field_test`` of ``"momentum"``.

    Each sweep runs at its value from the first step to the last. Smith tries 0.9, 0.95, 0.97 and 0.99.

    >>> import torch
    >>> model = torch.nn.Linear(3, 1)
    >>> batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3)]
    >>> work = Workload(model, torch.optim.Adam(model.parameters()), torch.nn.MSELoss(), batches)
    >>> test = momentum_test(work, [0.8, 0.9], start_lr=1e-4, progress=False)
    >>> [curve.facts["momentum"] for curve in test.comparison.curves.values()]
    [0.8, 0.9]
    """
    return field_test(work, "momentum", values, rule=rule, **settings)


class _Reading(NamedTuple):
    value: float
    max_lr: float
    lowest: float
    within: float  # what another curve may miss ``lowest`` by


class _Choice(NamedTuple):
    value: float
    evidence: str


def _read(value: float, curve: LRCurve, max_lr: float) -> _Reading:
    shapes = [read_shape(one.lr, one.loss) for one in (curve, *curve.replicates) if len(one)]
    within = max(
        LOSS_SHARE * fmean(shape.drop for shape in shapes), LOSS_NOISE * fmean(shape.noise for shape in shapes)
    )
    return _Reading(value, max_lr, fmean(shape.lowest for shape in shapes), within)


def _choose(field: str, readings: Sequence[_Reading]) -> _Choice:
    best = min(readings, key=lambda reading: reading.lowest)
    low = [reading for reading in readings if reading.lowest <= best.lowest + best.within]
    top = max(low, key=lambda reading: reading.max_lr)
    high = [reading for reading in low if reading.max_lr >= LR_SHARE * top.max_lr]
    chosen = max(high, key=lambda reading: reading.value)
    evidence = (
        f"the largest of {len(readings)} values with a lowest loss ({chosen.lowest:.3g}) within {best.within:.2g} of "
        f"the best ({best.lowest:.3g}, at {_said(best.value)}) and a max_lr ({chosen.max_lr:.2g}) of at least "
        f"{LR_SHARE * top.max_lr:.2g}, {LR_SHARE:.0%} of the highest of these (at {_said(top.value)})"
    )
    for reading in sorted(readings):
        if reading.value > chosen.value:
            why = f"max_lr {reading.max_lr:.2g}" if reading in low else f"lowest loss {reading.lowest:.3g}"
            evidence += f"; not {_said(reading.value)}: {why}"
    return _Choice(chosen.value, evidence)


def _sweep(work: Workload, field: str, value: float, settings: dict[str, Any]) -> LRCurve:
    try:
        if field == "momentum":
            return range_test(work, momentum=value, **settings)
        with _field_set(work.optimizer, field, value):
            curve = range_test(work, **settings)
    except Exception as error:
        error.add_note(f"In the sweep with {field}={_said(value)}; the optimizer has its own value again.")
        raise
    return replace(curve, facts={**curve.facts, field: value})


@contextmanager
def _field_set(optimizer: Optimizer, field: str, value: float) -> Iterator[None]:
    before = [(group, group[field], float(group[field])) for group in optimizer.param_groups]
    try:
        for group, old, _ in before:
            group[field] = old.fill_(value) if isinstance(old, Tensor) else value
        yield
    finally:
        for group, old, number in before:
            group[field] = old.fill_(number) if isinstance(old, Tensor) else old


def _checked_values(field: str, values: Sequence[float]) -> tuple[float, ...]:
    end = ("below 1", 1.0) if field == "momentum" else ("finite", math.inf)
    allowed = f"values of {field} must be one or more numbers, each at least 0 and {end[0]}, none of them twice"
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{allowed}; got {values!r}. Pass a list, such as [0.0001, 0.001, 0.01].") from error
    bad = [value for value in numbers if not 0 <= value < end[1]]
    if not numbers or bad or len(set(numbers)) < len(numbers):
        raise ValueError(f"{allowed}; got {list(values)!r}. Pass a list of those worth a sweep each.")
    return numbers


def _check_field(optimizer: Optimizer, field: str) -> None:
    name = type(optimizer).__name__
    groups = optimizer.param_groups
    numbers = [
        key for key in groups[0] if key not in ("lr", "initial_lr") and all(_is_number(g.get(key)) for g in groups)
    ]
    if all(get_momentum(group) is not None for group in groups):
        numbers = ["momentum", *(key for key in numbers if key != "momentum")]
    if field not in numbers:
        raise ValueError(
            f"field must be a number in every parameter group, here of {name}: {', '.join(numbers) or 'it has none'}; "
            f"got {field!r}. The learning rate is what each sweep varies, and beta1 is called momentum."
        )


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_accepted(optimizer: Optimizer, field: str, value: float) -> None:
    """Ask the optimizer's own constructor, which is where torch's optimizers look at their settings."""
    build = partial(_like, optimizer)
    try:
        build(None, value)
    except Exception:
        return  # it cannot be built again from what its groups hold: the sweep will tell
    try:
        build(field, value)
    except ValueError as error:
        raise ValueError(
            f"{field} must be a value that {type(optimizer).__name__} takes; got {_said(value)} ({error}). "
            "Leave it out."
        ) from error


def _like(optimizer: Optimizer, field: str | None, value: float) -> None:
    known = inspect.signature(type(optimizer)).parameters
    group = {key: setting for key, setting in optimizer.param_groups[0].items() if not isinstance(setting, Tensor)}
    group["params"] = [torch.zeros(1, requires_grad=True)]
    if field == "momentum":
        set_momentum(optimizer, group, value)
    elif field is not None:
        group[field] = value
    type(optimizer)(**{key: setting for key, setting in group.items() if key in known})


def _name(field: str, value: float) -> str:
    return f"{field} {_said(value)}"


def _said(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
