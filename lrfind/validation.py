"""Mean loss and metrics over a validation set, which several ranks may read in parts of different lengths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lrfind.batches import Batch, batch_size, home
from lrfind.metrics import Metric
from lrfind.ranks import Ranks, is_sharded

if TYPE_CHECKING:
    from lrfind.workload import Workload


@torch.no_grad()
def validate(
    work: Workload,
    loader: Iterable[Batch],
    model: nn.Module,
    metrics: Mapping[str, Metric],
    max_batches: int | None,
    more: Mapping[str, Metric] | None = None,
) -> dict[str, float]:
    """Return ``{"loss": ..., name: ...}``, of ``model`` in eval mode, as ``Workload.evaluate`` describes it.

    ``more`` are metrics that take None for outputs and targets, where ``loss_fn`` returns the loss alone.
    """
    watched: dict[str, Metric] = {**metrics, **(more or {})}
    for metric in watched.values():
        metric.reset()
        if isinstance(metric, nn.Module):
            metric.to(work.device)
    if getattr(work.model, "broadcast_buffers", False):  # as DDP will before the next step
        work.ranks.broadcast(list(model.buffers()))
    losses: list[Tensor] = []
    sizes: list[int] = []
    with modes_restored(model):
        model.eval()
        for batch, counts in _read(islice(work.read(loader), max_batches), work.ranks, model):
            loss, outputs, targets = work.forward(batch, model)
            if not counts:
                continue
            losses.append(loss.detach())
            sizes.append(batch_size(batch))
            if metrics and outputs is None:
                raise ValueError(
                    f"metrics need outputs and targets; got a loss_fn that returns the loss alone, and the metrics "
                    f"{', '.join(metrics)}. Return (loss, outputs, targets) from loss_fn."
                )
            for metric in watched.values():
                metric.update(outputs, targets)
    # One transfer for the whole pass, and a sum that does not depend on the device's precision.
    values = home(losses)
    means = {"loss": math.fsum(value * size for value, size in zip(values, sizes, strict=True)) / max(1, sum(sizes))}
    if losses:
        means |= {name: float(metric.compute()) for name, metric in watched.items()}
    of_ranks = [part for part in work.ranks.gather((sum(sizes), means)) if part[0]]
    if not of_ranks:
        raise ValueError(
            f"val_loader must yield at least one batch; got none from {loader!r}. Check that its dataset is not "
            "empty, and that it is no generator, which ends after one pass."
        )
    if len(of_ranks) == 1:
        return of_ranks[0][1]
    total = sum(size for size, _ in of_ranks)
    return {name: sum(size * part[name] for size, part in of_ranks) / total for name in of_ranks[0][1]}


def _read(batches: Iterator[Batch], ranks: Ranks, model: nn.Module) -> Iterator[tuple[Batch, bool]]:
    """Yield each batch, and whether it counts.

    Sharded weights are put together by all ranks for each batch. So a rank that has read all of its own goes on with
    its last, which does not count, until the others are through.
    """
    if ranks.size == 1 or not any(map(is_sharded, model.parameters())):
        for batch in batches:
            yield batch, True
        return
    batch = None
    while True:
        further = next(batches, None)
        if not ranks.any(further is not None):
            return
        batch = batch if further is None else further
        if ranks.any(batch is None):
            raise ValueError(
                "val_loader must yield at least one batch on each rank where the model is sharded; got none on some of "
                f"{ranks.size} ranks. Validate on more samples, or use fewer processes."
            )
        yield batch, further is not None


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Give every submodule its own train/eval mode back on exit, error or not."""
    modes = [(module, module.training) for module in model.modules()]
    mode = model.training
    try:
        yield
    finally:
        # First as a whole: modules with a train() of their own (merged adapters) undo what eval() did to them.
        if model.training != mode:
            model.train(mode)
        for module, training in modes:
            module.training = training
