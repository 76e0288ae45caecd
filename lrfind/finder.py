"""torch-lr-finder's ``LRFinder`` on this package's sweep: the same calls, the same numbers, without its faults."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch_lr_finder import LRFinder as PeerFinder
from torch_lr_finder import TrainDataLoaderIter, ValDataLoaderIter
from torch_lr_finder.lr_finder import DataLoaderIter

from lrfind.batches import Batch, fast
from lrfind.curve import LRCurve
from lrfind.groups import get_lr
from lrfind.preserve import Restore, Snapshot, data_preserved, set_gradients_aside
from lrfind.progress import Bar
from lrfind.stopping import StopRule, Verdict
from lrfind.sweep import StepMode, Sweep, as_used
from lrfind.validation import modes_restored
from lrfind.workload import Workload

# What a subclass of the peer's class may have replaced, and this one does not call.
_NOT_CALLED = ("_train_batch", "_validate", "_move_to_device")


class LRFinder(PeerFinder):  # type: ignore[misc]  # the peer ships no types
    """A drop-in for ``torch_lr_finder.LRFinder``, and one: for ``isinstance``, and in what it returns.

    Kept, because a user may count on it: the optimizer's own momentum, every submodule in train mode during the
    sweep, the weights of the sweep's end until ``reset()``, the moving average and the early stop in ``history``.
    With ``smooth_f=0`` the losses are the peer's, bit for bit.

    Mended: ``reset()`` is exact however often it is called (the peer's second one gives a warm optimizer a wrong
    state), and covers non-persistent buffers, the grad scaler and gradients; random states, the loader's generator
    and train/eval modes are back as soon as ``range_test`` ends, also by an error; a NaN neither poisons the
    moving average nor keeps the sweep running, and a negative loss does not end it; the mean of a validation pass
    counts the samples that were read; ``amp_config`` may be left out; a step that the grad scaler skips is no
    point; a rate that does not rise is refused.

    New: ``curve``, the raw losses as an ``LRCurve``. In-memory data are read faster (``lrfind.batches.fast``).

    Args:
        model: What is trained.
        optimizer: Its lr is where the sweep starts unless ``range_test`` is told otherwise.
        criterion: Called as ``criterion(model(inputs), labels)``.
        device: Where to sweep. Default: where the model is.
        memory_cache: False keeps the copy of model and optimizer in files rather than in memory.
        cache_dir: Folder for these files. Default: the system's folder for temporary files.
        amp_backend: ``"torch"`` for mixed precision. Default: none.
        amp_config: ``device_type``, ``dtype`` and ``enabled`` of ``torch.autocast``. Default: torch's dtype for the
            device.
        grad_scaler: A ``torch.amp.GradScaler``; required with ``amp_backend="torch"``.

    Memory: one copy of model and optimizer state as long as the finder lives.

    Raises:
        ValueError: For settings that cannot work together.
        RuntimeError: If a scheduler is attached to the optimizer.

    >>> from torch.utils.data import TensorDataset
    >>> model, data = nn.Linear(4, 1), TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    >>> finder = LRFinder(model, torch.optim.SGD(model.parameters(), lr=1e-4), nn.MSELoss())
    >>> finder.range_test(DataLoader(data, batch_size=16), end_lr=0.1, num_iter=20)
    Learning rate search finished. See the graph with finder.plot()
    >>> finder.reset()
    >>> len(finder.history["loss"]), finder.curve.status
    (20, 'range end')
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Callable[[Any, Any], Tensor],
        device: torch.device | str | None = None,
        memory_cache: bool = True,
        cache_dir: str | None = None,
        amp_backend: str | None = None,
        amp_config: dict[str, Any] | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if amp_backend == "apex":
            raise ValueError(
                "amp_backend must be 'torch' or None here; got 'apex', which its authors have replaced by torch.amp. "
                "Pass amp_backend='torch' with a torch.amp.GradScaler, or use torch_lr_finder.LRFinder."
            )
        super().__init__(
            model, optimizer, criterion, device, memory_cache, cache_dir, amp_backend, amp_config, grad_scaler
        )
        # The peer's copy goes before ours is made: there is never more than one. Its way back, load_state_dict,
        # would hand the copy itself to the optimizer, and the next sweep would write into it.
        del self.state_cacher
        start = Workload(model, optimizer, criterion, grad_scaler=self._scaler())
        folder = Path(tempfile.gettempdir() if cache_dir is None else cache_dir)
        self._start = Snapshot(start, "device" if memory_cache else folder, data=False)
        self._give_back_gradients: Restore | None = None
        self._lrs_left: list[float] | None = None
        self._curve: LRCurve | None = None

    @property
    def curve(self) -> LRCurve:
        """The raw losses of the last ``range_test``, and the rates they were taken at.

        Raises:
            RuntimeError: Before the first one.
        """
        if self._curve is None:
            raise RuntimeError("curve is there once a sweep has run; got none so far. Call range_test(train_loader).")
        return self._curve

    def reset(self) -> None:
        """Take model and optimizer back, bit for bit, to where they were when the finder was made."""
        self._start.restore()
        self.model.to(self.model_device)
        if self._give_back_gradients is not None:
            self._give_back_gradients()
            self._give_back_gradients = None
        self._lrs_left = None

    def range_test(
        self,
        train_loader: DataLoader[Any] | TrainDataLoaderIter,
        val_loader: DataLoader[Any] | ValDataLoaderIter | None = None,
        start_lr: float | Sequence[float] | None = None,
        end_lr: float = 10,
        num_iter: int = 100,
        step_mode: str = "exp",
        smooth_f: float = 0.05,
        diverge_th: float = 5,
        accumulation_steps: int = 1,
        non_blocking_transfer: bool = True,
    ) -> None:
        """Sweep the learning rate; the losses are in ``history`` (smoothed) and ``curve`` (raw) afterwards.

        Model and optimizer stay as the sweep left them until ``reset()``, also after an error or Ctrl-C.

        Args:
            train_loader: A ``DataLoader``, or a ``TrainDataLoaderIter`` for batches that are no list or tuple.
            val_loader: Likewise (``ValDataLoaderIter``): records the mean loss over it after each step instead.
            start_lr: First rate, or a list with one per parameter group. Default: the optimizer's own.
            end_lr: Last rate, of every group.
            num_iter: Optimizer steps, at least 2.
            step_mode: ``"exp"`` or ``"linear"``.
            smooth_f: Weight of the new loss in the moving average of ``history``, 0 to below 1; 0 turns it off.
            diverge_th: The sweep stops when the smoothed loss exceeds so many times its best. At a best of 0 or
                below, where multiples say nothing: when it rises by so many times less one of the best's size, or
                of what it had fallen by if that is more.
            accumulation_steps: Batches per optimizer step; they count alike, whatever their sizes.
            non_blocking_transfer: Without effect: copies never wait, and need not.

        Raises:
            ValueError: For a setting out of range or a loader of another type.
            RuntimeError: If a scheduler is attached, or the last sweep has not been reset.
        """
        self._check_subclass()
        self._check_for_scheduler()
        if self._lrs_left == self._lrs():
            raise RuntimeError(
                "range_test starts from the model as it is; got the weights that the last sweep ended with. "
                "Call reset() first."
            )
        mode = _checked(train_loader, val_loader, num_iter, step_mode, smooth_f, diverge_th)
        rates = self._rates(start_lr, end_lr, num_iter, mode)
        work = _AsThePeer(
            self.model,
            self.optimizer,
            self.criterion,
            train_loader,
            val_loader,
            device=self.device,
            amp_dtype=self._amp_dtype(),
            grad_scaler=self._scaler(),
            accumulation_steps=accumulation_steps,
        )
        rule = _PeerRule(smooth_f, diverge_th)
        if self._give_back_gradients is None:
            self._give_back_gradients = set_gradients_aside(work)
        with data_preserved(work), work.training(), Bar("range test", num_iter, shown=True) as bar:
            val_batches: Literal["all"] | None = None if val_loader is None else "all"
            sweep = Sweep(work, as_used(work, rates), rule, bar, step_mode=mode, val_batches=val_batches)
            try:
                sweep.run()
            finally:
                self._lrs_left = self._lrs()
                self._curve = sweep.curve()
                self.history = {"lr": sweep.rates[0, : len(sweep.losses)].tolist(), "loss": rule.smoothed}
                self.best_loss = rule.best
        if sweep.status == "diverged":
            print("Stopping early, the loss has diverged")
        elif sweep.status == "non-finite":
            print("Stopping early, the loss is no finite number any more")
        print("Learning rate search finished. See the graph with finder.plot()")

    def _check_subclass(self) -> None:
        for name in _NOT_CALLED:
            given = getattr(self, name)
            if getattr(given, "__func__", given) is not getattr(PeerFinder, name):
                raise RuntimeError(
                    f"lrfind.LRFinder takes its steps through lrfind.Workload and does not call {name}; got one of "
                    f"{type(self).__name__}'s own. Put what it does into lrfind.Workload(..., loss_fn=...) and call "
                    "lrfind.range_test, or derive from torch_lr_finder.LRFinder."
                )

    def _lrs(self) -> list[float]:
        return [get_lr(group) for group in self.optimizer.param_groups]

    def _scaler(self) -> torch.amp.GradScaler | None:
        return self.grad_scaler if self.amp_backend == "torch" else None

    def _amp_dtype(self) -> torch.dtype | None:
        if self.amp_backend != "torch":
            return None
        config, here = dict(self.amp_config or {}), torch.device(self.device).type
        if unknown := sorted(config.keys() - {"device_type", "dtype", "enabled"}):
            raise ValueError(
                f"amp_config may have device_type, dtype and enabled; got {', '.join(unknown)} as well. Leave that out."
            )
        if not config.get("enabled", True) or config.get("device_type", here) != here:
            return None  # autocast for another type of device does nothing on this one
        return config.get("dtype") or torch.get_autocast_dtype(here)

    def _rates(
        self, start_lr: float | Sequence[float] | None, end_lr: float, num_iter: int, mode: StepMode
    ) -> list[NDArray[np.float64]]:
        groups = len(self.optimizer.param_groups)
        if start_lr is None:
            starts = self._lrs()
        else:
            starts = list(start_lr) if isinstance(start_lr, Sequence) else [start_lr] * groups
        if len(starts) != groups:
            raise ValueError(
                f"start_lr must be one number or a list with one per parameter group; got {len(starts)} for {groups} "
                "groups. Leave it out to start from the groups' own."
            )
        for start in starts:
            if not 0 < start < end_lr < math.inf:
                raise ValueError(
                    "start_lr (by default the optimizer's lr) must be above 0 and below a finite end_lr; "
                    f"got start_lr={start!r}, end_lr={end_lr!r}. The sweep goes upwards: lower the one or raise the "
                    "other."
                )
        # The peer's arithmetic, in Python's floats: numpy's powers differ in the last bit.
        along = [step / (num_iter - 1) for step in range(num_iter)]
        if mode == "linear":
            return [np.array([start + r * (end_lr - start) for r in along]) for start in starts]
        return [np.array([start * (end_lr / start) ** r for r in along]) for start in starts]


class _AsThePeer(Workload):
    """Reads and steps as torch-lr-finder does."""

    _validation: Iterable[Batch]

    def batches(self, epoch: int | None = None) -> Iterable[Batch]:
        """Begin to read, training data first: a loader that shuffles draws its seed here, and so the peer's."""
        train, val = self.train_loader, self.val_loader
        # Endless, so that accumulation goes on across the end of an epoch.
        stream = train if isinstance(train, TrainDataLoaderIter) else TrainDataLoaderIter(fast(cast(Any, train)))
        if val is not None:
            self._validation = val if isinstance(val, ValDataLoaderIter) else _Passes(val)
        return cast(Iterable[Batch], stream)

    def read(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        """Return the validation data; the training data go through ``batches``."""
        return self._validation

    def shares(self, group: Sequence[Batch]) -> list[tuple[int, int]]:
        """Count every batch alike, whatever its size, as loops of one's own do."""
        return [(1, len(group))] * len(group)

    def _check_reduction(self) -> None:
        """Nothing: sums of a loss may be accumulated, since the mean is over batches, not over samples."""

    @contextmanager
    def training(self) -> Iterator[None]:
        """Put every submodule into train mode."""
        with modes_restored(self.model):
            self.model.train()
            yield


class _Passes:
    """A validation loader to be read again and again; its first pass is begun at once."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self._begun = DataLoaderIter(fast(loader))
        self._first = True

    def __iter__(self) -> Iterator[Batch]:
        if not self._first:
            self._begun = DataLoaderIter(self._begun.data_loader)
        self._first = False
        return cast(Iterator[Batch], self._begun)


class _PeerRule(StopRule):
    """The peer's moving average and early stop, made to hold for losses that are negative or no numbers."""

    def __init__(self, smooth_f: float, diverge_th: float) -> None:
        super().__init__(math.inf)  # ours stops on non-finite losses alone
        self.smooth_f = smooth_f
        self.diverge_th = diverge_th
        self.smoothed: list[float] = []
        self.best: float | None = None
        self._first = math.nan

    def after(self, loss: float) -> Verdict | None:
        verdict = super().after(loss)
        known = self.best is not None
        # +inf after a finite loss is a loss, and ends the sweep; everything else that is not finite is a gap, over
        # which the average stands still.
        if not math.isfinite(loss) and not (known and loss > 0):
            self.smoothed.append(self.smoothed[-1] if self.smoothed else math.nan)
            return verdict
        if self.best is None:
            self._first = self.best = loss
            self.smoothed = [loss] * (len(self.smoothed) + 1)
            return verdict
        if self.smooth_f > 0:
            loss = self.smooth_f * loss + (1 - self.smooth_f) * self.smoothed[-1]
        self.best = min(self.best, loss)
        self.smoothed.append(loss)
        return "diverged" if self._diverged(loss, self.best) else verdict

    def _diverged(self, loss: float, best: float) -> bool:
        if best > 0:
            return loss > self.diverge_th * best
        return loss - best > (self.diverge_th - 1) * max(-best, self._first - best)


def _checked(
    train_loader: Any, val_loader: Any, num_iter: int, step_mode: str, smooth_f: float, diverge_th: float
) -> StepMode:
    # The first words of each message are the peer's, for those who look for them.
    mode = step_mode.lower()
    if mode not in get_args(StepMode):
        raise ValueError(f"expected one of (exp, linear), got {step_mode}")
    if not isinstance(num_iter, int) or not num_iter > 1:
        raise ValueError(
            f"`num_iter` must be larger than 1, and whole; got {num_iter!r}. It counts optimizer steps: 100 is usual."
        )
    if not 0 <= smooth_f < 1:
        raise ValueError(f"smooth_f is outside the range [0, 1[; got {smooth_f!r}. 0 turns the smoothing off.")
    if not diverge_th >= 1:
        raise ValueError(f"diverge_th must be at least 1; got {diverge_th!r}. math.inf turns the early stop off.")
    for name, loader, kind in (
        ("train_loader", train_loader, TrainDataLoaderIter),
        ("val_loader", val_loader, ValDataLoaderIter),
    ):
        if not isinstance(loader, DataLoader | kind) and not (name == "val_loader" and loader is None):
            raise ValueError(
                f"`{name}` has unsupported type: {type(loader).__name__}. Pass a torch.utils.data.DataLoader or a "
                f"child of {kind.__name__}, or give anything that can be iterated to lrfind.Workload."
            )
    return cast(StepMode, mode)
