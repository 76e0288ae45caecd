"""Start several processes that meet in a process group, for tests of what only several can show."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

# Loaded once, by a server from which each process is forked: torch takes seconds to load.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["torch", "torch.distributed", "torch.distributed.fsdp", "lrfind", "onecycle"])


def on_ranks(size: int, scenario: Callable[..., Any], *arguments: Any, limit: float = 60.0) -> list[Any]:
    """Call ``scenario(*arguments)`` in ``size`` processes of one gloo group; return what each returned or raised.

    Raises:
        TimeoutError: If they have not all ended after ``limit`` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes, children = [], []
        for rank in range(size):
            receiver, sender = _processes.Pipe(duplex=False)
            child = _processes.Process(
                target=_call, args=(rank, size, f"{folder}/meeting", sender, scenario, arguments), daemon=True
            )
            child.start()
            sender.close()
            pipes.append(receiver)
            children.append(child)
        try:
            return _outcomes(pipes, limit)
        finally:
            for child in children:
                child.join(timeout=1.0)
                child.kill()


def results(size: int, scenario: Callable[..., Any], *arguments: Any, limit: float = 60.0) -> list[Any]:
    """Return what ``on_ranks`` returns; an error on any rank is raised here."""
    outcomes = on_ranks(size, scenario, *arguments, limit=limit)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def sharded(model: Any) -> Any:
    """Return an ``nn.Sequential`` with its first and last layer, and the rest, sharded over the ranks."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (model[0], model[-1], model):
        fully_shard(part, mesh=mesh)
    return model


def _outcomes(pipes: list[Connection], limit: float) -> list[Any]:
    outcomes: dict[int, Any] = {}
    until = time.monotonic() + limit
    while len(outcomes) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in outcomes]
        ready = wait(waiting, timeout=max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError(f"after {limit} s only the ranks {sorted(outcomes)} had ended")
        for pipe in ready:
            try:
                outcomes[pipes.index(pipe)] = pipe.recv()
            except EOFError:
                outcomes[pipes.index(pipe)] = EOFError("the process ended without a word")
    return [outcomes[rank] for rank in range(len(pipes))]


def _call(
    rank: int, size: int, meeting: str, sender: Connection, scenario: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        outcome = scenario(*arguments)
    except BaseException as error:
        error.add_note(f"on rank {rank}:\n{traceback.format_exc()}")
        outcome = error
    try:
        sender.send(outcome)
    except (pickle.PicklingError, TypeError, AttributeError):
        sender.send(RuntimeError(f"rank {rank} cannot tell its outcome: {outcome!r}"))
    sender.close()
    dist.destroy_process_group()
