"""The curve of a sweep, drawn into a notebook while the sweep runs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from lrfind.curve import LRCurve, together
from lrfind.progress import tell

if TYPE_CHECKING:
    from lrfind.plot import ProgressPicture

# Seconds between two drawings, at least ...
INTERVAL = 0.4
# ... and so many times what the last one took: drawing gets a thirtieth of the time at most.
PAUSE = 29


class LiveCurve:
    """A picture in the output of a notebook's cell that follows a sweep; anywhere else, nothing at all.

    It is drawn anew at most every 0.4 s and in at most a thirtieth of the time, always in the same place, on figures
    that pyplot does not know. Leaving the context draws it once more: the whole curve with its pick, also after a
    Ctrl-C. If drawing fails, a line says so and the sweep goes on without.

    Args:
        curves: The sweeps that are over; the caller appends to it. Nothing is drawn at the end if it is empty.
        rates: shape ``(groups, steps)``. The rates that a sweep is going to use.
        shown: False draws nothing and loads nothing.

    >>> LiveCurve([], np.ones((1, 10)), shown=True).on  # not in a notebook
    False
    """

    def __init__(self, curves: Sequence[LRCurve], rates: NDArray[np.float64], *, shown: bool) -> None:
        self._curves = curves
        self._over = 0
        self._steps = rates.shape[1]
        self._end_lr = float(rates.max())
        self._lr: list[float] = []
        self._loss: list[float] = []
        self._handle: Any = None
        self._picture: ProgressPicture | None = None
        self._due = perf_counter() + INTERVAL
        self.on = shown and in_notebook()
        """Whether anything is drawn."""

    def point(self, lr: float, loss: float) -> None:
        """Take in a point of the sweep that runs, and draw it if it is time."""
        if not self.on:
            return
        if len(self._curves) > self._over:  # the first point of a further sweep
            self._over = len(self._curves)
            self._lr, self._loss = [], []
        self._lr.append(lr)
        self._loss.append(loss)
        if perf_counter() >= self._due:
            self._draw(self._write_progress)

    def _write_progress(self, file: BinaryIO) -> None:
        if self._picture is None:
            from lrfind.plot import ProgressPicture

            self._picture = ProgressPicture(self._steps, self._lr[0], self._end_lr)
        self._picture.save(file, LRCurve(self._lr, self._loss, "interrupted", replicates=self._curves))

    def _write_curve(self, file: BinaryIO) -> None:
        from lrfind.plot import save_picture

        save_picture(file, together(self._curves).plot, screen=True)

    def _draw(self, write: Callable[[BinaryIO], None]) -> None:
        began = perf_counter()
        try:
            import matplotlib.figure  # noqa: F401  # takes longer than a drawing, but only once

            began = perf_counter()
            self._show(write)
        except Exception as error:
            self.on = False
            tell(f"The picture of the running sweep could not be drawn ({error!r}); the sweep goes on without it.")
        now = perf_counter()
        self._due = now + max(INTERVAL, PAUSE * (now - began))

    def _show(self, write: Callable[[BinaryIO], None]) -> None:
        from IPython.display import display

        file = io.BytesIO()
        write(file)
        data = {"image/png": file.getvalue(), "text/plain": "<a learning-rate range test>"}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if not self.on or not self._curves or kind not in (None, KeyboardInterrupt):
            return
        try:
            self._draw(self._write_curve)
        except KeyboardInterrupt as stop:
            if kind is None:  # else one is under way already, with the curve
                stop.curve = together(self._curves)  # type: ignore[attr-defined]
                raise


def in_notebook() -> bool:
    """Say whether a Jupyter kernel runs this code: only such a one can draw into its output. Imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
