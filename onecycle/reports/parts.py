"""What a picture of a report is made of: curves with few enough points, and what is marked on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

DIGITS = 6  # of every number in the file

Limits = tuple[float, float]
"""The least and the largest value shown."""


def number(value: float | None, digits: int = 4) -> str:
    """Return a number as it is shown: with so many digits, whole ones with all; a dash for none.

    >>> number(0.99444444), number(1e-06), number(12345), number(float("nan")), number(None)
    ('0.9944', '1e-6', '12,345', 'nan', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve.

    Attributes:
        label: Its name.
        colour: Name of a variable in ``report.css``.
        x: Where it is drawn, as an index into ``Columns``.
        y: How high, likewise.
        dash: Lengths of dashes and gaps in pixels; empty for a solid line.
        width: Of the line, in pixels; 0 for points alone.
        points: Whether each point is marked.
        right: Whether it belongs to the axis on the right.
    """

    label: str
    colour: str
    x: int
    y: int
    dash: tuple[int, ...] = ()
    width: float = 2.0
    points: bool = False
    right: bool = False


@dataclass(frozen=True)
class Pin:
    """A learning rate with its name; ``y`` is where its pin is stuck into a curve, None for the whole height."""

    text: str
    x: float
    y: float | None = None
    colour: str = "ink"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One picture.

    Attributes:
        id: Unique in the file.
        title: What it shows.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical one.
        series: The curves.
        note: What one should know to read it.
        right_label: Name of a second vertical axis; "" where there is none.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical one is at first, which the reader can change; None: it cannot be.
        limits: Range of the vertical axis while all is in view; None: what the curves need.
        link: Charts with the same name here are zoomed together; "" for one on its own.
        pins: Learning rates that are marked.
        band: Range of x that is shaded, None for none.
        levels: Horizontal lines: name, height.
        spans: Parts of the x axis: name, begin, end.
    """

    id: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""
    right_label: str = ""
    log_x: bool = False
    log_y: bool | None = None
    limits: Limits | None = None
    link: str = ""
    pins: tuple[Pin, ...] = ()
    band: Limits | None = None
    levels: tuple[tuple[str, float], ...] = ()
    spans: tuple[tuple[str, float, float], ...] = ()


@dataclass
class Columns:
    """The numbers of all curves, each column once."""

    values: list[list[float | None]] = field(default_factory=list)
    _known: dict[tuple[float | None, ...], int] = field(default_factory=dict)

    def add(self, column: ArrayLike) -> int:
        """Keep a column, six digits of each number and None for what is not finite; return its index.

        >>> columns = Columns()
        >>> columns.add([1.23456789, math.nan, 100]), columns.add([1.0]), columns.add([1])
        (0, 1, 1)
        >>> columns.values
        [[1.23457, None, 100], [1]]
        """
        plain = [_short(value) for value in np.asarray(column, dtype=np.float64).tolist()]
        index = self._known.setdefault(tuple(plain), len(self.values))
        if index == len(self.values):
            self.values.append(plain)
        return index


def _short(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    # Steps must be exact, and 1 is shorter than 1.0.
    return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.{DIGITS}g}")


def thinned(values: NDArray[np.float64], most: int) -> NDArray[Any]:
    """Return the indices of the values to draw: first, last, and the lowest and the highest of each stretch.

    Args:
        values: Shape ``(n,)``; what is not finite is left out, but for the ends.
        most: All are kept where there are no more than these; else about so many.

    Returns:
        Integers, rising.

    >>> thinned(np.array([0.0, 5.0, 1.0, 1.0, -3.0, 1.0, 1.0, 1.0]), 4).tolist()
    [0, 1, 4, 5, 7]
    """
    count = len(values)
    if count <= most:
        return np.arange(count)
    kept = {0, count - 1}
    edges = np.linspace(0, count, most // 2 + 1).astype(int).tolist()
    for start, end in pairwise(edges):
        stretch = values[start:end]
        finite = np.flatnonzero(np.isfinite(stretch))
        if len(finite):
            kept |= {start + int(finite[np.argmin(stretch[finite])]), start + int(finite[np.argmax(stretch[finite])])}
    return np.array(sorted(kept))
