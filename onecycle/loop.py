"""A training run in progress: its stages, and the loop that steps from the first batch to the last."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import takewhile
from statistics import fmean
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrfind.baseline import constant_loss
from lrfind.batches import Group
from lrfind.curve import LRCurve, NoSuggestion
from lrfind.groups import get_momentum, lr_ratios
from lrfind.progress import Bar, tell
from lrfind.suggest import Suggestion
from lrfind.workload import Workload
from onecycle.auto import pick_with_curve
from onecycle.divergence import Diverged, Divergence
from onecycle.fingerprint import fingerprint, refuse_other
from onecycle.logs import Log
from onecycle.outputs import RunFolder
from onecycle.passes import Passes
from onecycle.preemption import EXIT_STATUS, sigterm_noted
from onecycle.resume import MaxLR, Peak, Resume, as_peak, continuation, refuse_other_ratios
from onecycle.rows import Callback, Rows
from onecycle.run import Retry, Run, RunStatus
from onecycle.schedule import OneCycle
from onecycle.scheduler import OneCycleLR
from onecycle.state import WorkState, as_plain

# A run that diverges begins again with max_lr divided by this, so many times at most.
RETRY_DIVISOR = 3.0
MAX_RETRIES = 3
# Losses stay on an accelerator until so many are there: one wait for the device in place of many.
BLOCK = 20
# Overflows in a row after which the grad scaler is not going to find a scale that works.
MAX_SKIPS = 50
# Steps whose targets tell what a constant prediction would get.
TARGET_STEPS = 20

_log = logging.getLogger("onecycle")


class Training:
    """A run in progress. Where it stands is a *record*, plain data: what checkpoints hold and retries go back to."""

    heal: bool  # whether to begin again after a divergence
    cycle: OneCycle
    scheduler: OneCycleLR
    start: Callable[[], dict[str, Any]]  # returns the record of the start of the present cycle
    good: dict[str, Any]  # the record of the last moment at which all was well, as the loss after it has shown

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
        self.progress = progress and work.ranks.first
        self.validate_every = validate_every
        self.checkpoint_every = checkpoint_every
        self.ema_decay = ema_decay
        self.loggers = loggers
        self.ema = None if ema_decay is None else AveragedModel(work.module, multi_avg_fn=_ema(ema_decay))
        self.state = WorkState(work, self.ema)
        self.passes = Passes(work)
        self.rows = Rows(callbacks, self._logs(), work.ranks)
        self.step = 0  # optimizer steps taken
        self.first_step = 0  # where the present cycle begins: above 0 in an extended run
        self.peak: Peak = 0.0
        self.first_peak: Peak = 0.0  # before any retry
        self.pick: Suggestion | None = None
        self.curve: LRCurve | None = None
        self.retries: list[Retry] = []
        self.notes: list[str] = []
        self.level: float | None = None  # loss of the best constant prediction
        self._ratios = lr_ratios(work.optimizer)
        self._targets: list[Any] = []
        self._skips = 0  # overflows in a row
        self._pending = False  # whether the last step is still to be validated
        self._latest: dict[str, Any] | None = None  # the last record, while the loss after it is not known

    # -- the stages -------------------------------------------------------------------------------------------

    def run(self, max_lr: MaxLR, resume: Resume, *, heal: bool) -> Run:
        """Pick, train, begin again where that heals, and return the run."""
        self.heal = heal
        with self.work.ranks.together():
            checkpoint = self.folder.open(resume) if self.folder is not None else None
            if checkpoint is None:
                self._begin(max_lr)
            else:
                self._take_up(checkpoint, max_lr, resume)
            with self.work.training(), sigterm_noted(self.folder is not None) as self.rows.sigterms:
                while (reason := self._train()) is not None and heal and len(self.retries) < MAX_RETRIES:
                    self._begin_again(reason)
                run = self._finish() if reason is None else self._give_up(reason)
        if self.rows.sigterms:  # too late for another checkpoint, and to be obeyed all the same
            raise SystemExit(EXIT_STATUS)
        return run

    def _begin(self, max_lr: MaxLR) -> None:
        self.peak = self.first_peak = self._choose(max_lr)
        start = self._record(scheduler=None)
        self._schedule()
        self._set_out(start, until=0)

    def _choose(self, max_lr: MaxLR) -> Peak:
        if not isinstance(max_lr, str):
            self.pick = max_lr if isinstance(max_lr, Suggestion) else None
            return as_peak(max_lr, self._ratios)
        try:
            choice = pick_with_curve(
                self.work, total_steps=self.total_steps, method=max_lr, cycle=self.shape, progress=self.progress
            )
        except NoSuggestion as refusal:
            if self.folder is not None and refusal.curve is not None:
                self.folder.keep(refusal.curve)
            raise
        self.pick, self.curve = choice.suggestion, choice.curve
        self._tell(f"{self.pick}: {self.pick.evidence}")
        for warning in self.pick.warnings:
            self._tell(f"warning: {warning}")
        return as_peak(self.pick, self._ratios)

    def _take_up(self, checkpoint: dict[str, Any], max_lr: MaxLR, resume: Resume) -> None:
        assert self.folder is not None, "only a run with a folder is taken up"
        where = self.folder.path
        refuse_other(checkpoint["fingerprint"], self._fingerprint(), where)
        refuse_other_ratios(checkpoint, self._ratios, where)
        peak = None if isinstance(max_lr, str) else as_peak(max_lr, self._ratios)
        record = continuation(checkpoint, self.total_steps, peak, resume, where)
        self.first_step = record["first_step"]
        self.peak, self.first_peak = record["max_lr"], record["first_max_lr"]
        self.pick = None if record["pick"] is None else Suggestion(**record["pick"])
        until = _recorded(record)
        self.curve, history = self.folder.saved(until)
        self.retries = [Retry(**retry) for retry in record["retries"]]
        self.notes, self.level = list(record["notes"]), record["level"]
        self._go_to(record)
        self.rows.go_back(history, record["row"])
        self._tell(f"Going on from step {self.step} of {where}.")
        if record is not checkpoint:
            self._tell(
                f"A further cycle over steps {self.first_step + 1} to {self.total_steps}: lr from "
                f"{self.cycle.initial_lr:.3g} up to {max(self.cycle.peaks):.3g} and down to {self.cycle.min_lr:.3g}."
            )
        self._set_out(record, until=until, new=record is not checkpoint)

    def _begin_again(self, reason: str) -> None:
        """Go back to the start, with a lower peak."""
        failed = max(self.cycle.peaks)
        self.retries.append(Retry(failed, self.step, reason))
        peaks = tuple(peak / RETRY_DIVISOR for peak in self.cycle.peaks)
        self.peak = peaks if isinstance(self.peak, tuple) else peaks[0]
        self._tell(
            f"max_lr {failed:.3g} failed at step {self.step}: {reason}. Beginning again with max_lr {max(peaks):.3g}."
        )
        retries = [asdict(retry) for retry in self.retries]
        start = self.start() | {"max_lr": self.peak, "retries": retries}
        until = _recorded(start)
        self._go_to(start)
        self.rows.go_back(self.rows.history.until(until), start["row"])
        self._set_out(start, until=until)

    def _give_up(self, reason: str) -> Run:
        self._confirm()
        failed = max(self.cycle.peaks)
        self._note(
            f"max_lr {failed:.3g} failed at step {self.step}: {reason}. Stopped, with the weights of step "
            f"{self.good['step']}; try max_lr={failed / RETRY_DIVISOR:.3g}."
        )
        self._go_to(self.good)
        return self._finish("diverged")

    def _set_out(self, record: dict[str, Any], *, until: int, new: bool = True) -> None:
        """Write what is known before the next step.

        Args:
            record: Where the run stands.
            until: Last step that is in the history.
            new: Whether a cycle begins here, or one goes on.
        """
        self.good, self._latest = record, None
        if self.folder is not None:
            self.start = self.folder.checkpoints.start
            if new:
                self.folder.checkpoints.begin(record)
            self.folder.begin(self.cycle, self.curve, self.pick, self._facts(), until=until, new=new)
            self.rows.logs = [self.folder, *self._logs()]
        elif self.heal:  # else it would only take up memory
            self.start = lambda: record

    def _schedule(self) -> None:
        self.cycle = replace(self.shape, max_lr=self.peak, total_steps=self.total_steps - self.first_step)
        groups = self.work.optimizer.param_groups
        if self.cycle.cycle_momentum and all(get_momentum(group) is None for group in groups):
            self.cycle = replace(self.cycle, cycle_momentum=False)
            self._note(
                f"{type(self.work.optimizer).__name__} has no momentum: the cycle moves the learning rate alone."
            )
        self.scheduler = self.cycle.scheduler(self.work.optimizer)
        self._reference = max(range(len(groups)), key=lambda index: float(groups[index]["lr"]))

    def _finish(self, status: RunStatus | None = None) -> Run:
        if status is None:
            status = "finished" if self.step >= self.total_steps else "stopped"
        run = Run(
            max_lr=max(self.cycle.peaks),
            cycle=self.cycle,
            curve=self.curve,
            suggestion=self.pick,
            history=self.rows.history,
            status=status,
            retries=tuple(self.retries),
            notes=tuple(self.notes),
            out_dir=self.folder.path if self.folder is not None else None,
            scheduler=self.scheduler,
            ema_model=self.ema,
        )
        if self.folder is not None:
            self.folder.finish(run)
        return run

    def _logs(self) -> Sequence[Log]:
        return self.loggers if self.work.ranks.first else ()

    def close(self) -> None:
        """Write what the logs hold back, and wait for the checkpoint under way."""
        with ExitStack() as stack:  # all of it, also where something fails
            if self.folder is not None:
                stack.callback(self.folder.close)
            for log in self.loggers:
                stack.callback(log.close)

    # -- the loop ---------------------------------------------------------------------------------------------

    def _train(self) -> str | None:
        """Step to the end. Returns why the run has diverged; None at the end, or where a callback stopped it."""
        rows = self.rows
        try:
            with Bar("training", self.total_steps, shown=self.progress, done=self.step - len(rows)) as rows.bar:
                rows.judge_anew(Divergence(self.total_steps, self.level))
                if self._pending:  # the kill came before the validation
                    self._validate()
                while not self._over():
                    self._pass()
                    self._pause(validate=self.validate_every is None or self._over() or self._validation_due())
                    rows.settle()
                    self._report()
        except Diverged as divergence:
            return str(divergence)
        return None

    def _over(self) -> bool:
        return self.rows.stopped or self.step >= self.total_steps

    def _pass(self) -> None:
        """Step through one pass over the loader, or what is left of it."""
        rows = self.rows
        block = 1 if self.work.device.type == "cpu" else BLOCK
        # If the last step of a pass is skipped, the row before it is the one for the validation to go into.
        hold = 0 if self.work.grad_scaler is None else 1
        for group in self.passes.groups():
            if len(rows) >= block:
                rows.settle(hold=hold)
                if rows.stopped:
                    self.passes.hand_back()
                    return
            stepped = self._step(group)
            if self.step >= self.total_steps:
                return
            due = stepped and self._pause_due() and not self.passes.at_end
            if due or rows.terminated:
                self._pause(validate=stepped and self._validation_due())

    def _step(self, group: Group) -> bool:
        """Take one step; returns whether the weights have moved."""
        row = self._row(self.work.optimizer.param_groups[self._reference])
        result = self.work.step(group)
        if not result.stepped:
            # Then neither has the schedule.
            self._skips += 1
            if self._skips > MAX_SKIPS:
                raise Diverged(f"the gradients overflowed {self._skips} times in a row")
            return False
        self._skips = 0
        self.step += 1
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.work.module)
        row["loss"] = result.loss
        self.rows.add(row)
        if self.step <= TARGET_STEPS:
            self._see_targets(group)
        return True

    def _row(self, rates: dict[str, Any]) -> dict[str, Any]:
        lr = rates["lr"]
        row = {"step": self.step + 1, "epoch": self.passes.epoch, "lr": lr.clone() if isinstance(lr, Tensor) else lr}
        momentum = get_momentum(rates)
        if momentum is not None:
            row["momentum"] = momentum
        return row

    def _see_targets(self, group: Group) -> None:
        """Work out from the first targets the loss that a run from trained weights may well rise to."""
        if self.work.criterion is None or self.level is not None:
            return
        self._targets += [targets for _, targets in group]
        if self.step == TARGET_STEPS:
            level = constant_loss(self.work.criterion, self._targets)
            # Of several ranks, of the first one's targets: they must all judge alike.
            self.level = self.rows.rule.level = self.work.ranks.from_first(lambda: level)
            self._targets.clear()

    def _validation_due(self) -> bool:
        return self.validate_every is not None and self.step % self.validate_every == 0

    def _pause_due(self) -> bool:
        every = self.checkpoint_every
        return self._validation_due() or (every is not None and self.step % every == 0)

    def _pause(self, *, validate: bool) -> None:
        """Make sure that all is well, save it, and validate."""
        self.rows.settle(hold=1)
        if self.work.ranks.any(not self.state.finite()):
            self.rows.settle()
            raise Diverged("the weights are not finite any more")
        self._confirm()
        # Saved before, so that no step is lost to a validation that fails, or is killed.
        self._pending = validate and self.work.val_loader is not None and self.rows.last is not None
        self._latest = self._record(self.scheduler)
        if self.folder is not None:
            self.folder.save(self.step, self._latest)
            if self.rows.terminated:
                self.work.ranks.from_first(self.folder.checkpoints.wait)
                raise SystemExit(EXIT_STATUS)
        if self._pending:
            self._validate()

    def _confirm(self) -> None:
        """Take the last record for a good one once the loss of the step after it was within the range."""
        if self._latest is not None and self._latest["step"] < self.rows.rule.well:
            self.good, self._latest = self._latest, None

    def _validate(self) -> None:
        """Validate, and record the row of the last step with the outcome."""
        row = self.rows.last
        assert row is not None, "it has been held for this"
        row |= {f"val_{name}": value for name, value in self.work.evaluate().items()}
        if self.ema is not None:
            averaged = self.work.evaluate(model=self.ema.module)
            row |= {f"val_ema_{name}": value for name, value in averaged.items()}
        self._pending = False
        self.rows.settle()
        if self.validate_every is not None:
            self._report()

    # -- the record -------------------------------------------------------------------------------------------

    def _record(self, scheduler: OneCycleLR | None) -> dict[str, Any]:
        """Return all that the rest of the run depends on, as data of its own that ``weights_only=True`` reads.

        Args:
            scheduler: None at the start of a cycle, where none is set up yet.
        """
        facts = {
            "step": self.step,
            "first_step": self.first_step,
            "total_steps": self.total_steps,
            "max_lr": self.peak,
            "first_max_lr": self.first_peak,
            "pick": None if self.pick is None else asdict(self.pick),
            "retries": [asdict(retry) for retry in self.retries],
            "notes": self.notes,
            "level": self.level,
            "skips": self._skips,
            "fingerprint": self._fingerprint(),
            "row": self.rows.last,
            "pending": self._pending,
            "scheduler": None if scheduler is None else scheduler.state_dict(),
        }
        plain: dict[str, Any] = as_plain(facts)
        return plain | {"place": self.passes.take(), "work": self.state.take()}

    def _go_to(self, record: dict[str, Any]) -> None:
        """Take everything but the rows to where ``record`` was made."""
        self.step, self._skips, self._pending = record["step"], record["skips"], record["pending"]
        self._targets.clear()
        self.state.put(record["work"])
        self._schedule()
        if record["scheduler"] is not None:
            self.scheduler.load_state_dict(record["scheduler"])
        self.passes.put(record["place"])

    def _fingerprint(self) -> dict[str, Any]:
        return fingerprint(self.work, self.shape, ema_decay=self.ema_decay)

    def _facts(self) -> dict[str, Any]:
        return {
            **self._fingerprint(),
            "max_lr": self.cycle.max_lr,
            "total_steps": self.total_steps,
            "first_step": self.first_step,
            "pick": None if self.pick is None else asdict(self.pick),
            "retries": [asdict(retry) for retry in self.retries],
        }

    # -- what is told -----------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Tell how the present epoch goes."""
        if not self.progress or not self.rows.history.rows:
            return
        rows = self.rows.history.backwards()
        row = next(rows)
        losses = [row["loss"], *(other["loss"] for other in takewhile(lambda r: r["epoch"] == row["epoch"], rows))]
        parts = [f"epoch {int(row['epoch']) + 1}", f"step {self.step}/{self.total_steps}", f"lr {row['lr']:.3g}"]
        parts.append(f"train loss {fmean(losses):.4f}")
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


def _recorded(record: dict[str, Any]) -> int:
    """Return the last step whose row was recorded when ``record`` was made; that of its own step may be open still."""
    step: int = record["step"]
    return step if record["row"] is None else step - 1


def _ema(decay: float) -> Callable[..., Any]:
    average: Callable[..., Any] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return average
