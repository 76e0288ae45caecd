"""A loader of which every rank reads a part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lrfind import Workload
from lrfind.batches import endless
from lrfind.ranks import Ranks
from lrfind.shards import Shards, equal_sizes, fewest, has_epochs
from tests.ranks import on_ranks, results


def data(samples: int = 24) -> TensorDataset:
    return TensorDataset(torch.arange(samples).float()[:, None], torch.zeros(samples, 1))


def shuffled(rank: int = 0, size: int = 1, samples: int = 24) -> DataLoader[Any]:
    return DataLoader(data(samples), 4, sampler=DistributedSampler(data(samples), size, rank))


def workload(loader: Any, *, parallel: bool = False) -> Workload:
    model: nn.Module = nn.Linear(1, 1)
    model = DistributedDataParallel(model) if parallel else model
    return Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), loader)


def order(batches: Any) -> list[float]:
    return [value for inputs, _ in batches for value in inputs.flatten().tolist()]


def test_a_sampler_is_told_of_each_pass() -> None:
    """Pass after pass has the order that ``set_epoch`` with its number gives, for one process as well."""
    loader, expected = shuffled(), []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        expected += order(loader)
    work = workload(shuffled())
    groups = endless(work.batches())
    assert order(batch for _ in range(18) for batch in next(groups)) == expected
    assert order(work.batches(epoch=2)) == expected[48:]


def test_what_wants_to_be_told_of_passes() -> None:
    """A sampler with ``set_epoch``, wherever it is; not a loader that shuffles by itself."""
    assert has_epochs(shuffled())
    assert has_epochs(DataLoader(data(), batch_sampler=torch.utils.data.BatchSampler(shuffled().sampler, 4, False)))
    assert not has_epochs(DataLoader(data(), 4, shuffle=True))
    assert not has_epochs([1, 2])


def test_a_stream_has_no_length() -> None:
    """``len`` raises what a loader over a stream raises."""
    with pytest.raises(TypeError, match="no length"):
        len(Shards([1], Ranks(), batches=None))


def facts_of_loaders() -> tuple[Any, ...]:
    ranks = Ranks(dist.group.WORLD)
    plain = shuffled(ranks.rank, ranks.size)
    longer = DataLoader(data(24 + 8 * ranks.rank), 4)
    stream = iter([1, 2]) if ranks.rank else [1, 2]
    collated = DataLoader(data(), 4, collate_fn=lambda samples: samples)
    return (
        (fewest(plain, ranks), fewest(longer, ranks), fewest(stream, ranks)),
        (equal_sizes(plain, ranks), equal_sizes(longer, ranks), equal_sizes(collated, ranks)),
    )


def test_ranks_agree_on_length_and_sizes() -> None:
    """The fewest batches of any rank; equal sizes only where every loader vouches for them."""
    assert results(2, facts_of_loaders) == [((3, 6, None), (True, False, False))] * 2


def parts_of_one_order(epochs: int) -> list[float]:
    work = workload(shuffled(dist.get_rank(), dist.get_world_size()), parallel=True)
    return [value for epoch in range(epochs) for value in order(work.batches(epoch))]


def test_the_ranks_read_each_sample_once_a_pass() -> None:
    """Two ranks together: every sample once in each pass, in another order than in the one before."""
    first, second = results(2, parts_of_one_order, 2)
    for part in (slice(0, 12), slice(12, 24)):
        assert sorted(first[part] + second[part]) == list(range(24))
    assert first[:12] != first[12:]


def make(kind: str) -> bool:
    rank = dist.get_rank()
    values = torch.arange(8.0).reshape(2, 4, 1)
    loaders = {
        "the same list": [(part, part) for part in values],
        "lists of their own": [(part + rank, part) for part in values],
        "an order of their own": DataLoader(data(), 4, shuffle=True, generator=torch.Generator().manual_seed(rank)),
        "half precision": [(part.bfloat16(), part) for part in values],
        "dicts": [{"x": part, "names": ["a"]} for part in values],
        "a sampler of another rank": shuffled(0, 2),
    }
    workload(loaders[kind], parallel=True)
    return True


@pytest.mark.parametrize("kind", ["lists of their own", "an order of their own"])
def test_data_of_their_own_are_taken(kind: str) -> None:
    """Any loaders whose batches differ between ranks will do."""
    assert results(2, make, kind) == [True, True]


@pytest.mark.parametrize("kind", ["the same list", "half precision", "dicts", "a sampler of another rank"])
def test_the_same_data_are_refused(kind: str) -> None:
    """Whatever the batches are made of, on both ranks."""
    for refused in on_ranks(2, make, kind):
        assert isinstance(refused, ValueError)
        assert "train_loader must give each rank data of its own; got the same batches on ranks 0 and 1" in str(refused)
