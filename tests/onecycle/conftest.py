"""A small workload with everything in it that a run has to take care of, made the same again from its seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lrfind import Workload
from onecycle import outputs
from onecycle.run import Run

SAMPLES, FEATURES, CLASSES = 90, 6, 3

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd0": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "adamw-fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "adamw-tensor-lr": lambda parameters: torch.optim.AdamW(parameters, lr=torch.tensor(0.01), capturable=False),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01),
}


class Net(nn.Module):
    """Dropout, batch norm, a non-persistent buffer and a counter: each of them can make a resumed run differ."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES, 16)
        self.norm = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.3)
        self.outer = nn.Linear(16, CLASSES)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            self.seen += 1
        hidden = self.dropout(torch.relu(self.norm(self.inner(x))))
        return self.outer(hidden) * (1 + 0.01 * (self.calls % 3) + 0.001 * (self.seen % 2))


class Counted(IterableDataset[tuple[Tensor, Tensor]]):
    """A stream without length, whose samples depend on how many have been drawn from it before."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.drawn = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(len(self.x)):
            self.drawn += 1
            index = (self.drawn * 7) % len(self.x)
            yield self.x[index] + 0.01 * (self.drawn % 5), self.y[index]


def data() -> tuple[Tensor, Tensor]:
    """Return inputs and classes that a small net learns, but not at once."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, FEATURES, generator=generator)
    y = (x[:, :CLASSES] + 0.5 * torch.randn(SAMPLES, CLASSES, generator=generator)).argmax(dim=1)
    return x, y


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffle": lambda: DataLoader(TensorDataset(*data()), 16, shuffle=True),
    "generator": lambda: DataLoader(
        TensorDataset(*data()), 16, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(5)
    ),
    "workers": lambda: DataLoader(TensorDataset(*data()), 16, shuffle=True, num_workers=2),
    "lasting workers": lambda: DataLoader(
        TensorDataset(*data()), 16, shuffle=True, num_workers=1, persistent_workers=True
    ),
    "stream": lambda: DataLoader(Counted(*data()), 16),
    "list": lambda: list(zip(*(part.split(16) for part in data()), strict=True)),
}


def make_work(
    optimizer: str = "sgd", loader: str = "shuffle", *, groups: bool = False, val: bool = True, **settings: Any
) -> Workload:
    """Return the workload anew; the global seed is set before the model is made."""
    torch.manual_seed(1)
    model = Net()
    parameters: Any = model.parameters()
    if groups:
        parameters = [{"params": model.inner.parameters(), "lr": 0.003}, {"params": model.outer.parameters()}]
    x, y = data()
    return Workload(
        model,
        OPTIMIZERS[optimizer](parameters),
        nn.CrossEntropyLoss(),
        LOADERS[loader](),
        DataLoader(TensorDataset(x, y), 50) if val else None,
        **settings,
    )


@pytest.fixture
def make() -> Callable[..., Workload]:
    """``make_work``."""
    return make_work


def tensors_of(work: Workload) -> list[Tensor]:
    """Return parameters, all buffers and the optimizer's state."""
    state = [value for entry in work.optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    return [*work.model.parameters(), *work.model.buffers(), *state]


@pytest.fixture
def same() -> Callable[[Workload, Workload], bool]:
    """Tell whether two workloads are in the same state, to the last bit."""

    def compare(one: Workload, other: Workload) -> bool:
        left, right = tensors_of(one), tensors_of(other)
        return len(left) == len(right) and all(map(torch.equal, left, right))

    return compare


class Overflows(nn.Module):
    """Cross-entropy that is infinite at the calls named."""

    def __init__(self, at: Container[int]) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss * math.inf if self.calls - 1 in self.at else loss


@pytest.fixture
def overflows() -> type[Overflows]:
    """``Overflows``."""
    return Overflows


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing out, which is most of the time that a short run takes."""
    monkeypatch.setattr(outputs, "save_picture", lambda *_, **__: None)
    monkeypatch.setattr(Run, "plot", lambda _: SimpleNamespace(savefig=lambda *_, **__: None))
