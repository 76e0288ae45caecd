"""The tasks of the regret study, by name. Those of ``held_out`` were written after all the others (``Task.split``)."""

from __future__ import annotations

from experiments.tasks import assorted, diverse, held_out, images, medley, mixed, scarce, sundry, tabular, text, various
from experiments.tasks.task import Task

__all__ = ["TASKS", "Task"]

TASKS: dict[str, Task] = {
    task.name: task
    for family in (tabular, images, text, scarce, sundry, mixed, assorted, medley, diverse, various, held_out)
    for task in family.TASKS
}
