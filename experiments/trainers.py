"""How each tool trains one cycle: what the training tables of ``experiments.overhead`` compare."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

import lrfind
import onecycle
from experiments.contestants import HAND, Contestant, Setup

MAX_LR = 0.01
"""Low enough that no run diverges."""

NO_CHECKPOINTS = "fit with out_dir"
CHECKPOINTS = "the same, a checkpoint every 50 steps"


def by_hand(setup: Setup, steps: int) -> Callable[[], object]:
    """The loop that everybody writes: a DataLoader, torch's OneCycleLR, every loss kept."""

    def train() -> list[float]:
        model, optimizer, criterion, loader = setup
        scheduler = OneCycleLR(optimizer, MAX_LR, total_steps=steps)
        model.train()
        losses: list[float] = []
        while len(losses) < steps:
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                loss.backward()
                optimizer.step()
                scheduler.step()
                losses.append(loss.item())
                if len(losses) == steps:
                    break
        return losses

    return train


def ours(setup: Setup, steps: int) -> Callable[[], object]:
    """``onecycle.fit``, history kept, without files."""
    work = lrfind.Workload(setup.model, setup.optimizer, setup.criterion, setup.loader)
    return lambda: onecycle.fit(work, total_steps=steps, max_lr=MAX_LR, progress=False)


def _with_folder(checkpoint_every: int | None) -> Callable[[Setup, int], Callable[[], object]]:
    def prepare(setup: Setup, steps: int) -> Callable[[], object]:
        work = lrfind.Workload(setup.model, setup.optimizer, setup.criterion, setup.loader)

        def train() -> None:
            with tempfile.TemporaryDirectory() as folder:
                onecycle.fit(
                    work,
                    total_steps=steps,
                    max_lr=MAX_LR,
                    out_dir=folder,
                    checkpoint_every=checkpoint_every,
                    progress=False,
                )

        return train

    return prepare


def lightning(setup: Setup, steps: int) -> Callable[[], object]:
    """Lightning's Trainer with torch's OneCycleLR stepped every step, without logger, bars and checkpoints."""
    import lightning.pytorch as pl

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = setup.model

        def training_step(self, batch: Any, _: int) -> Tensor:
            inputs, targets = batch
            return setup.criterion(self.model(inputs), targets)

        def configure_optimizers(self) -> Any:
            scheduler = OneCycleLR(setup.optimizer, MAX_LR, total_steps=steps)
            return {"optimizer": setup.optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module, folder = Module(), tempfile.TemporaryDirectory()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.name,
    )

    def train() -> None:
        trainer.fit(module, setup.loader)
        folder.cleanup()

    return train


def fastai(setup: Setup, steps: int) -> Callable[[], object]:
    """fastai's Learner.fit_one_cycle with its own SGD, for as many whole epochs as make the steps, without bars."""
    import fastai.callback.schedule  # noqa: F401  # puts fit_one_cycle on Learner
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import SGD

    epochs, rest = divmod(steps, len(setup.loader))
    if rest:
        raise ValueError(f"fastai trains whole epochs of {len(setup.loader)} steps; got {steps} steps.")
    # Validation on one batch: fastai cannot train without any.
    one_batch = torch.utils.data.Subset(setup.loader.dataset, range(setup.loader.batch_size or 1))
    data = DataLoaders(
        setup.loader,
        torch.utils.data.DataLoader(one_batch, setup.loader.batch_size),
        device=torch.device("cpu"),
    )
    learner = Learner(data, setup.model, loss_func=setup.criterion, opt_func=SGD)

    def train() -> None:
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(epochs, MAX_LR)

    return train


TRAININGS = (
    Contestant(HAND, by_hand),
    Contestant("onecycle.fit", ours),
    Contestant("Lightning", lightning, "lightning", "lightning"),
    Contestant("fastai", fastai, "fastai", "fastai"),
)
SAVINGS = (
    Contestant(NO_CHECKPOINTS, _with_folder(None)),
    Contestant(CHECKPOINTS, _with_folder(50)),
    Contestant("fit without files", ours),
)
