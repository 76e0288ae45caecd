"""Train with the one-cycle policy, at the learning rate that lrfind measured."""

from __future__ import annotations

from onecycle.auto import pick_max_lr
from onecycle.checkpoint import CheckpointError
from onecycle.logs import History, TensorBoardLog
from onecycle.reports.page import report
from onecycle.run import Run, load_history
from onecycle.schedule import OneCycle
from onecycle.scheduler import OneCycleLR
from onecycle.train import fit

__all__ = [
    "CheckpointError",
    "History",
    "OneCycle",
    "OneCycleLR",
    "Run",
    "TensorBoardLog",
    "fit",
    "load_history",
    "pick_max_lr",
    "report",
]
