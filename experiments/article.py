"""What does ``OneCycleLR`` do on the article's AlexNet, and which sentences of the article do not hold?

``python -m experiments.article`` draws the article's figures, each computed twice: by ``onecycle plan``, and by torch's
scheduler on ``torchvision.models.AlexNet(num_classes=2)`` with SGD(lr 0.1, momentum 0.9), ``max_lr=0.9`` and 100 steps.
The two must agree at every step to the last bit, or it fails. Then it runs what the article's text gets wrong. Text,
numbers and pictures go to ``experiments/results/article/``. No gradients are computed: a schedule needs none.
``--quick`` makes the AlexNet without memory for its weights.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.metadata
import io
import json
import shlex
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler
from torch.optim.lr_scheduler import OneCycleLR as TorchOneCycleLR

from experiments.machine import as_markdown, describe
from lrfind.palette import LR, METRIC, MOMENTUM, TRAIN_LOSS, VAL_LOSS
from lrfind.plot import save_picture
from onecycle import OneCycle
from onecycle.cli import main as onecycle_command

RESULTS = Path(__file__).parent / "results" / "article"
PACKAGES = ("torchvision", "torch-lr-finder")
MAX_LR, STEPS = 0.9, 100
OWN_LR, OWN_MOMENTUM = 0.1, 0.9
EVERY = 3  # steps between the marks that stand for the scheduler
Optimizer = Callable[[], SGD]


@dataclass(frozen=True)
class Figure:
    """A schedule of the article.

    Args:
        name: Of the picture's file.
        title: In the record.
        words: Options of ``onecycle plan``, beside peak and length.
        options: The same for torch's ``OneCycleLR``.
        text: What to see in it.
    """

    name: str
    title: str
    words: str
    options: dict[str, Any]
    text: str


FIGURES = (
    Figure(
        "two-phases",
        "Two phases, the default",
        "",
        {},
        "From `max_lr / 25` = 0.036 up to 0.9 in the first 30 of 100 steps, then down to `0.036 / 1e4` = 3.6e-6 at "
        "step 99, each phase half a cosine. The optimizer's own lr of 0.1 and momentum of 0.9 play no part: the "
        "scheduler overwrites both when it is made.",
    ),
    Figure(
        "three-phases",
        "`three_phase=True`",
        "--three-phase",
        {"three_phase": True},
        "Up in 30 steps, down in as many to where it began, then on to the minimum in the rest. The last 41 "
        "of the 100 steps are below 0.036, where the run began: the third phase is all but flat on this axis.",
    ),
    Figure(
        "linear",
        '`anneal_strategy="linear"`',
        "--anneal-strategy linear",
        {"anneal_strategy": "linear"},
        "Straight lines between the same levels at the same steps.",
    ),
)


class Values(NamedTuple):
    """Learning rate and momentum of every optimizer step."""

    lrs: list[float]
    momentums: list[float]


def alexnet(quick: bool) -> Optimizer:
    """Return what makes the article's optimizer, each time afresh, on one AlexNet."""
    from torchvision.models import AlexNet

    with torch.device("meta" if quick else "cpu"):
        model = AlexNet(num_classes=2)
    return lambda: SGD(model.parameters(), lr=OWN_LR, momentum=OWN_MOMENTUM)


def scheduled(optimizer: SGD, **options: Any) -> Values:
    """Return what torch's scheduler makes the optimizer use, in a loop in the right order."""
    scheduler = TorchOneCycleLR(optimizer, MAX_LR, total_steps=STEPS, **options)
    (group,) = optimizer.param_groups
    values = Values([], [])
    for step in range(STEPS):
        values.lrs.append(group["lr"])
        values.momentums.append(group["momentum"])
        optimizer.step()
        if step < STEPS - 1:
            scheduler.step()
    return values


def command(figure: Figure) -> list[str]:
    """Return the words after ``onecycle`` that plan a figure."""
    return ["plan", "--max-lr", str(MAX_LR), "--total-steps", str(STEPS), *shlex.split(figure.words)]


def planned(figure: Figure) -> Values:
    """Return what ``onecycle plan`` writes.

    Raises:
        RuntimeError: If the command fails.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        status = onecycle_command([*command(figure), "--csv", "--out-dir", folder])
        if status != 0:
            raise RuntimeError(f"onecycle {shlex.join(command(figure))} ended with status {status}.")
        with open(Path(folder) / "schedule.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    return Values([float(row["lr"]) for row in rows], [float(row["momentum"]) for row in rows])


def agreed(figure: Figure, optimizer: Optimizer) -> Values:
    """Return the values of a figure.

    Raises:
        AssertionError: If plan and scheduler differ anywhere, by however little.
    """
    plan, real = planned(figure), scheduled(optimizer(), **figure.options)
    for name, ours, theirs in zip(Values._fields, plan, real, strict=True):
        differing = [step for step, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        assert not differing, f"{figure.name}: {name} of onecycle plan and torch differ at steps {differing}"
    return plan


# What the text gets wrong.


class Finding(NamedTuple):
    """A sentence, what was run, and what came out, with the numbers behind it."""

    claim: str
    code: str
    shown: str
    numbers: dict[str, Any]


def get_lr_outside_step(optimizer: Optimizer) -> Finding:
    """``get_lr()`` computes the next value; what was set last is ``get_last_lr()``."""
    told: list[str] = []

    def asked(scheduler: LRScheduler) -> tuple[float, float]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got = float(scheduler.get_lr()[0])
        told.extend(str(warning.message) for warning in caught)
        return got, float(scheduler.get_last_lr()[0])

    exponential = ExponentialLR(optimizer(), gamma=0.5)
    exponential.optimizer.step()
    exponential.step()
    wrong, right = asked(exponential)
    cycle = TorchOneCycleLR(optimizer(), MAX_LR, total_steps=STEPS)
    (group,) = cycle.optimizer.param_groups
    group["momentum"] = 0.5
    same, last = asked(cycle)
    moved = group["momentum"]
    return Finding(
        "Read the present lr with `scheduler.get_lr()`",
        "ExponentialLR(gamma=0.5), one step, then get_lr() and get_last_lr();\n"
        "OneCycleLR, momentum set to 0.5 by hand, then get_lr()",
        f"torch warns: «{told[0]}» `get_lr()` computes what the next `step()` would set: for `ExponentialLR` it "
        f"returned {wrong:g} while the optimizer used {right:g}. For `OneCycleLR` it happened to return the present "
        f"value ({same:g}; `get_last_lr()` {last:g}), but it also wrote to the optimizer: a momentum of 0.5 was "
        f"{moved:g} after the call. `get_last_lr()` does neither.",
        {"warnings": told, "exponential": [wrong, right], "onecycle": [same, last], "momentum_after": moved},
    )


def scheduler_first(optimizer: Optimizer) -> Finding:
    """The first lr is never used, and the last update is made past the end."""
    last: dict[str, float] = {}
    first: dict[str, float] = {}
    told: list[str] = []
    for strategy in ("cos", "linear"):
        stepped = optimizer()
        scheduler = TorchOneCycleLR(stepped, MAX_LR, total_steps=STEPS, anneal_strategy=strategy)  # type: ignore[arg-type]
        used = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(STEPS):
                scheduler.step()
                used.append(float(stepped.param_groups[0]["lr"]))
                stepped.step()
        told += [str(warning.message) for warning in caught]
        first[strategy], last[strategy] = used[0], used[-1]
    floor = OneCycle(MAX_LR, STEPS).min_lr
    return Finding(
        "`scheduler.step()` may stand before `optimizer.step()`",
        "for _ in range(100): scheduler.step(); optimizer.step()",
        f"torch warns once, at the first step: «{told[0].split('  ')[0]}» The lr of step 0, "
        f"{OneCycle(MAX_LR, STEPS).initial_lr:g}, was never used; the first update was made at {first['cos']:.4g}, and "
        f"every other a step too far. The 100th was made past the end, where torch's schedule turns: at "
        f"{last['cos']:.3g} instead of {floor:.3g} ({last['cos'] / floor:.0f} times as much), and with "
        f'`anneal_strategy="linear"` at {last["linear"]:.3g}: a negative lr, an update uphill.',
        {"warnings": told, "first_lr": first, "last_lr": last, "min_lr": floor},
    )


def verbose_argument(optimizer: Optimizer) -> Finding:
    """``verbose`` is gone."""
    try:
        TorchOneCycleLR(optimizer(), MAX_LR, total_steps=STEPS, verbose=True)  # type: ignore[call-arg]
    except TypeError as error:
        said = f"TypeError: {error}"
    else:
        said = "accepted"
    return Finding(
        "`verbose=True` prints each update",
        "OneCycleLR(optimizer, max_lr=0.9, total_steps=100, verbose=True)",
        f"torch {torch.__version__.split('+')[0]}: `{said}`. Print `scheduler.get_last_lr()` instead; the pictures "
        "here come from `onecycle plan`, which needs no loop at all.",
        {"said": said},
    )


PCT_STARTS = (0.3, 0.45, 0.5, 0.6, 0.7, 0.8)


def no_third_phase(optimizer: Optimizer) -> Finding:
    """With ``three_phase`` and more than half to warm up, torch's run stops while the lr is still high."""
    ends = {pct: scheduled(optimizer(), three_phase=True, pct_start=pct).lrs[-1] for pct in PCT_STARTS}
    floor = OneCycle(MAX_LR, STEPS).min_lr
    try:
        OneCycle(MAX_LR, STEPS, three_phase=True, pct_start=0.6)
    except ValueError as error:
        refusal = str(error)
    lines = [f"| {pct:g} | {end:.3g} | {end / MAX_LR:.2g} | {end / floor:,.0f} |" for pct, end in ends.items()]
    return Finding(
        "With `pct_start >= 0.5` «there is just no third phase» (`three_phase=True`)",
        "OneCycleLR(optimizer, max_lr=0.9, total_steps=100, three_phase=True, pct_start=...) on torch's own scheduler",
        "The first two phases take `pct_start` of the steps each, so above 0.5 the second one is cut off where the "
        "steps run out, with the lr still high: it does not end as a cycle without a third phase would, at the "
        "minimum. At exactly 0.5 there is a third phase of a single step.\n\n"
        "| pct_start | lr at the last step | over max_lr | over the minimum |\n| --- | --- | --- | --- |\n"
        + "\n".join(lines)
        + "\n\n![Two schedules that come down, and two that do not](never-ends.png)\n\n"
        + f"`onecycle.OneCycle` refuses it: «{refusal}»",
        {"last_lr": {str(pct): end for pct, end in ends.items()}, "min_lr": floor, "refusal": refusal},
    )


def not_in_the_finder(optimizer: Optimizer) -> Finding:
    """torch-lr-finder holds no scheduler of that name."""
    finder = importlib.metadata.distribution("torch-lr-finder")
    modules = [file for file in finder.files or () if file.suffix == ".py"]
    mentions = {str(file): Path(str(file.locate())).read_text(encoding="utf-8").count("OneCycle") for file in modules}
    home = TorchOneCycleLR.__module__
    (owner,) = set(importlib.metadata.packages_distributions()[home.split(".")[0]])
    return Finding(
        "`pip install torch-lr-finder` installs `OneCycleLR`",
        'importlib.metadata.distribution("torch-lr-finder").files, their text searched for "OneCycle"',
        f"torch-lr-finder {finder.version} has the modules "
        + ", ".join(f"`{name}` ({count} mentions)" for name, count in mentions.items())
        + f". `OneCycleLR` is `{home}.OneCycleLR` of the distribution `{owner}`, which whoever trains has already. The "
        "first finds a learning rate, the second spends one.",
        {"version": finder.version, "mentions": mentions, "home": home, "owner": owner},
    )


FINDINGS = (get_lr_outside_step, scheduler_first, verbose_argument, no_third_phase, not_in_the_finder)


# The record.


def picture(figure: Figure, values: Values, path: Path) -> None:
    """Draw the plan as ``onecycle plan`` does, and on it what the scheduler set, at every third step."""

    def draw(ax: Any) -> None:
        OneCycle(MAX_LR, STEPS, **figure.options).plot(ax)
        marks = range(0, STEPS, EVERY)
        label = f"torch's scheduler on AlexNet (every {EVERY}rd step drawn)"
        ax.plot(marks, values.lrs[::EVERY], "o", markerfacecolor="none", color=TRAIN_LOSS, markersize=5, label=label)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize="small", frameon=False)

    save_picture(path, draw, height=4.2)


def picture_of_momentum(values: Values, path: Path) -> None:
    """Draw lr, momentum and what they come to, one above the other."""
    from matplotlib.figure import Figure as Canvas

    steps = range(STEPS)
    canvas = Canvas(figsize=(7, 7), layout="constrained")
    rate, momentum, together = canvas.subplots(3, 1, sharex=True)
    rate.plot(steps, values.lrs, color=LR, linewidth=2.2)
    rate.set_ylabel("learning rate")
    momentum.plot(steps, values.momentums, color=MOMENTUM, linewidth=2.2, label="cycle_momentum=True, the default")
    momentum.axhline(
        OWN_MOMENTUM, color=TRAIN_LOSS, linewidth=1.6, linestyle="--", label="cycle_momentum=False: SGD's own 0.9"
    )
    momentum.set_ylabel("momentum")
    momentum.set_ylim(0.84, 0.985)
    cycled = [lr / (1 - own) for lr, own in zip(*values, strict=True)]
    together.plot(steps, cycled, color=METRIC, linewidth=2.2, label="momentum cycled: 0.72 up to 6, × 8.3")
    for held, color, style in ((0.9, TRAIN_LOSS, "--"), (0.95, VAL_LOSS, ":")):
        kept = [lr / (1 - held) for lr in values.lrs]
        label = f"momentum {held:g} throughout: {kept[0]:.2g} up to {max(kept):.2g}, × {max(kept) / kept[0]:.0f}"
        together.plot(steps, kept, color=color, linewidth=1.8, linestyle=style, label=label)
    together.set_ylabel("lr / (1 - momentum)")
    together.set_ylim(-1, 28)  # room for the legend
    together.set_xlabel("optimizer step")
    together.set_xlim(0, STEPS - 1)
    rate.set_title("Where the lr is high, momentum is low")
    together.set_title("How far a lasting gradient moves a weight, per step and unit of gradient", fontsize="medium")
    for ax in (momentum, together):
        ax.legend(fontsize="small", framealpha=0.8)
    canvas.savefig(path, dpi=150)


def picture_of_ends(optimizer: Optimizer, path: Path) -> None:
    """Draw torch's three phases for a ``pct_start`` below and above 0.5, each with its last step marked."""

    def draw(ax: Any) -> None:
        looks = ((0.3, LR, "-", "o"), (0.5, METRIC, "--", "^"), (0.6, TRAIN_LOSS, "-.", "s"), (0.8, VAL_LOSS, ":", "D"))
        for pct, color, style, marker in looks:
            lrs = scheduled(optimizer(), three_phase=True, pct_start=pct).lrs
            label = f"pct_start {pct:g}: ends at {lrs[-1]:.2g}"
            ax.plot(lrs, style, color=color, linewidth=2, label=label)
            ax.plot(STEPS - 1, lrs[-1], marker, color=color, markersize=8, clip_on=False, zorder=5)
        ax.set_xlabel("optimizer step")
        ax.set_ylabel("learning rate")
        ax.set_xlim(0, STEPS - 1)
        ax.set_ylim(0, 1.05 * MAX_LR)
        ax.set_title("torch's own OneCycleLR with three_phase=True", fontsize="medium")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize="small", frameon=False, ncols=2)

    save_picture(path, draw, height=4.2)


MOMENTUM_TEXT = """\
The article shows `cycle_momentum` and says that it does not understand it. A gradient that stays the same moves a \
weight by lr / (1 - momentum) a step in the long run: momentum multiplies the lr. The cycle lowers momentum from 0.95 \
to 0.85 where the lr is highest, so that both together rise by a factor of 8.3 where the lr alone rises by 25, and \
gives the momentum back on the way down. With 0.95 throughout they would meet at the peak: 18 in place of 6. With \
`cycle_momentum=False` SGD keeps the 0.9 that it was made with; with the default that 0.9 is overwritten before the \
first step."""


def record(values: dict[str, Values], findings: Sequence[Finding], facts: dict[str, Any]) -> str:
    """Return the text of the record."""
    about = (
        "All of torch's values and all of `onecycle plan`'s are equal, bit for bit, at each of the 100 steps of each "
        "figure: the lines are ours, the circles are what the scheduler set on the optimizer."
    )
    parts = ["# The article's figures, and its text", (__doc__ or "").split("\n\n")[0], as_markdown(facts), about]
    for figure in FIGURES:
        real = ", ".join(
            ["max_lr=0.9, total_steps=100", *(f"{key}={value!r}" for key, value in figure.options.items())]
        )
        parts += [
            f"## {figure.title}",
            f"`onecycle {shlex.join(command(figure))}` and `OneCycleLR(optimizer, {real})`",
            f"![{figure.title.replace('`', '')}]({figure.name}.png)",
            figure.text,
        ]
    parts += ["## Momentum beside the lr", "![lr, momentum and both together](momentum.png)", MOMENTUM_TEXT]
    parts += ["## What its text gets wrong", "Each of these was run; the numbers are what came out."]
    for finding in findings:
        parts += [f"### {finding.claim}", f"```\n{finding.code}\n```", finding.shown]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an AlexNet without memory for its weights")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for text, numbers and pictures")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = describe(PACKAGES) | {"seeds": "none: nothing is random", "number of runs": f"1 of {STEPS} steps each"}
    optimizer = alexnet(given.quick)
    values = {figure.name: agreed(figure, optimizer) for figure in FIGURES}
    findings = [find(optimizer) for find in FINDINGS]
    given.out.mkdir(parents=True, exist_ok=True)
    for figure in FIGURES:
        picture(figure, values[figure.name], given.out / f"{figure.name}.png")
    picture_of_momentum(values["two-phases"], given.out / "momentum.png")
    picture_of_ends(optimizer, given.out / "never-ends.png")
    text = record(values, findings, facts)
    (given.out / "article.md").write_text(text, encoding="utf-8")
    numbers = {
        "facts": facts,
        "schedules": {name: each._asdict() for name, each in values.items()},
        "findings": {finding.claim: finding.numbers for finding in findings},
    }
    (given.out / "article.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(f"Written to {given.out}")


if __name__ == "__main__":
    main()
