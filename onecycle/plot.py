"""Pictures of schedules and of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lrfind import palette
from onecycle.schedule import OneCycle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from onecycle.logs import History

MAX_POINTS = 2000  # more than a screen is wide
HEADROOM = 0.15  # of the height, above the curves, for the names of the phases
VAL_LOSSES = {"val_loss": ("o-", "validation"), "val_ema_loss": ("s--", "validation, averaged weights")}


def plot_schedule(cycle: OneCycle, ax: Axes | None = None) -> Axes:
    """Draw the learning rate of ``cycle`` over its steps, with phases named, and its momentum on a second axis.

    With a list of peaks each parameter group has its line, the one with the largest peak a thick one. Text and
    background are those of the matplotlib style in use; the lines show on light and on dark.

    Args:
        cycle: Schedule to draw.
        ax: Axes to draw into; None makes a figure of its own. Nothing is shown or saved.

    Returns:
        The axes of the learning rate; ``ax.figure.savefig(path)`` writes a file.

    Raises:
        ValueError: If ``max_lr`` or ``total_steps`` is not set.

    >>> import matplotlib.pyplot as plt
    >>> ax = plot_schedule(OneCycle(max_lr=0.5, total_steps=100))
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_title()
    ('optimizer step', 'learning rate (solid)', 'lr 0.02 up to 0.5 and down to 2e-06 in 100 steps')
    >>> plt.close(ax.figure)
    """
    import matplotlib.pyplot as plt

    peaks, last_step = cycle.peaks, cycle.require_total_steps() - 1
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")

    steps = steps_to_draw(cycle)
    for group, peak in enumerate(peaks):
        lrs = [cycle.lr(step, group) for step in steps]
        ax.plot(steps, lrs, color=palette.LR, linewidth=2.4 if peak == max(peaks) else 1.2)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel("learning rate (solid)")
    ax.set_xlim(0, max(last_step, 1))
    ax.set_ylim(0, max(peaks) * (1 + HEADROOM))
    ax.set_title(
        f"lr {cycle.initial_lr:.3g} up to {max(peaks):.3g} and down to {cycle.min_lr:.3g} in {last_step + 1:,} steps"
    )
    _name_phases(cycle, ax, last_step)

    if cycle.cycle_momentum:
        momentums = np.array([cycle.momentum(step) for step in steps])
        low, high = momentums.min(), momentums.max()
        span = max(high - low, 0.01)
        right = ax.twinx()
        right.plot(steps, momentums, color=palette.MOMENTUM, linewidth=1.8, linestyle="--")
        right.set_ylabel("momentum (dashed)")
        right.set_ylim(low - 0.05 * span, high + HEADROOM * span)
    return ax


def steps_to_draw(cycle: OneCycle) -> list[int]:
    """Return the steps from which to draw a cycle: fewer than a long one has, but never without those at a corner."""
    last_step = cycle.require_total_steps() - 1
    corners = [step for phase in cycle.phases for step in (int(phase.end), int(phase.end) + 1)]
    steps = {*np.linspace(0, last_step, min(last_step + 1, MAX_POINTS)).astype(int).tolist(), *corners}
    return sorted(step for step in steps if 0 <= step <= last_step)


def _name_phases(cycle: OneCycle, ax: Axes, last_step: int) -> None:
    text_color = ax.xaxis.label.get_color()
    for index, phase in enumerate(cycle.phases):
        start, end = max(phase.start, 0.0), min(phase.end, last_step)
        if not start < end:
            continue  # without width: there is nothing to see
        ax.axvspan(start, end, color=text_color, alpha=0.07 * (index % 2), linewidth=0)
        wide = (end - start) / last_step > 0.018 * len(phase.name)
        ax.text(
            (start + end) / 2,
            0.98 if wide else 0.5,  # a narrow one has its name upright, where the curves of a narrow end are not
            phase.name,
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="top" if wide else "center",
            fontsize="small",
            rotation="horizontal" if wide else "vertical",
        )


def plot_history(history: History) -> Figure:
    """Draw a run over its optimizer steps: lr and momentum, losses, and validation metrics where there are any.

    Args:
        history: Columns as ``onecycle.fit`` records them.

    Returns:
        The figure, one panel above the other with a common axis of steps; ``figure.savefig(path)`` writes a file.

    Raises:
        ValueError: If the history has no rows.
    """
    from matplotlib.figure import Figure

    if not history.rows:
        raise ValueError("a history needs at least one row to be drawn; got none. Take a step first.")
    metrics = [name for name in history if name.startswith("val_") and name not in VAL_LOSSES]
    panels = 3 if metrics else 2
    figure = Figure(figsize=(7.5, 2.4 * panels + 0.6), layout="constrained")
    rates, losses, *rest = figure.subplots(panels, 1, sharex=True)
    steps = history["step"]
    _draw_rates(history, steps, rates)
    _draw_losses(history, steps, losses)
    for ax in rest:
        _draw_metrics(history, metrics, ax)
    figure.axes[panels - 1].set_xlabel("optimizer step")
    return figure


def _draw_rates(history: History, steps: list[float], ax: Axes) -> None:
    ax.plot(steps, history["lr"], color=palette.LR, linewidth=2)
    ax.set_ylabel("learning rate (solid)")
    ax.set_ylim(bottom=0)
    if "momentum" in history:
        right = ax.twinx()
        right.plot(steps, history["momentum"], color=palette.MOMENTUM, linewidth=1.6, linestyle="--")
        right.set_ylabel("momentum (dashed)")


def _draw_losses(history: History, steps: list[float], ax: Axes) -> None:
    losses = np.array(history["loss"])
    smoothed = smoothed_losses(losses)
    ax.plot(steps, losses, color=palette.RAW, linewidth=0.6, alpha=0.6)
    ax.plot(steps, smoothed, color=palette.TRAIN_LOSS, linewidth=2, label="training (smoothed)")
    validated: list[float] = []
    for name, (style, label) in VAL_LOSSES.items():
        rows = history.where(name)
        if rows:
            points = [row["step"] for row in rows], [row[name] for row in rows]
            validated += points[1]
            ax.plot(*points, style, color=palette.VAL_LOSS, markersize=4, linewidth=1.4, label=label)
    ax.set_ylabel("loss")
    limits = loss_limits(losses, smoothed, validated)
    if limits is not None:
        ax.set_ylim(limits)
    ax.legend(frameon=False)


def _draw_metrics(history: History, metrics: list[str], ax: Axes) -> None:
    styles = ("o-", "s--", "^:", "d-.")
    for index, name in enumerate(metrics):
        rows = history.where(name)
        points = [row["step"] for row in rows], [row[name] for row in rows]
        label = f"{name.removeprefix('val_').replace('_', ' ')} (at the end {points[1][-1]:.4g})"
        ax.plot(*points, styles[index % len(styles)], color=palette.METRIC, markersize=4, linewidth=1.6, label=label)
    ax.set_ylabel("validation")
    ax.legend(frameon=False)


def loss_limits(losses: np.ndarray, smoothed: np.ndarray, validated: Sequence[float]) -> tuple[float, float] | None:
    """Return the range of losses to show; None where no loss is finite.

    A blow-up must not flatten all the rest: it is shown from about where the losses began, as far up as they came down.

    Args:
        losses: Shape ``(steps,)``, as they were.
        smoothed: The same by ``smoothed_losses``.
        validated: Validation losses.
    """
    known = losses[np.isfinite(losses)]
    drawn = np.array([*smoothed, *(np.quantile(known, [0.02]) if known.size else ()), *validated])
    finite = drawn[np.isfinite(drawn)]
    if not finite.size:
        return None
    start, low = float(np.median(finite[:5])), float(finite.min())
    top = min(float(finite.max()), start + max(start - low, 0.1 * abs(start)))
    margin = 0.05 * (top - low) or 0.1 * abs(top) or 1.0
    return low - margin, top + margin


def smoothed_losses(losses: np.ndarray) -> np.ndarray:
    """Return the mean over a window about each loss, narrower at the ends, so that nothing lags; shape ``(steps,)``.

    >>> smoothed_losses(np.array([4.0, 4.0, 1.0, float("nan")])).tolist()
    [4.0, 3.0, 2.5, 1.0]
    """
    known = np.isfinite(losses)
    if not known.any():
        return np.full(len(losses), np.nan)
    # Capped, or the sums would lose what is small next to a blow-up.
    capped = np.minimum(losses[known], np.quantile(losses[known], 0.98))
    sums, counts = np.zeros(len(losses) + 1), np.zeros(len(losses) + 1)
    sums[1:][known], counts[1:] = capped, known
    sums, counts = sums.cumsum(), counts.cumsum()
    half = max(1, len(losses) // 50)
    index = np.arange(len(losses))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(losses))
    many = counts[last] - counts[first]
    means = np.full(len(losses), np.nan)
    np.divide(sums[last] - sums[first], many, out=means, where=many > 0)
    return means
