"""From a curve to ``max_lr``: our rule, how far to trust it, and when not to."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import stdev

import numpy as np

from lrfind import peers
from lrfind.curve import MIN_POINTS, LRCurve, NoSuggestion
from lrfind.smoothing import Shape, is_number, kernel_steps, read_shape, usable_points

Rule = Callable[[LRCurve], float]
"""A pick rule: a pure function from a curve to a learning rate, which may raise ``NoSuggestion``."""

__all__ = ["DEFAULT_RULE", "RULES", "NoSuggestion", "Rule", "Suggestion", "level", "suggest"]

# The constants of the suggestion, all in one place.
LEVEL = 0.5
"""Our rule averages the lr of the minimum with the lr where this part of the drop is reached."""
FLAT = 4.0
"""A fall of the loss by less than this many standard errors is none ..."""
FLAT_BEFORE_RISE = 1.0
"""... but this is enough where the lowest point stands right before the blow-up: noise puts it anywhere ..."""
BEFORE_RISE = 0.15
"""... that is, in the last part of the decades between the first lr and the blow-up."""
WEAK = 8.0
"""A fall by less than this is doubtful."""
RISE = 8.0
"""A curve that never fell has blown up if it rose by this many standard deviations of its smoothed noise."""
MIN_DECADES = 0.5
"""A range narrower than this shows too little of the curve."""
SCATTER = 0.62
"""Standard deviation of log10(pick / best max_lr) between tasks, for our rule on one sweep: the 70 of the regret study
on which rules were chosen."""
SEED_SCATTER = 0.15
"""The part of it that comes from the seed of the sweep, which replicates average out."""
CONFIDENCE_Z = 1.2816
"""low..high is to hold the best max_lr in 80 % of tasks: this many standard deviations each way."""
CONFIDENCE_T = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383)
"""The same by Student, for 1, 2, ... 9 degrees of freedom."""
DISAGREEMENT = 10.0
"""Rules that are further apart than this factor do not see the same thing."""
EDGE = 10**0.25
"""A pick within this factor of the first or last lr is at the edge."""


@dataclass(frozen=True)
class Suggestion:
    """A learning rate with what it is worth.

    Attributes:
        lr: the suggested ``max_lr`` (of the parameter group with the largest rate).
        low: with ``high``, the range that holds the best ``max_lr`` in about 80 % of tasks.
        high: at least ``lr``.
        rule: name of the rule.
        warnings: full sentences, each with what to do. Empty: nothing looked wrong.
        group_lrs: the suggestion for every parameter group, in the optimizer's order.
        evidence: what it rests on.
        steps_used: optimizer steps spent on it beyond the curve; 0 for a reading of a curve.

    >>> pick = Suggestion(0.1, low=0.03, high=0.3, rule="level")
    >>> float(pick), str(pick)
    (0.1, 'max_lr 0.1 (0.03 to 0.3), rule level')
    """

    lr: float
    low: float
    high: float
    rule: str
    warnings: tuple[str, ...] = ()
    group_lrs: tuple[float, ...] = ()
    evidence: str = ""
    steps_used: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.lr <= self.high < math.inf:
            raise ValueError(
                "A suggestion needs 0 < low <= lr <= high, all finite; "
                f"got low={self.low!r}, lr={self.lr!r}, high={self.high!r}."
            )

    def __float__(self) -> float:
        return self.lr

    def __str__(self) -> str:
        return f"max_lr {self.lr:.2g} ({self.low:.2g} to {self.high:.2g}), rule {self.rule}"

    def _repr_html_(self) -> str:
        # What a notebook shows of a cell that ends in a suggestion. No colours: it may be light or dark.
        lines = [
            f"<b>max_lr {self.lr:.3g}</b>, rule {html.escape(self.rule)}",
            f"trust range {self.low:.2g} to {self.high:.2g}",
            html.escape(self.evidence),
            *(f"&#9888; {html.escape(warning)}" for warning in self.warnings),
        ]
        return "<br>".join(filter(None, lines))


def level(curve: LRCurve) -> float:
    """Return the geometric mean of the rates where half of the drop is reached and where the loss is lowest.

    Both are read off the smoothed curve (`lrfind.smoothing.smooth`) before it rises. A loss that is merely
    brought down to what the best constant predictor gets is no learning: where ``facts["constant_loss"]`` is
    known, the drop is counted from there.

    Raises:
        NoSuggestion: If the curve has too few points, too narrow a range, or no drop beyond its noise.

    >>> lr = np.geomspace(1e-4, 10, 101)
    >>> loss = 2 - 1 / (1 + (0.01 / lr) ** 2) + (lr / 1.0) ** 2  # falls around 0.01, rises around 1
    >>> round(level(LRCurve(lr, loss, "diverged")), 3)
    0.031
    """
    return _level(curve, _checked_shape(curve))


RULES: Mapping[str, Rule] = {
    "level": level,
    "steepest": peers.steepest,
    "minimum": peers.minimum,
    "steep": peers.steep,
    "valley": peers.valley,
    "slide": peers.slide,
    "lightning": peers.lightning,
    "ignite": peers.ignite,
}
"""The rules by name: ours, and those of other tools (`lrfind.peers`)."""
DEFAULT_RULE = "level"


def suggest(curve: LRCurve, rule: str | Rule | None = None) -> Suggestion:
    """Read ``max_lr`` for one cycle off a curve.

    With replicates, the pick is the geometric mean over all sweeps, and their spread counts towards
    ``low``..``high``.

    Args:
        curve: what a range test returned.
        rule: one of ``RULES``, or any function from a curve to a positive learning rate; by default ``level``.
            Of another rule the errors are not known: its ``low``..``high`` is that of ``level``, stretched to
            hold its pick.

    Returns:
        The suggestion; never None.

    Raises:
        NoSuggestion: If nothing can be read off the curve, whatever the rule; the message says why.
        ValueError: If the rule is unknown, or a rule of your own returns no positive finite number.

    >>> curve = LRCurve([0.001, 0.01, 0.1], [2.3, 1.0, 3.0], "too few points")
    >>> suggest(curve)
    Traceback (most recent call last):
        ...
    lrfind.curve.NoSuggestion: Too few points: 3, and at least 10 are needed. Sweep in more steps (num_iter).
    """
    name, function = resolve(rule)
    shape = _checked_shape(curve)
    ours = _picks(curve, level)
    picks = ours if function is level else _picks(curve, function, name)
    lr = _geometric_mean(picks)
    low, high = _trust_range(curve, shape, ours)
    return Suggestion(
        lr=lr,
        low=min(low, lr),
        high=max(high, lr),
        rule=name,
        warnings=tuple(_warnings(curve, shape, lr, picks)),
        group_lrs=_group_lrs(curve, lr),
        evidence=_evidence(curve, shape),
    )


def resolve(rule: str | Rule | None) -> tuple[str, Rule]:
    """Return a rule's name and the rule.

    Raises:
        ValueError: If it is unknown.
    """
    if rule is None:
        rule = DEFAULT_RULE
    if isinstance(rule, str) and rule in RULES:
        return rule, RULES[rule]
    if isinstance(rule, str) or not callable(rule):
        raise ValueError(
            f"rule must be one of {', '.join(RULES)}, or a function from a curve to a learning rate; "
            f"got {rule!r}. Leave it out for {DEFAULT_RULE}."
        )
    return getattr(rule, "__name__", type(rule).__name__), rule


def _checked_shape(curve: LRCurve) -> Shape:
    """Read a curve's shape; raise if nothing can be read off it."""
    if len(curve) and not is_number(curve.loss).any():
        raise NoSuggestion(
            "The losses are not finite from the first step on. Check the loss on one batch without a sweep, "
            "then sweep from a lower start_lr."
        )
    if len(curve) < MIN_POINTS:
        raise NoSuggestion(
            f"Too few points: {len(curve)}, and at least {MIN_POINTS} are needed. Sweep in more steps (num_iter)."
        )
    usable = usable_points(curve.loss)
    finite = int(is_number(curve.loss[:usable]).sum())
    if finite < MIN_POINTS:
        raise NoSuggestion(
            f"Only {finite} of {len(curve)} losses are finite before they stay non-finite; at least {MIN_POINTS} "
            "are needed. Sweep from a lower start_lr, or in more steps (num_iter)."
        )
    blew_up = curve.status in ("diverged", "non-finite")
    if not (blew_up or curve.lr[-1] >= curve.lr[0] * 10**MIN_DECADES):
        raise NoSuggestion(
            f"The range {curve.lr[0]:.3g} to {curve.lr[-1]:.3g} is too narrow: less than half a decade. "
            "Sweep over several decades (start_lr, end_lr)."
        )
    shape = read_shape(curve.lr, curve.loss)
    if shape.drop > shape.rounding and shape.fall_z > _least_fall(curve, shape):
        return shape
    if blew_up or float(shape.smoothed.max()) - shape.start > RISE * shape.noise:
        raise NoSuggestion(
            f"The loss never fell before it blew up (by lr {min(_ceiling(curve, shape), curve.lr[-1]):.2g}): "
            "it diverged at once. Sweep from a lower start_lr."
        )
    raise NoSuggestion(
        f"The loss never fell: from lr {curve.lr[0]:.2g} to {curve.lr[-1]:.2g} it stayed at {shape.start:.4g}, "
        "but for noise. Raise end_lr, and check that the optimizer holds the model's parameters and that the "
        "loss depends on them."
    )


def _least_fall(curve: LRCurve, shape: Shape) -> float:
    """Return how many standard errors the loss must have fallen by."""
    first, bottom = float(curve.lr[0]), float(curve.lr[shape.bottom])
    last_part = (1 - BEFORE_RISE) * math.log(_ceiling(curve, shape) / first)
    return FLAT_BEFORE_RISE if math.log(bottom / first) > last_part else FLAT


def _level(curve: LRCurve, shape: Shape) -> float:
    log_lr = np.log10(curve.lr)
    descent = shape.smoothed[: shape.bottom + 1]
    threshold = _drop_start(curve, shape) * (1 - LEVEL) + float(descent[-1]) * LEVEL
    # From the minimum back: an early dip of the noise below the threshold does not count.
    last = int(np.flatnonzero(descent > threshold)[-1])
    part = (descent[last] - threshold) / (descent[last] - descent[last + 1])
    reached = log_lr[last] + part * (log_lr[last + 1] - log_lr[last])
    return float(10 ** ((reached + log_lr[shape.bottom]) / 2))


def _drop_start(curve: LRCurve, shape: Shape) -> float:
    """Loss from which the drop is counted: the start, or a constant predictor's where that is beaten."""
    constant = _constant_loss(curve)
    if constant is None or not constant - shape.lowest > max(FLAT * shape.noise, shape.rounding):
        return shape.start
    return min(shape.start, constant)


def _constant_loss(curve: LRCurve) -> float | None:
    """Loss of the best constant predictor, None if it is not known or no number."""
    constant = curve.facts.get("constant_loss")
    return float(constant) if isinstance(constant, int | float) and math.isfinite(constant) else None


def _picks(curve: LRCurve, rule: Rule, name: str = DEFAULT_RULE) -> list[float]:
    """Apply a rule to the curve and to those of its replicates that allow it."""
    picks = [_checked_pick(rule(curve), name)]
    for replicate in curve.replicates:
        try:
            picks.append(_checked_pick(rule(replicate), name))
        except NoSuggestion:
            continue
    return picks


def _checked_pick(lr: float, name: str) -> float:
    if not 0 < lr < math.inf:
        raise ValueError(f"A rule must return a positive finite learning rate; {name!r} returned {lr!r}.")
    return float(lr)


def _geometric_mean(picks: list[float]) -> float:
    # Over one pick it must be that pick, to the last bit.
    return picks[0] if len(picks) == 1 else float(np.exp(np.mean(np.log(picks))))


def _trust_range(curve: LRCurve, shape: Shape, picks: list[float]) -> tuple[float, float]:
    """Return the range in which the best ``max_lr`` lies in about 80 % of tasks."""
    lr = _geometric_mean(picks)
    decades = CONFIDENCE_Z * SCATTER
    if len(picks) > 1:
        between_tasks = CONFIDENCE_Z * math.sqrt(SCATTER**2 - SEED_SCATTER**2)
        t = CONFIDENCE_T[min(len(picks) - 1, len(CONFIDENCE_T)) - 1]
        decades = math.hypot(between_tasks, t * stdev(map(math.log10, picks)) / math.sqrt(len(picks)))
    return lr / 10**decades, min(lr * 10**decades, _ceiling(curve, shape))


def _ceiling(curve: LRCurve, shape: Shape) -> float:
    """Return the lr at which the loss blew up, inf if it did not."""
    if shape.risen is not None:
        return float(curve.lr[shape.risen])
    if len(shape.smoothed) < len(curve):
        return float(curve.lr[len(shape.smoothed)])
    return float(curve.lr[-1]) if curve.status in ("diverged", "non-finite") else math.inf


def _warnings(curve: LRCurve, shape: Shape, lr: float, picks: list[float]) -> list[str]:
    first, last = float(curve.lr[0]), float(curve.lr[-1])
    turned = math.isfinite(_ceiling(curve, shape))
    at_end = shape.bottom >= len(shape.smoothed) - 1 - 2 * kernel_steps(curve.lr)
    constant = _constant_loss(curve)
    rates = _families(curve, shape, lr)
    sweeps = 1 + len(curve.replicates)
    found = []
    if curve.status == "interrupted":
        found.append(f"The sweep was interrupted at lr {last:.2g}. Run it to its end for a pick to rely on.")
    elif not turned and at_end:
        found.append(
            f"The sweep ended at lr {last:.2g} before the loss turned, so the best lr may lie above. Raise end_lr."
        )
    elif not turned and lr * EDGE > last:
        found.append(f"The pick is at the upper edge of the range ({last:.2g}). Raise end_lr.")
    if lr < first * EDGE:
        found.append(f"The pick is at the lower edge of the range ({first:.2g}). Lower start_lr.")
    if shape.fall_z < WEAK:
        found.append(
            f"The loss fell by only {shape.fall_z:.1f} standard errors of its noise. Sweep in more steps "
            "(num_iter), with larger batches, or several times (repeats=)."
        )
    if constant is not None and not _loss_at(curve, shape, lr) < constant:
        found.append(
            f"At the pick the loss is not below {constant:.4g}, what the best constant predictor gets: the model "
            "has learned nothing of its inputs yet. Normalise them, or sweep in more steps (num_iter)."
        )
    if max(rates.values()) > DISAGREEMENT * min(rates.values()):
        listed = ", ".join(f"{name} {rate:.2g}" for name, rate in rates.items())
        found.append(
            f"Rules disagree by more than a decade ({listed}). Look at the curve, and compare rates from that "
            "range in short runs."
        )
    if len(picks) < sweeps:
        found.append(
            f"{sweeps - len(picks)} of {sweeps} sweeps gave no suggestion. Look at them (curve.replicates) "
            "before relying on the others."
        )
    if max(picks) > DISAGREEMENT * min(picks):
        found.append(
            f"Repeated sweeps disagree by more than a decade ({min(picks):.2g} to {max(picks):.2g}). Sweep in "
            "more steps (num_iter) or with larger batches."
        )
    if curve.facts.get("source") == "history":
        found.append(
            "The losses come smoothed by a moving average, whose lag moves the pick up and hides their noise. "
            "Sweep with lrfind.LRFinder or lrfind.range_test, which keep the raw losses."
        )
    return found


def _loss_at(curve: LRCurve, shape: Shape, lr: float) -> float:
    return float(np.interp(math.log(lr), np.log(curve.lr[: len(shape.smoothed)]), shape.smoothed))


def _families(curve: LRCurve, shape: Shape, lr: float) -> dict[str, float]:
    """Return what three families of rules say on the same smoothed curve."""
    descent = shape.smoothed[: shape.bottom + 1]
    # The fall over two kernel widths: from step to step, the steepest place is mostly noise.
    reach = max(1, round(kernel_steps(curve.lr)))
    steps = np.arange(len(descent))
    falls = descent[np.maximum(steps - reach, 0)] - descent[np.minimum(steps + reach, len(descent) - 1)]
    return {
        "this pick": lr,
        "a tenth of the minimum's": float(curve.lr[shape.bottom]) / 10,
        "steepest fall": float(curve.lr[int(np.argmax(falls))]),
    }


def _group_lrs(curve: LRCurve, lr: float) -> tuple[float, ...]:
    """Return every group's rate where the reference rate is ``lr``: log-interpolated along the sweep."""
    rates = []
    for row in curve.group_lrs:
        ratios = row / curve.lr
        if (ratios > 0).all():
            ratio = math.exp(np.interp(math.log(lr), np.log(curve.lr), np.log(ratios)))
        else:  # a group that is frozen, at least for a while
            ratio = float(np.interp(math.log(lr), np.log(curve.lr), ratios))
        rates.append(lr * ratio)
    return tuple(rates)


def _evidence(curve: LRCurve, shape: Shape) -> str:
    sweeps = f"{1 + len(curve.replicates)} sweeps, the first" if curve.replicates else "one sweep"
    return (
        f"{sweeps} of {len(curve)} steps, lr {curve.lr[0]:.2g} to {curve.lr[-1]:.2g} ({curve.status}), "
        f"loss {shape.start:.3g} to {shape.lowest:.3g}"
    )
