"""Under ``torchrun`` the commands are started once for each rank: they meet here, and share their model by DDP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from lrfind.ranks import ALONE, Ranks, restarts
from lrfind.workload import Workload


@contextmanager
def launched() -> Iterator[Ranks]:
    """Meet the other ranks if ``torchrun`` has started any, and leave them at the end.

    Each takes the accelerator of its ``LOCAL_RANK``. What others than the first print goes nowhere.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE
        return
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://"))
    # The store may outlive a restart, and with it the addresses at which the processes before were to be met.
    attempt = dist.distributed_c10d.PrefixStore(f"attempt/{restarts()}", store)
    dist.init_process_group(store=attempt, rank=rank, world_size=size)
    ranks = Ranks(dist.group.WORLD)
    try:
        if ranks.first:
            yield ranks
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield ranks
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Tell whether this process is the one that speaks for all that ``torchrun`` has started."""
    return not dist.is_torchelastic_launched() or os.environ["RANK"] == "0"


def started_again() -> bool:
    """Tell whether ``torchrun`` has started this process in place of one that has ended."""
    return restarts() > 0


def run_id() -> str | None:
    """Return what ``torchrun`` calls the run, which stays the same when it starts it again; None where it has no name.

    ``torchrun --standalone`` makes one up, ``--rdzv-id`` gives one.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name == "none" else name[:8]


def data_parallel(work: Workload, ranks: Ranks) -> Workload:
    """Return a workload whose model is trained by all ranks, unless it is so already or there is but one.

    Raises:
        ValueError: If the training loader gives several ranks the same data.
    """
    if ranks.size == work.ranks.size:
        return work
    index = None if work.device.type == "cpu" else [work.device.index or 0]
    return Workload(
        DistributedDataParallel(work.model, device_ids=index),
        work.optimizer,
        work.criterion,
        work.train_loader,
        work.val_loader,
        loss_fn=work.loss_fn,
        device=work.device,
        amp_dtype=work.amp_dtype,
        grad_scaler=work.grad_scaler,
        accumulation_steps=work.accumulation_steps,
        clip_grad_norm=work.clip_grad_norm,
        metrics=work.metrics,
    )
