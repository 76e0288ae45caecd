"""What training changes, taken down as plain data and put back: the model and all that moves along with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lrfind.objects import referred
from lrfind.ranks import is_sharded
from lrfind.workload import Workload
from onecycle.attributes import Attributes


class WorkState:
    """Model, loss, optimizer, grad scaler and averaged weights of a workload, to be taken down and put back.

    Of the model and of modules that the loss is made of: parameters, all buffers, and what moves among their
    attributes (``onecycle.attributes``). Random numbers and loaders are not part of it (``onecycle.passes``).
    """

    def __init__(self, work: Workload, ema: AveragedModel | None) -> None:
        self.work = work
        self.ema = ema
        self._modules = dict(_modules(work))
        self._attributes = Attributes(self._modules | {"loss": _loss(work)}, tensors=True)

    def take(self) -> dict[str, Any]:
        """Return the state as data of its own, tensors on the CPU, as ``torch.load(weights_only=True)`` reads it."""
        work = self.work
        parts = {
            "modules": {name: _tensors(module) for name, module in self._modules.items()},
            "attributes": self._attributes.take(),
            "optimizer": work.optimizer.state_dict(),
            "grad_scaler": None if work.grad_scaler is None else work.grad_scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }
        plain: dict[str, Any] = as_plain(parts)
        return plain

    def put(self, state: dict[str, Any]) -> None:
        """Put back what ``take`` returned, into the same parameters; ``state`` stays as it is."""
        work = self.work
        for name, module in self._modules.items():
            present = module.state_dict()
            saved = state["modules"][name]["state"]
            module.load_state_dict({key: laid_out(value, present.get(key)) for key, value in saved.items()})
            with torch.no_grad():
                for path, buffer in module.named_buffers():
                    if path in state["modules"][name]["buffers"]:
                        buffer.copy_(state["modules"][name]["buffers"][path])
        self._attributes.put(state["attributes"])
        self._put_optimizer(state["optimizer"])
        if work.grad_scaler is not None:
            work.grad_scaler.load_state_dict(state["grad_scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])

    def _put_optimizer(self, state: dict[str, Any]) -> None:
        optimizer = self.work.optimizer
        before = optimizer.param_groups
        # A copy, because load_state_dict makes tensors that are on the right device already its own.
        state = copy.deepcopy(state)
        for index, parameter in enumerate(parameter for group in before for parameter in group["params"]):
            of_parameter = state["state"].get(index, {})
            of_parameter |= {key: laid_out(value, parameter) for key, value in of_parameter.items()}
        optimizer.load_state_dict(state)
        for old, new in zip(before, optimizer.param_groups, strict=True):
            for key, value in new.items():
                # A tensor lr stays the same object: a compiled or captured step holds on to it.
                if isinstance(value, Tensor) and isinstance(old.get(key), Tensor):
                    new[key] = old[key].copy_(value)

    def finite(self) -> bool:
        """Tell whether every parameter that is trained is finite."""
        parameters = [local(p.detach()) for group in self.work.optimizer.param_groups for p in group["params"]]
        # The sum is NaN or infinite where a number is, and the fastest thing to ask for; in full precision, in which
        # no sum of healthy weights overflows.
        sums = [p.sum(dtype=torch.promote_types(p.dtype, torch.float32)).abs() for p in parameters]
        return bool(torch.stack([each.to(sums[0]) for each in sums]).isfinite().all())


def as_plain(value: Any) -> Any:
    """Return a copy of ``value`` that shares nothing: tensors on the CPU, containers anew, numpy's numbers as Python's.

    >>> as_plain({"lr": np.float64(0.5), "betas": (0.9, torch.zeros(1))})
    {'lr': 0.5, 'betas': (0.9, tensor([0.]))}
    """
    if isinstance(value, Tensor):
        return local(value.detach()).to("cpu", copy=True)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: as_plain(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(as_plain, value))
    return value


def local(tensor: Any) -> Tensor:
    """Return this rank's part of a sharded tensor; any other tensor as it is."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def laid_out(value: Any, like: Any) -> Any:
    """Return ``value``, this rank's part of a tensor sharded like ``like``, as such; anything else as it is."""
    if not (is_sharded(like) and isinstance(value, Tensor) and value.shape == local(like).shape):
        return value
    from torch.distributed.tensor import DTensor  # whoever has sharded the model has loaded it

    return DTensor.from_local(
        value.to(like.device),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def _tensors(module: nn.Module) -> dict[str, Any]:
    state = module.state_dict()
    # Non-persistent ones: a state dict leaves them out.
    buffers = {name: buffer for name, buffer in module.named_buffers() if name not in state}
    return {"state": state, "buffers": buffers}


def _modules(work: Workload) -> Iterator[tuple[str, nn.Module]]:
    """Yield the model, and the modules that the loss is made of."""
    yield "model", work.module
    known = {id(module) for module in work.model.modules()}
    waiting = [("loss", _loss(work))]
    while waiting:
        name, part = waiting.pop()
        if id(part) in known:
            continue
        known.add(id(part))
        if isinstance(part, nn.Module):
            known.update(id(module) for module in part.modules())
            yield name, part
        else:
            waiting += [(f"{name}.{index}", other) for index, other in enumerate(referred(part))]


def _loss(work: Workload) -> Any:
    return work.loss_fn if work.criterion is None else work.criterion
