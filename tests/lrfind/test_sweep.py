"""Tests of lrfind.sweep: which rates are used, which losses recorded, how a sweep ends, what is refused before it."""

from __future__ import annotations

import inspect
import math
import multiprocessing
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrfind import LRCurve, Workload, range_test
from lrfind.batches import endless
from lrfind.sweep import BLOCK, MAX_SKIPS, TARGET_STEPS, Sweep

CLASSES = 3


def dataset(samples: int = 64) -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, 4, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, CLASSES))


Make = Callable[[nn.Module], torch.optim.Optimizer]


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


def in_groups(*lrs: float | Tensor, **options: Any) -> Make:
    """Return a maker of an SGD with a group for the first parameters each, and the rest in the last."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        parameters = list(model.parameters())
        cut = [[p] for p in parameters[: len(lrs) - 1]] + [parameters[len(lrs) - 1 :]]
        groups = [{"params": part, "lr": lr} for part, lr in zip(cut, lrs, strict=True)]
        return torch.optim.SGD(groups, foreach=False, **options)

    return make


def workload(optimizer: Make = sgd, **settings: Any) -> Workload:
    model = settings.pop("model", None) or network()
    if "loss_fn" not in settings:
        settings.setdefault("criterion", nn.CrossEntropyLoss())
    settings.setdefault("train_loader", DataLoader(dataset(), 8, shuffle=True))
    return Workload(model, optimizer(model), **settings)


def sweep(work: Workload, **settings: Any) -> LRCurve:
    return range_test(work, **{"num_iter": 30, "progress": False, **settings})


def lrs_used(work: Workload) -> list[list[float]]:
    """Return a list that will hold the rate of every group at every optimizer step."""
    used: list[list[float]] = []
    work.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append([float(group["lr"]) for group in optimizer.param_groups])
    )
    return used


def scripted(losses: Callable[[int], float]) -> Callable[[nn.Module, Any], Tensor]:
    """Return a loss_fn that gives these losses, with a gradient of zero, whatever the weights."""
    calls = iter(range(10**9))
    return lambda model, batch: model(batch[0]).sum() * 0 + losses(next(calls))


# -- what is refused ---------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "start above end": ({"start_lr": 1.0, "end_lr": 0.1}, r"below a finite end_lr; got start_lr=1\.0, end_lr=0\.1"),
    "start at end": ({"start_lr": 0.5, "end_lr": 0.5}, r"got start_lr=0\.5, end_lr=0\.5. The sweep goes upwards"),
    "start at zero": ({"start_lr": 0.0}, r"start_lr must be above 0.*got start_lr=0\.0"),
    "both at zero": ({"start_lr": 0, "end_lr": 0}, r"start_lr must be above 0.*got start_lr=0, end_lr=0"),
    "negative": ({"start_lr": -1e-3}, r"got start_lr=-0\.001"),
    "start not a number": ({"start_lr": math.nan}, r"got start_lr=nan"),
    "end not a number": ({"end_lr": math.nan}, r"end_lr=nan"),
    "end infinite": ({"end_lr": math.inf}, r"a finite end_lr; got .*end_lr=inf"),
    "no start": ({"start_lr": None}, r"got start_lr=None"),
    "word for a rate": ({"end_lr": "high"}, r"end_lr must be one number or a list.*got 'high'"),
    "too many rates": ({"start_lr": [1e-4, 1e-5]}, r"start_lr must be one number or a list.*got 2 for 1 groups"),
    "too few rates": ({"end_lr": []}, r"end_lr must be one number or a list.*got 0 for 1 groups"),
    "few steps": ({"num_iter": 9}, r"num_iter must be a whole number of at least 10; got 9"),
    "broken steps": ({"num_iter": 50.0}, r"num_iter must be a whole number.*got 50\.0"),
    "steps not a number": ({"num_iter": math.nan}, r"num_iter must be a whole number.*got nan"),
    "unknown mode": ({"step_mode": "log"}, r"step_mode must be 'exp' or 'linear'; got 'log'"),
    "no stop factor": ({"stop_factor": 0.0}, r"stop_factor must be above 0; got 0\.0"),
    "stop factor not a number": ({"stop_factor": math.nan}, r"stop_factor must be above 0; got nan"),
    "momentum of one": ({"momentum": 1.0}, r"momentum must be at least 0 and below 1, or None; got 1\.0"),
    "momentum not a number": ({"momentum": math.nan}, r"momentum must be .*got nan"),
    "no repeats": ({"repeats": 0}, r"repeats must be a whole number of at least 1; got 0"),
    "broken repeats": ({"repeats": 1.5}, r"repeats must be a whole number.*got 1\.5"),
    "no batches": ({"val_batches": 0}, r"val_batches must be 'all', a number of batches.*got 0"),
    "some batches": ({"val_batches": "some"}, r"val_batches must be 'all'.*got 'some'"),
    "no validation data": ({"val_batches": 3}, r"val_batches needs a val_loader; got val_batches=3"),
    "unknown place": ({"snapshot": "disk"}, r"snapshot must be 'device', 'cpu' or the Path.*got 'disk'"),
}


class Untouched:
    """A loader that must not be read."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("read before the settings were checked")


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_read_or_stepped(case):
    """Each bad setting raises at once, saying what was given, what is allowed, what to do."""
    settings, message = REFUSED[case]
    work = workload(train_loader=Untouched())
    random = torch.get_rng_state()

    with pytest.raises(ValueError, match=message):
        sweep(work, **settings)

    assert torch.equal(torch.get_rng_state(), random)
    assert len(work.optimizer.state) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"start_lr": [1e-4, 1e-2], "end_lr": [1.0, 1e-3]},
            r"got start_lr=\[0\.0001, 0\.01\], end_lr=\[1\.0, 0\.001\]",
        ),
        ({"start_lr": [0.0, 0.0], "end_lr": [0.0, 0.0]}, r"start_lr must be above 0"),
        ({"start_lr": 1.0, "end_lr": 0.1}, r"got start_lr=1\.0, end_lr=0\.1"),
        ({"start_lr": np.full((2, 2), 1e-3)}, r"got 4 for 2 groups"),
        ({"start_lr": [1e-4] * 3}, r"got 3 for 2 groups. Pass one number to keep the groups' ratios"),
    ],
)
def test_refused_for_several_groups(settings, message):
    """What was given is quoted as it was given, not as it would be per group."""
    with pytest.raises(ValueError, match=message):
        sweep(workload(in_groups(0.01, 0.1), train_loader=Untouched()), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_loader": None}, "train_loader is needed to take steps"),
        ({"train_loader": DataLoader(dataset(), batch_sampler=[])}, "train_loader must yield at least one batch"),
        ({"train_loader": iter([])}, "train_loader yielded no batch"),
        ({"train_loader": [{"image": torch.ones(2, 4)}]}, r"must be a pair \(inputs, targets\)"),
        ({"criterion": nn.CrossEntropyLoss(reduction="none")}, r"must be a scalar tensor.*shape \(8,\)"),
        ({"loss_fn": lambda model, batch: model(batch[0]).mean().item()}, "must be a scalar tensor.*got a float"),
    ],
)
def test_refused_at_the_first_batch(settings, message):
    """What only a batch can show raises at the first one, before any step."""
    stepped = []

    def attempt() -> None:
        work = workload(**settings)
        work.optimizer.register_step_pre_hook(lambda *_: stepped.append(1))
        sweep(work)

    with pytest.raises(ValueError, match=message):
        attempt()
    assert stepped == []


def test_generator_that_runs_dry_is_told_from_a_loader():
    """A generator lasts for one pass: the message says what to pass instead, and all is put back."""
    work = workload(train_loader=(batch for batch in DataLoader(dataset(), 8)))
    weight = work.model[0].weight.clone()

    with pytest.raises(ValueError, match=r"rather than a generator, which ends after one pass"):
        sweep(work)

    assert torch.equal(work.model[0].weight, weight)


# -- rates -------------------------------------------------------------------------------------------------------


@given(
    start=st.floats(1e-9, 1e-2),
    decades=st.floats(0.1, 6),
    num_iter=st.integers(10, 40),
    mode=st.sampled_from(["exp", "linear"]),
)
def test_recorded_rates_are_the_ones_used(start, decades, num_iter, mode):
    """Item by item, first and last exactly those asked for, spaced as asked for."""
    end = start * 10**decades
    work = workload(train_loader=[dataset()[:8]])
    used = lrs_used(work)

    curve = sweep(work, start_lr=start, end_lr=end, num_iter=num_iter, step_mode=mode, stop_factor=math.inf)

    assert [lr for (lr,) in used] == curve.lr.tolist()
    assert (curve.lr[0], curve.lr[-1]) == (start, end)
    gaps = np.diff(curve.lr if mode == "linear" else np.log(curve.lr))
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-6)


@pytest.mark.parametrize("mode", ["exp", "linear"])
def test_one_range_keeps_the_ratio_of_the_groups(mode):
    """The group with the largest lr gets the range, the others their share of it at every step; 0 stays 0."""
    work = workload(in_groups(1e-4, 1e-3, 0.0))
    used = lrs_used(work)

    curve = sweep(work, start_lr=1e-5, end_lr=1e-1, step_mode=mode)

    np.testing.assert_array_equal(np.array(used).T, curve.group_lrs)
    np.testing.assert_array_equal(curve.lr, curve.group_lrs[1])
    np.testing.assert_allclose(curve.group_lrs[1] / curve.group_lrs[0], 10, rtol=1e-12)
    assert (curve.group_lrs[2] == 0).all()
    assert (curve.lr[0], curve.lr[-1]) == (1e-5, 1e-1)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_each_group_its_own_range(kind):
    """Lists give every group its first and last rate; the curve speaks for the one with the largest."""
    work = workload(in_groups(0.1, 0.1, 0.1))
    used = lrs_used(work)
    starts, ends = [1e-4, 1e-2, 1e-3], [1e-3, 1.0, 1e-1]

    curve = sweep(work, start_lr=kind(starts), end_lr=kind(ends))

    np.testing.assert_array_equal(np.array(used).T, curve.group_lrs)
    np.testing.assert_allclose(curve.group_lrs[:, 0], starts, rtol=1e-6)
    np.testing.assert_allclose(curve.group_lrs[:, -1], ends, rtol=1e-6)
    np.testing.assert_array_equal(curve.lr, curve.group_lrs[1])


def test_tensor_rates_are_recorded_as_they_are_held():
    """A float32 lr holds what float32 can; it stays the same object, with its own value afterwards."""
    lr = torch.tensor(0.01)
    work = workload(lambda model: torch.optim.Adam(model.parameters(), lr=lr, foreach=False))
    used = lrs_used(work)

    curve = sweep(work)

    assert [lr for (lr,) in used] == curve.lr.tolist()
    assert curve.lr[0] == np.float32(1e-7)
    assert work.optimizer.param_groups[0]["lr"] is lr
    assert lr == torch.tensor(0.01)


# -- momentum ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda model: sgd(model),
        lambda model: sgd(model, momentum=0.95, nesterov=True),
        lambda model: torch.optim.RMSprop(model.parameters()),
        lambda model: torch.optim.AdamW(model.parameters(), betas=(0.5, 0.9)),
        lambda model: torch.optim.SGD(
            [{"params": model[0].parameters(), "momentum": 0.3}, {"params": model[2].parameters()}], lr=0.1
        ),
    ],
    ids=["sgd", "nesterov", "rmsprop", "adamw", "groups"],
)
def test_momentum_is_that_of_the_cycles_peak_unless_asked(make):
    """0.85 by default in every group, the optimizer's own on None, and afterwards what it was."""
    work = workload(make)
    seen: list[list[float]] = []

    def momentum() -> list[float]:
        return [group["betas"][0] if "betas" in group else group["momentum"] for group in work.optimizer.param_groups]

    own = momentum()
    work.optimizer.register_step_pre_hook(lambda *_: seen.append(momentum()))
    for asked in ({}, {"momentum": 0.6}, {"momentum": None}):
        sweep(work, num_iter=10, **asked)

    assert seen[0] == seen[9] == [0.85] * len(own)
    assert seen[10] == [0.6] * len(own)
    assert seen[20] == seen[-1] == own == momentum()


def test_optimizer_without_momentum():
    """Adagrad has none to set; the curve says so."""
    curve = sweep(workload(lambda model: torch.optim.Adagrad(model.parameters())))

    assert curve.facts["momentum"] is None


# -- losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 3])
def test_losses_are_raw_and_those_of_a_loop_by_hand(accumulation):
    """Bit for bit, one point per optimizer step, from the first to the last."""
    work = workload(accumulation_steps=accumulation, train_loader=list(DataLoader(dataset(), 8)))
    curve = sweep(work, start_lr=1e-3, end_lr=1.0, momentum=None)

    model, loss_of = network(), nn.CrossEntropyLoss()
    optimizer = sgd(model)
    expected = []
    for lr, group in zip(curve.lr, endless(work.train_loader, accumulation), strict=False):
        optimizer.param_groups[0]["lr"] = float(lr)
        optimizer.zero_grad()
        total = torch.zeros(())
        for x, y in group:
            loss = loss_of(model(x), y) / len(group)
            loss.backward()
            total += loss.detach()
        optimizer.step()
        expected.append(total.item())

    assert curve.loss.tolist() == expected


def test_validation_losses():
    """After each step the mean over k batches, or all, in eval mode; training goes on in train mode."""
    batches = list(DataLoader(dataset(), 8))
    work = workload(train_loader=batches, val_loader=batches[:4])

    for asked, used in ((2, batches[:2]), ("all", batches[:4])):
        curve = sweep(work, val_batches=asked, start_lr=1e-3, end_lr=1e-1, num_iter=10)
        model = network()
        optimizer = sgd(model, momentum=0.85)
        for lr, (x, y), loss in zip(curve.lr, batches * 2, curve.loss, strict=False):
            optimizer.param_groups[0]["lr"] = float(lr)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                expected = np.mean([nn.functional.cross_entropy(model(x), y).item() for x, y in used])
            assert loss == pytest.approx(expected, rel=1e-6)
        assert len(curve) == 10
        assert curve.facts["loss"] == "validation"


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_steps_give_no_point(fused):
    """A rate at which the scaler found an overflow is tried again, so that every rate has its loss."""
    overflow = iter([i in (0, 1, 5) for i in range(1000)])

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return loss * math.inf if next(overflow) else loss

    work = workload(
        lambda model: torch.optim.AdamW(model.parameters(), fused=fused),
        loss_fn=loss_fn,
        grad_scaler=torch.amp.GradScaler("cpu"),
    )

    curve = sweep(work, num_iter=20, start_lr=1e-6, end_lr=1e-3)

    assert (len(curve), curve.status) == (20, "range end")
    assert np.isfinite(curve.loss).all()
    assert next(overflow) is False
    assert len(list(overflow)) == 1000 - 20 - 3 - 1


def test_overflow_without_end_is_non_finite():
    """A scaler that finds no scale does not keep the sweep running; the points before stay."""
    calls = iter(range(10**6))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return loss * math.inf if next(calls) >= 12 else loss

    work = workload(loss_fn=loss_fn, grad_scaler=torch.amp.GradScaler("cpu"))

    curve = sweep(work)

    assert (len(curve), curve.status) == (12, "non-finite")
    assert next(calls) == 12 + MAX_SKIPS


@pytest.mark.parametrize(
    "make",
    [
        lambda: (
            lambda model: torch.optim.SparseAdam(list(model.parameters()), lr=0.01),
            nn.Sequential(nn.EmbeddingBag(8, CLASSES, sparse=True)),
        ),
        lambda: (lambda model: torch.optim.AdamW(model.parameters(), fused=True), None),
        lambda: (lambda model: torch.optim.SGD(model.parameters(), lr=0.1, foreach=True), None),
    ],
    ids=["sparse", "fused", "foreach"],
)
def test_optimizers_of_every_build(make):
    """Sparse, fused and foreach steps are swept like any other."""
    optimizer, model = make()
    x, y = dataset()[:]
    words = [((x * 2).long().clamp(0, 7), y)] if model is not None else None

    curve = sweep(workload(optimizer, model=model, **({"train_loader": words} if words else {})))

    assert len(curve) >= 10
    assert np.isfinite(curve.loss[:10]).all()


# -- how it ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "status", "points"),
    [
        (lambda i: 1.0, "range end", 40),
        (lambda i: 2 - i / 40 if i < 20 else 2 + 3 ** (i - 20), "diverged", None),
        (lambda i: 2 - i / 40 if i < 25 else math.nan, "non-finite", 28),
        (lambda i: 2 - i / 40 if i < 25 else math.inf, "non-finite", 28),
        (lambda i: -math.inf, "non-finite", 3),
        (lambda i: math.nan if i == 20 else 2 - i / 40, "range end", 40),
        (lambda i: 100.0**i, "too few points", None),
    ],
    ids=["flat", "diverged", "nan", "inf", "from the start", "one nan", "at once"],
)
def test_status_tells_how_it_ended(losses, status, points):
    """Five ends, each told from the others."""
    curve = sweep(workload(loss_fn=scripted(losses)), num_iter=40)

    assert curve.status == status
    if points is not None:
        assert len(curve) == points
    else:
        assert len(curve) < 40


@pytest.mark.parametrize("answer", [True, None, 1, "yes"])
def test_on_point_hears_every_point_and_may_end_it(answer):
    """Only True ends the sweep: a callback that happens to return something does not."""
    heard: list[tuple[float, float]] = []

    def on_point(lr: float, loss: float) -> Any:
        heard.append((lr, loss))
        return answer if len(heard) >= 12 else None

    curve = sweep(workload(), on_point=on_point, end_lr=1e-2)

    assert curve.status == ("interrupted" if answer is True else "range end")
    assert len(curve) == (12 if answer is True else 30)
    assert heard == list(zip(curve.lr.tolist(), curve.loss.tolist(), strict=True))


@pytest.mark.parametrize("repeat", [0, 2])
def test_ctrl_c_gives_the_points_so_far(repeat):
    """KeyboardInterrupt goes on, with the curve so far; sweeps that were complete come with it."""
    heard: list[float] = []

    def on_point(lr: float, loss: float) -> None:
        heard.append(loss)
        if len(heard) == 30 * repeat + 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stop:
        sweep(workload(), on_point=on_point, end_lr=1e-2, repeats=3)

    curves = [stop.value.curve, *stop.value.curve.replicates]
    assert [curve.status for curve in curves] == ["range end"] * repeat + ["interrupted"]
    assert [loss for curve in curves for loss in curve.loss] == heard


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize("end", ["range end", "error"])
def test_worker_processes_end_with_the_sweep(end):
    """No process of a loader outlives it, not even while an error's traceback holds on to the sweep."""
    before = set(multiprocessing.active_children())
    loader = DataLoader(dataset(), 8, num_workers=2)

    def on_point(lr: float, loss: float) -> None:
        if end == "error":
            raise OSError("disk full")

    work = workload(train_loader=loader)
    if end == "error":
        with pytest.raises(OSError, match="disk full") as error:
            sweep(work, on_point=on_point)
        assert error.value.__traceback__ is not None
    else:
        sweep(work, num_iter=10)

    assert set(multiprocessing.active_children()) == before


# -- blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"end_lr": 1e-2},
        {"end_lr": 1e3, "num_iter": 60},
        {"num_iter": 33, "end_lr": 1e-2, "repeats": 2},
        {"on_point": lambda lr, loss: lr > 1e-3},
        {"losses": lambda i: 2 - i / 40 if i < 25 else math.nan, "num_iter": 47},
        {"losses": lambda i: 2 - i / 40 if i < 20 else 2 + 3 ** (i - 20), "num_iter": 47},
        {"overflow": 14},
    ],
    ids=["range end", "diverged", "repeats", "caller", "nan", "scripted", "overflow"],
)
def test_reading_losses_in_blocks_changes_nothing(settings, monkeypatch):
    """Ten at a time, as on an accelerator: the same curve, and the stop lags by less than a block."""

    def run(block: int) -> tuple[LRCurve, int]:
        given = dict(settings)
        work = workload()
        if "losses" in given:
            work = workload(loss_fn=scripted(given.pop("losses")))
        if "overflow" in given:
            calls, last = iter(range(10**6)), given.pop("overflow")
            work = workload(
                loss_fn=lambda model, batch: model(batch[0]).square().mean() * (math.inf if next(calls) >= last else 1),
                grad_scaler=torch.amp.GradScaler("cpu"),
            )
        steps = lrs_used(work)
        monkeypatch.setattr(Sweep, "_block", property(lambda self: block, lambda self, value: None), raising=False)
        torch.manual_seed(5)
        return sweep(work, **given), len(steps)

    (one, steps), (ten, more_steps) = run(1), run(BLOCK)

    assert (one.status, one.facts) == (ten.status, ten.facts)
    for a, b in zip([one, *one.replicates], [ten, *ten.replicates], strict=True):
        assert a.lr.tolist() == b.lr.tolist()
        np.testing.assert_array_equal(a.loss, b.loss)
    assert 0 <= more_steps - steps < BLOCK


def test_ctrl_c_keeps_losses_that_were_not_read_yet(monkeypatch):
    """What lies on the device when Ctrl-C comes belongs to the points so far."""
    monkeypatch.setattr(Sweep, "_block", property(lambda self: 10, lambda self, value: None), raising=False)
    calls = iter(range(100))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        if next(calls) == 17:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(KeyboardInterrupt) as stop:
        sweep(workload(loss_fn=loss_fn))

    assert len(stop.value.curve) == 17


# -- repeats and loaders -----------------------------------------------------------------------------------------


def test_repeats_start_alike_and_see_other_batches():
    """Each replicate begins with the same weights and modes; only the batches differ."""
    weights: list[Tensor] = []
    modes: list[bool] = []
    momentum: list[float] = []
    work = workload(lambda model: sgd(model, momentum=0.9))
    work.model.eval()

    def look(model: nn.Module, *_: Any) -> None:
        weights.append(model[0].weight.detach().clone())
        modes.append(model.training)
        momentum.append(work.optimizer.param_groups[0]["momentum"])

    work.model.register_forward_pre_hook(look)

    curve = sweep(work, repeats=3, end_lr=1e-2, num_iter=10)

    assert all(torch.equal(weights[0], weights[i]) for i in (10, 20))
    assert modes == [True] * 30
    assert momentum == [0.85] * 30
    losses = [curve.loss, *(replicate.loss for replicate in curve.replicates)]
    assert len({tuple(loss) for loss in losses}) == 3
    assert not work.model.training


@pytest.mark.parametrize("batches", [1, 3, 20])
@pytest.mark.parametrize("num_iter", [10, 11, 50, 100])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_loader_shorter_than_the_sweep_is_read_again(batches, num_iter, accumulation):
    """Any number of steps from any number of batches; groups do not reach across the end of an epoch."""
    loader = DataLoader(dataset(4 * batches), 4)
    work = workload(train_loader=loader, accumulation_steps=accumulation)
    used = lrs_used(work)

    curve = sweep(work, num_iter=num_iter, end_lr=1e-2)

    assert (len(curve), curve.status) == (num_iter, "range end")
    assert len(used) == num_iter


class Endless(IterableDataset[Any]):
    """A data set without length or end."""

    def __iter__(self) -> Iterator[Any]:
        data, index = dataset(), 0
        while True:
            yield data[index % 64]
            index += 1


def test_data_without_length_or_end():
    """Loaders that know no length are swept like others."""
    curve = sweep(workload(train_loader=DataLoader(Endless(), 8)), end_lr=1e-2)

    assert (len(curve), curve.status) == (30, "range end")


def test_cold_warm_and_late_sweeps_are_alike():
    """At step 0, and in the middle of training: all points, raw losses that start where the model stands."""
    work = workload(
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01), train_loader=list(DataLoader(dataset(), 64))
    )
    for _, group in zip(range(200), endless(work.batches()), strict=False):
        last = work.step(group).loss.item()

    curve = sweep(work, num_iter=60, start_lr=1e-8, end_lr=1e-5)

    assert (len(curve), curve.status) == (60, "range end")
    assert curve.loss[0] == pytest.approx(last, rel=0.05)


# -- facts -------------------------------------------------------------------------------------------------------


def test_facts_say_how_it_came_about(tmp_path):
    """Enough to read the curve without the code that made it, and it survives a file."""
    work = workload(lambda model: torch.optim.Adam(model.parameters()), accumulation_steps=2)

    curve = sweep(work, start_lr=1e-6, end_lr=1e-2, step_mode="linear", repeats=2)
    curve.save(tmp_path / "curve.json")

    labels = torch.cat([y for _, y in DataLoader(dataset(), 8)])
    shares = labels.bincount() / len(labels)
    assert curve.facts == {
        "start_lr": 1e-6,
        "end_lr": 1e-2,
        "num_iter": 30,
        "step_mode": "linear",
        "momentum": 0.85,
        "optimizer": "Adam",
        "batch_size": 8,
        "accumulation_steps": 2,
        "ranks": 1,
        "loss": "training",
        "constant_loss": pytest.approx(-(shares * shares.log()).sum().item(), rel=0.02),
        "notes": [],
    }
    assert LRCurve.load(tmp_path / "curve.json").facts == curve.facts


def test_targets_are_kept_within_limits():
    """The baseline needs some targets, not all of a sweep's: fifty steps', fewer where they are images."""
    seen = []

    def run(shape: tuple[int, ...]) -> int:
        def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.sum() * 0 + targets.sum() * 0

        work = workload(criterion=loss_fn, train_loader=[(torch.ones(2, 4), torch.zeros(shape))])
        monkey = Sweep.curve

        def curve(self: Sweep) -> LRCurve:
            seen.append(len(self.targets))
            return monkey(self)

        try:
            Sweep.curve = curve
            sweep(work, num_iter=100)
        finally:
            Sweep.curve = monkey
        return seen.pop()

    assert run((2,)) == TARGET_STEPS
    assert run((2, 100_000)) == 5


def test_documented_defaults():
    """The defaults that the documentation states."""
    defaults = {name: p.default for name, p in inspect.signature(range_test).parameters.items()}

    assert (defaults["start_lr"], defaults["end_lr"], defaults["num_iter"]) == (1e-7, 10.0, 100)
    assert (defaults["step_mode"], defaults["momentum"], defaults["repeats"]) == ("exp", 0.85, 1)


# -- on the screen -----------------------------------------------------------------------------------------------


def test_bar_shows_rate_and_loss(capsys):
    """A bar on stderr with the present rate and loss; nothing on stdout."""
    curve = sweep(workload(), end_lr=1e-2, progress=True)

    out, err = capsys.readouterr()
    assert out == ""
    assert "30/30" in err
    assert f"lr {curve.lr[-1]:.1e}, loss {curve.loss[-1]:.4g}" in err


def test_silent_when_asked(capsys):
    """progress=False prints nothing at all."""
    sweep(workload())

    assert capsys.readouterr() == ("", "")


def test_steps_are_no_more_than_asked():
    """The iterator is not read past the last step."""
    reads = []

    class Counted:
        def __iter__(self) -> Iterator[Any]:
            for batch in islice(DataLoader(dataset(), 8), 8):
                reads.append(1)
                yield batch

    sweep(workload(train_loader=Counted()), end_lr=1e-2)

    assert len(reads) == 30
