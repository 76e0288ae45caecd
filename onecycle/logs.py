"""Where a run's numbers go: memory, a JSON-lines file, TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

Row = Mapping[str, float]


class Log(Protocol):
    """Anything that takes rows: ``write`` once a step, ``close`` at the end."""

    def write(self, row: Row) -> None:
        """Take one row: ``step``, ``epoch``, ``lr``, ``momentum``, ``loss``, after a validation ``val_loss`` etc."""

    def close(self) -> None:
        """Write what is still held back."""


class History(Mapping[str, list[float]]):
    """The rows of a run as columns of equal length, NaN where a row has no such number.

    >>> history = History()
    >>> history.write({"step": 1, "loss": 2.0})
    >>> history.write({"step": 2, "loss": 1.0, "val_loss": 1.5})
    >>> history["loss"], history["val_loss"]
    ([2.0, 1.0], [nan, 1.5])
    >>> history.where("val_loss")
    [{'step': 2, 'loss': 1.0, 'val_loss': 1.5}]
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[float]] = {}
        self._rows = 0

    def write(self, row: Row) -> None:
        """Append a row."""
        for name in row.keys() - self._columns.keys():
            self._columns[name] = [math.nan] * self._rows
        for name, column in self._columns.items():
            column.append(row.get(name, math.nan))
        self._rows += 1

    def close(self) -> None:
        """Nothing is held back."""

    def where(self, name: str) -> list[dict[str, float]]:
        """Return the rows that have a number in the column ``name``."""
        column = self._columns.get(name, [])
        return [self.row(index) for index, value in enumerate(column) if not math.isnan(value)]

    def row(self, index: int) -> dict[str, float]:
        """Return one row without its missing numbers; negative indices count from the end."""
        row = {name: column[index] for name, column in self._columns.items()}
        return {name: value for name, value in row.items() if not math.isnan(value)}

    @property
    def rows(self) -> int:
        """Number of rows: optimizer steps taken."""
        return self._rows

    def __getitem__(self, name: str) -> list[float]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"History({self._rows} rows; columns {', '.join(self._columns) or 'none'})"


class JsonLinesLog:
    """One JSON object a line; a number that is not finite is written as text ("nan", "inf").

    Args:
        path: The file. What it holds beyond ``until`` is cut off, the rest stays.
        until: Last step to keep of what is there already (0: begin anew).
    """

    def __init__(self, path: Path, until: int = 0) -> None:
        kept = [row for row in read_rows(path) if row["step"] <= until] if until and path.exists() else []
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  # held open for the run, closed by close()
        for row in kept:
            self.write(row)

    def write(self, row: Row) -> None:
        """Append a row; it reaches the file with the next ``flush``, or when the buffer is full."""
        try:
            line = json.dumps(dict(row), allow_nan=False)
        except ValueError:
            line = json.dumps({name: value if math.isfinite(value) else str(value) for name, value in row.items()})
        self._file.write(line + "\n")

    def flush(self) -> None:
        """Bring every row onto the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is held back and close the file."""
        self._file.close()


def read_rows(path: Path) -> list[dict[str, float]]:
    """Return the rows of a JSON-lines log; a last line that was cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        rows.append({name: float(value) if isinstance(value, str) else value for name, value in row.items()})
    return rows


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
