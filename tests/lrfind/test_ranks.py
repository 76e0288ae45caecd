"""What several processes tell each other."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lrfind.ranks import RankError, Ranks, ranks_of, unwrapped
from tests.ranks import on_ranks, results


def everyone() -> Ranks:
    return Ranks(dist.group.WORLD)


def say_all() -> dict[str, Any]:
    ranks = everyone()
    own = torch.full((3,), float(ranks.rank))
    ranks.broadcast([own])
    return {
        "gather": ranks.gather(f"I am {ranks.rank}"),
        "means": ranks.means([float(ranks.rank), 0.1 * (ranks.rank + 1), math.inf, math.nan]),
        "total": ranks.total(ranks.rank + 1),
        "any": (ranks.any(ranks.rank == 2), ranks.any(False)),
        "from first": ranks.from_first(lambda: f"from {ranks.rank}"),
        "in step": list(ranks.in_step(iter(range(3 + ranks.rank)))),
        "broadcast": own.tolist(),
    }


def test_all_hear_the_same() -> None:
    """Three ranks: every method returns the same on each, NaN and inf included."""
    first, *others = results(3, say_all)
    assert first["gather"] == ["I am 0", "I am 1", "I am 2"]
    np.testing.assert_array_equal(first["means"], [1.0, (0.1 + 0.2 + 0.1 * 3) / 3, math.inf, math.nan])
    assert first["total"] == 6
    assert first["any"] == (True, False)
    assert first["from first"] == "from 0"
    assert first["in step"] == [0, 1, 2]
    assert first["broadcast"] == [0.0, 0.0, 0.0]
    for other in others:
        assert repr(other) == repr(first)


def test_alone_hears_itself() -> None:
    """One process asks nobody: its own values come back, and a stream ends where it ends."""
    ranks = Ranks()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.gather(3) == [3]
    assert ranks.means([1.5]) == [1.5]
    assert ranks.total(4) == 4
    assert ranks.from_first(lambda: "x") == "x"
    assert list(ranks.in_step(iter([1, 2]))) == [1, 2]
    with pytest.raises(ZeroDivisionError), ranks.together():
        _ = 1 / 0


def first_fails() -> None:
    def make() -> None:
        raise FileNotFoundError("no such thing")

    everyone().from_first(make)


def test_an_error_of_the_first_rank_is_raised_on_all() -> None:
    """What only rank 0 does fails for everybody, in the same words."""
    for outcome in on_ranks(2, first_fails):
        assert isinstance(outcome, FileNotFoundError)
        assert str(outcome) == "no such thing"


def wait_for_one_that_has_failed(where: str) -> float:
    ranks = everyone()
    collective = {
        "gather": lambda: ranks.gather(1),
        "all_reduce": lambda: dist.all_reduce(torch.ones(2)),
        "barrier": dist.barrier,
        "broadcast": lambda: dist.broadcast(torch.ones(2), src=1),
    }[where]
    begun = time.monotonic()
    if ranks.rank == 1:
        with ranks.together():
            raise LookupError("lost")
    with pytest.raises(RankError, match=r"^rank 1 failed: LookupError: lost; rank \d of 3"), ranks.together():
        collective()
    return time.monotonic() - begun


@pytest.mark.parametrize("where", ["gather", "all_reduce", "barrier", "broadcast"])
def test_no_rank_waits_for_one_that_has_failed(where: str) -> None:
    """Whatever collective the others are in, they leave it within seconds, naming the rank and its error."""
    first, second, third = on_ranks(3, wait_for_one_that_has_failed, where)
    assert isinstance(second, LookupError)
    assert max(first, third) < 15


def guard_twice() -> list[int]:
    ranks = everyone()
    for _ in range(2):
        with pytest.raises(LookupError), ranks.together(), ranks.together():
            raise LookupError("on all")
    with ranks.together():
        return ranks.gather(ranks.rank)


def test_guards_nest_and_are_used_again() -> None:
    """An error on all ranks leaves them connected, again and again."""
    assert results(2, guard_twice) == [[0, 1]] * 2


def who_trains() -> tuple[int, int, bool]:
    plain = nn.Linear(2, 1)
    wrapped = DistributedDataParallel(plain)
    return ranks_of(plain).size, ranks_of(wrapped).size, unwrapped(wrapped) is plain


def test_a_plain_model_is_trained_alone() -> None:
    """In a process group it is the model that says whether the ranks train together."""
    assert results(2, who_trains) == [(1, 2, True)] * 2
    assert ranks_of(nn.Linear(2, 1)).size == 1
