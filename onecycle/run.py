"""What ``fit`` returns: a finished (or stopped) run, with all that it rests on."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from lrfind.curve import LRCurve
from lrfind.suggest import Suggestion
from onecycle.logs import History, read_rows, strict
from onecycle.schedule import OneCycle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onecycle.scheduler import OneCycleLR

RunStatus = Literal["finished", "diverged", "stopped"]


@dataclass(frozen=True)
class Retry:
    """A training run that was given up and begun again with a lower peak."""

    max_lr: float
    step: int
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A training run; its repr is a line of outcome.

    Attributes:
        max_lr: Peak learning rate used (of the parameter group with the largest).
        cycle: The schedule followed.
        curve: The range test behind the pick; None where ``max_lr`` was given as a number.
        suggestion: The pick with its trust range; None likewise.
        history: Columns ``step``, ``epoch``, ``lr``, ``momentum``, ``loss`` and, at validations, ``val_loss`` and
            ``val_<metric>``: one row per optimizer step.
        status: ``"finished"``, ``"diverged"`` (the weights are those of the last good moment) or ``"stopped"`` (by
            a callback).
        retries: Attempts that diverged before this one, each with its peak.
        notes: What the reader should know: momentum not cycled, and so on.
        out_dir: Where the files are; None where none were asked for.
        scheduler: The scheduler, as it stands at the end; ``scheduler.restore_momentum()`` gives the optimizer its
            own momentum back.
        ema_model: The averaged weights, where ``ema_decay`` was given.
    """

    max_lr: float
    cycle: OneCycle
    curve: LRCurve | None
    suggestion: Suggestion | None
    history: History
    status: RunStatus
    retries: tuple[Retry, ...] = ()
    notes: tuple[str, ...] = ()
    out_dir: Path | None = None
    scheduler: OneCycleLR | None = None
    ema_model: nn.Module | None = None

    def __repr__(self) -> str:
        numbers = "".join(f", {name} {value:.4g}" for name, value in self.validation.items())
        return f"Run({self.status} after {self.history.rows} steps, max_lr {self.max_lr:.3g}{numbers})"

    @property
    def validation(self) -> dict[str, float]:
        """Numbers of the last validation (``val_loss``, ``val_accuracy``, ...); empty without a ``val_loader``."""
        rows = self.history.where("val_loss")
        return {name: value for name, value in rows[-1].items() if name.startswith("val_")} if rows else {}

    def plot(self) -> Figure:
        """Draw lr, momentum, losses and metrics over the steps; returns the matplotlib figure."""
        from onecycle.plot import plot_history

        return plot_history(self.history)

    def summary(self) -> dict[str, Any]:
        """Return the outcome as plain data, as in ``summary.json``."""
        return {
            "status": self.status,
            "steps": self.history.rows,
            "max_lr": self.max_lr,
            "train_loss": self.history["loss"][-1] if self.history.rows else None,
            **self.validation,
            "pick": None if self.suggestion is None else asdict(self.suggestion),
            "retries": [asdict(retry) for retry in self.retries],
            "notes": list(self.notes),
        }


def load_history(out_dir: str | os.PathLike[str], until: float = math.inf) -> History:
    """Return the history of a run from its folder, up to the step ``until``.

    Raises:
        FileNotFoundError: If the folder holds no ``history.jsonl``.
    """
    path = Path(out_dir) / "history.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{out_dir} holds no history.jsonl. Give the folder of a run made by onecycle.")
    return History(row for row in read_rows(path) if row["step"] <= until)


def write_json(path: Path, record: Any) -> None:
    """Write a small JSON file, whole or not at all; numbers that are not finite become text."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(strict(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
