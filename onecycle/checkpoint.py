"""Checkpoints that are written whole or not at all, and read with ``weights_only=True``."""

from __future__ import annotations

import os
import re
import shutil
import threading
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lrfind.randomness import random_states
from lrfind.ranks import ALONE, Ranks

FORMAT = "onecycle checkpoint"
VERSION = 1
KEEP = 2
PARTIAL = ".partial"  # what a checkpoint ends in while it is being written
OTHER_PLACES = "places of the other ranks"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or does not fit what it is to be loaded into."""


class Checkpoints:
    """The checkpoints of one run: ``step-00000150.pt`` and so on in one folder, the newest two kept.

    A thread writes each to a temporary file, syncs it to the disk and renames it, so that a file of that name is
    always whole, whenever the process is killed. One file is under way at a time. Beside them lies ``start.pt``:
    where the present cycle began, for a run that has to begin again.

    Of several ranks each calls the same methods. They have the same weights, so the first one writes them for all,
    with the place of each in its data; each reads for itself, and gets its own place.

    Args:
        folder: Where they lie, for all ranks the same; made with the first one.
        ranks: Who trains along.
    """

    suffix = ".pt"
    others = "a sharded model"  # what checkpoints of another kind are of

    def __init__(self, folder: Path, ranks: Ranks = ALONE) -> None:
        self.folder = folder
        self.ranks = ranks
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None
        self._proven = False  # whether one has been read back

    def begin(self, record: dict[str, Any]) -> None:
        """Write ``record`` as the start of a cycle, and remove the checkpoints after it.

        Raises:
            CheckpointError: If it cannot be written.
        """
        self.wait()
        content = self._content(record)
        if content is None:
            return
        self._write(self.folder / f"start{self.suffix}", record["step"], content)
        self.wait()
        for path in self.paths() if self.ranks.first else ():
            if path.name > self._name(record["step"]):
                remove(path)

    def save(self, step: int, record: dict[str, Any], after: Callable[[], None] = lambda: None) -> None:
        """Write ``record`` as the checkpoint of ``step``, in the background.

        Args:
            step: Optimizer steps taken.
            record: What it holds; it must not be changed any more.
            after: Called in the background before: something that has to be on the disk by then.

        Raises:
            CheckpointError: If the one before this could not be written (a full disk, say).
        """
        self.wait()
        content = self._content(record)
        if content is None:
            return
        self._writer = threading.Thread(
            target=self._write, args=(self.folder / self._name(step), step, content, after), name="onecycle checkpoint"
        )
        self._writer.start()

    def wait(self) -> None:
        """Return once nothing is being written any more.

        Raises:
            CheckpointError: If what was being written could not be.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            whole = self._newest_first()
            raise CheckpointError(
                f"a checkpoint could not be written to {self.folder}: {_reason(error)}. The newest whole one is "
                f'{whole[0].name if whole else "none"}. Mend that, then go on from it with resume="auto".'
            ) from error

    def start(self) -> dict[str, Any]:
        """Return what ``begin`` wrote.

        Raises:
            CheckpointError: If it cannot be read.
        """
        self.wait()
        return self._read(self.folder / f"start{self.suffix}")

    def newest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint, or the start of the run; None where there is neither.

        One that is cut short or altered is passed over with a warning.

        Raises:
            CheckpointError: If there are checkpoints and none can be read.
        """
        paths = self.ranks.from_first(self._newest_first)
        if not paths and self.any():
            raise CheckpointError(
                f"{self.folder} holds checkpoints of {self.others}, which this run cannot go on from. Prepare the "
                "model as it was then, or give another out_dir."
            )
        for path in paths:
            try:
                record = self._read(path)
            except CheckpointError as error:
                failed: CheckpointError | None = error
            else:
                failed = None
            failures = [error for error in self.ranks.gather(failed) if error is not None]
            if not failures:
                return record
            warnings.warn(f"{failures[0]} It is passed over for the one before it.", UserWarning, stacklevel=2)
        if paths:
            raise CheckpointError(
                f"none of the {len(paths)} checkpoints in {self.folder} can be read. Bring back a copy of one, or "
                "train anew with another out_dir."
            )
        return None

    def any(self) -> bool:
        """Tell whether there is a whole one, readable or not, of this kind or another."""
        found = (*self.folder.glob("step-*"), *self.folder.glob("start.*"))
        return any(path.suffix != PARTIAL for path in found)

    def _content(self, record: dict[str, Any]) -> Any:
        """Return what this rank is to write of a record; None for nothing."""
        if self.ranks.size == 1:
            return record
        _, *others = self.ranks.gather(record["place"])
        return record | {OTHER_PLACES: others} if self.ranks.first else None

    def _put(self, path: Path, content: Any) -> None:
        """Write to a path, as far as the disk itself."""
        with open(path, "wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> dict[str, Any]:
        record = read(path)
        if OTHER_PLACES in record:
            record["place"] = place_of(self.ranks.rank, [record["place"], *record.pop(OTHER_PLACES)])
        elif not self.ranks.first:
            record["place"] = place_of(self.ranks.rank, [record["place"]])
        return record

    def paths(self) -> list[Path]:
        """Return the whole checkpoints but the start, oldest first."""
        return sorted(self.folder.glob(f"step-*{self.suffix}"))

    def _newest_first(self) -> list[Path]:
        start = self.folder / f"start{self.suffix}"
        return [*reversed(self.paths()), *([start] if start.exists() else [])]

    def _name(self, step: int) -> str:
        return f"step-{step:08d}{self.suffix}"

    def _write(self, target: Path, step: int, content: Any, after: Callable[[], None] = lambda: None) -> None:
        partial = target.with_suffix(PARTIAL)
        try:
            after()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._put(partial, content)
            if self.ranks.first:
                self._take_in(partial, target, step)
        except BaseException as error:
            self._error = error
            with suppress(OSError):
                remove(partial)

    def _take_in(self, partial: Path, target: Path, step: int) -> None:
        """Give what has been written its name, and remove what is not needed any more."""
        if not self._proven:
            self._prove(partial)
            self._proven = step > 0  # by then the optimizer has its state
        os.replace(partial, target)
        _sync_folder(self.folder)
        for old in self.paths()[:-KEEP]:
            remove(old)

    def _prove(self, path: Path) -> None:
        """See whether what has been written can be read."""
        try:
            read(path)
        except CheckpointError as error:
            raise unreadable(error) from error


def place_of(rank: int, places: list[dict[str, Any]]) -> dict[str, Any]:
    """Return where a rank takes up its data, in a run that perhaps had fewer ranks when ``places`` were taken down.

    One that was not there then begins where the first one does, with random numbers of its own.
    """
    if rank < len(places):
        return places[rank]
    own = {"random": random_states()}
    first = places[0]
    return first | {"began": first["began"] | own, "now": first["now"] | own}


def unreadable(error: Exception) -> CheckpointError:
    """Return what to say where torch's reader refuses what has been written."""
    named = re.search(r"GLOBAL (\S+)", str(error))  # by torch, in the middle of much advice
    return CheckpointError(
        f"it cannot be read back, because it holds {named[1] if named else error.__cause__ or error}; model, optimizer "
        "and loss must keep their state in tensors, numbers, strings and containers of these"
    )


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing if there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    # torch's writer says that it could not go on where the system has said why.
    while error.__context__ is not None and not isinstance(error, OSError | CheckpointError):
        error = error.__context__
    return str(error)


def read(path: Path) -> dict[str, Any]:
    """Return the checkpoint in ``path``, its tensors on the CPU.

    Raises:
        CheckpointError: If the file is cut short, altered, of another kind or of a newer version.
    """
    try:
        # torch's reader takes altered bytes for weights; the archive's own checksums tell.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong.")
        record = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a broken file makes a reader raise
        raise CheckpointError(f"{path} is damaged or no checkpoint: {type(error).__name__}: {error}.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of onecycle. Give the folder of a run made by onecycle.fit.")
    if record.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {record.get('version')!r}, this onecycle reads version {VERSION}. Upgrade onecycle."
        )
    return record


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk. Not every system lets a folder be opened.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
