"""How much is lost by a tool's max_lr, beside the best that a grid of real runs finds?

``python -m experiments.regret --data-root DATA`` asks every row of ``experiments.picks`` on every task, and compares
with the task's grid of ``experiments.oracle``. Every answer and every run is kept in ``experiments/.cache/``, so a
second call resumes; a first one goes on from the runs and answers of ``experiments/results/regret/tasks/`` that still
hold (``experiments.record``), and measures what they lack. ``--anew`` leaves those out and measures everything. Tables,
numbers and pictures go to ``experiments/results/regret/``.
``--quick`` does six small tasks, cut to 120 steps, on a coarse grid in a temporary cache: minutes become seconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from experiments import oracle
from experiments.judged import judge, study
from experiments.oracle import Oracle, find_best, grid_lr, grid_position, run_cycle
from experiments.picks import ROWS, SEEDS, Kind, answer, usual_lr
from experiments.record import restore
from experiments.regret_report import write
from experiments.tasks import TASKS, Task

RESULTS = Path(__file__).parent / "results" / "regret"
QUICK = (
    "cancer-logistic-sgd-b16",
    "cancer-unnormalised-mlp-adam-b32",
    "diabetes-linear-sgd0-b16",
    "diabetes-mlp-adamw-b64",
    "digits-logistic-sgd0-b64",
    "soils-mlp-sgd-b100",
)
QUICK_STEPS = 120
QUICK_GRID = (-8, -4, 0, 4)  # quarters of a decade from the optimizer's usual lr
QUICK_SEEDS = (0,)


# Asking many rows on many tasks.


def ask(task: Task, seed: int, kind: Kind) -> None:
    """Ask the rows of a kind, and do the runs that their picks need; everything ends in the cache."""
    grid = Oracle.load(task)
    for row in ROWS.values():
        if row.kind == kind and seed in row.seeds and row.missing() is None:
            judge(grid, answer(task, row, seed))


def _ask_by_name(name: str, seed: int, kind: Kind) -> None:
    ask(TASKS[name], seed, kind)


def ask_all(tasks: Sequence[Task], workers: int, data_root: str | None) -> None:
    """Ask every row on every task, with ``workers`` processes; say how far it is."""
    jobs = [
        (task.name, seed, kind)
        for kind in get_args(Kind)
        for seed in SEEDS
        for task in tasks
        if any(row.kind == kind and seed in row.seeds for row in ROWS.values())
    ]
    began, said = time.monotonic(), 0.0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (data_root,)) as pool:
        pending = [pool.submit(_ask_by_name, *job) for job in jobs]
        for done, future in enumerate(as_completed(pending), start=1):
            future.result()
            if time.monotonic() - said > 15 or done == len(jobs):
                said = time.monotonic()
                print(f"{said - began:6.0f} s: {done} of {len(jobs)} jobs done", flush=True)


def _begin(data_root: str | None) -> None:
    torch.set_num_threads(1)
    if data_root is not None:
        os.environ["LRFIND_DATA"] = data_root


@contextmanager
def _temporary_cache() -> Iterator[None]:
    usual = oracle.CACHE
    with tempfile.TemporaryDirectory() as folder:
        oracle.CACHE = Path(folder)
        try:
            yield
        finally:
            oracle.CACHE = usual


def quick_tasks() -> list[Task]:
    """Return six small tasks that need nothing but scikit-learn, cut short."""
    return [replace(TASKS[name], total_steps=QUICK_STEPS) for name in QUICK]


def quick_grid(task: Task) -> None:
    """Run the coarse grid of a small task."""
    start = grid_position(usual_lr(task.make(0)))
    for offset in QUICK_GRID:
        for seed in SEEDS:
            run_cycle(task, grid_lr(start + offset), seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder of MNIST/, FashionMNIST/ and CIFAR-10; default: LRFIND_DATA")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="six small tasks, a coarse grid; only --out keeps them")
    parser.add_argument("--anew", action="store_true", help="take nothing from the record (the cache still counts)")
    parser.add_argument("--out", type=Path, help="default: experiments/results/regret")
    given = parser.parse_args(arguments)
    _begin(given.data_root)
    skipped = {task.name: reason for task in TASKS.values() if (reason := task.missing()) is not None}
    skipped |= {row.name: reason for row in ROWS.values() if (reason := row.missing()) is not None}
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    if given.quick:
        with _temporary_cache():
            tasks = [task for task in quick_tasks() if task.missing() is None]
            for task in tasks:
                quick_grid(task)
                for seed in QUICK_SEEDS:
                    for kind in get_args(Kind):
                        ask(task, seed, kind)
            write(study(tasks), given.out, skipped)
        return
    tasks = [task for task in TASKS.values() if task.name not in skipped]
    if not given.anew:
        taken = [restore(task, RESULTS / "tasks") for task in tasks]
        print(f"{sum(runs for runs, _ in taken)} runs and {sum(rows for _, rows in taken)} answers from the record")
    find_best(tasks, given.workers, given.data_root)
    ask_all(tasks, given.workers, given.data_root)
    write(study(tasks), RESULTS if given.out is None else given.out, skipped)


if __name__ == "__main__":
    main()
