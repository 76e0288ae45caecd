"""``onecycle train`` as a process of its own, killed and resumed until it is through."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from onecycle import cli
from onecycle.checkpoint import Checkpoints, read

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which this system lacks")

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60

# A workload whose model sends a signal to its own process in the middle of a step that the environment names.
TARGET = """
import os, signal
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lrfind import Workload

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 3))
        self.steps = 0

    def forward(self, x):
        if self.training:
            self.steps += 1
            if str(self.steps) == os.environ.get("SIGNAL_AT"):
                os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
        return self.layers(x)

def make():
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(150, 6)
    data = TensorDataset(x, x[:, :3].argmax(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Workload(model, optimizer, nn.CrossEntropyLoss(), DataLoader(data, 16, shuffle=True), DataLoader(data, 64))
"""


@pytest.fixture
def target(tmp_path: Path) -> str:
    """A TARGET of the command line."""
    path = tmp_path / "target.py"
    path.write_text(TARGET)
    return f"{path}:make"


def arguments(target: str, folder: Path) -> list[str]:
    """Return the command that is given in every attempt."""
    words = ["train", target, "--total-steps", str(STEPS), "--max-lr", "0.02", "--checkpoint-every", "2"]
    return [*words, "--out-dir", str(folder), "--resume", "auto", "--no-progress"]


def in_fork(words: Sequence[str], environment: dict[str, str], kill_after: float | None = None) -> int:
    """Run the command ``onecycle`` in a fork of this process; returns its exit status, below 0 for a signal."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.environ.update(environment)
            status = cli.main(words)
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_process(words: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``python -m onecycle`` with a new interpreter."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "onecycle", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def last_checkpoint(folder: Path) -> Path:
    """Return the newest checkpoint's file."""
    return Checkpoints(folder / "checkpoints").paths()[-1]


def assert_same_end(one: Path, other: Path) -> None:
    """Compare weights, optimizer and history of two finished runs."""
    left, right = read(last_checkpoint(one)), read(last_checkpoint(other))
    assert left["step"] == right["step"] == STEPS
    weights = (record["work"]["modules"]["model"]["state"] for record in (left, right))
    assert all(map(torch.equal, *(state.values() for state in weights)))
    moments = ([entry["exp_avg"] for entry in r["work"]["optimizer"]["state"].values()] for r in (left, right))
    assert all(map(torch.equal, *moments))
    assert (one / "history.jsonl").read_text() == (other / "history.jsonl").read_text()


@pytest.fixture
def undisturbed(target: str, tmp_path: Path) -> Path:
    """The folder of a run that nothing has stopped, in this process: so it imports what the forks need."""
    folder = tmp_path / "undisturbed"
    assert cli.main(arguments(target, folder)) == 0
    return folder


def test_killed_at_20_random_steps(target: str, undisturbed: Path, tmp_path: Path):
    """SIGKILL in the middle of each of 20 steps, one attempt after the other: the same weights, bit for bit."""
    folder = tmp_path / "killed"
    steps = sorted(random.Random(4).sample(range(1, STEPS + 1), 20))
    for step in steps:
        status = in_fork(arguments(target, folder), {"SIGNAL": "SIGKILL", "SIGNAL_AT": str(step)})
        assert status == -signal.SIGKILL
        assert not (folder / "summary.json").exists()
    assert in_fork(arguments(target, folder), {}) == 0
    assert_same_end(undisturbed, folder)


def test_killed_at_any_moment(target: str, undisturbed: Path, tmp_path: Path):
    """SIGKILL after random times, also while files are being written: the same weights, bit for bit."""
    folder = tmp_path / "killed"
    moments = random.Random(5)
    for _ in range(12):
        in_fork(arguments(target, folder), {}, kill_after=moments.uniform(0.05, 0.5))
    assert in_fork(arguments(target, folder), {}) == 0
    assert_same_end(undisturbed, folder)


def test_the_real_command_survives_sigkill_and_sigterm(target: str, undisturbed: Path, tmp_path: Path):
    """A new interpreter each time; SIGTERM exits with 143, with the checkpoint of the very step it came in."""
    folder = tmp_path / "killed"
    killed = in_process(arguments(target, folder), {"SIGNAL": "SIGKILL", "SIGNAL_AT": "23"})
    assert killed.returncode == -signal.SIGKILL
    assert last_checkpoint(folder).name in ("step-00000020.pt", "step-00000022.pt")  # the last was perhaps under way
    terminated = in_process(arguments(target, folder), {"SIGNAL": "SIGTERM", "SIGNAL_AT": "41"})
    assert (terminated.returncode, terminated.stderr) == (143, "")
    assert last_checkpoint(folder).name == "step-00000041.pt"
    finished = in_process(["train", target, "--resume", str(folder)], {})
    assert finished.returncode == 0, finished.stderr
    assert_same_end(undisturbed, folder)
