"""The learning-rate range test: the training step itself, under a learning rate that climbs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrfind.baseline import TARGET_NUMBERS, constant_loss
from lrfind.batches import Group, endless, rewinds
from lrfind.curve import MIN_POINTS, LRCurve, Status, together
from lrfind.groups import get_momentum, lr_ratios, set_lr, set_momentum
from lrfind.live import LiveCurve
from lrfind.preserve import Where, preserve
from lrfind.progress import Bar
from lrfind.replicas import replicas
from lrfind.stopping import StopRule
from lrfind.workload import Workload

StepMode = Literal["exp", "linear"]
Rates = float | Sequence[float]
OnPoint = Callable[[float, float], Any]

# The momentum at which OneCycleLR holds its peak, by default.
CYCLE_MOMENTUM = 0.85
MIN_ITER = 10
# Losses stay on an accelerator until so many are there: one wait for the device in place of ten.
BLOCK = 10
# Overflows in a row after which the grad scaler is not going to find a scale that works.
MAX_SKIPS = 50
# Steps whose targets tell what a constant predictor would get.
TARGET_STEPS = 50


def range_test(
    work: Workload,
    *,
    start_lr: Rates = 1e-7,
    end_lr: Rates = 10.0,
    num_iter: int = 100,
    step_mode: StepMode = "exp",
    stop_factor: float = 2.0,
    momentum: float | None = CYCLE_MOMENTUM,
    val_batches: int | Literal["all"] | None = None,
    repeats: int = 1,
    spread: bool = False,
    snapshot: Where = "device",
    on_point: OnPoint | None = None,
    progress: bool = True,
) -> LRCurve:
    """Sweep the learning rate over a workload and record the loss; the workload is left bit for bit as it was.

    Args:
        work: What to train. It is stepped exactly as training will step it: clipping, accumulation, autocast.
        start_lr: Learning rate of the first step. One number is the rate of the group with the largest lr, and
            the others keep their ratio to it; a list gives each group its own.
        end_lr: Learning rate of the last step, likewise.
        num_iter: Optimizer steps to plan, at least 10; a loader that is shorter is read again from its start.
        step_mode: ``"exp"``: equal ratios between steps; ``"linear"``: equal differences.
        stop_factor: How many times its fall the loss may rise again before the sweep stops
            (``lrfind.stopping.StopRule``); ``math.inf`` goes on to ``end_lr``, NaN apart.
        momentum: Momentum (beta1) during the sweep. Default: 0.85, what OneCycleLR has at its peak, also where
            the optimizer's own is 0, since the cycle will turn it on. None: the optimizer's own.
        val_batches: None records the training loss of each step. ``"all"``, or a number of batches, records the
            mean validation loss after each step instead (the first so many batches of ``val_loader``).
        repeats: Number of sweeps from the same state on other batches; the further ones are ``replicates`` of
            the curve, and their spread becomes the suggestion's uncertainty.
        spread: Spread the repeats over the ranks of torch.distributed, each of which holds the whole workload (a plain
            model, all the data): four ranks do four repeats in the time of one, and all return the same curve. A
            workload under DDP spreads its batches anyway.
        snapshot: ``"cpu"`` keeps the copy of model and optimizer off the accelerator.
        on_point: Called as ``on_point(lr, loss)`` after each recorded point, on every rank, for instance to draw it;
            the sweep ends early, as ``"interrupted"``, when it returns True.
        progress: Show a progress bar; in a notebook, the curve itself as it grows.

    Returns:
        An ``LRCurve`` of raw losses and the rates really used. A step that the grad scaler skips gives no point:
        its rate is tried again on the next batch.

    Raises:
        ValueError: For settings out of range, before any step.
        RankError: Where another rank has failed; everything restored.
        KeyboardInterrupt: On Ctrl-C, everything restored; the points so far are its attribute ``curve``.

    Source:
        Smith, arXiv:1506.01186, section 3.3; the exponential form is Gugger's.

    >>> from torch import nn
    >>> model = nn.Linear(3, 1)
    >>> batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3)]
    >>> work = Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), batches)
    >>> curve = range_test(work, start_lr=1e-4, progress=False)
    >>> curve.status, float(curve.lr[0]), curve.loss.dtype.name
    ('diverged', 0.0001, 'float64')
    """
    rates = _rates(work, start_lr, end_lr, num_iter, step_mode)
    _check(work, momentum, val_batches, repeats)
    others = replicas(work, spread)
    curves: list[LRCurve] = []
    progress = progress and work.ranks.first and others.first
    with (
        LiveCurve(curves, rates, shown=progress) as live,
        preserve(work, snapshot) as start,
        Bar("range test", num_iter * len(range(0, repeats, others.size)), shown=progress and not live.on) as bar,
        work.ranks.together(),
        others.together(),
    ):
        try:
            for repeat in range(others.rank, repeats, others.size):
                if others.size > 1:
                    start.restore()
                    _pass_over(work, repeat)
                elif repeat:
                    start.restore(data=False)
                if momentum is not None:
                    _override_momentum(work, momentum)
                sweep = Sweep(
                    work,
                    rates,
                    StopRule(stop_factor),
                    bar,
                    step_mode=step_mode,
                    val_batches=val_batches,
                    on_point=on_point,
                    live=live,
                )
                with work.training():  # here, since restore() takes the modes back as well
                    sweep.run()
                curves.append(sweep.curve())
        except KeyboardInterrupt as stop:
            curves += [stop.curve] if hasattr(stop, "curve") else []
            if curves:
                stop.curve = together(curves)  # type: ignore[attr-defined]
            raise
        dealt = others.gather(curves)
    return together([dealt[repeat % others.size][repeat // others.size] for repeat in range(repeats)])


def _pass_over(work: Workload, passes: int) -> None:
    """Begin so many passes over the training data, as the repeats before would have: the next one has other batches."""
    for _ in range(passes):
        next(iter(work.batches()), None)


class Sweep:
    """One sweep in progress: steps the workload, reads the losses, decides when to stop. Puts nothing back.

    Args:
        work: What is stepped.
        rates: shape ``(groups, steps)``. The learning rate of each parameter group at each step.
        rule: Hears every loss in turn.
        bar: Moves on with every point.
        step_mode: How ``rates`` are spaced, for the curve's facts.
        val_batches: As for ``range_test``.
        on_point: As for ``range_test``.
        live: Hears every point too. Default: nobody.
    """

    def __init__(
        self,
        work: Workload,
        rates: NDArray[np.float64],
        rule: StopRule,
        bar: Bar,
        *,
        step_mode: StepMode,
        val_batches: int | Literal["all"] | None = None,
        on_point: OnPoint | None = None,
        live: LiveCurve | None = None,
    ) -> None:
        self.work = work
        self.rates = rates
        self.rule = rule
        self.bar = bar
        self.step_mode = step_mode
        self.val_batches = val_batches
        self.on_point = on_point
        self.live = live
        self.status: Status = "range end"
        self.losses: list[float] = []
        self.targets: list[list[Any]] = []  # of each step
        self._numbers = 0
        self._cut_short = False  # by an error or Ctrl-C, perhaps on this rank alone
        # The group with the largest rate speaks for all.
        self._reference = int(rates.sum(axis=1).argmax())
        self._lrs: list[float] = rates[self._reference].tolist()
        self._unread: list[Tensor | float] = []
        self._block = 1 if work.device.type == "cpu" else BLOCK

    def run(self) -> None:
        """Step through the rates until the last, a verdict of the rule, or the caller's word.

        Raises:
            KeyboardInterrupt: On Ctrl-C; the points so far are its attribute ``curve``.
        """
        # Closed at once: an error's traceback would keep the loader's worker processes alive.
        with closing(endless(self.work.batches(), self.work.accumulation_steps)) as groups:
            try:
                self._run(groups)
            except BaseException as stop:
                self.status, self._cut_short = "interrupted", True
                # Of several ranks the others may be elsewhere by now, and not there to take the mean with.
                for loss in map(float, self._unread) if self.work.ranks.size == 1 else ():
                    self.losses.append(loss)
                    self.rule.after(loss)
                if isinstance(stop, KeyboardInterrupt):
                    stop.curve = self.curve()  # type: ignore[attr-defined]
                raise

    def _run(self, groups: Iterator[Group]) -> None:
        for rates in self.rates.T.tolist():
            for group, lr in zip(self.work.optimizer.param_groups, rates, strict=True):
                set_lr(group, lr)
            loss = self._step(groups)
            if loss is None:
                if not self._read():
                    self.status = "non-finite"
                return
            self._unread.append(loss if self.val_batches is None else self._validation_loss())
            if len(self._unread) >= self._block and self._read():
                return
        self._read()

    def _step(self, groups: Iterator[Group]) -> Tensor | None:
        """Take one optimizer step; None if the grad scaler cannot find a scale that works."""
        for _ in range(MAX_SKIPS):
            batches = next(groups)
            result = self.work.step(batches)
            if result.stepped:
                self._keep_targets(batches)
                return result.loss
        return None

    def _keep_targets(self, batches: Group) -> None:
        if self.work.criterion is None or len(self.targets) >= TARGET_STEPS or self._numbers >= TARGET_NUMBERS:
            return
        self.targets.append([targets for _, targets in batches])
        self._numbers += sum(targets.numel() for targets in self.targets[-1] if isinstance(targets, Tensor))

    def _validation_loss(self) -> float:
        most = None if self.val_batches == "all" else self.val_batches
        assert not isinstance(most, str), "checked before the sweep"
        return self.work.evaluate(max_batches=most, metrics=False)["loss"]

    def _read(self) -> bool:
        """Bring the losses of a block home; True if the sweep is over. What lies behind the stop is dropped."""
        unread = self._unread
        tensors = [loss for loss in unread if isinstance(loss, Tensor)]
        losses = self.work.losses(tensors) if tensors else [float(loss) for loss in unread]
        unread.clear()
        for loss in losses:
            lr = self._lrs[len(self.losses)]
            self.losses.append(loss)
            self.bar.advance(f"lr {lr:.1e}, loss {loss:.4g}" if self.bar.shown else "")
            if self.live is not None:
                self.live.point(lr, loss)
            verdict = self.rule.after(loss)
            if verdict is not None:
                self.status = verdict
                return True
            if self.on_point is not None and self.work.ranks.any(self.on_point(lr, loss) is True):
                self.status = "interrupted"
                return True
        return False

    def curve(self) -> LRCurve:
        """Return the points recorded so far."""
        work, points = self.work, len(self.losses)
        facts: dict[str, Any] = {
            "start_lr": self._lrs[0],
            "end_lr": self._lrs[-1],
            "num_iter": len(self._lrs),
            "step_mode": self.step_mode,
            "momentum": get_momentum(work.optimizer.param_groups[0]),
            "optimizer": type(work.optimizer).__name__,
            "batch_size": work.batch_size,
            "accumulation_steps": work.accumulation_steps,
            "ranks": work.ranks.size,
            "loss": "training" if self.val_batches is None else "validation",
            "notes": [],
        }
        # Of the points alone: steps behind the stop depend on how far the reading of losses lags.
        targets = [part for of_step in self.targets[:points] for part in of_step]
        constant = constant_loss(work.criterion, targets)
        if not self._cut_short:  # then all ranks are here, to return the same curve: that of rank 0's targets
            constant = work.ranks.from_first(lambda: constant)
        if constant is not None:
            facts["constant_loss"] = constant
        if work.train_loader is not None and not rewinds(work.train_loader):
            facts["notes"].append(
                f"The loader reads a stream that cannot be rewound: training will not see the batches of these "
                f"{points} steps again."
            )
        few = points < MIN_POINTS and self.status in ("diverged", "range end")
        return LRCurve(
            self.rates[self._reference, :points],
            self.losses,
            "too few points" if few else self.status,
            group_lrs=self.rates[:, :points],
            facts=facts,
        )


def _override_momentum(work: Workload, momentum: float) -> None:
    for group in work.optimizer.param_groups:
        if get_momentum(group) is not None:
            set_momentum(work.optimizer, group, momentum)


def _rates(work: Workload, start_lr: Rates, end_lr: Rates, num_iter: int, step_mode: StepMode) -> NDArray[np.float64]:
    """Return the rate of every parameter group at every step, shape ``(groups, num_iter)``, as it will be used."""
    if not isinstance(num_iter, int) or isinstance(num_iter, bool) or not num_iter >= MIN_ITER:
        raise ValueError(
            f"num_iter must be a whole number of at least {MIN_ITER}; got {num_iter!r}. "
            "It counts optimizer steps; 100 is usual, fewer than 50 say little."
        )
    if step_mode not in get_args(StepMode):
        raise ValueError(
            f"step_mode must be 'exp' or 'linear'; got {step_mode!r}. 'exp' spends as many steps on each decade."
        )
    starts, ends = _per_group(work, "start_lr", start_lr), _per_group(work, "end_lr", end_lr)
    # A group whose lr is 0 is frozen and stays so; not all of them can be.
    good = [0 < start < end < math.inf or start == end == 0 for start, end in zip(starts, ends, strict=True)]
    if not (all(good) and any(ends)):
        raise ValueError(
            "start_lr must be above 0 and below a finite end_lr; "
            f"got start_lr={start_lr!r}, end_lr={end_lr!r}. The sweep goes upwards: swap or widen them "
            "(1e-7 to 10 suits nearly everything)."
        )
    along = np.linspace(0.0, 1.0, num_iter)
    rows = []
    for start, end in zip(starts, ends, strict=True):
        row = start + (end - start) * along if step_mode == "linear" else _geometric(start, end, along)
        row[0], row[-1] = start, end
        rows.append(row)
    return as_used(work, rows)


def as_used(work: Workload, rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Stack a row of rates per parameter group; a tensor lr will hold them in its own precision."""
    return np.stack(
        [
            torch.from_numpy(row).to(group["lr"].dtype).double().numpy() if isinstance(group["lr"], Tensor) else row
            for group, row in zip(work.optimizer.param_groups, rows, strict=True)
        ]
    )


def _geometric(start: float, end: float, along: NDArray[np.float64]) -> NDArray[np.float64]:
    return start * (end / start) ** along if start > 0 else np.zeros_like(along)  # a group frozen at rate 0


def _per_group(work: Workload, name: str, rates: Rates) -> list[float]:
    groups = len(work.optimizer.param_groups)
    allowed = f"{name} must be one number or a list with one per parameter group"
    try:
        given = np.asarray(rates, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{allowed}; got {rates!r}. Pass one number to keep the groups' ratios.") from error
    if given.ndim == 0:
        return [float(given) * ratio for ratio in lr_ratios(work.optimizer)]
    if given.shape != (groups,):
        raise ValueError(
            f"{allowed}; got {given.size} for {groups} groups. Pass one number to keep the groups' ratios."
        )
    return [float(rate) for rate in given]


def _check(work: Workload, momentum: float | None, val_batches: int | Literal["all"] | None, repeats: int) -> None:
    if momentum is not None and not 0 <= momentum < 1:
        raise ValueError(
            f"momentum must be at least 0 and below 1, or None; got {momentum!r}. "
            "The default is the momentum at a cycle's peak; None keeps the optimizer's own."
        )
    if not isinstance(repeats, int) or not repeats >= 1:
        raise ValueError(f"repeats must be a whole number of at least 1; got {repeats!r}. It counts sweeps.")
    if val_batches is None:
        return
    if val_batches != "all" and not (isinstance(val_batches, int) and val_batches >= 1):
        raise ValueError(
            f"val_batches must be 'all', a number of batches of at least 1, or None; got {val_batches!r}. "
            "None records the training loss."
        )
    if work.val_loader is None:
        raise ValueError(
            f"val_batches needs a val_loader; got val_batches={val_batches!r} and no val_loader. "
            "Pass val_loader to Workload, or leave val_batches out."
        )
