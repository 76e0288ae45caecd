"""How each tool does the same work: what the tables of ``experiments.overhead`` compare."""

from __future__ import annotations

import importlib.util
import logging
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lrfind
from lrfind.batches import endless

START_LR, END_LR = 1e-7, 1e-2
"""Low enough that no loss blows up: every contestant takes all of its steps."""

HAND = "hand-written loop"


class Setup(NamedTuple):
    """What is swept or trained, fresh for every run and always the same."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    criterion: Callable[[Any, Any], Tensor]
    loader: DataLoader[Any]


@dataclass(frozen=True)
class Contestant:
    """One way to do the work.

    Args:
        name: In the table.
        prepare: Called as ``prepare(setup, steps)``, not timed; returns the call that is.
        package: What has to be installed.
        module: What it is imported as.
    """

    name: str
    prepare: Callable[[Setup, int], Callable[[], object]]
    package: str = "torch"
    module: str = "torch"

    @property
    def here(self) -> bool:
        """Whether its package is installed."""
        return importlib.util.find_spec(self.module) is not None


def by_hand(setup: Setup, steps: int) -> Callable[[], object]:
    """The loop that everybody writes: a DataLoader, one rate per step, every loss kept. It puts nothing back."""

    def sweep() -> list[float]:
        model, optimizer, criterion, loader = setup
        model.train()
        batches, losses = iter(loader), []
        for step in range(steps):
            try:
                inputs, targets = next(batches)
            except StopIteration:
                batches = iter(loader)
                inputs, targets = next(batches)
            for group in optimizer.param_groups:
                group["lr"] = START_LR * (END_LR / START_LR) ** (step / (steps - 1))
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return sweep


def ours(setup: Setup, steps: int) -> Callable[[], object]:
    """``lrfind.range_test``, everything put back."""
    work = lrfind.Workload(setup.model, setup.optimizer, setup.criterion, setup.loader)
    return lambda: lrfind.range_test(
        work, start_lr=START_LR, end_lr=END_LR, num_iter=steps, stop_factor=math.inf, progress=False
    )


def our_finder(setup: Setup, steps: int) -> Callable[[], object]:
    """``lrfind.LRFinder`` and its ``reset``; its progress bar runs, as the peer's does."""
    return _finder(lrfind.LRFinder, setup, steps)


def torch_lr_finder(setup: Setup, steps: int) -> Callable[[], object]:
    """torch-lr-finder and its ``reset``."""
    from torch_lr_finder import LRFinder

    return _finder(LRFinder, setup, steps)


def _finder(of: Any, setup: Setup, steps: int) -> Callable[[], object]:
    def sweep() -> None:
        finder = of(setup.model, setup.optimizer, setup.criterion)
        finder.range_test(setup.loader, start_lr=START_LR, end_lr=END_LR, num_iter=steps, diverge_th=1e9)
        finder.reset()

    return sweep


def ignite(setup: Setup, steps: int) -> Callable[[], object]:
    """pytorch-ignite's FastaiLRFinder on its supervised trainer."""
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    trainer = create_supervised_trainer(setup.model, setup.optimizer, setup.criterion)
    to_save = {"model": setup.model, "optimizer": setup.optimizer}

    def sweep() -> None:
        finder = FastaiLRFinder()
        settings = {"num_iter": steps, "start_lr": START_LR, "end_lr": END_LR, "diverge_th": 1e9}
        with finder.attach(trainer, to_save=to_save, **settings) as attached:
            attached.run(setup.loader)

    return sweep


def lightning(setup: Setup, steps: int) -> Callable[[], object]:
    """Lightning's Tuner.lr_find; the trainer is there already, without logger and bars."""
    import lightning.pytorch as pl
    from lightning.pytorch.tuner import Tuner

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = setup.model
            self.lr = START_LR

        def training_step(self, batch: Any, _: int) -> Tensor:
            inputs, targets = batch
            return setup.criterion(self.model(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return setup.optimizer

    module, folder = Module(), tempfile.TemporaryDirectory()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1000,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.name,
    )

    def sweep() -> None:
        Tuner(trainer).lr_find(
            module,
            train_dataloaders=setup.loader,
            min_lr=START_LR,
            max_lr=END_LR,
            num_training=steps,
            early_stop_threshold=None,
        )
        folder.cleanup()

    return sweep


def fastai(setup: Setup, steps: int) -> Callable[[], object]:
    """fastai's Learner.lr_find with its own SGD; the learner is there already, without bars."""
    import fastai.callback.schedule  # noqa: F401  # puts lr_find on Learner
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import SGD

    data = DataLoaders(setup.loader, setup.loader, device=torch.device("cpu"))
    learner = Learner(data, setup.model, loss_func=setup.criterion, opt_func=SGD, moms=(0.9, 0.9, 0.9))

    def sweep() -> None:
        with learner.no_bar():
            learner.lr_find(START_LR, END_LR, num_it=steps, stop_div=False, show_plot=False, suggest_funcs=None)

    return sweep


SWEEPS = (
    Contestant(HAND, by_hand),
    Contestant("lrfind.range_test", ours),
    Contestant("lrfind.LRFinder", our_finder),
    Contestant("torch-lr-finder", torch_lr_finder, "torch-lr-finder", "torch_lr_finder"),
    Contestant("ignite", ignite, "pytorch-ignite", "ignite"),
    Contestant("Lightning", lightning, "lightning", "lightning"),
    Contestant("fastai", fastai, "fastai", "fastai"),
)


def warm_up(setup: Setup, steps: int) -> None:
    """Train a few steps, so that the optimizer has its state, and drop the gradients."""
    setup.model.train()
    for (inputs, targets), *_ in islice(endless(setup.loader), steps):
        setup.optimizer.zero_grad()
        setup.criterion(setup.model(inputs), targets).backward()
        setup.optimizer.step()
    setup.optimizer.zero_grad()
