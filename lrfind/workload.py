"""What is trained, and how one optimizer step is taken. The range test and the training run both step here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lrfind.batches import Batch, batch_size, fast, home, steps_per_epoch, to_device
from lrfind.metrics import Accuracy, Metric
from lrfind.preserve import data_preserved
from lrfind.ranks import ranks_of, unwrapped
from lrfind.shards import Shards, equal_sizes, fewest, has_epochs, refuse_same_data
from lrfind.validation import modes_restored, validate

LossFn = Callable[[nn.Module, Batch], "Tensor | tuple[Tensor, Any, Any]"]


class StepResult(NamedTuple):
    """Outcome of one optimizer step."""

    loss: Tensor  # 0-d, detached, on the device: mean over the step's samples; of several ranks, what is to be averaged
    stepped: bool  # False when the grad scaler found an overflow and left the weights alone


class Workload:
    """A model, its optimizer, its loss and its data: all that a training step needs.

    Args:
        model: Any module. A submodule left in eval mode (a frozen BatchNorm) stays so while the model itself is
            in train mode; a model that is in eval mode as a whole is put into train mode for the run.
        optimizer: Any torch optimizer that steps without a closure and holds parameters of the model.
        criterion: Called as ``criterion(model(inputs), targets)`` on batches ``(inputs, targets)``; a mean over
            the batch. Give this or ``loss_fn``.
        train_loader: Any iterable of batches that can be iterated again: a ``DataLoader``, a list of batches, a
            ``TrainDataLoaderIter`` of torch-lr-finder.
        val_loader: The same for validation; None for none.
        loss_fn: Called as ``loss_fn(model, batch)`` for everything else (dict batches, several inputs, a loss
            made inside the model); the batch is on the device already. Returns the loss, or
            ``(loss, outputs, targets)`` of which the last two go to the metrics.
        device: Where to train; the model is moved there, and so is the loss where it is a module. Default: where
            the model is.
        amp_dtype: ``torch.bfloat16`` or ``torch.float16`` to run forward passes under autocast. Default: off.
        grad_scaler: A ``torch.amp.GradScaler``, as float16 wants one. Default: none.
        accumulation_steps: Batches per optimizer step, at least 1. Their losses count by their sizes, so the
            gradient is that of one large batch.
        clip_grad_norm: Largest norm of the gradient over the optimizer's parameters. Default: no clipping.
        metrics: Name to object with ``update(outputs, targets)``, ``compute()`` and ``reset()`` (torchmetrics
            fits), for validation. Default: accuracy (0 to 1) for ``nn.CrossEntropyLoss``, else none.

    With a model wrapped in ``DistributedDataParallel``, or sharded by ``fully_shard``, the workload is that of all
    its processes: each builds it, from a loader of its own part of the data (``DistributedSampler``), and calls the
    same things. Losses are means over all samples of a step, validation and metrics over those of all ranks; a pass
    has as many batches as the rank with the fewest; a sampler's ``set_epoch`` is called.

    Attributes:
        ranks: The processes that train the model together (``lrfind.ranks.Ranks``), most often one.

    Raises:
        ValueError: For anything of the above that cannot work, before any training.

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> model = nn.Linear(4, 1)
    >>> data = TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    >>> work = Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), DataLoader(data, 16))
    >>> work.device.type, work.batch_size
    ('cpu', 16)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Callable[[Any, Any], Tensor] | None = None,
        train_loader: Iterable[Batch] | None = None,
        val_loader: Iterable[Batch] | None = None,
        *,
        loss_fn: LossFn | None = None,
        device: torch.device | str | None = None,
        amp_dtype: torch.dtype | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        accumulation_steps: int = 1,
        clip_grad_norm: float | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.criterion = criterion
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.loss_fn = loss_fn
        self.amp_dtype = amp_dtype
        self.grad_scaler = grad_scaler
        self.accumulation_steps = accumulation_steps
        self.clip_grad_norm = clip_grad_norm
        self._check_loss()
        self._check_reduction()
        self._check_optimizer()
        self._check_settings()
        self._check_loaders()
        self.metrics = self._checked(metrics)
        self.ranks = ranks_of(model)
        self._meet()
        self.device = next(model.parameters()).device if device is None else torch.device(device)
        for module in (model, criterion, loss_fn):
            if isinstance(module, nn.Module) and _is_elsewhere(module, self.device):
                module.to(self.device)

    def _check_loss(self) -> None:
        if (self.criterion is None) == (self.loss_fn is None):
            given = "neither" if self.criterion is None else "both"
            raise ValueError(
                f"Workload takes either criterion or loss_fn; got {given}. Pass criterion=nn.CrossEntropyLoss() (or "
                "another loss of outputs and targets) for batches (inputs, targets), or "
                "loss_fn=lambda model, batch: ... for everything else."
            )
        name, given_loss = ("loss_fn", self.loss_fn) if self.criterion is None else ("criterion", self.criterion)
        if isinstance(given_loss, type) or not callable(given_loss):
            raise ValueError(
                f"{name} must be something to call, such as an instance of nn.CrossEntropyLoss; got {given_loss!r}. "
                "Pass an instance (nn.CrossEntropyLoss(), with brackets) or a function."
            )

    def _check_reduction(self) -> None:
        reduction = getattr(self.criterion, "reduction", "mean")
        if self.accumulation_steps != 1 and reduction in ("sum", "none"):
            raise ValueError(
                "accumulation_steps > 1 averages the losses of its batches, so criterion must have reduction='mean'; "
                f"got reduction={reduction!r}. Use reduction='mean', or divide by the batch size in a loss_fn."
            )

    def _check_optimizer(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module; got {type(self.model).__name__}. Wrap it in one.")
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise ValueError(
                f"optimizer must be a torch.optim.Optimizer; got {type(self.optimizer).__name__}. "
                "Pass an instance, such as torch.optim.SGD(model.parameters(), lr=0.1)."
            )
        parameters = list(self.model.parameters())
        if any(map(is_lazy, (*parameters, *self.model.buffers()))):
            raise ValueError(
                "model must have its parameters and buffers; got a lazy one that is not initialized yet. "
                "Run one batch through the model, then build the optimizer and the Workload."
            )
        of_model = {id(p) for p in parameters}
        if not any(id(p) in of_model for group in self.optimizer.param_groups for p in group["params"]):
            raise ValueError(
                "optimizer must hold parameters of the model; got an optimizer of "
                f"{sum(len(group['params']) for group in self.optimizer.param_groups)} parameters of which none "
                f"belongs to this {type(self.model).__name__}. Build it from this model: "
                "torch.optim.SGD(model.parameters(), lr=0.1)."
            )
        closure = inspect.signature(type(self.optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ValueError(
                f"optimizer must step without a closure; got {type(self.optimizer).__name__}, whose step() evaluates "
                "the loss several times and searches its own step length, so a sweep of the learning rate says "
                "nothing about it. Use SGD, AdamW or another first-order optimizer."
            )

    def _check_settings(self) -> None:
        steps = self.accumulation_steps
        if not isinstance(steps, int) or isinstance(steps, bool) or not steps >= 1:
            raise ValueError(
                f"accumulation_steps must be a whole number of at least 1; got {steps!r}. "
                "It counts batches per optimizer step: 1 turns accumulation off."
            )
        if self.clip_grad_norm is not None and not 0 < self.clip_grad_norm < math.inf:
            raise ValueError(
                f"clip_grad_norm must be a finite number above 0; got {self.clip_grad_norm!r}. "
                "Pass None to turn clipping off."
            )
        if self.amp_dtype not in (None, torch.float16, torch.bfloat16):
            raise ValueError(
                f"amp_dtype must be torch.bfloat16, torch.float16 or None; got {self.amp_dtype!r}. "
                "None trains in the model's own precision."
            )
        if not isinstance(self.grad_scaler, torch.amp.GradScaler | None):
            raise ValueError(
                f"grad_scaler must be a torch.amp.GradScaler or None; got {self.grad_scaler!r}. "
                "Pass torch.amp.GradScaler(device.type), which float16 wants; bfloat16 does without."
            )

    def _check_loaders(self) -> None:
        for name, loader in (("train_loader", self.train_loader), ("val_loader", self.val_loader)):
            if loader is None:
                continue
            if not hasattr(loader, "__iter__"):
                raise ValueError(
                    f"{name} must be an iterable of batches that can be iterated again; got "
                    f"{type(loader).__name__}. Pass a DataLoader, or a list of batches."
                )
            if steps_per_epoch(loader) == 0:
                raise ValueError(
                    f"{name} must yield at least one batch; got one of length 0. "
                    "Check that the dataset is not empty and that drop_last does not drop its only batch."
                )

    def _checked(self, metrics: Mapping[str, Metric] | None) -> dict[str, Metric]:
        if metrics is None:
            known = isinstance(self.criterion, nn.CrossEntropyLoss)
            return {"accuracy": Accuracy(self.criterion.ignore_index)} if known else {}  # type: ignore[union-attr]
        for name, metric in metrics.items():
            if name == "loss" or not isinstance(metric, Metric):
                raise ValueError(
                    "metrics must map names other than 'loss' to objects with update, compute and reset; got "
                    f"{name!r}: {metric!r}. Rename it, or wrap the function in such an object (torchmetrics fits)."
                )
        return dict(metrics)

    def _meet(self) -> None:
        """Agree with the other ranks on how the training data are read."""
        self._fewest: int | None = None
        self._equal_sizes = True
        if self.ranks.size > 1 and self.train_loader is not None:
            with data_preserved(self):
                refuse_same_data(self.train_loader, self.ranks)
            self._fewest = fewest(self.train_loader, self.ranks)
            self._equal_sizes = equal_sizes(self.train_loader, self.ranks)

    @property
    def module(self) -> nn.Module:
        """The model without its DDP wrapper, if it has one: what is saved, averaged and validated."""
        return unwrapped(self.model)

    @property
    def batch_size(self) -> int | None:
        """Samples per batch where the training loader says so, else None."""
        loader = getattr(self.train_loader, "data_loader", self.train_loader)  # inside a torch-lr-finder iterator
        size = getattr(loader, "batch_size", None)
        return size if isinstance(size, int) else None

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps in one pass over the training data; None where the loader has no length."""
        return steps_per_epoch(self.batches(), self.accumulation_steps)

    def batches(self, epoch: int | None = None) -> Iterable[Batch]:
        """Return the training batches.

        Args:
            epoch: Number of the pass, for a sampler that orders by it (``set_epoch``); read again, it is the next
                one's. Default: the number that the sampler has.

        Raises:
            ValueError: If the workload has no ``train_loader``.
        """
        if self.train_loader is None:
            raise ValueError(
                "train_loader is needed to take steps; got None. "
                "Pass it to Workload(model, optimizer, criterion, train_loader)."
            )
        if self.ranks.size == 1 and not has_epochs(self.train_loader):
            return self.read(self.train_loader)
        least = self._fewest if self.ranks.size > 1 else steps_per_epoch(self.train_loader)
        return Shards(self.read(self.train_loader), self.ranks, batches=least, epoch=epoch)

    def read(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        """Return a loader's batches, read the fastest way that changes nothing (``lrfind.batches.fast``)."""
        return fast(loader)

    def step(self, group: Sequence[Batch]) -> StepResult:
        """Take one optimizer step on a group of batches (``lrfind.batches.epoch``): the mean over its samples.

        Raises:
            ValueError: If the loss is no scalar or carries no gradient.
        """
        self._drop_gradients()
        total: Tensor | None = None
        for number, (batch, (samples, of)) in enumerate(zip(group, self.shares(group), strict=True), start=1):
            with self._sums_up(last=number == len(group)):
                loss = self._training_loss(batch)
                if samples != of:
                    loss = loss * samples / of
                (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None, "a group holds at least one batch"
        return StepResult(total, self._update())

    def _sums_up(self, *, last: bool) -> AbstractContextManager[None]:
        """Have ranks under DDP send their gradients once a step, with the last batch of the group."""
        if last or not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _drop_gradients(self) -> None:
        if getattr(self.optimizer.zero_grad, "__func__", None) is not torch.optim.Optimizer.zero_grad:
            self.optimizer.zero_grad()
            return
        # What torch's own zero_grad does, in a thirtieth of the time: it is a good part of a small model's step.
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def shares(self, group: Sequence[Batch]) -> list[tuple[int, int]]:
        """Return ``(samples, of)`` for each batch of a group: the share of its loss in the step's mean.

        Of several ranks, in the mean of what the ranks add up, which torch takes of their gradients.
        """
        if not self._equal_sizes:
            sizes = [batch_size(batch) for batch in group]
            return [(size * self.ranks.size, total) for total in [self.ranks.total(sum(sizes))] for size in sizes]
        if len(group) == 1:
            return [(1, 1)]
        sizes = [batch_size(batch) for batch in group]
        # Equal batches divide by their number, which is what a hand-written loop does, to the last bit.
        if len(set(sizes)) == 1:
            return [(1, len(group))] * len(group)
        return [(size, sum(sizes)) for size in sizes]

    def losses(self, results: Sequence[Tensor]) -> list[float]:
        """Bring the losses of several steps home from the device, in one transfer: means over all ranks."""
        return self.ranks.means(home(results))

    def _update(self) -> bool:
        scaler = self.grad_scaler
        if self.clip_grad_norm is not None:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip_grad_norm)
        if scaler is None:
            self.optimizer.step()
            return True
        scale = scaler.get_scale()
        scaler.step(self.optimizer)
        scaler.update()
        # The scale falls on a skipped step and at no other time. Asking the optimizer instead would be wrong for
        # fused ones, whose step() runs either way.
        return scaler.get_scale() >= scale

    def forward(self, batch: Batch, model: nn.Module | None = None) -> tuple[Tensor, Any, Any]:
        """Return loss, outputs and targets of one batch (the last two None where ``loss_fn`` gives a loss only).

        ``model``: run this one in place of the workload's, such as one with averaged weights.

        Raises:
            ValueError: If the batch is no pair ``(inputs, targets)`` and there is no ``loss_fn``.
        """
        batch = to_device(batch, self.device)
        model = self.model if model is None else model
        if self.amp_dtype is None:
            return self._forward(model, batch)
        with torch.autocast(self.device.type, dtype=self.amp_dtype):
            return self._forward(model, batch)

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any, Any]:
        if self.criterion is None:
            assert self.loss_fn is not None, "checked when the workload was built"
            result = self.loss_fn(model, batch)
            if not isinstance(result, tuple):
                return result, None, None
            if len(result) != 3:
                raise ValueError(
                    f"loss_fn must return the loss or (loss, outputs, targets); got a tuple of {len(result)}. "
                    "Return all three for the metrics, or the loss alone."
                )
            return result
        inputs, targets = _pair(batch)
        outputs = model(inputs)
        return self.criterion(outputs, targets), outputs, targets

    def _training_loss(self, batch: Batch) -> Tensor:
        loss = self.forward(batch)[0]
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
            source = "loss_fn" if self.criterion is None else "criterion"
            raise ValueError(
                f"the loss must be a scalar tensor with a gradient; got {_describe(loss)} from {source}. Reduce it to "
                "one number (loss.mean(), reduction='mean'), keep it a tensor (no .item(), no .detach()), and check "
                "that the model's parameters require gradients."
            )
        return loss

    def evaluate(
        self,
        loader: Iterable[Batch] | None = None,
        *,
        max_batches: int | None = None,
        metrics: bool = True,
        model: nn.Module | None = None,
    ) -> dict[str, float]:
        """Return the mean loss per sample, and the metrics, over a loader in eval mode.

        Args:
            loader: What to evaluate on. Default: ``val_loader``. Of several ranks each may read a part of its own, or
                all the same.
            max_batches: Read only so many batches from its start. Default: all.
            metrics: Whether to compute the metrics as well. Of several ranks' metrics the mean by samples is taken,
                which is right for accuracy and other means over samples, and for those that add up over ranks
                themselves, as torchmetrics' do.
            model: Evaluate this one in place of the workload's, such as one with averaged weights.

        Returns:
            ``{"loss": ..., name: ...}``, on every rank the same. Every submodule is in its former train/eval mode
            again.

        Raises:
            ValueError: If there is no loader or it yields no batch.
        """
        loader = self.val_loader if loader is None else loader
        if loader is None:
            raise ValueError("val_loader is needed to evaluate; got None. Pass it to Workload, or to evaluate().")
        return validate(
            self, loader, self.module if model is None else model, self.metrics if metrics else {}, max_batches
        )

    @contextmanager
    def training(self) -> Iterator[None]:
        """Put a model that is in eval mode as a whole into train mode; on exit every mode is as it was."""
        with modes_restored(self.model):
            if not self.model.training:
                self.model.train()
            yield


def _pair(batch: Batch) -> tuple[Any, Any]:
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    given = f"a {type(batch).__name__}"
    if isinstance(batch, tuple | list):
        given += f" of {len(batch)} parts"
    elif isinstance(batch, dict):
        given += f" with keys {sorted(map(str, batch))}"
    raise ValueError(
        f"with criterion, a batch must be a pair (inputs, targets); got {given}. Use loss_fn in place of criterion: "
        "Workload(model, optimizer, train_loader=..., loss_fn=lambda model, batch: "
        'F.cross_entropy(model(batch["image"]), batch["label"])).'
    )


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)}" + ("" if value.requires_grad else " without gradient")


def _is_elsewhere(module: nn.Module, device: torch.device) -> bool:
    return any(tensor.device != device for tensor in (*module.parameters(), *module.buffers()))
