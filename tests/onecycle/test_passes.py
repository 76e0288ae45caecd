"""Places in passes over a loader, left and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from lrfind import Workload
from onecycle.passes import Passes

Make = Callable[..., Workload]


def reading(passes: Passes) -> Iterator[Tensor]:
    """Yield the inputs of each group, pass after pass; in between, random numbers are drawn, as by dropout."""
    while True:
        for group in passes.groups():
            yield torch.cat([x for x, _ in group])
            torch.rand(3)


@pytest.mark.parametrize("loader", ["shuffle", "generator", "stream", "workers", "list"])
@pytest.mark.parametrize("left", [0, 1, 5, 6, 8])
def test_the_batches_after_a_place_come_again(loader: str, left: int, make: Make):
    """In the same order, with the same contents, from a loader made anew; random numbers go on alike."""
    torch.manual_seed(3)
    passes = Passes(make(loader=loader))
    read = reading(passes)
    list(islice(read, left))
    place = passes.take()
    expected = [*islice(read, 7), torch.rand(1)]
    again = Passes(make(loader=loader))
    again.put(place)
    assert (again.epoch, again.group) == (place["epoch"], place["group"])
    if left:
        torch.rand(3)  # of the step before, whose generator waits at its yield
    assert all(map(torch.equal, [*islice(reading(again), 7), torch.rand(1)], expected))


def test_a_group_that_was_handed_back_comes_first(make: Make):
    """It was read, and not used."""
    passes = Passes(make(loader="stream"))
    *_, last = islice(reading(passes), 3)
    passes.hand_back()
    again = Passes(make(loader="stream"))
    again.put(passes.take())
    assert torch.equal(next(reading(again)), last)
    assert again.group == 3


def test_the_end_of_a_pass_is_known_of_loaders_with_a_length(make: Make):
    """By the number of groups, the incomplete last one included."""
    seen: dict[str, list[bool]] = {}
    for loader in ("shuffle", "stream"):
        passes = Passes(make(loader=loader, accumulation_steps=4))
        seen[loader] = [passes.at_end for _ in passes.groups()]
    assert seen == {"shuffle": [False, True], "stream": [False, False]}


def test_places_are_plain_data(make: Make, tmp_path: Any):
    """They load with weights_only=True."""
    passes = Passes(make(loader="generator"))
    list(islice(reading(passes), 2))
    torch.save(passes.take(), tmp_path / "place.pt")
    again = Passes(make(loader="generator"))
    again.put(torch.load(tmp_path / "place.pt", weights_only=True))
    assert again.group == 2


def test_an_empty_pass_is_an_error(make: Make):
    """In place of a run that turns for ever."""
    work = make()
    work.train_loader = iter([])
    with pytest.raises(ValueError, match=r"train_loader yielded no batch"):
        list(Passes(work).groups())
