"""Processes that each hold a whole workload: what is independent, repeats and pilots, they do side by side."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from lrfind.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from lrfind.workload import Workload


def replicas(work: Workload, spread: bool) -> Ranks:
    """Return the processes over which to spread what ``work`` is to do; this one alone unless ``spread``.

    Raises:
        ValueError: If they share one model already, or do not have the same.
    """
    if not spread:
        return ALONE
    if work.ranks.size > 1:
        raise ValueError(
            f"spread=True needs a workload that each rank holds as a whole; got a model that {work.ranks.size} ranks "
            "train together. Build it with the plain model and all the data, or leave spread out."
        )
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    ranks = Ranks(dist.group.WORLD)
    digests = ranks.gather(_digest(work))
    if len(set(digests)) > 1:
        other = next(rank for rank, digest in enumerate(digests) if digest != digests[0])
        raise ValueError(
            f"spread=True needs the same weights on every rank; got others on rank {other} than on rank 0. Seed every "
            "rank alike before the model is made (torch.manual_seed), or load the same checkpoint."
        )
    return ranks


def _digest(work: Workload) -> str:
    sha = hashlib.sha256()
    for parameter in work.model.parameters():
        sha.update(parameter.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
