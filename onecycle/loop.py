"""A training run in progress: the loop, what it writes, and how it is taken up again."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, SupportsFloat

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrfind.batches import Batch, Group
from lrfind.batches import epoch as one_epoch
from lrfind.curve import LRCurve
from lrfind.groups import get_momentum
from lrfind.position import loader_state, set_loader_state
from lrfind.preserve import Snapshot
from lrfind.progress import Bar, tell
from lrfind.randomness import random_states, set_random_states
from lrfind.stopping import StopRule
from lrfind.suggest import Suggestion
from lrfind.workload import Workload
from onecycle.auto import pick_with_curve
from onecycle.checkpoint import CheckpointError
from onecycle.fingerprint import fingerprint, refuse_other
from onecycle.logs import History, Log
from onecycle.outputs import RunFolder
from onecycle.run import Retry, Run, RunStatus, load_history, pick_from_record, pick_record
from onecycle.schedule import OneCycle

MaxLR = SupportsFloat | Sequence[float] | Literal["auto", "refine"]
Resume = Literal["never", "auto", "extend"]
Callback = Callable[[Mapping[str, float]], Any]

# A run that diverges begins again with max_lr divided by this, so many times at most.
RETRY_DIVISOR = 3.0
MAX_RETRIES = 3
# How many times its fall the loss may rise again before a run counts as diverged.
STOP_FACTOR = 2.0
# Losses stay on an accelerator until so many are there: one wait for the device in place of many.
BLOCK = 20
# Overflows in a row after which the grad scaler is not going to find a scale that works.
MAX_SKIPS = 50

_log = logging.getLogger("onecycle")


class _Diverged(Exception):  # noqa: N818  # an event of a run, not an error
    """The run has diverged; the message says how."""


class Training:
    """A run in progress: where it stands, and the loop that takes it on."""

    def __init__(
        self,
        work: Workload,
        *,
        shape: OneCycle,
        total_steps: int,
        folder: RunFolder | None,
        callbacks: Sequence[Callback],
        progress: bool,
        validate_every: int | None,
        checkpoint_every: int | None,
        ema_decay: float | None,
        loggers: Sequence[Log],
    ) -> None:
        self.work = work
        self.shape = shape
        self.total_steps = total_steps
        self.folder = folder
        self.callbacks = callbacks
        self.progress = progress
        self.validate_every = validate_every
        self.checkpoint_every = checkpoint_every
        self.loggers = list(loggers)
        self.ema = None if ema_decay is None else AveragedModel(work.model, multi_avg_fn=_ema(ema_decay))
        self.history = History()
        self.pick: Suggestion | None = None
        self.curve: LRCurve | None = None
        self.retries: list[Retry] = []
        self.notes: list[str] = []
        self.step = 0  # optimizer steps taken
        self.epoch = 0  # whole passes over the loader done
        self.group = 0  # groups of batches taken of the present pass
        self.first_step = 0  # where the present cycle begins: above 0 in an extended run
        self.bar = Bar("", 0, shown=False)
        self._unread: list[dict[str, Any]] = []
        self._pass_start: dict[str, Any] = {}  # random numbers and loader at the start of the present pass
        self._reenter: dict[str, Any] | None = None  # the same at a checkpoint in mid-pass
        self.stopped = False  # by a callback
        self._skips = 0  # overflows in a row
        self._terminated = False

    # -- the stages -------------------------------------------------------------------------------------------

    def run(self, peak: MaxLR, resume: Resume, *, heal: bool) -> Run:
        """Pick, train, begin again where that heals, and return the run."""
        record = self.folder.open(resume) if self.folder is not None else None
        if record is None:
            self._schedule(self._choose(peak))
        else:
            self._resume(record, peak, extend=resume == "extend")
        if self.folder is not None:
            self.folder.begin(self.cycle, self.curve, self.pick, self._facts(), until=self.step)
            self.loggers.insert(0, self.folder.log)
        back_to_start = self._way_back(fresh=record is None) if heal else None
        with self.work.training(), self._on_sigterm():
            while (reason := self._train()) is not None:
                self.retries.append(Retry(self._peak(), self.step, reason))
                again = back_to_start is not None and len(self.retries) <= MAX_RETRIES
                self._tell(f"max_lr {self._peak():.3g} failed at step {self.step}: {reason}. " + self._remedy(again))
                if back_to_start is None or not again:
                    self.good.restore(data=False)
                    return self._finish("diverged")
                back_to_start()
                self._begin_again(self._peak() / RETRY_DIVISOR)
        return self._finish("finished" if self.step >= self.total_steps else "stopped")

    def _choose(self, peak: MaxLR) -> float | tuple[float, ...]:
        if not isinstance(peak, str):
            self.pick = peak if isinstance(peak, Suggestion) else None
            return _as_given(peak)
        choice = pick_with_curve(
            self.work, total_steps=self.total_steps, method=peak, cycle=self.shape, progress=self.progress
        )
        self.pick, self.curve = choice.suggestion, choice.curve
        self._tell(f"{self.pick}: {self.pick.evidence}")
        for warning in self.pick.warnings:
            self._tell(f"warning: {warning}")
        return self.pick.group_lrs if len(set(self.pick.group_lrs)) > 1 else self.pick.lr

    def _schedule(self, peak: float | tuple[float, ...]) -> None:
        self.cycle = replace(self.shape, max_lr=peak, total_steps=self.total_steps - self.first_step)
        groups = self.work.optimizer.param_groups
        if self.cycle.cycle_momentum and all(get_momentum(group) is None for group in groups):
            self.cycle = replace(self.cycle, cycle_momentum=False)
            self._note(
                f"{type(self.work.optimizer).__name__} has no momentum: the cycle moves the learning rate alone."
            )
        self.scheduler = self.cycle.scheduler(self.work.optimizer)
        self._reference = max(range(len(groups)), key=lambda index: float(groups[index]["lr"]))

    def _way_back(self, *, fresh: bool) -> Callable[[], None]:
        """Return what takes everything back to the start of the run: from memory, or from disk in a resumed one."""
        if self.folder is None or fresh:
            if self.folder is not None:
                self.folder.checkpoints.save_start(self._state())
            return Snapshot(self.work).restore
        folder = self.folder
        return lambda: self._load(folder.checkpoints.start())

    def _begin_again(self, max_lr: float) -> None:
        lowered = [peak * max_lr / self._peak() for peak in self.cycle.peaks]
        self.history = History()
        self.step = self.epoch = self.group = 0
        self._unread.clear()
        self._reenter = None
        if self.ema is not None:
            self.ema = AveragedModel(self.work.model, multi_avg_fn=self.ema.multi_avg_fn)
        self._schedule(tuple(lowered) if isinstance(self.cycle.max_lr, tuple) else max_lr)
        if self.folder is not None:
            self.folder.begin_again(self.cycle, self._facts())
            self.loggers[0] = self.folder.log

    def _peak(self) -> float:
        return max(self.cycle.peaks)

    def _remedy(self, again: bool) -> str:
        lower = self._peak() / RETRY_DIVISOR
        if again:
            return f"Beginning again with max_lr {lower:.3g}."
        return f"Stopped, with the weights of the last good moment; try max_lr={lower:.3g}."

    def _finish(self, status: RunStatus) -> Run:
        run = Run(
            max_lr=self._peak(),
            cycle=self.cycle,
            curve=self.curve,
            suggestion=self.pick,
            history=self.history,
            status=status,
            retries=tuple(self.retries),
            notes=tuple(self.notes),
            out_dir=self.folder.path if self.folder is not None else None,
            scheduler=self.scheduler,
            ema_model=self.ema,
        )
        if self.folder is not None:
            self.folder.checkpoints.wait()
            self.folder.finish(run)
        return run

    # -- the loop ---------------------------------------------------------------------------------------------

    def _train(self) -> str | None:
        """Step to the end. Returns why the run has diverged; None at the end, or where a callback stopped it."""
        self.stop_rule = StopRule(STOP_FACTOR)
        self.good = Snapshot(self.work, data=False)
        batches = self.work.batches()
        try:
            with Bar("training", self.total_steps, shown=self.progress, done=self.step) as self.bar:
                while not self._over():
                    self._pass(batches)
                    self._pause(validate=self.validate_every is None or self._over(), report=True)
        except _Diverged as divergence:
            return str(divergence)
        return None

    def _over(self) -> bool:
        return self.stopped or self.step >= self.total_steps

    def _pass(self, batches: Iterable[Batch]) -> None:
        """Step through one pass over the loader, or what is left of it."""
        block = 1 if self.work.device.type == "cpu" else BLOCK
        for group in self._groups(batches):
            if len(self._unread) >= block:
                self._read()
                if self.stopped:
                    return
            self._step(group)
            if self.step >= self.total_steps:
                return
            if self._pause_due():
                self._pause(validate=self._validation_due())
        self.epoch += 1
        self.group = 0

    def _step(self, group: Group) -> None:
        row = self._row(self.work.optimizer.param_groups[self._reference])
        result = self.work.step(group)
        self.group += 1
        if not result.stepped:
            # The weights have not moved, so neither does the schedule.
            self._skips += 1
            if self._skips > MAX_SKIPS:
                raise _Diverged(f"the gradients overflowed {self._skips} times in a row")
            return
        self._skips = 0
        self.step += 1
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.work.model)
        row["loss"] = result.loss
        self._unread.append(row)

    def _row(self, rates: dict[str, Any]) -> dict[str, Any]:
        lr = rates["lr"]
        row = {"step": self.step + 1, "epoch": self.epoch, "lr": lr.clone() if isinstance(lr, Tensor) else lr}
        momentum = get_momentum(rates)
        if momentum is not None:
            row["momentum"] = momentum
        return row

    def _groups(self, batches: Iterable[Batch]) -> Iterator[Group]:
        """Yield the groups of one pass; of a resumed one, those that are left."""
        size, loader = self.work.accumulation_steps, self.work.train_loader
        if self._reenter is None:
            if self.folder is not None:
                self._pass_start = {"random": random_states(), "loader": loader_state(loader)}
            yield from one_epoch(batches, size)
            return
        now, self._reenter = self._reenter, None
        # Read the pass from its start with its own random numbers, and only then take those of the checkpoint.
        set_random_states(self._pass_start["random"])
        set_loader_state(loader, self._pass_start["loader"])
        groups = one_epoch(batches, size)
        for _ in islice(groups, self.group):
            pass
        set_random_states(now["random"])
        set_loader_state(loader, now["loader"])
        yield from groups

    def _validation_due(self) -> bool:
        return self.validate_every is not None and self.step % self.validate_every == 0

    def _pause_due(self) -> bool:
        every = self.checkpoint_every
        return self._terminated or self._validation_due() or (every is not None and self.step % every == 0)

    def _pause(self, *, validate: bool, report: bool = False) -> None:
        """Validate, write the rows, save."""
        if self._unread and validate and self.work.val_loader is not None:
            self._unread[-1] |= self._validate()
        self._read()
        if report or validate:
            self._report()
        self.good = Snapshot(self.work, data=False)
        if self.folder is not None:
            self.folder.log.flush()
            self.folder.checkpoints.save(self.step, self._state())
        if self._terminated:
            assert self.folder is not None, "SIGTERM is only caught where there is a folder"
            self.folder.checkpoints.wait()
            raise SystemExit(128 + signal.SIGTERM)

    def _validate(self) -> dict[str, float]:
        numbers = {f"val_{name}": value for name, value in self.work.evaluate().items()}
        if self.ema is not None:
            numbers |= {f"val_ema_{name}": value for name, value in self.work.evaluate(model=self.ema).items()}
        return numbers

    def _read(self) -> None:
        """Bring home the losses of the steps since the last read, record and judge them."""
        rows, self._unread = self._unread, []
        if len(rows) > 1:
            losses = torch.stack([row["loss"] for row in rows]).tolist()
        else:
            losses = [float(row["loss"]) for row in rows]
        for row, loss in zip(rows, losses, strict=True):
            row["loss"], row["lr"] = loss, float(row["lr"])
            self.history.write(row)
            for log in self.loggers:
                log.write(row)
            self.bar.advance(f"loss {loss:.4g}")
            verdict = self.stop_rule.after(loss)
            if verdict == "diverged":
                first = self.history["loss"][0]
                raise _Diverged(f"the loss rose to {loss:.4g}, far above where it began ({first:.4g})")
            if verdict == "non-finite":
                raise _Diverged("the loss is not finite any more")
            for callback in self.callbacks:
                if callback(row) is True:
                    self.stopped = True

    # -- checkpoints ------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on, as data that ``weights_only=True`` reads."""
        work = self.work
        state = {
            "epoch": self.epoch,
            "group": self.group,
            "first_step": self.first_step,
            "total_steps": self.total_steps,
            "max_lr": self.cycle.max_lr,
            "pick": None if self.pick is None else pick_record(self.pick),
            "retries": [vars(retry) for retry in self.retries],
            "notes": list(self.notes),
            "fingerprint": self._fingerprint(),
            "model": work.model.state_dict(),
            "buffers": dict(work.model.named_buffers()),
            "optimizer": work.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": random_states(),
            "loader": loader_state(work.train_loader),
            "val_loader": loader_state(work.val_loader),
            "pass_start": self._pass_start,
        }
        if work.grad_scaler is not None:
            state["grad_scaler"] = work.grad_scaler.state_dict()
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        return state

    def _fingerprint(self) -> dict[str, Any]:
        return fingerprint(self.work, self.shape, ema=self.ema is not None)

    def _resume(self, record: dict[str, Any], peak: MaxLR, *, extend: bool) -> None:
        refuse_other(record["fingerprint"], self._fingerprint(), self._folder_path())
        done, planned = record["step"], record["total_steps"]
        if extend:
            if done < planned or self.total_steps <= done:
                raise CheckpointError(
                    f'resume="extend" adds a cycle to a finished run; the run in {self._folder_path()} has done {done} '
                    f"of {planned} steps and {self.total_steps} are asked for. Give total_steps above {done} for a "
                    'finished run, or finish it first with resume="auto".'
                )
            self.first_step = done
        else:
            if self.total_steps != planned:
                raise CheckpointError(
                    f"the run in {self._folder_path()} is planned for {planned} steps, of which {done} are done; got "
                    f"total_steps={self.total_steps}. Give {planned} to go on with it, or train it to its end and "
                    'then add a second cycle with resume="extend".'
                )
            self.first_step = record["first_step"]
        recorded = record["max_lr"]
        if not isinstance(peak, str) and not extend and not record["retries"]:
            given = _as_given(peak)
            if given != recorded:
                raise CheckpointError(
                    f"the run in {self._folder_path()} has the peak max_lr={recorded!r}; got max_lr={given!r}. Give "
                    'the same, or max_lr="auto" to take the recorded one, or another out_dir.'
                )
        if not isinstance(peak, str) and extend:
            recorded = _as_given(peak)
        self.pick = None if record["pick"] is None else pick_from_record(record["pick"])
        self.curve = self._folder().saved_curve()
        self.retries = [Retry(**retry) for retry in record["retries"]]
        self._schedule(recorded)
        self._load(record, with_schedule=not extend)
        if extend:
            self._schedule(recorded)
        self.history = load_history(self._folder_path(), until=self.step)
        self._tell(f"Going on from step {self.step} of {self._folder_path()}.")

    def _load(self, record: dict[str, Any], *, with_schedule: bool = True) -> None:
        """Take the run to where ``record`` was written."""
        work = self.work
        work.model.load_state_dict(record["model"])
        with torch.no_grad():
            for name, buffer in work.model.named_buffers():
                buffer.copy_(record["buffers"][name])
        work.optimizer.load_state_dict(record["optimizer"])
        if with_schedule:
            self.scheduler.load_state_dict(record["scheduler"])
        if work.grad_scaler is not None:
            work.grad_scaler.load_state_dict(record["grad_scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(record["ema"])
        self.step, self.epoch, self.group = record["step"], record["epoch"], record["group"]
        self._pass_start = record["pass_start"]
        now = {"random": record["random"], "loader": record["loader"]}
        set_random_states(now["random"])
        set_loader_state(work.train_loader, now["loader"])
        set_loader_state(work.val_loader, record["val_loader"])
        self._reenter = now if self.group else None

    def _folder(self) -> RunFolder:
        assert self.folder is not None, "only a run with a folder is resumed"
        return self.folder

    def _folder_path(self) -> Path:
        return self._folder().path

    @contextmanager
    def _on_sigterm(self) -> Iterator[None]:
        """Let SIGTERM end the run after the present step and one more checkpoint; needs a folder to write it to."""
        if self.folder is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_: object) -> None:
            self._terminated = True

        former = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)

    def close(self) -> None:
        """Write what the logs hold back, and wait for the checkpoint under way."""
        for log in self.loggers:
            log.close()
        if self.folder is not None:
            self.folder.checkpoints.wait()

    def _facts(self) -> dict[str, Any]:
        return {**self._fingerprint(), "max_lr": self.cycle.max_lr, "total_steps": self.total_steps}

    # -- what is told -----------------------------------------------------------------------------------------

    def _report(self) -> None:
        if not self.progress or not self.history.rows:
            return
        row = self.history.row(-1)
        since = [i for i, e in enumerate(self.history["epoch"]) if e == row["epoch"]]
        train_loss = fmean(self.history["loss"][since[0] :])
        parts = [f"epoch {int(row['epoch']) + 1}", f"step {self.step}/{self.total_steps}", f"lr {row['lr']:.3g}"]
        parts.append(f"train loss {train_loss:.4f}")
        parts += [f"{name.replace('_', ' ')} {value:.4f}" for name, value in row.items() if name.startswith("val_")]
        self._tell("  ".join(parts))

    def _tell(self, line: str) -> None:
        if self.progress:
            tell(line)
        else:
            _log.info(line)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            self._tell(note)


def _ema(decay: float) -> Callable[..., Any]:
    average: Callable[..., Any] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return average


def _as_given(peak: SupportsFloat | Sequence[float]) -> float | tuple[float, ...]:
    peaks = OneCycle(peak).peaks
    return peaks if isinstance(peak, Sequence) else peaks[0]
