"""The folder of a run: what lies in it, and when each file is written."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lrfind.curve import LRCurve
from lrfind.suggest import Suggestion
from onecycle.checkpoint import CheckpointError, Checkpoints
from onecycle.logs import JsonLinesLog
from onecycle.run import Run, write_json
from onecycle.schedule import OneCycle

if TYPE_CHECKING:
    from onecycle.loop import Resume


class RunFolder:
    """A run on disk: ``config.json``, ``curve.json``, ``history.jsonl``, ``summary.json``, pictures, checkpoints."""

    log: JsonLinesLog

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")

    def open(self, resume: Resume) -> dict[str, Any] | None:
        """Make the folder; return the checkpoint to go on from, None to start.

        Raises:
            CheckpointError: If the folder cannot be written to, holds a run that is not to be resumed, or holds none
                that could be extended.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise CheckpointError(
                f"out_dir must be a folder that can be written to; got {self.path}: {error}. Choose another out_dir."
            ) from error
        if resume == "never":
            if (self.path / "config.json").exists():
                raise CheckpointError(
                    f'out_dir {self.path} holds a run already. Go on with it by resume="auto", or choose another '
                    "out_dir."
                )
            return None
        record = self.checkpoints.newest()
        if record is None and resume == "extend":
            raise CheckpointError(
                f'resume="extend" needs a finished run; {self.path} holds no checkpoint. Train it first.'
            )
        return record

    def begin(
        self, cycle: OneCycle, curve: LRCurve | None, pick: Suggestion | None, facts: dict[str, Any], *, until: int
    ) -> None:
        """Write what is known before the first step; ``until``: last step of the history to keep."""
        write_json(self.path / "config.json", facts | _environment())
        if curve is not None:
            from lrfind.plot import plot_curve

            curve.save(self.path / "curve.json")
            axes = _axes(7, 4.5)
            plot_curve(curve, pick, ax=axes)
            axes.figure.savefig(self.path / "range_test.png", dpi=150)
        self._draw_schedule(cycle)
        self.log = JsonLinesLog(self.path / "history.jsonl", until)

    def begin_again(self, cycle: OneCycle, facts: dict[str, Any]) -> None:
        """Forget what an attempt that diverged has left."""
        self.checkpoints.clear()
        self.log.close()
        write_json(self.path / "config.json", facts | _environment())
        self._draw_schedule(cycle)
        self.log = JsonLinesLog(self.path / "history.jsonl")

    def saved_curve(self) -> LRCurve | None:
        """Return the range test of the run, None where there was none."""
        path = self.path / "curve.json"
        return LRCurve.load(path) if path.exists() else None

    def finish(self, run: Run) -> None:
        """Write the outcome and draw the training."""
        write_json(self.path / "summary.json", run.summary())
        if run.history.rows:
            run.plot().savefig(self.path / "training.png", dpi=150)

    def _draw_schedule(self, cycle: OneCycle) -> None:
        axes = _axes(7, 3.5)
        cycle.plot(axes)
        axes.figure.savefig(self.path / "schedule.png", dpi=150)


def _axes(width: float, height: float) -> Any:
    # A Figure of its own, not pyplot's: nothing is shown, kept open or shared with the caller's figures.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
    }
