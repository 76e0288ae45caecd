"""Promise 1: training after a range test equals training without one, bit for bit, however the sweep ends.

A zoo of models, optimizers and loaders, each trained 20 steps twice: with a sweep before, and without.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from torch_lr_finder import TrainDataLoaderIter

from lrfind import Workload, range_test
from lrfind.batches import endless

FEATURES, CLASSES, SAMPLES, BATCH = 6, 3, 80, 8
STEPS = 20

# ---------------------------------------------------------------------------------------------------------------
# Models: each keeps some state of its own kind.
# ---------------------------------------------------------------------------------------------------------------


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES))


class BatchNorms(nn.Module):
    """One BatchNorm that learns, one frozen by eval(), and a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)
        self.live, self.frozen = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.frozen.eval()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.last(self.frozen(self.live(self.first(x))).relu()) / (1 + 0.01 * self.seen)


class Recurrent(nn.Module):
    """An LSTM that goes on from the hidden state of the batch before: a tuple bound anew, a list changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(1, 5, batch_first=True), nn.Linear(5, CLASSES)
        self.state: tuple[Tensor, Tensor] | None = None
        self.means = [torch.zeros(5), {"slow": torch.zeros(5)}]

    def forward(self, x: Tensor) -> Tensor:
        fits = self.state is not None and self.state[0].shape[1] == len(x)
        out, state = self.lstm(x.unsqueeze(-1), self.state if fits else None)
        self.state = (state[0].detach(), state[1].detach())
        self.means[0].mul_(0.9).add_(out.detach().mean(dim=(0, 1)))
        self.means[1]["slow"].mul_(0.99).add_(self.means[0])
        return self.last(out[:, -1] + self.means[0] + self.means[1]["slow"])


class Statistics:
    """A plain object, with and without a dictionary for its attributes."""

    __slots__ = ("__dict__", "calls")

    def __init__(self) -> None:
        self.calls = 0
        self.mean = torch.zeros(FEATURES)
        self.array = np.zeros(FEATURES)
        self.history: list[float] = []
        self.kinds: Counter[str] = Counter()


class Counting(nn.Module):
    """Python counters and plain objects that the forward pass reads and moves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()
        self.calls = 0
        self.statistics = Statistics()

    def forward(self, x: Tensor) -> Tensor:
        own = self.statistics
        self.calls += 1
        own.calls += 1
        own.mean += x.mean(dim=0)
        own.array += 1
        own.history.append(float(x[0, 0]))
        own.kinds["forward"] += 1
        scale = 1 + 0.01 * (self.calls + own.calls + len(own.history) + own.kinds["forward"] + own.array[0])
        return self.net(x + 0.01 * own.mean) / scale


class Tied(nn.Module):
    """One weight under two names, and a buffer that is one number seen six times."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.two.weight = self.one.weight
        self.last = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("expanded", torch.full((1,), 0.1).expand(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.expanded[:1] += 0.01
        return self.last(self.two(self.one(x).relu()) + self.expanded)


def normed() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(FEATURES, 8)),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(8, 8)),
        torch.nn.utils.spectral_norm(nn.Linear(8, CLASSES)),
    )


class Words(nn.Module):
    """Embeddings read sparsely, one of which the forward pass itself renormalises."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(8, CLASSES, sparse=sparse)
        self.normed = nn.Embedding(8, CLASSES, max_norm=0.5, sparse=sparse)

    def forward(self, x: Tensor) -> Tensor:
        words = (x * 2).round().long().clamp(-4, 3) + 4
        return (self.words(words) + self.normed(words)).mean(dim=1)


def lazy() -> nn.Module:
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(CLASSES))
    model(torch.zeros(4, FEATURES))
    return model


class Growing(nn.Module):
    """Makes a buffer, a submodule and a hook at its first call; unfreezes a layer at its fifth."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)
        self.first.requires_grad_(False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.ones(8))
            self.norm = nn.BatchNorm1d(8, affine=False)
            self.last.register_forward_hook(lambda module, args, out: out * 1.5)
        self.calls += 1
        if self.calls == 5:
            self.first.requires_grad_(True)
        self.scale *= 1.01
        return self.last(self.norm(self.first(x)) * self.scale)


class Noisy(nn.Module):
    """Noise from every kind of generator that a model may own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()
        self.generators = {
            "torch": torch.Generator().manual_seed(3),
            "numpy": np.random.default_rng(3),
            "legacy": [np.random.RandomState(3), random.Random(3)],
        }

    def forward(self, x: Tensor) -> Tensor:
        own = self.generators
        x = x + 0.1 * torch.randn(x.shape, generator=own["torch"])
        legacy = own["legacy"][0].normal() + own["legacy"][1].random()
        return self.net(x + 0.1 * (own["numpy"].normal() + legacy + np.random.rand() + random.random()))  # noqa: NPY002


class Replaced(nn.Module):
    """Puts another tensor into a buffer, under its name and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("grown", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=0)
        self.grown.data = torch.cat([self.grown.data, x.detach()[:1, 0]])
        return self.net(x - self.mean + self.grown.mean())


class Teacher(nn.Module):
    """Modules out of sight of ``.modules()``: in a list, and behind a plain object, with a step of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()
        self.hidden = [nn.BatchNorm1d(FEATURES, affine=False)]
        self.statistics = Statistics()
        self.statistics.average = nn.Linear(FEATURES, CLASSES).requires_grad_(False)
        self.critic = nn.Linear(CLASSES, 1)
        self.other_optimizer = torch.optim.Adam(self.critic.parameters())

    def forward(self, x: Tensor) -> Tensor:
        teacher = self.statistics.average
        out = self.net(self.hidden[0](x))
        with torch.no_grad():
            teacher.weight.lerp_(torch.ones_like(teacher.weight), 0.01)
        if self.training:
            with torch.enable_grad():
                self.critic(out.detach()).square().mean().backward()
            self.other_optimizer.step()
            self.other_optimizer.zero_grad()
        return out + teacher(x) + self.critic(out).detach()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "dropout": perceptron,
    "batchnorms": BatchNorms,
    "recurrent": Recurrent,
    "counting": Counting,
    "tied": Tied,
    "normed": normed,
    "words": lambda: Words(sparse=False),
    "lazy": lazy,
    "growing": Growing,
    "noisy": Noisy,
    "replaced": Replaced,
    "teacher": Teacher,
}

# ---------------------------------------------------------------------------------------------------------------
# Optimizers
# ---------------------------------------------------------------------------------------------------------------


def two_groups(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:1], "lr": 0.001}, {"params": parameters[1:], "lr": 0.01}]


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.05),
    "nesterov": lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True),
    "foreach": lambda m: torch.optim.SGD(two_groups(m), momentum=0.9, foreach=True),
    "fused sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, fused=True),
    "adam": lambda m: torch.optim.Adam(two_groups(m), amsgrad=True),
    "tensor lr": lambda m: torch.optim.Adam(m.parameters(), lr=torch.tensor(0.01), foreach=False),
    "tensor betas": lambda m: torch.optim.Adam(
        m.parameters(), lr=0.01, betas=(torch.tensor(0.9), torch.tensor(0.99)), foreach=False
    ),
    "fused adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=torch.tensor(0.01), fused=True),
    "foreach adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, foreach=True),
    "nadam": lambda m: torch.optim.NAdam(m.parameters(), lr=0.01),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01, centered=True),
    "adagrad": lambda m: torch.optim.Adagrad(m.parameters(), lr=0.05, lr_decay=0.01),
    "adadelta": lambda m: torch.optim.Adadelta(m.parameters(), lr=0.5),
    "rprop": lambda m: torch.optim.Rprop(m.parameters(), lr=0.001),
    "asgd": lambda m: torch.optim.ASGD(m.parameters(), lr=0.01),
    "adafactor": lambda m: torch.optim.Adafactor(m.parameters(), lr=0.01),
}

# ---------------------------------------------------------------------------------------------------------------
# Loaders: each draws its order, or its samples, from somewhere else.
# ---------------------------------------------------------------------------------------------------------------


def data() -> TensorDataset:
    x = torch.randn(SAMPLES, FEATURES)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Noise on every sample, from torch, numpy, python and a generator of its own; counts its reads."""

    def __init__(self) -> None:
        self.data, self.reads = data(), 0
        self.rng = np.random.default_rng(7)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.data[index]
        self.reads += 1
        noise = torch.randn(()) + np.random.rand() + random.random() + self.rng.normal()  # noqa: NPY002
        return (x + 0.1 * noise + 0.001 * self.reads).float(), y


class Drawn:
    """A sampler from Python's and numpy's global states, which also reverses its order at every pass."""

    def __init__(self, size: int) -> None:
        self.size, self.passes = size, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        order = [random.randrange(self.size) for _ in range(self.size // 2)]
        order += np.random.permutation(self.size)[: self.size - len(order)].tolist()  # noqa: NPY002
        return iter(order if self.passes % 2 else order[::-1])


class Bucketed:
    """A batch sampler that hides its sampler, and its generator, under names of its own."""

    def __init__(self, size: int) -> None:
        self.rng = np.random.RandomState(11)
        self.inner = {"by length": [RandomSampler(range(size), generator=torch.Generator().manual_seed(11))]}

    def __iter__(self) -> Iterator[list[int]]:
        batches = list(BatchSampler(self.inner["by length"][0], BATCH, drop_last=True))
        self.rng.shuffle(batches)
        return iter(batches)

    def __len__(self) -> int:
        return SAMPLES // BATCH


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Goes on where it stood: what a sweep reads would be lost if its counter were not put back."""

    def __init__(self) -> None:
        self.data, self.position = data(), 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(24):
            self.position += 1
            yield self.data[self.position % SAMPLES]


class Wrapped:
    """A loader of the user's own around a DataLoader of torch's, without length."""

    def __init__(self) -> None:
        self.inner = DataLoader(data(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))
        self.epochs = 0

    def __iter__(self) -> Iterator[Any]:
        self.epochs += 1
        for x, y in self.inner:
            yield x + 0.01 * self.epochs, y


def shared_generator() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(9)
    sampler = RandomSampler(range(SAMPLES), replacement=True, num_samples=50, generator=generator)
    return DataLoader(data(), BATCH, sampler=sampler, generator=generator)


def nested() -> DataLoader[Any]:
    parts = ConcatDataset([Subset(Augmented(), range(30)), Augmented()])
    return DataLoader(Subset(parts, range(5, 105)), BATCH, shuffle=True)


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(data(), BATCH, shuffle=True),
    "generator": lambda: DataLoader(data(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(2)),
    "shared generator": shared_generator,
    "weighted": lambda: DataLoader(data(), BATCH, sampler=WeightedRandomSampler(torch.rand(SAMPLES), 60)),
    "augmented": lambda: DataLoader(Augmented(), BATCH, shuffle=True),
    "nested": nested,
    "drawn": lambda: DataLoader(data(), BATCH, sampler=Drawn(SAMPLES)),
    "bucketed": lambda: DataLoader(data(), batch_sampler=Bucketed(SAMPLES)),
    "stream": lambda: DataLoader(Stream(), BATCH),
    "chained streams": lambda: DataLoader(ChainDataset([Stream(), Stream()]), BATCH),
    "peer's iterator": lambda: TrainDataLoaderIter(DataLoader(data(), BATCH, shuffle=True)),
    "list": lambda: list(DataLoader(data(), BATCH)),
    "wrapped": Wrapped,
}
WORKERS: dict[str, Callable[[], Any]] = {
    "workers": lambda: DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2),
    "persistent workers": lambda: DataLoader(Augmented(), BATCH, shuffle=True, num_workers=2, persistent_workers=True),
}

# ---------------------------------------------------------------------------------------------------------------
# How a sweep ends
# ---------------------------------------------------------------------------------------------------------------


class StopError(Exception):
    """Raised by a test inside a sweep."""


class Tripwire(nn.Module):
    """A criterion that, once armed, raises at its tenth call, between forward and backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.calls, self.last, self.error = nn.CrossEntropyLoss(), 0, 0, None

    def arm(self, error: BaseException) -> None:
        self.last, self.error = self.calls + 10, error

    def disarm(self) -> None:
        self.last, self.error = 0, None

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        if self.error is not None and self.calls >= self.last:
            raise self.error
        return self.loss(outputs, targets)


SHORT: dict[str, Any] = {"start_lr": 1e-4, "end_lr": 1.0, "num_iter": 12, "progress": False}


def to_the_end(work: Workload) -> None:
    range_test(work, **SHORT)


def off_the_device(work: Workload) -> None:
    range_test(work, **SHORT, snapshot="cpu")


def blown_up(work: Workload) -> None:
    with np.errstate(all="ignore"):
        range_test(work, start_lr=1e3, end_lr=1e30, num_iter=12, stop_factor=math.inf, progress=False)


def caller_says_stop(work: Workload) -> None:
    assert range_test(work, **SHORT, on_point=lambda lr, loss: lr > 1e-2).status == "interrupted"


def repeated(work: Workload) -> None:
    assert len(range_test(work, **SHORT, repeats=3).replicates) == 2


def validated(work: Workload) -> None:
    range_test(work, **SHORT, val_batches=2)


def failed(work: Workload) -> None:
    work.criterion.arm(StopError("in the loss"))
    with pytest.raises(StopError, match="in the loss"):
        range_test(work, **SHORT)
    work.criterion.disarm()


def failed_in_the_step(work: Workload) -> None:
    def fail(optimizer: Any, args: Any, kwargs: Any) -> None:
        raise StopError("in the step")

    handle = work.optimizer.register_step_post_hook(fail)
    with pytest.raises(StopError, match="in the step"):
        range_test(work, **SHORT)
    handle.remove()


def interrupted(work: Workload) -> None:
    work.criterion.arm(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as stop:
        range_test(work, **SHORT)
    work.criterion.disarm()
    curve = stop.value.curve
    assert curve.status == "interrupted"
    assert 0 < len(curve) < SHORT["num_iter"]


ENDS = [
    to_the_end,
    off_the_device,
    blown_up,
    caller_says_stop,
    repeated,
    validated,
    failed,
    failed_in_the_step,
    interrupted,
]

# ---------------------------------------------------------------------------------------------------------------
# The oracle: what a workload is, without help from the code under test
# ---------------------------------------------------------------------------------------------------------------


def frozen(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """Return something to compare by ``==`` that holds every bit of a value, tensors' identity included."""
    if id(value) in seen:
        return "again"
    seen = (*seen, id(value))
    if isinstance(value, Tensor):
        content = value.to_dense() if value.layout is torch.sparse_coo else value
        bits = content.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        # A non-leaf is made anew by each pass that needs it; leaves are what others hold on to.
        return (id(value), tuple(value.shape), value.dtype, value.requires_grad, bits)
    if isinstance(value, np.ndarray):
        return (id(value), value.dtype.str, value.tobytes())
    if isinstance(value, dict):
        return [(str(k) if isinstance(k, str | int) else id(k), frozen(v, seen)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [frozen(part, seen) for part in value]
    if isinstance(value, set):
        return sorted(map(repr, value))
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False))
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if hasattr(value, "__dict__") and type(value).__module__.split(".")[0] in ("torch", __name__.split(".")[0]):
        slots = [name for name in getattr(type(value), "__slots__", ()) if name != "__dict__"]
        return [frozen(vars(value), seen), [frozen(getattr(value, name), seen) for name in slots]]
    return repr(value) if isinstance(value, int | float | str | bytes | bool | type(None)) else id(value)


def global_states() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": repr(np.random.get_state(legacy=False)),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
    }


def everything(work: Workload) -> dict[str, Any]:
    return {
        "model": frozen(work.model),
        "optimizer": frozen(work.optimizer),
        "criterion": frozen(work.criterion),
        "scaler": frozen(work.grad_scaler),
        "gradients": [(id(p.grad), frozen(p.grad)) for p in work.model.parameters()],
        "modes": [module.training for module in work.model.modules()],
        "hooks": [list(module._forward_hooks) for module in work.model.modules()],
        "train_loader": frozen(work.train_loader),
        "val_loader": frozen(work.val_loader),
    } | global_states()


def trained(work: Workload, steps: int = STEPS) -> tuple[list[float], dict[str, list[Any]]]:
    """Train by hand; return the losses and the bits of all that the model and the optimizer hold."""
    losses = []
    for batches in itertools.islice(endless(work.train_loader), steps):
        for x, y in batches:
            work.optimizer.zero_grad()
            loss = work.criterion(work.model(x), y)
            loss.backward()
            work.optimizer.step()
            losses.append(loss.item())
    return losses, held(work)


def held(work: Workload) -> dict[str, list[Any]]:
    state = work.optimizer.state_dict()["state"].values()
    return {
        "weights": [weight.detach().clone() for weight in work.model.parameters()],
        "buffers": [buffer.detach().clone() for buffer in work.model.buffers()],
        "optimizer": [value.clone() for values in state for value in values.values() if isinstance(value, Tensor)],
        "random": list(global_states().values()),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return one == other


def build(
    model: Callable[[], nn.Module] = perceptron,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = OPTIMIZERS["nesterov"],
    loader: Callable[[], Any] = LOADERS["shuffled"],
    *,
    warm: int = 0,
    **settings: Any,
) -> Workload:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    network = model()
    work = Workload(
        network,
        optimizer(network),
        Tripwire(),
        loader(),
        DataLoader(data(), BATCH, shuffle=True),
        **settings,
    )
    if warm:
        trained(work, warm)
    return work


def check(
    make: Callable[[], Workload],
    end: Callable[[Workload], None] = to_the_end,
    trained: Callable[[Workload], tuple[list[float], dict[str, list[Any]]]] = trained,
) -> None:
    """Nothing may differ after the sweep, and nothing in the 20 steps after it."""
    expected_losses, expected = trained(make())
    work = make()
    before = everything(work)

    end(work)

    after = everything(work)
    for part in before:
        assert before[part] == after[part], f"{part} is not as it was"
    losses, found = trained(work)
    assert losses == expected_losses
    for part in expected:
        assert len(found[part]) == len(expected[part])
        assert all(map(same, found[part], expected[part])), f"{part} differs after training"


# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("model", MODELS)
def test_every_model(model, end):
    """Whatever a module keeps, in tensors or not, is as it was."""
    check(lambda: build(MODELS[model]), end)


@pytest.mark.parametrize("warm", [0, 3], ids=["cold", "warm"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(optimizer, warm):
    """Absent state is absent again, warm state is the same tensors with the same bits; also after two sweeps."""

    def twice(work: Workload) -> None:
        to_the_end(work)
        interrupted(work)

    check(lambda: build(BatchNorms, OPTIMIZERS[optimizer], warm=warm), twice)


@pytest.mark.parametrize("warm", [0, 3], ids=["cold", "warm"])
@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SparseAdam(p, lr=0.01), lambda p: torch.optim.SGD(p, lr=0.1)], ids=["adam", "sgd"]
)
def test_sparse_gradients(make, warm):
    """Sparse embeddings under SparseAdam and SGD."""
    check(lambda: build(lambda: Words(sparse=True), lambda m: make(list(m.parameters())), warm=warm))


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader(loader, end):
    """Order and samples are drawn from where they stood before the sweep."""
    check(lambda: build(loader=LOADERS[loader]), end)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize("warm", [0, 3], ids=["cold", "warm"])
@pytest.mark.parametrize("loader", WORKERS)
def test_loaders_with_workers(loader, warm):
    """Worker processes draw what they would have drawn; persistent ones are not used up by the sweep."""
    check(lambda: build(loader=WORKERS[loader], warm=warm))


SETTINGS: dict[str, dict[str, Any]] = {
    "accumulation": {"accumulation_steps": 3},
    "clipping": {"clip_grad_norm": 0.1},
    "autocast": {"amp_dtype": torch.bfloat16},
    "scaler": {"grad_scaler": True},
    "all": {"accumulation_steps": 3, "clip_grad_norm": 0.1, "amp_dtype": torch.bfloat16, "grad_scaler": True},
}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("named", SETTINGS)
def test_every_way_to_step(named, end):
    """Accumulating, clipping, under autocast, with a scaler at 2**10 and tracker 3, a scheduler attached, warm."""

    def make() -> Workload:
        settings = dict(SETTINGS[named])
        if "grad_scaler" in settings:
            settings["grad_scaler"] = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=8)
            settings["grad_scaler"].load_state_dict(settings["grad_scaler"].state_dict() | {"_growth_tracker": 3})
        work = build(BatchNorms, OPTIMIZERS["adam"], **settings)
        work.scheduler = torch.optim.lr_scheduler.OneCycleLR(work.optimizer, [0.01, 0.05], total_steps=40)
        train(work, 3)
        return work

    def train(work: Workload, steps: int = STEPS) -> tuple[list[float], dict[str, list[Any]]]:
        losses = []
        for group in itertools.islice(endless(work.batches(), work.accumulation_steps), steps):
            losses.append(work.step(group).loss.item())
            work.scheduler.step()
        scale = [] if work.grad_scaler is None else [str(work.grad_scaler.state_dict())]
        return losses, held(work) | {"scaler": scale, "scheduler": [work.scheduler.get_last_lr()]}

    check(make, end, train)


def test_in_the_middle_of_training_again_and_again():
    """A sweep before every fifth step, each ending another way, changes no step."""
    plain = build(BatchNorms, OPTIMIZERS["adam"], LOADERS["generator"])
    expected = [loss for _ in ENDS for loss in trained(plain, 5)[0]]
    swept = build(BatchNorms, OPTIMIZERS["adam"], LOADERS["generator"])
    losses = []
    for end in ENDS:
        end(swept)
        losses += trained(swept, 5)[0]

    assert losses == expected
    assert all(map(torch.equal, plain.model.parameters(), swept.model.parameters()))


@given(
    model=st.sampled_from(sorted(MODELS)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    loader=st.sampled_from(sorted(LOADERS)),
    end=st.sampled_from(ENDS),
    warm=st.sampled_from([0, 2]),
)
@settings(max_examples=40)
def test_any_mixture(model, optimizer, loader, end, warm):
    """Any model with any optimizer, loader and end of the sweep."""
    check(lambda: build(MODELS[model], OPTIMIZERS[optimizer], LOADERS[loader], warm=warm), end)
