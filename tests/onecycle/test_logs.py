"""Where rows go: memory, JSON lines, TensorBoard."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrfind import Workload
from onecycle import History, TensorBoardLog, fit
from onecycle.logs import JsonLinesLog, Log, read_rows

ROWS = [
    {"step": 1, "epoch": 0, "lr": 0.1, "loss": 2.0},
    {"step": 2, "epoch": 0, "lr": 0.2, "loss": math.nan},
    {"step": 3, "epoch": 0, "lr": 0.1 + 0.2, "loss": -math.inf, "val_loss": 1.5, "val_accuracy": math.nan},
    {"step": 4, "epoch": 1, "lr": 1e-300, "loss": 0.1},
]


def same(rows: Any, expected: Any) -> bool:
    """Compare rows, NaN with NaN."""
    return [{key: repr(value) for key, value in row.items()} for row in rows] == [
        {key: repr(value) for key, value in row.items()} for row in expected
    ]


def test_a_history_reads_as_columns():
    """Of equal length, in the order in which they came, NaN where a row has no such number."""
    history = History(ROWS)
    assert list(history) == ["step", "epoch", "lr", "loss", "val_loss", "val_accuracy"]
    assert history["lr"] == [0.1, 0.2, 0.1 + 0.2, 1e-300]
    assert [math.isnan(value) for value in history["val_loss"]] == [True, True, False, True]
    assert (len(history), history.rows) == (6, 4)
    assert "momentum" not in history
    with pytest.raises(KeyError, match="momentum"):
        history["momentum"]
    assert repr(history) == "History(4 rows; columns step, epoch, lr, loss, val_loss, val_accuracy)"
    assert repr(History()) == "History(0 rows; columns none)"


def test_rows_with_a_number_count_also_where_it_is_nan():
    """A validation that came out as NaN was one."""
    history = History(ROWS)
    assert [row["step"] for row in history.where("val_accuracy")] == [3]
    assert history.where("momentum") == []
    assert same([history.row(-2)], [ROWS[2]])
    assert [row["step"] for row in history.backwards()] == [4, 3, 2, 1]
    assert history.until(2)["step"] == [1, 2]


def test_json_lines_are_strict_and_read_back_exactly(tmp_path: Path):
    """Numbers that are not finite stand there as text, every float comes back bit for bit."""
    log = JsonLinesLog(tmp_path / "history.jsonl")
    for row in ROWS:
        log.write(row)
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(lines[1], parse_constant=refuse) == {"step": 2, "epoch": 0, "lr": 0.2, "loss": "nan"}
    assert [json.loads(line, parse_constant=refuse)["step"] for line in lines] == [1, 2, 3, 4]
    assert same(read_rows(tmp_path / "history.jsonl"), ROWS)


@pytest.mark.parametrize("rest", [b"", b'{"step": 5, "lo', b'{"step": 5, "loss": 0.5}', b"\x00\x00\n"])
@pytest.mark.parametrize("until", [0, 2, 4])
def test_a_log_taken_up_again_is_cut_where_the_run_goes_on(until: int, rest: bytes, tmp_path: Path):
    """Later rows, and a last line that a kill cut short, go; the rows before stay byte for byte."""
    path = tmp_path / "history.jsonl"
    log = JsonLinesLog(path)
    for row in ROWS:
        log.write(row)
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + rest)
    assert len(read_rows(path)) == 4
    log = JsonLinesLog(path, until)
    log.write({"step": until + 1, "loss": 9.0})
    log.flush()
    log.sync()
    assert path.read_bytes() == b"".join(lines[:until]) + b'{"step": %d, "loss": 9.0}\n' % (until + 1)
    log.close()


def test_tensorboard_events_are_the_history(make: Callable[..., Workload], tmp_path: Path):
    """Read back by TensorBoard's own reader: each column under its name, by step."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard, of its own extra, is not installed",
    )
    run = fit(make(), epochs=2, max_lr=0.05, loggers=[TensorBoardLog(tmp_path)], progress=False)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(name for name in run.history if name != "step")
    for name in ("lr", "loss", "val_accuracy"):
        scalars = {event.step: event.value for event in events.Scalars(name)}
        expected = {int(row["step"]): row[name] for row in run.history.where(name)}
        assert scalars == pytest.approx(expected, rel=1e-6)


def test_without_tensorboard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An error that says what to install, when the log is made and not at the first row."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **keywords: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return real(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lrfind-onecycle\[tensorboard\]"'):
        TensorBoardLog(tmp_path)


class _Kept:
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.closed = 0

    def write(self, row: Any) -> None:
        self.rows.append(dict(row))

    def close(self) -> None:
        self.closed += 1


def test_any_object_with_write_and_close_is_a_log(make: Callable[..., Workload]):
    """It gets every row, and is closed once, also after an error."""
    log = _Kept()
    assert isinstance(log, Log)
    run = fit(make(), epochs=1, max_lr=0.05, loggers=[log], progress=False)
    assert log.rows == [run.history.row(index) for index in range(6)]
    assert log.closed == 1
    log = _Kept()

    def fails(row: Any) -> None:
        raise KeyError(row["step"])

    with pytest.raises(KeyError):
        fit(make(), epochs=1, max_lr=0.05, loggers=[log], callbacks=[fails], progress=False)
    assert (len(log.rows), log.closed) == (1, 1)
