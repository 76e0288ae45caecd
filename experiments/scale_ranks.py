"""What ``experiments.scale`` measures: the parts of a sweep under DDP, by processes that torchrun launches."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import lrfind
from experiments.machine import describe
from lrfind.preserve import Snapshot
from onecycle.checkpoint import Checkpoints
from onecycle.state import WorkState

RANKS = (1, 2, 4)
WIDTH, LAYERS, BATCH, SAMPLES = 512, 4, 32, 1024
STEPS = 60
START_LR, END_LR = 1e-6, 1e-3  # low enough that no loss blows up
SEED = 0


def measure(rounds: int) -> dict[str, Any]:
    """Return what each number of processes measured, with the machine's facts."""
    lines = []
    for ranks in RANKS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "line.json"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
            command += ["experiments.scale_ranks", "--rounds", str(rounds), "--out", str(out)]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            lines.append(json.loads(out.read_text(encoding="utf-8")))
    torch.set_num_threads(1)
    return {
        "facts": describe() | {"seed": SEED},
        "parameters": sum(parameter.numel() for parameter in _net().parameters()),
        "batch": BATCH,
        "steps": STEPS,
        "rounds": rounds,
        "lines": lines,
    }


def _net() -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())))


def line(rounds: int) -> dict[str, Any]:
    """Measure on every rank of the process group, and return the first one's times, in seconds."""
    model = DistributedDataParallel(_net())
    data = TensorDataset(torch.randn(SAMPLES, WIDTH), torch.randint(0, WIDTH, (SAMPLES,)))
    loader = DataLoader(data, BATCH, sampler=DistributedSampler(data))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    criterion = nn.CrossEntropyLoss()
    work = lrfind.Workload(model, optimizer, criterion, loader)

    def sweep() -> None:
        curve = lrfind.range_test(
            work, start_lr=START_LR, end_lr=END_LR, num_iter=STEPS, stop_factor=math.inf, progress=False
        )
        assert len(curve) == STEPS

    def loop() -> None:
        batches = _endless(loader)
        for _ in range(STEPS):
            inputs, targets = next(batches)
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            mean = loss.detach() / dist.get_world_size()
            dist.all_reduce(mean)  # what a loop has to do that records the loss of all
            mean.item()

    loop()  # Adam has its state from here on, and everything is warm
    sweep()
    loops, sweeps = [], []
    for index in range(rounds):
        for run, times in ((loop, loops), (sweep, sweeps))[:: 1 if index % 2 else -1]:
            times.append(_seconds(run) / STEPS)
    ratios = [mine / its for mine, its in zip(sweeps, loops, strict=True)]
    tensors = [*model.parameters(), *(t for entry in optimizer.state.values() for t in entry.values())]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    gradient = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))
    block = torch.zeros(held // 4)
    snapshot = Snapshot(work)
    return {
        "ranks": dist.get_world_size(),
        "loop": median(loops),
        "sweep": median(sweeps),
        "ratio": median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "agree": _median(lambda: work.ranks.means([1.0]), rounds),
        "exchange": _median(lambda: dist.all_reduce(gradient), rounds),
        "bytes": held,
        "bandwidth": 2 * held / _median(block.clone, rounds),
        "take": _median(lambda: Snapshot(work), rounds),
        "restore": _median(snapshot.restore, rounds),
        **_checkpoint(work, rounds),
    }


def _checkpoint(work: lrfind.Workload, rounds: int) -> dict[str, float]:
    """Take a checkpoint's state on every rank; write it on the first."""
    state = WorkState(work, None)
    taken = _median(state.take, rounds)
    written = 0.0
    if work.ranks.first:
        with tempfile.TemporaryDirectory() as folder:
            files, record = Checkpoints(Path(folder)), state.take()
            steps = iter(range(1, 1000))

            def write() -> None:
                files.save(step := next(steps), record | {"step": step})
                files.wait()

            write()  # the first one is read back
            written = median(_seconds(write, together=False) for _ in range(rounds))
    dist.barrier()
    return {"checkpoint_take": taken, "checkpoint_write": written}


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _median(run: Callable[[], object], rounds: int) -> float:
    run()
    return median(_seconds(run) for _ in range(rounds))


def _seconds(run: Callable[[], object], *, together: bool = True) -> float:
    if together:
        dist.barrier()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Measure as one rank of several."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    measured = line(given.rounds)
    if dist.get_rank() == 0:
        given.out.write_text(json.dumps(measured), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
