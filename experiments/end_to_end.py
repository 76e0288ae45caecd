"""What does it cost to get from model and data to a target accuracy, the search for a learning rate included?

``python -m experiments.end_to_end`` lets everybody of ``experiments.ways`` train the same model on the same data, one
thread, in turn, and takes CPU time (the main figure: other work on the machine counts into it least), wall time and
optimizer steps up to the first validation that reaches the target. No package is loaded on the clock. The target was
fixed before the first run: 98 % of the gain over a constant predictor that the best ``max_lr`` of the regret study's
grid reaches in that task's steps; here a run may be about twice as long, in whole epochs, and is validated after each.
``--quick`` does one seed of a small task, cut to two epochs. The data root is the environment variable ``LRFIND_DATA``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.fashion import in_words, reading
from experiments.machine import as_markdown, describe
from experiments.tasks import TASKS
from experiments.tasks.optimizers import adam, adamw, sgd
from experiments.tasks.task import MakeOptimizer
from experiments.ways import WAYS, Start, Validation, Watch, Way
from lrfind.palette import LR, METRIC, MOMENTUM, TRAIN_LOSS, VAL_LOSS

RESULTS = Path(__file__).parent / "results" / "end_to_end"
REGRET = Path(__file__).parent / "results" / "regret" / "tasks"
PACKAGES = ("fastai", "lightning", "torch-lr-finder", "optuna", "schedulefree")
SHARE = 0.98  # of the best gain over a constant predictor
LESSER_SHARE = 0.95  # passed on the way
SEEDS = (0, 1, 2, 3, 4)
LOOKS: Mapping[str, tuple[str, str]] = {  # colour and marker, as in the regret study
    "ours": (LR, "o"),
    "peer": (TRAIN_LOSS, "s"),
    "usual": (MOMENTUM, "D"),
    "search": (METRIC, "^"),
    "free": (VAL_LOSS, "v"),
}


@dataclass(frozen=True)
class Case:
    """A workload: a task of the regret study, whose record says what can be reached.

    Args:
        title: What it is.
        task: Its name there.
        optimizer: The task's optimizer, to be made afresh.
        epochs: Planned length; None: the whole number nearest to twice the task's steps.
    """

    title: str
    task: str
    optimizer: MakeOptimizer
    epochs: int | None = None

    def length(self) -> int:
        """Return the planned length in epochs."""
        if self.epochs is not None:
            return self.epochs
        loader = TASKS[self.task].make(0).train_loader
        return max(1, round(2 * TASKS[self.task].total_steps / len(loader)))  # type: ignore[arg-type]

    def target(self, share: float = SHARE) -> float:
        """Return the accuracy to reach, 0 to 1."""
        best = json.loads((REGRET / f"{self.task}.json").read_text(encoding="utf-8"))["best"]["score"]
        constant = TASKS[self.task].constant_score()
        return float(constant + share * (best - constant))


CASES = (
    Case("digits, residual MLP, Adam, batch 8", "digits-resmlp-adam-b8", adam()),
    Case("Fashion-MNIST 14 x 14, CNN, SGD, batch 64", "fashion-cnnbn-sgd-b64", sgd(weight_decay=5e-4)),
    Case("clusters in 32 dimensions, residual MLP, AdamW, batch 256", "clusters-resmlp-adamw-b256", adamw()),
)
QUICK = (Case("digits, CNN, Nesterov, batch 32", "digits-cnn-nesterov-b32", sgd(nesterov=True), epochs=2),)


@dataclass(frozen=True)
class Try:
    """What one contestant did with one seed.

    Attributes:
        case: Title of the workload.
        way: The contestant.
        seed: Of weights, batches, and what a search draws.
        target: Accuracy to reach, 0 to 1.
        validations: All of them, in order.
        max_lr: Its pick, the last one of a search over runs.
        search_steps: Optimizer steps until the pick; for a search over runs until the last trial began.
        failure: What it raised, if it did.
    """

    case: str
    way: str
    seed: int
    target: float
    validations: tuple[Validation, ...]
    max_lr: float | None
    search_steps: int
    failure: str | None = None

    def reached(self, target: float | None = None) -> Validation | None:
        """Return the first validation at the target, or None."""
        wanted = self.target if target is None else target
        return next((each for each in self.validations if each.accuracy >= wanted), None)

    @property
    def best(self) -> float:
        """The best accuracy seen."""
        return max((each.accuracy for each in self.validations), default=0.0)


def attempt(case: Case, way: Way, seed: int, target: float) -> Try:
    """Let one contestant go once."""
    torch.manual_seed(seed)
    start, failure = Start(case.task, case.optimizer, case.length(), seed), None
    start.work()  # the data are in memory before the clock runs
    with _quiet(), Watch(target) as watch:
        try:
            way.go(start, watch)
        except Exception as error:  # a tool that gives up is a result
            failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    seen = tuple(watch.validations)
    return Try(case.title, way.name, seed, target, seen, watch.max_lr, watch.search_steps, failure)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def in_turn(cases: Sequence[Case], ways: Sequence[Way], seeds: Sequence[int], say: Callable[[str], Any]) -> list[Try]:
    """Let everybody go once on every case and seed; whoever goes first differs from round to round."""
    for way in ways:  # packages are loaded, and caches warm, before anything is timed
        attempt(QUICK[0], way, seeds[0], target=2.0)
    tries = []
    for index, seed in enumerate(seeds):
        for case in cases:
            target = case.target()
            for way in (*ways[index % len(ways) :], *ways[: index % len(ways)]):
                tries.append(attempt(case, way, seed, target))
                found = tries[-1].reached()
                outcome = "not reached" if found is None else f"{found.cpu:.2f} s CPU, {found.steps} steps"
                say(f"seed {seed}, {case.task}, {way.name}: {tries[-1].best:.4f}, {outcome} {tries[-1].failure or ''}")
    return tries


# What comes of it.


class Line(NamedTuple):
    """A contestant on a case, over seeds; infinite where a seed did not reach the target."""

    way: str
    cpu: list[float]
    wall: list[float]
    steps: list[float]
    search_steps: float
    spent: float
    accuracy: float
    max_lr: float
    failures: list[str]

    @property
    def share(self) -> float:
        """Share of the seeds that reached the target."""
        return sum(map(math.isfinite, self.cpu)) / len(self.cpu)


def lines(
    tries: Sequence[Try], case: str, share_of_target: Callable[[Try], float] = lambda one: one.target
) -> list[Line]:
    """Return the lines of a case, in the order of the contestants.

    ``search_steps``: median; ``spent``: median CPU seconds of those seeds that did not reach the target, to the end;
    ``accuracy``: mean of the best one seen; ``max_lr``: geometric mean.
    """
    found = []
    for way in dict.fromkeys(one.way for one in tries):
        own = [one for one in tries if one.way == way and one.case == case]
        at = [one.reached(share_of_target(one)) for one in own]
        never = [
            one.validations[-1].cpu for one, where in zip(own, at, strict=True) if where is None and one.validations
        ]
        lrs = [one.max_lr for one in own if one.max_lr]
        found.append(
            Line(
                way,
                *(
                    [math.inf if where is None else getattr(where, name) for where in at]
                    for name in ("cpu", "wall", "steps")
                ),
                search_steps=median(one.search_steps for one in own),
                spent=median(never) if never else math.nan,
                accuracy=float(np.mean([one.best for one in own])),
                max_lr=float(np.exp(np.mean(np.log(lrs)))) if lrs else math.nan,
                failures=[one.failure for one in own if one.failure],
            )
        )
    order = [way.name for way in WAYS]
    return sorted(found, key=lambda line: order.index(line.way))


def table(
    tries: Sequence[Try], cases: Sequence[Case], skipped: Mapping[str, str], facts: dict[str, Any], words: str
) -> str:
    """Return the record as Markdown; ``words``: what it says."""
    parts = [
        "# End to end",
        (__doc__ or "").split("\n\n")[0],
        as_markdown(facts),
        *([words] if words else []),
        HOW_TO_READ,
    ]
    if skipped:
        parts.append("Left out: " + "; ".join(f"{name} ({reason})" for name, reason in skipped.items()) + ".")
    for case in cases:
        lesser = case.target(LESSER_SHARE)
        parts.append(
            f"## {case.title}\n\nTask `{case.task}`, {case.length()} epochs at most. Target: "
            f"{100 * case.target():.2f} % ({SHARE:.0%} of the gain); "
            f"on the way: {100 * lesser:.2f} % ({LESSER_SHARE:.0%})."
        )
        heads = ("", "reached", "CPU s", "wall s", "steps", "of which search", f"CPU s to {LESSER_SHARE:.0%}")
        heads += ("CPU s where not reached", "best accuracy, %", "max_lr")
        body = [_row(heads), _row(["---"] * len(heads))]
        on_the_way = {line.way: line for line in lines(tries, case.title, lambda _, lesser=lesser: lesser)}
        body += [_cells(line, on_the_way[line.way]) for line in lines(tries, case.title)]
        parts.append("\n".join(body))
        failures = [f"{line.way}: {failure}" for line in lines(tries, case.title) for failure in line.failures]
        if failures:
            parts.append("Raised: " + "; ".join(failures) + ".")
    return "\n\n".join(parts) + "\n"


def _cells(line: Line, on_the_way: Line) -> str:
    return _row(
        [
            f"**{line.way}**" if line.way == WAYS[0].name else line.way,
            f"{line.share:.0%}",
            in_words(line.cpu),
            in_words(line.wall),
            in_words(line.steps),
            f"{line.search_steps:.0f}",
            in_words(on_the_way.cpu),
            "" if math.isnan(line.spent) else f"{line.spent:.3g}",
            f"{100 * line.accuracy:.2f}",
            "" if math.isnan(line.max_lr) else f"{line.max_lr:.2g}",
        ]
    )


HOW_TO_READ = """\
Times and steps: median (least .. most) over the seeds, from the start of the search to the first validation that \
reaches the target, validations included; where some seeds never reached it, the figures of those that did are \
listed instead, and what the others spent in vain stands in its own column. Every contestant has the same weights, \
data, batches, optimizer and planned length; schedule-free brings AdamW at its own defaults. Defaults otherwise: \
fastai picks by `valley`, torch-lr-finder sweeps from 1e-7 to 10 in 100 steps, Lightning from 1e-8 to 1 in 100 \
steps. Optuna draws `max_lr` between 1e-5 and 1 (log-uniformly, then by TPE); each trial is a whole OneCycleLR run, \
pruned by the median of the former ones, and the study stops with the first trial that reaches the target, which is \
the most that can be said for it; "of which search" are then all steps before its last trial. fastai's cycle is its \
own (div 25, up in a quarter of the run, momentum .95 to .85), the others' is torch's. `max_lr`: geometric mean."""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def picture(tries: Sequence[Try], cases: Sequence[Case], path: Path) -> None:
    """Draw a panel per case: a mark per seed at its CPU seconds, hollow and at the end of its run if never reached."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    names = [way.name for way in WAYS if any(one.way == way.name for one in tries)]
    kinds = {way.name: way.kind for way in WAYS}
    figure = Figure(figsize=(4.0 * len(cases) + 2.6, 0.42 * len(names) + 2.0), layout="constrained")
    panels = figure.subplots(1, len(cases), squeeze=False, sharey=True)[0]
    for axes, case in zip(panels, cases, strict=True):
        for one in tries:
            if one.case != case.title or not one.validations:
                continue
            color, marker = LOOKS[kinds[one.way]]
            found = one.reached()
            seconds = (found or one.validations[-1]).cpu
            face = color if found else "none"
            at = names.index(one.way) + 0.09 * (one.seed - (len(SEEDS) - 1) / 2)
            axes.plot(seconds, at, marker, color=color, markerfacecolor=face, markersize=6)
        for line in lines(tries, case.title):
            if line.share == 1:
                at = names.index(line.way)
                axes.plot([median(line.cpu)] * 2, [at - 0.34, at + 0.34], color="0.4", linewidth=1.5, zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(f"{case.title}\ntarget {100 * case.target():.1f} %", fontsize=9)
        axes.set_xlabel("CPU seconds to the target, search included", fontsize=9)
        axes.grid(axis="x", color="0.5", alpha=0.2, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    handles = [
        Line2D([], [], color="0.4", marker="o", linestyle="", label="a seed"),
        Line2D(
            [], [], color="0.4", marker="o", markerfacecolor="none", linestyle="", label="never reached: its whole run"
        ),
        Line2D(
            [], [], color="0.4", marker="|", markersize=12, linestyle="", label="median, where all seeds reached it"
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.end_to_end", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed of a small task; only --out keeps it")
    parser.add_argument("--out", type=Path, help="folder for table, numbers and picture")
    parser.add_argument("--redraw", action="store_true", help="write table and picture again from the numbers in --out")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    out = given.out if given.quick or given.out else RESULTS
    if given.redraw:
        folder = given.out or RESULTS
        write(json.loads((folder / "end_to_end.json").read_text(encoding="utf-8")), folder)
        return
    skipped = {way.name: reason for way in WAYS if (reason := way.missing()) is not None}
    cases = QUICK if given.quick else CASES
    skipped |= {case.title: reason for case in cases if (reason := TASKS[case.task].missing()) is not None}
    seeds = SEEDS[:1] if given.quick else SEEDS
    say = functools.partial(print, flush=True)
    tries = in_turn(
        [case for case in cases if case.title not in skipped],
        [way for way in WAYS if way.name not in skipped],
        seeds,
        say,
    )
    facts = describe(PACKAGES) | {"seeds": ", ".join(map(str, seeds)), "runs": len(tries)}
    record = {"facts": facts, "skipped": skipped, "tries": [_as_json(one) for one in tries]}
    write(record, out)


def write(record: dict[str, Any], out: Path | None) -> None:
    """Print the table of a record; write table, numbers and picture where ``out`` is a folder."""
    tries = [_from_json(entry) for entry in record["tries"]]
    cases = [case for case in (*CASES, *QUICK) if any(one.case == case.title for one in tries)]
    text = table(tries, cases, record["skipped"], record["facts"], reading(out))
    print(text)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "end_to_end.md").write_text(text, encoding="utf-8")
    (out / "end_to_end.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    picture(tries, cases, out / "end_to_end.png")


def _as_json(one: Try) -> dict[str, Any]:
    return asdict(one) | {"validations": [each._asdict() for each in one.validations]}


def _from_json(entry: dict[str, Any]) -> Try:
    return Try(**entry | {"validations": tuple(Validation(**each) for each in entry["validations"])})


if __name__ == "__main__":
    main()
