"""Tests of lrfind.plot: pictures of any curve, without a screen, on anybody's axes."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from lrfind.compare import compare
from lrfind.curve import LRCurve
from lrfind.palette import PICK
from lrfind.plot import ProgressPicture, plot_curve
from lrfind.suggest import Suggestion

LR = np.geomspace(1e-7, 10, 100)


def curve(**changes: Any) -> LRCurve:
    loss = 2.3 - 1.8 / (1 + (0.01 / LR) ** 1.5) + np.minimum((LR / 1.6) ** 3, 1e4)
    loss += 0.05 * np.random.default_rng(0).normal(size=len(LR))
    facts = {"optimizer": "SGD", "batch_size": 64, "constant_loss": 2.29}
    return LRCurve(**({"lr": LR, "loss": loss, "status": "diverged", "facts": facts} | changes))


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def remarks(ax: Axes) -> str:
    return " ".join(" ".join(text.get_text() for text in ax.texts).split())


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def show(*_: Any, **__: Any) -> None:
        raise AssertionError("plt.show() was called")

    monkeypatch.setattr(plt, "show", show)
    yield
    plt.close("all")


def test_draws_on_the_axes_it_is_given():
    """With ax: that ax is returned and no figure made; without: the axes of one new figure."""
    _, (left, right) = plt.subplots(1, 2)

    assert curve().plot(ax=right) is right
    assert (len(plt.get_fignums()), left.has_data()) == (1, False)
    assert curve().plot() is not right
    assert len(plt.get_fignums()) == 2


def test_shows_what_was_measured_and_picked():
    """Raw losses, smoothed curve, pick and range are there, by name and value; axes are labelled, lr is log."""
    pick = curve().suggest()
    ax = plot_curve(curve())

    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate (log scale)", "training loss")
    assert ax.get_title(loc="left") == "100 steps, ended: diverged, SGD, batch 64"
    assert legend(ax) == [
        "raw",
        "smoothed",
        "best constant prediction",
        f"trust range: {pick.low:.2g} to {pick.high:.2g}",
        f"level: {pick.lr:.2g}",
    ]
    drawn = [line for line in ax.lines if line.get_color() == PICK]
    assert [float(line.get_xdata()[0]) for line in drawn] == [pick.lr]


def test_marks_other_rules_on_request():
    """rules= adds a marker and a legend entry per rule, each with a marker of its own."""
    ax = curve().plot(rules=["steepest", "minimum", "valley"])

    marked = [line for line in ax.lines if line.get_label().split(":")[0] in ("steepest", "minimum", "valley")]
    assert len({line.get_marker() for line in marked}) == 3
    assert {to_rgba(line.get_color()) for line in marked} == {to_rgba(PICK)}
    with pytest.raises(ValueError, match=r"rule must be one of level, .* got 'stepest'"):
        curve().plot(rules=["stepest"])


def test_marks_the_suggestion_it_is_given():
    """A suggestion from elsewhere (a pilot run, say) is drawn in place of the curve's own, with its warnings."""
    given = Suggestion(0.5, low=0.2, high=0.9, rule="pilots", warnings=("Something looked odd. Look again.",))
    ax = plot_curve(curve(), given)

    assert "pilots: 0.5" in legend(ax)
    assert remarks(ax) == "! Something looked odd. Look again."


@pytest.mark.parametrize("blow_up", [1e2, 1e8, 1e30])
def test_limits_ignore_the_blow_up(blow_up):
    """However high the last losses are, the picture shows start, drop and noise, and little above."""
    loss = curve().loss.copy()
    loss[-3:] = blow_up

    low, high = curve(loss=loss).plot().get_ylim()

    assert low < curve().loss.min() < 2.3 < high < 4.0
    assert low > -1.0


@pytest.mark.parametrize(
    ("drawn", "text"),
    [
        (curve(lr=LR[:70], loss=curve().loss[:70], status="range end"), "! The sweep ended at lr"),
        (curve(loss=np.full(100, 2.3)), "! No suggestion. The loss never fell before it blew up"),
        (curve(loss=np.full(100, math.nan), status="non-finite"), "! No suggestion. The losses are not finite"),
        (LRCurve([], [], "too few points"), "! No suggestion. Too few points: 0"),
        (LRCurve([0.1], [2.0], "too few points"), "! No suggestion. Too few points: 1"),
        (curve(loss=np.where(np.arange(100) > 60, np.inf, curve().loss)), "raw"),
        (curve(replicates=[curve(), curve()]), "raw"),
    ],
    ids=["unturned", "flat", "nan", "empty", "one point", "inf", "replicates"],
)
def test_any_curve_is_drawn_to_a_file(drawn, text, tmp_path):
    """Good or bad, the picture is made, saved without a screen, and says what is wrong."""
    ax = drawn.plot()
    ax.figure.savefig(tmp_path / "curve.png")

    assert text in remarks(ax) + " ".join(legend(ax))
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_remarks_lie_inside_the_picture():
    """Long warnings are wrapped: the saved figure holds every letter of them."""
    ax = curve(loss=np.full(100, 2.3), status="range end").plot()
    ax.figure.canvas.draw()

    text, figure = ax.texts[0].get_window_extent(), ax.figure.bbox
    assert figure.x0 <= text.x0 < text.x1 <= figure.x1
    assert figure.y0 <= text.y0 < text.y1 <= figure.y1


def test_validation_sweeps_say_so():
    """The axis names the loss that was swept."""
    assert curve(facts={"loss": "validation"}).plot().get_ylabel() == "validation loss"


# -- a sweep that runs -------------------------------------------------------------------------------------------


def test_progress_is_drawn_over_the_whole_range(monkeypatch):
    """The axis of rates stands still while the points come; the title tells where the sweep is. No pick yet."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    picture = ProgressPicture(100, LR[0], 10.0)

    for points in (1, 2, 40):
        so_far = LRCurve(LR[:points], curve().loss[:points], "interrupted")
        picture.save(io.BytesIO(), so_far)
        (ax,) = figures[-1].axes
        raw, smoothed = ax.lines
        assert ax.get_xlim() == (LR[0], 10.0)
        assert ax.get_title(loc="left").startswith(f"step {points} of 100, lr ")
        assert ax.get_ylim()[0] < so_far.loss.min() < ax.get_ylim()[1]
        assert raw.get_ydata().tolist() == so_far.loss.tolist()
        assert smoothed.get_ydata().tolist() == so_far.smoothed().tolist()
    assert legend(ax) == ["raw", "smoothed"]
    assert ax.get_ylabel() == "loss"


def test_progress_shows_the_sweeps_before():
    """Each is added once, whichever drawing comes after it; the picture is a PNG."""
    picture, file = ProgressPicture(100, LR[0], 10.0), io.BytesIO()

    for before in (0, 1, 1, 3):
        picture.save(file, curve(replicates=[curve()] * before))
        assert len(picture._ax.lines) == 2 + before
    assert file.getvalue().startswith(b"\x89PNG")


# -- several curves ----------------------------------------------------------------------------------------------


def several(number: int) -> dict[str, LRCurve]:
    return {f"net {index}": curve(loss=curve().loss * (1 - 0.05 * index)) for index in range(number)}


def names(ax: Axes) -> list[str]:
    """The labels beside the picture, from the top down."""
    beside = [text for text in ax.texts if text.get_text() and text.xy[0] > 1]
    return [text.get_text() for text in sorted(beside, key=lambda text: -text.xy[1])]


def test_each_curve_is_drawn_and_named_with_its_pick():
    """One line, one marker at the pick and one label a curve, in an order of their heights."""
    drawn = compare(several(3))
    ax = drawn.plot()

    assert names(ax) == [f"net {index}: {drawn.picks[f'net {index}'].lr:.2g}" for index in (0, 1, 2)]
    lines = [line for line in ax.lines if len(line.get_xdata()) == 100]
    markers = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert len(lines) == 3
    assert [float(marker.get_xdata()[0]) for marker in markers] == [pick.lr for pick in drawn.picks.values()]


def test_curves_differ_in_grey():
    """Of 25 curves no two share line style and colour, and neighbours share neither style nor marker."""
    ax = compare(several(25)).plot()
    lines = [line for line in ax.lines if len(line.get_xdata()) == 100]
    markers = [line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1]
    styles = [str(line._unscaled_dash_pattern) for line in lines]  # get_linestyle says "--" of every custom one

    assert len({(line.get_color(), style) for line, style in zip(lines, styles, strict=True)}) == 25
    for seen in (styles, markers):
        assert all(one != other for one, other in pairwise(seen))


def test_names_do_not_overlap():
    """However close the curves are, their labels stand apart, and inside the picture."""
    ax = compare({f"net {index}": curve() for index in range(12)}).plot()
    ax.figure.canvas.draw()

    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    boxes.sort(key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))
    assert all(ax.figure.bbox.y0 <= box.y0 and box.y1 <= ax.figure.bbox.y1 for box in boxes)
    assert all(box.x1 <= ax.figure.bbox.x1 for box in boxes)


def test_a_curve_without_a_pick_is_drawn_with_its_reason():
    """It has a line and a name but no marker; curves of no number, and of no points, have their names."""
    flat = curve(loss=np.full(100, 2.3), status="range end")
    nothing = curve(loss=np.full(100, math.nan), status="non-finite")
    ax = compare({"good": curve(), "flat": flat, "nan": nothing, "empty": LRCurve([], [], "too few points")}).plot()

    assert set(names(ax)) == {"good: 0.053", "flat: none", "nan: none", "empty: none"}
    assert len([line for line in ax.lines if len(line.get_xdata()) == 1]) == 1
    assert "! flat: no suggestion. The loss never fell" in remarks(ax)
    assert "! empty: no suggestion. Too few points: 0" in remarks(ax)
    ax.figure.canvas.draw()


def test_a_comparison_is_drawn_on_the_axes_it_is_given():
    """With ax no figure is made, and both kinds of loss are named."""
    _, ax = plt.subplots()

    assert compare({"a": curve(), "b": curve(facts={"loss": "validation"})}).plot(ax) is ax
    assert len(plt.get_fignums()) == 1
    assert ax.get_ylabel() == "training and validation loss"
