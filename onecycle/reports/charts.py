"""The pictures of a report, as plain data: of each run, and of several runs in one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lrfind.curve import LRCurve
from lrfind.plot import height_at, loss_range
from onecycle.logs import History
from onecycle.plot import loss_limits, smoothed_losses, steps_to_draw
from onecycle.reports.parts import Chart, Columns, Limits, Pin, Series, number, thinned
from onecycle.reports.record import Record

# No screen is wider. With many runs each has fewer points, so that the file stays below 2 MB.
MOST_POINTS, FEWEST_POINTS, POINTS_IN_ALL = 2000, 200, 16_000
# Each run has a colour and dashes of its own: twelve differ in both.
COLOURS = 6
DASHES: tuple[tuple[int, ...], ...] = ((), (8, 4), (2, 3), (10, 3, 2, 3))
# More points than this are not marked one by one.
MOST_MARKED = 80
# Losses whose largest is this many times the smallest are drawn on a logarithmic axis.
WIDE = 20.0
STEP = "optimizer step"


def metrics(history: History) -> list[str]:
    """Return the names of what was validated besides the loss, without ``val_``.

    >>> metrics(History([{"step": 1, "loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5, "val_ema_accuracy": 0.5}]))
    ['accuracy']
    """
    names = (name.removeprefix("val_") for name in history if name.startswith("val_"))
    plain = dict.fromkeys(name.removeprefix("ema_") for name in names)
    return [name for name in plain if name != "loss"]


class Charts:
    """Makes the pictures of runs; ``columns`` then holds the numbers that they refer to."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.columns = Columns()
        self.most = max(FEWEST_POINTS, min(MOST_POINTS, POINTS_IN_ALL // len(records)))
        self._losses = [np.array(record.history.get("loss", ())) for record in records]
        self._smoothed = [smoothed_losses(losses) for losses in self._losses]
        self._kept = [thinned(losses, self.most) for losses in self._losses]

    def of_run(self, index: int) -> list[Chart]:
        """Return the pictures of one run: range test, schedule, losses, each metric; none of what there is not."""
        record = self.records[index]
        charts = [self._schedule(index)]
        if record.curve is not None and len(record.curve):
            charts.insert(0, self._range_test(record, record.curve, f"range-{index}"))
        if record.history.rows:
            charts.append(self._training(index))
        for name in metrics(record.history):
            series = self._validated(index, name, label=name.replace("_", " "), colour="metric")
            charts.append(_over_steps(f"{name}-{index}", name, series, link=f"steps-{index}"))
        return charts

    def of_all(self) -> list[Chart]:
        """Return the pictures in which every run has a curve; none of what no run has."""
        runs = range(len(self.records))
        style: list[dict[str, Any]] = [
            {"label": record.name, "colour": f"run-{index % COLOURS}", "dash": DASHES[index % len(DASHES)]}
            for index, record in enumerate(self.records)
        ]
        peaks = [record.max_lr for record in self.records]
        losses = _flat(self._smoothed_loss(i, **style[i]) for i in runs)
        charts = [
            self._range_tests(style),
            _over_steps(
                "lr-all",
                "learning rate",
                _flat(self._column(i, "lr", **style[i]) for i in runs),
                log_y=max(peaks) > WIDE * min(peaks),
            ),
            _over_steps("momentum-all", "momentum", _flat(self._column(i, "momentum", **style[i]) for i in runs)),
            _over_steps(
                "loss-all",
                "training loss",
                losses,
                note=f"Smoothed. {self._thinning(*runs)}",
                log_y=self._logarithmic(losses),
                limits=_hull(loss_limits(self._losses[i], self._smoothed[i], []) for i in runs),
            ),
        ]
        for name in ["loss", *dict.fromkeys(name for record in self.records for name in metrics(record.history))]:
            series = _flat(self._validated(i, name, **style[i]) for i in runs)
            chart = _over_steps(f"val-{name}-all", f"validation {name}", series)
            charts.append(replace(chart, log_y=self._logarithmic(series)) if name == "loss" else chart)
        return [chart for chart in charts if chart.series]

    # -- each picture -------------------------------------------------------------------------------------------

    def _range_test(self, record: Record, curve: LRCurve, identity: str) -> Chart:
        smoothed = curve.smoothed()
        series = [
            self._curve(curve.lr, curve.loss, label="each step", colour="raw", width=0, points=True),
            self._curve(curve.lr, smoothed, label="smoothed", colour="train"),
        ]
        for replicate in curve.replicates:
            style = {"label": "repeated sweep", "colour": "train", "width": 0.8}
            series.append(self._curve(replicate.lr, replicate.smoothed(), **style))
        pins = [
            Pin(str(number), reading.lr, height_at(curve, smoothed, reading.lr))
            for number, reading in enumerate(record.readings, start=1)
            if reading.lr is not None
        ]
        if record.pick is not None:
            pins.append(Pin(f"pick {number(record.pick.lr, 3)}", record.pick.lr, colour="lr"))
        constant = curve.facts.get("constant_loss")
        levels: tuple[tuple[str, float], ...] = ()
        if isinstance(constant, int | float) and math.isfinite(constant):
            levels = (("best constant prediction", float(constant)),)
        return Chart(
            id=identity,
            title="Range test",
            note=f"{len(curve)} steps, ended: {curve.status}. Pins with a number are the rules of the table below."
            + (" The shaded range is how far to trust the pick." if record.pick is not None else ""),
            x_label="learning rate",
            y_label="loss",
            series=tuple(series),
            log_x=True,
            limits=loss_range(curve, smoothed),
            pins=tuple(pins),
            band=None if record.pick is None else (record.pick.low, record.pick.high),
            levels=levels,
        )

    def _range_tests(self, style: Sequence[dict[str, Any]]) -> Chart:
        series, limits, pins = [], [], []
        for index, record in enumerate(self.records):
            if record.curve is None or not len(record.curve):
                continue
            smoothed = record.curve.smoothed()
            series.append(self._curve(record.curve.lr, smoothed, **style[index]))
            limits.append(loss_range(record.curve, smoothed))
            if record.pick is not None:
                pins.append(Pin(number(record.pick.lr, 3), record.pick.lr, colour=style[index]["colour"]))
        return Chart(
            id="range-all",
            title="Range tests",
            note="Smoothed; each pin is the pick of a run.",
            x_label="learning rate",
            y_label="loss",
            series=tuple(series),
            log_x=True,
            limits=_hull(limits),
            pins=tuple(pins),
        )

    def _schedule(self, index: int) -> Chart:
        record, cycle = self.records[index], self.records[index].cycle
        levels = (cycle.initial_lr, record.max_lr, cycle.min_lr)
        series = self._column(index, "lr", label="learning rate", colour="lr")
        first = 1 + record.first_step  # steps of the history count from 1, those of a cycle from 0
        ahead = [step for step in steps_to_draw(cycle) if step + first >= max(record.history.rows, 1)]
        if record.history.rows < record.total_steps:
            lrs = [cycle.lr(step) for step in ahead]
            style = {"label": "planned", "colour": "lr", "width": 1.4, "dash": (2, 4)}
            series.append(self._curve(np.array(ahead) + first, lrs, **style))
        momentum = {"label": "momentum", "colour": "momentum", "dash": (8, 4), "right": True}
        series += self._column(index, "momentum", **momentum)
        return _over_steps(
            f"schedule-{index}",
            "learning rate",
            series,
            title="Schedule",
            note="From {} up to {} and down to {}.".format(*(number(lr, 3) for lr in levels)),
            right_label="momentum" if series[-1].right else "",
            # What is only planned would push the losses of a short run aside.
            link=f"steps-{index}" if record.history.rows == record.total_steps else "",
            spans=tuple(
                (phase.name, max(phase.start, 0.0) + first, phase.end + first)
                for phase in cycle.phases
                if phase.end > max(phase.start, 0.0)
            ),
        )

    def _training(self, index: int) -> Chart:
        history, losses, smoothed = self.records[index].history, self._losses[index], self._smoothed[index]
        validated = [row[name] for name in ("val_loss", "val_ema_loss") for row in history.where(name)]
        series = [
            *self._column(index, "loss", label="training, each step", colour="raw", width=0.8),
            *self._smoothed_loss(index, label="training, smoothed", colour="train"),
            *self._validated(index, "loss", label="validation", colour="val"),
        ]
        return _over_steps(
            f"loss-{index}",
            "loss",
            series,
            note=self._thinning(index),
            limits=loss_limits(losses, smoothed, validated),
            log_y=self._logarithmic(series),
            link=f"steps-{index}",
        )

    # -- the curves in them ---------------------------------------------------------------------------------------

    def _curve(self, x: ArrayLike, y: ArrayLike, **style: Any) -> Series:
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        kept = thinned(y, self.most)
        return Series(x=self.columns.add(x[kept]), y=self.columns.add(y[kept]), **style)

    def _column(self, index: int, name: str, **style: Any) -> list[Series]:
        history = self.records[index].history
        return [self._steps(index, history[name], **style)] if name in history else []

    def _smoothed_loss(self, index: int, **style: Any) -> list[Series]:
        return [self._steps(index, self._smoothed[index], **style)] if len(self._smoothed[index]) else []

    def _steps(self, index: int, values: ArrayLike, **style: Any) -> Series:
        # All columns at the same steps, those that the raw losses ask for: so each step is in the file once.
        kept = self._kept[index]
        steps = np.array(self.records[index].history["step"])[kept]
        return Series(x=self.columns.add(steps), y=self.columns.add(np.asarray(values)[kept]), **style)

    def _validated(self, index: int, metric: str, label: str, **style: Any) -> list[Series]:
        history = self.records[index].history
        averaged = {"label": f"{label}, averaged weights", "width": 1.0, "dash": (5, 3)}
        series = []
        for name, further in ((f"val_{metric}", {"label": label}), (f"val_ema_{metric}", averaged)):
            rows = history.where(name)
            if rows:
                points = [row["step"] for row in rows], [row[name] for row in rows]
                series.append(self._curve(*points, points=len(rows) <= MOST_MARKED, **{**further, **style}))
        return series

    def _logarithmic(self, series: Sequence[Series]) -> bool | None:
        """Tell whether curves are read better on a logarithmic axis; None where they cannot be drawn on one."""
        values = [value for one in series for value in self.columns.values[one.y] if value is not None]
        if not values or not min(values) > 0:
            return None
        return max(values) > WIDE * min(values)

    def _thinning(self, *runs: int) -> str:
        rows = max(len(self._losses[index]) for index in runs)
        drawn = max(len(self._kept[index]) for index in runs)
        if drawn == rows:
            return ""
        return f"Drawn from {drawn:,} of {rows:,} steps: the lowest and the highest loss of each stretch are kept."


def _over_steps(identity: str, y_label: str, series: Iterable[Series], **settings: Any) -> Chart:
    y_label = y_label.replace("_", " ")
    usual = {"title": y_label.capitalize(), "link": "steps-all"}
    return Chart(id=identity, x_label=STEP, y_label=y_label, series=tuple(series), **usual | settings)


def _flat(lists: Iterable[list[Series]]) -> list[Series]:
    return [series for some in lists for series in some]


def _hull(limits: Iterable[Limits | None]) -> Limits | None:
    known = [pair for pair in limits if pair is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None
