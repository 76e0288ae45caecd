"""The arithmetic of the regret study: what an answer is worth on a task's grid, and a row over many tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from experiments.oracle import Oracle, run_cycle
from experiments.picks import ROWS, Answer, kept
from experiments.tasks import TASKS, Task

PLATEAU = 0.01  # score: what a point may lack and still count as part of the plateau
RESAMPLES = 10_000


@dataclass(frozen=True)
class Judged:
    """An answer and what it is worth.

    Attributes:
        answer: What the row said.
        regret: Points (of 100) of score below the grid's best mean.
        loss_regret: Validation loss above the grid's lowest mean.
        decades: ``log10(pick / best lr)``; NaN without a pick.
        failed: Share of the runs there that are no better than the best constant predictor.
        share: ``answer.steps`` as a share of the run.
        outside: Whether the pick lies beyond the grid, so that it was run for itself.
    """

    answer: Answer
    regret: float
    loss_regret: float
    decades: float
    failed: float
    share: float
    outside: bool


class Coverage(NamedTuple):
    """Shares of picks whose ``low``..``high`` holds the best lr, or meets its plateau; width in decades."""

    best: float
    plateau: float
    width: float


@dataclass(frozen=True)
class Line:
    """A row over the tasks of one half. Per task the mean over sweep seeds; then over tasks, unless it says otherwise.

    Attributes:
        row: Its name.
        tasks: Number of tasks.
        mean: Mean regret, points.
        interval: 95 % of the bootstrap over tasks.
        median: Median regret.
        worst: Regret of the worst task.
        worst_pick: Of the worst single pick.
        within: Share of tasks within a point.
        failed: Share of picks whose run fails.
        no_answer: Number of picks for which the row had none, and the fixed default stood in.
        distance: Mean of ``|log10(pick / best)|`` over picks.
        bias: Mean of ``log10(pick / best)``.
        spread: Mean over tasks of the sd of log10 pick over sweep seeds.
        loss: Mean regret in validation loss, and its median.
        steps: Mean steps that an answer costs.
        share: The same as a share of the run.
    """

    row: str
    tasks: int
    mean: float
    interval: tuple[float, float]
    median: float
    worst: float
    worst_pick: float
    within: float
    failed: float
    no_answer: int
    distance: float
    bias: float
    spread: float
    loss: tuple[float, float]
    steps: float
    share: float


def judge(grid: Oracle, given: Answer) -> Judged:
    """Say what an answer is worth on a task's grid; a pick outside it is run (or looked up), with the answer's seed."""
    task, outside = grid.task, False
    if given.lr is None:
        assert given.score is not None, "a row without a pick gives a score"
        assert given.val_loss is not None, "and a loss"
        score, loss, decades = given.score, given.val_loss, math.nan
        failed = float(not given.score > task.constant_score())
    elif grid.covers(given.lr):
        score, loss = grid.score_at(given.lr), grid.loss_at(given.lr)
        nearest = int(np.abs(np.log10(grid.lr) - math.log10(given.lr)).argmin())
        failed = float(grid.diverged[nearest].mean())
    else:
        run = run_cycle(task, given.lr, given.seed)
        score, loss, failed, outside = run.counted_score, run.counted_loss, float(run.diverged), True
    if given.lr is not None:
        decades = math.log10(given.lr / grid.best.lr)
    regret = 100 * (grid.best.score - score)
    return Judged(given, regret, loss - grid.best_loss.score, decades, failed, given.steps / task.total_steps, outside)


def bootstrap(values: Sequence[float], resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % interval of the mean over tasks, which are drawn again with replacement; seed 0.

    >>> low, high = bootstrap([0.0, 1.0, 2.0, 3.0])
    >>> low < 1.5 < high
    True
    """
    drawn = np.random.default_rng(0).choice(np.asarray(values), (resamples, len(values)))
    low, high = np.quantile(drawn.mean(1), [0.025, 0.975])
    return float(low), float(high)


def summarize(row: str, by_task: Sequence[Sequence[Judged]]) -> Line:
    """Return the line of a row; ``by_task``: for each task, the judged answers of its seeds."""
    every = [judged for task in by_task for judged in task]
    regrets = [float(np.mean([judged.regret for judged in task])) for task in by_task]
    losses = [float(np.mean([judged.loss_regret for judged in task])) for task in by_task]
    decades = np.array([judged.decades for judged in every])
    spreads = [
        float(np.std([judged.decades for judged in task], ddof=1)) if len(task) > 1 else math.nan for task in by_task
    ]
    return Line(
        row=row,
        tasks=len(by_task),
        mean=float(np.mean(regrets)),
        interval=bootstrap(regrets),
        median=float(np.median(regrets)),
        worst=max(regrets),
        worst_pick=max(judged.regret for judged in every),
        within=float(np.mean([regret <= 100 * PLATEAU for regret in regrets])),
        failed=float(np.mean([judged.failed for judged in every])),
        no_answer=sum(judged.answer.refusal is not None for judged in every),
        distance=float(np.abs(decades).mean()),
        bias=float(decades.mean()),
        spread=float(np.mean(spreads)),
        loss=(float(np.mean(losses)), float(np.median(losses))),
        steps=float(np.mean([judged.answer.steps for judged in every])),
        share=float(np.mean([judged.share for judged in every])),
    )


def coverage(pairs: Sequence[tuple[Oracle, Answer]]) -> Coverage:
    """Return how often ``low``..``high`` holds what it should, over answers and the grids of their tasks."""
    best, plateau, widths = [], [], []
    for grid, given in pairs:
        assert given.low is not None, "an answer with a range"
        assert given.high is not None, "an answer with a range"
        flat_from, flat_to = grid.plateau(PLATEAU)
        best.append(given.low <= grid.best.lr <= given.high)
        plateau.append(given.low <= flat_to and given.high >= flat_from)
        widths.append(math.log10(given.high / given.low))
    return Coverage(float(np.mean(best)), float(np.mean(plateau)), float(np.median(widths)))


class Study(NamedTuple):
    """What was measured: the grids, and row to task name to judged answers."""

    grids: dict[str, Oracle]
    judged: dict[str, dict[str, list[Judged]]]

    def lines(self, split: str) -> list[Line]:
        """Return the lines of one half, the best mean first."""
        found = []
        for row, by_task in self.judged.items():
            here = [answers for name, answers in by_task.items() if TASKS[name].split == split]
            if here:
                found.append(summarize(row, here))
        return sorted(found, key=lambda line: line.mean)

    def ranges(self, split: str) -> dict[str, Coverage]:
        """Return the calibration of the rows that give a range, on one half."""
        found = {}
        for row, by_task in self.judged.items():
            pairs = [
                (self.grids[name], each.answer)
                for name, answers in by_task.items()
                for each in answers
                if TASKS[name].split == split and each.answer.low is not None
            ]
            if pairs:
                found[row] = coverage(pairs)
        return found

    def noise(self, split: str) -> list[float]:
        """Return the noise floor of each task of a half: sd over seeds at its best, in points."""
        return [100 * grid.best.noise for name, grid in self.grids.items() if TASKS[name].split == split]


def study(tasks: Sequence[Task]) -> Study:
    """Read back what ``ask`` has left in the cache."""
    grids = {task.name: Oracle.load(task) for task in tasks}
    judged: dict[str, dict[str, list[Judged]]] = {}
    for task in tasks:
        for (row, _), given in kept(task).items():
            judged.setdefault(row, {}).setdefault(task.name, []).append(judge(grids[task.name], given))
    return Study(grids, {row: judged[row] for row in ROWS if row in judged})
