"""Is our pick for one cycle near the best peak for a residual net on CIFAR-10 (JPEG), and what does a constant lr do?

``python -m experiments.cifar`` trains the ResNet-9 of the speed records (Page 2018) for one cycle with the peak that
``max_lr="auto"`` picks on held-out training images, with a quarter of it and multiples, and at constant lrs. On an
accelerator: full width, all 50,000 images, 24 epochs, bfloat16, channels last, compiled. On a CPU: a shortened version
(``CPU`` below). Test images are read after each epoch, nothing is chosen by them. The data root, with
``cifar10-jpeg.tar.xz``, is the environment variable ``LRFIND_DATA``; these images went through lossy JPEG, so results
are not comparable with those on CIFAR-10 to the decimal. Each run is kept in ``experiments/.cache/cifar/``, so a second
call resumes. ``--quick`` does every row with a tiny net on random images, in a temporary cache.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from experiments.machine import as_markdown
from experiments.runs import Outcome, absent, by_cycle, by_rates, kept, kept_run, spread, temporary_cache, write
from experiments.tasks import data
from lrfind.palette import LR, METRIC, MOMENTUM, TRAIN_LOSS, VAL_LOSS
from lrfind.workload import Workload
from onecycle import OneCycle
from onecycle.auto import pick_with_curve

RESULTS = Path(__file__).parent / "results" / "cifar"
NAME = "cifar"
VERSION = 1  # raised when a run changes what it does
PACKAGES = ("pillow",)
MOMENTUM_OF_CONSTANT = 0.9
WEIGHT_DECAY = 5e-4
ALL = {"train": 5000, "test": 1000}  # images of each class
PAD = 4  # pixels on each side, that a crop may move by
MEAN, SD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)  # of the training pixels, per colour


class Plan(NamedTuple):
    """What is run, and how.

    Args:
        width: Channels of the first convolution; 64 in the original.
        train: Training images, the first of each class.
        test: Test images, likewise.
        held_out: Training images that the pick does not train on but validates with.
        batch_size: Images per step.
        epochs: Of every run.
        seeds: How many.
        bfloat16: Whether forward passes run in bfloat16 (autocast).
        compiled: Whether the model runs through ``torch.compile``.
        random: Random images in place of CIFAR-10 (JPEG).
    """

    width: int
    train: int
    test: int
    held_out: int
    batch_size: int
    epochs: int
    seeds: int
    bfloat16: bool
    compiled: bool
    random: bool = False


ACCELERATOR = Plan(64, 50_000, 10_000, 5_000, 512, 24, seeds=4, bfloat16=True, compiled=True)
CPU = Plan(16, 6_000, 4_000, 600, 128, 6, seeds=2, bfloat16=True, compiled=False)
WHAT_IT_SAYS = """\
Our pick is at the lower end of the plateau of the peaks tried: 64.3 ± 1.5 % at the pick, 64.8 ± 0.3 at four times \
it, 63.6 ± 1.9 at sixteen times, 56.1 ± 6.9 at a quarter. One cycle at the pick is 5.0 points above the best of \
three constant lrs (59.3 ± 4.9, at the pick itself). What constant lrs lack at the end of such a run is any decay; \
schedules that decay otherwise were not compared here, so this says that a decay is needed and that the pick suits \
the cycle, not that nothing else would do. Two seeds: differences of a point are noise. Former rules picked twice to \
five times as high (65.4 ± 0.5). The pick cost 126 steps where the run has 276, since `auto` may spend 100 steps on \
any run, however short."""
QUICK = Plan(4, 160, 80, 40, 20, 2, seeds=1, bfloat16=False, compiled=False, random=True)


def usual_plan() -> Plan:
    """Return the plan for this machine; a CPU without bfloat16 arithmetic (AMX) computes in float32."""
    if torch.accelerator.is_available():
        return ACCELERATOR
    return CPU._replace(bfloat16=bool(torch.cpu.get_capabilities().get("amx_bf16", False)))


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: In files.
        title: In the table.
        cycles: One cycle, or a constant lr.
        times: Peak, or constant lr, over our pick.
        look: Colour, marker and line style.
    """

    name: str
    title: str
    cycles: bool
    times: float
    look: tuple[str, str, str]


ROWS = (
    Row("pick", "one cycle, our pick", True, 1, (LR, "o", "-")),
    Row("pick-quarter", "one cycle, a quarter of it", True, 1 / 4, (METRIC, "v", "--")),
    Row("pick-four", "one cycle, four times it", True, 4, (VAL_LOSS, "^", "-.")),
    Row("pick-sixteen", "one cycle, sixteen times it", True, 16, (VAL_LOSS, "X", ":")),
    Row("constant", "constant lr, our pick", False, 1, (TRAIN_LOSS, "s", "-")),
    Row("constant-quarter", "constant lr, a quarter of it", False, 1 / 4, (TRAIN_LOSS, "D", "--")),
    Row("constant-sixteenth", "constant lr, a sixteenth of it", False, 1 / 16, (MOMENTUM, "P", ":")),
)


# Data.


class Images(NamedTuple):
    """Pixels of shape ``(n, 32, 32, 3)``, 0 to 255 as bytes, and classes of shape ``(n,)``."""

    pixels: Tensor
    classes: Tensor

    def first(self, count: int) -> Images:
        """Return the first ``count``; every ten neighbours hold all classes."""
        return Images(self.pixels[:count], self.classes[:count])


@functools.cache
def images(part: str, random: bool) -> Images:
    """Return all images of ``"train"`` or ``"test"``, every ten neighbours of all classes."""
    if random:
        draw = torch.Generator().manual_seed(len(part))
        classes = torch.arange(200) % 10
        pixels = torch.randint(0, 156, (200, 32, 32, 3), generator=draw) + 11 * classes.view(-1, 1, 1, 1)
        return Images(pixels.to(torch.uint8), classes)
    tensors = data.kept("cifar10-jpeg-32", _decoded)
    return Images(tensors[f"{part}_pixels"], tensors[f"{part}_classes"])


def _decoded() -> dict[str, Tensor]:
    found: dict[str, list[tuple[int, int, Tensor]]] = {"train": [], "test": []}
    for part, number, kind, image in data.cifar_images(ALL):
        found[part].append((number, kind, torch.from_numpy(np.array(image))))
    tensors = {}
    for part, several in found.items():
        several.sort(key=lambda each: each[:2])
        tensors[f"{part}_pixels"] = torch.stack([pixels for *_, pixels in several])
        tensors[f"{part}_classes"] = torch.tensor([number for _, number, _ in several])
    return tensors


class Crops:
    """Batches of training images, each moved by up to 4 pixels and mirrored at random; everything stays on the device.

    Args:
        of: Images.
        batch_size: Images per batch; the rest of an epoch is dropped, for a compiled model wants one shape.
        seed: Of order, places and mirrors.
        device: Where the images lie.
    """

    def __init__(self, of: Images, batch_size: int, seed: int, device: torch.device) -> None:
        colours_first = of.pixels.permute(0, 3, 1, 2).float()
        padded = nn.functional.pad(colours_first, (PAD,) * 4, mode="reflect").permute(0, 2, 3, 1)
        self.padded = padded.to(torch.uint8).contiguous().to(device)
        self.classes = of.classes.to(device)
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.classes) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, device = len(self.classes), self.classes.device
        order = torch.randperm(count, generator=self.generator).to(device)
        places = torch.randint(0, 2 * PAD + 1, (2, count, 1), generator=self.generator)
        mirrored = torch.rand((count, 1), generator=self.generator) < 0.5
        along = torch.arange(32)
        rows = (places[0] + along).to(device)
        columns = (places[1] + torch.where(mirrored, 31 - along, along)).to(device)
        for begin in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = slice(begin, begin + self.batch_size)
            which = order[chosen]
            pixels = self.padded[which[:, None, None], rows[chosen][:, :, None], columns[chosen][:, None, :]]
            yield normalised(pixels), self.classes[which]


def normalised(pixels: Tensor) -> Tensor:
    """Return ``(n, 32, 32, 3)`` bytes as ``(n, 3, 32, 32)`` numbers about 0, in the memory format channels last."""
    mean, sd = (torch.tensor(each, device=pixels.device) for each in (MEAN, SD))
    return ((pixels - mean) / sd).permute(0, 3, 1, 2)


# The net.


class Residual(nn.Module):
    """``x`` and two convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(channels, channels), *_convolution(channels, channels))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.body(hidden)


class Scaled(nn.Module):
    """Logits times an eighth, so that training begins with even odds."""

    def forward(self, logits: Tensor) -> Tensor:
        return 0.125 * logits


def resnet9(width: int) -> nn.Module:
    """Return Page's net: ``(n, 3, 32, 32)`` to logits ``(n, 10)``; 6.6 million parameters at his width of 64.

    Source:
        Page, «How to train your ResNet» (2018); github.com/davidcpage/cifar10-fast.

    >>> sum(p.numel() for p in resnet9(64).parameters()), sum(p.numel() for p in resnet9(16).parameters())
    (6573120, 412944)
    """
    return nn.Sequential(
        *_convolution(3, width),
        *_convolution(width, 2 * width),
        nn.MaxPool2d(2),
        Residual(2 * width),
        *_convolution(2 * width, 4 * width),
        nn.MaxPool2d(2),
        *_convolution(4 * width, 8 * width),
        nn.MaxPool2d(2),
        Residual(8 * width),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(8 * width, 10, bias=False),
        Scaled(),
    )


def _convolution(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def workload(seed: int, plan: Plan, *, held_out: int = 0, lr: float = 0.1) -> Workload:
    """Return what is trained.

    Args:
        seed: Of weights, order of the images, places and mirrors.
        plan: What is run.
        held_out: How many training images to hold out and validate on; 0: none, validate on the test images.
        lr: The optimizer's own rate, for a run without a cycle.
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    everything = images("train", plan.random).first(plan.train)
    train = everything.first(plan.train - held_out)
    val = images("test", plan.random).first(plan.test)
    if held_out:
        val = Images(everything.pixels[-held_out:], everything.classes[-held_out:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = resnet9(plan.width)
    model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=MOMENTUM_OF_CONSTANT, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    pixels, classes = normalised(val.pixels.to(device)), val.classes.to(device)
    return Workload(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        Crops(train, plan.batch_size, seed, device),
        list(zip(pixels.split(500), classes.split(500), strict=True)),
        amp_dtype=torch.bfloat16 if plan.bfloat16 else None,
    )


# Picks and runs.


def pick(seed: int, plan: Plan, *, train: bool = True) -> dict[str, Any]:
    """Return what ``max_lr="auto"`` picks on held-out training images, with what it rests on.

    Raises ``LookupError`` where it is not in the cache and ``train`` is off.
    """

    def ask() -> dict[str, Any]:
        work = workload(seed, plan, held_out=plan.held_out)
        steps = plan.epochs * (plan.train // plan.batch_size)
        found = pick_with_curve(work, total_steps=steps, method="auto", cycle=None, progress=False).suggestion
        return {
            "max_lr": found.lr,
            "low": found.low,
            "high": found.high,
            "steps_used": found.steps_used,
            "evidence": found.evidence,
            "warnings": list(found.warnings),
        }

    settings = {"version": VERSION, "seed": seed, "plan": plan._asdict()}
    return kept(NAME, f"pick-{seed}", settings, ask if train else absent)


class Run(NamedTuple):
    """A run; ``lr`` is its peak, or its constant lr, and a multiple of that of ``pick``."""

    seed: int
    lr: float
    pick: dict[str, Any]
    outcome: Outcome


def run(row: Row, seed: int, plan: Plan, *, train: bool = True) -> Run:
    """Return a run.

    Raises:
        LookupError: If it is not in the cache and ``train`` is off.
    """
    picked = pick(seed, plan, train=train)
    lr = picked["max_lr"] * row.times

    def do() -> Outcome:
        if row.cycles:
            return by_cycle(workload(seed, plan), OneCycle(lr), plan.epochs, compiled=plan.compiled)
        work = workload(seed, plan, lr=lr)
        if plan.compiled:
            work.model.compile()
        return by_rates(work, lambda step: 1.0, plan.epochs)

    settings = {"version": VERSION, "seed": seed, "plan": plan._asdict(), "cycles": row.cycles, "lr": lr}
    return Run(seed, lr, picked, kept_run(NAME, f"{row.name}-{seed}", settings, do if train else absent))


def run_all(plan: Plan, *, train: bool) -> dict[str, list[Run]]:
    """Return the runs of every row; all rows with the first seed come first, so that little is lost if stopped."""
    found: dict[str, list[Run]] = {row.name: [] for row in ROWS}
    for seed in range(plan.seeds):
        for row in ROWS:
            with contextlib.suppress(LookupError):
                found[row.name].append(done := run(row, seed, plan, train=train))
                print(f"{row.name}, seed {seed}: lr {done.lr:.3g}, {done.outcome.last_accuracy:.2f} %", flush=True)
    return found


# The record.


HOW_TO_READ = """\
SGD with Nesterov momentum (0.9 where constant, 0.95-0.85-0.95 in a cycle of torch's shape), weight decay 5e-4; images \
moved by up to 4 pixels and mirrored at random. Test %: accuracy at the end of the run, mean ± standard deviation over \
seeds; a run that diverged counts as 10. Each seed has its own weights, order, crops and pick, and all rows of a seed \
share them. The pick is made with some of the training images held out to validate on; the neighbours of it and the \
constant lrs are multiples of it, fixed before any run; only the sixteenfold was added once the fourfold was seen to \
do well."""


def shortening(plan: Plan) -> str:
    """Return what was trained, and what of the accelerator's plan was left out."""
    how = ["bfloat16" if plan.bfloat16 else "float32", "channels last", *(["compiled"] if plan.compiled else [])]
    what = (
        f"ResNet-9 of width {plan.width}, {plan.train:,} training images, {plan.test:,} test images, {plan.epochs} "
        f"epochs, batch {plan.batch_size}; {', '.join(how)}."
    )
    full = ACCELERATOR
    if plan[:6] == full[:6]:
        return what
    return (
        f"{what} This is a shortened version for a CPU: the plan for an accelerator has width {full.width}, "
        f"{full.train:,} training and {full.test:,} test images, {full.epochs} epochs, batch {full.batch_size}. The "
        "accuracies are those of a small net on little data, and say nothing about what ResNet-9 can do."
    )


def record(found: dict[str, list[Run]], plan: Plan, facts: dict[str, Any], says: str) -> str:
    """Return the text of the record."""
    table = [["", "lr", "test %", "each seed", "diverged"], ["---"] * 5]
    for row in ROWS:
        done = found[row.name]
        if done:
            accuracies = [each.outcome.last_accuracy for each in done]
            diverged = sum(each.outcome.status == "diverged" for each in done)
            lrs = ", ".join(f"{each.lr:.3g}" for each in done)
            each_seed = " ".join(f"{accuracy:.1f}" for accuracy in accuracies)
            table.append([row.title, lrs, f"**{spread(accuracies, 1)}**", each_seed, f"{diverged} of {len(done)}"])
    picks = [
        f"- seed {each.seed}: {each.lr:.3g} (trust range {each.pick['low']:.2g} to {each.pick['high']:.2g}, "
        f"{each.pick['steps_used']} steps). {each.pick['evidence']}."
        for each in found["pick"]
    ]
    seconds = [each.outcome.cpu_seconds for done in found.values() for each in done]
    cost = f"A run took {min(seconds):.0f} to {max(seconds):.0f} s of CPU time." if seconds else ""
    parts = [
        "# CIFAR-10 (JPEG)" if not plan.random else "# Random images",
        (__doc__ or "").split("\n\n")[0],
        as_markdown(facts),
        shortening(plan),
        "\n".join(f"| {' | '.join(cells)} |" for cells in table),
        says,
        "![Test accuracy over epochs, and over the lr](cifar.png)",
        f"{HOW_TO_READ} {cost}".strip(),
        "\n".join(["Our picks:", "", *picks]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def picture(found: dict[str, list[Run]], plan: Plan, path: Path) -> None:
    """Draw test accuracy over epochs, a line per row, and at the end over the lr, a mark per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    over_epochs, over_lr = figure.subplots(1, 2)
    for row in ROWS:
        done = [each for each in found[row.name] if each.outcome.status == "finished"]
        color, marker, style = row.look
        for each in done:
            epochs, accuracies = (0.0, *each.outcome.epochs), (10.0, *(100 * a for a in each.outcome.accuracy))
            label = row.title if each is done[0] else None
            over_epochs.plot(
                epochs, accuracies, style, marker=marker, markersize=5, color=color, linewidth=1.6, label=label
            )
        for each in found[row.name]:
            face = color if row.cycles else "none"
            over_lr.plot(each.lr, each.outcome.last_accuracy, marker, color=color, markerfacecolor=face, markersize=8)
    # Runs of a seed, joined in the order of their lrs.
    for cycles, style, label in ((True, "-", "one cycle, over its peak"), (False, ":", "constant lr")):
        for seed in range(plan.seeds):
            line = sorted(
                (each.lr, each.outcome.last_accuracy)
                for row in ROWS
                if row.cycles == cycles
                for each in found[row.name]
                if each.seed == seed
            )
            if line:
                named = label if seed == 0 else None
                over_lr.plot(*zip(*line, strict=True), style, color=MOMENTUM, linewidth=1.2, zorder=1, label=named)
    over_lr.set_xscale("log")
    over_lr.set_xlabel("learning rate: peak of the cycle, or constant (log scale)")
    over_epochs.set_xlabel("epochs")
    for ax in (over_epochs, over_lr):
        ax.set_ylabel("test accuracy, %")
    over_epochs.set_title("during training, a line per seed", fontsize="medium")
    over_lr.set_title("at the end, a mark per run", fontsize="medium")
    over_lr.legend(fontsize="small", frameon=False)
    for ax in (over_epochs, over_lr):
        ax.grid(color=MOMENTUM, alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*over_epochs.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny net on random images; only --out keeps the record")
    parser.add_argument("--report", action="store_true", help="train nothing: write what the cache holds")
    parser.add_argument("--out", type=Path, help="default: experiments/results/cifar")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.quick:
        with temporary_cache():
            _write(run_all(QUICK, train=True), QUICK, given.out, "")
        return
    if not given.report and (reason := data.missing("CIFAR-10 (JPEG)")) is not None:
        parser.error(f"{reason}.")
    plan = usual_plan()
    says = WHAT_IT_SAYS if plan[:7] == CPU[:7] else ""  # of the runs whose record is beside this file
    _write(run_all(plan, train=not given.report), plan, given.out or RESULTS, says)


def _write(found: dict[str, list[Run]], plan: Plan, out: Path | None, says: str) -> None:
    write(
        "cifar",
        found,
        plan._asdict(),
        out,
        packages=PACKAGES,
        text=lambda facts: record(found, plan, facts, says),
        picture=lambda path: picture(found, plan, path),
    )


if __name__ == "__main__":
    main()
