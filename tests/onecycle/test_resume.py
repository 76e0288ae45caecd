"""Exact resume: stopped anywhere and taken up by new objects, a run ends as if it had never been stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrfind import Workload
from onecycle import CheckpointError, OneCycle, Run, checkpoint, fit

Make = Callable[..., Workload]
Same = Callable[[Workload, Workload], bool]

pytestmark = pytest.mark.usefixtures("no_pictures")

STEPS = 20  # of passes of six steps each: stops lie within passes and at their ends


def train(work: Workload, **settings: Any) -> Run:
    """Train for 20 steps with the seed set."""
    torch.manual_seed(7)
    return fit(work, **{"total_steps": STEPS, "max_lr": 0.05, "progress": False, **settings})


@pytest.fixture
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every checkpoint."""
    monkeypatch.setattr(checkpoint, "KEEP", 1000)


def stopped_at(step: int, run: Path, folder: Path) -> Path:
    """Return a folder as it was when a run was killed right after the checkpoint of ``step``."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("history.jsonl", "config.json"):
        shutil.copy(run / name, folder)
    for name in ("start.pt", f"step-{step:08d}.pt"):
        shutil.copy(run / "checkpoints" / name, folder / "checkpoints")
    return folder


class _Drifts(nn.Module):
    """A loss that keeps an average of itself, and draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.tensor(1.0))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.noise = torch.Generator().manual_seed(2)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(outputs, targets)
        self.average = 0.9 * self.average + 0.1 * loss.detach()
        return loss / self.average * self.scale * (1 + 0.1 * torch.rand((), generator=self.noise))


def _own_loss(make: Make) -> Workload:
    work = make(metrics={})
    work.criterion = _Drifts()
    return work


def _captured_loss(make: Make) -> Workload:
    work = make(metrics={})
    drifts = _Drifts()
    generator = torch.Generator().manual_seed(9)
    work.criterion = None
    work.loss_fn = lambda model, batch: drifts(model(batch[0]), batch[1]) + torch.rand((), generator=generator)
    return work


def _with_scaler(make: Make, overflows: Any) -> Workload:
    work = make("adam", "generator", metrics={}, clip_grad_norm=1.0)
    work.criterion = overflows(range(0, 30, 4))
    work.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    return work


CASES: dict[str, tuple[Callable[[Make, Any], Workload], dict[str, Any]]] = {
    "sgd, shuffled": (lambda make, _: make(), {}),
    "adam, a generator of its own": (lambda make, _: make("adam", "generator"), {}),
    "adamw, lr in a tensor": (lambda make, _: make("adamw-tensor-lr", "list"), {}),
    "rmsprop, momentum turned on": (lambda make, _: make("rmsprop"), {"validate_every": 4, "max_lr": 0.005}),
    "adagrad": (lambda make, _: make("adagrad", val=False), {}),
    "a stream that counts": (lambda make, _: make(loader="stream"), {"validate_every": 3}),
    "accumulation": (lambda make, _: make(accumulation_steps=4), {}),
    "grad scaler, overflows, clipping": (_with_scaler, {}),
    "ema, two groups": (lambda make, _: make(groups=True), {"ema_decay": 0.9}),
    "three phases": (lambda make, _: make(), {"cycle": OneCycle(None, three_phase=True, anneal_strategy="linear")}),
    "a loss with a state": (lambda make, _: _own_loss(make), {}),
    "a loss that a function captures": (lambda make, _: _captured_loss(make), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_trap_23_resumed_at_every_step(
    case: str, make: Make, overflows: Any, same: Same, keep_all: None, tmp_path: Path
):
    """From each of 20 checkpoints on: the same lr, momentum, losses, validations, weights, buffers, optimizer state."""
    build, settings = CASES[case]
    undisturbed = build(make, overflows)
    expected = train(undisturbed, **settings)
    saved = train(build(make, overflows), out_dir=tmp_path / "run", checkpoint_every=1, **settings)
    assert saved.history["loss"] == expected.history["loss"]
    for step in range(1, STEPS):
        folder = stopped_at(step, tmp_path / "run", tmp_path / str(step))
        resumed = build(make, overflows)
        torch.manual_seed(step)
        run = train(resumed, out_dir=folder, resume="auto", **settings)
        assert [run.history.row(i) for i in range(STEPS)] == [expected.history.row(i) for i in range(STEPS)], step
        assert same(undisturbed, resumed), step
        assert run.scheduler.state_dict() == expected.scheduler.state_dict()
        if run.ema_model is not None:
            averages = run.ema_model.state_dict().values(), expected.ema_model.state_dict().values()
            assert all(map(torch.equal, *averages))


@pytest.mark.parametrize("loader", ["workers", "lasting workers"])
def test_resumed_with_worker_processes(loader: str, make: Make, same: Same, keep_all: None, tmp_path: Path):
    """Loaders with workers go on alike; of workers that last it is said what no checkpoint holds."""
    undisturbed = make(loader=loader)
    train(undisturbed)
    train(make(loader=loader), out_dir=tmp_path / "run", checkpoint_every=1)
    for step in (3, 6, 10):
        folder = stopped_at(step, tmp_path / "run", tmp_path / str(step))
        resumed = make(loader=loader)
        if loader == "lasting workers" and step >= 6:
            with pytest.warns(UserWarning, match=r"train_loader keeps its workers between passes"):
                train(resumed, out_dir=folder, resume="auto")
        else:
            train(resumed, out_dir=folder, resume="auto")
        assert same(undisturbed, resumed), step


def test_killed_before_the_first_checkpoint_nothing_is_picked_again(
    make: Make, same: Same, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The start is on disk before the first step: pick, weights and random numbers are those of the first attempt."""
    undisturbed = make()
    expected = train(undisturbed, max_lr="auto")

    expected_pick = SimpleNamespace(suggestion=expected.suggestion, curve=expected.curve)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Workload, "step", killed)
        patch.setattr("onecycle.loop.pick_with_curve", lambda *_, **__: expected_pick)
        with pytest.raises(KeyboardInterrupt):
            train(make(), max_lr="auto", out_dir=tmp_path / "run")
    monkeypatch.setattr("onecycle.loop.pick_with_curve", killed)
    resumed = make()
    for parameter in resumed.model.parameters():
        parameter.data.fill_(1.0)  # a script that sets no seed
    run = train(resumed, max_lr="auto", out_dir=tmp_path / "run", resume="auto")
    assert same(undisturbed, resumed)
    assert run.suggestion == expected.suggestion
    assert run.curve is not None
    assert run.curve.loss.tolist() == expected.curve.loss.tolist()


def test_the_pick_and_its_evidence_are_resumed(make: Make, keep_all: None, tmp_path: Path):
    """Suggestion and curve of an automatic run come from its folder; max_lr may be left at auto or given again."""
    whole = train(make(), max_lr="auto", out_dir=tmp_path / "run", checkpoint_every=5)
    for max_lr in ("auto", whole.max_lr, whole.suggestion):
        folder = stopped_at(10, tmp_path / "run", tmp_path / str(type(max_lr).__name__))
        shutil.copy(tmp_path / "run" / "curve.json", folder)
        run = train(make(), max_lr=max_lr, out_dir=folder, resume="auto")
        assert run.suggestion == whole.suggestion
        assert run.curve.lr.tolist() == whole.curve.lr.tolist()
        assert run.history["loss"] == whole.history["loss"]


def test_a_finished_run_is_returned_as_it_is(make: Make, same: Same, tmp_path: Path):
    """Resuming it takes no step."""
    work = make()
    first = train(work, out_dir=tmp_path / "run")
    again = make()
    second = train(again, out_dir=tmp_path / "run", resume="auto")
    assert same(work, again)
    assert second.history["val_loss"][-1] == first.history["val_loss"][-1]
    assert second.status == "finished"
    assert second.history.rows == STEPS


@pytest.mark.parametrize("loader", ["shuffle", "stream"])
@pytest.mark.parametrize("last", [5, 6, 7])
def test_a_run_that_a_callback_stopped_goes_on_exactly(loader: str, last: int, make: Make, same: Same, tmp_path: Path):
    """The batch that was read for the step that did not come is the one that it begins with."""
    undisturbed = make(loader=loader, val=False)
    train(undisturbed)
    stopped = train(
        make(loader=loader, val=False), out_dir=tmp_path / "run", callbacks=[lambda row: row["step"] == last]
    )
    assert stopped.status == "stopped"
    resumed = make(loader=loader, val=False)
    assert train(resumed, out_dir=tmp_path / "run", resume="auto").status == "finished"
    assert same(undisturbed, resumed)


def test_an_extension_is_a_second_cycle_of_the_same_shape(make: Make, tmp_path: Path):
    """Stated in the docstring of fit: same shape and peak, over the further steps, the history goes on."""
    train(make(), out_dir=tmp_path / "run")
    run = train(make(), out_dir=tmp_path / "run", resume="extend", total_steps=32)
    assert run.history["lr"] == [*OneCycle(0.05, STEPS).lrs(), *OneCycle(0.05, 12).lrs()]
    assert run.history["step"] == list(range(1, 33))
    assert run.cycle.total_steps == 12
    assert run.status == "finished"


def test_an_extension_may_have_a_peak_of_its_own(make: Make, tmp_path: Path):
    """A number given for it is the peak of the further cycle."""
    train(make(), out_dir=tmp_path / "run")
    run = train(make(), out_dir=tmp_path / "run", resume="extend", total_steps=32, max_lr=0.01)
    assert run.history["lr"][STEPS:] == OneCycle(0.01, 12).lrs().tolist()


@pytest.mark.parametrize("resume", ["auto", "extend"])
def test_an_extension_is_resumed_at_every_step(resume: str, make: Make, same: Same, keep_all: None, tmp_path: Path):
    """Killed within the second cycle, it goes on exactly, whether called an extension again or not."""
    train(make(), out_dir=tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "extended")
    undisturbed = make()
    expected = train(undisturbed, out_dir=tmp_path / "extended", resume="extend", total_steps=26, checkpoint_every=1)
    for step in range(STEPS + 1, 26):
        folder = stopped_at(step, tmp_path / "extended", tmp_path / str(step))
        resumed = make()
        run = train(resumed, out_dir=folder, resume=resume, total_steps=26)
        assert run.history["loss"] == expected.history["loss"]
        assert same(undisturbed, resumed)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"total_steps": 30}, r"is planned for 20 steps, of which 20 are done; got total_steps=30.*resume=\"extend\""),
    ({}, {"total_steps": 9}, r"is planned for 20 steps, of which 20 are done; got total_steps=9"),
    ({}, {"total_steps": 20, "resume": "extend"}, r"has done 20 of 20 steps and 20 are asked for"),
    ({}, {"max_lr": 0.1}, r"has the peak max_lr=0.05; got max_lr=0.1"),
    ({}, {"cycle": OneCycle(None, pct_start=0.2)}, r"holds another run: cycle pct_start was 0.3 and is 0.2"),
    ({}, {"ema_decay": 0.9}, r"holds another run: ema_decay was None and is 0.9"),
    ({"optimizer": "adam"}, {}, r"holds another run: optimizer was SGD and is Adam"),
    ({"optimizer": "sgd0"}, {}, r"holds another run: parameter groups 0 nesterov was True and is False"),
    ({"groups": True}, {}, r"holds another run: parameter groups was \[.*\] and is \["),
    ({"loader": "stream"}, {}, r"holds another run: steps per epoch was 6 and is None"),
    ({"accumulation_steps": 2}, {}, r"holds another run: accumulation_steps was 1 and is 2"),
    ({"clip_grad_norm": 1.0}, {}, r"holds another run: clip_grad_norm was None and is 1.0"),
    ({"amp_dtype": torch.bfloat16}, {}, r"holds another run: amp_dtype was None and is torch.bfloat16"),
]


@pytest.mark.parametrize(("other", "settings", "message"), REFUSED, ids=[case[2] for case in REFUSED])
def test_another_run_is_refused_and_the_difference_named(
    other: dict[str, Any], settings: dict[str, Any], message: str, make: Make, same: Same, tmp_path: Path
):
    """Model, optimizer, schedule, peak, length, loader and step are compared before anything is loaded."""
    train(make(), out_dir=tmp_path / "run")
    work, before = make(**other), make(**other)
    with pytest.raises(CheckpointError, match=message):
        train(work, **{"out_dir": tmp_path / "run", "resume": "auto", **settings})
    assert same(work, before)


def test_another_batch_size_model_and_ratio_are_refused(make: Make, tmp_path: Path):
    """Each by its name."""
    train(make(groups=True), out_dir=tmp_path / "run")
    wider = make(groups=True)
    wider.model.inner = nn.Linear(6, 16, bias=False)
    with pytest.raises(CheckpointError, match=r"model inner.bias was \(16,\) float32 and is absent"):
        train(wider, out_dir=tmp_path / "run", resume="auto")
    batches = make(groups=True)
    batches.train_loader = torch.utils.data.DataLoader(batches.train_loader.dataset, 15)
    with pytest.raises(CheckpointError, match=r"batch size was 16 and is 15"):
        train(batches, out_dir=tmp_path / "run", resume="auto")
    ratio = make(groups=True)
    ratio.optimizer.param_groups[0]["lr"] = 0.006
    with pytest.raises(CheckpointError, match=r"learning rates of the parameter groups were as 0.03 : 1 and are as 0"):
        train(ratio, out_dir=tmp_path / "run", resume="auto")


def test_an_unfinished_run_is_not_extended(make: Make, tmp_path: Path):
    """It is to be finished first."""
    train(make(), out_dir=tmp_path / "run", callbacks=[lambda row: row["step"] == 8])
    with pytest.raises(CheckpointError, match=r"has done 8 of 20 steps and 40 are asked for.*finish it first"):
        train(make(), out_dir=tmp_path / "run", resume="extend", total_steps=40)


def test_data_that_have_become_fewer_are_noticed(make: Make, tmp_path: Path):
    """A pass that ends before the place where it was left cannot be taken up."""
    train(make(loader="stream"), out_dir=tmp_path / "run", callbacks=[lambda row: row["step"] == 4])
    work = make(loader="stream")
    work.train_loader.dataset.x = work.train_loader.dataset.x[:40]
    with pytest.raises(
        CheckpointError, match=r"written after 5 steps of a pass over train_loader, which now ends after 3"
    ):
        train(work, out_dir=tmp_path / "run", resume="auto")


def test_auto_starts_where_there_is_nothing(make: Make, same: Same, tmp_path: Path):
    """The first attempt needs no other call than the later ones."""
    one, other = make(), make()
    train(one, out_dir=tmp_path / "run", resume="auto")
    train(other)
    assert same(one, other)
