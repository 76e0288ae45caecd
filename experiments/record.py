"""What the record of the regret study keeps of a task: all its runs and answers, so that another clone goes on from it.

A record holds for what it was measured on: its runs count while the task's ``fingerprint`` (data, first weights, model,
optimizer, loss) is the same, the answers of a row as long as its ``version`` is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments import oracle, picks
from experiments.judged import Study
from experiments.oracle import RunResult, fingerprint, run_cycle
from experiments.picks import ROWS, Answer
from experiments.tasks import Task

# Of a run, what every run of its task shares, or none has.
SHARED = ("task", "steps", "constant_score", "curve")


def task_record(study: Study, name: str) -> dict[str, Any]:
    """Return all numbers of a task as JSON values: its runs, every row's answers, what they are worth."""
    grid = study.grids[name]
    task = grid.task
    judged = {row: by_task[name] for row, by_task in study.judged.items() if name in by_task}
    outside = {
        (each.answer.lr, each.answer.seed)
        for answers in judged.values()
        for each in answers
        if each.outside and each.answer.lr is not None
    }
    runs = [run_cycle(task, lr, seed) for lr in map(float, grid.lr) for seed in oracle.SEEDS]
    runs += [run_cycle(task, lr, seed) for lr, seed in sorted(outside)]
    return {
        "task": name,
        "split": task.split,
        "steps": grid.steps,
        "score": task.score,
        "constant_score": task.constant_score(),
        "fingerprint": fingerprint(task),
        "best": grid.best._asdict(),
        "best_by_loss": grid.best_loss._asdict(),
        "plateau": grid.plateau(0.01),
        "grid": {"lr": grid.lr.tolist(), "score": grid.score.mean(1).tolist(), "loss": grid.loss.mean(1).tolist()},
        "runs": [_finite({key: value for key, value in asdict(run).items() if key not in SHARED}) for run in runs],
        "versions": {row: ROWS[row].version for row in judged},
        "rows": {row: [_finite(asdict(each)) for each in answers] for row, answers in judged.items()},
    }


def as_json(record: Mapping[str, Any]) -> str:
    """Return a record with a line for each run and each answer, so that what changed shows.

    >>> print(as_json({"task": "a", "runs": [{"seed": 0}, {"seed": 1}], "rows": {"auto": [{"lr": 1.0}]}}))
    {
     "task": "a",
     "runs": [
      {"seed": 0},
      {"seed": 1}
     ],
     "rows": {
      "auto": [
       {"lr": 1.0}
      ]
     }
    }
    """
    return _lines(record, 1)


def restore(task: Task, folder: Path) -> tuple[int, int]:
    """Put what the cache lacks of a task's record in ``folder`` into it; return how many runs and how many answers."""
    path = folder / f"{task.name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if record.get("fingerprint") != fingerprint(task) or record["steps"] != task.total_steps:
        return 0, 0
    shared = {"task": task.name, "steps": task.total_steps, "constant_score": record["constant_score"]}
    runs = [RunResult(**shared, **_with_nan(run)) for run in record["runs"]]
    answers = [
        Answer(**judged["answer"])
        for row, every in record["rows"].items()
        if row in ROWS and record["versions"][row] == ROWS[row].version
        for judged in every
    ]
    return oracle.keep_new(task, runs), picks.keep_new(task, answers)


def _lines(value: Any, depth: int) -> str:
    """Return JSON on several lines as long as it holds lists of dicts, or anything that holds them."""
    if isinstance(value, Mapping) and any(isinstance(part, list | Mapping) for part in value.values()) and depth < 4:
        inside = [f"{json.dumps(key)}: {_lines(part, depth + 1)}" for key, part in value.items()]
        return _between("{", inside, "}", depth)
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return _between("[", [json.dumps(part) for part in value], "]", depth)
    return json.dumps(value)


def _between(first: str, parts: list[str], last: str, depth: int) -> str:
    inner = ",\n".join(f"{' ' * depth}{part}" for part in parts)
    return f"{first}\n{inner}\n{' ' * (depth - 1)}{last}"


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}


def _with_nan(record: dict[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in record.items()}
