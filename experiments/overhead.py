"""What do a sweep, a training run and its checkpoints cost beside a loop of one's own, and beside other tools?

``python -m experiments.overhead`` times every contestant of every case in turn, one thread, on the CPU, and writes
table, numbers and picture to ``experiments/results/overhead/``. Other tools take part where they are installed
(``pip install "lrfind-onecycle[peers]"``). A ratio is taken within a round, between runs a moment apart, and the
median over the rounds is reported: what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from experiments.contestants import SWEEPS, Contestant, Setup, warm_up
from experiments.machine import as_markdown, describe
from experiments.trainers import CHECKPOINTS, SAVINGS, TRAININGS
from lrfind.palette import LR, TRAIN_LOSS

RESULTS = Path(__file__).parent / "results" / "overhead"
SEED = 0
STEPS = 100
PACKAGES = ("torch-lr-finder", "pytorch-ignite", "lightning", "fastai")
MEGABYTE = 2**20
PANELS_IN_A_ROW = 4


@dataclass(frozen=True)
class Case:
    """Something to sweep or train.

    Args:
        name: On the command line and in the picture.
        title: What it is, for the table.
        make: Returns it afresh, always the same.
        contestants: Who takes part; the first is what the others are compared with.
        limits: Name of a contestant to the largest ratio it may have.
        steps: Optimizer steps of a run.
    """

    name: str
    title: str
    make: Callable[[], Setup]
    contestants: tuple[Contestant, ...]
    limits: dict[str, float]
    steps: int = STEPS


def perceptron(batch_size: int) -> Setup:
    """20,000 samples of 32 numbers in memory, one hidden layer of 64: bound by loading."""
    torch.manual_seed(SEED)
    inputs, labels = torch.randn(20_000, 32), torch.randint(0, 10, (20_000,))
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    return _setup(model, inputs, labels, batch_size)


def convolutional() -> Setup:
    """2,000 images of 28 x 28 in memory, two convolutions: bound by arithmetic."""
    torch.manual_seed(SEED)
    inputs, labels = torch.randn(2000, 1, 28, 28), torch.randint(0, 10, (2000,))
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 5 * 5, 10)),
    )
    return _setup(model, inputs, labels, 64)


def digits() -> Setup:
    """scikit-learn's digits, as ``onecycle train digits`` trains them."""
    from lrfind.workloads.digits import make

    work = make(seed=SEED, device="cpu")
    return Setup(work.model, work.optimizer, work.criterion, work.train_loader)  # type: ignore[arg-type]


def million_convolutional() -> Setup:
    """992,000 parameters, three convolutions and two layers, on 12,800 images of 28 x 28; SGD with momentum."""
    torch.manual_seed(SEED)
    inputs, labels = torch.randn(12_800, 1, 28, 28), torch.randint(0, 10, (12_800,))
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3200, 280), nn.ReLU(), nn.Linear(280, 10)),
    )
    return _setup(model, inputs, labels, 64)


def million() -> Setup:
    """988,000 parameters in three layers, SGD with momentum: steps so cheap that a copy of the weights shows."""
    torch.manual_seed(SEED)
    inputs, labels = torch.randn(64_000, 256), torch.randint(0, 10, (64_000,))
    model = nn.Sequential(nn.Linear(256, 1500), nn.ReLU(), nn.Linear(1500, 400), nn.ReLU(), nn.Linear(400, 10))
    return _setup(model, inputs, labels, 64)


def large() -> Setup:
    """Three layers of 2,500 x 2,500, 72 MB, under Adam: of which memory can be read off the process."""
    torch.manual_seed(SEED)
    model = nn.Sequential(*(nn.Linear(2500, 2500) for _ in range(3)))
    data = TensorDataset(torch.randn(256, 2500), torch.randint(0, 2500, (256,)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    return Setup(model, optimizer, nn.CrossEntropyLoss(), DataLoader(data, 64, shuffle=True))


def _setup(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int) -> Setup:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size, shuffle=True)
    return Setup(model, optimizer, nn.CrossEntropyLoss(), loader)


OURS = "lrfind.range_test"
FIT = "onecycle.fit"
CASES = (
    Case("sweep mlp 256", "small MLP, batch 256", lambda: perceptron(256), SWEEPS, {OURS: 0.55}),
    Case("sweep mlp 16", "small MLP, batch 16", lambda: perceptron(16), SWEEPS, {}),
    Case("sweep cnn", "small CNN, batch 64", convolutional, SWEEPS, {OURS: 1.02}),
    Case("sweep digits", "`digits`, batch 64", digits, SWEEPS, {OURS: 1.1}),
    Case("train mlp 256", "training, small MLP, batch 256", lambda: perceptron(256), TRAININGS, {FIT: 0.55}, 4 * 79),
    Case("train cnn", "training, small CNN, batch 64", convolutional, TRAININGS, {FIT: 1.02}, 3 * 32),
    Case(
        "checkpoints cnn", "checkpoints, CNN of 1M parameters", million_convolutional, SAVINGS, {CHECKPOINTS: 1.02}, 200
    ),
    Case("checkpoints mlp", "checkpoints, MLP of 1M parameters", million, SAVINGS, {}, 1000),
)


class Timing(NamedTuple):
    """One run, in seconds: of the clock on the wall, and of the processor for this process."""

    wall: float
    cpu: float


def in_turn(case: Case, runs: int, note: Callable[[str], None]) -> dict[str, list[Timing]]:
    """Time every contestant ``runs`` times, each round all of them; a first round is not counted."""
    here = [contestant for contestant in case.contestants if contestant.here]
    timings: dict[str, list[Timing]] = {contestant.name: [] for contestant in here}
    for index in range(runs + 1):
        # Another order each round: who runs behind whom must not matter.
        order = here[index % len(here) :] + here[: index % len(here)]
        for contestant in order:
            timing = _time(contestant, case)
            if index:
                timings[contestant.name].append(timing)
        note(f"{case.name}: round {index} of {runs}")
    return timings


def _time(contestant: Contestant, case: Case) -> Timing:
    torch.manual_seed(SEED)
    with _quiet():
        call = contestant.prepare(case.make(), case.steps)
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        return Timing(time.perf_counter() - wall, time.process_time() - cpu)


@contextlib.contextmanager
def _quiet() -> Any:
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Row(NamedTuple):
    """A contestant's line in the table; ratios to the case's first contestant, round by round."""

    case: str
    contestant: str
    ms_per_step: float
    ratio: float
    least: float
    most: float
    cpu_ratio: float
    limit: float | None


def rows(case: Case, timings: dict[str, list[Timing]]) -> list[Row]:
    """Return the lines of one case."""
    reference = timings[case.contestants[0].name]
    lines = []
    for name, own in timings.items():
        wall = [mine.wall / its.wall for mine, its in zip(own, reference, strict=True)]
        cpu = [mine.cpu / its.cpu for mine, its in zip(own, reference, strict=True)]
        ms = median(timing.wall for timing in own) / case.steps * 1e3
        lines.append(Row(case.name, name, ms, median(wall), min(wall), max(wall), median(cpu), case.limits.get(name)))
    return lines


class Memory(NamedTuple):
    """What one sweep needs beyond training, in MB of the process, and in copies of model and optimizer state."""

    contestant: str
    peak: float
    left: float
    copies: float


def memory(contestants: Sequence[Contestant]) -> list[Memory]:
    """Measure each contestant in a process of its own."""
    lines = []
    # Memory of a megabyte and more goes back to the system as soon as it is free, so that the process's size tells.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(MEGABYTE)}
    for contestant in contestants:
        if contestant.here:
            command = [sys.executable, "-m", "experiments.overhead", "--memory-of", contestant.name]
            printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            lines.append(Memory(contestant.name, **json.loads(printed.splitlines()[-1])))
    return lines


def memory_of(contestant: Contestant) -> dict[str, float]:
    """Measure in this process: after training steps have reached their own peak, how much higher a sweep goes."""
    setup = large()
    warm_up(setup, 3)
    tensors = [*setup.model.parameters(), *(t for state in setup.optimizer.state.values() for t in state.values())]
    copy = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    with _quiet():
        call = contestant.prepare(setup, 10)
        before, held = _peak(), _held()
        call()
    peak, left = _peak() - before, _held() - held
    return {"peak": peak / MEGABYTE, "left": left / MEGABYTE, "copies": peak / copy}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _held() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def table(lines: Sequence[Row], memories: Sequence[Memory], facts: dict[str, Any]) -> str:
    """Return the record as markdown."""
    parts = ["# Overhead", (__doc__ or "").split("\n\n")[0], as_markdown(facts)]
    for name in dict.fromkeys(row.case for row in lines):
        (case,) = (case for case in CASES if case.name == name)
        parts.append(f"## {case.title}, {case.steps} steps\n\n{(case.make.__doc__ or '').strip()}".strip())
        body = ["| | ms per step | ratio | min .. max | CPU time | at most |", "| --- | --- | --- | --- | --- | --- |"]
        for row in lines:
            if row.case == name:
                limit = "" if row.limit is None else f"{row.limit:.2f}"
                body.append(
                    f"| {row.contestant} | {row.ms_per_step:.2f} | **{row.ratio:.2f}** | {row.least:.2f} .. "
                    f"{row.most:.2f} | {row.cpu_ratio:.2f} | {limit} |"
                )
        parts.append("\n".join(body))
    if memories:
        parts.append(
            "## Memory above training\n\nThree layers of 2,500 x 2,500 under a warm Adam; 10 steps, in a process of "
            "their own. Peak: the highest resident size of the process less that of training; left: what is still "
            "held afterwards, a gradient of 72 MB among it where a tool leaves one; copies: the peak in units of "
            "parameters and optimizer state."
        )
        body = ["| | peak, MB | copies | left, MB |", "| --- | --- | --- | --- |"]
        body += [f"| {m.contestant} | {m.peak:.0f} | {m.copies:.2f} | {m.left:.0f} |" for m in memories]
        parts.append("\n".join(body))
    return "\n\n".join(parts) + "\n"


def picture(lines: Sequence[Row], path: Path) -> None:
    """Draw the ratios, a panel per case: bar the median, whisker least to most, red line the most allowed."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.case for row in lines))
    columns = min(len(names), PANELS_IN_A_ROW)
    high = -(-len(names) // columns)
    figure = Figure(figsize=(3.3 * columns + 1.2, 3.2 * high), layout="constrained")
    panels = figure.subplots(high, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        own = [row for row in lines if row.case == name]
        at = range(len(own))
        whiskers = [[row.ratio - row.least for row in own], [row.most - row.ratio for row in own]]
        colors = [LR if row.contestant.startswith(("lrfind", "onecycle")) else "0.75" for row in own]
        axes.barh(at, [row.ratio for row in own], xerr=whiskers, color=colors, ecolor="0.4", capsize=2)
        widest = max(row.most for row in own)
        for index, row in enumerate(own):
            end = max(row.most, row.limit or 0.0)
            axes.text(end + 0.03 * widest, index, f"{row.ratio:.2f}", va="center", fontsize=8)
            if row.limit is not None:
                axes.plot([row.limit] * 2, [index - 0.48, index + 0.48], color=TRAIN_LOSS, linewidth=2)
        axes.axvline(1.0, color="0.4", linewidth=0.8, zorder=0)
        axes.set_xlim(0, 1.18 * widest)
        axes.set_title(next(case.title for case in CASES if case.name == name).replace("`", ""), fontsize=10)
        axes.set_xlabel(f"time over {own[0].contestant}", fontsize=8)
        axes.set_yticks(at, [row.contestant for row in own], fontsize=8)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.overhead", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="CASE", help="; ".join(names))
    parser.add_argument("--runs", type=int, default=7, help="rounds that count, at least 5")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for table, numbers and picture")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.memory_of is not None:
        (contestant,) = (each for each in SWEEPS if each.name == given.memory_of)
        print(json.dumps(memory_of(contestant)))
        return
    if not given.runs >= 5:
        parser.error(f"--runs must be at least 5; got {given.runs}. A median of fewer says little.")
    facts = describe(PACKAGES) | {"seed": SEED, "rounds": given.runs}
    timings = {case.name: in_turn(case, given.runs, print) for case in CASES if case.name in given.cases}
    lines = [row for case in CASES if case.name in timings for row in rows(case, timings[case.name])]
    memories = memory(SWEEPS)
    given.out.mkdir(parents=True, exist_ok=True)
    text = table(lines, memories, facts)
    (given.out / "overhead.md").write_text(text, encoding="utf-8")
    record = {
        "facts": facts,
        "rows": [row._asdict() for row in lines],
        "memory": [m._asdict() for m in memories],
        "seconds": timings,
    }
    (given.out / "overhead.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    picture(lines, given.out / "overhead.png")
    print(text)
    print(f"Written to {given.out}")


if __name__ == "__main__":
    main()
