"""Loaders as streams: grouping, the fast path's bit-identity, moving batches, telling streams that end."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    ChainDataset,
    DataLoader,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch_lr_finder import TrainDataLoaderIter

from lrfind.batches import batch_size, endless, epoch, fast, rewinds, steps_per_epoch, to_device

SAMPLES = 37


def dataset(dtype: torch.dtype = torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 255, (SAMPLES, 2, 3), generator=generator).to(dtype)
    return TensorDataset(images, torch.randint(0, 4, (SAMPLES,), generator=generator))


class Batches:
    """A batch sampler of one's own, and what it may yield: numpy's integers, tensors, indices from the end."""

    def __init__(self, convert: Callable[[list[int]], Any]) -> None:
        self.convert = convert

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, SAMPLES, 5):
            yield self.convert(torch.randperm(SAMPLES)[start : start + 5].tolist())


def own(convert: Callable[[list[int]], Any]) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(dataset(), batch_sampler=Batches(convert))  # type: ignore[arg-type]


def plain(**options: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(dataset(), **({"batch_size": 5} | options))


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "in order": plain(),
    "shuffled": plain(shuffle=True),
    "by a generator": lambda: plain(shuffle=True, generator=torch.Generator().manual_seed(9))(),
    "no ragged batch": plain(shuffle=True, drop_last=True),
    "weighted": lambda: plain(sampler=WeightedRandomSampler(list(range(1, SAMPLES + 1)), 50))(),
    "subset": lambda: plain(sampler=SubsetRandomSampler(range(3, 20)))(),
    "bytes": lambda: DataLoader(dataset(torch.uint8), batch_size=5, shuffle=True),
    "one tensor": lambda: DataLoader(TensorDataset(torch.arange(SAMPLES).float()), batch_size=4, shuffle=True),
    "numpy integers": own(lambda indices: [np.int32(index) for index in indices]),
    "an array": own(np.array),
    "a tensor": own(torch.tensor),
    "tensors": own(lambda indices: list(torch.tensor(indices))),
    "from the end": own(lambda indices: [index - SAMPLES for index in indices]),
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_fast_path_is_the_plain_loader_to_the_bit(name):
    """Two passes: the same batches, equal in bits, dtype, layout and container, and the same draws afterwards."""
    slow, quick = LOADERS[name](), LOADERS[name]()

    torch.manual_seed(3)
    expected = [batch for _ in range(2) for batch in slow]
    after = torch.get_rng_state()
    torch.manual_seed(3)
    got = [batch for _ in range(2) for batch in fast(quick)]

    assert fast(quick) is not quick
    assert len(got) == len(expected) > 0
    for mine, plains in zip(got, expected, strict=True):
        assert type(mine) is type(plains)
        for one, other in zip(mine, plains, strict=True):
            assert torch.equal(one, other)
            assert (one.dtype, one.stride()) == (other.dtype, other.stride())
    assert torch.equal(torch.get_rng_state(), after)
    if slow.generator is not None:
        assert torch.equal(slow.generator.get_state(), quick.generator.get_state())


@given(
    samples=st.integers(1, 60), size=st.integers(1, 17), shuffle=st.booleans(), drop=st.booleans(), seed=st.integers(0)
)
def test_the_fast_path_at_any_size(samples, size, shuffle, drop, seed):
    """Whatever the sizes: the same batches and the same state of the generator."""
    data = TensorDataset(torch.arange(samples).float(), torch.arange(samples))
    loaders = [
        DataLoader(data, size, shuffle=shuffle, drop_last=drop, generator=torch.Generator().manual_seed(seed % 2**63))
        for _ in range(2)
    ]
    expected, got = list(loaders[0]), list(fast(loaders[1]))

    assert [[part.tolist() for part in batch] for batch in got] == [
        [part.tolist() for part in batch] for batch in expected
    ]
    assert torch.equal(*(loader.generator.get_state() for loader in loaders))


def test_what_does_not_exist_fails_as_in_the_plain_loader():
    """An index past the end is the same error, not another sample."""
    loader = own(lambda _: [0, SAMPLES])()

    with pytest.raises(IndexError) as plains:
        next(iter(loader))
    with pytest.raises(IndexError) as ours:
        next(iter(fast(loader)))
    assert str(ours.value) == str(plains.value)


class Child(DataLoader[Any]):
    pass


class ChildDataset(TensorDataset):
    pass


OTHERS: dict[str, Callable[[], Any]] = {
    "a child of DataLoader": lambda: Child(dataset(), batch_size=5),
    "a child of TensorDataset": lambda: DataLoader(ChildDataset(torch.ones(4)), batch_size=2),
    "another dataset": lambda: DataLoader(list(range(6)), batch_size=2),
    "a collate of its own": lambda: DataLoader(dataset(), batch_size=5, collate_fn=lambda samples: samples),
    "workers": lambda: DataLoader(dataset(), batch_size=5, num_workers=1),
    "single samples": lambda: DataLoader(dataset(), batch_size=None),
    "channels last": lambda: DataLoader(
        TensorDataset(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)), batch_size=2
    ),
    "sparse": lambda: DataLoader(TensorDataset(torch.eye(3).to_sparse()), batch_size=2),
    "with a gradient": lambda: DataLoader(TensorDataset(torch.ones(3, requires_grad=True)), batch_size=2),
    "a list": lambda: [1, 2, 3],
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_left_alone(name):
    """A loader that may do something of its own is read as it is."""
    loader = OTHERS[name]()

    assert fast(loader) is loader


@given(st.integers(0, 30), st.integers(1, 7))
def test_an_epoch_loses_nothing(batches, size):
    """Groups hold every batch once, in order; all but the last are full; their number is told beforehand."""
    groups = list(epoch(range(batches), size))

    assert [batch for group in groups for batch in group] == list(range(batches))
    assert all(len(group) == size for group in groups[:-1])
    assert len(groups) == steps_per_epoch(range(batches), size)


def test_endless_begins_again():
    """A loader shorter than the run is read from its start; groups do not reach across."""
    assert list(islice(endless([1, 2, 3], 2), 5)) == [[1, 2], [3], [1, 2], [3], [1, 2]]


@pytest.mark.parametrize("loader", [[], iter([])])
def test_endless_refuses_an_empty_loader(loader):
    """It would go round for ever."""
    with pytest.raises(ValueError, match="train_loader yielded no batch"):
        next(endless(loader))


def test_endless_refuses_a_generator_at_its_end():
    """One pass of a generator is all there is; the message says what to pass instead."""
    with pytest.raises(ValueError, match="rather than a generator, which ends after one pass"):
        list(islice(endless(iter([1, 2])), 3))


Pair = namedtuple("Pair", ["x", "rest"])


def test_to_device_reaches_every_tensor_and_keeps_containers():
    """Tuples, named tuples, lists and dicts in one another; what is no tensor stays the object it is."""
    marker = object()
    batch = Pair(torch.zeros(2), {"a": [torch.ones(1), marker], "b": (torch.ones(3), "text")})
    moved = to_device(batch, torch.device("meta"))

    assert type(moved) is Pair
    assert moved.x.is_meta
    assert moved.rest["a"][0].is_meta
    assert moved.rest["b"][0].is_meta
    assert moved.rest["a"][1] is marker
    assert type(moved.rest["b"]) is tuple


def test_to_device_copies_nothing_that_is_there():
    """A tensor on the device is the tensor itself."""
    tensor = torch.zeros(2)

    assert to_device([tensor], torch.device("cpu"))[0] is tensor


def test_batch_size_is_that_of_the_first_tensor():
    """Depth first; scalars and strings are no tensors with a size; nothing found counts as one sample."""
    assert batch_size(["text", {"n": torch.tensor(3), "x": torch.zeros(4, 2)}]) == 4
    assert batch_size(["text", None]) == 1


class Counting(IterableDataset[Tensor]):
    def __init__(self, source: Any) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.source)


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        ([1], True),
        (iter([1]), False),
        (DataLoader(dataset()), True),
        (DataLoader(Counting([torch.zeros(1)])), True),
        (DataLoader(Counting(iter([torch.zeros(1)]))), False),
        (DataLoader(dataset(), collate_fn=default_collate, num_workers=1), True),
    ],
)
def test_rewinds_tells_a_stream_from_a_loader(loader, expected):
    """False where what a sweep draws is lost to training."""
    assert rewinds(loader) is expected


def test_to_device_keeps_kinds_of_dict():
    """An OrderedDict, a defaultdict with its factory, a class of the user's with its attributes."""

    class Batch(dict[str, Tensor]):
        note = "none"

    mine = Batch(x=torch.zeros(2))
    mine.note = "kept"
    default = defaultdict(list, x=torch.zeros(2))
    device = torch.device("meta")

    moved = [to_device(batch, device) for batch in (OrderedDict(x=torch.zeros(2)), default, mine)]

    assert [type(batch) for batch in moved] == [OrderedDict, defaultdict, Batch]
    assert all(batch["x"].is_meta for batch in moved)
    assert moved[1]["new"] == []
    assert moved[2].note == "kept"
    assert not mine["x"].is_meta


class Place:
    """An iterator of the user's own class: its place is an attribute."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Place:
        return self

    def __next__(self) -> int:
        self.place += 1
        return self.place


class Holding:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __iter__(self) -> Iterator[int]:
        return iter([1])


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (Place(), True),
        (Holding(inner=DataLoader(dataset())), True),
        (Holding(inner=DataLoader(Counting(iter([1])))), False),
        (Holding(parts={"a": [Holding(source=map(abs, [1]))]}), False),
        (DataLoader(ChainDataset([Counting([1]), Counting(iter([1]))])), False),
        (DataLoader(dataset(), sampler=Holding(order=count())), False),
        (DataLoader(Subset(dataset(), [0])), True),
        (TrainDataLoaderIter(DataLoader(dataset(), 5)), True),
        (TrainDataLoaderIter(DataLoader(Counting(iter([1])))), False),
        (range(3), True),
    ],
)
def test_rewinds_looks_into_what_a_loader_holds(loader, expected):
    """Streams count wherever they are; places that are attributes are put back and do not."""
    assert rewinds(loader) is expected


def test_open_file_of_a_data_set_with_indices_is_no_stream(tmp_path):
    """A file that is read by position is read again; one that is read through is not."""
    path = tmp_path / "data"
    path.write_text("1\n2\n")
    with path.open() as file:
        by_index = dataset()
        by_index.file = file

        assert rewinds(DataLoader(by_index))
        assert not rewinds(DataLoader(Counting(file)))


class Labelled(TrainDataLoaderIter):
    def inputs_labels_from_batch(self, batch_data: Any) -> Any:
        return batch_data[0], batch_data[1] + 100


class Own(Labelled):
    def __next__(self) -> Any:
        x, y = super().__next__()
        return -x, y


def test_iterators_of_the_peer_are_read_from_their_start():
    """One pass of the loader inside, through the user's function; the iterator itself is not moved."""
    wrapped = Labelled(DataLoader(dataset(), 5))
    next(wrapped)

    batches = list(fast(wrapped))

    assert len(batches) == len(fast(wrapped)) == 8
    assert all((y >= 100).all() for _, y in batches)
    assert torch.equal(next(wrapped)[0], batches[1][0])


def test_an_iterator_with_a_next_of_its_own_is_used():
    """What a subclass does to its batches is done."""
    own = Own(DataLoader(dataset(), 5))

    assert fast(own) is own


def test_a_length_that_raises_is_none():
    """TypeError and NotImplementedError both say that there is no length."""

    class Unknown:
        def __len__(self) -> int:
            raise NotImplementedError

    assert steps_per_epoch(Unknown()) is None
    assert steps_per_epoch(iter([])) is None
