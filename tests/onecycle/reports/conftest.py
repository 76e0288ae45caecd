"""Folders of real runs of every kind, made once: small enough for a second each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrfind import Accuracy, Workload
from onecycle import OneCycle, fit, outputs
from onecycle.logs import History
from onecycle.reports.record import Record
from onecycle.run import Run

HOSTILE = "<img src=x onerror=injected=1> & 'q' \"q\""


def work() -> Workload:
    """Return a small classifier, the same every time."""
    torch.manual_seed(1)
    x = torch.randn(320, 6)
    y = (x[:, :3] + 0.5 * torch.randn(320, 3)).argmax(dim=1)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader, val_loader = DataLoader(TensorDataset(x, y), 16, shuffle=True), DataLoader(TensorDataset(x, y), 160)
    return Workload(model, optimizer, nn.CrossEntropyLoss(), loader, val_loader, metrics={"accuracy": Accuracy()})


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by kind: picked, given, diverged, killed, started (before the first step), hostile (its name is HTML)."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "save_picture", lambda *_, **__: None)
        patch.setattr(Run, "plot", lambda _: SimpleNamespace(savefig=lambda *_, **__: None))
        settings: dict[str, Any] = {"epochs": 10, "progress": False}
        fit(work(), out_dir=root / "picked", **settings)
        fit(work(), out_dir=root / "given", max_lr=0.05, ema_decay=0.9, **settings)
        fit(work(), out_dir=root / "diverged", max_lr=1e6, on_divergence="retry", **settings)
    for name in ("killed", "started", HOSTILE):
        shutil.copytree(root / "picked", root / name, ignore=shutil.ignore_patterns("summary.json", "checkpoints"))
    lines = (root / "killed" / "history.jsonl").read_text().splitlines(keepends=True)
    (root / "killed" / "history.jsonl").write_text("".join(lines[:77]) + lines[77][:9])
    (root / "started" / "history.jsonl").unlink()
    return {"hostile" if path.name == HOSTILE else path.name: path for path in root.iterdir()}


@pytest.fixture
def record() -> Callable[..., Record]:
    """Return the record of a run with these columns from step 1 on."""

    def make(name: str = "run", *, total_steps: int | None = None, **columns: list[float]) -> Record:
        length = len(next(iter(columns.values()), []))
        steps = {"step": [float(step) for step in range(1, length + 1)]}
        rows = (
            {name: value for name, value in zip((steps | columns), values, strict=True) if value is not None}
            for values in zip(*(steps | columns).values(), strict=True)
        )
        cycle = OneCycle(0.1, max(total_steps or length, 10))
        return Record(name=name, status="finished", history=History(rows), cycle=cycle)

    return make
