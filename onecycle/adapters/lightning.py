"""Lightning: a callback that measures ``max_lr`` in the Trainer's own steps, then builds the scheduler with it.

``pip install "lrfind-onecycle[lightning]"``. For ``lightning``; ``pytorch_lightning`` is another package to Python, and
its Trainer refuses callbacks of this one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count, islice
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import _MockOptimizer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn

from lrfind.batches import Batch, steps_per_epoch
from lrfind.workload import StepResult, Workload
from onecycle.adapters.peak import measure
from onecycle.adapters.shape import planned
from onecycle.auto import Method, Pick
from onecycle.schedule import OneCycle


class OneCycleCallback(Callback):  # type: ignore[misc]
    """Measure ``max_lr`` as ``fit`` begins, and train one cycle with it: ``Trainer(callbacks=[OneCycleCallback()])``.

    The sweep and its pilots take the Trainer's own steps (``training_step``, accumulation, clipping, precision,
    strategy, the module's hooks around ``backward`` and ``optimizer_step``) and leave no trace in weights, optimizer,
    random states, loaders, counters, logs and callbacks. Then the scheduler is built. ``configure_optimizers`` returns
    the optimizer alone, or with a ``OneCycleLR`` that is stepped each step: this one is replaced by one of its shape
    and length at the peak found, whatever its ``max_lr``. Lightning's own ``LearningRateFinder`` leaves it as it is.

    A resumed ``fit(ckpt_path=...)`` goes on at the peak in the checkpoint, and ``fast_dev_run`` measures nothing.
    Pilots are compared by their training loss, since a ``validation_step`` need not return one. What the module makes
    in ``on_train_start`` or later is not there yet.

    Args:
        method: ``"auto"`` or ``"refine"``, as in ``onecycle.pick_max_lr``.
        cycle: Shape of the cycle, where there is no ``OneCycleLR``. Default: torch's.
        progress: Show progress bars and print the pick.

    Attributes:
        pick: The ``Suggestion`` (``pick.suggestion``), the range test (``pick.curve``) and the pilots; None where
            nothing was measured.
        cycle: What is trained: ``cycle.lrs()`` are the rates of the optimizer steps. None before ``fit``.

    Raises:
        ValueError: As ``fit`` begins, for what cannot be measured: manual optimization, several optimizers or none,
            another scheduler, several training loaders, a run without a known number of steps, FSDP and DeepSpeed, a
            checkpoint without this callback.
        NoSuggestion: If neither the range test nor a pilot learns anything.
    """

    def __init__(self, method: Method = "auto", *, cycle: OneCycle | None = None, progress: bool = True) -> None:
        self.method = method
        self.progress = progress
        self.pick: Pick | None = None
        self.cycle: OneCycle | None = None
        self._shape = cycle
        self._peak: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the peak, which goes into the Trainer's checkpoints."""
        return {"max_lr": self._peak}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the peak of a checkpoint."""
        self._peak = state_dict["max_lr"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, and build the scheduler."""
        if trainer.fast_dev_run:
            return
        _refuse(trainer, pl_module)
        config = _scheduler_config(trainer)
        shape = planned(None if config is None else config.scheduler, self._shape, _total_steps(trainer))
        if trainer.ckpt_path is None:
            with _quiet(trainer, pl_module):
                work = _Steps(trainer, pl_module)
                self.pick, self.cycle = measure(work, shape, self.method, progress=self.progress)
            self._peak = self.pick.suggestion.lr
        else:
            self.cycle = replace(shape, max_lr=_of_checkpoint(self._peak, trainer.ckpt_path))
        scheduler = self.cycle.scheduler(trainer.optimizers[0])
        if config is None:
            trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(scheduler, interval="step")]
        else:
            config.scheduler = scheduler


class _Steps(Workload):
    """The Trainer's training steps."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer = trainer
        self._lightning = module
        self._indices = count()
        super().__init__(
            trainer.strategy.model,
            trainer.optimizers[0],
            train_loader=_loader(trainer),
            loss_fn=self._no_validation,
            device=trainer.strategy.root_device,
            grad_scaler=getattr(trainer.precision_plugin, "scaler", None),
            accumulation_steps=trainer.accumulate_grad_batches,
        )

    @staticmethod
    def _no_validation(model: nn.Module, batch: Batch) -> Tensor:
        raise AssertionError("there is no val_loader, and step() is Lightning's")

    def step(self, group: Sequence[Batch]) -> StepResult:
        """Take one optimizer step as Lightning's loop does."""
        module, strategy, scaler = self._lightning, self._trainer.strategy, self.grad_scaler
        losses: list[Tensor] = []
        numbered = [(batch, next(self._indices)) for batch in group]

        def accumulate(position: int) -> Tensor | None:
            batch, index = numbered[position]
            return self._accumulate(batch, index, losses, first=position == 0)

        for position in range(len(group) - 1):
            # With several ranks gradients travel once a step.
            with getattr(strategy, "block_backward_sync", nullcontext)():
                accumulate(position)
        scale = None if scaler is None else scaler.get_scale()
        epoch, (_, index) = self._trainer.current_epoch, numbered[-1]
        module.optimizer_step(epoch, index, module.optimizers(), lambda: accumulate(len(group) - 1))
        stepped = bool(losses) and (scale is None or scaler.get_scale() >= scale)  # type: ignore[union-attr]
        return StepResult(torch.stack(losses).mean() if losses else torch.tensor(math.nan), stepped)

    @torch.enable_grad()
    def _accumulate(self, batch: Batch, index: int, losses: list[Tensor], *, first: bool) -> Tensor | None:
        """Add a batch's gradient, and its loss to ``losses``; a ``training_step`` that returns None skips it."""
        trainer, module, strategy = self._trainer, self._lightning, self._trainer.strategy
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        batch = strategy.batch_to_device(batch, dataloader_idx=0)
        with_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        output = strategy.training_step(*((batch, index) if with_index else (batch,)))
        loss = output["loss"] if isinstance(output, Mapping) else output
        if first:
            module.on_before_zero_grad(self.optimizer)
            module.optimizer_zero_grad(trainer.current_epoch, index, self.optimizer)
        if loss is None:
            return None
        losses.append(loss.detach())
        strategy.backward(loss / trainer.accumulate_grad_batches, self.optimizer)
        return losses[-1]


class _First:
    """The first so many batches of a loader, as ``limit_train_batches`` and ``overfit_batches`` have it."""

    def __init__(self, loader: Iterable[Batch], batches: int) -> None:
        self.loader = loader
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        return islice(iter(self.loader), self.batches)


def _refuse(trainer: Trainer, module: LightningModule) -> None:
    if not module.automatic_optimization:
        raise ValueError(
            "OneCycleCallback takes the Trainer's own steps, which it has with automatic optimization only; got "
            "automatic_optimization=False. Make a lrfind.Workload of model, optimizer and loss, and pick with "
            "onecycle.pick_max_lr."
        )
    optimizers = [optimizer for optimizer in trainer.optimizers if not isinstance(optimizer, _MockOptimizer)]
    if len(optimizers) != 1:
        names = ", ".join(type(optimizer).__name__ for optimizer in optimizers)
        raise ValueError(
            f"configure_optimizers must return one torch optimizer; got {names or 'none'}. Return one, to train one "
            "cycle with."
        )
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise ValueError(
            f"OneCycleCallback measures on one device or under DDP; got {type(trainer.strategy).__name__}. Pick max_lr "
            "in a run of one device with the same global batch, and give it to a OneCycleLR."
        )
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise ValueError(
            "training_step must take a batch; got one that takes dataloader_iter and fetches for itself, so that no "
            "sweep can give the data back. Take batch and batch_idx."
        )


def _scheduler_config(trainer: Trainer) -> LRSchedulerConfig | None:
    configs = trainer.lr_scheduler_configs
    if not configs:
        return None
    if len(configs) > 1:
        names = ", ".join(type(config.scheduler).__name__ for config in configs)
        raise ValueError(f"configure_optimizers must return one scheduler at most; got {names}. Return the optimizer.")
    (config,) = configs
    if (config.interval, config.frequency) != ("step", 1):
        raise ValueError(
            "the scheduler of one cycle is stepped at each optimizer step; got interval="
            f"{config.interval!r}, frequency={config.frequency}. Return the optimizer alone, or "
            '{"scheduler": scheduler, "interval": "step"}.'
        )
    return config


def _total_steps(trainer: Trainer) -> int:
    steps = trainer.estimated_stepping_batches
    if not 1 <= steps < math.inf:
        raise ValueError(
            f"a cycle has a known number of steps; the Trainer's are {steps}. Give Trainer(max_steps=...), since this "
            "run has no last epoch, or a loader without length."
        )
    return int(steps)


def _loader(trainer: Trainer) -> Iterable[Batch]:
    trainer.fit_loop.setup_data()
    loader = trainer.train_dataloader
    if isinstance(loader, Mapping | list | tuple) or not hasattr(loader, "__iter__"):
        raise ValueError(
            f"there must be one training loader; got {type(loader).__name__}. Join the datasets in one "
            "(torch.utils.data.ConcatDataset, or a dataset of pairs)."
        )
    limit = trainer.num_training_batches
    whole = limit in (math.inf, steps_per_epoch(loader))
    return loader if whole else _First(loader, int(limit))


def _of_checkpoint(peak: float | None, path: Any) -> float:
    if peak is None:
        raise ValueError(
            f"the run to go on with must have had a OneCycleCallback; got {path}, which holds no max_lr of one. Begin "
            "anew from its weights (LightningModule.load_from_checkpoint), or go on without the callback."
        )
    return peak


@contextmanager
def _quiet(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Let nobody hear of the body's steps: callbacks, loggers, ``self.log``."""
    callbacks, loggers = trainer.callbacks, trainer.loggers
    logging = [part for part in module.modules() if isinstance(part, LightningModule)]
    trainer.callbacks, trainer.loggers = [], [DummyLogger()] if loggers else []
    for part in logging:
        part.log = _say_nothing
    try:
        yield
    finally:
        trainer.callbacks, trainer.loggers = callbacks, loggers
        for part in logging:
            del part.log


def _say_nothing(*_: Any, **__: Any) -> None:
    pass
