"""One test per trap of learning-rate range tests that other finders fall into, by the number each has.

The numbers are those of this project's survey of ten such tools (bugs found by reading and running them, and in
their issue trackers); the traps of schedules (20 to 25) have theirs in tests/onecycle. Each test here is the trap
as it was met; what holds beyond is tested in the file that mirrors the source.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset
from torch_lr_finder import TrainDataLoaderIter

from lrfind import LRCurve, NoSuggestion, Workload, preserve, range_test
from lrfind.batches import endless
from lrfind.smoothing import smooth

# -- a workload small enough to sweep in milliseconds ------------------------------------------------------------


def dataset(samples: int = 64) -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, 4, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def plain_network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def workload(
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = lambda m: torch.optim.Adam(m.parameters(), lr=0.01),
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    make: Callable[[], nn.Module] = network,
    **settings: Any,
) -> Workload:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    model = make()
    settings.setdefault("train_loader", DataLoader(dataset(), 8, shuffle=True))
    return Workload(model, optimizer(model), loss or nn.CrossEntropyLoss(), **settings)


def sweep(work: Workload, **settings: Any) -> LRCurve:
    return range_test(work, progress=False, **{"num_iter": 40, "start_lr": 1e-6, "end_lr": 1.0} | settings)


def train(work: Workload, steps: int) -> list[float]:
    groups = endless(work.batches(), work.accumulation_steps)
    return [work.step(group).loss.item() for group in itertools.islice(groups, steps)]


def optimizer_state(work: Workload) -> list[tuple[str, Tensor]]:
    states = work.optimizer.state.values()
    return [(name, value.clone()) for state in states for name, value in state.items()]


def weights(work: Workload) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in (*work.model.parameters(), *work.model.buffers())]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a[0] == b[0] and torch.equal(a[1], b[1])
        for a, b in zip(one, other, strict=True)
    )


def scripted(losses: Callable[[int], float]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a criterion that gives these losses whatever the weights."""
    calls = itertools.count()
    return lambda outputs, targets: outputs.sum() * 0 + losses(next(calls))


def fall(lr: np.ndarray, centre: float = 0.01, rise: float = 1.0) -> np.ndarray:
    """A loss that falls from 2 to 1 around ``centre``, steepest there in log lr, and blows up around ``rise``."""
    return 2 - 1 / (1 + (centre / lr) ** 2) + (lr / rise) ** 3


# -- the traps ---------------------------------------------------------------------------------------------------


def test_trap_01_two_sweeps_of_a_warm_optimizer_leave_its_state():
    """A restore that hands out its copy lets the second sweep write into it (Adam step 46 in place of 16)."""
    work = workload()
    train(work, 16)
    before, step = optimizer_state(work), {float(state["step"]) for state in work.optimizer.state.values()}

    for _ in range(2):
        sweep(work)
        assert same(optimizer_state(work), before)
    with preserve(work) as start:
        for _ in range(2):
            train(work, 3)
            start.restore()
            assert same(optimizer_state(work), before)

    assert step == {16.0}


@pytest.mark.parametrize("error", [RuntimeError("at step 10"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_trap_02_an_error_leaves_nothing_swept(error):
    """Weights, optimizer, group keys, hooks and modes are as before; the error goes on."""
    calls = itertools.count()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if next(calls) == 10:
            raise error
        return nn.functional.cross_entropy(outputs, targets)

    work = workload(loss=loss)
    keys = [list(group) for group in work.optimizer.param_groups]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in work.optimizer.param_groups]
    before, random_state = weights(work), torch.get_rng_state()

    with pytest.raises(type(error)) as raised:
        sweep(work)

    assert raised.value is error
    assert same(weights(work), before)
    assert len(work.optimizer.state) == 0
    assert [list(group) for group in work.optimizer.param_groups] == keys
    assert [{k: v for k, v in g.items() if k != "params"} for g in work.optimizer.param_groups] == groups
    assert not work.optimizer._optimizer_step_pre_hooks
    assert not work.optimizer._optimizer_step_post_hooks
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in work.model.modules())
    assert all(module.training for module in work.model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("generator", [False, True], ids=["global seed", "loader's generator"])
def test_trap_03_training_after_a_sweep_is_training_without_one(generator):
    """Shuffling, dropout, python's and numpy's draws: 20 steps with and without a sweep before them agree."""

    def run(swept: bool) -> tuple[list[float], list[Tensor], Any]:
        own = torch.Generator().manual_seed(3) if generator else None
        work = workload(train_loader=DataLoader(dataset(), 8, shuffle=True, generator=own))
        if swept:
            sweep(work)
        losses = train(work, 20)
        states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
        return losses, weights(work), states

    (losses, after, states), (plain_losses, plain_after, plain_states) = run(swept=True), run(swept=False)

    assert losses == plain_losses
    assert same(after, plain_after)
    assert states == plain_states


@pytest.mark.parametrize("val_batches", [None, 2])
def test_trap_04_frozen_batchnorm_and_buffers_outside_the_state_dict(val_batches):
    """A BatchNorm in eval mode stays in it during and after; buffers that no state dict holds go back too."""
    model = network()
    model.append(nn.BatchNorm1d(3).eval())
    model.register_buffer("calls", torch.zeros(()), persistent=False)
    frozen: list[bool] = []

    def count(module: nn.Module, *_: Any) -> None:
        module.calls += 1
        if module.training:
            frozen.append(not module[-1].training)

    model.register_forward_pre_hook(count)
    work = workload(make=lambda: model, val_loader=DataLoader(dataset(), 8))
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    sweep(work, val_batches=val_batches)

    assert all(frozen)
    assert len(frozen) >= 10
    assert [module.training for module in model.modules()] == modes
    assert buffers.keys() == dict(model.named_buffers()).keys()
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_trap_05_gradients_and_scaler():
    """A gradient of None is None, one that was there is the same; scale 2**10 and tracker 3 stay."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=20)
    scaler.load_state_dict(scaler.state_dict() | {"_growth_tracker": 3})
    work = workload(grad_scaler=scaler)
    first = work.model[0].weight
    first.grad = kept = torch.full_like(first, 5.0)

    sweep(work)

    assert first.grad is kept
    assert (kept == 5).all()
    assert all(p.grad is None for p in work.model.parameters() if p is not first)
    state = scaler.state_dict()
    assert (state["scale"], state["_growth_tracker"]) == (2.0**10, 3)


@pytest.mark.parametrize("scheduler", [False, True])
def test_trap_06_groups_and_step_are_the_optimizers_own(scheduler):
    """No `initial_lr` or `max_lr` is left, `step` not wrapped, a tensor lr is the same tensor."""
    lr = torch.tensor(0.01)
    work = workload(lambda m: torch.optim.Adam(m.parameters(), lr=lr, foreach=False))
    if scheduler:
        torch.optim.lr_scheduler.OneCycleLR(work.optimizer, 0.1, total_steps=50)
    keys, attributes = [set(group) for group in work.optimizer.param_groups], dict(vars(work.optimizer))
    value = lr.item()
    held: list[bool] = []
    handle = work.optimizer.register_step_pre_hook(lambda opt, *_: held.append(opt.param_groups[0]["lr"] is lr))

    sweep(work)

    handle.remove()
    assert all(held)
    assert len(held) >= 10
    assert [set(group) for group in work.optimizer.param_groups] == keys
    assert ("initial_lr" in keys[0]) is scheduler
    assert work.optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == value
    assert ("step" in vars(work.optimizer)) is scheduler
    assert vars(work.optimizer).keys() == attributes.keys()
    assert vars(work.optimizer).get("step") is attributes.get("step")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_trap_07_nan_stops_and_poisons_nothing(bad):
    """From step 30 on: the sweep stops by step 33, non-finite. At step 40 alone: what comes later is finite."""
    lr = np.geomspace(1e-6, 1.0, 100)
    losses = fall(lr, centre=1e-3, rise=10.0)

    lasting = sweep(workload(loss=scripted(lambda i: bad if i >= 30 else losses[i])), num_iter=100)
    once = sweep(workload(loss=scripted(lambda i: bad if i == 40 else losses[i])), num_iter=100)
    at_once = sweep(workload(loss=scripted(lambda i: bad)), num_iter=100)

    assert (lasting.status, len(lasting)) == ("non-finite", 33)
    assert (once.status, len(once)) == ("range end", 100)
    assert not math.isfinite(once.loss[40])
    assert np.isfinite(once.smoothed()).all()
    assert (at_once.status, len(at_once)) == ("non-finite", 3)
    with pytest.raises(NoSuggestion):
        at_once.suggest()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("blow_up", [60, 75])
def test_trap_07_suggestion_keeps_away_from_the_nan(bad, blow_up):
    """Peers suggest the last lr before the NaN: ours is the one without it, a factor of 3 away at the least."""
    lr = np.geomspace(1e-6, 1.0, 100)
    losses = fall(lr, centre=1e-4, rise=math.inf)
    curve = LRCurve(lr[: blow_up + 3], [*losses[:blow_up], bad, bad, bad], "non-finite")

    assert curve.suggest().lr * 3 < lr[blow_up]


@pytest.mark.parametrize("shift", [-5.0, 100.0])
def test_trap_08_a_shifted_loss_stops_and_suggests_alike(shift):
    """Multiples of the best loss stop at once where it is negative, and never where it is large."""

    def run(by: float) -> LRCurve:
        work = workload(
            lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
            lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) + by,
            plain_network,
            train_loader=DataLoader(dataset(512), 32, shuffle=True),
        )
        return sweep(work, num_iter=100, start_lr=1e-5, end_lr=1e3)

    plain, shifted = run(0.0), run(shift)

    assert (plain.status, shifted.status) == ("diverged", "diverged")
    assert len(plain) == len(shifted)
    assert 40 < len(plain) < 100
    np.testing.assert_allclose(shifted.loss - shift, plain.loss, rtol=1e-3, atol=1e-4)
    assert shifted.suggest().lr == pytest.approx(plain.suggest().lr, rel=1e-2)


def test_trap_09_smoothing_and_stopping_know_no_global_step():
    """A constant stays itself from the first value on; a sweep at step 1000 is a whole one, the same as a cold one."""
    np.testing.assert_allclose(smooth(np.geomspace(1e-6, 1, 50), np.ones(50)), 1.0, rtol=1e-12)
    cold, warm = (workload(lambda m: torch.optim.SGD(m.parameters(), lr=0.1)) for _ in range(2))
    train(warm, 1000)
    with torch.no_grad():  # the same model again, an old optimizer and loader
        for mine, theirs in zip(warm.model.state_dict().values(), cold.model.state_dict().values(), strict=True):
            mine.copy_(theirs)
    scheduler = torch.optim.lr_scheduler.StepLR(warm.optimizer, 10)
    scheduler.last_epoch = 1000

    torch.manual_seed(7)
    first = sweep(cold, num_iter=100)
    torch.manual_seed(7)
    late = sweep(warm, num_iter=100)

    assert (late.status, late.loss.tolist()) == (first.status, first.loss.tolist())
    assert len(late) == 100


@pytest.mark.parametrize("mode", ["exp", "linear"])
def test_trap_10_the_rate_recorded_is_the_rate_used(mode):
    """Item by item in every group, the first and the last exactly as asked; start at or above end is refused."""
    work = workload(
        lambda m: torch.optim.SGD([{"params": m[0].parameters(), "lr": 0.01}, {"params": m[1:].parameters()}], lr=0.1)
    )
    used: list[list[float]] = []
    work.optimizer.register_step_pre_hook(lambda opt, *_: used.append([group["lr"] for group in opt.param_groups]))

    curve = sweep(work, start_lr=1e-5, end_lr=0.3, step_mode=mode)

    assert np.array(used).T.tolist() == curve.group_lrs.tolist()
    assert curve.lr.tolist() == curve.group_lrs[1].tolist()
    assert (curve.lr[0], curve.lr[-1]) == (1e-5, 0.3)
    for start, end in ((0.3, 1e-5), (0.3, 0.3)):
        with pytest.raises(ValueError, match=rf"got start_lr={start!r}, end_lr={end!r}"):
            sweep(work, start_lr=start, end_lr=end)


@pytest.mark.parametrize("factor", [1e-3, 0.1, 30.0])
def test_trap_11_rates_are_read_on_a_log_axis(factor):
    """All rates times c: the suggestion times c. A dip behind the divergence changes nothing."""
    lr = np.geomspace(1e-5, 3.0, 100)
    rng = np.random.default_rng(0)
    losses = fall(lr) + rng.normal(0, 0.01, 100)
    plain = LRCurve(lr, losses, "diverged").suggest()

    scaled = LRCurve(lr * factor, losses, "diverged").suggest()
    losses[97] = losses[:90].min() - 0.02
    dipped = LRCurve(lr, losses, "diverged").suggest()

    for field in ("lr", "low", "high"):
        assert getattr(scaled, field) == pytest.approx(getattr(plain, field) * factor, rel=1e-9)
    assert 0.01 < plain.lr < 1.0
    assert dipped.lr == pytest.approx(plain.lr, rel=0.02)


def test_trap_12_neither_steps_nor_noise_move_the_suggestion():
    """50, 100, 400 and 1000 steps, 50 seeds: medians within 1.3, 90 % within 1.6 of the noiseless pick, which the
    stated range covers in at least 90 %."""
    medians, inside, covered = [], [], []
    for steps in (50, 100, 400, 1000):
        lr = np.geomspace(1e-5, 3.0, steps)
        truth = LRCurve(lr, fall(lr), "diverged").suggest().lr
        picks = [
            LRCurve(lr, fall(lr) + np.random.default_rng(seed).normal(0, 0.03, steps), "diverged").suggest()
            for seed in range(50)
        ]
        medians.append(np.median([pick.lr for pick in picks]))
        inside += [truth / 1.6 < pick.lr < truth * 1.6 for pick in picks]
        covered += [pick.low <= truth <= pick.high for pick in picks]

    assert max(medians) / min(medians) < 1.3
    assert np.mean(inside) >= 0.9
    assert np.mean(covered) >= 0.9


@pytest.mark.parametrize("batches", [1, 3, 20])
@pytest.mark.parametrize("num_iter", [10, 11, 23, 50, 100])
def test_trap_13_short_loaders_and_short_sweeps(batches, num_iter):
    """Whatever the sizes: a status that is true, never an exception; a number only with what it rests on."""
    for end_lr in (1e-4, 1e5):
        work = workload(train_loader=DataLoader(dataset(8 * batches), 8, shuffle=True))
        curve = sweep(work, num_iter=num_iter, end_lr=end_lr)

        if end_lr < 1:
            assert (curve.status, len(curve)) == ("range end", num_iter)
        assert curve.status in ("diverged", "range end", "non-finite", "too few points")
        with contextlib.suppress(NoSuggestion):
            pick = curve.suggest()
            assert curve.lr[0] <= pick.lr <= curve.lr[-1]
            assert pick.evidence


def test_trap_14_groups_keep_their_ratio():
    """Groups at 1e-4 and 1e-3 are a factor of 10 apart at every step, and in the suggestion."""
    work = workload(
        lambda m: torch.optim.Adam([{"params": m[0].parameters(), "lr": 1e-4}, {"params": m[1:].parameters()}], lr=1e-3)
    )

    curve = sweep(work, num_iter=100, end_lr=10.0, start_lr=1e-5)

    np.testing.assert_allclose(curve.group_lrs[1] / curve.group_lrs[0], 10, rtol=1e-12)
    low, high = curve.suggest().group_lrs
    assert high / low == pytest.approx(10)


@pytest.mark.parametrize("fused", [False, True])
def test_trap_16_a_skipped_step_is_no_point(fused):
    """Overflows at steps 0, 1 and 5: ten steps of the loop, seven points, also where a fused step() runs anyway."""
    overflow = {0, 1, 5}
    calls, points = itertools.count(), []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(outputs, targets)
        return value * math.inf if next(calls) in overflow else value

    work = workload(
        lambda m: torch.optim.AdamW(m.parameters(), fused=fused), loss, grad_scaler=torch.amp.GradScaler("cpu")
    )

    def on_point(lr: float, value: float) -> bool:
        points.append(value)
        return len(points) == 7

    sweep(work, on_point=on_point)

    assert next(calls) == 10
    assert np.isfinite(points).all()


def test_trap_17_accumulation_is_one_large_batch():
    """One rate and one point per optimizer step; the loss is the mean by size, the gradient that of the large batch."""
    batches = [dataset()[start : start + size] for start, size in ((0, 8), (8, 8), (16, 5), (21, 1))] * 2
    batches += batches[:2]  # ten batches in groups of four: 4, 4, 2

    def make(loader: list[Any], steps: int) -> Workload:
        return workload(
            lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
            make=plain_network,
            train_loader=loader,
            accumulation_steps=steps,
        )

    groups = [batches[:4], batches[4:8], batches[8:]]
    large = [tuple(torch.cat(parts) for parts in zip(*group, strict=True)) for group in groups]
    work, whole = make(batches, 4), make(large, 1)
    used: list[float] = []
    gradients: dict[int, list[list[Tensor]]] = {id(work): [], id(whole): []}
    work.optimizer.register_step_pre_hook(lambda opt, *_: used.append(opt.param_groups[0]["lr"]))
    for one in (work, whole):
        one.optimizer.register_step_pre_hook(
            lambda opt, *_, one=one: gradients[id(one)].append([p.grad.clone() for p in one.model.parameters()])
        )

    curve, expected = sweep(work, num_iter=12, end_lr=0.1), sweep(whole, num_iter=12, end_lr=0.1)

    assert used == curve.lr.tolist()
    np.testing.assert_allclose(curve.loss, expected.loss, rtol=1e-5)
    for mine, theirs in zip(gradients[id(work)], gradients[id(whole)], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_trap_18_a_ragged_last_batch_is_no_spike():
    """193 samples in batches of 16: the odd one, of a loss far from the others', neither stops the sweep nor moves
    the suggestion much."""
    x, y = dataset(193)[:]

    def run(spike: float) -> LRCurve:
        def loss(outputs: Tensor, targets: Tensor) -> Tensor:  # the same gradients with and without the spike
            return nn.functional.cross_entropy(outputs, targets) + spike * (len(targets) == 1)

        work = workload(
            lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
            loss,
            plain_network,
            train_loader=DataLoader(TensorDataset(2 * x, y), 16),
        )
        return sweep(work, num_iter=200, start_lr=1e-4, end_lr=1e2)

    plain, spiked = run(0.0), run(2.0)

    assert (spiked.loss[12::13] - plain.loss[12 : len(spiked) : 13]).min() > 1.9
    assert (plain.status, spiked.status) == ("diverged", "diverged")
    assert abs(len(plain) - len(spiked)) <= 10
    assert 1 / 1.5 < spiked.suggest().lr / plain.suggest().lr < 1.5


@pytest.mark.parametrize(
    ("loader", "used"),
    [
        (DataLoader(dataset(33), 16), range(33)),
        (DataLoader(dataset(33), 16, drop_last=True), range(32)),
        (DataLoader(dataset(33), 8, sampler=SubsetRandomSampler(range(3, 20))), range(3, 20)),
    ],
    ids=["ragged", "dropped", "subset"],
)
def test_trap_18_validation_divides_by_what_was_read(loader, used):
    """Not by the size of the data set, which drop_last and samplers make wrong (0.53 of the true value)."""
    work = workload(make=plain_network, val_loader=loader)
    x, y = dataset(33)[list(used)]
    expected = nn.functional.cross_entropy(work.model(x), y).item()

    curve = sweep(work, val_batches="all", start_lr=1e-12, end_lr=1e-11, num_iter=10)

    assert work.evaluate()["loss"] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(curve.loss, expected, rtol=1e-5)


class Counting(IterableDataset[Any]):
    """Goes on where it stood, for ever."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[Any]:
        data = dataset()
        while True:
            self.position += 1
            yield data[self.position % 64]


class Piped(IterableDataset[Any]):
    """Reads an iterator that nobody can wind back."""

    def __init__(self) -> None:
        data = dataset()
        self.source = (data[index % 64] for index in itertools.count())

    def __iter__(self) -> Iterator[Any]:
        return self.source


def test_trap_19_a_stream_is_wound_back():
    """Samples that the sweep has read are read again by training: 40 steps of 8, and the stream stands at 0."""
    stream = Counting()
    work = workload(train_loader=DataLoader(stream, 8))

    curve = sweep(work)

    assert len(curve) == 40
    assert stream.position == 0
    assert curve.facts["notes"] == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Piped(), 8),
        lambda: iter(list(DataLoader(dataset(), 8)) * 10),
        lambda: TrainDataLoaderIter(DataLoader(Piped(), 8)),
    ],
    ids=["data set", "iterator", "torch-lr-finder's"],
)
def test_trap_19_what_cannot_be_wound_back_is_said(make):
    """Nobody can rewind a generator: the curve says how many steps' samples training will miss."""
    curve = sweep(workload(train_loader=make()))

    assert len(curve) == 40
    assert len(curve.facts["notes"]) == 1
    assert "cannot be rewound: training will not see the batches of these 40 steps" in curve.facts["notes"][0]
