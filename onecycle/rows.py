"""What becomes of a step's numbers: brought home from the device, judged, validated, recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lrfind.batches import home
from lrfind.progress import Bar
from lrfind.ranks import ALONE, Ranks
from onecycle.divergence import Diverged, Divergence
from onecycle.logs import History, Log

Callback = Callable[[Mapping[str, float]], Any]


class Rows:
    """The rows of the last steps, on their way into the history, the logs and the callbacks.

    A row is *open* until it is recorded. Its loss stays on the device until the row is judged, and rows are judged in
    blocks, so that an accelerator is waited for once a block. The last row may be held open, for a validation that is
    still to come.

    Of several ranks each has the same rows, with losses that are means over all. What one alone hears, the word of a
    callback or a SIGTERM, all obey from the next block on, so that they stop at the same step.

    Args:
        callbacks: Called with every row.
        logs: Written every row.
        ranks: Who trains along.
    """

    def __init__(self, callbacks: Sequence[Callback], logs: Sequence[Log], ranks: Ranks = ALONE) -> None:
        self.callbacks = callbacks
        self.logs = logs
        self.ranks = ranks
        self.sigterms: list[int] = []
        self.history = History()
        self.rule = Divergence(0)
        self.bar = Bar("", 0, shown=False)
        self._asked = False  # by a callback of this rank, to stop
        self._heard = (False, False)  # whether any rank has been asked to stop, and told to end
        self._open: list[dict[str, Any]] = []
        self._judged = 0  # how many of the open rows are

    def __len__(self) -> int:
        return len(self._open)

    @property
    def stopped(self) -> bool:
        """Whether a callback has asked to stop."""
        return self._asked if self.ranks.size == 1 else self._heard[0]

    @property
    def terminated(self) -> bool:
        """Whether the process has been told to end."""
        return bool(self.sigterms) if self.ranks.size == 1 else self._heard[1]

    @property
    def last(self) -> dict[str, Any] | None:
        """The last open row; None if all are recorded."""
        return self._open[-1] if self._open else None

    def add(self, row: dict[str, Any]) -> None:
        """Take in the row of a step: numbers, and the loss as a tensor without dimensions."""
        self._open.append(row)

    def settle(self, *, hold: int = 0) -> None:
        """Judge all open rows, and record all but the last ``hold``.

        Raises:
            Diverged: If the run has; rows behind the one that shows it are dropped.
        """
        new = self._open[self._judged :]
        for row, loss in zip(new, self._home([row["loss"] for row in new]), strict=True):
            row["loss"], row["lr"] = loss, float(row["lr"])
            self._judged += 1
            try:
                self.rule.judge(row["loss"])
            except Diverged:
                self._record(self._judged)
                self._open.clear()
                raise
        self._record(len(self._open) - hold)

    def _home(self, losses: list[Tensor]) -> list[float]:
        """Bring losses home in one transfer, and hear what the other ranks have been told."""
        own = home(losses)
        if self.ranks.size == 1:
            return own
        *means, stop, end = self.ranks.means([*own, float(self._asked), float(bool(self.sigterms))])
        self._heard = (stop > 0, end > 0)
        return means

    def go_back(self, history: History, row: Mapping[str, float] | None) -> None:
        """Forget what is open, and go on from a history, and perhaps a row that is judged but not recorded."""
        self.history = history
        self._open = [] if row is None else [dict(row)]
        self._judged = len(self._open)

    def judge_anew(self, rule: Divergence) -> None:
        """Have the rows judged by another rule, which hears first what has been judged before.

        Raises:
            Diverged: If the run has, by that rule.
        """
        self.rule = rule
        for loss in [*self.history.get("loss", ()), *(row["loss"] for row in self._open)]:
            rule.judge(loss)

    def _record(self, count: int) -> None:
        for _ in range(count):
            row = self._open.pop(0)
            self._judged -= 1
            self.history.write(row)
            for log in self.logs:
                log.write(row)
            self.bar.advance(f"loss {row['loss']:.4g}" if self.bar.shown else "")
            for callback in self.callbacks:
                if callback(row) is True:
                    self._asked = True
