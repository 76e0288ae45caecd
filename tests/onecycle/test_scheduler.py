"""Tests of onecycle.scheduler: the cycle on an optimizer, against torch's own scheduler."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle
import random
import warnings
from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import OneCycleLR as TorchOneCycleLR

from lrfind.groups import get_lr, get_momentum
from onecycle import OneCycle, OneCycleLR

OPTIMIZERS = {
    "SGD": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9, foreach=False),
    "Adam": lambda params, lr: torch.optim.Adam(params, lr=lr, foreach=False),
    "AdamW": lambda params, lr: torch.optim.AdamW(params, lr=lr, foreach=False),
    "RMSprop": lambda params, lr: torch.optim.RMSprop(params, lr=lr, foreach=False),
    "Adagrad": lambda params, lr: torch.optim.Adagrad(params, lr=lr, foreach=False),
}


def make_optimizer(name: str = "SGD", lrs: tuple[float, ...] = (0.1,), tensor_lr: bool = False, **settings):
    """An optimizer with one parameter group per lr, each of one weight of ones."""
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(2))], "lr": torch.tensor(lr) if tensor_lr else lr} for lr in lrs
    ]
    if settings:
        return getattr(torch.optim, name)(groups, **settings)
    return OPTIMIZERS[name](groups, 1.0)


def in_use(optimizer: torch.optim.Optimizer) -> list[tuple[float, float | None]]:
    """(lr, momentum) of each parameter group."""
    return [(get_lr(group), get_momentum(group)) for group in optimizer.param_groups]


def weights(optimizer: torch.optim.Optimizer) -> list[list[float]]:
    return [parameter.tolist() for group in optimizer.param_groups for parameter in group["params"]]


def train(scheduler: lr_scheduler.LRScheduler, steps: int = 1) -> list[list[tuple[float, float | None]]]:
    """Take steps on a fixed quadratic loss; return what was in use in each."""
    optimizer, used = scheduler.optimizer, []
    for _ in range(steps):
        used.append(in_use(optimizer))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = parameter.detach() * torch.tensor([1.0, 0.3])
        optimizer.step()
        scheduler.step()
    return used


def saved(state: dict) -> dict:
    """``state`` after torch.save and a weights_only torch.load."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ---------------------------------------------------------------------------------------- equal to torch


def test_is_a_drop_in_for_torchs():
    """Same class, same argument names, order and defaults: a change of the import line is enough."""
    mine, torchs = (
        [
            (parameter.name, parameter.default, parameter.kind)
            for parameter in inspect.signature(cls).parameters.values()
        ]
        for cls in (OneCycleLR, TorchOneCycleLR)
    )

    assert mine == torchs
    assert issubclass(OneCycleLR, TorchOneCycleLR)


def random_settings(rng: random.Random, total_steps: int, cycle_momentum: bool) -> dict:
    three_phase = rng.random() < 0.5
    whole_share = rng.randint(0, total_steps) / total_steps
    pct_start = rng.choice([0.3, rng.random(), whole_share, 0.0, 1.0])
    if three_phase:
        pct_start = pct_start / 2.001
    base, top = sorted((rng.random(), rng.random()))
    return {
        "max_lr": rng.choice([0.5, [10 ** rng.uniform(-6, 1), 10 ** rng.uniform(-6, 1)]]),
        "total_steps": total_steps,
        "pct_start": pct_start,
        "anneal_strategy": rng.choice(["cos", "linear"]),
        "cycle_momentum": cycle_momentum and rng.random() < 0.8,
        "base_momentum": rng.choice([0.85, [base, 0.5]]),
        "max_momentum": rng.choice([0.95, [top, 0.9]]),
        "div_factor": rng.choice([25.0, 10 ** rng.uniform(-1, 3)]),
        "final_div_factor": rng.choice([1e4, 10 ** rng.uniform(-1, 6)]),
        "three_phase": three_phase,
    }


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_torch_at_every_step_of_every_setting(name, tensor_lr):
    """lr and momentum of both groups are torch's bit for bit: 150 settings each, all lengths 1 .. 300, 1,500 in all."""
    rng = random.Random(f"{name} {tensor_lr}")
    compared = 0
    for index in range(150):
        total_steps = 1 + (2 * index + tensor_lr) % 300
        settings = random_settings(rng, total_steps, cycle_momentum=name != "Adagrad")
        mine, torchs = (make_optimizer(name, (0.1, 0.01), tensor_lr) for _ in range(2))
        scheduler = OneCycleLR(mine, **settings)
        try:
            reference = TorchOneCycleLR(torchs, **settings)
        except ZeroDivisionError:
            continue
        mine.step()
        torchs.step()
        for _ in range(total_steps - 1):
            assert in_use(mine) == in_use(torchs), settings
            scheduler.step()
            reference.step()
        assert in_use(mine) == in_use(torchs), settings
        assert scheduler.get_last_lr() == reference.get_last_lr()
        compared += 1
    assert compared >= 140


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_trains_the_same_weights_as_torch(name):
    """A whole run ends at the same weights, bit for bit."""
    settings = {"max_lr": 0.1, "total_steps": 30, "cycle_momentum": name != "Adagrad"}
    mine, torchs = make_optimizer(name), make_optimizer(name)

    train(OneCycleLR(mine, **settings), 30)
    train(TorchOneCycleLR(torchs, **settings), 30)

    assert weights(mine) == weights(torchs)


# ------------------------------------------------------- the cases of PyTorch's own tests, in our words


UP_AND_DOWN = ([1, 13, 25, 21.5, 18, 14.5, 11, 7.5, 4, 0.5], [22, 11.5, 1, 4, 7, 10, 13, 16, 19, 22])
THREE_PHASES = ([1, 9, 17, 25, 17, 9, 1, 0.75, 0.5, 0.25], [22, 15, 8, 1, 8, 15, 22, 22, 22, 22])


def half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


COSINES = (
    [1, 13, *(half_cosine(25, 0.5, step / 7) for step in range(8))],
    [22, 11.5, *(half_cosine(1, 22, step / 7) for step in range(8))],
)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"anneal_strategy": "linear", "final_div_factor": 2}, UP_AND_DOWN),
        ({"anneal_strategy": "linear", "final_div_factor": 4, "three_phase": True, "pct_start": 0.4}, THREE_PHASES),
        ({"final_div_factor": 2}, COSINES),
    ],
)
def test_hand_worked_cycles(name, settings, expected):
    """lr and momentum of ten steps worked out by hand, for a float and a tensor lr in one optimizer."""
    lrs = (0.05, torch.tensor(0.5, dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in lrs], 0.05)
    scheduler = OneCycleLR(optimizer, max_lr=25, total_steps=10, base_momentum=1, max_momentum=22, **settings)

    for lr, momentum in zip(*expected, strict=True):
        assert in_use(optimizer) == [pytest.approx((lr, momentum), abs=1e-12)] * 2
        optimizer.step()  # without a gradient, since 22 is no momentum to train with
        scheduler.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anneal_strategy": "CATS"}, "anneal_strategy must be 'cos' or 'linear'; got 'CATS'"),
        ({"pct_start": 1.1}, r"pct_start must be in 0 \.\. 1"),
        ({"total_steps": None}, "total_steps is not set. Give total_steps, or epochs and steps_per_epoch"),
        ({"total_steps": None, "epochs": 3}, "epochs and steps_per_epoch go together"),
        ({"total_steps": 0}, "total_steps must be a whole number, at least 1; got 0"),
        ({"three_phase": True, "pct_start": 0.5}, "three_phase needs pct_start below 0.5"),
        ({"max_lr": [0.1, 0.2]}, r"max_lr must have the same length as optimizer.param_groups.*got 2 values for 1"),
        ({"max_momentum": [0.9, 0.9]}, r"max_momentum must have the same length.*got 2 values for 1 groups"),
        ({"base_momentum": math.nan}, r"must be finite and at least 0; got base_momentum=\[nan\]"),
        ({"max_lr": math.nan}, "max_lr must be above 0 and finite"),
        ({"max_lr": None}, "max_lr is None. Give max_lr"),
    ],
)
def test_bad_arguments_are_refused_and_change_nothing(settings, message):
    """The error comes before the optimizer is touched."""
    optimizer = make_optimizer()
    before = copy.deepcopy(optimizer.param_groups)

    with pytest.raises(ValueError, match=message):
        OneCycleLR(optimizer, **{"max_lr": 0.1, "total_steps": 10, **settings})

    assert [group.keys() for group in optimizer.param_groups] == [group.keys() for group in before]
    assert in_use(optimizer) == [(0.1, 0.9)]


def test_only_an_optimizer_has_a_schedule():
    """Anything else is a TypeError, as in torch."""
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer; got Linear"):
        OneCycleLR(torch.nn.Linear(1, 1), max_lr=0.1, total_steps=10)


def test_total_steps_counts_before_epochs():
    """As in torch, epochs and steps_per_epoch are looked at only without total_steps."""
    assert OneCycleLR(make_optimizer(), 0.1, total_steps=10, epochs=3).total_steps == 10
    assert OneCycleLR(make_optimizer(), 0.1, epochs=3, steps_per_epoch=4).total_steps == 12


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_state_survives_a_file(tensor_lr):
    """It loads with weights_only=True, equal, and gives a second scheduler the same state."""
    optimizer = make_optimizer("Adam", (0.1, 0.2), tensor_lr)
    first = OneCycleLR(optimizer, max_lr=0.01, total_steps=10, anneal_strategy="linear")
    train(first, 3)
    state = saved(first.state_dict())

    second = OneCycleLR(make_optimizer("Adam", (0.1, 0.2), tensor_lr), max_lr=0.01, total_steps=10)
    second.load_state_dict(state)

    assert state == first.state_dict() == second.state_dict()


@pytest.mark.parametrize(("strategy", "function"), [("cos", "_annealing_cos"), ("linear", "_annealing_linear")])
def test_state_of_an_old_torch_loads(strategy, function):
    """Before 2.4 torch saved the annealing function in place of its name."""
    state = TorchOneCycleLR(make_optimizer(), max_lr=0.5, total_steps=10).state_dict()
    del state["_anneal_func_type"]
    scheduler = OneCycleLR(make_optimizer(), max_lr=0.5, total_steps=10)
    scheduler.load_state_dict({**state, "anneal_func": getattr(TorchOneCycleLR, function)})

    lrs = [used[0][0] for used in train(scheduler, 10)]

    # Not the first: that lr was set before loading, and torch's state does not set it anew.
    assert lrs[1:] == OneCycle(0.5, 10, anneal_strategy=strategy).lrs().tolist()[1:]


def test_levels_do_not_follow_the_tensors_they_were_given_as():
    """max_lr and momentum given as tensors that change later leave the cycle as it was."""
    lr, base, top = torch.tensor(0.1), torch.tensor(0.85), torch.tensor(0.95)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=lr)
    scheduler = OneCycleLR(optimizer, max_lr=lr, total_steps=10, base_momentum=base, max_momentum=top)
    levels = {key: optimizer.param_groups[0][key] for key in ("initial_lr", "max_lr", "min_lr", "max_momentum")}

    for tensor in (base, top, lr):
        tensor.mul_(0.5)
    train(scheduler, 2)

    assert {key: optimizer.param_groups[0][key] for key in levels} == levels
    assert levels["max_momentum"] == pytest.approx(0.95)
    assert get_momentum(optimizer.param_groups[0]) == pytest.approx(0.85)


def test_last_epoch_resumes_from_a_loaded_optimizer():
    """last_epoch=k goes on after k steps from the levels in the optimizer, as torch does."""
    first = OneCycleLR(make_optimizer("AdamW"), max_lr=0.01, total_steps=10)
    rest = train(first, 10)[4:]
    again = OneCycleLR(make_optimizer("AdamW"), max_lr=0.01, total_steps=10)
    train(again, 4)
    optimizer = make_optimizer("AdamW")
    optimizer.load_state_dict(again.optimizer.state_dict())

    assert train(OneCycleLR(optimizer, max_lr=0.01, total_steps=10, last_epoch=3), 6) == rest


@pytest.mark.parametrize("dim", [0, 1, 3])
def test_a_tensor_lr_of_any_shape_stays_that_tensor(dim):
    """A tensor lr of one element is filled in place, whatever its number of dimensions."""
    lr = torch.tensor(0.01).reshape([1] * dim)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=lr, foreach=False)
    scheduler = OneCycleLR(optimizer, max_lr=0.5, total_steps=10)
    train(scheduler, 2)

    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.5


# ---------------------------------------------------------------------------- right where torch is not


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_holds_the_minimum_past_the_end(strategy):
    """T steps are silent, the next one warns once, and lr and momentum never move again."""
    optimizer = make_optimizer()
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=10, anneal_strategy=strategy)
    last = train(scheduler, 10)[-1]

    with pytest.warns(UserWarning, match=r"total_steps=10 has ended.*larger total_steps") as caught:
        scheduler.step()
    assert caught[0].filename == __file__
    after = train(scheduler, 5)

    assert after == [last] * 5
    assert last[0][0] == pytest.approx(4e-6, abs=1e-15)


@pytest.mark.parametrize(("total_steps", "pct_start"), [(10, 0.1), (2, 0.5), (1, 1.0), (10, 1.0), (10, 1), (10, 0)])
def test_degenerate_phases_run(total_steps, pct_start):
    """Warm-ups without width, all of the run, and whole-number shares: torch refuses each or divides by zero."""
    scheduler = OneCycleLR(make_optimizer(), max_lr=1.0, total_steps=total_steps, pct_start=pct_start)
    cycle = OneCycle(1.0, total_steps, pct_start=pct_start)

    lrs = [used[0][0] for used in train(scheduler, total_steps)]

    assert lrs == cycle.lrs().tolist()
    assert in_use(scheduler.optimizer)[0][0] == cycle.min_lr


def test_one_max_lr_flattens_the_groups_as_torch_does():
    """The constructor is torch's: a scalar goes to every group."""
    optimizer = make_optimizer(lrs=(1e-4, 1e-2))
    OneCycleLR(optimizer, max_lr=0.5, total_steps=10)

    assert [group["max_lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_scheduler_keeps_the_ratios_of_the_groups():
    """OneCycle.scheduler gives max_lr to the largest group and keeps the ratio at every step."""
    scheduler = OneCycle(0.5, 20).scheduler(make_optimizer(lrs=(1e-4, 1e-2, 0.0)))

    for (small, _), (large, _), (none, _) in train(scheduler, 20):
        assert small == pytest.approx(large / 100)
        assert none == 0
    assert [group["max_lr"] for group in scheduler.optimizer.param_groups] == pytest.approx([5e-3, 0.5, 0])


def test_a_list_of_peaks_goes_group_by_group():
    """Each group follows its own peak and momentum of the cycle."""
    cycle = OneCycle([0.5, 0.1], 20, base_momentum=[0.8, 0.7])
    used = train(cycle.scheduler(make_optimizer(lrs=(0.1, 0.1))), 20)

    for group in (0, 1):
        assert [step[group] for step in used] == [(cycle.lr(i, group), cycle.momentum(i, group)) for i in range(20)]


@pytest.mark.parametrize(
    "cycle",
    [OneCycle(0.5, 25), OneCycle.smith(0.5, 25), OneCycle.fastai(0.5, 25), OneCycle(0.5, 8, pct_flat=0.9, pct_start=0)],
)
def test_scheduler_follows_every_cycle(cycle):
    """What was planned without a model is what the optimizer gets, Smith's flat end included."""
    scheduler = cycle.scheduler(make_optimizer())

    used = train(scheduler, cycle.total_steps)

    assert [step[0] for step in used] == list(zip(cycle.lrs(), cycle.momentums(), strict=True))
    assert in_use(scheduler.optimizer)[0][0] == cycle.min_lr


def test_a_shape_has_no_scheduler():
    """The error says what is missing, total_steps or max_lr."""
    with pytest.raises(ValueError, match="total_steps is not set"):
        OneCycle(0.5).scheduler(make_optimizer())
    with pytest.raises(ValueError, match="max_lr is None"):
        OneCycle(None, 10).scheduler(make_optimizer())


def test_groups_that_share_a_tensor_lr_get_their_own_peaks():
    """torch hands one tensor to all groups, so that the last group's lr would be everyone's."""
    lr = torch.tensor(0.1, dtype=torch.float64)
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))]} for _ in range(2)]
    optimizer = torch.optim.SGD(groups, lr=lr, foreach=False)
    OneCycleLR(optimizer, max_lr=[25.0, 50.0], total_steps=10)

    assert [get_lr(group) for group in optimizer.param_groups] == [1.0, 2.0]
    assert optimizer.param_groups[0]["lr"] is lr


# ---------------------------------------------------------------------------------------------- momentum


def test_no_momentum_to_cycle_is_an_error_with_the_remedy():
    """Adagrad under torch's default cycle_momentum=True: torch's words and what to do."""
    with pytest.raises(
        ValueError, match=r"must support momentum or beta1.*Adagrad has neither. Use cycle_momentum=Fal"
    ):
        OneCycleLR(make_optimizer("Adagrad"), max_lr=0.1, total_steps=10)


def test_cycle_without_momentum_to_cycle_says_so():
    """OneCycle.scheduler cycles Adagrad's lr alone and warns; cycle_momentum=False is silent."""
    cycle = OneCycle(0.1, 10)
    with pytest.warns(UserWarning, match="Adagrad has no momentum to cycle: only the learning rate is") as caught:
        scheduler = cycle.scheduler(make_optimizer("Adagrad"))
    assert caught[0].filename == __file__

    assert [used[0][0] for used in train(scheduler, 10)] == cycle.lrs().tolist()
    OneCycle(0.1, 10, cycle_momentum=False).scheduler(make_optimizer("Adagrad"))


def test_warm_rmsprop_trains_on():
    """RMSprop stepped at momentum 0 before the cycle: torch's ends in a KeyError at the next step."""
    optimizer = make_optimizer("RMSprop")
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()

    used = train(OneCycleLR(optimizer, max_lr=0.1, total_steps=10), 10)

    assert [step[0][1] for step in used] == OneCycle(0.1, 10).momentums().tolist()
    assert torch.isfinite(optimizer.param_groups[0]["params"][0]).all()


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, "momentum"),
        ("SGD", {"lr": 0.1}, "momentum"),
        ("RMSprop", {"lr": 0.1, "momentum": 0.2}, "momentum"),
        ("Adam", {"lr": 0.1, "betas": (0.5, 0.99)}, "betas"),
        ("NAdam", {"lr": 0.1}, "betas"),
    ],
)
def test_the_users_momentum_comes_back_on_request(name, settings, key):
    """After training restore_momentum() gives each group what it had, and leaves no trace of having kept it."""
    optimizer = make_optimizer(name, **settings)
    before = optimizer.param_groups[0][key]
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    train(scheduler, 10)
    assert optimizer.param_groups[0][key] != before

    scheduler.restore_momentum()

    assert optimizer.param_groups[0][key] == before
    assert "own_momentum" not in optimizer.param_groups[0]


def test_the_users_momentum_survives_resume_and_a_second_cycle():
    """It is the momentum from before the first cycle, whichever scheduler or process gives it back."""
    first = OneCycleLR(make_optimizer(), max_lr=0.1, total_steps=10)
    train(first, 4)
    optimizer = make_optimizer()
    optimizer.load_state_dict(saved(first.optimizer.state_dict()))

    resumed = OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    resumed.load_state_dict(saved(first.state_dict()))
    train(resumed, 6)
    second = OneCycle(0.1, 10).scheduler(optimizer)
    second.restore_momentum()

    assert get_momentum(optimizer.param_groups[0]) == 0.9


def test_tensor_betas_stay_tensors():
    """Tensor betas (a compiled Adam) are filled in place."""
    first = torch.tensor(0.9)
    optimizer = make_optimizer("Adam", lr=0.1, betas=(first, torch.tensor(0.999)), foreach=False)
    train(OneCycleLR(optimizer, max_lr=0.1, total_steps=10), 2)

    assert optimizer.param_groups[0]["betas"][0] is first
    assert first.item() == pytest.approx(0.85)


def test_groups_without_momentum_are_left_alone():
    """An optimizer that mixes groups with momentum, with betas and with neither: each gets what it has."""
    optimizer = make_optimizer(lrs=(0.1, 0.1, 0.1))
    optimizer.param_groups[1]["betas"] = (0.9, 0.99)
    del optimizer.param_groups[2]["momentum"]

    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=10)

    assert [momentum for _, momentum in in_use(optimizer)] == [0.95, 0.95, None]
    scheduler.restore_momentum()
    assert [momentum for _, momentum in in_use(optimizer)] == [0.9, 0.9, None]


# ------------------------------------------------------------------------- groups added in mid-cycle


def new_group(**settings) -> dict:
    return {"params": [torch.nn.Parameter(torch.ones(2))], **settings}


@pytest.mark.parametrize("settings", [{"lr": 0.02}, {"lr": 0.7, "max_lr": 0.02}])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_an_added_group_joins_with_its_own_peak(name, settings):
    """Added to the optimizer, it is on the cycle from the next scheduler step, momentum too; torch: KeyError."""
    scheduler = OneCycleLR(make_optimizer(name), max_lr=0.1, total_steps=20)
    train(scheduler, 8)
    scheduler.optimizer.add_param_group(new_group(**settings))
    train(scheduler, 1)
    cycle = OneCycle(0.02, 20)

    used = [step[1] for step in train(scheduler, 11)]

    assert used == [(cycle.lr(step), cycle.momentum(step)) for step in range(9, 20)]


def test_a_group_added_through_the_scheduler_joins_at_once():
    """Not one optimizer step is taken at the peak that its lr stands for."""
    scheduler = OneCycleLR(make_optimizer("Adam"), max_lr=0.1, total_steps=20)
    train(scheduler, 15)

    scheduler.add_param_group(new_group(lr=0.02))

    cycle = OneCycle(0.02, 20)
    assert in_use(scheduler.optimizer)[1] == (cycle.lr(15), cycle.momentum(15))
    assert scheduler.get_last_lr() == [lr for lr, _ in in_use(scheduler.optimizer)]
    assert len(scheduler.base_lrs) == 2


def test_an_added_group_with_the_optimizers_tensor_lr_has_its_peak():
    """The default tensor lr has been filled by the cycle, so it says nothing: the peak is that of the others."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(0.1), foreach=False)
    scheduler = OneCycleLR(optimizer, max_lr=0.5, total_steps=20)
    train(scheduler, 8)

    scheduler.add_param_group(new_group())

    assert optimizer.param_groups[1]["max_lr"] == 0.5
    assert optimizer.param_groups[1]["lr"] is not optimizer.param_groups[0]["lr"]


# ------------------------------------------------------------------------------------------------ resume


Resume = Callable[[str, bool, dict, dict], OneCycleLR]


def load_after_building(name, tensor_lr, optimizer_state, state):
    optimizer = make_optimizer(name, tensor_lr=tensor_lr)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    optimizer.load_state_dict(optimizer_state)
    scheduler.load_state_dict(state)
    return scheduler


def load_before_building(name, tensor_lr, optimizer_state, state):
    optimizer = make_optimizer(name, tensor_lr=tensor_lr)
    optimizer.load_state_dict(optimizer_state)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    scheduler.load_state_dict(state)
    return scheduler


def load_the_scheduler_first(name, tensor_lr, optimizer_state, state):
    optimizer = make_optimizer(name, tensor_lr=tensor_lr)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    scheduler.load_state_dict(state)
    optimizer.load_state_dict(optimizer_state)
    return scheduler


@pytest.mark.parametrize("resume", [load_after_building, load_before_building, load_the_scheduler_first])
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop"])
def test_resume_at_every_step_is_exact(name, tensor_lr, resume: Resume):
    """Stopped after any k of 20 steps and loaded in any order: lr, momentum and weights as if never stopped."""
    whole = OneCycleLR(make_optimizer(name, tensor_lr=tensor_lr), max_lr=0.1, total_steps=20)
    used = train(whole, 20)

    for stop in range(20):
        first = OneCycleLR(make_optimizer(name, tensor_lr=tensor_lr), max_lr=0.1, total_steps=20)
        train(first, stop)
        resumed = resume(name, tensor_lr, saved(first.optimizer.state_dict()), saved(first.state_dict()))
        for mine, theirs in zip(resumed.optimizer.param_groups, first.optimizer.param_groups, strict=True):
            mine["params"][0].data.copy_(theirs["params"][0].data)

        assert resumed.get_last_lr() == first.get_last_lr()
        assert train(resumed, 20 - stop) == used[stop:]
        assert weights(resumed.optimizer) == weights(whole.optimizer)


def test_the_state_alone_sets_the_optimizer():
    """An optimizer whose own state was not loaded still has lr, momentum and levels of the step."""
    first = OneCycleLR(make_optimizer("Adam"), max_lr=0.1, total_steps=20)
    train(first, 7)

    second = OneCycleLR(make_optimizer("Adam"), max_lr=0.1, total_steps=20)
    second.load_state_dict(first.state_dict())

    assert in_use(second.optimizer) == in_use(first.optimizer)
    assert train(second, 5) == train(first, 5)


def test_ratios_of_a_loaded_optimizer_resume_exactly():
    """Peaks that OneCycle.scheduler works out from lrs in mid-cycle are off by rounding; loading mends it, silently."""
    cycle = OneCycle(0.1, 20)
    first = cycle.scheduler(make_optimizer(lrs=(0.1, 0.03, 0.007)))
    train(first, 7)
    optimizer = make_optimizer(lrs=(0.1, 0.03, 0.007))
    optimizer.load_state_dict(saved(first.optimizer.state_dict()))

    second = cycle.scheduler(optimizer)
    assert optimizer.param_groups[1]["max_lr"] != first.optimizer.param_groups[1]["max_lr"]
    second.load_state_dict(saved(first.state_dict()))

    assert train(second, 13) == train(first, 13)


@pytest.mark.parametrize("order", ["group first", "group last"])
def test_a_run_with_an_added_group_resumes(order):
    """The group is added again before loading, to the optimizer or through the scheduler; the cycle goes on exactly."""
    first = OneCycleLR(make_optimizer(), max_lr=0.1, total_steps=20)
    train(first, 5)
    first.add_param_group(new_group(lr=0.02))
    train(first, 5)

    optimizer = make_optimizer()
    if order == "group first":
        optimizer.add_param_group(new_group())
    second = OneCycleLR(optimizer, max_lr=[0.1, 0.02] if order == "group first" else 0.1, total_steps=20)
    if order == "group last":
        optimizer.add_param_group(new_group())
    second.load_state_dict(saved(first.state_dict()))

    assert train(second, 10) == train(first, 10)


def test_a_state_of_more_groups_is_refused():
    """The error says how many there are, and nothing has been changed."""
    state = OneCycleLR(make_optimizer(lrs=(0.1, 0.2)), max_lr=0.1, total_steps=20).state_dict()
    scheduler = OneCycleLR(make_optimizer(), max_lr=0.3, total_steps=10)

    with pytest.raises(ValueError, match=r"at most as many parameter groups.*got 2, and 1 in the optimizer. Add those"):
        scheduler.load_state_dict(state)

    assert scheduler.total_steps == 10


@pytest.mark.parametrize("settings", [{"total_steps": 30}, {"max_lr": 0.2}])
def test_a_state_of_another_schedule_is_followed_with_a_warning(settings):
    """As in torch the loaded schedule counts; that it is another than asked for is said."""
    state = OneCycleLR(make_optimizer(), **{"max_lr": 0.1, "total_steps": 20, **settings}).state_dict()
    scheduler = OneCycleLR(make_optimizer(), max_lr=0.1, total_steps=20)

    with pytest.warns(UserWarning, match=r"is another: total_steps=.* instead of total_steps=20, max_lr=\[0\.1\]"):
        scheduler.load_state_dict(state)

    assert [scheduler.total_steps, scheduler.optimizer.param_groups[0]["max_lr"]] == [
        settings.get("total_steps", 20),
        settings.get("max_lr", 0.1),
    ]


def test_a_state_is_a_copy():
    """Neither what its scheduler does later nor what one that loaded it does changes a state that was taken."""
    scheduler = OneCycleLR(make_optimizer(tensor_lr=True), max_lr=0.1, total_steps=20)
    train(scheduler, 3)
    state = scheduler.state_dict()
    kept = copy.deepcopy(state)

    other = OneCycleLR(make_optimizer(tensor_lr=True), max_lr=0.1, total_steps=20)
    other.load_state_dict(state)
    for one in (scheduler, other):
        one.add_param_group(new_group(lr=0.02))
        train(one, 3)

    assert state == kept


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_states_go_to_and_from_torchs_scheduler(name):
    """A checkpoint of torch's OneCycleLR resumes with ours, and the other way round."""
    reference = TorchOneCycleLR(make_optimizer(name), max_lr=0.1, total_steps=20)
    used = train(reference, 20)
    for first_class, second_class in ((TorchOneCycleLR, OneCycleLR), (OneCycleLR, TorchOneCycleLR)):
        first = first_class(make_optimizer(name), max_lr=0.1, total_steps=20)
        second = second_class(make_optimizer(name), max_lr=0.1, total_steps=20, pct_start=0.9)
        train(first, 8)
        second.load_state_dict(saved(first.state_dict()))
        second.optimizer.load_state_dict(saved(first.optimizer.state_dict()))
        assert train(second, 12) == used[8:]


def test_last_epoch_needs_the_levels_in_the_groups():
    """Without a loaded optimizer there is nothing to resume from, and the error says which key is missing."""
    with pytest.raises(
        KeyError, match=r"'initial_lr' is not specified in param_groups\[0\].*Load the optimizer's state"
    ):
        OneCycleLR(make_optimizer(), max_lr=0.1, total_steps=10, last_epoch=3)


# ------------------------------------------------------------------------------- copies and compositions


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
def test_a_copy_goes_on_by_itself(clone):
    """A copy brings its own optimizer, goes on equally and leaves the original where it was."""
    scheduler = OneCycle.smith(0.1, 20).scheduler(make_optimizer("Adam", tensor_lr=True))
    train(scheduler, 6)
    before = in_use(scheduler.optimizer)

    used = train(clone(scheduler), 14)

    assert in_use(scheduler.optimizer) == before
    assert train(scheduler, 14) == used


def in_sequence(cls: type, optimizer: torch.optim.Optimizer) -> lr_scheduler.SequentialLR:
    parts = [
        lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=4),
        cls(optimizer, max_lr=0.1, total_steps=10),
        lr_scheduler.ExponentialLR(optimizer, gamma=0.5),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[4, 14])


def in_a_chain(cls: type, optimizer: torch.optim.Optimizer) -> lr_scheduler.ChainedScheduler:
    parts = [cls(optimizer, max_lr=0.1, total_steps=18), lr_scheduler.ExponentialLR(optimizer, gamma=0.9)]
    return lr_scheduler.ChainedScheduler(parts, optimizer)


@pytest.mark.parametrize("compose", [in_sequence, in_a_chain])
def test_composes_as_torchs_does(compose):
    """In SequentialLR and ChainedScheduler the lrs are those with torch's own."""
    assert train(compose(OneCycleLR, make_optimizer()), 18) == train(compose(TorchOneCycleLR, make_optimizer()), 18)


@pytest.mark.parametrize("stop", [2, 9, 16])
def test_a_sequence_resumes_whichever_part_is_in_charge(stop):
    """Loading puts back the lr in use, not the one of a cycle that has not begun or is over."""
    whole = in_sequence(OneCycleLR, make_optimizer())
    used = train(whole, 18)
    first = in_sequence(OneCycleLR, make_optimizer())
    train(first, stop)
    optimizer = make_optimizer()
    optimizer.load_state_dict(saved(first.optimizer.state_dict()))

    second = in_sequence(OneCycleLR, optimizer)
    second.load_state_dict(saved(first.state_dict()))

    assert [step[0] for step in train(second, 18 - stop)] == [pytest.approx(step[0]) for step in used[stop:]]


def test_get_lr_is_for_step_to_call():
    """Called by hand it would set the momentum behind the user's back: it warns, as torch's does."""
    scheduler = OneCycleLR(make_optimizer(), max_lr=0.1, total_steps=10)
    with pytest.warns(UserWarning, match=r"get_last_lr\(\) returns the lrs in use"):
        scheduler.get_lr()


def test_a_usual_run_is_silent():
    """No warning from construction to the last step and one past it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(OneCycle(0.1, 10).scheduler(make_optimizer("AdamW")), 10)
