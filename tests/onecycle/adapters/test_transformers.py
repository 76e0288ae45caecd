"""The callback for Hugging Face's Trainer, in real runs; and a loop on Accelerate, which needs none."""

from __future__ import annotations

import math
import os
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lrfind import Workload, range_test
from onecycle import OneCycle
from onecycle.auto import pick_with_curve
from tests.ranks import results

transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
pytest.importorskip("accelerate", reason="needs the extra transformers")

from accelerate import Accelerator  # noqa: E402
from accelerate.state import GradientState  # noqa: E402

from onecycle.adapters import transformers as adapter  # noqa: E402  # which imports transformers
from onecycle.adapters.transformers import OneCycleCallback  # noqa: E402

EPOCHS = 3


class Net(nn.Module):
    """Dropout and batch norm; takes ``labels`` and returns a loss, as models of transformers do."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        drop = nn.Dropout(dropout)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), drop, nn.Linear(16, 3))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits} | ({} if labels is None else {"loss": functional.cross_entropy(logits, labels)})


class Rows(Dataset[Any]):
    """70 samples of 3 classes that a small net learns, but not at once."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(70, 6, generator=generator)
        self.labels = (self.x[:, :3] + 0.5 * torch.randn(70, 3, generator=generator)).argmax(dim=1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


class Watched(transformers.Trainer):
    """Counts what it computes, as trainers of one's own do, and notes the lr of each optimizer step."""

    shuffled = True

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.counted: defaultdict[str, list[float]] = defaultdict(list)
        self.tokens = 0
        super().__init__(*arguments, **settings)
        self.lrs: list[float] = []
        self.add_callback(Rates(self.lrs))

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **settings: Any) -> Any:
        self.tokens += 1
        result = super().compute_loss(model, inputs, *arguments, **settings)
        loss = result[0] if isinstance(result, tuple) else result
        self.counted["train" if model.training else "eval"].append(loss.item())
        return result

    def training_step(self, *arguments: Any, **settings: Any) -> Tensor:
        self.log({"in_step": 1.0})
        return super().training_step(*arguments, **settings)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.shuffled else None


class Rates(transformers.TrainerCallback):
    """Notes the lr before each optimizer step."""

    def __init__(self, lrs: list[float]) -> None:
        self.lrs = lrs

    def on_pre_optimizer_step(self, *_: Any, optimizer: Any, **__: Any) -> None:
        self.lrs.append(optimizer.param_groups[0]["lr"])


def trainer(tmp_path: Any, model: Any = None, *, kind: Any = Watched, **settings: Any) -> Any:
    of_trainer = {
        name: settings.pop(name)
        for name in ("optimizers", "train_dataset", "eval_dataset", "compute_loss_func")
        if name in settings
    }
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        **{
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": 16,
            "per_device_eval_batch_size": 35,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "max_grad_norm": 0.0,
            "optim": "sgd",
            "optim_args": "momentum=0.9",
            "learning_rate": 0.05,
            "dataloader_pin_memory": False,
            "seed": 5,
        }
        | settings,
    )
    of_trainer = {"train_dataset": Rows(), "eval_dataset": Rows()} | of_trainer
    return kind(Net() if model is None else model, arguments, **of_trainer)


def seeded() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  # the global state


def state_of(run: Any) -> list[Tensor]:
    state = run.optimizer.state.values()
    return [*run.model.state_dict().values(), *(value for entry in state for value in entry.values())]


def logged(run: Any, name: str) -> list[float]:
    return [row[name] for row in run.state.log_history if name in row]


def test_every_step_has_the_planned_rate(tmp_path):
    """The lr that the Trainer logs per step, and that of each optimizer step, is the planned cycle's."""
    run = trainer(tmp_path)
    callback = OneCycleCallback(run, progress=False)
    run.train()

    assert logged(run, "learning_rate") == run.lrs == callback.cycle.lrs().tolist()
    assert len(run.lrs) == run.state.global_step == EPOCHS * 5
    assert logged(run, "max_lr") == [callback.pick.suggestion.lr]
    assert callback.pick.pilots[0].validation is not None
    assert callback.pick.suggestion.steps_used > 20


def said(peak: float) -> Any:
    """A pick as far as the callback looks at it."""
    return SimpleNamespace(suggestion=SimpleNamespace(lr=peak))


def _measured_as(peak: float) -> Callable[..., Any]:
    """A measurement that is taken, and then says ``peak``."""

    def measure(work: Any, shape: OneCycle, method: Any, *, progress: bool) -> Any:
        shared = GradientState()  # of all loops of the process
        before = (shared.sync_gradients, shared.dataloader_references)
        pick = pick_with_curve(work, total_steps=15, method=method, cycle=shape, progress=False)
        assert pick.suggestion.steps_used > 20
        assert (shared.sync_gradients, shared.dataloader_references) == before
        return said(peak), replace(shape, max_lr=peak)

    return measure


def by_items(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """A loss that is summed, and divided by the items of the whole step."""
    return functional.cross_entropy(outputs["logits"], labels, reduction="sum") / (num_items_in_batch or len(labels))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5},
        {"bf16": True, "max_steps": 12},
        {"gradient_accumulation_steps": 2, "compute_loss_func": by_items},
        {"optim": "adamw_torch", "optim_args": None, "eval_strategy": "epoch"},
    ],
    ids=str,
)
def test_training_is_as_if_nothing_had_been_measured(tmp_path, settings, monkeypatch):
    """Weights, optimizer, logs, counters and random numbers equal those of a run with that OneCycleLR, bit for bit."""
    monkeypatch.setattr(adapter, "measure", _measured_as(0.3))
    ends = []
    for with_callback in (False, True):
        seeded()
        run = trainer(tmp_path, **settings)
        if with_callback:
            OneCycleCallback(run)
        else:
            given = OneCycle(0.3, settings.get("max_steps", 9 if "gradient_accumulation_steps" in settings else 15))
            run.create_optimizer()
            run.lr_scheduler = given.scheduler(run.optimizer)
        run.train()
        timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
        timed = (*timed, *(name.replace("train", "eval") for name in timed))
        rows = [row for row in run.state.log_history if "max_lr" not in row]
        ends.append(
            SimpleNamespace(
                state=state_of(run),
                log=[{name: value for name, value in row.items() if name not in timed} for row in rows],
                counted=(run.counted, run.tokens, run.state.global_step, run.state.total_flos, run.lrs),
                random=(torch.rand(3).tolist(), random.random(), np.random.rand()),  # noqa: NPY002
            )
        )
    alone, measured = ends
    assert all(map(torch.equal, alone.state, measured.state))
    assert len(alone.state) == len(measured.state)
    assert alone.log == measured.log != []
    assert alone.counted == measured.counted
    assert alone.random == measured.random


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"gradient_accumulation_steps": 2, "compute_loss_func": by_items},
        {"max_grad_norm": 0.05},
        {"bf16": True},
    ],
    ids=str,
)
def test_the_sweep_takes_the_trainers_own_steps(tmp_path, settings, monkeypatch):
    """Losses of a sweep equal those of a run of the Trainer whose scheduler climbs as the sweep does."""
    rates = np.geomspace(1e-3, 10, 15)
    monkeypatch.setattr(Watched, "shuffled", False)
    curves = []

    def sweep(work: Any, shape: OneCycle, method: Any, *, progress: bool) -> Any:
        curves.append(range_test(work, start_lr=1e-3, end_lr=10, num_iter=15, stop_factor=math.inf, progress=False))
        return said(0.1), replace(shape, max_lr=0.1)

    monkeypatch.setattr(adapter, "measure", sweep)
    seeded()
    run = trainer(tmp_path, Net(dropout=0.0), **settings)
    OneCycleCallback(run)
    run.train()
    seeded()
    climbing = trainer(tmp_path, Net(dropout=0.0), max_steps=15, optim_args="momentum=0.85", **settings)
    climbing.create_optimizer()
    climbing.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
        climbing.optimizer, lambda step: rates[min(step, 14)] / 0.05
    )
    climbing.train()

    np.testing.assert_allclose(curves[0].loss, logged(climbing, "loss"), rtol=2e-5)


def test_a_one_cycle_of_the_users_gives_the_shape(tmp_path):
    """torch's OneCycleLR handed to the Trainer: its shape and length stay, its max_lr does not."""
    run = trainer(tmp_path)
    run.create_optimizer()
    run.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(
        run.optimizer, max_lr=123.0, total_steps=20, pct_start=0.25, div_factor=10, anneal_strategy="linear"
    )
    callback = OneCycleCallback(run, progress=False)
    run.train()

    peak = callback.pick.suggestion.lr
    expected = OneCycle(peak, 20, pct_start=0.25, div_factor=10, anneal_strategy="linear")
    assert callback.cycle == expected
    assert run.lrs == expected.lrs()[:15].tolist()
    assert peak < 12


def test_a_trainers_own_create_scheduler_gives_the_shape(tmp_path):
    """The same for a OneCycleLR that a subclass makes."""

    class Own(Watched):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, 123.0, total_steps=num_training_steps, pct_start=0.5
            )
            return self.lr_scheduler

    run = trainer(tmp_path, kind=Own)
    callback = OneCycleCallback(run, progress=False)
    run.train()

    assert callback.cycle == OneCycle(callback.pick.suggestion.lr, 15, pct_start=0.5)
    assert run.lrs == callback.cycle.lrs().tolist()


def test_a_second_train_measures_again(tmp_path, monkeypatch):
    """From the weights it then has, for a cycle of its own."""
    run = trainer(tmp_path)
    monkeypatch.setattr(adapter, "measure", lambda _, shape, *__, **___: (said(0.3), replace(shape, max_lr=0.3)))
    callback = OneCycleCallback(run, progress=False)
    run.train()
    first = callback.pick
    run.train()

    assert callback.pick is not first
    assert run.lrs[15:] == callback.cycle.lrs().tolist()


def test_a_resumed_run_goes_on_with_its_peak(tmp_path):
    """Stopped after an epoch and resumed in another process: nothing measured again, the same rates and weights."""
    seeded()
    whole = trainer(tmp_path, save_strategy="epoch")
    callback = OneCycleCallback(whole, progress=False)
    whole.train()
    seeded()
    resumed = trainer(tmp_path, save_strategy="no")
    again = OneCycleCallback(resumed, progress=False)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))

    assert again.pick is None
    assert again.cycle == callback.cycle
    assert resumed.lrs == whole.lrs[5:]
    assert all(map(torch.equal, whole.model.state_dict().values(), resumed.model.state_dict().values()))


def test_a_checkpoint_without_the_callback_is_refused(tmp_path):
    """There is no peak to go on with, and measuring in mid-run would be another matter."""
    trainer(tmp_path, save_strategy="epoch", num_train_epochs=1).train()
    run = trainer(tmp_path)
    OneCycleCallback(run)

    with pytest.raises(ValueError, match="a checkpoint of step 5 whose log has no max_lr"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_after_an_error_the_trainer_is_as_it_was(tmp_path):
    """A compute_loss that fails in the sweep: attributes, counters and log are back."""

    class Fails(Watched):
        def compute_loss(self, *arguments: Any, **settings: Any) -> Any:
            if self.tokens == 7:
                raise RuntimeError("enough")
            return super().compute_loss(*arguments, **settings)

    run = trainer(tmp_path, kind=Fails)
    OneCycleCallback(run, progress=False)
    with pytest.raises(RuntimeError, match="enough"):
        run.train()

    assert "log" not in vars(run)
    assert (run.tokens, dict(run.counted), run.state.log_history) == (0, {}, [])


def under_ddp(folder: str) -> dict[str, Any]:
    """Train as one of two processes: with the peak that a measurement is to say, and measured."""
    torch.set_num_threads(1)
    # The processes have met already; Accelerate wants to be told where, all the same.
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    told: list[Any] = []

    def measure(work: Any, shape: OneCycle, method: Any, *, progress: bool) -> Any:
        told.append(pick_with_curve(work, total_steps=15, method=method, cycle=shape, progress=False))
        return said(0.3), replace(shape, max_lr=0.3)

    adapter.measure = measure
    ends: list[Any] = []
    for with_callback in (False, True):
        seeded()
        run = trainer(folder, gradient_accumulation_steps=2, ddp_backend="gloo", ddp_find_unused_parameters=False)
        assert run.args.world_size == 2
        if with_callback:
            OneCycleCallback(run)
        else:
            run.create_optimizer()
            run.lr_scheduler = OneCycle(0.3, 6).scheduler(run.optimizer)
        run.train()
        ends.append(([value.tolist() for value in state_of(run)], run.lrs))
    picks = [(pick.suggestion.lr, pick.curve.loss.tolist()) for pick in told]
    return {"picks": picks, "alone": ends[0], "measured": ends[1]}


def test_two_ranks_under_ddp_agree(tmp_path):
    """One pick, bit for bit, on both; and training goes on as if nothing had been measured."""
    first, second = results(2, under_ddp, str(tmp_path))

    assert len(first["picks"]) == 1
    assert first["picks"] == second["picks"]
    assert first["measured"] == first["alone"]
    assert second["measured"] == second["alone"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scheduler_type": "cosine"}, "got lr_scheduler_type='cosine'. Leave it out"),
        ({"warmup_steps": 3}, "got warmup_steps=3. Leave it out"),
    ],
)
def test_arguments_that_say_otherwise_are_refused(tmp_path, settings, message):
    """Before any step, with the remedy: what is said and not done would go unnoticed."""
    run = trainer(tmp_path, **settings)
    OneCycleCallback(run)

    with pytest.raises(ValueError, match=message):
        run.train()


@pytest.mark.parametrize("name", ["is_deepspeed_enabled", "is_fsdp_enabled"])
def test_sharded_trainers_are_refused(tmp_path, name):
    """Nobody has measured there."""
    run = trainer(tmp_path)
    callback = OneCycleCallback(run)
    setattr(run, name, True)

    with pytest.raises(ValueError, match=r"measures on one device or under DDP; got (DeepSpeed|FSDP)"):
        callback.create_scheduler(15)


def test_another_scheduler_is_refused(tmp_path):
    """A peak is measured for one cycle."""
    run = trainer(tmp_path)
    run.create_optimizer()
    run.lr_scheduler = torch.optim.lr_scheduler.LinearLR(run.optimizer)
    OneCycleCallback(run)

    with pytest.raises(ValueError, match="or none; got LinearLR"):
        run.train()


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        rows = Rows()
        return (rows[index] for index in range(len(rows)))


def test_a_stream_trains_max_steps(tmp_path):
    """A loader without length, with max_steps as the Trainer itself wants it."""
    run = trainer(tmp_path, train_dataset=Stream(), max_steps=12)
    callback = OneCycleCallback(run, progress=False)
    run.train()

    assert run.lrs == callback.cycle.lrs().tolist()


def test_a_loop_on_accelerate_needs_no_adapter(tmp_path):
    """A Workload of what Accelerator.prepare returned: a sweep, and the loop runs on as if there had been none."""
    ends = []
    for with_sweep in (False, True):
        seeded()
        accelerator = Accelerator(cpu=True)
        net = Net()
        loader = DataLoader(TensorDataset(Rows().x, Rows().labels), 16, shuffle=True)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
        if with_sweep:
            work = Workload(net, optimizer, train_loader=loader, loss_fn=lambda model, batch: model(*batch)["loss"])
            assert len(range_test(work, start_lr=1e-4, progress=False)) > 20
        for batch in loader:
            accelerator.backward(net(*batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        ends.append([*net.state_dict().values(), torch.rand(3)])

    assert all(map(torch.equal, *ends))
