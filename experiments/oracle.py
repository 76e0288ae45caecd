"""The best max_lr of every task, by brute force: a grid of real OneCycle runs.

``python -m experiments.oracle --data-root DATA`` trains every task at 4 rates a decade and 3 seeds, around a
first guess and then outwards until both ends are clearly worse than the best. Every run is kept in
``experiments/.cache/oracle/`` under a hash of its content, so a second call resumes, and a call with more tasks adds
to what is there.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import cache
from experiments.tasks import TASKS, Task
from experiments.tasks.data import CACHE
from lrfind.batches import endless
from lrfind.groups import get_momentum
from lrfind.workload import Workload
from onecycle import OneCycle, OneCycleLR

VERSION = 1  # raised when run_cycle changes what it does
PER_DECADE = 4
SEEDS = (0, 1, 2)
CLEARLY_WORSE = 0.02  # score; or three times the sd over seeds at the best, where that is more
FLANK = 3  # grid points wanted on either side of the best
MOST_POINTS = 32  # 8 decades; where the score never falls, the grid stops here


@dataclass(frozen=True)
class RunResult:
    """One training run.

    ``score`` and ``val_loss`` are those of the end, NaN where a loss was not finite; ``train_loss`` is the mean
    of the last tenth of the steps; ``initial_loss`` the validation loss before the first; ``curve``: (steps
    taken, validation loss, score) along the run, if asked for.
    """

    task: str
    max_lr: float
    seed: int
    steps: int
    score: float
    val_loss: float
    train_loss: float
    initial_loss: float
    constant_score: float
    steps_taken: int
    wall_seconds: float
    curve: tuple[tuple[int, float, float], ...] = ()

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite or the score is no better than the best constant predictor's."""
        return not self.score > self.constant_score

    @property
    def counted_score(self) -> float:
        """The score, at least the constant predictor's: one blown-up run must not outweigh all others."""
        return self.constant_score if self.diverged else self.score

    @property
    def counted_loss(self) -> float:
        """The validation loss, at most that of the untrained model."""
        return self.val_loss if self.val_loss < self.initial_loss else self.initial_loss


def run_cycle(task: Task, max_lr: float, seed: int, steps: int | None = None, *, val_curve: bool = False) -> RunResult:
    """Train ``task`` with OneCycle, or look the run up if it was done before.

    Args:
        task: What to train.
        max_lr: Peak lr of the parameter group with the largest lr; the others keep their ratio to it.
        seed: Draws the initial weights and the order of the batches.
        steps: Length of the cycle, in optimizer steps. Default: the task's ``total_steps``.
        val_curve: Whether to evaluate ten times along the run (``RunResult.curve``). Changes no other number.
    """
    steps = task.total_steps if steps is None else steps
    kept = _kept(task, _key(task, max_lr, seed, steps, val_curve))
    if kept is not None:
        return kept
    with torch.random.fork_rng(devices=[]):
        result = _train(task, max_lr, seed, steps, val_curve)
    _keep(task, _key(task, max_lr, seed, steps, val_curve), result)
    return result


def _train(task: Task, max_lr: float, seed: int, steps: int, val_curve: bool) -> RunResult:
    began = time.perf_counter()
    work = task.make(seed)
    initial_loss = work.evaluate(metrics=False)["loss"]
    scheduler = one_cycle(work, max_lr, steps)
    marks = {round(steps * tenth / 10) for tenth in range(1, 10)} if val_curve else set()
    losses: list[float] = []
    curve: list[tuple[int, float, float]] = []
    with work.training():
        for step, group in zip(range(steps), endless(work.batches()), strict=False):
            losses.append(float(work.step(group).loss))
            if not math.isfinite(losses[-1]):
                break
            if step < steps - 1:
                scheduler.step()
            if step + 1 in marks:
                values = work.evaluate()
                curve.append((step + 1, values["loss"], values[task.score]))
    end = {"loss": math.nan, task.score: math.nan}
    if math.isfinite(losses[-1]) and math.isfinite((values := work.evaluate())["loss"]):
        end = values
    if val_curve:
        curve.append((len(losses), end["loss"], end[task.score]))
    last = losses[-max(1, steps // 10) :]
    return RunResult(
        task=task.name,
        max_lr=max_lr,
        seed=seed,
        steps=steps,
        score=end[task.score],
        val_loss=end["loss"],
        train_loss=sum(last) / len(last),
        initial_loss=initial_loss,
        constant_score=task.constant_score(),
        steps_taken=len(losses),
        wall_seconds=time.perf_counter() - began,
        curve=tuple(curve),
    )


def one_cycle(work: Workload, max_lr: float, steps: int) -> OneCycleLR:
    """Return the scheduler: the largest group peaks at ``max_lr``, momentum is cycled where there is one."""
    cycles = get_momentum(work.optimizer.param_groups[0]) is not None
    return OneCycle(max_lr, steps, cycle_momentum=cycles).scheduler(work.optimizer)


# The cache: a file of JSON lines per task.


@functools.cache
def fingerprint(task: Task) -> str:
    """Return a hash of what ``task`` trains, from the workload itself: data, weights, model, optimizer, loss.

    The loss of the first validation batch enters with 3 digits, so that a changed forward pass or loss is seen
    and another processor's rounding is not.
    """
    with torch.random.fork_rng(devices=[]):
        work = task.make(0)
        seen = hashlib.sha256()
        for tensor in (*work.train_loader.dataset.tensors, *work.val_loader.dataset.tensors):
            seen.update(tensor.numpy().tobytes())
        for name, tensor in work.model.state_dict().items():
            seen.update(name.encode() + tensor.numpy().tobytes())
        settings = [
            {key: value for key, value in group.items() if key != "params"} | {"count": len(group["params"])}
            for group in work.optimizer.param_groups
        ]
        values = work.evaluate(max_batches=1)
        told = [
            type(work.optimizer).__name__,
            settings,
            work.batch_size,
            work.clip_grad_norm,
            repr(work.model),
        ]
        told += [f"{values['loss']:.3g}", task.score]
        seen.update(json.dumps(told, default=str).encode())
    return seen.hexdigest()


def _key(task: Task, max_lr: float, seed: int, steps: int, val_curve: bool) -> str:
    content = f"{VERSION} {fingerprint(task)} {max_lr:.9g} {seed} {steps} {val_curve}"
    return cache.key_of(content)


def _file(task: Task) -> Path:
    return CACHE / "oracle" / f"{task.name}.jsonl"


def _lines(task: Task) -> Iterable[tuple[str, RunResult]]:
    for key, entry in cache.read(_file(task)):
        yield key, RunResult(**entry | {"curve": tuple(tuple(point) for point in entry["curve"])})


def _kept(task: Task, key: str) -> RunResult | None:
    return next((result for kept, result in _lines(task) if kept == key), None)


def _keep(task: Task, key: str, result: RunResult) -> None:
    cache.add(_file(task), key, asdict(result))


def keep_new(task: Task, results: Iterable[RunResult]) -> int:
    """Put runs that were done elsewhere into the cache, where it lacks them; return how many."""
    known = {key for key, _ in _lines(task)}
    new = {
        key: result
        for result in results
        if (key := _key(task, result.max_lr, result.seed, result.steps, bool(result.curve))) not in known
    }
    for key, result in new.items():
        _keep(task, key, result)
    return len(new)


# The grid.


def grid_lr(position: int) -> float:
    """Return the lr at a grid position.

    >>> grid_lr(-4), grid_lr(0)
    (0.1, 1.0)
    """
    return float(10 ** (position / PER_DECADE))


def grid_position(lr: float) -> int:
    """Return the grid position nearest to ``lr``, in log lr."""
    return round(PER_DECADE * math.log10(lr))


def wanted(scores: Mapping[int, Sequence[float]], start: int) -> list[int]:
    """Return the grid positions to run next, none when the grid is complete.

    Complete: on either side of the best lie at least ``FLANK`` points, the last of which is clearly worse.

    >>> wanted({}, start=0)
    [-2, -1, 0, 1, 2]
    >>> wanted({-1: [0.5], 0: [0.9], 1: [0.8], 2: [0.7], 3: [0.1]}, start=0)
    [-2]
    """
    if not scores:
        return list(range(start - 2, start + 3))
    if len(scores) >= MOST_POINTS:
        return []
    means = {position: float(np.mean(values)) for position, values in scores.items()}
    best = max(means, key=lambda position: (means[position], -position))
    spread = float(np.std(scores[best], ddof=1)) if len(scores[best]) > 1 else 0.0
    below = means[best] - max(CLEARLY_WORSE, 3 * spread)
    low, high = min(means), max(means)
    missing = []
    if not (best - low >= FLANK and means[low] < below):
        missing.append(low - 1)
    if not (high - best >= FLANK and means[high] < below):
        missing.append(high + 1)
    return missing


class Best(NamedTuple):
    """The grid's best point: largest mean score, the lower lr of equals. ``noise``: sd over seeds there."""

    lr: float
    score: float
    noise: float


@dataclass(frozen=True, eq=False)
class Oracle:
    """What a task scores over ``max_lr``.

    Attributes:
        task: The task.
        steps: Length of the runs.
        lr: ``(n,)``, ascending.
        score: ``(n, seeds)``, ``RunResult.counted_score``.
        loss: ``(n, seeds)``, ``RunResult.counted_loss``.
        diverged: ``(n, seeds)``.
        wall_seconds: Mean over the runs.
    """

    task: Task
    steps: int
    lr: NDArray[np.float64]
    score: NDArray[np.float64]
    loss: NDArray[np.float64]
    diverged: NDArray[np.bool_]
    wall_seconds: float

    @classmethod
    def load(cls, task: Task, steps: int | None = None, seeds: Sequence[int] = SEEDS) -> Oracle:
        """Return what the cache holds of a grid: the points for which every seed has run.

        Raises:
            ValueError: If there is none.
        """
        steps = task.total_steps if steps is None else steps
        grid = {
            position: runs
            for position, runs in sorted(_grid(task, steps).items())
            if all(seed in runs for seed in seeds)
        }
        if not grid:
            raise ValueError(
                f"the oracle of {task.name} at {steps} steps needs runs of seeds {tuple(seeds)}; got none "
                f"from {_file(task)}. Run python -m experiments.oracle --tasks {task.name} first."
            )
        runs = [[at[seed] for seed in seeds] for at in grid.values()]
        return cls(
            task,
            steps,
            np.array([grid_lr(position) for position in grid]),
            np.array([[run.counted_score for run in row] for row in runs]),
            np.array([[run.counted_loss for run in row] for row in runs]),
            np.array([[run.diverged for run in row] for row in runs]),
            float(np.mean([run.wall_seconds for row in runs for run in row])),
        )

    @property
    def best(self) -> Best:
        """The best point by score."""
        means = self.score.mean(1)
        index = int(means.argmax())
        return Best(float(self.lr[index]), float(means[index]), float(self.score[index].std(ddof=1)))

    @property
    def best_loss(self) -> Best:
        """The best point by validation loss (in the field ``score``)."""
        means = self.loss.mean(1)
        index = int(means.argmin())
        return Best(float(self.lr[index]), float(means[index]), float(self.loss[index].std(ddof=1)))

    def covers(self, lr: float) -> bool:
        """Whether ``lr`` lies on the grid's span; outside it ``score_at`` can only flatter."""
        return bool(self.lr[0] * (1 - 1e-9) <= lr <= self.lr[-1] * (1 + 1e-9))

    def score_at(self, lr: float) -> float:
        """Return the mean score at ``lr``, interpolated in log lr; beyond the grid its end's value."""
        return float(np.interp(math.log10(lr), np.log10(self.lr), self.score.mean(1)))

    def loss_at(self, lr: float) -> float:
        """Return the mean validation loss at ``lr``, interpolated as the score is."""
        return float(np.interp(math.log10(lr), np.log10(self.lr), self.loss.mean(1)))

    def plateau(self, tolerance: float) -> tuple[float, float]:
        """Return the ends of the stretch of grid lrs around the best that score within ``tolerance`` of it."""
        inside = self.score.mean(1) >= self.best.score - tolerance
        low = high = int(self.score.mean(1).argmax())
        while low > 0 and inside[low - 1]:
            low -= 1
        while high < len(inside) - 1 and inside[high + 1]:
            high += 1
        return float(self.lr[low]), float(self.lr[high])


def _grid(task: Task, steps: int) -> dict[int, dict[int, RunResult]]:
    """Grid position to seed to result, as far as they are in the cache."""
    found: dict[int, dict[int, RunResult]] = {}
    for key, run in _lines(task):
        position = grid_position(run.max_lr)
        if run.steps != steps or run.curve or not math.isclose(run.max_lr, grid_lr(position), rel_tol=1e-6):
            continue
        if key == _key(task, run.max_lr, run.seed, run.steps, False):
            found.setdefault(position, {})[run.seed] = run
    return found


# Many runs at once.


class Job(NamedTuple):
    """A run that a worker process does."""

    task: str
    max_lr: float
    seed: int
    steps: int


def _begin(data_root: str | None) -> None:
    torch.set_num_threads(1)
    if data_root is not None:
        os.environ["LRFIND_DATA"] = data_root


def _do(job: Job) -> RunResult:
    return run_cycle(TASKS[job.task], job.max_lr, job.seed, job.steps)


def run_all(
    first: Iterable[Job],
    then: Callable[[RunResult], Iterable[Job]],
    workers: int,
    data_root: str | None,
    say: Callable[[str], Any] = print,
) -> None:
    """Run jobs, and those that ``then`` makes of each result, on ``workers`` processes; say how far it is."""
    context = multiprocessing.get_context("spawn")
    began, done, said = time.monotonic(), 0, 0.0
    seconds: dict[tuple[str, int], float] = {}
    with ProcessPoolExecutor(workers, context, _begin, (data_root,)) as pool:
        waiting: dict[Future[RunResult], Job] = {pool.submit(_do, job): job for job in first}
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                del waiting[future]
                result = future.result()
                done += 1
                seconds[result.task, result.steps] = result.wall_seconds
                waiting |= {pool.submit(_do, job): job for job in then(result)}
            if time.monotonic() - said > 15 or not waiting:
                said = time.monotonic()
                usual = sum(seconds.values()) / len(seconds)
                left = sum(seconds.get((job.task, job.steps), usual) for job in waiting.values()) / workers
                elapsed = said - began
                say(f"{elapsed:6.0f} s: {done} runs done, {len(waiting)} queued, about {left:.0f} s for those")


def find_best(tasks: Sequence[Task], workers: int, data_root: str | None) -> None:
    """Complete the grids of ``tasks``."""

    def jobs(task: Task) -> list[Job]:
        # What to run next; nothing while a position asked for before is not complete.
        grid = _grid(task, task.total_steps)
        complete = {
            position: [runs[seed].counted_score for seed in SEEDS]
            for position, runs in grid.items()
            if all(seed in runs for seed in SEEDS)
        }
        start = grid_position(max(group["lr"] for group in task.make(0).optimizer.param_groups))
        return [
            Job(task.name, grid_lr(position), seed, task.total_steps)
            for position in wanted(complete, start)
            for seed in SEEDS
        ]

    open_jobs: dict[str, int] = {}

    def grow(task: Task) -> list[Job]:
        following = jobs(task)
        open_jobs[task.name] = len(following)
        return following

    def then(result: RunResult) -> list[Job]:
        open_jobs[result.task] -= 1
        return grow(TASKS[result.task]) if open_jobs[result.task] == 0 else []

    run_all([job for task in tasks for job in grow(task)], then, workers, data_root)


def table(tasks: Sequence[Task]) -> str:
    """Return the best of every grid as a table in Markdown."""
    heads = ("task", "half", "steps", "points", "from lr", "to lr", "best lr", "within 1 pp", "best score")
    heads += ("sd", "best lr by loss", "s a run")
    rows = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for task in sorted(tasks, key=lambda task: (task.split, task.name)):
        oracle = Oracle.load(task)
        best, (low, high) = oracle.best, oracle.plateau(0.01)
        rows.append(
            f"| {task.name} | {task.split} | {task.total_steps} | {len(oracle.lr)} | {oracle.lr[0]:.2g} | "
            f"{oracle.lr[-1]:.2g} | {best.lr:.2g} | {low:.2g} .. {high:.2g} | {best.score:.4f} | "
            f"{best.noise:.4f} | {oracle.best_loss.lr:.2g} | {oracle.wall_seconds:.2f} |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", help="names, separated by commas; default: all, design first")
    parser.add_argument("--split", choices=("design", "held-out"), help="only this half")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data-root", help="folder of MNIST/, FashionMNIST/ and CIFAR-10; default: LRFIND_DATA")
    parser.add_argument("--table", action="store_true", help="only print what the cache holds")
    given = parser.parse_args(arguments)
    _begin(given.data_root)
    names = given.tasks.split(",") if given.tasks else list(TASKS)
    if unknown := [name for name in names if name not in TASKS]:
        parser.error(f"--tasks takes names of tasks; got {unknown}. There are: {', '.join(TASKS)}")
    tasks = [TASKS[name] for name in names if given.split in (None, TASKS[name].split)]
    tasks.sort(key=lambda task: task.split)
    for task in tasks:
        if reason := task.missing():
            print(f"skipped {task.name}: {reason}")
    tasks = [task for task in tasks if task.missing() is None]
    if not given.table:
        find_best(tasks, given.workers, given.data_root)
    print(table(tasks))


if __name__ == "__main__":
    main()
