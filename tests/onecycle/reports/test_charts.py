"""onecycle.reports.charts: the right numbers in the right pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import onecycle
from lrfind import RULES, LRCurve
from onecycle.reports.charts import Charts
from onecycle.reports.parts import Chart
from onecycle.reports.record import Record, records

Make = Callable[..., Record]


def points(charts: Charts, chart: Chart, label: str) -> dict[float | None, float | None]:
    """Return a curve as a mapping from x to y."""
    (series,) = [series for series in chart.series if series.label == label]
    return dict(zip(charts.columns.values[series.x], charts.columns.values[series.y], strict=True))


def by_id(charts: list[Chart]) -> dict[str, Chart]:
    return {chart.id: chart for chart in charts}


def test_a_run_has_its_pictures(runs: dict[str, Path]):
    """Range test, schedule, losses and each metric; what there is nothing of is left out."""
    kinds = {name: [*by_id(Charts(records([runs[name]])).of_run(0))] for name in ("picked", "given", "started")}
    assert kinds["picked"] == ["range-0", "schedule-0", "loss-0", "accuracy-0"]
    assert kinds["given"] == ["schedule-0", "loss-0", "accuracy-0"]
    assert kinds["started"] == ["range-0", "schedule-0"]


def test_short_histories_are_drawn_point_by_point(runs: dict[str, Path]):
    """Every loss, lr and validation at its step, to six digits."""
    (record,) = records([runs["picked"]])
    charts = Charts([record])
    drawn = by_id(charts.of_run(0))
    for chart, label, column in [
        ("loss-0", "training, each step", "loss"),
        ("schedule-0", "learning rate", "lr"),
        ("schedule-0", "momentum", "momentum"),
        ("loss-0", "validation", "val_loss"),
        ("accuracy-0", "accuracy", "val_accuracy"),
    ]:
        expected = {row["step"]: row[column] for row in record.history.where(column)}
        assert points(charts, drawn[chart], label) == pytest.approx(expected, rel=1e-5), column


def test_every_rule_is_pinned_to_the_curve(runs: dict[str, Path]):
    """At its learning rate, numbered as in the table; the pick has the whole height and its trust range."""
    (record,) = records([runs["picked"]])
    assert record.curve is not None
    assert record.pick is not None
    chart = Charts([record]).of_run(0)[0]
    *rules, pick = chart.pins
    assert [pin.text for pin in rules] == [str(number) for number in range(1, len(RULES) + 1)]
    assert [pin.x for pin in rules] == [record.curve.suggest(rule).lr for rule in RULES]
    assert (pick.x, pick.y) == (record.pick.lr, None)
    assert chart.band == (record.pick.low, record.pick.high)


def test_a_curve_without_a_suggestion_has_no_pins(make_flat: LRCurve, record: Make):
    """Its rules say why not."""
    one = record(loss=[1.0, 0.5], lr=[0.1, 0.1])
    one = Record(name="flat", status="finished", history=one.history, cycle=one.cycle, curve=make_flat)
    assert Charts([one]).of_run(0)[0].pins == ()
    assert all("never fell" in reading.reason for reading in one.readings)


@pytest.fixture
def make_flat() -> LRCurve:
    """A curve that noise moves up and down, and nothing else."""
    return LRCurve(np.geomspace(1e-5, 1, 100), 1 + 0.01 * np.random.default_rng(0).normal(size=100), "range end")


def test_the_rest_of_an_unfinished_schedule_is_drawn_as_planned(runs: dict[str, Path]):
    """From the last step taken to the end."""
    (record,) = records([runs["killed"]])
    charts = Charts([record])
    planned = points(charts, by_id(charts.of_run(0))["schedule-0"], "planned")
    assert planned == pytest.approx({step: record.cycle.lr(step - 1) for step in range(77, 201)}, rel=1e-5)


def test_an_extended_run_shows_both_cycles(make: Callable[..., object], tmp_path: Path, no_pictures: None):
    """The history has both; the phases are those of the second, where it lies."""
    settings = {"max_lr": 0.05, "out_dir": tmp_path / "run", "progress": False}
    onecycle.fit(make(), total_steps=12, **settings)  # type: ignore[arg-type]
    onecycle.fit(make(), total_steps=32, resume="extend", **settings)  # type: ignore[arg-type]
    (record,) = records([tmp_path / "run"])
    chart = by_id(Charts([record]).of_run(0))["schedule-0"]
    assert (record.first_step, record.total_steps, record.history.rows) == (12, 32, 32)
    assert [(name, start, end) for name, start, end in chart.spans] == [
        ("warm-up", 13.0, 18.0),
        ("anneal-down", 18.0, 32.0),
    ]
    assert not [series for series in chart.series if series.label == "planned"]


def test_long_histories_are_thinned_and_say_so(record: Make):
    """100,000 steps: 2000 points or so, the lowest and the highest loss among them, all curves at the same steps."""
    losses = np.random.default_rng(0).normal(5, 1, size=100_000)
    losses[77_777] = 1e3
    charts = Charts([record(loss=losses.tolist(), lr=[0.1] * 100_000)])
    chart = by_id(charts.of_run(0))["loss-0"]
    raw = points(charts, chart, "training, each step")
    assert len(raw) <= 2002
    assert raw[77_778] == 1000
    assert min(value for value in raw.values() if value is not None) == pytest.approx(losses.min(), rel=1e-5)
    assert points(charts, chart, "training, smoothed").keys() == raw.keys()
    assert "of 100,000 steps" in chart.note


def test_what_is_not_finite_leaves_a_gap(record: Make):
    """None in the file, and a picture all the same."""
    charts = Charts([record(loss=[1.0, math.nan, math.inf, 0.5], lr=[0.1] * 4)])
    chart = by_id(charts.of_run(0))["loss-0"]
    assert points(charts, chart, "training, each step") == {1: 1, 2: None, 3: None, 4: 0.5}
    assert chart.limits is not None
    assert all(map(math.isfinite, chart.limits))


def test_losses_that_fall_far_are_drawn_by_their_logarithm(record: Make):
    """Where they can be: not with a loss below 0."""
    far = Charts([record(loss=[1.0, 0.1, 0.01], lr=[0.1] * 3)]).of_run(0)[1]
    near = Charts([record(loss=[1.0, 0.9, 0.8], lr=[0.1] * 3)]).of_run(0)[1]
    negative = Charts([record(loss=[1.0, 0.1, -0.01], lr=[0.1] * 3)]).of_run(0)[1]
    assert (far.log_y, near.log_y, negative.log_y) == (True, False, None)


def test_several_runs_share_each_picture(runs: dict[str, Path]):
    """A curve for each run that has one, all of them of different colour or dashes."""
    names = ["picked", "given", "diverged", "killed", "started"]
    drawn = by_id(Charts(records([runs[name] for name in names])).of_all())
    labels = {key: [series.label for series in chart.series] for key, chart in drawn.items()}
    assert labels["range-all"] == ["picked", "killed", "started"]
    assert labels["lr-all"] == labels["loss-all"] == names[:-1]
    assert labels["val-loss-all"][:3] == ["picked", "given", "given, averaged weights"]
    assert "val-accuracy-all" in drawn
    assert len({(series.colour, series.dash) for series in drawn["lr-all"].series}) == 4


def test_twelve_runs_look_different(record: Make):
    """In colour and dashes together."""
    drawn = Charts([record(str(number), loss=[1.0], lr=[0.1]) for number in range(12)]).of_all()
    assert len({(series.colour, series.dash) for series in by_id(drawn)["lr-all"].series}) == 12
