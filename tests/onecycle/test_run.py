"""What a run leaves: the object, and the files in its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrfind import LRCurve, Workload
from onecycle import OneCycle, fit, load_history
from onecycle.run import write_json

Make = Callable[..., Workload]


def strict(path: Path) -> Any:
    """Read JSON that is nothing but JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path.name} holds {constant}, which is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_the_files_of_a_run(make: Make, tmp_path: Path):
    """Curve, pictures, history, config, summary and checkpoints; data files are strict JSON and agree with the run."""
    run = fit(make(groups=True), epochs=20, out_dir=tmp_path / "deep" / "run", progress=False)
    folder = run.out_dir
    assert folder == tmp_path / "deep" / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints",
        "config.json",
        "curve.json",
        "history.jsonl",
        "range_test.png",
        "schedule.png",
        "summary.json",
        "training.png",
    ]
    config, summary = strict(folder / "config.json"), strict(folder / "summary.json")
    assert (config["optimizer"], config["batch size"], config["total_steps"]) == ("SGD", 16, 120)
    assert config["max_lr"] == run.max_lr == summary["max_lr"]
    assert config["torch"] == torch.__version__
    assert (summary["status"], summary["steps"], summary["train_loss"]) == ("finished", 120, run.history["loss"][-1])
    assert summary["val_accuracy"] == run.validation["val_accuracy"]
    assert summary["pick"]["lr"] == run.suggestion.lr
    assert LRCurve.load(folder / "curve.json").loss.tolist() == run.curve.loss.tolist()
    assert all(
        (folder / name).read_bytes()[1:4] == b"PNG" for name in ("range_test.png", "schedule.png", "training.png")
    )
    history = load_history(folder)
    assert [history.row(i) for i in range(120)] == [run.history.row(i) for i in range(120)]


def test_a_run_of_nan_is_strict_json_too(tmp_path: Path):
    """Losses that are no numbers are text in every file."""
    model = nn.Linear(2, 1)
    batches = [(torch.full((4, 2), math.inf), torch.zeros(4, 1))] * 3
    work = Workload(model, torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss(), batches)
    run = fit(work, epochs=3, max_lr=0.1, out_dir=tmp_path, progress=False)
    assert run.status == "diverged"
    assert strict(tmp_path / "summary.json")["train_loss"] == "nan"
    assert json.loads((tmp_path / "history.jsonl").read_text().splitlines()[0])["loss"] == "nan"


def test_without_a_folder_there_are_no_files(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The run says None, and nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    assert fit(make(), epochs=1, max_lr=0.01, progress=False).out_dir is None
    assert list(tmp_path.iterdir()) == []


def test_the_validation_of_a_run_is_its_last(make: Make):
    """All numbers of the last validation, none without a val_loader."""
    run = fit(make(), epochs=2, max_lr=0.01, progress=False)
    last = run.history.row(-1)
    assert run.validation == {name: value for name, value in last.items() if name.startswith("val_")}
    assert fit(make(val=False), epochs=1, max_lr=0.01, progress=False).validation == {}


def test_a_run_without_a_sweep_has_no_curve(make: Make):
    """max_lr as a number, or in a cycle: there is no pick to look at."""
    run = fit(make(), cycle=OneCycle(0.01, 6), progress=False)
    assert (run.curve, run.suggestion, run.max_lr) == (None, None, 0.01)
    assert run.summary()["pick"] is None


def test_the_repr_of_a_run_is_a_line_of_outcome(make: Make):
    """How it ended, how long it was, its peak and its last validation: what a notebook shows of it."""
    run = fit(make(), total_steps=6, max_lr=0.01, progress=False)
    loss, accuracy = run.validation["val_loss"], run.validation["val_accuracy"]
    assert repr(run) == f"Run(finished after 6 steps, max_lr 0.01, val_loss {loss:.4g}, val_accuracy {accuracy:.4g})"
    assert repr(fit(make(val=False), total_steps=6, max_lr=0.01, progress=False)).endswith("steps, max_lr 0.01)")


def test_a_folder_without_a_history_is_named(tmp_path: Path):
    """load_history of something else says what to give."""
    with pytest.raises(FileNotFoundError, match=r"holds no history.jsonl. Give the folder of a run made by onecycle"):
        load_history(tmp_path)


def test_small_files_are_written_whole_or_not_at_all(tmp_path: Path):
    """What cannot be written leaves the file before it."""
    write_json(tmp_path / "config.json", {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "config.json", {"a": object()})
    assert strict(tmp_path / "config.json") == {"a": 1}
