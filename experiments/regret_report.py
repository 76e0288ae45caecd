"""The record of the regret study: tables in Markdown, numbers as JSON, pictures; the two halves are never mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.judged import Line, Study
from experiments.machine import as_markdown, describe
from experiments.picks import ROWS, SEEDS, Kind
from experiments.record import as_json, task_record
from experiments.tasks import TASKS
from lrfind.palette import LR, METRIC, MOMENTUM, TRAIN_LOSS, VAL_LOSS

PACKAGES = ("scikit-learn", "schedulefree", "prodigyopt", "dadaptation")
SPLITS = ("design", "held-out")
LOOKS: Mapping[Kind, tuple[str, str]] = {  # colour and marker
    "ours": (LR, "o"),
    "peer": (TRAIN_LOSS, "s"),
    "usual": (MOMENTUM, "D"),
    "search": (METRIC, "^"),
    "free": (VAL_LOSS, "v"),
    "grid": (METRIC, "P"),
}
TITLES: Mapping[Kind, str] = {
    "ours": "ours",
    "peer": "rules of other tools, on their own sweeps",
    "usual": "no measurement, or rules of thumb",
    "search": "searches, half a run",
    "free": "optimizers without a learning rate",
    "grid": "a dozen whole runs",
}
HOW_TO_READ = """\
Design: the tasks on which rules and constants were chosen. Eight times some of them had been written after the rules \
and held out, until the rules were looked at on them; they taught the next ones, and count as design since. Held-out: \
tasks written before `auto` and `refine` became what they are, without a look at any pick on them, and asked when all \
was fixed. No rule was changed after that look. Counted alike, a pick beyond a grid's end as that end, mean, median \
and worst on these tasks: the eighth round's `auto` 2.06, 0.47, 17.4, the present one 1.62, 0.50, 19.5; `refine` 1.94, \
0.46, 33.6, and 1.74, 0.51, 17.7. What the ninth round changed is not to be told from chance on them.

How hard the tasks held out are differs from set to set. The last five, each at its first look with the rules of its \
time, mean, median, worst: `auto` 1.04, 0.55, 6.0 (30 tasks), 2.06, 0.76, 16.0 (32), 0.79, 0.58, 2.6 (28), 1.75, 0.56, \
28.8 (33) and 1.62, 0.50, 19.5 (32), in the mean of all 155 tasks 1.48; `refine` 0.89, 0.47, 4.5, then 3.04, 0.50, \
24.7, then 0.77, 0.51, 2.5, then 1.67, 0.51, 28.8 and 2.21, 0.51, 22.9, in the mean 1.75; fastai's minimum in the mean \
5.19.

The runs and answers that had not changed are those of the studies before (of 2026-11-23 and later), on the same \
kind of machine. `tasks/` keeps every run and answer: in another clone the same command makes these tables again in \
two or three minutes, and measures only what has changed; with `--anew` all of it.

Regret: points (of 100; accuracy, or R^2 x 100) between the mean score of the grid's best `max_lr` and that of the \
pick, read off the grid (4 rates a decade, 3 seeds each) between its points in log lr; a pick outside the grid is \
run for itself, with the weights and batches of its sweep's seed. It can be negative there. Per task the mean over \
sweep seeds; mean, median and worst are over tasks; the interval is a bootstrap over tasks (95 %). Failed: share of \
runs at the pick that are no better than the best constant predictor. No answer: picks for which the rule had none; \
the fixed default then stands in. Distance, bias: mean of |log10(pick / best)| and of log10(pick / best). Spread: sd \
of log10 pick over sweep seeds. Loss: regret in validation loss, mean and median, in the task's own unit. Cost: \
optimizer steps to the answer, and their share of the run; peers may stop their sweeps of 100 steps earlier. Other \
tools' rules are `lrfind.peers`, which the tests compare with the packages, on sweeps at those packages' defaults \
and the optimizer's own momentum; ignite's default sweep is as long as the run, here it is given 100 steps. \
Optimizers without a learning rate train for the same steps at their READMEs' defaults, once (seed 0): they have a \
score and no pick. Whole grid, one seed: the best of a dozen whole runs by the score of one seed, which is a third of \
what judges it: what is left is chance."""


def write(study: Study, out: Path | None, skipped: Mapping[str, str]) -> None:
    """Print the tables, and write everything to ``out`` if it is not None."""
    facts = describe(PACKAGES) | _counts(study)
    text = tables(study, facts, skipped)
    print(text)
    if out is None:
        return
    (out / "tasks").mkdir(parents=True, exist_ok=True)
    (out / "regret.md").write_text(text, encoding="utf-8")
    (out / "tasks.md").write_text(task_tables(study, facts), encoding="utf-8")
    for name in study.grids:
        (out / "tasks" / f"{name}.json").write_text(as_json(task_record(study, name)) + "\n", encoding="utf-8")
    picture_of_regret(study, out / "regret.png")
    picture_of_cost(study, out / "cost.png")
    print(f"Written to {out}")


def _counts(study: Study) -> dict[str, Any]:
    answers = [each for by_task in study.judged.values() for task in by_task.values() for each in task]
    outside = {(each.answer.task, each.answer.lr) for each in answers if each.outside}
    grid_runs = sum(grid.score.size for grid in study.grids.values())
    free = sum(each.answer.lr is None for each in answers)
    halves = [TASKS[name].split for name in study.grids]
    return {
        "tasks": ", ".join(f"{halves.count(split)} {split}" for split in SPLITS),
        "seeds": f"{', '.join(map(str, SEEDS))}, of weights and order of batches, for runs and for sweeps",
        "runs": f"{grid_runs} on the grids, {len(outside)} picks outside them, {free} without a learning rate",
        "answers": len(answers),
    }


def tables(study: Study, facts: dict[str, Any], skipped: Mapping[str, str]) -> str:
    """Return the record as Markdown."""
    parts = ["# Regret", "How much is lost by a tool's `max_lr`, beside the best that a grid of real runs finds?"]
    parts += [as_markdown(facts), HOW_TO_READ]
    if skipped:
        parts.append("Skipped: " + "; ".join(f"{name} ({reason})" for name, reason in skipped.items()) + ".")
    for split in SPLITS:
        if not (noise := study.noise(split)):
            continue
        parts.append(
            f"## {split.capitalize()}: {len(noise)} tasks\n\nNoise floor (sd of the score over seeds at the best): "
            f"mean {np.mean(noise):.2f}, median {np.median(noise):.2f}, most {max(noise):.2f} points."
        )
        parts.append(line_table(study.lines(split)))
        parts.append(distance_table(study.lines(split)))
        parts.append(range_table(study, split))
    return "\n\n".join(parts) + "\n"


def line_table(lines: list[Line]) -> str:
    """Return regret in points, and what an answer costs."""
    heads = ("row", "mean", "95 %", "median", "worst task", "worst pick", "within 1", "failed", "no answer")
    heads += ("cost, steps", "share of run")
    body = [_row(heads), _row(["---"] * len(heads))]
    for line in lines:
        cost = (f"{line.steps:.0f}", f"{line.share:.2f}") if ROWS[line.row].kind != "free" else ("0", "0.00")
        body.append(
            _row(
                [
                    _named(line.row),
                    f"**{line.mean:.2f}**",
                    f"{line.interval[0]:.2f} .. {line.interval[1]:.2f}",
                    f"{line.median:.2f}",
                    f"{line.worst:.1f}",
                    f"{line.worst_pick:.1f}",
                    f"{line.within:.0%}",
                    f"{line.failed:.1%}",
                    str(line.no_answer),
                    *cost,
                ]
            )
        )
    return "\n".join(body)


def distance_table(lines: list[Line]) -> str:
    """Return how far picks lie from the best lr, and regret in validation loss."""
    heads = ("row", "distance, decades", "bias", "spread", "loss, mean", "loss, median")
    body = [_row(heads), _row(["---"] * len(heads))]
    for line in lines:
        decades = [_or_nothing(value) for value in (line.distance, line.bias, line.spread)]
        body.append(_row([_named(line.row), *decades, f"{line.loss[0]:.3f}", f"{line.loss[1]:.4f}"]))
    return "\n".join(body)


def range_table(study: Study, split: str) -> str:
    """Return the calibration of ``low``..``high``."""
    heads = ("`low`..`high` of", "holds the best lr", "meets its 1-point plateau", "median width, decades")
    body = [_row(heads), _row(["---"] * len(heads))]
    for row, found in study.ranges(split).items():
        body.append(_row([_named(row), f"{found.best:.0%}", f"{found.plateau:.0%}", f"{found.width:.2f}"]))
    return "\n".join(body)


def task_tables(study: Study, facts: dict[str, Any]) -> str:
    """Return the regret of every row with a pick on every task; the full numbers are in ``tasks/``."""
    rows = [row for row in study.judged if ROWS[row].kind != "free"]
    parts = ["# Regret, task by task", as_markdown(facts), "Points, mean over sweep seeds; noise: sd over seeds."]
    for split in SPLITS:
        heads = ("task", "best lr", "score", "noise", *rows)
        body = [_row(heads), _row(["---"] * len(heads))]
        for name, grid in study.grids.items():
            if TASKS[name].split == split:
                regrets = [np.mean([each.regret for each in study.judged[row][name]]) for row in rows]
                best = [f"{grid.best.lr:.2g}", f"{100 * grid.best.score:.1f}", f"{100 * grid.best.noise:.1f}"]
                body.append(_row([name, *best, *(f"{regret:.1f}" for regret in regrets)]))
        parts += [f"## {split.capitalize()}", "\n".join(body)]
    return "\n\n".join(parts) + "\n"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _named(row: str) -> str:
    return f"**{row}**" if ROWS[row].kind == "ours" else row


def _or_nothing(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def picture_of_regret(study: Study, path: Path) -> None:
    """Draw a panel per half: dot the mean with its interval, tick the median, cross the worst task."""
    from matplotlib.figure import Figure

    shown = [split for split in SPLITS if study.noise(split)]
    order = [line.row for line in study.lines(shown[0])]
    figure = Figure(figsize=(5.0 * len(shown) + 1.5, 0.3 * len(order) + 1.7), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
    for axes, split in zip(panels, shown, strict=True):
        floor = float(np.mean(study.noise(split)))
        axes.axvspan(0, floor, color=MOMENTUM, alpha=0.25, linewidth=0)
        for line in study.lines(split):
            at = order.index(line.row)
            color, marker = LOOKS[ROWS[line.row].kind]
            axes.plot([line.interval[0], line.interval[1]], [at, at], color=color, linewidth=2)
            axes.plot(line.mean, at, marker, color=color, markersize=7)
            axes.plot(line.median, at, "|", color=color, markersize=12, markeredgewidth=2)
            axes.plot(line.worst, at, "x", color=color, markersize=6)
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.8)
        axes.set_xlim(-0.3, 110)
        ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(axis="x", color=MOMENTUM, alpha=0.3, linewidth=0.6)
        axes.set_title(f"{split}, {len(study.noise(split))} tasks", fontsize=11)
        axes.set_xlabel("regret, points below the best of the grid")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(order)), order)
    panels[0].invert_yaxis()
    kinds = {ROWS[row].kind for row in order}
    _legend(figure, kinds, [(".", "mean and 95 % interval"), ("|", "median"), ("x", "worst task")])
    figure.savefig(path, dpi=150)


def picture_of_cost(study: Study, path: Path) -> None:
    """Draw mean regret, with its interval, over the share of the run that an answer costs; a panel per half."""
    from matplotlib.figure import Figure

    shown = [split for split in SPLITS if study.noise(split)]
    figure = Figure(figsize=(5.0 * len(shown) + 0.5, 5.8), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
    for axes, split in zip(panels, shown, strict=True):
        lines = [line for line in study.lines(split) if ROWS[line.row].kind not in ("free", "grid")]
        for line in lines:
            color, marker = LOOKS[ROWS[line.row].kind]
            axes.plot([line.share] * 2, line.interval, color=color, linewidth=1, alpha=0.6)
            axes.plot(line.share, line.mean, marker, color=color, markersize=7)
        _label(axes, lines)
        axes.set_yscale("log")
        ticks = [0.5, 1, 2, 5, 10, 20, 50]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks([], minor=True)
        axes.set_xlim(-0.03, 0.72)
        axes.grid(color=MOMENTUM, alpha=0.3, linewidth=0.6)
        axes.set_title(f"{split}, {len(study.noise(split))} tasks", fontsize=11)
        axes.set_xlabel("cost of an answer, share of the run")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean regret, points")
    _legend(figure, {ROWS[line.row].kind for line in lines}, [])
    figure.savefig(path, dpi=150)


def _label(axes: Any, lines: list[Line]) -> None:
    """Name the points at their right, higher where a name would lie over another or over a point."""
    # Left end, right end, height of points and names.
    taken = [(line.share - 0.012, line.share + 0.012, line.mean) for line in lines]
    for line in sorted(lines, key=lambda line: line.mean):
        width = 0.0115 * len(line.row)
        # Right of all points that stand close to its own.
        left = 0.015 + max(other.share for other in lines if 0 <= other.share - line.share < 0.05)
        height = line.mean
        while any(
            left < other[1] and left + width > other[0] and other[2] / 1.17 < height < other[2] * 1.17
            for other in taken
        ):
            height *= 1.03
        taken.append((left, left + width, height))
        to_point = {
            "arrowstyle": "-",
            "color": MOMENTUM,
            "linewidth": 0.6,
            "shrinkA": 1,
            "shrinkB": 3,
            "relpos": (0, 0.5),
        }
        axes.annotate(line.row, (line.share, line.mean), (left, height), fontsize=8, va="center", arrowprops=to_point)


def _legend(figure: Any, kinds: set[Kind], marks: list[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=TITLES[kind])
        for kind, (color, marker) in LOOKS.items()
        if kind in kinds
    ]
    handles += [
        Line2D([], [], color=MOMENTUM, marker=mark, linestyle="", label=label, markersize=9) for mark, label in marks
    ]
    if marks:
        handles.append(Line2D([], [], color=MOMENTUM, alpha=0.25, linewidth=8, label="noise floor"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
