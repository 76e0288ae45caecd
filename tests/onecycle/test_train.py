"""``fit`` against loops written by hand with torch's own parts, and what it counts, validates and refuses."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import lrfind
from lrfind import Workload
from onecycle import OneCycle, fit

Make = Callable[..., Workload]
Overflows = Callable[..., nn.Module]


def by_hand(work: Workload, epochs: int, max_lr: float | list[float]) -> list[float]:
    """Train as a user would write it, with torch's scheduler; returns the losses."""
    model, optimizer, loader = work.model, work.optimizer, work.train_loader
    steps = epochs * math.ceil(len(loader) / work.accumulation_steps)
    momentum = any("betas" in group or "momentum" in group for group in optimizer.param_groups)
    scheduler = OneCycleLR(optimizer, max_lr, total_steps=steps, cycle_momentum=momentum)
    losses = []
    for _ in range(epochs):
        batches = iter(loader)
        while group := list(itertools.islice(batches, work.accumulation_steps)):
            optimizer.zero_grad()
            losses.append(0.0)
            for x, y in group:
                with torch.autocast("cpu", dtype=work.amp_dtype, enabled=work.amp_dtype is not None):
                    loss = nn.functional.cross_entropy(model(x), y)
                if len({len(other) for other, _ in group}) == 1:
                    loss = loss / len(group)
                else:
                    loss = loss * len(x) / sum(len(other) for other, _ in group)
                loss.backward()
                losses[-1] = losses[-1] + loss.detach()
            if work.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), work.clip_grad_norm)
            optimizer.step()
            scheduler.step()
    return [float(loss) for loss in losses]


CASES: dict[str, dict[str, Any]] = {
    "sgd, nesterov, weight decay": {"optimizer": "sgd"},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw"},
    "adamw, fused": {"optimizer": "adamw-fused"},
    "adamw, lr in a tensor": {"optimizer": "adamw-tensor-lr"},
    "rmsprop": {"optimizer": "rmsprop"},
    "sgd without momentum, which the cycle turns on": {"optimizer": "sgd0"},
    "adagrad, which has no momentum": {"optimizer": "adagrad"},
    "clipping": {"clip_grad_norm": 0.5},
    "autocast": {"amp_dtype": torch.bfloat16},
    "a generator of its own, last batch dropped": {"loader": "generator"},
    "a list of batches": {"loader": "list"},
    "accumulation": {"loader": "list", "accumulation_steps": 4},
}


@pytest.mark.parametrize("case", CASES)
def test_fit_equals_a_loop_by_hand(case: str, make: Make, same: Callable[..., bool]):
    """Weights, buffers, optimizer state and losses of three epochs are those of a hand-written loop, bit for bit."""
    theirs, ours = make(**CASES[case]), make(**CASES[case])
    torch.manual_seed(7)
    losses = by_hand(theirs, 3, 0.05)
    torch.manual_seed(7)
    run = fit(replace_val(ours), epochs=3, max_lr=0.05, progress=False)
    assert run.history["loss"] == losses
    assert same(theirs, ours)


def replace_val(work: Workload) -> Workload:
    """Leave the validation out: its loader draws a random number, which no loop by hand here does."""
    work.val_loader = None
    return work


def test_groups_keep_their_ratio(make: Make, same: Callable[..., bool]):
    """With one max_lr two groups end as in a loop by hand with a peak each, in the ratio of their lrs."""
    theirs, ours = make(groups=True, val=False), make(groups=True, val=False)
    torch.manual_seed(7)
    by_hand(theirs, 2, [0.5 * (0.003 / 0.1), 0.5])
    torch.manual_seed(7)
    run = fit(ours, epochs=2, max_lr=0.5, progress=False)
    assert same(theirs, ours)
    assert run.max_lr == 0.5


def test_a_list_gives_each_group_its_peak(make: Make, same: Callable[..., bool]):
    """A list of peaks is used as it stands."""
    theirs, ours = make(groups=True, val=False), make(groups=True, val=False)
    torch.manual_seed(7)
    by_hand(theirs, 2, [0.2, 0.1])
    torch.manual_seed(7)
    run = fit(ours, epochs=2, max_lr=[0.2, 0.1], progress=False)
    assert same(theirs, ours)
    assert (run.max_lr, run.cycle.max_lr) == (0.2, (0.2, 0.1))


def test_a_suggestion_hands_over_the_ranges_of_its_groups(make: Make):
    """Rates of groups that were swept over ranges of their own become their peaks."""
    work = make(groups=True, val=False)
    pick = lrfind.Suggestion(0.1, 0.05, 0.2, "level", group_lrs=(0.1, 0.02))
    assert fit(work, total_steps=3, max_lr=pick, progress=False).cycle.max_lr == (0.1, 0.02)
    work = make(groups=True, val=False)
    kept = lrfind.Suggestion(0.1, 0.05, 0.2, "level", group_lrs=(0.1 * 0.03 * (1 + 1e-12), 0.1))
    assert fit(work, total_steps=3, max_lr=kept, progress=False).cycle.max_lr == 0.1


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam", "loader": "generator"}, {"groups": True}])
def test_auto_equals_the_number_that_it_picks(settings: dict[str, Any], make: Make, same: Callable[..., bool]):
    """The sweep leaves no trace: training after it is training without it, bit for bit."""
    picked, given = make(**settings), make(**settings)
    torch.manual_seed(7)
    run = fit(picked, epochs=3, progress=False)
    torch.manual_seed(7)
    fit(given, epochs=3, max_lr=run.max_lr, progress=False)
    assert same(picked, given)
    assert run.suggestion is not None
    assert run.curve is not None


@pytest.mark.parametrize("fused", [False, True])
def test_trap_16_the_schedule_waits_where_the_scaler_skips(fused: bool, make: Make, overflows: Overflows):
    """Of ten steps with overflows at 0, 1 and 5, the schedule takes seven, and no row is of a skipped one."""
    work = make("adamw-fused" if fused else "adamw", "list", val=False)
    work.criterion = overflows((0, 1, 5))
    work.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    run = fit(work, total_steps=7, max_lr=0.01, progress=False)
    assert work.criterion.calls == 10
    assert work.grad_scaler.get_scale() == 2.0**7
    cycle = OneCycle(0.01, 7)
    assert run.history["lr"] == cycle.lrs().tolist()
    assert run.history["momentum"] == cycle.momentums().tolist()
    assert all(map(math.isfinite, run.history["loss"]))
    assert all(p.isfinite().all() for p in work.model.parameters())


def test_a_validation_after_a_skipped_last_step_goes_to_the_step_before(make: Make, overflows: Overflows):
    """An epoch whose last step is skipped is validated all the same."""
    work = make("adamw", "list")
    work.criterion = overflows((5,))
    work.metrics = {}
    work.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    run = fit(work, total_steps=8, max_lr=0.01, progress=False)
    assert [row["step"] for row in run.history.where("val_loss")] == [5, 8]


def test_overflows_without_end_are_a_divergence(make: Make, overflows: Overflows):
    """A scale that is never right ends the run with its reason."""
    work = make("adamw", "list", val=False)
    work.criterion = overflows(tuple(range(1000)))
    work.grad_scaler = torch.amp.GradScaler("cpu")
    run = fit(work, total_steps=5, max_lr=0.01, progress=False)
    assert run.status == "diverged"
    assert "overflowed 51 times in a row" in run.notes[0]


class _NoLength:
    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


@pytest.mark.parametrize(
    ("loader", "accumulation_steps", "per_epoch"),
    [("shuffle", 1, 6), ("generator", 1, 5), ("shuffle", 4, 2), ("stream", 1, 6), ("stream", 4, 2), ("list", 3, 2)],
)
def test_epochs_are_counted_in_steps(loader: str, accumulation_steps: int, per_epoch: int, make: Make):
    """A short last batch, drop_last, an incomplete group and a loader without length all count as they are read."""
    work = make(loader=loader, accumulation_steps=accumulation_steps, val=False)
    run = fit(work, epochs=2, max_lr=0.01, progress=False)
    assert run.history.rows == run.cycle.total_steps == 2 * per_epoch
    assert run.history["epoch"] == [0] * per_epoch + [1] * per_epoch


def test_counting_a_loader_leaves_it_as_it_was(make: Make, same: Callable[..., bool]):
    """A stream that counts its samples trains the same with its length counted or given."""
    counted, given = make(loader="stream", val=False), make(loader="stream", val=False)
    fit(counted, epochs=2, max_lr=0.01, progress=False)
    torch.manual_seed(1)
    given = make(loader="stream", val=False)
    fit(given, total_steps=12, max_lr=0.01, progress=False)
    assert same(counted, given)


def test_total_steps_read_the_loader_as_often_as_it_takes(make: Make):
    """Steps beyond one pass go on with the next."""
    run = fit(make(val=False), total_steps=15, max_lr=0.01, progress=False)
    assert run.history["epoch"] == [0] * 6 + [1] * 6 + [2] * 3
    assert run.status == "finished"


def test_a_generator_that_ends_is_named(make: Make):
    """A loader that can be read only once ends with an error in place of turning for ever."""
    work = make(loader="list", val=False)
    work.train_loader = iter(work.train_loader)
    with pytest.raises(ValueError, match=r"train_loader yielded no batch; got <list_iterator"):
        fit(work, total_steps=7, max_lr=0.01, progress=False)


def test_a_stream_cannot_be_counted(make: Make):
    """Epochs of what can be read only once are refused before any step."""
    work = make(loader="list", val=False)
    work.train_loader = iter(work.train_loader)
    with pytest.raises(ValueError, match=r"epochs needs a train_loader with a length.* Give total_steps instead"):
        fit(work, epochs=1, max_lr=0.01, progress=False)


def _linear_work() -> Workload:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    x = torch.randn(58, 6)
    batches = DataLoader(TensorDataset(x, x.argmax(1) % 3), 16)
    return Workload(model, torch.optim.SGD(model.parameters(), 0.1, 0.9), nn.CrossEntropyLoss(), batches, batches)


def test_compiled_training_is_the_same_training():
    """compile=True trains the same run up to rounding, and leaves the model as it was."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU; there is no g++")
    torch._dynamo.reset()
    plain = fit(_linear_work(), epochs=3, max_lr=0.3, progress=False)
    work = _linear_work()
    compiled = fit(work, epochs=3, max_lr=0.3, compile=True, progress=False)
    assert compiled.history["loss"] == pytest.approx(plain.history["loss"], rel=1e-4)
    assert work.model._compiled_call_impl is None


def test_compiled_training_does_not_compile_for_every_step(monkeypatch: pytest.MonkeyPatch):
    """No lr is compiled for: one graph to train, one for the short last batch, two to validate."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    run = fit(_linear_work(), epochs=10, max_lr=0.3, compile=True, progress=False)
    assert run.history.rows == 40
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


def test_ema_is_that_of_torch(make: Make):
    """The averaged model holds what AveragedModel holds that is updated by hand after each step."""
    work, theirs = make(), make(val=False)
    torch.manual_seed(7)
    run = fit(work, epochs=2, max_lr=0.05, ema_decay=0.8, progress=False)
    assert isinstance(run.ema_model, AveragedModel)
    average = AveragedModel(theirs.model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    optimizer = theirs.optimizer
    scheduler = OneCycleLR(optimizer, 0.05, total_steps=12)
    torch.manual_seed(7)
    for _ in range(2):
        for x, y in theirs.train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(theirs.model(x), y).backward()
            optimizer.step()
            scheduler.step()
            average.update_parameters(theirs.model)
        # What the validations, of both models, draw in fit.
        [list(work.val_loader) for _ in range(2)]
    assert all(map(torch.equal, average.state_dict().values(), run.ema_model.state_dict().values()))
    average.eval()
    with torch.no_grad():
        x, y = work.val_loader.dataset.tensors
        assert run.validation["val_ema_loss"] == pytest.approx(float(nn.functional.cross_entropy(average(x), y)))
    assert run.validation["val_ema_loss"] != run.validation["val_loss"]


class _HitRate:
    """Written as torchmetrics writes them: a tensor from compute, and a call of reset before each pass."""

    def __init__(self) -> None:
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1
        self.hits = self.seen = torch.tensor(0.0)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.hits = self.hits + (outputs.argmax(1) == targets).sum()
        self.seen = self.seen + len(targets)

    def compute(self) -> Tensor:
        return self.hits / self.seen


def test_metrics_are_any_objects_with_three_methods(make: Make):
    """Their values stand in the history at each epoch's end, next to ours computed by hand."""
    metric = _HitRate()
    work = make(metrics={"hits": metric, "accuracy": lrfind.Accuracy()})
    run = fit(work, epochs=3, max_lr=0.05, progress=False)
    rows = run.history.where("val_hits")
    assert [row["step"] for row in rows] == [6, 12, 18]
    assert [row["val_hits"] for row in rows] == pytest.approx([row["val_accuracy"] for row in rows])
    assert metric.resets == 3
    x, y = work.val_loader.dataset.tensors
    work.model.eval()
    assert run.validation["val_hits"] == pytest.approx(float((work.model(x).argmax(1) == y).float().mean()))
    assert math.isnan(run.history["val_hits"][0])


@pytest.mark.parametrize(
    ("loader", "every", "at"),
    [
        ("shuffle", 4, [4, 8, 12, 13]),
        ("stream", 4, [4, 8, 12, 13]),
        ("shuffle", 6, [6, 12, 13]),
        ("stream", 6, [6, 12, 13]),
    ],
)
def test_validate_every_counts_steps(loader: str, every: int, at: list[int], make: Make):
    """Every n steps and at the very end, once each, also where that meets the end of an epoch."""
    run = fit(make(loader=loader), total_steps=13, max_lr=0.01, validate_every=every, progress=False)
    assert [row["step"] for row in run.history.where("val_loss")] == at


@pytest.mark.parametrize("loader", ["shuffle", "stream"])
def test_callbacks_see_every_row_in_order_with_its_validation(loader: str, make: Make):
    """One call per step, numbers only, val_ ones at the ends of epochs."""
    rows: list[dict[str, float]] = []
    run = fit(
        make(loader=loader), epochs=2, max_lr=0.01, callbacks=[lambda row: rows.append(dict(row))], progress=False
    )
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["step"] for row in rows if "val_accuracy" in row] == [6, 12]
    assert all(type(value) in (int, float) for row in rows for value in row.values())
    assert rows == [run.history.row(index) for index in range(12)]


@pytest.mark.parametrize("loader", ["shuffle", "stream"])
@pytest.mark.parametrize("last", [1, 5, 6, 7])
def test_a_callback_that_returns_true_stops_the_run_right_there(loader: str, last: int, make: Make):
    """No further step is taken, and the status says so."""
    run = fit(make(loader=loader), epochs=2, max_lr=0.01, callbacks=[lambda row: row["step"] == last], progress=False)
    assert (run.history.rows, run.status) == (last, "stopped")


def test_the_cycle_gives_the_shape_and_what_it_has_of_peak_and_length(make: Make):
    """max_lr and length said to fit come before those of the cycle; its shape is kept."""
    cycle = OneCycle.smith(0.02, 40)
    assert fit(make(val=False), cycle=cycle, progress=False).history["lr"] == cycle.lrs().tolist()
    run = fit(make(val=False), cycle=cycle, max_lr=0.5, total_steps=9, progress=False)
    assert run.cycle == replace(cycle, max_lr=0.5, total_steps=9)


def test_modes_are_given_back_and_frozen_parts_stay_frozen(make: Make):
    """A batch norm in eval mode keeps its statistics; a model in eval mode is trained, and is in eval mode after."""
    work = make()
    work.model.norm.eval()
    mean = work.model.norm.running_mean.clone()
    fit(work, epochs=1, max_lr=0.05, progress=False)
    assert torch.equal(work.model.norm.running_mean, mean)
    work = make()
    work.model.eval()
    fit(work, epochs=1, max_lr=0.05, progress=False)
    assert not any(module.training for module in work.model.modules())
    assert not torch.equal(work.model.norm.running_mean, mean)


def test_an_optimizer_without_momentum_says_so(make: Make):
    """The cycle moves the lr alone, and the run notes that."""
    run = fit(make("adagrad", val=False), total_steps=3, max_lr=0.01, progress=False)
    assert run.notes == ("Adagrad has no momentum: the cycle moves the learning rate alone.",)
    assert "momentum" not in run.history


def test_the_users_momentum_comes_back_on_request(make: Make):
    """After training it is that of the cycle's end until restore_momentum."""
    work = make(val=False)
    run = fit(work, total_steps=4, max_lr=0.01, progress=False)
    assert work.optimizer.param_groups[0]["momentum"] == 0.95
    run.scheduler.restore_momentum()
    assert work.optimizer.param_groups[0]["momentum"] == 0.9


def test_a_second_fit_goes_on_from_the_first(make: Make):
    """The same workload can be trained again, from where it is."""
    work = make(val=False)
    fit(work, total_steps=12, max_lr=0.05, progress=False)
    weights = copy.deepcopy(work.model.state_dict())
    second = fit(work, total_steps=12, max_lr=0.05, progress=False)
    assert second.history["lr"] == OneCycle(0.05, 12).lrs().tolist()
    assert not torch.equal(weights["outer.weight"], work.model.outer.weight)


def test_what_is_shown(make: Make, capsys: pytest.CaptureFixture[str]):
    """A line per epoch with lr, losses and metrics; nothing at all with progress=False."""
    fit(make(), epochs=2, max_lr=0.01, progress=False)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    run = fit(make(), epochs=2, max_lr=0.01)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2  step 12/12  lr 4e-08  train loss ")
    assert lines[1].endswith(
        f"val loss {run.validation['val_loss']:.4f}  val accuracy {run.validation['val_accuracy']:.4f}"
    )


BAD: list[tuple[dict[str, Any], str]] = [
    ({"epochs": None}, r"fit takes either epochs or total_steps; got epochs=None, total_steps=None"),
    ({"total_steps": 4}, r"fit takes either epochs or total_steps; got epochs=1, total_steps=4"),
    ({"epochs": 0}, r"epochs must be a whole number of at least 1; got 0"),
    ({"epochs": 1.5}, r"epochs must be a whole number of at least 1; got 1.5"),
    ({"epochs": True}, r"epochs must be a whole number of at least 1; got True"),
    ({"epochs": None, "total_steps": -3}, r"total_steps must be a whole number of at least 1; got -3"),
    ({"max_lr": math.nan}, r"max_lr must be above 0 and finite.*got nan"),
    ({"max_lr": 0}, r"max_lr must be above 0 and finite.*got 0"),
    ({"max_lr": "best"}, r"max_lr must be 'auto', 'refine', a number.*got 'best'"),
    ({"max_lr": [0.1, 0.2]}, r"max_lr must have the same length as optimizer.param_groups.*2 values for 1 groups"),
    ({"resume": "yes"}, r"resume must be 'never', 'auto' or 'extend'; got 'yes'"),
    ({"resume": "auto"}, r"resume='auto' needs the folder of the run; got out_dir=None"),
    ({"on_divergence": "heal"}, r"on_divergence must be 'stop', 'retry' or None; got 'heal'"),
    ({"validate_every": 0}, r"validate_every must be a whole number of steps, at least 1, or None; got 0"),
    ({"checkpoint_every": 2.0}, r"checkpoint_every must be a whole number of steps, at least 1, or None; got 2.0"),
    ({"checkpoint_every": 5}, r"checkpoint_every=5 needs a folder to write to; got out_dir=None"),
    ({"ema_decay": 1.0}, r"ema_decay must be above 0 and below 1; got 1.0"),
    ({"ema_decay": math.nan}, r"ema_decay must be above 0 and below 1; got nan"),
    ({"callbacks": ["print"]}, r"callbacks must be functions of a row; got 'print'"),
    ({"loggers": [SimpleNamespace()]}, r"loggers must be objects with write\(row\) and close\(\); got namespace\(\)"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[str(wrong) for wrong, _ in BAD])
def test_bad_arguments_are_named_before_any_step(wrong: dict[str, Any], message: str, make: Make, same):
    """The message says what was given and what is allowed, and the workload is untouched."""
    work, before = make(), make()
    with pytest.raises(ValueError, match=message):
        fit(work, **{"epochs": 1, "max_lr": 0.1, "progress": False, **wrong})
    assert same(work, before)
    assert "initial_lr" not in work.optimizer.param_groups[0]


def test_validate_every_needs_something_to_validate_on(make: Make):
    """Without a val_loader there is nothing to do every so many steps."""
    with pytest.raises(ValueError, match=r"validate_every=3 needs something to validate on; got a workload without"):
        fit(make(val=False), epochs=1, max_lr=0.1, validate_every=3, progress=False)
