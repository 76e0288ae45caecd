"""Does one cycle with our pick reach an accuracy on Fashion-MNIST in fewer epochs than other ways to train?

``python -m experiments.fashion`` trains LeNet and a small residual net, on 12,000 training images (so that a thousand
epochs fit on one CPU core), and validates on 5,000 others. The data root is the environment variable ``LRFIND_DATA``.
A planned schedule (one cycle, cosine) is run at every length of 1, 2, 3, 5 and 8 epochs, and its epochs to an
accuracy are the shortest length that ends there; a run without a plan (constant lr, Adam, schedule-free) is validated
after each of its 8 epochs, and its first one counts. Grids are run with the first seed, the other seeds at the lr
that was best with it. Every run is kept in ``experiments/.cache/fashion/``, so a second call resumes. ``--quick``
does two lengths of a tiny set of random images in a temporary cache.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.fashion_runs import (
    AUTO,
    FREE,
    NETS,
    POLICIES,
    QUICK,
    TARGETS,
    Job,
    Kept,
    Outcome,
    Plan,
    Policy,
    best_lrs,
    first_epoch,
    first_jobs,
    other_jobs,
)
from experiments.machine import as_markdown, describe
from experiments.tasks.data import CACHE

RESULTS = Path(__file__).parent / "results" / "fashion"
PACKAGES = ("torchvision", "schedulefree")
COLLAPSED = 0.2  # accuracy of a run that guesses, or whose loss was not finite
FALLEN = 0.03  # height of their mark in the picture, share of the axes
LOWEST_SHOWN = 72  # percent, in the picture
HEADLINE = 0.86  # of the pictures and the first table; fixed, as the others, before the first run


class Reached(NamedTuple):
    """Epochs to a target, one number a seed, infinite where it was never reached, without and with the search."""

    epochs: tuple[float, ...]
    with_search: tuple[float, ...]


def reached(net: str, plan: Plan, policy: Policy, target: float, kept: Kept) -> Reached:
    """Return the epochs to ``target``.

    With search: the optimizer steps of the pick, in epochs; for a grid all of its runs, each for as many epochs as
    the best one took.
    """
    factor = len(plan.lrs(policy))
    lengths, costs = [], []
    for seed in plan.seeds:
        if policy.planned:
            ends = [ending(net, plan, policy, epochs, seed, kept) for epochs in plan.lengths]
            run = next((run for run in ends if run.accuracy[-1] >= target), None)
            lengths.append(math.inf if run is None else run.job.epochs)
            costs.append(math.inf if run is None else factor * run.job.epochs + run.search_epochs)
        else:
            (lr,) = {best_lrs(net, plan, policy, plan.longest, kept)[TARGETS.index(target) if policy.searched else 0]}
            epochs = first_epoch(kept.outcomes[Job(net, policy.name, lr, plan.longest, seed)].accuracy, target)
            lengths.append(epochs)
            costs.append(factor * epochs)
    return Reached(tuple(lengths), tuple(costs))


def ending(net: str, plan: Plan, policy: Policy, epochs: int, seed: int, kept: Kept) -> Outcome:
    """Return the run of a planned policy at a length, at the lr chosen for that length."""
    (lr,) = best_lrs(net, plan, policy, epochs, kept)
    return kept.outcomes[Job(net, policy.name, lr, epochs, seed)]


def curve(net: str, plan: Plan, policy: Policy, kept: Kept) -> tuple[list[int], np.ndarray]:
    """Return epochs and accuracies ``(seeds, epochs)``: of ends, or along the run at the headline's lr."""
    if policy.planned:
        rows = [[ending(net, plan, policy, n, seed, kept).accuracy[-1] for n in plan.lengths] for seed in plan.seeds]
        return list(plan.lengths), np.array(rows)
    lr = best_lrs(net, plan, policy, plan.longest, kept)[TARGETS.index(HEADLINE) if policy.searched else 0]
    runs = [kept.outcomes[Job(net, policy.name, lr, plan.longest, seed)].accuracy for seed in plan.seeds]
    shortest = min(map(len, runs))
    return list(range(1, shortest + 1)), np.array([run[:shortest] for run in runs])


def in_words(numbers: Sequence[float]) -> str:
    """Return the median over seeds, its range, and how many reached it.

    >>> in_words([3, 5, 5]), in_words([3, math.inf, math.inf]), in_words([math.inf])
    ('5 (3 .. 5)', 'in 1 of 3: 3', 'never')
    >>> in_words([0.1234, 1234.5])
    '617 (0.123 .. 1,234)'
    """
    finite = sorted(number for number in numbers if math.isfinite(number))
    if not finite:
        return "never"
    if len(finite) < len(numbers):
        return f"in {len(finite)} of {len(numbers)}: {', '.join(map(_short, finite))}"
    middle = _short(float(np.median(finite)))
    return middle if finite[0] == finite[-1] else f"{middle} ({_short(finite[0])} .. {_short(finite[-1])})"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def complete(net: str, plan: Plan, policies: Sequence[Policy], kept: Kept) -> Plan:
    """Return the plan with those seeds of which every run of a net is there."""
    done = [
        seed
        for seed in plan.seeds[1:]
        if all(job in kept.outcomes for job in other_jobs(net, plan, policies, kept, seed))
    ]
    return plan._replace(seeds=(plan.seeds[0], *done))


def table(plan: Plan, policies: Sequence[Policy], kept: Kept, facts: dict[str, Any], words: str) -> str:
    """Return the record as Markdown; ``words``: what it says."""
    parts = [
        "# Fashion-MNIST",
        (__doc__ or "").split("\n\n")[0],
        as_markdown(facts),
        *([words] if words else []),
        how_to_read(plan),
    ]
    for net in NETS:
        own = complete(net, plan, policies, kept)
        parts.append(f"## {NETS[net][0]}\n\nSeeds {', '.join(map(str, own.seeds))}, of weights and order of batches.")
        heads = ["", *(f"{target:.0%}" for target in TARGETS)]
        for title, field in (
            ("Epochs to a validation accuracy: median (least .. most) over seeds.", 0),
            ("The same with the search: the pick's own steps, or all runs of the grid.", 1),
        ):
            body = [_row(heads), _row(["---"] * len(heads))]
            for policy in policies:
                cells = [in_words(reached(net, own, policy, target, kept)[field]) for target in TARGETS]
                body.append(_row([f"**{policy.name}**" if policy is AUTO else policy.name, *cells]))
            parts += [title, "\n".join(body)]
        parts += [
            "Validation accuracy in %, mean ± sd over seeds, and the lrs behind it (geometric mean over seeds).",
            _accuracy(net, own, policies, kept),
        ]
    return "\n\n".join(parts) + "\n"


def how_to_read(plan: Plan) -> str:
    """Return what the tables count, and what was spent on each policy."""
    return HOW_TO_READ.format(
        grid=", ".join(f"{lr:g}" for lr in plan.grid),
        peaks=", ".join(f"{lr:g}" for lr in plan.peaks),
        seed=plan.seeds[0],
        lengths=", ".join(map(str, plan.lengths)),
        longest=plan.longest,
        steps=math.ceil(plan.train / plan.batch_size),
    )


HOW_TO_READ = """\
All train with SGD (momentum 0.9, which one cycle cycles; weight decay 5e-4) except Adam (lr 1e-3) and schedule-free \
AdamW (lr 0.0025, its default; BatchNorm measured anew before a validation). One cycle has torch's shape; auto picks \
its peak anew for every length and seed. Grid of the others: {grid}; of one cycle, which stands higher rates: \
{peaks}. All of it was run with seed {seed} ({lengths} epochs planned, {longest} without a plan), the other seeds at \
the lr that was best with it: of a cosine per length, by the accuracy of its end; of a constant lr per target, by \
the first epoch there. That choice is made with the images that judge it, which flatters the grids. An epoch has \
{steps} steps. The epochs of a planned schedule suppose that its length was guessed right: lengths that fell short \
are not added up. A run without a plan needs no guess, and its first epoch at a target may be a lucky one, after \
which it falls again."""


def _accuracy(net: str, plan: Plan, policies: Sequence[Policy], kept: Kept) -> str:
    shown = sorted({*plan.lengths, plan.longest})
    heads = ["", *(f"{epochs} epochs" for epochs in shown), "lr (of a plan: per length)"]
    body = [_row(heads), _row(["---"] * len(heads))]
    for policy in policies:
        at, values = curve(net, plan, policy, kept)
        by_epoch = dict(zip(at, values.T, strict=True))
        cells = [_spread(by_epoch[epochs]) if epochs in by_epoch else "" for epochs in shown]
        body.append(_row([policy.name, *cells, _lrs(net, plan, policy, kept)]))
    return "\n".join(body)


def standing(accuracy: np.ndarray) -> np.ndarray:
    """Return the accuracies of the runs that have not collapsed to a guess; the others would drown the spread."""
    return accuracy[accuracy > COLLAPSED]


def _spread(accuracy: np.ndarray) -> str:
    stood = 100 * standing(accuracy)
    fell = len(accuracy) - len(stood)
    parts = [f"{stood.mean():.2f}"] if len(stood) else []
    parts += [f"± {stood.std(ddof=1):.2f}"] if len(stood) > 1 else []
    parts += [f"({fell} of {len(accuracy)} collapsed)"] if fell else []
    return " ".join(parts)


def _lrs(net: str, plan: Plan, policy: Policy, kept: Kept) -> str:
    if policy.planned:
        runs = [[ending(net, plan, policy, n, seed, kept).lr or 0.0 for seed in plan.seeds] for n in plan.lengths]
        return ", ".join(f"{float(np.exp(np.mean(np.log(lrs)))):.2g}" for lrs in runs)
    lr = best_lrs(net, plan, policy, plan.longest, kept)[TARGETS.index(HEADLINE) if policy.searched else 0]
    return "0.0025 (its default)" if lr is None else f"{lr:g}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def picture(plan: Plan, policies: Sequence[Policy], kept: Kept, path: Path) -> None:
    """Draw a column per net: above accuracy over epochs, below epochs to an accuracy."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(5.4 * len(NETS), 8.6), layout="constrained")
    panels = figure.subplots(2, len(NETS), squeeze=False, sharey="row")
    ticks = sorted({*plan.lengths, plan.longest})
    for net, above, below in zip(NETS, *panels, strict=True):
        own = complete(net, plan, policies, kept)
        for policy in policies:
            color, marker, line = policy.look
            look = {"color": color, "linestyle": line, "marker": marker, "markersize": 5, "label": policy.name}
            at, values = curve(net, own, policy, kept)
            stood = [100 * standing(column) for column in values.T]
            drawn = [(epochs, c.min(), c.mean(), c.max()) for epochs, c in zip(at, stood, strict=True) if len(c)]
            epochs, low, mean, high = np.array(drawn).reshape(-1, 4).T
            above.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
            above.plot(epochs, mean, **look)
            for each, column in zip(at, stood, strict=True):
                if len(column) < len(own.seeds):
                    mark = {"color": color, "transform": above.get_xaxis_transform()}
                    above.plot(each, FALLEN, "x", markersize=8, **mark)
                    above.text(each, 2 * FALLEN, policy.name, fontsize=7, ha="center", **mark)
            found = [reached(net, own, policy, target, kept).epochs for target in TARGETS]
            aside = 0.1 * (policies.index(policy) - (len(policies) - 1) / 2)  # so that equal lines stand side by side
            everywhere = [(100 * t + aside, np.median(epochs)) for t, epochs in zip(TARGETS, found, strict=True)]
            sure = [(t, epochs) for (t, epochs), all_ in zip(everywhere, found, strict=True) if max(all_) < math.inf]
            below.plot(*zip(*sure, strict=True) if sure else ([], []), **look)
        above.set_title(NETS[net][0], fontsize=10)
        for axes, set_scale, set_ticks in (
            (above, above.set_xscale, above.set_xticks),
            (below, below.set_yscale, below.set_yticks),
        ):
            set_scale("log")
            set_ticks(ticks, map(str, ticks))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_locator(NullLocator())
            axes.grid(color="0.5", alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        above.set_xlabel("epochs trained (a planned schedule: its length)")
        below.set_xlim(100 * TARGETS[0] - 0.5, 100 * TARGETS[-1] + 0.5)
        below.set_xticks([round(100 * target) for target in TARGETS])
        below.set_xlabel("validation accuracy to reach, %")
    panels[0, 0].set_ylabel("validation accuracy, %")
    panels[1, 0].set_ylabel("epochs to that accuracy, without the search")
    if not plan.random:
        panels[0, 0].set_ylim(LOWEST_SHOWN, None)
    handles, _ = panels[0, 0].get_legend_handles_labels()
    handles.append(Line2D([], [], color="0.4", marker="x", markersize=9, linestyle="", label="a run of it collapsed"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)


def reading(out: Path | None) -> str:
    """Return what somebody wrote about the numbers in a folder, to stand above its tables."""
    path = None if out is None else out / "reading.md"
    return path.read_text(encoding="utf-8").strip() if path is not None and path.exists() else ""


def record(plan: Plan, kept: Kept, facts: dict[str, Any]) -> dict[str, Any]:
    """Return everything as JSON values."""
    runs = [asdict(outcome) | {"job": outcome.job._asdict()} for outcome in kept.outcomes.values()]
    return {"facts": facts, "plan": plan._asdict(), "runs": runs}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.fashion", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny set of random images; only --out keeps it")
    parser.add_argument("--out", type=Path, help="folder for table, numbers and picture")
    parser.add_argument("--no-more", action="store_true", help="do no runs: write what the cache holds")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.quick:
        with tempfile.TemporaryDirectory() as folder:
            run(QUICK, Path(folder), given.out)
        return
    run(Plan(), CACHE / "fashion", RESULTS if given.out is None else given.out, more=not given.no_more)


def run(plan: Plan, cache: Path, out: Path | None, *, more: bool = True) -> None:
    """Do what is missing of a plan, if there is to be ``more``, and write its record."""
    kept = Kept(cache, plan)
    say = functools.partial(print, flush=True)
    policies = [policy for policy in POLICIES if policy is not FREE or importlib.util.find_spec("schedulefree")]
    if more:
        for net in NETS:
            kept.do(first_jobs(net, plan, policies), say)
        for seed in plan.seeds[1:]:
            for net in NETS:
                kept.do(other_jobs(net, plan, policies, kept, seed), say)
    facts = describe(PACKAGES) | {
        "images": f"{plan.train:,} to train on, {plan.val:,} to validate on, batches of {plan.batch_size}",
        "runs": len(kept.outcomes),
        "CPU time": f"{sum(outcome.cpu_seconds for outcome in kept.outcomes.values()) / 60:.0f} min",
    }
    text = table(plan, policies, kept, facts, reading(out))
    print(text)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "fashion.md").write_text(text, encoding="utf-8")
    (out / "fashion.json").write_text(json.dumps(record(plan, kept, facts), indent=1) + "\n", encoding="utf-8")
    picture(plan, policies, kept, out / "fashion.png")


if __name__ == "__main__":
    main()
