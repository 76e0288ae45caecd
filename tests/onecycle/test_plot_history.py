"""The picture of a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from lrfind import Workload
from onecycle import History, fit
from onecycle.plot import plot_history


def made(losses: list[float], **last: float) -> History:
    """Return a history with these losses, and these numbers in its last row."""
    rows = [{"step": i + 1, "epoch": 0, "lr": 0.1, "loss": loss} for i, loss in enumerate(losses)]
    rows[-1] |= last
    return History(rows)


def test_lr_momentum_losses_and_metrics_over_steps(make: Callable[..., Workload]):
    """One panel each for rates, losses and metrics, with the numbers of the history on a common axis of steps."""
    run = fit(make(), epochs=3, max_lr=0.05, ema_decay=0.5, progress=False)
    figure = run.plot()
    rates, losses, metrics, momentum = figure.axes
    assert rates.lines[0].get_ydata().tolist() == run.history["lr"]
    assert momentum.lines[0].get_ydata().tolist() == run.history["momentum"]
    raw, _, validation, averaged = losses.lines
    assert raw.get_ydata().tolist() == run.history["loss"]
    assert validation.get_ydata().tolist() == [row["val_loss"] for row in run.history.where("val_loss")]
    assert averaged.get_xdata().tolist() == [6, 12, 18]
    labels = [text.get_text() for text in metrics.get_legend().get_texts()]
    accuracy = run.validation["val_accuracy"]
    assert labels[0] == f"accuracy (at the end {accuracy:.4g})"
    assert metrics.get_xlabel() == "optimizer step"
    assert rates.get_shared_x_axes().joined(rates, metrics)


def test_a_metric_that_is_called_a_loss_is_drawn():
    """Only the losses of validation themselves stand in the panel above."""
    figure = plot_history(made([2.0, 1.0], val_loss=1.0, val_word_loss=3.0))
    assert len(figure.axes) == 3
    assert figure.axes[2].lines[0].get_ydata().tolist() == [3.0]


def test_a_blow_up_does_not_flatten_the_rest():
    """The picture ends a little above what the loss came down from, and also shows losses below zero."""
    fall = [2 - 0.1 * i for i in range(40)]
    bottom, top = plot_history(made([*fall, 1e3, 1e9, math.inf])).axes[1].get_ylim()
    assert -2.5 < bottom < -1.5
    assert 2 < top < 7


@pytest.mark.parametrize("losses", [[1.0], [math.nan], [math.nan, math.inf], [0.0, 0.0], [-1.0] * 100])
def test_short_and_odd_histories_are_drawn(losses: list[float], tmp_path):
    """One row, no finite loss, a constant: a picture without a warning."""
    plot_history(made(losses)).savefig(tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 1000


def test_no_rows_are_refused():
    """There is nothing to draw."""
    with pytest.raises(ValueError, match=r"a history needs at least one row to be drawn; got none. Take a step first"):
        plot_history(History())


def test_smoothing_lags_nowhere_and_skips_what_is_no_number():
    """The smoothed line of a straight fall is that fall, with a hole in it too."""
    losses = [10 - 0.1 * i for i in range(100)]
    losses[50] = math.nan
    smoothed = plot_history(made(losses)).axes[1].lines[1].get_ydata()
    assert smoothed[20] == pytest.approx(8.0)
    assert smoothed[80] == pytest.approx(2.0)
    assert smoothed[50] == pytest.approx(5.0, abs=0.06)


def test_a_long_run_is_drawn_in_time():
    """The work grows with the number of steps, not with its square."""
    history = made([math.sin(i) for i in range(200_000)])
    began = time.perf_counter()
    plot_history(history)
    assert time.perf_counter() - began < 5
