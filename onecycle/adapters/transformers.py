"""Hugging Face's Trainer: a callback that measures ``max_lr`` in the Trainer's own steps, then builds the scheduler.

``pip install "lrfind-onecycle[transformers]"``.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lrfind.batches import Batch
from lrfind.workload import StepResult, Workload
from onecycle.adapters.peak import measure
from onecycle.adapters.shape import planned
from onecycle.auto import Method, Pick
from onecycle.schedule import OneCycle
from onecycle.scheduler import OneCycleLR


class OneCycleCallback(TrainerCallback):  # type: ignore[misc]
    """Measure ``max_lr`` as training begins, and train one cycle with it: ``OneCycleCallback(trainer)``.

    The sweep and its pilots take the Trainer's own steps (``training_step`` and so ``compute_loss``, accumulation with
    its count of items, clipping, precision) and leave no trace in weights, optimizer, random states, loaders, state and
    logs. Pilots are compared on ``eval_dataset`` where there is one. Then the scheduler is built: the Trainer's default
    one, ``TrainingArguments.learning_rate`` included, gives way to one cycle; a ``OneCycleLR`` of one's own, handed to
    the Trainer or made in ``create_scheduler``, is replaced by one of its shape and length at the peak found.

    The pick is logged as ``max_lr`` at step 0. ``train(resume_from_checkpoint=...)`` goes on with the one in the log.

    Args:
        trainer: The ``Trainer``; the callback adds itself, and has it call for the scheduler here.
        method: ``"auto"`` or ``"refine"``, as in ``onecycle.pick_max_lr``.
        cycle: Shape of the cycle, where there is no ``OneCycleLR``. Default: torch's.
        progress: Show progress bars and print the pick.

    Attributes:
        pick: The ``Suggestion`` (``pick.suggestion``), the range test (``pick.curve``) and the pilots; None where
            nothing was measured.
        cycle: What is trained: ``cycle.lrs()`` are the rates of the optimizer steps. None before ``train``.

    Raises:
        ValueError: From ``train``, before any step, for what cannot be measured or is said twice: another scheduler,
            warm-up steps, DeepSpeed and FSDP, a checkpoint without this callback.
        NoSuggestion: If neither the range test nor a pilot learns anything.
    """

    def __init__(
        self, trainer: Trainer, method: Method = "auto", *, cycle: OneCycle | None = None, progress: bool = True
    ) -> None:
        self.method = method
        self.progress = progress
        self.pick: Pick | None = None
        self.cycle: OneCycle | None = None
        self._trainer = trainer
        self._shape = cycle
        self._create = trainer.create_scheduler
        trainer.create_scheduler = self.create_scheduler
        trainer.add_callback(self)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> OneCycleLR:
        """Build the scheduler of a run; called by the Trainer in place of its own ``create_scheduler``.

        A resumed run gets its peak here. A new one has none yet, since model and loader are ready only when
        ``on_train_begin`` is called: until then this scheduler keeps the place.
        """
        trainer = self._trainer
        _refuse(trainer)
        own = trainer.lr_scheduler
        if own is None and type(trainer).create_scheduler is not Trainer.create_scheduler:
            own = self._create(num_training_steps=num_training_steps, optimizer=optimizer)
        elif own is None:
            _refuse_arguments(trainer.args, num_training_steps)
        shape = planned(own, self._shape, num_training_steps)
        lrs = [float(group["lr"]) for group in trainer.optimizer.param_groups]
        peak = _logged(trainer.state) if trainer.state.global_step > 0 else max(lrs)
        self.pick, self.cycle = None, replace(shape, max_lr=peak)
        trainer.lr_scheduler = scheduler = self.cycle.scheduler(trainer.optimizer)
        trainer._created_lr_scheduler = trainer._created_lr_scheduler or own is None
        return scheduler

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure, and build the scheduler."""
        if state.global_step > 0:
            return
        trainer = self._trainer
        assert self.cycle is not None, "the Trainer has asked for its scheduler"
        with _untouched(trainer):
            work = _Steps(trainer, kwargs["train_dataloader"])
            shape = replace(self.cycle, max_lr=None)
            self.pick, self.cycle = measure(work, shape, self.method, progress=self.progress)
        scheduler = self.cycle.scheduler(trainer.optimizer)
        trainer.lr_scheduler = trainer.callback_handler.lr_scheduler = scheduler
        trainer.log({"max_lr": self.pick.suggestion.lr})


class _Steps(Workload):
    """The Trainer's training steps."""

    def __init__(self, trainer: Trainer, loader: Any) -> None:
        self._trainer = trainer
        evaluated = isinstance(trainer.eval_dataset, dict | None)
        # preserve follows what it is given: containers that a Trainer of one's own fills, but not the Trainer, from
        # which it would come to loggers in use.
        held = [value for value in vars(trainer).values() if isinstance(value, dict | list | set | deque)]
        super().__init__(
            trainer.model_wrapped,
            getattr(trainer.optimizer, "optimizer", trainer.optimizer),  # inside Accelerate's wrapper
            train_loader=loader,
            val_loader=None if evaluated else trainer.get_eval_dataloader(),
            loss_fn=partial(_loss, weakref.proxy(trainer), held),
            device=trainer.args.device,
            grad_scaler=trainer.accelerator.scaler,
            accumulation_steps=trainer.args.gradient_accumulation_steps,
        )

    def step(self, group: Sequence[Batch]) -> StepResult:
        """Take one optimizer step as the Trainer's loop does."""
        trainer, accelerator = self._trainer, self._trainer.accelerator
        batches, items = trainer.get_batch_samples(iter(group), len(group), trainer.args.device)
        trainer.current_gradient_accumulation_steps = len(batches)
        losses: list[Tensor] = []
        for position, batch in enumerate(batches):
            last = position == len(batches) - 1
            accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else accelerator.no_sync(model=self.model):
                losses.append(trainer.training_step(self.model, batch, items))
        if trainer.args.max_grad_norm:
            accelerator.clip_grad_norm_(self.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        self.model.zero_grad()
        # Each is a share of the step's mean.
        return StepResult(torch.stack(losses).sum(), not accelerator.optimizer_step_was_skipped)


def _loss(trainer: Trainer, held: list[Any], model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss in validation, as ``Trainer.evaluate`` has it."""
    with trainer.compute_loss_context_manager():
        loss: Tensor = trainer.compute_loss(model, trainer._prepare_inputs(batch))
    return loss.mean()


def _refuse(trainer: Trainer) -> None:
    sharded = [
        name
        for name, on in (
            ("DeepSpeed", trainer.is_deepspeed_enabled),
            ("FSDP", trainer.is_fsdp_enabled or getattr(trainer, "is_distributed_loading_by_transformers", False)),
        )
        if on
    ]
    if sharded:
        raise ValueError(
            f"OneCycleCallback measures on one device or under DDP; got {sharded[0]}. Pick max_lr in a run of one "
            "device with the same global batch, and hand the Trainer a OneCycleLR."
        )


def _refuse_arguments(args: TrainingArguments, steps: int) -> None:
    kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if kind != "linear":  # the default
        raise ValueError(
            f"one cycle takes the place of the Trainer's scheduler; got lr_scheduler_type={kind!r}. Leave it out."
        )
    if args.get_warmup_steps(steps) > 0:
        raise ValueError(
            f"one cycle has a warm-up of its own; got warmup_steps={args.warmup_steps}. Leave it out, and give "
            "OneCycleCallback(trainer, cycle=OneCycle(None, pct_start=...)) for another share than 0.3."
        )


def _logged(state: TrainerState) -> float:
    peaks = [row["max_lr"] for row in state.log_history if "max_lr" in row]
    if not peaks:
        raise ValueError(
            f"the run to go on with must have had a OneCycleCallback; got a checkpoint of step {state.global_step} "
            "whose log has no max_lr. Begin anew from its weights, or go on without the callback."
        )
    return float(peaks[-1])


@contextmanager
def _untouched(trainer: Trainer) -> Iterator[None]:
    """Put the Trainer's attributes back after the body, and keep its steps out of the log."""
    attributes = dict(vars(trainer))
    trainer.log = _say_nothing
    try:
        yield
    finally:
        vars(trainer).clear()
        vars(trainer).update(attributes)


def _say_nothing(*_: Any, **__: Any) -> None:
    pass
