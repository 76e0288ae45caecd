"""What a person would do to get from model and data to a target accuracy: the contestants of ``end_to_end``.

Each trains the same model from the same weights, on the same batches, with the same optimizer (schedule-free brings
its own), for one planned length, validates after every epoch and stops at the first validation that reaches the target.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.optimizer import register_optimizer_step_post_hook

import onecycle
from experiments.picks import measure_batch_norm, schedule_free_adamw
from experiments.tasks import TASKS
from experiments.tasks.task import MakeOptimizer
from lrfind.workload import Workload

TRIALS = 10
TRIAL_LRS = (1e-5, 1.0)  # what a trial may draw from, in log lr


class PerToken(nn.Module):
    """Cross-entropy of ``(..., classes)`` and ``(...)``: of images and of every position of a text."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


@dataclass(frozen=True)
class Start:
    """Where everybody begins.

    Args:
        task: Name of the task of the regret study.
        optimizer: Makes the optimizer, at the lr that a person would write without looking, or at ``lr=``.
        epochs: Planned length.
        seed: Of weights and order of batches.
    """

    task: str
    optimizer: MakeOptimizer
    epochs: int
    seed: int

    def work(self) -> Workload:
        """Return model, optimizer and data, afresh and always the same."""
        return TASKS[self.task].make(self.seed)


class Validation(NamedTuple):
    """A validation: seconds since the start (of the processor, of the clock on the wall), steps, accuracy 0 to 1."""

    cpu: float
    wall: float
    steps: int
    accuracy: float


class Watch:
    """Counts optimizer steps and seconds, and says when the target is reached."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.validations: list[Validation] = []
        self.max_lr: float | None = None
        self.search_steps = 0
        self._steps = 0

    def __enter__(self) -> Watch:
        self._hook = register_optimizer_step_post_hook(lambda *_: self._step())
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _step(self) -> None:
        self._steps += 1

    def picked(self, max_lr: float) -> None:
        """Note the pick, after the steps that it took."""
        self.max_lr, self.search_steps = float(max_lr), self._steps

    def saw(self, accuracy: float) -> bool:
        """Take in a validation; returns whether to stop."""
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self.validations.append(Validation(cpu, wall, self._steps, accuracy))
        return accuracy >= self.target


# By hand.


def one_cycle(model: nn.Module, optimizer: Any, max_lr: float, work: Workload, epochs: int, saw: Any) -> None:
    """Train as everybody's loop does, with torch's OneCycleLR; ``saw(accuracy)`` says whether to stop."""
    loader, criterion = work.train_loader, PerToken()
    scheduler = OneCycleLR(optimizer, max_lr, total_steps=epochs * len(loader))  # type: ignore[arg-type]
    for _ in range(epochs):
        model.train()
        for inputs, targets in loader:  # type: ignore[union-attr]
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
        if saw(accuracy(model, work.val_loader)):
            return


@torch.no_grad()
def accuracy(model: nn.Module, loader: Any) -> float:
    """Return the share of hits."""
    model.eval()
    hits = seen = 0
    for inputs, targets in loader:
        hits += int((model(inputs).argmax(-1) == targets).sum())
        seen += targets.numel()
    return hits / seen


def without_search(start: Start, watch: Watch) -> None:
    """OneCycleLR at the optimizer's usual lr."""
    work = start.work()
    lr = work.optimizer.param_groups[0]["lr"]
    watch.picked(lr)
    one_cycle(work.model, work.optimizer, lr, work, start.epochs, watch.saw)


def torch_lr_finder(start: Start, watch: Watch) -> None:
    """torch-lr-finder from 1e-7 to 10, its suggestion as max_lr, and OneCycleLR by hand."""
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    work = start.work()
    finder = LRFinder(work.model, work.optimizer, PerToken())
    finder.range_test(work.train_loader, start_lr=1e-7, end_lr=10, num_iter=100)
    _, lr = finder.plot(ax=Figure().subplots())
    finder.reset()
    watch.picked(lr)
    one_cycle(work.model, work.optimizer, lr, work, start.epochs, watch.saw)


def optuna(start: Start, watch: Watch) -> None:
    """Ten trials of a whole OneCycleLR run, pruned by the median; the study ends when a trial reaches the target."""
    import optuna as tool

    tool.logging.set_verbosity(tool.logging.ERROR)

    def objective(trial: Any) -> float:
        lr = trial.suggest_float("max_lr", *TRIAL_LRS, log=True)
        watch.picked(lr)
        work = start.work()
        best, epoch = 0.0, 0

        def report(value: float) -> bool:
            nonlocal epoch, best
            epoch, best = epoch + 1, max(best, value)
            if watch.saw(value):
                trial.study.stop()
                return True
            trial.report(value, epoch)
            if trial.should_prune():
                raise tool.TrialPruned
            return False

        one_cycle(work.model, work.optimizer, lr, work, start.epochs, report)
        return best

    study = tool.create_study(direction="maximize", sampler=tool.samplers.TPESampler(seed=start.seed))
    study.optimize(objective, n_trials=TRIALS)


def schedule_free(start: Start, watch: Watch) -> None:
    """schedule-free AdamW at its defaults, which needs no planned length."""
    work = start.work()
    criterion, model = PerToken(), work.model
    optimizer: Any = schedule_free_adamw(model.parameters())
    watch.picked(optimizer.param_groups[0]["lr"])
    for _ in range(start.epochs):
        model.train()
        optimizer.train()
        for inputs, targets in work.train_loader:  # type: ignore[union-attr]
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
        optimizer.eval()
        measure_batch_norm(work)
        if watch.saw(accuracy(model, work.val_loader)):
            return


# With a tool.


def ours(start: Start, watch: Watch) -> None:
    """``onecycle.fit`` at its defaults: the pick and the cycle."""
    work = start.work()

    def look(row: Any) -> bool:
        return "val_accuracy" in row and watch.saw(row["val_accuracy"])

    run = onecycle.fit(work, epochs=start.epochs, callbacks=[look], progress=False)
    watch.max_lr = run.max_lr
    assert run.suggestion is not None
    watch.search_steps = run.suggestion.steps_used


def fastai(start: Start, watch: Watch) -> None:
    """fastai's ``lr_find`` (valley) and ``fit_one_cycle``, with torch's optimizer in its wrapper."""
    from functools import partial

    import fastai.callback.schedule  # noqa: F401  # puts lr_find and fit_one_cycle on Learner
    from fastai.callback.core import Callback, CancelFitException
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    work = start.work()

    def hits(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) == targets).float().mean()

    class Look(Callback):  # type: ignore[misc]
        def after_epoch(self) -> None:
            if watch.saw(float(self.learn.recorder.metrics[-1].value)):
                raise CancelFitException

    data = DataLoaders(work.train_loader, work.val_loader, device=torch.device("cpu"))
    opt_func = partial(OptimWrapper, opt=start.optimizer)
    learner = Learner(data, work.model, loss_func=PerToken(), opt_func=opt_func, metrics=hits)
    with learner.no_bar(), learner.no_logging():
        lr = learner.lr_find(show_plot=False).valley
        watch.picked(lr)
        learner.fit_one_cycle(start.epochs, lr, cbs=Look())


def lightning(start: Start, watch: Watch) -> None:
    """Lightning's Tuner.lr_find, then its Trainer with OneCycleLR."""
    import lightning.pytorch as pl
    from lightning.pytorch.tuner import Tuner

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    work, criterion = start.work(), PerToken()
    steps = start.epochs * len(work.train_loader)  # type: ignore[arg-type]

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = work.model
            self.lr = float(work.optimizer.param_groups[0]["lr"])

        def training_step(self, batch: Any, _: int) -> Tensor:
            inputs, targets = batch
            return criterion(self.model(inputs), targets)

        def validation_step(self, batch: Any, _: int) -> None:
            inputs, targets = batch
            hits = (self.model(inputs).argmax(-1) == targets).float().mean()
            self.log("val_accuracy", hits, batch_size=len(inputs))

        def configure_optimizers(self) -> Any:
            optimizer = start.optimizer(self.model.parameters(), lr=self.lr)
            scheduler = OneCycleLR(optimizer, self.lr, total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Look(pl.Callback):
        def on_validation_end(self, trainer: Any, _: Any) -> None:
            if "val_accuracy" in trainer.callback_metrics and watch.saw(
                float(trainer.callback_metrics["val_accuracy"])
            ):
                trainer.should_stop = True

    def trainer(*callbacks: Any) -> Any:
        return pl.Trainer(
            accelerator="cpu",
            max_epochs=start.epochs,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )

    with tempfile.TemporaryDirectory() as folder:
        module = Module()
        # A trainer without the callback: Lightning may validate while it sweeps.
        found = Tuner(trainer()).lr_find(module, work.train_loader, work.val_loader)
        watch.picked(module.lr)
        if found is None or found.suggestion() is None:
            raise RuntimeError("Tuner.lr_find suggests nothing")
        trainer(Look()).fit(module, work.train_loader, work.val_loader)


@dataclass(frozen=True)
class Way:
    """A contestant.

    Args:
        name: In tables and pictures.
        kind: Those of a kind are drawn alike: "ours", "peer", "usual", "search", "free", as in the regret study.
        go: Called as ``go(start, watch)``; builds everything from ``start`` and trains.
        package: What has to be installed.
        module: What it is imported as.
    """

    name: str
    kind: str
    go: Callable[[Start, Watch], None]
    package: str = "torch"
    module: str = "torch"

    def missing(self) -> str | None:
        """Why it cannot take part here, or None."""
        if importlib.util.find_spec(self.module) is not None:
            return None
        return f"{self.package} is not installed (extra: peers)"


WAYS = (
    Way("onecycle.fit, auto", "ours", ours),
    Way("fastai lr_find, fit_one_cycle", "peer", fastai, "fastai", "fastai"),
    Way("Lightning Tuner, OneCycleLR", "peer", lightning, "lightning", "lightning"),
    Way("torch-lr-finder, OneCycleLR", "peer", torch_lr_finder, "torch-lr-finder", "torch_lr_finder"),
    Way("Optuna, 10 pruned runs", "search", optuna, "optuna", "optuna"),
    Way("schedule-free AdamW", "free", schedule_free, "schedulefree", "schedulefree"),
    Way("OneCycleLR at the usual lr", "usual", without_search),
)
