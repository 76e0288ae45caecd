"""Where a run's numbers go: memory, a JSON-lines file, TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

Row = Mapping[str, float]


@runtime_checkable
class Log(Protocol):
    """Anything that takes rows: ``write`` once a step, ``close`` at the end."""

    def write(self, row: Row) -> None:
        """Take one row: ``step``, ``epoch``, ``lr``, ``momentum``, ``loss``, after a validation ``val_loss`` etc."""

    def close(self) -> None:
        """Write what is still held back."""


class History(Mapping[str, list[float]]):
    """The rows of a run, read as columns of equal length, NaN where a row has no such number.

    >>> history = History()
    >>> history.write({"step": 1, "loss": 2.0})
    >>> history.write({"step": 2, "loss": 1.0, "val_loss": 1.5})
    >>> history["loss"], history["val_loss"]
    ([2.0, 1.0], [nan, 1.5])
    >>> history.where("val_loss")
    [{'step': 2, 'loss': 1.0, 'val_loss': 1.5}]
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows: list[Row] = []
        self._names: dict[str, None] = {}  # in the order in which they came
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """Append a row."""
        self._rows.append(row)
        self._names.update(dict.fromkeys(row))

    def where(self, name: str) -> list[dict[str, float]]:
        """Return the rows that have a number in the column ``name``."""
        return [dict(row) for row in self._rows if name in row]

    def row(self, index: int) -> dict[str, float]:
        """Return the numbers of one row; negative indices count from the end."""
        return dict(self._rows[index])

    def backwards(self) -> Iterator[Row]:
        """Yield the rows, the last one first."""
        return reversed(self._rows)

    def until(self, step: int) -> History:
        """Return the history up to a step, which it includes."""
        return History(row for row in self._rows if row["step"] <= step)

    @property
    def rows(self) -> int:
        """Number of rows: optimizer steps taken."""
        return len(self._rows)

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._names:
            raise KeyError(name)
        return [row.get(name, math.nan) for row in self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"History({self.rows} rows; columns {', '.join(self) or 'none'})"


class JsonLinesLog:
    """One JSON object a line; a number that is not finite is written as text ("nan", "inf").

    Args:
        path: The file. What it holds beyond ``until`` is cut off, the rest stays.
        until: Last step to keep of what is there already (0: begin anew).

    Raises:
        OSError: If it cannot be written, here and in every method.
    """

    def __init__(self, path: Path, until: int = 0) -> None:
        self._file = open(path, "a+b")  # noqa: SIM115  # held open for the run, closed by close()
        # Cut in place, so that a kill at any moment leaves the rows before.
        self._file.truncate(_length(self._file, until))

    def write(self, row: Row) -> None:
        """Append a row; it reaches the file with the next ``flush``, or when the buffer is full."""
        try:
            line = json.dumps(row, allow_nan=False)
        except ValueError:
            line = json.dumps(strict(row), allow_nan=False)
        self._file.write(line.encode() + b"\n")

    def flush(self) -> None:
        """Bring every row into the file: a kill does not reach it there any more."""
        self._file.flush()

    def sync(self) -> None:
        """Bring the file onto the disk, where a power cut does not reach it either."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is held back and close the file."""
        self._file.close()


def strict(value: Any) -> Any:
    """Return ``value`` as standard JSON can hold it: numbers that are not finite as text.

    >>> strict({"loss": math.nan, "lr": (0.1, math.inf)})
    {'loss': 'nan', 'lr': [0.1, 'inf']}
    """
    if isinstance(value, Mapping):
        return {key: strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [strict(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_rows(path: Path) -> list[dict[str, float]]:
    """Return the rows of a JSON-lines log; a last line that was cut short is left out."""
    with open(path, "rb") as file:
        return [row for row, _ in _rows(file)]


def _rows(file: IO[bytes]) -> Iterator[tuple[dict[str, float], int]]:
    """Yield each row, and where in the file it ends."""
    file.seek(0)
    end = 0
    for line in file:
        try:
            row = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n"):
            return
        end += len(line)
        yield {name: float(value) if isinstance(value, str) else value for name, value in row.items()}, end


def _length(file: IO[bytes], until: int) -> int:
    """Return how long the rows up to the step ``until`` are, in bytes."""
    return max((end for row, end in _rows(file) if row["step"] <= until), default=0)


class TensorBoardLog:
    """Scalars for TensorBoard, by step.

    Raises:
        ModuleNotFoundError: Without the package ``tensorboard``; the message names the extra.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError(
                "TensorBoardLog needs the package tensorboard; install it with: "
                'pip install "lrfind-onecycle[tensorboard]"'
            ) from error
        self._writer: Any = SummaryWriter(os.fspath(folder))

    def write(self, row: Row) -> None:
        """Write every number of the row but the step under its own name."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()
