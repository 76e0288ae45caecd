"""The tasks of the regret study, by name: those to choose rules on, and those to check them on (``Task.split``)."""

from __future__ import annotations

from experiments.tasks import design, held_out
from experiments.tasks.task import Task

__all__ = ["TASKS", "Task"]

TASKS: dict[str, Task] = {task.name: task for family in (design, held_out) for task in family.TASKS}
