"""Tests of onecycle.auto: what a pick costs, that it leaves no trace, and when there is none."""

from __future__ import annotations

import math
import re
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrfind import LRCurve, Suggestion, Workload
from lrfind.batches import endless
from lrfind.curve import NoSuggestion
from onecycle import OneCycle, OneCycleLR, auto, look, pick_max_lr
from onecycle.auto import pick_with_curve
from onecycle.pilot import Pilot, Validation
from onecycle.search import between


def pick(work, total_steps=200, method="auto", **settings):
    return pick_max_lr(work, total_steps=total_steps, method=method, progress=False, **settings)


def picked(work, total_steps=200, method="auto", cycle=None):
    return pick_with_curve(work, total_steps=total_steps, method=method, cycle=cycle, progress=False)


def answer(found) -> float:
    """Return what the pilots alone say."""
    losses = {pilot.max_lr: math.inf if pilot.failed else pilot.loss for pilot in found.pilots}
    return between(losses, found.pilots[0].start)


def steps_of(optimizer) -> list[int]:
    """Return a list that grows by one with each step of the optimizer."""
    taken: list[int] = []
    optimizer.register_step_post_hook(lambda *_: taken.append(1))
    return taken


def trained(work, scheduler=None, steps=12) -> list[float]:
    """Train, and return the losses: they depend on random numbers, batches, buffers and counters."""
    losses = []
    for group in islice(endless(work.batches(), work.accumulation_steps), steps):
        losses.append(float(work.step(group).loss))
        if scheduler is not None:
            scheduler.step()
    return losses


def told(loss, *, lr=None) -> LRCurve:
    return LRCurve(np.geomspace(1e-6, 10, len(loss)) if lr is None else lr, loss, "range end")


FLAT = told(np.full(60, 2.3))


@pytest.fixture
def without_sweep(monkeypatch):
    """The range test has no answer and costs nothing but the 60 steps it says."""
    monkeypatch.setattr(look, "range_test", lambda *_, **__: FLAT)


# -- no trace ---------------------------------------------------------------------------------------------------

WORKLOADS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "sgd without momentum": {"optimizer": "sgd0", "val": False},
    "adamw": {"optimizer": "adamw"},
    "adamw, tensor lr": {"optimizer": "adamw-tensor-lr", "groups": True},
    "rmsprop": {"optimizer": "rmsprop"},
    "adagrad": {"optimizer": "adagrad", "val": False},
    "accumulation": {"optimizer": "adamw", "accumulation_steps": 2},
    "clipping": {"optimizer": "sgd", "clip_grad_norm": 0.5},
    "without length": {"optimizer": "adamw", "loader": "stream"},
    "own generator": {"optimizer": "sgd", "loader": "generator", "groups": True},
}


def with_and_without(make, same, settings, monkeypatch, *, steps_before=0, scheduler=None, error=None, scaled=False):
    """Train with a pick before and without; an error, if any, comes in the third step of the second pilot."""
    results = []
    for asked in (True, False):
        extra = {"grad_scaler": torch.amp.GradScaler("cpu", init_scale=2.0**100)} if scaled else {}
        work = make(**settings, **extra)
        trained(work, steps=steps_before)
        follows = None if scheduler is None else scheduler(work.optimizer)
        if asked:
            with monkeypatch.context() as patched, nullcontext() if error is None else pytest.raises(error):
                if error is not None:
                    fail_in_a_pilot(patched, error)
                pick(work, 100)
        results.append((trained(work, follows), follows and follows.state_dict(), work))
    (losses, state, work), (plain_losses, plain_state, plain) = results
    assert losses == plain_losses
    assert same(work, plain)
    if state is not None:
        assert {key: value for key, value in state.items() if not callable(value)} == {
            key: value for key, value in plain_state.items() if not callable(value)
        }
    for group, plain_group in zip(work.optimizer.param_groups, plain.optimizer.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in plain_group.items() if k != "params"
        }
    if scaled:
        assert work.grad_scaler.state_dict() == plain.grad_scaler.state_dict()


def fail_in_a_pilot(patched, error: type[BaseException]) -> None:
    run_pilot, step = auto.run_pilot, Workload.step
    pilots: list[int] = []
    steps: list[int] = []

    def counted(work, *arguments, **settings):
        pilots.append(1)
        return run_pilot(work, *arguments, **settings)

    def failing(self, group):
        result = step(self, group)
        steps.extend([1] * (len(pilots) == 2))
        if len(steps) == 3:
            raise error
        return result

    patched.setattr(auto, "run_pilot", counted)
    patched.setattr(Workload, "step", failing)


@pytest.mark.parametrize("name", WORKLOADS)
def test_leaves_no_trace(make, same, monkeypatch, name):
    """Training after a pick equals training without one, to the last bit."""
    with_and_without(make, same, WORKLOADS[name], monkeypatch)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_leaves_no_trace_on_an_error(make, same, monkeypatch, optimizer, error):
    """An error or Ctrl-C in the middle of a pilot goes on outwards, past a workload that is as it was."""
    with_and_without(make, same, {"optimizer": optimizer}, monkeypatch, steps_before=5, error=error)


@pytest.mark.parametrize("kind", [OneCycleLR, torch.optim.lr_scheduler.OneCycleLR])
@pytest.mark.parametrize("error", [None, RuntimeError])
def test_leaves_a_scheduler_alone(make, same, monkeypatch, kind, error):
    """A one-cycle scheduler that holds the optimizer already follows its own cycle after the pick, levels and all."""
    with_and_without(
        make,
        same,
        {"optimizer": "sgd"},
        monkeypatch,
        scheduler=lambda optimizer: kind(optimizer, max_lr=0.3, total_steps=40),
        error=error,
    )


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_leaves_the_grad_scaler_alone(make, same, monkeypatch, error):
    """A grad scaler whose scale is far too high at first has the scale, and skips the steps, that it would have."""
    with_and_without(make, same, {"optimizer": "sgd"}, monkeypatch, error=error, scaled=True)


# -- what it costs ----------------------------------------------------------------------------------------------

LENGTHS = [40, 41, 50, 77, 100, 160, 200, 333, 500, 1000]
CHEAP = {"optimizer": "sgd0", "loader": "list", "val": False}


@pytest.mark.parametrize("total_steps", [1, 7, 16, *LENGTHS])
def test_auto_costs_at_most_a_tenth(make, total_steps):
    """100 steps and a tenth of the run at most, by count of the optimizer's own steps, which ``steps_used`` names."""
    work = make(**CHEAP)
    taken = steps_of(work.optimizer)

    suggestion = pick(work, total_steps)

    assert suggestion.steps_used == len(taken) <= 100 + 0.1 * total_steps
    assert suggestion.low <= suggestion.lr <= suggestion.high


@pytest.mark.parametrize("total_steps", LENGTHS)
def test_refine_costs_at_most_half(make, total_steps):
    """Half of the run at most, by the same count, also where it finds nothing."""
    work = make(**CHEAP)
    taken = steps_of(work.optimizer)
    try:
        suggestion = pick(work, total_steps, "refine")
    except NoSuggestion:
        assert total_steps < 100
    else:
        assert suggestion.steps_used == len(taken)
        assert suggestion.low <= suggestion.lr <= suggestion.high
    assert len(taken) <= 0.5 * total_steps


@pytest.mark.parametrize("left", [0, 8, 15, 16, 40, 41, 100, 588, 2499, 10**6])
@pytest.mark.parametrize("total_steps", [1, 40, 200, 1000, 5000, 10**6])
def test_pilots_fit_into_what_is_left(left, total_steps):
    """However much is left: no pilots, or two to five of at least 8 steps that do not cost more; three only where each
    has 24 steps and is 5 % of the run, more only where each has 50."""
    number, steps = auto._pilots(left, total_steps)

    assert number * steps <= left
    assert number == 0 or (2 <= number <= 5 and steps >= 8)
    assert (number > 0) == (left >= 16)
    assert number < 3 or steps >= max(24, 0.05 * total_steps)
    assert number < 4 or steps >= 50


def test_diverged_pilots_cost_what_they_took(make, monkeypatch):
    """Pilots that break off are counted with the steps they took; pilots below them go on."""
    work = make(**CHEAP)
    steep = told(2.3 - 1.8 / (1 + (1e4 / np.geomspace(1, 1e7, 28)) ** 1.5), lr=np.geomspace(1, 1e7, 28))
    monkeypatch.setattr(look, "range_test", lambda *_, **__: steep)
    taken = steps_of(work.optimizer)

    pick = picked(work, 1000, "refine")

    assert pick.suggestion.steps_used == 28 + len(taken)
    assert sum(pilot.steps for pilot in pick.pilots) == len(taken) < 472
    assert pick.pilots[0].steps < 152
    assert pick.pilots[1].max_lr < pick.pilots[0].max_lr


def scripted(monkeypatch, outcome) -> None:
    """Replace pilots by outcomes: log10 of the peak -> training and validation loss, from 2.0 at the start."""

    def run(work, start, plan, max_lr, bar):
        train, val = outcome(math.log10(max_lr))
        taken = plan.steps if math.isfinite(train) else 5
        fall_z = 9.0 if math.isfinite(train) else -math.inf
        return Pilot(max_lr, taken, 2.0, train, fall_z, 0.0, Validation(val), Validation(2.0))

    monkeypatch.setattr(auto, "run_pilot", run)
    falls = told(2.0 - 1.8 / (1 + (0.03 / np.geomspace(1e-6, 10, 42)) ** 3))
    monkeypatch.setattr(look, "range_test", lambda *_, **__: falls)


def test_pilots_that_diverge_at_once_leave_steps_for_others(make, monkeypatch):
    """What an early end saves pays for further pilots, which go on below; never more than may be spent."""
    scripted(monkeypatch, lambda peak: (math.inf, math.inf) if peak > -3.0 else (0.5, 0.5))

    found = picked(make(**CHEAP), 300)

    assert len(found.pilots) > 3
    assert found.suggestion.steps_used <= 130


def test_a_pilot_that_made_it_worse_sends_the_search_down(make, monkeypatch):
    """The first pilot stays finite but ends above its start: the next peak is lower, not higher."""
    scripted(monkeypatch, lambda peak: (1.0, 1.0))
    run = auto.run_pilot
    monkeypatch.setattr(
        auto,
        "run_pilot",
        lambda *given: replace(run(*given), train_loss=4.0, validation=Validation(4.0), fall_z=-9.0),
    )

    peaks = [pilot.max_lr for pilot in picked(make(**CHEAP), 300).pilots]

    assert peaks[1] < peaks[0]


@pytest.mark.parametrize(
    ("train", "val", "unseen", "lowered"),
    [
        (0.1, 0.2, 0.2, False),  # nothing is left, and data that come next are as good as the validation set
        (0.1, 0.2, 1.0, True),  # wrong labels
        (1.8, 0.2, 0.2, True),  # most of the training loss is left
        (0.1, 1.2, 1.2, True),  # that is learned by heart already; of the validation loss most is left
    ],
)
def test_lowered_for_what_many_epochs_learn_by_heart(make, monkeypatch, train, val, unseen, lowered):
    """In a run of 60 epochs the pick falls where pilots leave something to be learned by heart, and says so; in one of
    6 epochs it does not."""
    scripted(monkeypatch, lambda peak: (train, val + 0.1 * abs(peak + 1.0)))
    run = auto.run_pilot
    asked = []

    def judged(work, start, plan, *more):
        asked.append(plan.unseen)
        return replace(run(work, start, plan, *more), unseen=Validation(unseen) if plan.unseen else None)

    monkeypatch.setattr(auto, "run_pilot", judged)
    work = make(**CHEAP | {"val": True})
    per_epoch = work.steps_per_epoch

    few, many = picked(work, 6 * per_epoch), picked(work, 60 * per_epoch)

    assert set(asked) == {0, per_epoch}  # ten batches would be more than an epoch
    assert ("epochs learn by heart" in many.suggestion.evidence) is lowered
    kind = "validation" if val > train else "training"
    assert (f"% of the {kind} loss" in many.suggestion.evidence) is lowered
    assert "learn by heart" not in few.suggestion.evidence
    best = min(many.pilots, key=lambda pilot: pilot.loss)
    assert (many.suggestion.lr < best.max_lr / 2) is lowered


def test_without_a_validation_set_there_is_nothing_to_compare_with(make, monkeypatch):
    """Then pilots look at no further data: a workload may have no way to evaluate."""
    work = make(**CHEAP)
    monkeypatch.setattr(work, "evaluate", None)

    assert all(pilot.unseen is None for pilot in picked(work, 60 * work.steps_per_epoch).pilots)


def test_looks_at_enough_samples(make):
    """At ten batches, or as many as hold 512 samples, accumulated ones counted, but at no more than an epoch."""
    work = make()
    assert auto._unseen(work, 1000) == math.ceil(512 / work.batch_size) > 10
    assert auto._unseen(work, 7) == 7
    work.accumulation_steps = 4
    assert auto._unseen(work, 1000) == 10
    assert auto._unseen(make(loader="list"), 1000) == 10  # batches of unknown size


# -- what it says -----------------------------------------------------------------------------------------------


def test_says_what_it_rests_on(make):
    """Evidence names the pilots, their peaks and losses, and the sweep; the rule is the method; a range holds the pick;
    each parameter group has its own rate."""
    work = make("adamw", groups=True)

    found = picked(work, 300, "refine")
    suggestion = found.suggestion

    assert suggestion.rule == "refine"
    assert suggestion.evidence.startswith(f"{len(found.pilots)} pilots of {found.pilots[0].steps} steps by validation")
    assert all(f"{pilot.max_lr:.2g}: {pilot.loss:.4g}" in suggestion.evidence for pilot in found.pilots)
    assert f"a range test said {found.curve.suggest().lr:.2g}" in suggestion.evidence
    assert suggestion.warnings == ()
    assert 0 < suggestion.low < suggestion.lr < suggestion.high < math.inf
    assert suggestion.group_lrs == pytest.approx((suggestion.lr * 0.3, suggestion.lr))


def test_by_training_loss_without_validation(make):
    """Without a val_loader the evidence says that it was the training loss."""
    assert "by training loss" in pick(make("adamw", val=False)).evidence


def test_a_group_at_rate_0_stays_there(make):
    """A frozen parameter group has rate 0 in the pick as well."""
    work = make("sgd", groups=True)
    work.optimizer.param_groups[0]["lr"] = 0.0

    suggestion = pick(work)

    assert suggestion.group_lrs == (0.0, suggestion.lr)


@pytest.mark.parametrize("cycle", [OneCycle.smith(None), OneCycle(5.0, three_phase=True), OneCycle([1.0, 2.0], 9)])
def test_pilots_take_the_shape_of_the_cycle_alone(make, cycle):
    """Any cycle will do: its shape counts, neither its peak nor its length."""
    suggestion = pick(make("sgd", groups=True), cycle=cycle)

    assert suggestion.lr not in (1.0, 2.0, 5.0)


def test_shows_bars(make, capsys):
    """One bar for the range test, one for the pilots, unless progress is off."""
    pick_max_lr(make(**CHEAP), total_steps=100)
    assert {"range test", "pilots"} <= {line.split(":")[0] for line in capsys.readouterr().err.split("\r") if line}

    pick(make(**CHEAP), 100)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("optimizer", "usual"), [("sgd", "0.1"), ("adamw", "0.01"), ("rmsprop", "0.001"), ("adagrad", "0.2")]
)
def test_pilots_without_a_range_test(make, without_sweep, monkeypatch, optimizer, usual):
    """Where the sweep has no answer and the best of the pilots is the highest, a warning says where they began."""
    work = make(optimizer)
    sweep = look.range_test
    scripted(monkeypatch, lambda peak: (0.5 - 0.01 * peak, 0.5 - 0.1 * peak))
    monkeypatch.setattr(look, "range_test", sweep)

    found = picked(work, 100)
    suggestion = found.suggestion

    assert found.pilots[0].max_lr == pytest.approx(float(usual))
    [warning] = suggestion.warnings
    began = (
        f"The range test gave no answer; the pilots began at {found.pilots[0].max_lr:.2g}, where {usual} is usual for "
    )
    assert warning.startswith(began + type(work.optimizer).__name__)
    assert "without a range test" in suggestion.evidence


def test_a_stream_that_cannot_be_rewound_is_warned_of(make):
    """Pilots on a generator's batches are no longer paired, and training loses them: the warning says so."""
    work = make("sgd")
    x, y = work.train_loader.dataset.tensors
    rows = ((x[index % 80 :][:8], y[index % 80 :][:8]) for index in range(10_000))
    work.train_loader = rows

    assert any("stream that cannot be rewound" in warning for warning in pick(work).warnings)


@pytest.mark.parametrize("val", [True, False])
def test_every_pilot_diverged(make, monkeypatch, val):
    """Where even the lowest pilot diverges, the pick lies half a decade below it, not at a peak known to fail."""
    work = make(**CHEAP | {"val": val})
    steep = told(2.3 - 1.8 / (1 + (1e8 / np.geomspace(1e4, 1e12, 60)) ** 1.5), lr=np.geomspace(1e4, 1e12, 60))
    monkeypatch.setattr(look, "range_test", lambda *_, **__: steep)

    found = picked(work, 600)
    lowest = min(pilot.max_lr for pilot in found.pilots)

    assert all(pilot.failed for pilot in found.pilots)
    assert found.suggestion.lr == pytest.approx(lowest / 10**0.5)
    assert found.suggestion.low <= found.suggestion.lr < found.suggestion.high == lowest
    assert found.suggestion.group_lrs == pytest.approx((found.suggestion.lr,))
    assert (
        "Every pilot diverged, made the loss worse or wrecked the model, from a peak of"
        in found.suggestion.warnings[-1]
    )
    assert found.suggestion.evidence.endswith("failed")


def test_every_pilot_made_it_worse(make, monkeypatch):
    """Pilots that stay finite, but end above where they began, have failed as well."""
    work = make(**CHEAP)
    monkeypatch.setattr(look, "range_test", lambda *_, **__: told(2.3 - np.linspace(0, 1, 60)))
    worse = Pilot(1.0, 8, first_loss=2.3, train_loss=4.0, fall_z=-9.0, rise_z=20.0)
    monkeypatch.setattr(auto, "run_pilot", lambda _1, _2, _3, max_lr, _4: replace(worse, max_lr=max_lr))

    found = picked(work, 600)

    assert found.suggestion.lr < min(pilot.max_lr for pilot in found.pilots)


# -- when there is nothing to say -------------------------------------------------------------------------------


class Frozen(nn.Module):
    """A model whose outputs do not depend on its one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] + 0 * self.weight


@pytest.mark.parametrize("batch", [16, 90])
@pytest.mark.parametrize("method", ["auto", "refine"])
@pytest.mark.parametrize("val", [True, False])
def test_nothing_can_learn(make, method, val, batch):
    """A loss that no weight moves, with noise between batches or without: no suggestion, and both reasons."""
    work = make(val=val)
    model = Frozen()
    loader = DataLoader(work.train_loader.dataset, batch, shuffle=True)
    frozen = Workload(
        model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), loader, work.val_loader
    )

    with pytest.raises(NoSuggestion, match=r"The loss never fell.* Then \d pilots tried peaks from .* None of them"):
        pick(frozen, 500, method)


def test_nothing_but_divergence(make, without_sweep):
    """A loss that is no number, whatever the peak: no suggestion, and the reason says that all pilots diverged."""
    work = make(**CHEAP)
    work.criterion = lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) * math.nan

    with pytest.raises(NoSuggestion, match="All of them diverged"):
        pick(work)


def test_too_short_to_tell(make, monkeypatch):
    """With no step left for pilots, the answer is the range test's: its suggestion, or its refusal."""
    work = make(**CHEAP)
    monkeypatch.setattr(look, "range_test", lambda *_, **__: told(np.full(12, 2.3)))
    with pytest.raises(NoSuggestion, match="The loss never fell"):
        pick(work, 40, "refine")

    falls = told(2.3 - 1.8 / (1 + (0.01 / np.geomspace(1e-6, 10, 12)) ** 3))
    monkeypatch.setattr(look, "range_test", lambda *_, **__: falls)
    suggestion = pick(work, 40, "refine")
    assert suggestion == Suggestion(**{**vars(falls.suggest()), "steps_used": 12})


@pytest.mark.parametrize(
    ("total_steps", "method", "message"),
    [
        (39, "refine", r"needs 20 steps for that; got total_steps=39\. Use 'auto', or train longer"),
        (0, "auto", "at least 1; got 0"),
        (-5, "refine", "at least 1; got -5"),
        (10.0, "auto", "at least 1; got 10.0"),
        (True, "auto", "at least 1; got True"),
        (100, "best", "method must be 'auto' or 'refine'; got 'best'"),
    ],
)
def test_refuses(make, total_steps, method, message):
    """A method that is none, and lengths too short, are refused before any step."""
    work = make(**CHEAP)
    taken = steps_of(work.optimizer)

    with pytest.raises(ValueError, match=message):
        pick(work, total_steps, method)

    assert taken == []


# -- wrong labels -----------------------------------------------------------------------------------------------


def digits(flip: float, samples: int, total_steps: int, seed: int) -> tuple[Workload, int]:
    """Return a perceptron on so many of scikit-learn's digits, a share of whose training labels is wrong."""
    from sklearn.datasets import load_digits

    data = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.target), generator=generator)
    x = torch.tensor(data.data / 16 - 0.3, dtype=torch.float32)[order]
    y = torch.tensor(data.target)[order]
    wrong = torch.rand(samples, generator=generator) < flip
    labels = torch.where(wrong, torch.randint(0, 10, (samples,), generator=generator), y[:samples])
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    work = Workload(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-3),
        nn.CrossEntropyLoss(),
        DataLoader(TensorDataset(x[:samples], labels), 32, shuffle=True),
        DataLoader(TensorDataset(x[1000:], y[1000:]), 400),
    )
    return work, total_steps


@pytest.mark.parametrize("method", ["auto", "refine"])
@pytest.mark.parametrize("seed", [0, 1])
def test_wrong_labels_lower_the_pick(monkeypatch, method, seed):
    """300 digits, half with a label drawn anew, for 80 epochs: the pick is far lower than the best of its pilots, and
    the evidence says why."""
    found = picked(*digits(0.5, 300, 800, seed), method)
    best = min(found.pilots, key=lambda pilot: pilot.loss)

    assert found.suggestion.lr < best.max_lr / 5
    assert re.search(
        r"lowered from .*, for what 8\d epochs learn by heart \(.* on data that come", found.suggestion.evidence
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_right_labels_do_not(seed):
    """Of 1000 digits with their own labels, for 10 epochs, nothing is learned by heart, and nothing is lowered."""
    found = picked(*digits(0.0, 1000, 320, seed), "refine")

    assert found.suggestion.lr == pytest.approx(answer(found))
    assert "lowered" not in found.suggestion.evidence
