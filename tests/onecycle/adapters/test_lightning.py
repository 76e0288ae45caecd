"""The Lightning callback, in real Lightning runs."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrfind import range_test
from onecycle import OneCycle
from onecycle.auto import pick_with_curve
from tests.ranks import results

pl = pytest.importorskip("lightning.pytorch", reason="needs the extra lightning")

from onecycle.adapters import lightning as adapter  # noqa: E402  # which imports Lightning
from onecycle.adapters.lightning import OneCycleCallback  # noqa: E402

pytestmark = [
    # Lightning's advice on workers and on its own log, which a test does without.
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled"),
    # Of torch, at what Lightning asks it: Lightning 2.6 on torch 2.14.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]

EPOCHS = 3


class Net(pl.LightningModule):
    """Dropout, batch norm and a metric of its own; logs what it does."""

    def __init__(self, scheduler: Callable[[Any, int], Any] | None = None, *, dropout: float = 0.2) -> None:
        super().__init__()
        drop = nn.Dropout(dropout)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), drop, nn.Linear(16, 3))
        self.scheduler = scheduler
        self.seen: list[float] = []
        self.steps = 0
        self.lrs: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        inputs, targets = batch
        loss = functional.cross_entropy(self.net(inputs), targets)
        self.seen.append(loss.item())
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", functional.cross_entropy(self.net(batch[0]), batch[1]))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        if self.scheduler is None:
            return optimizer
        built = self.scheduler(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": built, "interval": "step"}}


def data() -> TensorDataset:
    """70 samples of 3 classes that a small net learns, but not at once."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(70, 6, generator=generator)
    return TensorDataset(x, (x[:, :3] + 0.5 * torch.randn(70, 3, generator=generator)).argmax(dim=1))


def loader(*, shuffle: bool = True) -> DataLoader[Any]:
    """Five batches, the last of 6."""
    return DataLoader(data(), 16, shuffle=shuffle)


class Heard(pl.Callback):
    """Writes down what callbacks are told of steps, where nobody can take it back."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def _note(self, name: str) -> None:
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(name + "\n")

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        self._note("batch")

    def on_before_backward(self, *_: Any, **__: Any) -> None:
        self._note("backward")

    def on_before_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._note("step")


def trainer(tmp_path: Any, *callbacks: Any, **settings: Any) -> Any:
    settings = {"max_epochs": EPOCHS, "logger": False, "enable_checkpointing": False} | settings
    return pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **settings,
    )


def train(
    tmp_path: Any, module: Any, *callbacks: Any, train_loader: Any = None, fit: Any = None, **settings: Any
) -> Any:
    run = trainer(tmp_path, *callbacks, **settings)
    run.fit(module, loader() if train_loader is None else train_loader, DataLoader(data(), 35), **fit or {})
    return run


def seeded() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global state


def recorded(logger: Any) -> list[dict[str, str]]:
    with open(logger.experiment.metrics_file_path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def state_of(module: Any, run: Any) -> list[Tensor]:
    state = run.optimizers[0].state.values()
    return [*module.state_dict().values(), *(value for entry in state for value in entry.values())]


def test_every_step_has_the_planned_rate(tmp_path):
    """The lr that LearningRateMonitor logs per step, and that of each optimizer step, is the planned cycle's."""
    seeded()
    logger = pl.loggers.CSVLogger(tmp_path)
    module, callback = Net(), OneCycleCallback(progress=False)
    monitor = pl.callbacks.LearningRateMonitor("step")
    run = train(tmp_path, module, monitor, callback, logger=logger, log_every_n_steps=1)

    logged = [float(row["lr-SGD"]) for row in recorded(logger) if row["lr-SGD"]]
    assert logged == module.lrs == callback.cycle.lrs().tolist()
    assert len(logged) == run.global_step == EPOCHS * 5
    assert max(logged) == pytest.approx(callback.pick.suggestion.lr, rel=0.2)  # the peak lies between two steps
    assert callback.pick.suggestion.steps_used > 20


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value", "precision": "bf16-mixed"},
        {"limit_train_batches": 3, "num_sanity_val_steps": 0},
        {"overfit_batches": 2},
    ],
    ids=str,
)
def test_training_is_as_if_nothing_had_been_measured(tmp_path, settings, monkeypatch):
    """Weights, optimizer, logs and random numbers equal those of a run with that OneCycleLR, bit for bit."""
    ends = []
    monkeypatch.setattr(adapter, "measure", _measured_as(0.3))
    for with_callback in (False, True):
        seeded()
        scheduler = None if with_callback else lambda optimizer, steps: OneCycle(0.3, steps).scheduler(optimizer)
        logger = pl.loggers.CSVLogger(tmp_path / str(with_callback))
        heard = Heard(tmp_path / f"{with_callback}.txt")
        module = Net(scheduler)
        callbacks = [heard, OneCycleCallback()] if with_callback else [heard]
        run = train(tmp_path, module, *callbacks, logger=logger, log_every_n_steps=1, **settings)
        ends.append(
            SimpleNamespace(
                state=state_of(module, run),
                metrics=recorded(logger),
                told=(heard.file.read_text(encoding="utf-8"), module.seen, module.steps, run.global_step, module.lrs),
                random=(torch.rand(3).tolist(), random.random(), np.random.rand()),  # noqa: NPY002
            )
        )
    alone, measured = ends
    assert all(map(torch.equal, alone.state, measured.state))
    assert len(alone.state) == len(measured.state)
    assert alone.metrics == measured.metrics != []
    assert alone.told == measured.told
    assert alone.random == measured.random


def said(peak: float) -> Any:
    """A pick as far as the callback looks at it."""
    return SimpleNamespace(suggestion=SimpleNamespace(lr=peak))


def _measured_as(peak: float) -> Callable[..., Any]:
    """A measurement that is taken, and then says ``peak``."""

    def measure(work: Any, shape: OneCycle, method: Any, *, progress: bool) -> Any:
        pick = pick_with_curve(work, total_steps=15, method=method, cycle=shape, progress=False)
        assert pick.suggestion.steps_used > 20
        return said(peak), replace(shape, max_lr=peak)

    return measure


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.05},
        {"precision": "bf16-mixed"},
        {"limit_train_batches": 2, "max_epochs": 8},
    ],
    ids=str,
)
def test_the_sweep_takes_lightnings_own_steps(tmp_path, settings, monkeypatch):
    """Losses of a sweep equal those of a Lightning run whose scheduler climbs as the sweep does, bit for bit."""
    rates = np.geomspace(1e-3, 10, 15)
    curves = []

    def sweep(work: Any, shape: OneCycle, method: Any, *, progress: bool) -> Any:
        curves.append(range_test(work, start_lr=1e-3, end_lr=10, num_iter=15, stop_factor=math.inf, progress=False))
        return said(0.1), replace(shape, max_lr=0.1)

    monkeypatch.setattr(adapter, "measure", sweep)
    settings = {"max_epochs": 5} | settings
    # Neither dropout nor shuffling: what they draw depends on how often a loader has been read.
    settings["train_loader"] = loader(shuffle=False)
    seeded()
    train(tmp_path, Net(dropout=0.0), OneCycleCallback(), **settings)
    seeded()

    def climbing(optimizer: Any, steps: int) -> Any:
        optimizer.param_groups[0]["momentum"] = 0.85
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[min(step, 14)] / 0.05)

    module = Net(climbing, dropout=0.0)
    train(tmp_path, module, **settings)

    by_step = module.seen
    if "accumulate_grad_batches" in settings:
        # 5 batches an epoch make 3 steps: the last has a batch alone.
        by_step = [
            np.mean(epoch[first : first + 2]) for epoch in np.array(module.seen).reshape(-1, 5) for first in (0, 2, 4)
        ]
    np.testing.assert_allclose(curves[0].loss, by_step[:15], rtol=2e-5)


def test_a_one_cycle_of_the_module_gives_the_shape(tmp_path):
    """torch's OneCycleLR in configure_optimizers: its shape and length stay, its max_lr does not."""
    seeded()

    def guessed(optimizer: Any, steps: int) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=123.0, total_steps=20, pct_start=0.25, div_factor=10, anneal_strategy="linear"
        )

    module, callback = Net(guessed), OneCycleCallback(progress=False)
    train(tmp_path, module, callback)

    peak = callback.pick.suggestion.lr
    expected = OneCycle(peak, 20, pct_start=0.25, div_factor=10, anneal_strategy="linear")
    assert callback.cycle == expected
    assert module.lrs == expected.lrs()[:15].tolist()
    assert peak < 12


def test_lightnings_own_finder_leaves_the_peak_alone(tmp_path):
    """What this callback is there for: LearningRateFinder suggests, and OneCycleLR goes on to its guessed max_lr."""
    seeded()

    class Named(Net):
        lr = 0.05

    module = Named(lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 7.0, steps))
    finder = pl.callbacks.LearningRateFinder(num_training_steps=20)
    train(tmp_path, module, finder)

    assert finder.optimal_lr is not None
    assert max(module.lrs) > 6


def test_groups_keep_their_ratios(tmp_path):
    """With one peak per parameter group, as configure_optimizers has them."""
    seeded()

    class Two(Net):
        def configure_optimizers(self) -> Any:
            first, *others = self.parameters()
            groups = [{"params": [first], "lr": 0.01}, {"params": others}]
            return torch.optim.AdamW(groups, lr=0.04)

    module, callback = Two(), OneCycleCallback(progress=False)
    run = train(tmp_path, module, callback)

    peaks = [group["max_lr"] for group in run.optimizers[0].param_groups]
    assert peaks == [callback.pick.suggestion.lr / 4, callback.pick.suggestion.lr]


def test_a_resumed_run_goes_on_with_its_peak(tmp_path):
    """Stopped after an epoch and resumed in another process: nothing measured again, the same rates and weights."""
    seeded()
    whole, callback = Net(dropout=0.0), OneCycleCallback(progress=False)
    fixed = loader(shuffle=False)  # random numbers are not in Lightning's checkpoints
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    train(tmp_path, whole, callback, keep, train_loader=fixed, enable_checkpointing=True)
    resumed, again = Net(dropout=0.0), OneCycleCallback(progress=False)
    train(tmp_path, resumed, again, train_loader=fixed, fit={"ckpt_path": tmp_path / "epoch=0.ckpt"})

    assert again.pick is None
    assert again.cycle == callback.cycle
    assert resumed.lrs == whole.lrs[5:]
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


def test_a_checkpoint_without_the_callback_is_refused(tmp_path):
    """There is no peak to go on with, and measuring in mid-run would be another matter."""
    seeded()
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}")
    train(tmp_path, Net(), keep, enable_checkpointing=True, max_epochs=1)

    with pytest.raises(ValueError, match=r"epoch=0.ckpt, which holds no max_lr"):
        train(tmp_path, Net(), OneCycleCallback(), fit={"ckpt_path": tmp_path / "epoch=0.ckpt"})


def test_a_fast_dev_run_measures_nothing(tmp_path):
    """As with Lightning's own finder."""
    callback = OneCycleCallback()
    train(tmp_path, Net(), callback, fast_dev_run=2)

    assert callback.pick is None


def test_after_an_error_the_trainer_is_as_it_was(tmp_path):
    """A training_step that fails in the sweep: callbacks, loggers and log are back."""

    class Fails(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.steps == 7:
                raise RuntimeError("enough")
            return super().training_step(batch, batch_idx)

    module, callback = Fails(), OneCycleCallback(progress=False)
    run = trainer(tmp_path, callback)
    with pytest.raises(RuntimeError, match="enough"):
        run.fit(module, loader(), loader())

    assert callback in run.callbacks
    assert "log" not in vars(module)
    assert module.steps == 0


def under_ddp(folder: str) -> dict[str, Any]:
    """Train as one of two processes: with the peak that a measurement is to say, and measured."""
    torch.set_num_threads(1)
    told: list[Any] = []

    def measure(work: Any, shape: OneCycle, method: Any, *, progress: bool) -> Any:
        told.append(pick_with_curve(work, total_steps=15, method=method, cycle=shape, progress=False))
        return said(0.3), replace(shape, max_lr=0.3)

    adapter.measure = measure
    ends: list[Any] = []
    for with_callback in (False, True):
        seeded()
        scheduler = None if with_callback else lambda optimizer, steps: OneCycle(0.3, steps).scheduler(optimizer)
        module, callbacks = Net(scheduler), [OneCycleCallback()] if with_callback else []
        run = train(folder, module, *callbacks, devices=2, strategy="ddp", accumulate_grad_batches=2)
        ends.append(([value.tolist() for value in state_of(module, run)], module.lrs))
    picks = [(pick.suggestion.lr, pick.curve.loss.tolist()) for pick in told]
    return {"picks": picks, "alone": ends[0], "measured": ends[1]}


def test_two_ranks_under_ddp_agree(tmp_path):
    """One pick, bit for bit, on both; and training goes on as if nothing had been measured."""
    first, second = results(2, under_ddp, str(tmp_path))

    assert len(first["picks"]) == 1
    assert first["picks"] == second["picks"]
    assert first["measured"] == first["alone"]
    assert second["measured"] == second["alone"]


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Several(Net):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.SGD(self.parameters(), lr=0.1)]

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Nothing(Net):
    def configure_optimizers(self) -> None:
        return None


class Epochs(Net):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Fetches(Net):
    def training_step(self, dataloader_iter: Any) -> Any:
        raise AssertionError


@pytest.mark.filterwarnings("ignore:.*this fit will run with no optimizer", "ignore:.*`dataloader_iter`")
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Manual, "got automatic_optimization=False"),
        (Nothing, "must return one torch optimizer; got none"),
        (Epochs, "got interval='epoch', frequency=1"),
        (lambda: Net(lambda optimizer, _: torch.optim.lr_scheduler.LinearLR(optimizer)), "or none; got LinearLR"),
        (Fetches, "got one that takes dataloader_iter"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, module, message):
    """Before any step, with the remedy."""
    with pytest.raises(ValueError, match=message):
        train(tmp_path, module(), OneCycleCallback())


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(data())


def test_a_stream_needs_max_steps(tmp_path):
    """Without a length and max_steps there is no cycle; with max_steps there is one."""
    stream = DataLoader(Stream(), 16)
    with pytest.raises(ValueError, match=r"the Trainer's are -1. Give Trainer\(max_steps"):
        train(tmp_path, Net(), OneCycleCallback(), train_loader=stream)

    module, callback = Net(), OneCycleCallback(progress=False)
    train(tmp_path, module, callback, train_loader=stream, max_steps=12, max_epochs=-1)
    assert module.lrs == callback.cycle.lrs().tolist()


def test_several_loaders_are_refused(tmp_path):
    """Their batches come in a structure of Lightning's own."""
    with pytest.raises(ValueError, match="must be one training loader; got dict"):
        train(tmp_path, Net(), OneCycleCallback(), train_loader={"a": loader(), "b": loader()})
