"""Passes over the training data that can be left anywhere and taken up again, to the same batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from lrfind.batches import Group
from lrfind.batches import epoch as one_epoch
from lrfind.randomness import random_states, set_random_states
from lrfind.workload import Workload
from onecycle.attributes import Attributes
from onecycle.checkpoint import CheckpointError


class Passes:
    """One pass after another over the training loader, and the place where a run is in them.

    A loader cannot be told to go on in the middle. So the random numbers with which the present pass began are kept:
    taken up again, it is read from its start up to the place where it was left, and goes on from there with the
    random numbers of that moment. What the loader draws (order, seeds of workers, augmentation) is the same again.

    Attributes:
        epoch: Whole passes done.
        group: Groups of batches read of the present one.
    """

    def __init__(self, work: Workload) -> None:
        self.work = work
        self.epoch = 0
        self.group = 0
        self._length: int | None = None  # groups in the present pass, where that is known
        self._unused = False  # whether the last group read is still to be used
        loaders = {"train_loader": work.train_loader, "val_loader": work.val_loader}
        self._attributes = Attributes(loaders)
        self._lasting = {name: kept for name, loader in loaders.items() if (kept := _keeps_workers(loader)) is not None}
        self._began: dict[str, Any] = {}  # the moment at which the present pass began
        self._left = False  # whether it is to be taken up again in the middle

    def groups(self) -> Iterator[Group]:
        """Yield the groups of the present pass, or what is left of it; at its end the next one is the present.

        Raises:
            ValueError: If the pass is empty.
            CheckpointError: If a pass taken up again is shorter than it was.
        """
        if self._left:
            groups = self._taken_up()
        else:
            self.group = 0
            self._began = self._moment()
            groups = one_epoch(self.work.batches(self.epoch), self.work.accumulation_steps)
        self._length = self.work.steps_per_epoch
        for group in groups:
            self.group += 1
            yield group
        if self.group == 0:
            raise ValueError(
                f"train_loader yielded no batch; got {self.work.train_loader!r}. It must yield at least one batch each "
                "time it is iterated: check that its dataset is not empty, and pass a loader (or a list of batches) "
                "rather than a generator, which ends after one pass."
            )
        self.epoch += 1
        self.group = 0

    @property
    def at_end(self) -> bool:
        """Whether the last group was, by the loader's length, the last of its pass; False for one without length."""
        return self.group == self._length

    def hand_back(self) -> None:
        """Say that the last group was read but not used: who takes up from here gets it first."""
        self._unused = True

    def take(self) -> dict[str, Any]:
        """Return the place, as plain data that ``torch.load(weights_only=True)`` reads."""
        place = {"epoch": self.epoch, "group": self.group, "unused": self._unused}
        return place | {"began": self._began, "now": self._moment()}

    def put(self, place: dict[str, Any]) -> None:
        """Go to a place that ``take`` returned."""
        self.epoch, self.group, self._unused = place["epoch"], place["group"], place["unused"]
        self._began, now = place["began"], place["now"]
        self._left = self.group > 0
        # In the middle of a pass the workers of the training loader are started with it.
        self._set_workers(now, self._lasting.keys() - ({"train_loader"} if self._left else set()))
        self._set(now)

    def _taken_up(self) -> Iterator[Group]:
        self._left = False
        now = self._moment()
        self._set_workers(self._began, self._lasting.keys() & {"train_loader"})
        self._set(self._began)
        groups = one_epoch(self.work.batches(self.epoch), self.work.accumulation_steps)
        last = None
        for read in range(self.group):
            last = next(groups, None)
            if last is None:
                raise CheckpointError(
                    f"the checkpoint was written after {self.group} steps of a pass over train_loader, which now ends "
                    f"after {read}. Give it the data that it had then."
                )
        self._set(now)
        if self._unused and last is not None:
            self._unused = False
            self.group -= 1
            yield last
        yield from groups

    def _moment(self) -> dict[str, Any]:
        return {
            "random": random_states(),
            "loaders": self._attributes.take(),
            "workers": {name: loader._iterator is not None for name, loader in self._lasting.items()},
        }

    def _set(self, moment: dict[str, Any]) -> None:
        set_random_states(moment["random"])
        self._attributes.put(moment["loaders"])

    def _set_workers(self, moment: dict[str, Any], names: Iterable[str]) -> None:
        """Have workers that last run where they ran at that moment, and let go those that did not run yet."""
        for name in names:
            loader = self._lasting[name]
            if not moment["workers"].get(name, False):
                loader._iterator = None
            elif loader._iterator is None:
                # Started apart from a pass, because that draws a random number, which passes after the first do not.
                iter(loader)
                warnings.warn(
                    f"{name} keeps its workers between passes (persistent_workers=True), and with them random numbers "
                    "that no checkpoint holds: if they augment, the batches differ from those of a run that was never "
                    "stopped. persistent_workers=False makes them the same.",
                    UserWarning,
                    stacklevel=2,
                )


def _keeps_workers(loader: Any) -> DataLoader[Any] | None:
    """Return the loader if it keeps its worker processes from pass to pass."""
    loader = getattr(loader, "data_loader", loader)  # what a torch-lr-finder iterator reads
    return loader if isinstance(loader, DataLoader) and loader.persistent_workers else None
