"""Train with the one-cycle policy, at the learning rate that lrfind measured."""

from __future__ import annotations

from onecycle.schedule import OneCycle
from onecycle.scheduler import OneCycleLR

__all__ = ["OneCycle", "OneCycleLR"]
