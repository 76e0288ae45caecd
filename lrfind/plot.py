"""Pictures of range tests."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lrfind.curve import LRCurve, NoSuggestion
from lrfind.palette import METRIC, PICK, RANGE, RAW, TRAIN_LOSS, VAL_LOSS
from lrfind.smoothing import is_number
from lrfind.suggest import Suggestion, suggest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEADROOM = 0.35
"""Part of the drop that is shown above the start: a blow-up runs out of the picture."""
_SIZE = (7.0, 4.5)
_SCREEN_DPI = 100
_LEGEND: dict[str, Any] = {"loc": "lower left", "fontsize": "small", "framealpha": 0.7}
_RAW_LOOK: dict[str, Any] = {
    "linestyle": "none",
    "marker": ".",
    "markersize": 4,
    "color": RAW,
    "alpha": 0.6,
    "label": "raw",
}
_SMOOTHED_LOOK: dict[str, Any] = {"color": TRAIN_LOSS, "linewidth": 2.0, "label": "smoothed"}
_REPLICATE_LOOK: dict[str, Any] = {"color": TRAIN_LOSS, "linewidth": 0.9, "alpha": 0.5}
_MARKERS = "ovs^D*Xp"
_COLORS = (TRAIN_LOSS, PICK, METRIC, VAL_LOSS, RAW)
_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (9, 2, 1, 2, 1, 2)))


def plot_curve(
    curve: LRCurve, suggestion: Suggestion | None = None, ax: Axes | None = None, *, rules: Sequence[str] = ()
) -> Axes:
    """Draw loss against learning rate, with the pick and how far to trust it.

    Raw losses are faint points, the smoothed curve a line, the pick a vertical line in the band
    ``low``..``high``; warnings, or why there is no suggestion, stand below the picture. Nothing is shown:
    ``ax.figure.savefig(...)`` writes a file, and a notebook draws the figure by itself.

    Args:
        curve: what a range test returned.
        suggestion: the pick to mark; by default ``curve.suggest()``.
        ax: where to draw; by default the axes of a new figure.
        rules: names in ``lrfind.RULES`` whose picks are marked on the curve as well, for comparison.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: If a rule is unknown.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    remarks: Sequence[str] = ()
    if suggestion is None:
        try:
            suggestion = suggest(curve)
        except NoSuggestion as reason:
            remarks = (f"No suggestion. {reason}",)
    smoothed = curve.smoothed()
    _draw_losses(ax, curve, smoothed)
    if suggestion is not None:
        remarks = suggestion.warnings
        ax.axvspan(
            suggestion.low,
            suggestion.high,
            color=RANGE,
            alpha=0.22,
            linewidth=0,
            label=f"trust range: {suggestion.low:.2g} to {suggestion.high:.2g}",
            zorder=0,
        )
        ax.axvline(
            suggestion.lr,
            color=PICK,
            linewidth=1.8,
            linestyle="--",
            label=f"{suggestion.rule}: {suggestion.lr:.2g}",
            zorder=3,
        )
    _mark_rules(ax, curve, smoothed, rules)
    _dress(ax, curve, remarks)
    return ax


class ProgressPicture:
    """A sweep that is still running: what ``plot_curve`` shows, less the pick, over the whole range.

    It is made once and then brought up to date, which takes half the time of a new picture.

    Args:
        steps: how many are planned.
        start_lr: rate of the first of them.
        end_lr: rate of the last of them.
    """

    def __init__(self, steps: int, start_lr: float, end_lr: float) -> None:
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator

        self._steps = steps
        self._figure = Figure(figsize=_SIZE)
        self._ax = ax = self._figure.subplots()
        ax.set_xscale("log")
        ax.set_xlim(start_lr, end_lr)
        # Typesetting powers of ten, and the small ticks, would take as long as all the rest.
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        (self._raw,) = ax.plot([], [], **_RAW_LOOK)
        (self._smoothed,) = ax.plot([], [], **_SMOOTHED_LOOK)
        _name_axes(ax, "", "loss")
        ax.legend(**_LEGEND)

    def save(self, file: BinaryIO, curve: LRCurve) -> None:
        """Write a PNG of the points so far, at least one; the sweeps before this one are its replicates."""
        ax, number, smoothed = self._ax, is_number(curve.loss), curve.smoothed()
        self._raw.set_data(curve.lr[number], curve.loss[number])
        self._smoothed.set_data(curve.lr, smoothed)
        for replicate in curve.replicates[len(ax.lines) - 2 :]:
            ax.plot(replicate.lr, replicate.smoothed(), **_REPLICATE_LOOK)
        ax.set_ylim(*loss_range(curve, smoothed))
        title = f"step {len(curve)} of {self._steps}, lr {curve.lr[-1]:.1e}, loss {curve.loss[-1]:.4g}"
        ax.set_title(title, loc="left", fontsize="medium")
        self._figure.savefig(file, format="png", dpi=_SCREEN_DPI)


def plot_comparison(
    curves: Mapping[str, LRCurve],
    picks: Mapping[str, Suggestion],
    reasons: Mapping[str, str],
    ax: Axes | None = None,
    *,
    chosen: str | None = None,
) -> Axes:
    """Draw several curves, smoothed, each with its pick as a marker and its name beside the picture.

    A thin line leads from each name to its curve: to the pick, or to the last point where there is none. Every curve
    has a line style and a marker of its own, so that grey will do.

    Args:
        curves: name to curve.
        picks: the suggestions to mark; of curves that have one.
        reasons: why the others have none; stands below the picture.
        ax: where to draw; by default the axes of a new figure.
        chosen: name of a curve to be drawn thick.

    Returns:
        The axes drawn on.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(8.4, 4.4), layout="constrained")
    ax.set_xscale("log")
    smoothed = {name: curve.smoothed() for name, curve in curves.items()}
    drawn = [name for name in curves if np.isfinite(smoothed[name]).any()]
    if drawn:
        lows, highs = zip(*(loss_range(curves[name], smoothed[name]) for name in drawn), strict=True)
        ax.set_ylim(min(lows), max(highs))
    looks, ends = {}, {}
    for index, name in enumerate(curves):
        looks[name] = {
            "color": _COLORS[index % len(_COLORS)],
            # Neighbours differ in both, and a pair comes again only after 25 curves.
            "linestyle": _STYLES[(index + index // len(_COLORS)) % len(_STYLES)],
            "linewidth": 3.0 if name == chosen else 1.7,
            "marker": _MARKERS[index % len(_MARKERS)] if name in picks else "",
        }
        if name in drawn:
            ends[name] = _end(curves[name], smoothed[name], picks.get(name), ax.get_ylim()[1])
            ax.plot(curves[name].lr, smoothed[name], **{**looks[name], "marker": ""})
        if name in picks:
            at_pick = {**looks[name], "linestyle": "none", "markeredgecolor": ax.get_facecolor()}
            ax.plot(*ends[name], **at_pick, markersize=9, zorder=4)
    kinds = sorted({str(curve.facts.get("loss", "training")) for curve in curves.values()})
    _name_axes(ax, f"{len(curves)} range tests, and the max_lr of each", " and ".join(kinds) + " loss")
    labels = {name: f"{name}: {picks[name].lr:.2g}" if name in picks else f"{name}: none" for name in curves}
    _label_lines(ax, labels, looks, ends, chosen)
    _remark(ax, [f"{name}: no suggestion. {reason}" for name, reason in reasons.items()])
    return ax


def _end(curve: LRCurve, smoothed: np.ndarray, pick: Suggestion | None, top: float) -> tuple[float, float]:
    """Return where a name's leader meets its curve: at the pick, else at the last point that can be seen."""
    if pick is not None:
        return pick.lr, height_at(curve, smoothed, pick.lr)
    last = int(np.flatnonzero(smoothed <= top)[-1])
    return float(curve.lr[last]), float(smoothed[last])


def _label_lines(
    ax: Axes,
    labels: Mapping[str, str],
    looks: Mapping[str, dict[str, Any]],
    ends: Mapping[str, tuple[float, float]],
    chosen: str | None,
) -> None:
    """Write names to the right of the axes, as near to the height of their lines' ends as they find room."""
    size = 0.9 * float(ax.xaxis.label.get_fontsize())
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes to draw on belong to a figure"
    gap = 1.5 * size / (ax.get_window_extent().height * 72 / figure.dpi)
    low, high = ax.get_ylim()
    wanted = {name: (ends[name][1] - low) / (high - low) if name in ends else 0.0 for name in labels}
    names = sorted(labels, key=lambda name: -wanted[name])
    heights: list[float] = []
    for name in names:
        heights.append(min(wanted[name], heights[-1] - gap if heights else 1.0))
    # Room is made downwards; what that pushed out at the bottom goes up again, as far as the top allows.
    heights = [min(max(height, gap * (len(names) - 1 - rank)), 1 - gap * rank) for rank, height in enumerate(heights)]
    for name, height in zip(names, heights, strict=True):
        ax.plot([1.03, 1.10], [height] * 2, **looks[name], markevery=[1], transform=ax.transAxes, clip_on=False)
        ax.annotate(
            labels[name],
            xy=(1.12, height),
            xycoords="axes fraction",
            verticalalignment="center",
            fontsize=size,
            fontweight="bold" if name == chosen else "normal",
            annotation_clip=False,
        )
        if name in ends:
            ax.annotate(
                "",
                xy=ends[name],
                xytext=(1.03, height),
                textcoords="axes fraction",
                arrowprops={"arrowstyle": "-", "color": RAW, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
            )


def _draw_losses(ax: Axes, curve: LRCurve, smoothed: np.ndarray) -> None:
    ax.set_xscale("log")
    number = is_number(curve.loss)
    # Points that lie above the picture are clipped; those that are no number have no place in it.
    ax.plot(curve.lr[number], curve.loss[number], **_RAW_LOOK)
    for replicate in curve.replicates:
        ax.plot(replicate.lr, replicate.smoothed(), **_REPLICATE_LOOK)
    ax.plot(curve.lr, smoothed, **_SMOOTHED_LOOK)
    constant = curve.facts.get("constant_loss")
    low, high = loss_range(curve, smoothed)
    ax.set_ylim(low, high)
    if isinstance(constant, int | float) and low < constant < high:
        ax.axhline(constant, color=RAW, linewidth=1.2, linestyle=":", label="best constant prediction")


def loss_range(curve: LRCurve, smoothed: np.ndarray) -> tuple[float, float]:
    """Return the range of losses to show: start and drop, whatever the blow-up; ``smoothed`` as of the curve."""
    shown = smoothed[np.isfinite(smoothed)]
    if len(shown) == 0:
        return 0.0, 1.0
    start = top = float(shown[0])
    low = float(shown.min())
    raw = curve.loss[: len(shown)]
    raw = raw[is_number(raw)]
    calm = raw[raw <= start + max(start - low, 1e-12)]  # without the blow-up, but with the noise
    if len(calm):
        noisy_low, noisy_top = (float(edge) for edge in np.quantile(calm, [0.02, 0.98]))
        low = max(min(low, float(calm.min())), low - max(start - low, noisy_top - noisy_low))
        top = max(start, noisy_top)
    height = max(top - low, 0.02 * abs(start), 1e-9)
    return low - 0.06 * height, top + _HEADROOM * height


def _mark_rules(ax: Axes, curve: LRCurve, smoothed: np.ndarray, rules: Sequence[str]) -> None:
    for name, marker in zip(rules, _MARKERS * (1 + len(rules) // len(_MARKERS)), strict=False):
        try:
            lr = suggest(curve, name).lr
        except NoSuggestion:
            continue
        ax.plot(
            lr,
            height_at(curve, smoothed, lr),
            linestyle="none",
            marker=marker,
            markersize=8,
            color=PICK,
            markeredgecolor=ax.get_facecolor(),
            label=f"{name}: {lr:.2g}",
            zorder=4,
        )


def height_at(curve: LRCurve, smoothed: np.ndarray, lr: float) -> float:
    """Return the smoothed loss at a rate between the points; ``smoothed`` as of the curve."""
    finite = np.isfinite(smoothed)
    return float(np.interp(math.log(lr), np.log(curve.lr[finite]), smoothed[finite]))


def _dress(ax: Axes, curve: LRCurve, remarks: Sequence[str]) -> None:
    batch_size = curve.facts.get("batch_size")
    optimizer = curve.facts.get("optimizer")
    how = [f"{len(curve)} steps", f"ended: {curve.status}"]
    how += [str(optimizer)] if optimizer else []
    how += [f"batch {batch_size}"] if batch_size else []
    _name_axes(ax, ", ".join(how), f"{curve.facts.get('loss', 'training')} loss")
    ax.legend(**_LEGEND)
    _remark(ax, remarks)


def _remark(ax: Axes, remarks: Sequence[str]) -> None:
    """Write sentences below the picture."""
    if remarks:
        size = 0.8 * float(ax.xaxis.label.get_fontsize())
        figure = ax.get_figure(root=True)
        assert figure is not None, "axes to draw on belong to a figure"
        # A letter is about half as wide as its font is high.
        letters = max(30, int(ax.get_window_extent().width * 72 / figure.dpi / (0.53 * size)))
        ax.annotate(
            "\n".join(textwrap.fill(f"! {remark}", letters, subsequent_indent="   ") for remark in remarks),
            xy=(0, 0),
            xycoords="axes fraction",
            xytext=(0, -4.5 * size),
            textcoords="offset points",
            verticalalignment="top",
            fontsize=size,
        )


def _name_axes(ax: Axes, title: str, losses: str) -> None:
    ax.set_title(title, loc="left", fontsize="medium")
    ax.set_xlabel("learning rate (log scale)")
    ax.set_ylabel(losses)
    ax.grid(True, which="major", alpha=0.25)


def save_picture(
    file: Path | BinaryIO,
    draw: Callable[[Axes], object],
    width: float = _SIZE[0],
    height: float = _SIZE[1],
    *,
    screen: bool = False,
) -> None:
    """Write a PNG of what ``draw`` puts on empty axes; size in inches. pyplot neither shows nor keeps it.

    ``screen``: in the fewer pixels of a picture that is looked at on a screen and not kept.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    draw(figure.subplots())
    figure.savefig(file, format="png", dpi=_SCREEN_DPI if screen else 150)
