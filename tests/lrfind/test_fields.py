"""Tests of lrfind.fields: which value of an optimizer's field is chosen, and that nothing is left of the sweeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lrfind import LRCurve, NoSuggestion, Workload, compare, field_test, momentum_test, range_test, weight_decay_test
from lrfind.fields import LOSS_SHARE, LR_SHARE, FieldTest

LR = np.geomspace(1e-5, 10, 200)
Make = Callable[[nn.Module], torch.optim.Optimizer]


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, **options})


def two_groups(model: nn.Module) -> torch.optim.Optimizer:
    first, *rest = model.parameters()
    return torch.optim.SGD([{"params": [first], "weight_decay": 0.0}, {"params": rest}], lr=0.1, weight_decay=5e-4)


def workload(optimizer: Make = sgd, **settings: Any) -> Workload:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(256, 4, generator=generator)
    data = TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 3))
    settings = {"train_loader": DataLoader(data, 32, shuffle=True), "val_loader": DataLoader(data, 64)} | settings
    if "loss_fn" not in settings:
        settings["criterion"] = nn.CrossEntropyLoss()
    return Workload(model, optimizer(model), **settings)


def varied(field: str, work: Workload, values: Any, **settings: Any) -> FieldTest:
    return field_test(work, field, values, **{"start_lr": 1e-4, "num_iter": 30, "progress": False, **settings})


# -- which value is chosen ---------------------------------------------------------------------------------------


def curve(lowest: float = 0.3, factor: float = 1.0) -> LRCurve:
    """A noiseless curve from 2.3 down to about ``lowest``; ``factor`` moves it along the rates."""
    lr = LR / factor
    loss = 2.3 - (2.3 - lowest) / (1 + (0.01 / lr) ** 2) + np.minimum((lr / 2) ** 4, 1e4)
    return LRCurve(LR, loss, "diverged")


def measured(**curves: LRCurve) -> FieldTest:
    """A test whose curves are given, as ``_0_1=curve`` for the value 0.1."""
    numbers = {float(name[1:].replace("_", ".")): each for name, each in curves.items()}
    named = {f"weight_decay {value:g}": each for value, each in numbers.items()}
    return FieldTest("weight_decay", tuple(numbers), compare(named))


CASES: dict[str, tuple[dict[str, LRCurve], float]] = {
    "all alike": ({"_0_1": curve(), "_0_2": curve(), "_0_3": curve()}, 0.3),
    "in any order": ({"_0_3": curve(), "_0_1": curve(), "_0_2": curve(0.9)}, 0.3),
    "slightly worse will do": ({"_0_1": curve(0.3), "_0_2": curve(0.3 + 0.8 * LOSS_SHARE * 2)}, 0.2),
    "a loss too high": ({"_0_1": curve(0.3), "_0_2": curve(0.3 + 1.2 * LOSS_SHARE * 2)}, 0.1),
    "a max_lr somewhat lower will do": ({"_0_1": curve(), "_0_2": curve(factor=LR_SHARE * 1.1)}, 0.2),
    "a max_lr too low": ({"_0_1": curve(), "_0_2": curve(factor=LR_SHARE * 0.9)}, 0.1),
    "a high max_lr is no measure where the loss is bad": ({"_0_1": curve(), "_0_2": curve(1.5, factor=9)}, 0.1),
    "no max_lr at all": ({"_0_1": curve(), "_0_2": LRCurve(LR, LR * 0 + 2.3, "range end")}, 0.1),
    "a gap": ({"_0_1": curve(), "_0_2": curve(1.5), "_0_3": curve()}, 0.3),
    "one value": ({"_0_1": curve()}, 0.1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_largest_value_with_a_low_loss_and_a_high_max_lr(name):
    """Both tolerances are what the constants say, on either side of them."""
    curves, expected = CASES[name]

    assert measured(**curves).value == expected


@pytest.mark.parametrize(("scale", "shift"), [(1.0, -5.0), (0.01, 100.0)])
def test_the_choice_does_not_depend_on_the_units_of_the_loss(scale, shift):
    """loss -> a * loss + b, also below zero, gives the same value in every case."""
    for curves, expected in CASES.values():
        moved = {name: LRCurve(each.lr, scale * each.loss + shift, each.status) for name, each in curves.items()}
        assert measured(**moved).value == expected


def test_the_evidence_names_the_bounds_and_what_lies_above():
    """Whoever reads it can redo the choice from the table."""
    test = measured(_0_1=curve(), _0_2=curve(1.5), _0_3=curve(factor=0.1))
    lowest, max_lr = test.table()[0]["lowest loss"], test.table()[0]["max_lr"]

    assert test.evidence.startswith(f"the largest of 3 values with a lowest loss ({lowest:.3g}) within 0.2 of the best")
    assert f"and a max_lr ({max_lr:.2g}) of at least {max_lr / 2:.2g}, 50% of the highest" in test.evidence
    assert "; not 0.2: lowest loss 1.5" in test.evidence
    assert test.evidence.endswith(f"; not 0.3: max_lr {test.table()[2]['max_lr']:.2g}")


def test_replicates_count():
    """With repeats the losses compared are means over the sweeps: one lucky sweep is not enough."""
    lucky = LRCurve(LR, curve(0.1).loss, "diverged", replicates=[curve(1.0), curve(1.0)])
    steady = LRCurve(LR, curve(0.3).loss, "diverged", replicates=[curve(0.3), curve(0.3)])

    assert measured(_0_1=steady, _0_2=lucky).value == 0.1


def test_values_at_either_end_are_warned_about():
    """The best may lie outside of what was tested; a single value was not meant to be compared."""
    assert "0.2 is the largest value tested" in measured(_0_1=curve(), _0_2=curve()).warnings[0]
    assert "0.1 is the smallest value tested" in measured(_0_1=curve(), _0_2=curve(1.5)).warnings[0]
    assert measured(_0_1=curve(), _0_2=curve(), _0_3=curve(1.5)).warnings == ()
    assert measured(_0_1=curve()).warnings == ()


def test_without_any_max_lr_the_reasons_are_still_there():
    """Asking for the value says why not; table, text and picture work all the same."""
    test = measured(_0_1=LRCurve(LR, LR * 0 + 2.3, "range end"))

    for ask in (lambda: test.value, lambda: float(test), lambda: test.suggestion, lambda: test.warnings):
        with pytest.raises(NoSuggestion, match=r"No value of weight_decay gives a curve that max_lr can be read off"):
            ask()
    assert "! weight_decay 0.1: The loss never fell" in str(test)
    assert "No value of weight_decay" in str(test)
    plt.close(test.plot().figure)


# -- the sweeps --------------------------------------------------------------------------------------------------


def used(work: Workload, read: Callable[[dict[str, Any]], float]) -> list[list[float]]:
    """Return a list that will hold what ``read`` finds in every group at every step."""
    found: list[list[float]] = []
    work.optimizer.register_step_pre_hook(
        lambda optimizer, *_: found.append([float(read(group)) for group in optimizer.param_groups])
    )
    return found


def test_each_sweep_is_the_range_test_of_an_optimizer_with_that_value():
    """Bit for bit what building the optimizer with it and sweeping gives, from the same start."""
    test = varied("weight_decay", workload(), [0, 1e-2, 1.0])

    for value, swept in zip(test.values, test.comparison.curves.values(), strict=True):
        alone = range_test(
            workload(lambda model, value=value: sgd(model, weight_decay=value)),
            start_lr=1e-4, num_iter=30, progress=False,
        )  # fmt: skip
        assert swept.loss.tolist() == alone.loss.tolist()
        assert swept.facts == alone.facts | {"weight_decay": value}
    assert len({tuple(each.loss.tolist()) for each in test.comparison.curves.values()}) == 3


def test_every_group_is_swept_with_the_value():
    """Also one that had another value of its own."""
    work = workload(two_groups)
    seen = used(work, lambda group: group["weight_decay"])
    varied("weight_decay", work, [0.25, 0.5], stop_factor=math.inf)

    assert seen == [[0.25, 0.25]] * 30 + [[0.5, 0.5]] * 30
    assert [group["weight_decay"] for group in work.optimizer.param_groups] == [0.0, 5e-4]


@pytest.mark.parametrize(
    ("optimizer", "read"),
    [
        (sgd, lambda group: group["momentum"]),
        (lambda model: torch.optim.SGD(model.parameters(), lr=0.1), lambda group: group["momentum"]),
        (lambda model: torch.optim.RMSprop(model.parameters()), lambda group: group["momentum"]),
        (lambda model: torch.optim.AdamW(model.parameters()), lambda group: group["betas"][0]),
    ],
    ids=["sgd", "sgd without", "rmsprop", "adamw"],
)
def test_momentum_is_that_of_the_whole_sweep(optimizer, read):
    """Not the momentum of a cycle's peak, with which other sweeps run; beta1 in the Adam family."""
    work = workload(optimizer)
    before = [read(group) for group in work.optimizer.param_groups]
    seen = used(work, read)
    momentum_test(work, [0.0, 0.5, 0.95], num_iter=12, start_lr=1e-6, end_lr=1e-5, progress=False)

    assert seen == [[0.0]] * 12 + [[0.5]] * 12 + [[0.95]] * 12
    assert [read(group) for group in work.optimizer.param_groups] == before


def test_the_short_names_are_the_same_test():
    """weight_decay_test and momentum_test pass everything on."""
    settings: dict[str, Any] = {"start_lr": 1e-4, "num_iter": 30, "progress": False, "rule": "minimum"}

    for name, short in (("weight_decay", weight_decay_test), ("momentum", momentum_test)):
        long = field_test(workload(), name, [0.1, 0.2], **settings)
        assert str(short(workload(), [0.1, 0.2], **settings)) == str(long)
        assert "rule minimum" in str(long)


def test_settings_reach_the_range_test():
    """Validation losses, repeats and the range of rates are its own."""
    test = varied("weight_decay", workload(), [1e-3], val_batches=2, repeats=2, end_lr=1.0, momentum=0.5)
    (swept,) = test.comparison.curves.values()

    assert (swept.facts["loss"], swept.facts["end_lr"], swept.facts["momentum"]) == ("validation", 1.0, 0.5)
    assert len(swept.replicates) == 1


# -- what is left of it ------------------------------------------------------------------------------------------


def state(work: Workload) -> list[Any]:
    held = [(key, value.tolist()) for key, value in work.model.state_dict().items()]
    groups = [
        [(key, value) for key, value in group.items() if key != "params"] for group in work.optimizer.param_groups
    ]
    momenta = [value["momentum_buffer"].tolist() for value in work.optimizer.state.values() if value]
    return [held, groups, momenta, torch.get_rng_state().tolist()]


@pytest.fixture(params=["fresh", "warm"])
def work(request: pytest.FixtureRequest) -> Iterator[Workload]:
    """A workload before its first step, and one in the middle of training."""
    work = workload()
    if request.param == "warm":
        for batch in list(work.batches())[:3]:
            work.step([batch])
        work.optimizer.zero_grad()
    return work


@pytest.mark.parametrize("field", ["weight_decay", "momentum", "dampening"])
def test_the_workload_is_as_it_was(field, work):
    """Weights, optimizer state, groups with their order of keys, random state: bit for bit."""
    before = state(work)
    varied(field, work, [0.1, 0.5])

    assert state(work) == before


@pytest.mark.parametrize("field", ["weight_decay", "momentum"])
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_the_workload_is_as_it_was_after_an_error(field, error):
    """The field too, in the middle of the second sweep; the error is the one that was raised."""
    calls = iter(range(1000))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        if next(calls) == 45:
            raise error
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    work = workload(loss_fn=loss_fn)
    before = state(work)
    with pytest.raises(type(error)) as caught:
        varied(field, work, [0.1, 0.5, 0.6], end_lr=0.1)

    assert caught.value is error
    assert state(work) == before


def test_an_error_says_in_which_sweep_it_came():
    """A note is added, the error itself is as it was."""

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as caught:
        varied("weight_decay", workload(loss_fn=loss_fn), [0.1])

    assert caught.value.__notes__ == ["In the sweep with weight_decay=0.1; the optimizer has its own value again."]


def test_ctrl_c_gives_back_the_curves_so_far():
    """Those that are whole, and the one that was being swept."""
    calls = iter(range(1000))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        if next(calls) == 45:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(KeyboardInterrupt) as caught:
        varied("weight_decay", workload(loss_fn=loss_fn), [0.1, 0.5, 0.6], end_lr=0.1)

    test = caught.value.test
    assert test.values == (0.1, 0.5)
    assert [(len(each), each.status) for each in test.comparison.curves.values()] == [
        (30, "range end"),
        (15, "interrupted"),
    ]


def test_a_tensor_in_a_group_stays_the_same_object():
    """It is filled for the sweep and filled back."""
    work = workload(lambda model: torch.optim.SGD(model.parameters(), lr=0.1, foreach=False))
    kept = torch.tensor(0.125)
    work.optimizer.param_groups[0]["weight_decay"] = kept
    seen = used(work, lambda group: group["weight_decay"])
    varied("weight_decay", work, [0.25], end_lr=0.1)

    assert seen == [[0.25]] * 30
    assert work.optimizer.param_groups[0]["weight_decay"] is kept
    assert kept.item() == 0.125


# -- what is refused ---------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "unknown": (
        "weight_dacay", [0.1], {},
        r"field must be a number in every parameter group, here of SGD: momentum, dampening, weight_decay; "
        r"got 'weight_dacay'",
    ),
    "a switch": ("nesterov", [1.0], {}, r"got 'nesterov'"),
    "the rate itself": ("lr", [0.1], {}, r"got 'lr'. The learning rate is what each sweep varies"),
    "parameters": ("params", [0.1], {}, r"got 'params'"),
    "no values": ("weight_decay", [], {}, r"values of weight_decay must be one or more numbers.*got \[\]"),
    "not a list": ("weight_decay", 0.1, {}, r"one or more numbers.*got 0\.1. Pass a list"),
    "a word": ("weight_decay", ["high"], {}, r"got \['high'\]"),
    "negative": ("weight_decay", [0.1, -1e-3], {}, r"each at least 0 and finite, none .*got \[0\.1, -0\.001\]"),
    "not a number": ("weight_decay", [math.nan], {}, r"at least 0 and finite.*got \[nan\]"),
    "infinite": ("weight_decay", [math.inf], {}, r"at least 0 and finite.*got \[inf\]"),
    "twice": ("weight_decay", [0.1, 0.1], {}, r"none of them twice; got \[0\.1, 0\.1\]"),
    "momentum of one": ("momentum", [0.9, 1.0], {}, r"each at least 0 and below 1, none .*got \[0\.9, 1\.0\]"),
    "two momenta": ("momentum", [0.9], {"momentum": 0.5}, r"momentum is what the sweeps vary here; got momentum=0\.5"),
    "unknown rule": ("weight_decay", [0.1], {"rule": "best"}, r"rule must be one of level, .*got 'best'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_tested_is_refused_before_any_step(name):
    """With what was given and what is allowed."""
    field, values, settings, message = REFUSED[name]
    work = workload()
    steps = used(work, lambda group: group["lr"])

    with pytest.raises(ValueError, match=message):
        varied(field, work, values, **settings)
    assert steps == []


def test_a_value_that_the_optimizer_refuses_is_refused_before_any_step():
    """torch's optimizers look at their settings when they are built, and never again: so one is built to ask."""

    class Fussy(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.0) -> None:
            if weight_decay > 1:
                raise ValueError(f"too much: {weight_decay}")
            super().__init__(params, lr, weight_decay=weight_decay)

    work = workload(lambda model: Fussy(model.parameters()))
    steps = used(work, lambda group: group["lr"])
    message = r"weight_decay must be a value that Fussy takes; got 2 \(too much: 2\.0\). Leave it out"
    with pytest.raises(ValueError, match=message):
        varied("weight_decay", work, [0.1, 2.0])
    assert steps == []


def test_an_optimizer_that_cannot_be_built_again_is_swept_all_the_same():
    """Where its constructor wants more than its groups hold, nothing can be asked."""

    class Closed(torch.optim.SGD):
        def __init__(self, model: nn.Module) -> None:
            super().__init__(model.parameters(), lr=0.1, weight_decay=0.0)

    assert varied("weight_decay", workload(Closed), [0.1]).values == (0.1,)


def test_without_momentum_there_is_none_to_test():
    """Adagrad has neither momentum nor betas."""
    work = workload(lambda model: torch.optim.Adagrad(model.parameters()))

    with pytest.raises(ValueError, match=r"here of Adagrad: lr_decay, eps, weight_decay, .*got 'momentum'"):
        momentum_test(work, [0.9])
