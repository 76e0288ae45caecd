"""What makes two runs the same: compared before a checkpoint is loaded, so that a wrong one is named, not trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lrfind.workload import Workload
from onecycle.checkpoint import CheckpointError
from onecycle.schedule import OneCycle

# Options of a parameter group that the schedule moves.
_SCHEDULED = {"lr", "momentum", "betas"}
# What may differ between runs by different numbers of ranks; the samples in a step may not.
_OF_RANKS = {"ranks", "batch size", "accumulation_steps"}


def fingerprint(work: Workload, shape: OneCycle, *, ema_decay: float | None) -> dict[str, Any]:
    """Return what a resumed run must have in common with its checkpoints, as plain data."""
    options = sorted(work.optimizer.defaults.keys() - _SCHEDULED)
    cycle = asdict(shape)
    # The peak and the length are compared on their own, with more to say.
    del cycle["max_lr"], cycle["total_steps"]
    return {
        "model": {name: _shape(tensor) for name, tensor in work.module.state_dict().items()},
        "modules": {name: type(module).__name__.removeprefix("FSDP") for name, module in work.module.named_modules()},
        "criterion": type(work.criterion).__name__ if isinstance(work.criterion, nn.Module) else None,
        "optimizer": type(work.optimizer).__name__,
        "parameter groups": [
            {"parameters": len(group["params"])}
            | {key: _plain(group[key]) for key in options}
            | {"further betas": _plain(group.get("betas", ())[1:])}
            for group in work.optimizer.param_groups
        ],
        "cycle": {name: _plain(value) for name, value in cycle.items()},
        # With another number of ranks the same samples may make up a step in other ways.
        "ranks": work.ranks.size,
        "batch size": work.batch_size,
        "accumulation_steps": work.accumulation_steps,
        "samples per step": None if work.batch_size is None else _samples(work, work.batch_size),
        "steps per epoch": work.steps_per_epoch,
        "clip_grad_norm": work.clip_grad_norm,
        "amp_dtype": str(work.amp_dtype),
        "grad_scaler": work.grad_scaler is not None,
        "ema_decay": ema_decay,
    }


def refuse_other(then: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Compare two fingerprints.

    Raises:
        CheckpointError: Naming the first difference.
    """
    if then.get("ranks") != now.get("ranks"):
        then, now = ({key: value for key, value in facts.items() if key not in _OF_RANKS} for facts in (then, now))
    difference = _difference(then, now)
    if difference is not None:
        name, old, new = difference
        raise CheckpointError(
            f"{where} holds another run: {name} was {old} and is {new}. "
            "Build the workload and the cycle as they were, or give another out_dir."
        )


def _difference(then: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *(key for key in now if key not in then)]:
            found = _difference(then.get(key, "absent"), now.get(key, "absent"), f"{name} {key}".strip())
            if found is not None:
                return found
        return None
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = enumerate(zip(then, now, strict=True))
        return next((found for i, (a, b) in pairs if (found := _difference(a, b, f"{name} {i}")) is not None), None)
    return None if then == now else (name, then, now)


def _samples(work: Workload, batch_size: int) -> int:
    return batch_size * work.accumulation_steps * work.ranks.size


def _shape(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
