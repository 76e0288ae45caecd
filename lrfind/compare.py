"""Several curves side by side: one table, one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrfind.curve import LRCurve, NoSuggestion
from lrfind.smoothing import read_shape
from lrfind.suggest import Rule, Suggestion, suggest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("curve", "max_lr", "low", "high", "rule", "ended", "lowest loss")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Curves by name, and what can be read off each.

    Attributes:
        curves: in the order they were given.
        picks: the suggestion of each curve that gives one.
        reasons: why the other curves give none.
    """

    curves: Mapping[str, LRCurve]
    picks: Mapping[str, Suggestion]
    reasons: Mapping[str, str]

    def table(self) -> list[dict[str, Any]]:
        """Return a row per curve: ``pandas.DataFrame(comparison.table())`` makes a table of them.

        Its keys are ``curve``, ``max_lr``, ``low``, ``high``, ``rule``, ``ended`` (the status), ``lowest loss`` (of
        the smoothed curve before it rises), ``warnings`` (a tuple) and ``reason``. A curve without a pick has its
        reason, and None in place of numbers and rule; with a pick the reason is empty.
        """
        return [self._row(name) for name in self.curves]

    def _row(self, name: str) -> dict[str, Any]:
        curve, pick = self.curves[name], self.picks.get(name)
        row: dict[str, Any] = dict.fromkeys(_COLUMNS)
        row |= {"curve": name, "ended": curve.status, "warnings": (), "reason": self.reasons.get(name, "")}
        if pick is not None:
            row |= {"max_lr": pick.lr, "low": pick.low, "high": pick.high, "rule": pick.rule}
            row |= {"lowest loss": read_shape(curve.lr, curve.loss).lowest, "warnings": pick.warnings}
        return row

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw all curves, smoothed, with their picks; see `lrfind.plot.plot_comparison`."""
        from lrfind.plot import plot_comparison

        return plot_comparison(self.curves, self.picks, self.reasons, ax)

    def __str__(self) -> str:
        rows = self.table()
        lines = [list(_COLUMNS), *([_cell(row[column], column) for column in _COLUMNS] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        text += [f"! {row['curve']}: {row['reason']}" for row in rows if row["reason"]]
        text += [f"! {row['curve']}: {warning}" for row in rows for warning in row["warnings"]]
        return "\n".join(text)

    __repr__ = __str__


def compare(curves: Mapping[str, LRCurve], rule: str | Rule | None = None) -> Comparison:
    """Read ``max_lr`` off several curves, to be printed as a table and drawn in one picture.

    A curve that gives no suggestion keeps its row, with the reason; the others are read all the same.

    Args:
        curves: name to curve, at least one.
        rule: as for ``lrfind.suggest``; the same for all.

    Returns:
        A ``Comparison``; printed, it is the table, and its ``plot()`` draws.

    Raises:
        ValueError: If there is no curve, something is none, or the rule is unknown.

    >>> import numpy as np
    >>> lr = np.geomspace(1e-4, 10, 101)
    >>> fall = 2 - 1 / (1 + (0.01 / lr) ** 2) + (lr / 1.0) ** 2
    >>> compare({"net": LRCurve(lr, fall, "diverged"), "flat": LRCurve(lr, 0 * lr + 2, "range end")})
    curve  max_lr  low    high  rule   ended      lowest loss
    net    0.031   0.005  0.19  level  diverged   1.03
    flat   -       -      -     -      range end  -
    ! flat: The loss never fell: from lr 0.0001 to 10 it stayed at 2, but for noise. Raise end_lr, and check that the \
optimizer holds the model's parameters and that the loss depends on them.
    """
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError(
            f"curves must map names to curves, at least one; got {curves!r}. "
            'Pass {"sgd": range_test(work), "adam": range_test(other)}.'
        )
    picks: dict[str, Suggestion] = {}
    reasons: dict[str, str] = {}
    for name, curve in curves.items():
        if not isinstance(curve, LRCurve):
            raise ValueError(
                f"curves must map names to LRCurves; got a {type(curve).__name__} for {name!r}. Pass what range_test "
                "returned, LRCurve.load(path), or LRCurve.from_history(finder.history)."
            )
        try:
            picks[name] = suggest(curve, rule)
        except NoSuggestion as reason:
            reasons[name] = str(reason)
    return Comparison(dict(curves), picks, reasons)


def _cell(value: Any, column: str) -> str:
    if value is None:
        return "-"
    digits = 4 if column == "lowest loss" else 2
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
