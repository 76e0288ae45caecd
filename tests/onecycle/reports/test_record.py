"""onecycle.reports.record: what a folder says of its run, and what is no run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from onecycle.reports.record import records
from onecycle.run import Run, load_history


def test_a_finished_run_is_read_whole(runs: dict[str, Path]):
    """Status, pick, curve, history and cycle are those in its files."""
    (record,) = records([runs["picked"]])
    summary = json.loads((runs["picked"] / "summary.json").read_text())
    assert (record.name, record.status, record.total_steps) == ("picked", "finished", 200)
    assert record.pick is not None
    assert record.pick.lr == record.max_lr == summary["max_lr"]
    assert record.pick.evidence == summary["pick"]["evidence"]
    assert record.curve is not None
    assert record.history["loss"] == load_history(runs["picked"])["loss"]
    assert [record.cycle.lr(step) for step in range(200)] == pytest.approx(record.history["lr"])


def test_a_given_peak_has_neither_pick_nor_curve(runs: dict[str, Path]):
    """And so no rule reads anything."""
    (record,) = records([runs["given"]])
    assert (record.max_lr, record.pick, record.curve, record.readings) == (0.05, None, None, ())


def test_a_diverged_run_tells_its_retries_and_notes(runs: dict[str, Path]):
    """The last peak is the one used, the others are listed."""
    (record,) = records([runs["diverged"]])
    assert record.status == "diverged"
    assert [retry.max_lr for retry in record.retries] == pytest.approx([1e6, 1e6 / 3, 1e6 / 9])
    assert record.max_lr == pytest.approx(1e6 / 27)
    assert "try max_lr" in record.notes[0]


def test_a_run_cut_short_is_unfinished_but_has_its_pick(runs: dict[str, Path]):
    """Killed in the middle of a line, or before the first step."""
    killed, started, picked = records([runs["killed"], runs["started"], runs["picked"]])
    assert (killed.status, killed.history.rows) == ("unfinished", 77)
    assert (started.status, started.history.rows) == ("unfinished", 0)
    assert killed.pick == started.pick == picked.pick


def test_an_outcome_of_before_the_run_went_on_does_not_count(runs: dict[str, Path], tmp_path: Path):
    """A summary whose steps are not those of the history is old."""
    folder = shutil.copytree(runs["picked"], tmp_path / "run")
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:150]))
    assert records([folder])[0].status == "unfinished"


def test_every_rule_is_read_or_says_why_not(runs: dict[str, Path]):
    """As the curve's own suggest does; a short curve gives eight reasons."""
    (record,) = records([runs["picked"]])
    curve = record.curve
    assert curve is not None
    for reading in record.readings:
        assert reading.lr == curve.suggest(reading.rule).lr
        assert reading.what


def test_names_are_as_long_as_it_takes(runs: dict[str, Path], tmp_path: Path):
    """Folders of the same name are told apart by the folders they lie in."""
    (tmp_path / "b").mkdir()
    other = shutil.copytree(runs["given"], tmp_path / "b" / "given")
    names = [record.name for record in records([runs["given"], other])]
    assert names == [f"{runs['given'].parent.name}/given", "b/given"]


def test_runs_without_a_folder_are_numbered(runs: dict[str, Path]):
    """A Run in memory has no name; one with a folder has the folder's."""
    (record,) = records([runs["picked"]])
    run = Run(0.1, record.cycle, None, None, record.history, "finished")
    in_folder = Run(0.1, record.cycle, None, None, record.history, "finished", out_dir=runs["given"])
    assert [one.name for one in records([run])] == ["run"]
    assert [one.name for one in records([run, in_folder, run])] == ["run 1", "given", "run 2"]


def test_what_is_no_run_is_named(runs: dict[str, Path], tmp_path: Path):
    """Nothing, a missing folder, another folder, the same run twice, another type."""
    with pytest.raises(ValueError, match="at least one run; got none"):
        records([])
    with pytest.raises(ValueError, match=r"got .*nowhere, where there is no folder. onecycle train writes one"):
        records([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"which holds no config.json"):
        records([tmp_path])
    with pytest.raises(ValueError, match=r"each run is shown once; got .*given twice"):
        records([runs["given"], runs["given"] / ".." / "given"])
    with pytest.raises(TypeError, match=r"takes runs and folders of runs; got 3"):
        records([3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in ("config.json", "curve.json") for text in ("{", "[1]", '{"max_lr": "x"}')),
        *((name, text) for name in ("summary.json", "command.json") for text in ("{", "1")),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_run(runs: dict[str, Path], tmp_path: Path, name: str, text: str):
    """Whatever is in it, and in one sentence."""
    folder = shutil.copytree(runs["picked"], tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=r"run holds a damaged run, or one of another version"):
        records([folder])
