"""Tests of onecycle.plot: the picture of a schedule."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from onecycle import OneCycle


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def names(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(
    ("cycle", "expected"),
    [
        (OneCycle(0.5, 100), ["warm-up", "anneal-down"]),
        (OneCycle(0.5, 100, three_phase=True), ["warm-up", "anneal-down", "annihilation"]),
        (OneCycle.smith(0.5, 100), ["warm-up", "anneal-down", "flat"]),
        (OneCycle(0.5, 100, pct_start=0.01), ["anneal-down"]),
        (OneCycle(0.5, 100, pct_start=1.0), ["warm-up"]),
        (OneCycle(0.5, 1), []),
    ],
)
def test_phases_are_named_where_they_have_width(cycle, expected):
    """The phases that a run goes through, and no other, stand in the picture by name, in the order of the run."""
    assert names(cycle.plot()) == expected


def test_the_lines_are_the_schedule():
    """lr solid on the left axis, momentum dashed on the right, one point per step of a short cycle."""
    cycle = OneCycle(0.5, 100)
    ax = cycle.plot()
    _, right = ax.figure.axes
    lr, momentum = ax.lines[0], right.lines[0]

    assert lr.get_xdata().tolist() == list(range(100))
    assert lr.get_ydata().tolist() == cycle.lrs().tolist()
    assert momentum.get_ydata().tolist() == cycle.momentums().tolist()
    assert (lr.get_linestyle(), momentum.get_linestyle()) == ("-", "--")
    assert (ax.get_ylabel(), right.get_ylabel()) == ("learning rate (solid)", "momentum (dashed)")
    assert ax.get_xlabel() == "optimizer step"


def test_a_long_cycle_is_drawn_with_its_corners():
    """A million steps are drawn from some thousand, the peak and both ends among them."""
    cycle = OneCycle(0.5, 999_999, anneal_strategy="linear")
    steps, lrs = cycle.plot().lines[0].get_data()

    assert len(steps) < 2010
    assert (steps[0], steps[-1]) == (0, 999_998)
    assert lrs.max() == max(cycle.lr(step) for step in range(299_990, 300_010))


def test_a_cycle_that_leaves_momentum_alone_has_one_axis():
    """cycle_momentum=False: no momentum is drawn."""
    assert len(OneCycle(0.5, 100, cycle_momentum=False).plot().figure.axes) == 1


def test_each_group_has_its_line():
    """A list of peaks gives a line per group, the one with the largest peak the thickest."""
    lines = OneCycle([0.1, 0.5, 0.2], 100).plot().lines

    assert [line.get_ydata().max() for line in lines] == pytest.approx([0.1, 0.5, 0.2])
    assert max(lines, key=lambda line: line.get_linewidth()) is lines[1]


def test_draws_into_given_axes():
    """With ax the picture goes there, and no figure is made."""
    _, axes = plt.subplots(1, 2)
    before = plt.get_fignums()

    assert OneCycle(0.5, 100).plot(axes[1]) is axes[1]
    assert plt.get_fignums() == before
    assert not axes[0].lines


@pytest.mark.parametrize(
    ("cycle", "missing"), [(OneCycle(0.5), "total_steps is not set"), (OneCycle(None, 9), "max_lr")]
)
def test_a_shape_cannot_be_drawn(cycle, missing):
    """Without length or peak the error says which to give, and no empty figure stays behind."""
    with pytest.raises(ValueError, match=missing):
        cycle.plot()
    assert plt.get_fignums() == []
