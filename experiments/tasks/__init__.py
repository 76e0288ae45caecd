"""The tasks of the regret study, by name. The name's hash decides on which half a task is (``Task.split``)."""

from __future__ import annotations

from experiments.tasks import images, scarce, tabular, text
from experiments.tasks.task import Task

__all__ = ["TASKS", "Task"]

TASKS: dict[str, Task] = {task.name: task for task in (*tabular.TASKS, *images.TASKS, *text.TASKS, *scarce.TASKS)}
