"""The command onecycle: plans, training of the user's own files, going on, and errors in one line."""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import lrfind
from lrfind import targets
from onecycle.cli import CycleOptions, Plan, Train, main
from onecycle.schedule import OneCycle

TASK = """
import torch
from torch import nn

import lrfind
from shapes import WIDTH

STEPS = 0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(6, WIDTH)
        self.out = nn.Linear(WIDTH, 2)

    def forward(self, features):
        return self.out(torch.relu(self.hidden(features)))


def make():
    features = torch.randn(640, 6)
    labels = (features.sum(1) > 0).long()
    batches = [{"features": x, "label": y} for x, y in zip(features.split(32), labels.split(32))]
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    accuracy = {"accuracy": lrfind.Accuracy()}
    return lrfind.Workload(
        model, optimizer, train_loader=batches[:16], val_loader=batches[16:], loss_fn=loss, metrics=accuracy
    )


def loss(model, batch):
    logits = model(batch["features"])
    return nn.functional.cross_entropy(logits, batch["label"]), logits, batch["label"]


def interrupted():
    def loss_until_ctrl_c(model, batch):
        global STEPS
        STEPS += model.training
        if STEPS == 25:
            raise KeyboardInterrupt
        return loss(model, batch)

    work = make()
    work.loss_fn = loss_until_ctrl_c
    return work


def exploding():
    work = make()
    work.loss_fn = lambda model, batch: loss(model, batch)[0] * float("nan")
    return work
"""

FILES = [
    "checkpoints",
    "command.json",
    "config.json",
    "curve.json",
    "history.jsonl",
    "range_test.png",
    "schedule.png",
    "summary.json",
    "training.png",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, outside the repository, with a task of the user's own."""
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "shapes.py").write_text("WIDTH = 16\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(targets, "_from_files", set())
    yield tmp_path
    for name in ("task", "shapes"):
        sys.modules.pop(name, None)


def train(*words: str) -> int:
    return main(["train", "task.py:make", "--no-progress", *words])


def rows(run: Path) -> list[dict[str, float]]:
    """Return every step's numbers: equal losses to the last bit, validations among them, come from equal weights."""
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


# -- plan -----------------------------------------------------------------------------------------------------


def test_plan_draws_the_schedule_and_prints_its_phases(folder, capsys):
    """schedule.png lies in the current folder; the table has the lr and momentum at the ends of each phase."""
    assert main(["plan", "--max-lr", "0.4", "--total-steps", "1000"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert (folder / "schedule.png").read_bytes().startswith(b"\x89PNG")
    assert [line.split() for line in lines[:3]] == [
        ["phase", "steps", "lr", "momentum"],
        ["warm-up", "0", "to", "299", "0.016", "to", "0.4", "0.95", "to", "0.85"],
        ["anneal-down", "299", "to", "999", "0.4", "to", "1.6e-06", "0.85", "to", "0.95"],
    ]


def test_plan_writes_every_step_on_request(folder):
    """--csv has the lr and momentum that each step trains at."""
    main(["plan", "--max-lr", "0.4", "--epochs", "3", "--steps-per-epoch", "10", "--csv", "--out-dir", "plan"])
    cycle = OneCycle(0.4, 30)

    with open(folder / "plan" / "schedule.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    assert [float(row["lr"]) for row in rows] == cycle.lrs().tolist()
    assert [float(row["momentum"]) for row in rows] == cycle.momentums().tolist()


def test_plan_of_several_groups_without_momentum(folder, capsys):
    """Peaks with commas between give a column each; a momentum that is not cycled is a dash."""
    main(["plan", "--max-lr", "0.4,0.1", "--total-steps", "20", "--no-cycle-momentum", "--csv"])

    with open(folder / "schedule.csv", newline="") as file:
        head = next(csv.reader(file))

    assert head == ["step", "lr_0", "lr_1"]
    assert capsys.readouterr().out.splitlines()[1].endswith("-")


def test_every_parameter_of_torchs_scheduler_is_a_flag():
    """In torch's words; what is left out of the shape has torch's default."""
    parameters = inspect.signature(torch.optim.lr_scheduler.OneCycleLR).parameters
    flags = {field.name for cls in (CycleOptions, Plan) for field in fields(cls)}

    assert parameters.keys() - {"optimizer", "last_epoch"} <= flags
    assert CycleOptions().cycle(0.1, 100) == OneCycle(0.1, 100)


def test_every_flag_of_the_cycle_reaches_it(folder):
    """The command with all of them gives the schedule that Python gives with all of them."""
    words = (
        "--max-lr 0.4,0.1 --total-steps 200 --pct-start 0.2 --anneal-strategy linear --base-momentum 0.7,0.6 "
        "--max-momentum 0.9 --div-factor 10 --final-div-factor 100 --three-phase --pct-flat 0.1 --csv"
    )
    main(["plan", *words.split()])
    cycle = OneCycle(
        [0.4, 0.1],
        200,
        pct_start=0.2,
        anneal_strategy="linear",
        base_momentum=[0.7, 0.6],
        max_momentum=0.9,
        div_factor=10,
        final_div_factor=100,
        three_phase=True,
        pct_flat=0.1,
    )

    with open(folder / "schedule.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    assert [float(row["lr_1"]) for row in rows] == cycle.lrs(1).tolist()
    assert [float(row["momentum"]) for row in rows] == cycle.momentums().tolist()


@pytest.mark.parametrize("preset", ["fastai", "smith"])
def test_presets_give_the_named_cycles_and_flags_go_before_them(preset):
    """--preset is OneCycle.fastai or .smith; a flag beside it replaces that one value."""
    named = getattr(OneCycle, preset)(0.1, 100)

    assert CycleOptions(preset=preset).cycle(0.1, 100) == named
    assert CycleOptions(preset=preset, div_factor=7.0).cycle(0.1, 100).initial_lr == pytest.approx(0.1 / 7)


# -- train ----------------------------------------------------------------------------------------------------


def test_a_file_outside_the_repository_is_trained(folder, capsys):
    """A model, dict batches and a loss_fn of the user's own: swept, picked, trained, validated and written."""
    assert train("--epochs", "6", "--out-dir", "run") == 0

    printed = capsys.readouterr().out.splitlines()
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert sorted(path.name for path in (folder / "run").iterdir()) == FILES
    assert summary["val_accuracy"] > 0.9
    assert printed[-2].startswith(f"finished after 96 steps: max_lr {summary['max_lr']:.3g}, val ")
    assert printed[-1] == f"In run: {', '.join(FILES)}"


def test_progress_tells_the_pick_and_a_line_per_epoch(capsys):
    """The pick with its trust range and what it rests on; lr, losses and accuracy of each epoch."""
    main(["train", "task.py:make", "--epochs", "3", "--out-dir", "run"])

    out = capsys.readouterr().out
    curve = lrfind.LRCurve.load("run/curve.json")
    assert re.search(
        r"max_lr [\d.e-]+ \([\d.e-]+ to [\d.e-]+\), rule auto: \d+ pilots of \d+ steps by validation loss", out
    )
    assert len(curve) > 10
    epochs = re.findall(r"^epoch (\d)  .*lr .*train loss .*val loss .*", out, flags=re.MULTILINE)
    assert epochs == ["1", "2", "3"]


def test_flags_of_train_reach_the_run(folder):
    """Length, peak, shape and the rest are those of the command line."""
    words = "--total-steps 40 --max-lr 0.05 --pct-start 0.5 --anneal-strategy linear --validate-every 10 "
    words += "--checkpoint-every 15 --ema-decay 0.9 --seed 3 --out-dir run"

    assert train(*words.split()) == 0

    steps = rows(folder / "run")
    cycle = OneCycle(0.05, 40, pct_start=0.5, anneal_strategy="linear")
    assert [row["lr"] for row in steps] == cycle.lrs().tolist()
    assert [row["step"] for row in steps if "val_ema_loss" in row] == [10, 20, 30, 40]
    assert not (folder / "run" / "curve.json").exists()


def test_without_out_dir_the_run_lies_in_a_new_folder(folder):
    """runs/NAME-TIME."""
    train("--total-steps", "20", "--max-lr", "0.05")

    assert len(list(folder.glob("runs/task-*/summary.json"))) == 1


def test_one_seed_gives_one_run(folder):
    """The same command twice gives the same losses; another seed others."""
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        train("--total-steps", "20", "--max-lr", "0.05", "--seed", seed, "--out-dir", name)

    assert rows(folder / "a") == rows(folder / "b") != rows(folder / "c")


def test_an_interrupted_run_says_how_to_go_on_and_ends_as_if_it_had_not_been(folder, capsys):
    """Ctrl-C in mid-run gives status 130 and the command to type; that command needs no other flag."""
    whole = "--epochs 3 --max-lr 0.05 --pct-start 0.4 --no-progress"
    main(["train", "task.py:interrupted", *whole.split(), "--out-dir", "whole"])
    assert capsys.readouterr().err == (
        "onecycle: interrupted; go on with: onecycle train task.py:interrupted --resume whole\n"
    )
    assert train(*whole.split(), "--out-dir", "undisturbed") == 0

    status = main(["train", "task.py:make", "--resume", "whole"])

    assert status == 0
    assert rows(folder / "whole") == rows(folder / "undisturbed")


def test_resume_auto_starts_or_goes_on(folder):
    """A job script that is run again and again: the first starts, the next find the run finished."""
    words = ["--resume", "auto", "--out-dir", "run", "--total-steps", "20", "--max-lr", "0.05"]

    assert train(*words) == 0
    first = rows(folder / "run")
    assert train(*words) == 0

    assert len(first) == 20
    assert rows(folder / "run") == first


def test_a_finished_run_is_extended(folder):
    """--resume extend adds a second cycle, with the flags of the first but for the length."""
    train("--epochs", "2", "--max-lr", "0.05", "--pct-start", "0.4", "--out-dir", "run")

    assert train("--resume", "extend", "--out-dir", "run", "--total-steps", "50") == 0

    assert [row["lr"] for row in rows(folder / "run")[32:]] == OneCycle(0.05, 18, pct_start=0.4).lrs().tolist()


def test_a_run_that_diverges_has_status_1(capsys):
    """The files are there, the outcome is told, and a script notices."""
    status = main(
        ["train", "task.py:exploding", "--max-lr", "0.1", "--epochs", "2", "--no-progress", "--out-dir", "run"]
    )

    assert status == 1
    assert "diverged after" in capsys.readouterr().out


def test_plot_draws_a_run_again(folder, capsys):
    """training.png is written from the history alone."""
    train("--total-steps", "20", "--max-lr", "0.05", "--out-dir", "run")
    (folder / "run" / "training.png").unlink()
    capsys.readouterr()

    assert main(["plot", "run"]) == 0

    assert (folder / "run" / "training.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{Path('run/training.png')}\n"


BAD = [
    ("plan --max-lr 0.4", r"total_steps"),
    ("plan --max-lr 0.4 --epochs 3", r"epochs and steps_per_epoch go together"),
    ("plan --max-lr -1 --total-steps 10", r"max_lr must be above 0.*got -1\.0"),
    ("plan --max-lr 0.4 --total-steps 10 --pct-start 2", r"pct_start must be in 0 \.\. 1.*got 2\.0"),
    ("plan --max-lr 0.4 --total-steps 10 --three-phase --pct-start 0.5", r"three_phase"),
    ("plan --max-lr 0.4 --total-steps 10 --out-dir task.py", r"out_dir must be a folder that can be written to"),
    ("train digit", r"TARGET must be digits, mnist or fashion-mnist"),
    ("train task.py:make --max-lr high", r"max_lr must be auto, refine, a number above 0, .*got 'high'"),
    ("train task.py:make --max-lr nan", r"max_lr must be above 0.*got nan"),
    ("train task.py:make --pct-start -1", r"pct_start must be"),
    ("train task.py:make --epochs 0", r"epochs must be a whole number of at least 1; got 0"),
    ("train task.py:make --epochs 1 --total-steps 5", r"either epochs or total_steps; got epochs=1, total_steps=5"),
    ("train task.py:make --resume auto", r"resume auto needs the folder of the run; got no --out-dir"),
    ("train task.py:make --resume no/run", r"resume must be never, auto, extend, or the folder .*got 'no/run', and no"),
    ("train task.py:make --out-dir task.py", r"out_dir must be a folder that can be written to; got task\.py"),
    ("train task.py:make --ema-decay 2 --max-lr 0.1", r"ema_decay must be above 0 and below 1; got 2\.0"),
    ("train mnist --data-root no/data", r"data_root must be an existing folder; got 'no/data'"),
    ("plot nothing", r"nothing holds no history\.jsonl"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_an_expected_error_is_one_line_and_status_2(words, message, capsys):
    """Nothing on stdout and no traceback."""
    status = main(words.split())

    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(f"^onecycle: .*{message}", err), err


def test_the_folder_of_another_run_is_refused(folder, capsys):
    """A run is neither overwritten nor gone on with by accident, and what it was begun with stays recorded."""
    train("--total-steps", "20", "--max-lr", "0.05", "--out-dir", "run")
    recorded = (folder / "run" / "command.json").read_text()
    capsys.readouterr()

    assert train("--total-steps", "30", "--max-lr", "0.05", "--out-dir", "run") == 2

    assert re.match(r'onecycle: out_dir run holds a run already\. .*resume="auto"', capsys.readouterr().err)
    assert (folder / "run" / "command.json").read_text() == recorded


def test_a_resumed_run_with_other_flags_is_refused_naming_the_difference(capsys):
    """A flag given beside --resume counts, and the run has another."""
    train("--total-steps", "20", "--max-lr", "0.05", "--out-dir", "run")
    capsys.readouterr()

    assert train("--resume", "run", "--pct-start", "0.5") == 2

    assert re.search(r"run holds another run: cycle pct_start was 0\.3 and is 0\.5", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Expected one of {plan, train, plot, report}"),
        ("train digits --epoch 5", "Perhaps you meant:"),
        ("plan --total-steps 10", "--max-lr"),
        ("train digits --on-divergence go-on", "invalid choice 'go-on'"),
    ],
)
def test_usage_errors_are_short_and_have_status_2(words, message, capsys):
    """A word that cannot be parsed is answered in at most 20 lines."""
    with pytest.raises(SystemExit) as stop:
        main(words.split())

    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert len(err.splitlines()) <= 20


def test_the_help_names_every_flag_once(capsys):
    """The record of the command's own words is no flag."""
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])

    shown = re.findall(r"^[^\w-]*(--\w[\w-]+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert stop.value.code == 0
    assert len(shown) == len(set(shown)) > 25
    assert "--words" not in shown
    assert {"--max-lr", "--resume", "--data-root", "--cycle-momentum", "--compile"} <= set(shown)
    assert "words" in {field.name for field in fields(Train)}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    root = Path(lrfind.__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "onecycle", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_as_a_process_it_trains_the_users_file(folder):
    """From any folder, with bars on stderr and results on stdout."""
    done = run(folder, "train", "task.py:make", "--epochs", "4", "--threads", "1")

    assert done.returncode == 0, done.stderr
    assert "finished after 64 steps" in done.stdout
    assert "training" in done.stderr
    assert list(folder.glob("runs/task-*/training.png"))


def test_as_a_process_an_error_is_one_line_and_status_2(folder):
    """No traceback."""
    done = run(folder, "train", "task.py:mike")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("onecycle: task.py:mike must name a function")
    assert done.stderr.count("\n") == 1
