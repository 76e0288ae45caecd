"""Checkpoints that are written whole or not at all, and read with ``weights_only=True``."""

from __future__ import annotations

import os
import threading
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = "onecycle checkpoint"
VERSION = 1
KEEP = 2


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or does not fit what it is to be loaded into."""


class Checkpoints:
    """The checkpoints of one run: ``step-00000150.pt`` and so on in one folder, the newest two kept.

    ``save`` copies the state and returns; a thread writes it to a temporary file, syncs it to the disk and renames
    it, so that a file of that name is always whole, whenever the process is killed. One file is under way at a time.

    Args:
        folder: Where they lie; made with the first save.
        keep: How many to keep.
    """

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self.folder = folder
        self.keep = keep
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write ``state`` as the checkpoint of ``step``, in the background.

        Raises:
            CheckpointError: If the save before this one failed (a full disk, say).
        """
        self.wait()
        record = {"format": FORMAT, "version": VERSION, "step": step, **_copied(state)}
        target = self.folder / f"step-{step:08d}.pt"
        self._writer = threading.Thread(target=self._write, args=(target, record), name="checkpoint")
        self._writer.start()

    def save_start(self, state: dict[str, Any]) -> None:
        """Write the state that a run may go back to, as ``start.pt``; it stays until ``clear``.

        Raises:
            CheckpointError: If it cannot be written.
        """
        self._write(self.folder / "start.pt", {"format": FORMAT, "version": VERSION, "step": 0, **state})
        self.wait()

    def start(self) -> dict[str, Any]:
        """Return what ``save_start`` wrote."""
        return read(self.folder / "start.pt")

    def clear(self) -> None:
        """Remove every checkpoint but the start."""
        self.wait()
        for path in self.paths():
            path.unlink()

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
            last = self.paths()
            raise CheckpointError(
                f"a checkpoint could not be written to {self.folder}: {error}. "
                f"The newest whole one is {last[-1].name if last else 'none'}; free some space or mend the folder's "
                'permissions, then continue with resume="auto".'
            ) from error

    def paths(self) -> list[Path]:
        """Return the files of whole checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def newest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that can be read, None where there is none.

        One that was cut short or altered is passed over with a warning.
        """
        for path in reversed(self.paths()):
            try:
                return read(path)
            except CheckpointError as error:
                warnings.warn(f"{error} The one before it is used.", UserWarning, stacklevel=2)
        return None

    def _write(self, target: Path, record: dict[str, Any]) -> None:
        partial = target.with_suffix(".partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                torch.save(record, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
            _sync_folder(self.folder)
            for old in self.paths()[: -self.keep]:
                old.unlink()
        except BaseException as error:
            self._error = error
            partial.unlink(missing_ok=True)


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


def _copied(value: Any) -> Any:
    """Copy a state so that training may go on while it is written: tensors to the CPU, containers anew."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return value
