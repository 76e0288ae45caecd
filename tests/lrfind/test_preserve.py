"""Tests of lrfind.preserve: what is put back, in which objects, and what happens when that fails.

That training goes on as if nothing had been is tested in test_transparent.py.
"""

from __future__ import annotations

import gc
import logging
import math
import signal
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset, WeightedRandomSampler

from lrfind import Workload, preserve, range_test
from lrfind.batches import endless
from lrfind.preserve import Snapshot

BATCHES = 6


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(48, 3, generator=generator)
    return TensorDataset(x, x.sum(dim=1, keepdim=True))


def workload(model: nn.Module | None = None, *, warm: int = 0, **settings: Any) -> Workload:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)) if model is None else model
    optimizer = settings.pop("optimizer", None) or torch.optim.Adam(model.parameters(), lr=0.01)
    if "loss_fn" not in settings:
        settings.setdefault("criterion", nn.MSELoss())
    settings.setdefault("train_loader", DataLoader(dataset(), 8, shuffle=True))
    work = Workload(model, optimizer, **settings)
    steps(work, warm)
    return work


def steps(work: Workload, count: int) -> None:
    for group in islice(endless(work.batches(), work.accumulation_steps), count):
        work.step(group)


def bits(work: Workload) -> list[Any]:
    """Return every tensor of model and optimizer with the object it lives in."""
    states = [value for state in work.optimizer.state.values() for value in state.values()]
    tensors = [*work.model.state_dict(keep_vars=True).values(), *states]
    return [(id(value), value.detach().clone()) for value in tensors if isinstance(value, Tensor)]


def equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        mine == yours and torch.equal(a, b) for (mine, a), (yours, b) in zip(one, other, strict=True)
    )


def leave_by(error: BaseException, work: Workload, change: Callable[[], Any] = lambda: None) -> None:
    """Step and change within ``preserve``, then raise."""
    with preserve(work):
        steps(work, 3)
        change()
        raise error


# -- the context manager ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize("where", ["device", "cpu", "folder"])
def test_put_back_on_exit(where, warm, tmp_path):
    """The same tensor objects hold the same bits, wherever the copy lay; its files are gone."""
    work = workload(warm=warm)
    before, random = bits(work), torch.get_rng_state()

    with preserve(work, tmp_path if where == "folder" else where):
        steps(work, 3)
        assert not equal(bits(work), before)

    assert equal(bits(work), before)
    assert torch.equal(torch.get_rng_state(), random)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_put_back_on_an_error(error):
    """An exception of any kind goes on outwards, past a workload that is as it was."""
    work = workload(warm=2)
    before = bits(work)

    with pytest.raises(error):
        leave_by(error(), work)

    assert equal(bits(work), before)


def test_nested():
    """The inner one goes back to where it began, the outer one to where that began."""
    work = workload()
    outer = bits(work)

    with preserve(work):
        steps(work, 2)
        inner = bits(work)
        with preserve(work):
            steps(work, 2)
        assert equal(bits(work), inner)

    assert equal(bits(work), outer)


def test_restore_as_often_as_wanted():
    """From the same start the same steps, on the same batches or, without data, on others."""
    work = workload(warm=2)
    ends = []

    with preserve(work) as start:
        for data in (True, True, False):
            steps(work, 3)
            ends.append(bits(work))
            start.restore(data=data)
        steps(work, 3)
        other = bits(work)

    assert equal(ends[0], ends[1])
    assert equal(ends[1], ends[2])
    assert not all(torch.equal(a, b) for (_, a), (_, b) in zip(ends[2], other, strict=True))


def test_the_copy_is_freed_at_the_end():
    """Once the context is left nothing holds the second copy, without waiting for the garbage collector."""
    work = workload(warm=2)
    gc.disable()
    try:
        with preserve(work) as start:
            steps(work, 1)
        copy = weakref.ref(start)
        del start
        assert copy() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("where", ["gpu", None, "/no/such/folder"])
def test_unknown_place_is_refused(where):
    """The message names the places there are."""
    with pytest.raises(ValueError, match=r"'device', 'cpu' or the Path of an existing folder; got "):
        Snapshot(workload(), where)


# -- gradients and scaler --------------------------------------------------------------------------------------


def test_gradients_are_the_same_tensors():
    """A gradient that was there is the same tensor with the same bits; one that was None is None."""
    work = workload()
    weight, bias = work.model[0].weight, work.model[0].bias
    weight.grad = torch.full_like(weight, 7.0)
    kept = weight.grad

    with preserve(work):
        assert weight.grad is None
        steps(work, 2)
        assert bias.grad is not None

    assert weight.grad is kept
    assert (kept == 7).all()
    assert all(p.grad is None for p in work.model.parameters() if p is not weight)


def test_gradient_of_a_parameter_outside_the_optimizer_is_not_added_to():
    """Nobody clears such a gradient between repeats; what accumulates must not be the user's tensor."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    work = workload(model, optimizer=torch.optim.SGD(model[1].parameters(), lr=0.01))
    model[0].weight.grad = torch.ones_like(model[0].weight)
    kept = model[0].weight.grad

    range_test(work, repeats=3, num_iter=10, progress=False)

    assert model[0].weight.grad is kept
    assert (kept == 1).all()


def test_parameter_outside_the_model_is_put_back():
    """An optimizer may hold more than the model: a temperature, a second network that the loss names."""
    model, critic, temperature = nn.Linear(3, 1), nn.Linear(1, 1), nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    of_critic = torch.optim.Adam(critic.parameters(), lr=0.1)
    noise = torch.Generator().manual_seed(1)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        out = model(batch[0] + torch.randn(batch[0].shape, generator=noise))
        of_critic.zero_grad()
        critic(out.detach()).square().mean().backward()
        of_critic.step()
        return (temperature * out - batch[1]).square().mean() + critic(out).mean()

    work = workload(model, optimizer=optimizer, loss_fn=loss_fn)
    before = [temperature.item(), critic.weight.item(), noise.get_state().tolist(), len(of_critic.state)]

    with preserve(work):
        steps(work, 3)
        assert temperature.item() != before[0]

    assert [temperature.item(), critic.weight.item(), noise.get_state().tolist(), len(of_critic.state)] == before
    assert all(p.grad is None for p in (temperature, *critic.parameters()))


def scaler() -> torch.amp.GradScaler:
    made = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    made.load_state_dict(made.state_dict() | {"_growth_tracker": 3})
    return made


@pytest.mark.parametrize("used", [False, True])
def test_scaler_is_as_it_was(used):
    """Scale 2**10 and tracker 3, in the same tensors where it had any; an overflow in the body changes nothing."""
    work = workload(grad_scaler=scaler())
    if used:
        work.grad_scaler.scale(torch.ones(()))  # makes its tensors
    before = dict(vars(work.grad_scaler))

    with preserve(work):
        steps(work, 2)
        work.model[0].weight.data.fill_(math.inf)
        steps(work, 1)
        assert work.grad_scaler.get_scale() < 2.0**10

    assert work.grad_scaler.state_dict()["scale"] == 2.0**10
    assert work.grad_scaler.state_dict()["_growth_tracker"] == 3
    assert all(vars(work.grad_scaler)[name] is value for name, value in before.items())


def test_scaler_forgets_an_unfinished_step():
    """An error between unscale_ and update leaves no word that the gradients are unscaled already."""
    work = workload(grad_scaler=scaler(), clip_grad_norm=1.0)

    def fail(*_: Any) -> None:
        raise RuntimeError("in the step")

    handle = work.optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the step"):
        leave_by(AssertionError("not reached"), work)
    handle.remove()

    steps(work, 1)  # torch raises "unscale_() has already been called" otherwise


# -- optimizer -------------------------------------------------------------------------------------------------


def test_optimizer_that_a_scheduler_has_wrapped():
    """`step` stays the wrapped one, `initial_lr` stays, and torch still warns of steps in the wrong order."""
    work = workload()
    scheduler = torch.optim.lr_scheduler.StepLR(work.optimizer, 5)
    step, keys = work.optimizer.step, list(work.optimizer.param_groups[0])

    range_test(work, num_iter=10, progress=False)

    assert work.optimizer.step is step
    assert list(work.optimizer.param_groups[0]) == keys
    assert "initial_lr" in keys
    with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\)` before `optimizer.step\(\)"):
        scheduler.step()


def test_optimizer_without_a_scheduler():
    """No `initial_lr` and no wrapped `step` is left behind, and groups keep their keys in order."""
    work = workload()
    keys, attributes = list(work.optimizer.param_groups[0]), list(vars(work.optimizer))

    range_test(work, num_iter=10, progress=False)

    assert list(work.optimizer.param_groups[0]) == keys
    assert list(vars(work.optimizer)) == attributes
    assert "step" not in attributes


def test_groups_that_come_and_go():
    """A group added in the body is gone again, with its parameter's state."""
    work = workload(warm=1)
    groups, states = list(map(id, work.optimizer.param_groups)), len(work.optimizer.state)

    with preserve(work):
        work.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
        steps(work, 1)

    assert list(map(id, work.optimizer.param_groups)) == groups
    assert len(work.optimizer.state) == states


# -- attributes ------------------------------------------------------------------------------------------------


class Slotted:
    """Keeps its attributes in slots, a private one among them."""

    __slots__ = ("__hidden", "late", "seen")

    def __init__(self) -> None:
        self.seen, self.__hidden = 0, 0

    def note(self) -> None:
        self.seen += 1
        self.__hidden += 1
        self.late = self.__hidden

    def noted(self) -> tuple[int, int, bool]:
        return self.seen, self.__hidden, hasattr(self, "late")


class Busy:
    """Holds a lock: somebody else may be using it."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0


class Holder(nn.Linear):
    """Counts its calls in objects of several kinds."""

    def __init__(self) -> None:
        super().__init__(3, 1)
        self.slotted, self.busy = Slotted(), Busy()
        self.space = types.SimpleNamespace(calls=0)
        self.logger = logging.getLogger("tests.lrfind.holder")
        self.seen: set[int] = set()
        self.myself = self

    def forward(self, x: Tensor) -> Tensor:
        self.slotted.note()
        self.busy.count += 1
        self.space.calls += 1
        self.seen.add(len(self.seen))
        self.logger.getChild(f"call{len(self.seen)}")
        return super().forward(x)


def test_plain_objects_go_back_and_living_ones_stay():
    """Slots, namespaces, sets: put back. What holds a lock, and Python's own registries: left alone."""
    model = Holder()
    work = workload(model)

    with preserve(work):
        steps(work, 3)

    assert model.slotted.noted() == (0, 0, False)
    assert model.space.calls == 0
    assert model.seen == set()
    assert model.busy.count == 3
    assert logging.getLogger("tests.lrfind.holder.call2") is logging.getLogger("tests.lrfind.holder").getChild("call2")
    assert "tests.lrfind.holder.call2" in logging.Logger.manager.loggerDict


def test_functions_give_back_what_they_draw_from_and_keep_what_they_collect():
    """A generator that a loss function names goes back; a list that it fills is the caller's."""
    collected: list[float] = []
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()

    def helper(x: Tensor) -> Tensor:
        return x + torch.randn(x.shape, generator=generator)

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        collected.append(0.0)
        return (model(helper(batch[0])) - batch[1]).square().mean()

    with preserve(work := workload(loss_fn=loss_fn)):
        steps(work, 3)

    assert torch.equal(generator.get_state(), state)
    assert len(collected) == 3


def test_object_whose_method_is_the_loss():
    """The object behind a bound method belongs to the workload, and so does a callable one."""

    class Trainer:
        def __init__(self) -> None:
            self.calls, self.centre = 0, torch.zeros(3)

        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            self.calls += 1
            self.centre += batch[0].mean(dim=0)
            return (model(batch[0] - self.centre) - batch[1]).square().mean()

        __call__ = loss

    for choose in (lambda trainer: trainer.loss, lambda trainer: trainer):
        trainer = Trainer()
        work = workload(loss_fn=choose(trainer))
        with preserve(work):
            steps(work, 3)
            assert trainer.calls == 3
        assert trainer.calls == 0
        assert (trainer.centre == 0).all()


def test_samples_are_not_copied():
    """A data set's tensors are data, whatever holds them; a sampler's weights are state."""

    class Relabelled(Dataset[Any]):
        def __init__(self) -> None:
            self.data, self.passes = dataset(), 0

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> Any:
            return self.data[index]

    data, sampler = Relabelled(), WeightedRandomSampler(torch.ones(48), 48)
    work = workload(train_loader=DataLoader(data, 8, sampler=sampler))

    with preserve(work):
        data.data.tensors[1].zero_()
        data.passes = 1
        sampler.weights.zero_()

    assert (data.data.tensors[1] == 0).all()
    assert data.passes == 0
    assert (sampler.weights == 1).all()


def test_long_cache_is_emptied_without_being_searched():
    """What a data set has cached is forgotten; thousands of samples are not walked through."""

    class Sample:
        def __init__(self) -> None:
            self.reads = 0

    class Cached(Dataset[Any]):
        def __init__(self) -> None:
            self.data, self.cache = dataset(), {}
            self.samples = [Sample() for _ in range(2000)]

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> Any:
            self.samples[index].reads += 1
            return self.cache.setdefault(index, self.data[index])

    data = Cached()
    with preserve(work := workload(train_loader=DataLoader(data, 8))):
        steps(work, 3)

    assert data.cache == {}
    assert data.samples[0].reads == 1


def test_compiled_model():
    """A module under torch.compile trains on as if never swept, without being compiled again."""
    torch._dynamo.reset()
    compilations = []

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        compilations.append(graph)
        return graph.forward

    model = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), backend=backend)
    work = workload(model, warm=2)
    before, compiled = bits(work), len(compilations)

    range_test(work, num_iter=10, progress=False)

    assert equal(bits(work), before)
    steps(work, 2)
    assert len(compilations) == compiled


class Best:
    """A metric that remembers its best value."""

    def __init__(self) -> None:
        self.value, self.best = 0.0, 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.value += 1.0

    def compute(self) -> float:
        self.best = max(self.best, self.value)
        return self.value

    def reset(self) -> None:
        self.value = 0.0


def test_metrics_forget_what_they_saw():
    """Validation within the body leaves no record behind."""
    best = Best()
    work = workload(metrics={"best": best}, val_loader=DataLoader(dataset(), 8))

    with preserve(work):
        assert work.evaluate()["best"] == best.best == 6.0

    assert (best.value, best.best) == (0.0, 0.0)


# -- loaders ---------------------------------------------------------------------------------------------------


class Drawing(Dataset[Any]):
    """Draws noise in whichever process reads it."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Any:
        x = torch.randn(3) + index
        return x, x.sum(0, keepdim=True)


class Backwards(Sampler[int]):
    """Counts down, and remembers where it is."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.place = (self.place - 1) % 48
            yield self.place

    def __len__(self) -> int:
        return 48


def test_restore_winds_workers_back():
    """Workers that outlive an epoch have random states of their own: after a restore they draw the same again."""
    loader = DataLoader(Drawing(), 8, shuffle=True, num_workers=1, persistent_workers=True)
    work = workload(train_loader=loader, warm=1)
    mine = loader._iterator
    read = []

    with preserve(work) as start:
        for _ in range(2):
            read.append(torch.cat([x for x, _ in loader]))
            start.restore()

    assert torch.equal(*read)
    assert loader._iterator is mine


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"shuffle": True, "generator": torch.Generator().manual_seed(1)},
        {"sampler": Backwards()},
        {"shuffle": True, "num_workers": 1, "persistent_workers": True},
    ],
    ids=["shuffled", "generator", "place", "persistent workers"],
)
def test_sweep_in_the_middle_of_an_epoch(options):
    """An iterator that the caller is half through goes on as if there had been no sweep."""

    def rest(sweep: bool) -> list[Tensor]:
        torch.manual_seed(0)
        if "generator" in options:
            options["generator"].manual_seed(1)
        if "sampler" in options:
            options["sampler"].place = 0
        loader = DataLoader(Drawing(), 8, **options)
        work = workload(train_loader=loader)
        batches = iter(loader)
        torch.manual_seed(1)
        read = [next(batches)[0] for _ in range(2)]
        if sweep:
            range_test(work, num_iter=10, progress=False)
        return read + [x for x, _ in islice(batches, 4)]

    assert all(map(torch.equal, rest(sweep=True), rest(sweep=False)))


# -- when putting back goes wrong ------------------------------------------------------------------------------


class Stubborn(dict):
    """A dict that cannot be emptied."""

    def clear(self) -> None:
        raise RuntimeError("I will not")


def test_one_failure_does_not_keep_the_rest_from_going_back():
    """All else is as it was, and the error says what failed, also on the way out of another error."""
    work = workload(warm=1)
    work.model.stubborn = Stubborn()
    weight = work.model[0].weight
    weight.grad = torch.ones_like(weight)
    before = bits(work)

    with pytest.raises(ExceptionGroup, match="1 parts of the workload could not be put back") as group:
        leave_by(ValueError("in the body"), work, lambda: work.model.stubborn.update(new=1))

    assert "I will not" in str(group.value.exceptions[0])
    assert isinstance(group.value.__context__, ValueError)
    assert equal(bits(work), before)
    assert weight.grad is not None


class Interrupting(dict):
    """A dict during whose change the user presses Ctrl-C."""

    def clear(self) -> None:
        signal.raise_signal(signal.SIGINT)
        super().clear()


def test_ctrl_c_while_putting_back_waits():
    """Everything is as it was before KeyboardInterrupt goes out; the handler is the one from before."""
    work = workload(warm=1)
    work.model.interrupting = Interrupting()
    before, handler = bits(work), signal.getsignal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), preserve(work):  # noqa: PT012  # what is tested happens on the way out
        steps(work, 2)
        work.model.interrupting["new"] = 1

    assert equal(bits(work), before)
    assert work.model.interrupting == {}
    assert signal.getsignal(signal.SIGINT) is handler


def test_in_another_thread():
    """Only the main thread may set signal handlers: elsewhere a sweep goes without, and puts back as well."""
    work = workload(warm=1)
    before = bits(work)
    curves = []

    thread = threading.Thread(target=lambda: curves.append(range_test(work, num_iter=10, progress=False)))
    thread.start()
    thread.join()

    assert len(curves[0]) == 10
    assert equal(bits(work), before)
