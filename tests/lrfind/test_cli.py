"""The command lrfind: what it writes and prints, and that every expected error is one line with exit status 2."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lrfind
from lrfind import targets
from lrfind.cli import main
from lrfind.console import one, results_folder
from lrfind.suggest import RULES

TASK = """
import torch
from torch import nn

import lrfind

STEPS = 0


def make():
    inputs = torch.randn(320, 6)
    labels = (inputs.sum(1) > 0).long()
    batches = [{"x": x, "y": y} for x, y in zip(inputs.split(32), labels.split(32))]
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return lrfind.Workload(model, optimizer, train_loader=batches, val_loader=batches[:2], loss_fn=loss)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def loss_until_ctrl_c(model, batch):
    global STEPS
    STEPS += 1
    if STEPS > 30:
        raise KeyboardInterrupt
    return loss(model, batch)


def interrupted():
    work = make()
    work.loss_fn = loss_until_ctrl_c
    return work


def wrong_labels():
    work = make()
    work.loss_fn = lambda model, batch: nn.functional.cross_entropy(model(batch["x"]), batch["y"][:5])
    return work


def two_groups():
    work = make()
    first, _, last = work.model
    groups = [{"params": first.parameters()}, {"params": last.parameters(), "lr": 0.01}]
    return lrfind.Workload(
        work.model, torch.optim.SGD(groups, lr=0.1), train_loader=work.train_loader, loss_fn=loss
    )
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, outside the repository, with a task of the user's own."""
    (tmp_path / "task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(targets, "_from_files", set())
    yield tmp_path
    sys.modules.pop("task", None)


def refused(capsys, *words: str) -> str:
    """Run a command that must fail; return its one line on stderr, without the progress bar before it."""
    status = main(list(words))
    out, err = capsys.readouterr()
    lines = [line for line in err.split("\n") if line and "range test" not in line]
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("lrfind: ")
    assert out == ""
    return lines[0]


def test_sweep_writes_the_curve_and_its_picture_and_prints_the_pick(folder, capsys):
    """curve.json and range_test.png lie in --out-dir; the pick, its range and what it rests on are on the screen."""
    assert main(["sweep", "task.py:make", "--out-dir", "out", "--start-lr", "1e-4"]) == 0

    printed = capsys.readouterr().out
    curve = lrfind.LRCurve.load(folder / "out" / "curve.json")
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["curve.json", "range_test.png"]
    assert (folder / "out" / "range_test.png").read_bytes().startswith(b"\x89PNG")
    assert f"{curve.suggest()}: one sweep of" in printed
    assert "In out: curve.json, range_test.png" in printed


def test_sweep_takes_every_setting_of_the_range_test(folder):
    """The flags reach range_test, whose facts are in the curve."""
    words = "--start-lr 1e-3 --end-lr 0.1 --num-iter 20 --step-mode linear --stop-factor inf --momentum own"
    main(["sweep", "task.py:make", *words.split(), "--repeats", "2", "--val-batches", "1", "--out-dir", "out"])

    curve = lrfind.LRCurve.load(folder / "out" / "curve.json")

    assert curve.lr.tolist() == pytest.approx(np.linspace(1e-3, 0.1, 20).tolist())
    assert curve.facts["momentum"] == 0.9
    assert curve.facts["loss"] == "validation"
    assert len(curve.replicates) == 1


def test_without_out_dir_the_results_lie_in_a_new_folder_of_runs(folder):
    """Named after the target and the time; a second one of the same second gets its own."""
    first = results_folder(None, "task.py:make")
    second = results_folder(None, "task.py:make")

    assert first != second
    assert first.parent == second.parent == Path("runs")
    assert first.name.startswith("task-2")


def test_rates_per_group_are_separated_by_commas(folder, capsys):
    """--start-lr 1e-4,1e-5 gives each parameter group its own, and the pick is told for each."""
    main(["sweep", "task.py:two_groups", "--start-lr", "1e-3,1e-4", "--end-lr", "10,1", "--out-dir", "out"])

    curve = lrfind.LRCurve.load(folder / "out" / "curve.json")

    assert curve.group_lrs[:, 0].tolist() == [1e-3, 1e-4]
    assert "parameter groups: " in capsys.readouterr().out
    assert one((0.1,)) == 0.1
    assert one((0.1, 0.2)) == (0.1, 0.2)


def test_csv_on_request(folder):
    """--csv writes a row per step."""
    main(["sweep", "task.py:make", "--num-iter", "15", "--csv", "--out-dir", "out"])

    with open(folder / "out" / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == 15
    assert {"step", "lr", "loss"} <= set(rows[0])


def test_threads_and_seed_are_set(folder):
    """--threads is torch's, and one --seed gives one curve."""
    before = torch.get_num_threads()
    try:
        words = ["sweep", "task.py:make", "--num-iter", "12", "--seed", "5", "--threads", "1", "--out-dir"]
        main([*words, "a"])
        main([*words, "b"])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    first, second = (lrfind.LRCurve.load(folder / name / "curve.json") for name in "ab")
    assert first.loss.tolist() == second.loss.tolist()


def test_ctrl_c_saves_the_curve_so_far(folder, capsys):
    """Exit status 130, the points so far on disk with the status interrupted, and no traceback."""
    status = main(["sweep", "task.py:interrupted", "--out-dir", "out"])

    out, err = capsys.readouterr()
    curve = lrfind.LRCurve.load(folder / "out" / "curve.json")
    assert status == 130
    assert (len(curve), curve.status) == (30, "interrupted")
    assert (folder / "out" / "range_test.png").exists()
    assert err.endswith("lrfind: interrupted\n")
    assert "30 points (interrupted). In out:" in out


def test_a_curve_without_a_suggestion_is_saved_all_the_same(folder, capsys):
    """The measurement is kept; the reason is told in one line, with status 2."""
    status = main(["sweep", "task.py:make", "--start-lr", "1e-9", "--end-lr", "1e-8", "--out-dir", "out"])

    assert status == 2
    assert "lrfind: The loss never fell" in capsys.readouterr().err
    assert (folder / "out" / "curve.json").exists()


def test_suggest_reads_the_pick_off_a_file_or_its_folder(capsys):
    """The same answer as right after the sweep, by the default rule or another."""
    main(["sweep", "task.py:make", "--start-lr", "1e-4", "--out-dir", "out"])
    swept = capsys.readouterr().out

    for place in ("out", "out/curve.json"):
        assert main(["suggest", place]) == 0
        assert capsys.readouterr().out in swept
    main(["suggest", "out", "--rule", "minimum"])
    assert "rule minimum" in capsys.readouterr().out


def test_all_rules_is_a_table_of_every_rules_pick(capsys):
    """One line per rule; where a rule finds nothing, its reason stands in the place of the number."""
    main(["sweep", "task.py:make", "--start-lr", "1e-4", "--out-dir", "out"])
    curve = lrfind.LRCurve.load("out/curve.json")
    capsys.readouterr()

    assert main(["suggest", "out", "--all-rules"]) == 0

    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["rule", "max_lr"]
    assert [row.split()[0] for row in rows] == list(RULES)
    assert rows[0] == f"{'level':<9}  {curve.suggest('level').lr:.2g}  (default)"


def test_compare_prints_a_table_and_draws_one_picture(folder, capsys):
    """A row per curve, named after its folder or file; one that gives no pick has its reason and stops nothing."""
    main(["sweep", "task.py:make", "--start-lr", "1e-4", "--out-dir", "v1.0"])
    curve = lrfind.LRCurve.load(folder / "v1.0" / "curve.json")
    curve.save(folder / "same.json")
    lrfind.LRCurve(curve.lr[:5], curve.loss[:5], "too few points").save(folder / "short.json")
    capsys.readouterr()

    assert main(["compare", "v1.0", "same.json", "short.json", "--rule", "minimum", "--out-dir", "out"]) == 0

    curves = {"v1.0": curve, "same": curve, "short": lrfind.LRCurve.load(folder / "short.json")}
    assert capsys.readouterr().out == f"{lrfind.compare(curves, 'minimum')}\nIn out: comparison.png\n"
    assert (folder / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_compare_tells_curves_of_one_name_apart(folder, capsys):
    """Their whole paths are in the table, as given."""
    curve = lrfind.LRCurve([0.1], [2.0], "too few points")
    for name in "ab":
        (folder / name / "out").mkdir(parents=True)
        curve.save(folder / name / "out" / "curve.json")

    assert main(["compare", "a/out", "b/out/curve.json"]) == 0

    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:3]] == ["a/out", "b/out/curve.json"]
    assert (folder / "comparison.png").exists()


BAD = [
    ("sweep digit", r"TARGET must be digits, mnist or fashion-mnist, .* got 'digit'"),
    ("sweep task.py:mike", r"task\.py:mike must name a function"),
    ("sweep task.py:make --start-lr 1 --end-lr 0.1", r"start_lr must be above 0 and below .*got start_lr=1\.0"),
    ("sweep task.py:make --start-lr nan", r"got start_lr=nan"),
    ("sweep task.py:make --start-lr 0", r"got start_lr=0\.0"),
    ("sweep task.py:make --num-iter 9", r"num_iter must be a whole number of at least 10; got 9"),
    ("sweep task.py:make --momentum 1", r"momentum must be at least 0 and below 1, or None; got 1\.0"),
    ("sweep task.py:make --repeats 0", r"repeats must be .*got 0"),
    ("sweep task.py:make --rule best", r"rule must be one of level, steepest, .*; got 'best'"),
    ("sweep task.py:make --threads 0", r"threads must be at least 1; got 0"),
    ("sweep task.py:make --batch-size 8", r"task\.py:make takes no settings; got batch_size"),
    ("sweep task.py:make --out-dir task.py", r"out_dir must be a folder that can be written to; got task\.py"),
    ("sweep task.py:wrong_labels", r"Expected input batch_size .* \(.*task\.py, line 39\)"),
    ("suggest no.json", r"CURVE must be a file that lrfind sweep wrote, or its folder; got no\.json"),
    ("suggest .", r"got \., where there is none"),
    ("suggest task.py", r"task\.py is not a saved LRCurve"),
    ("compare task.py no.json", r"task\.py is not a saved LRCurve"),
    ("compare no.json", r"CURVE must be a file that lrfind sweep wrote, or its folder; got no\.json"),
    ("compare a.json a.json", r"CURVE must be one or more .*, none of them twice; got a\.json, a\.json\."),
    ("compare", r"CURVE must be one or more files or folders, none of them twice; got none\."),
    ("compare a.json --rule best", r"rule must be one of level, steepest, .*; got 'best'"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_an_expected_error_is_one_line_and_status_2(words, message, folder, capsys):
    """Nothing on stdout, no traceback, and no empty folder left behind."""
    line = refused(capsys, *words.split())

    assert re.search(message, line), line
    assert not list(folder.glob("runs/*"))


def test_a_curve_is_not_overwritten(capsys):
    """--out-dir of an earlier sweep is refused before the sweep."""
    main(["sweep", "task.py:make", "--num-iter", "12", "--out-dir", "out"])
    capsys.readouterr()

    assert "out_dir must not hold a curve yet; got out" in refused(capsys, "sweep", "task.py:make", "--out-dir", "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Expected one of {sweep, suggest, compare}"),
        ("swep digits", "Available subcommands: sweep, suggest, compare"),
        ("sweep", "TARGET"),
        ("sweep digits --num-itter 5", "Perhaps you meant:"),
        ("sweep digits --num-iter five", "invalid literal for int() with base 10: 'five'"),
        ("sweep digits --start-lr low", "needs a number, or one per parameter group"),
        ("sweep digits --step-mode log", "invalid choice 'log' for argument '--step-mode'"),
    ],
)
def test_usage_errors_are_short_and_have_status_2(words, message, capsys):
    """A word that cannot be parsed is answered in at most twelve lines, with the right spelling where that is near."""
    with pytest.raises(SystemExit) as stop:
        main(words.split())

    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert len(err.splitlines()) <= 12


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    """Only errors that tell the user what to do become one line."""
    monkeypatch.setattr("lrfind.cli.range_test", lambda *_, **__: {}["bug"])

    with pytest.raises(KeyError):
        main(["sweep", "task.py:make", "--out-dir", "out"])


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    root = Path(lrfind.__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "lrfind", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_as_a_process_it_prints_the_pick_and_exits_with_0(folder):
    """python -m lrfind in a folder of the user's own; bars go to stderr, results to stdout."""
    done = run(folder, "sweep", "task.py:make", "--start-lr", "1e-4", "--threads", "1")

    assert done.returncode == 0, done.stderr
    assert "max_lr " in done.stdout
    assert "range test" in done.stderr
    assert list(folder.glob("runs/task-*/curve.json"))


def test_as_a_process_an_error_is_one_line_and_status_2(folder):
    """No traceback, and nothing on stdout."""
    done = run(folder, "sweep", "task.py:mike")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("lrfind: task.py:mike must name a function")
