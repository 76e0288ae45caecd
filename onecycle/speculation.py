"""What a search may ask for next, whatever it is answered, so that several ranks can find the answers side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

LossAt = Callable[[float], float | None]


class _Asked(Exception):  # noqa: N818  # a question, not an error
    def __init__(self, max_lr: float) -> None:
        self.max_lr = max_lr


def upcoming(search: Callable[[LossAt], Any], known: Mapping[float, float], count: int) -> list[float]:
    """Return the peaks that a search asks for next, the most certain first: its next one, then those after that.

    Args:
        search: Called with a function that gives the loss at a peak; it must ask for the same when told the same.
        known: Losses that are known.
        count: How many peaks, at most; fewer where the search ends before.

    >>> from onecycle.search import climb
    >>> [round(lr, 3) for lr in upcoming(lambda loss_at: climb(loss_at, 0.1, most=5), {}, count=4)]
    [0.1, 0.316, 1.0, 0.032]
    """
    peaks: list[float] = []
    waiting = [dict(known)]
    while waiting and len(peaks) < count:
        assumed = waiting.pop(0)
        try:
            search(_answers(assumed))
        except _Asked as asked:
            if asked.max_lr not in peaks:
                peaks.append(asked.max_lr)
            finite = [loss for loss in assumed.values() if math.isfinite(loss)]
            best, worst = min(finite, default=0.0), max(finite, default=0.0)
            waiting += [assumed | {asked.max_lr: best - 1.0}, assumed | {asked.max_lr: worst + 1.0}]
    return peaks


def _answers(known: Mapping[float, float]) -> LossAt:
    def loss_at(max_lr: float) -> float:
        if max_lr not in known:
            raise _Asked(max_lr)
        return known[max_lr]

    return loss_at
