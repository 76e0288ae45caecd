"""The folder of a run: what lies in it, and when each file is written."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lrfind.curve import LRCurve
from lrfind.plot import plot_curve, save_picture
from lrfind.ranks import is_sharded
from lrfind.suggest import Suggestion
from lrfind.workload import Workload
from onecycle.checkpoint import PARTIAL, CheckpointError, Checkpoints, remove
from onecycle.logs import History, JsonLinesLog, Row
from onecycle.run import Run, load_history, write_json
from onecycle.schedule import OneCycle

if TYPE_CHECKING:
    from onecycle.resume import Resume


COMMAND = "command.json"
"""Where the command ``onecycle`` keeps its arguments, in a run that it began."""


class RunFolder:
    """A run on disk: ``config.json``, ``curve.json``, ``history.jsonl``, ``summary.json``, pictures, checkpoints.

    Of several ranks each calls the same methods, and the first one writes.
    """

    def __init__(self, path: Path, work: Workload) -> None:
        self.path = path
        self.ranks = work.ranks
        self.checkpoints = _checkpoints(path / "checkpoints", work)
        self._history: JsonLinesLog | None = None

    def open(self, resume: Resume) -> dict[str, Any] | None:
        """Make the folder; return the checkpoint to go on from, None to start.

        Raises:
            CheckpointError: If the folder cannot be written to, holds a run that is not to be resumed, or holds none
                that could be extended.
        """
        begun = self.ranks.from_first(lambda: self._prepare(resume))
        if resume == "never":
            return None
        record = self.checkpoints.newest()
        if record is None and begun:
            raise CheckpointError(
                f"{self.path} holds a run whose checkpoints are gone, so it cannot go on. Bring them back, or choose "
                "another out_dir."
            )
        if record is None and resume == "extend":
            raise CheckpointError(
                f'resume="extend" needs a finished run; {self.path} holds no checkpoint. Train it first.'
            )
        return record

    def _prepare(self, resume: Resume) -> bool:
        """Make the folder fit to be written to; tell whether a run was begun in it."""
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
            if (self.path / "config.json").exists() or self.checkpoints.any():
                raise CheckpointError(
                    f'out_dir {self.path} holds a run already. Go on with it by resume="auto", or choose another '
                    "out_dir."
                )
            return False
        for unfinished in (*self.path.glob(".*.partial"), *self.checkpoints.folder.glob(f"*{PARTIAL}")):
            remove(unfinished)
        return (self.path / "config.json").exists()  # which is written after the first checkpoint

    def begin(
        self,
        cycle: OneCycle,
        curve: LRCurve | None,
        pick: Suggestion | None,
        facts: dict[str, Any],
        *,
        until: int,
        new: bool,
    ) -> None:
        """Write what is known before the next step.

        Args:
            cycle: The schedule.
            curve: The range test behind it, if there was one.
            pick: What was read off the range test.
            facts: What ``config.json`` is to hold, besides versions and the machine.
            until: Last step of the history to keep.
            new: Whether a cycle begins here; one that goes on finds all but the history in place.

        Raises:
            CheckpointError: If it cannot be written.
        """
        if not self.ranks.first:
            return
        with self._writing():
            if new or not (self.path / "schedule.png").exists():  # the last of these that is written
                write_json(self.path / "config.json", facts | _environment())
                if curve is not None:
                    self.keep(curve, pick)
                save_picture(self.path / "schedule.png", cycle.plot, height=3.5)
            if self._history is not None:
                self._history.close()
            self._history = JsonLinesLog(self.path / "history.jsonl", until)

    def keep(self, curve: LRCurve, pick: Suggestion | None = None) -> None:
        """Write a range test: the numbers, and its picture.

        Raises:
            CheckpointError: If it cannot be written.
        """
        if not self.ranks.first:
            return
        with self._writing():
            curve.save(self.path / "curve.json")
            save_picture(self.path / "range_test.png", lambda ax: plot_curve(curve, pick, ax=ax))

    def write(self, row: Row) -> None:
        """Append a row to the history.

        Raises:
            CheckpointError: If it cannot be written.
        """
        if not self.ranks.first:
            return
        assert self._history is not None, "begin has been called"
        with self._writing():
            self._history.write(row)

    def save(self, step: int, record: dict[str, Any]) -> None:
        """Write a checkpoint in the background, and the history up to there before it.

        Raises:
            CheckpointError: If the history, or the checkpoint before this one, could not be written.
        """
        if not self.ranks.first:
            self.checkpoints.save(step, record)
            return
        assert self._history is not None, "begin has been called"
        with self._writing():
            self._history.flush()
        self.checkpoints.save(step, record, after=self._history.sync)

    def saved(self, until: int) -> tuple[LRCurve | None, History]:
        """Return the range test of the run, None where there was none, and its history up to a step."""

        def load() -> tuple[LRCurve | None, History]:
            path = self.path / "curve.json"
            history = load_history(self.path, until) if until else History()
            return LRCurve.load(path) if path.exists() else None, history

        return self.ranks.from_first(load)

    def finish(self, run: Run) -> None:
        """Write the outcome and draw the training, once the last checkpoint is whole.

        Raises:
            CheckpointError: If something could not be written.
        """
        self.checkpoints.wait()
        self.ranks.from_first(lambda: self._finish(run))  # so that all find it there

    def _finish(self, run: Run) -> None:
        with self._writing():
            write_json(self.path / "summary.json", run.summary())
            if run.history.rows:
                run.plot().savefig(self.path / "training.png", dpi=150)

    def close(self) -> None:
        """Write what is held back, and wait for the checkpoint under way."""
        try:
            self.checkpoints.wait()
        finally:
            if self._history is not None:  # on the first rank
                with self._writing():
                    self._history.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"the files of the run could not be written to {self.path}: {error}. Mend that, then go on from the "
                'last checkpoint with resume="auto".'
            ) from error


def _checkpoints(folder: Path, work: Workload) -> Checkpoints:
    if not any(map(is_sharded, work.model.parameters())):
        return Checkpoints(folder, work.ranks)
    from onecycle.sharded import ShardedCheckpoints  # whose imports take a second

    return ShardedCheckpoints(folder, work)


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
    }
