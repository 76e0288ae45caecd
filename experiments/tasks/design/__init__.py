"""Tasks on which rules and constants are chosen, by what the data are."""

from __future__ import annotations

from experiments.tasks.design import cifar, digits, fashion, mnist, pictures, points, series, tables, text
from experiments.tasks.task import Task

TASKS: list[Task] = [
    task for family in (tables, points, digits, mnist, fashion, cifar, pictures, series, text) for task in family.TASKS
]
