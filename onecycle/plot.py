"""Pictures of schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrfind import palette
from onecycle.schedule import OneCycle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 2000  # more than a screen is wide
HEADROOM = 0.15  # of the height, above the curves, for the names of the phases


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
        ValueError: If ``total_steps`` is not set.

    >>> import matplotlib.pyplot as plt
    >>> ax = plot_schedule(OneCycle(max_lr=0.5, total_steps=100))
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_title()
    ('optimizer step', 'learning rate (solid)', 'lr 0.02 up to 0.5 and down to 2e-06 in 100 steps')
    >>> plt.close(ax.figure)
    """
    import matplotlib.pyplot as plt

    last_step = cycle.require_total_steps() - 1
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")

    steps = _steps_to_draw(cycle, last_step)
    peaks = cycle.max_lr if isinstance(cycle.max_lr, tuple) else (cycle.max_lr,)
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


def _steps_to_draw(cycle: OneCycle, last_step: int) -> list[int]:
    # A long cycle is drawn from fewer steps than it has, but never without those around a corner.
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
