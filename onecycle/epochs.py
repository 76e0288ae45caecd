"""What a run of many epochs will learn by heart, and by how much its peak should be lower for that."""

from __future__ import annotations

import math

# Wrong labels show where a pilot does so much worse on training data that it has hardly seen than on the validation
# set, as shares of the loss before its first step: up to the first it is chance, from the second on it is certain. A
# run of more epochs than these learns them by heart, and its best peak falls by this power of its epochs.
WRONG, WRONG_EPOCHS, WRONG_POWER = (0.05, 0.1), 6, 1.25
# The same for what pilots leave of the loss, whatever the reason: some of it can only be learned by heart.
LEFT, LEFT_EPOCHS, LEFT_POWER = (0.3, 0.5), 12, 1.0
# By no more decades than this.
MOST = 1.5
# A model with so few parameters a sample learns nothing by heart; one with as many as the second does.
CAPACITY = (1.0, 2.5)


def too_high(epochs: float, *, wrong: float, left: float, capacity: float = math.inf) -> float:
    """Return by how many decades the best peak of short pilots is too high for a run of ``epochs``.

    A pilot sees its data a few times at most. What it cannot learn then, wrong labels above all, a run of many epochs
    learns by heart, the more of it the higher its peak.

    Args:
        epochs: Of the run.
        wrong: By how much the loss on training data hardly seen is above that on the validation set, as a share of
            the latter before the first step; negative where it is below.
        left: Share of the loss that is left at a pilot's end, of training or of validation, whichever is more.
        capacity: Parameters of the model for each training sample.

    Source:
        Fitted to the design tasks of ``experiments.regret``.

    >>> too_high(5, wrong=0.3, left=0.9), too_high(40, wrong=0.0, left=0.3)
    (0.0, 0.0)
    >>> round(too_high(40, wrong=0.2, left=0.7), 2), round(too_high(40, wrong=0.0, left=0.7), 2)
    (1.03, 0.52)
    >>> too_high(40, wrong=0.2, left=0.7, capacity=0.8)
    0.0
    """
    decades = max(
        WRONG_POWER * _beyond(epochs, WRONG_EPOCHS) * _ramp(wrong, *WRONG),
        LEFT_POWER * _beyond(epochs, LEFT_EPOCHS) * _ramp(left, *LEFT),
    )
    few, enough = CAPACITY
    by_heart = min(max(math.log(capacity / few) / math.log(enough / few), 0.0), 1.0) if capacity > 0 else 0.0
    return min(MOST, decades * by_heart)


def _beyond(epochs: float, few: float) -> float:
    return math.log10(max(epochs / few, 1.0))


def _ramp(value: float, none: float, whole: float) -> float:
    """Return 0 up to ``none``, 1 from ``whole`` on, and what lies between on a straight line; 0 for no number."""
    return min(max((value - none) / (whole - none), 0.0), 1.0) if math.isfinite(value) else 0.0
