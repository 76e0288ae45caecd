"""The command under ``torchrun``: several ranks act as one, and a rank that is killed comes back."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from onecycle.checkpoint import read

JOB = """
import os, pathlib, signal, torch, lrfind
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
import torch.distributed as dist

KILL_AT = {kill_at}
FLAG = pathlib.Path(__file__).with_name("killed")

class Loss:
    calls = 0

    def __call__(self, model, batch):
        inputs, targets = batch
        self.calls += model.training
        if self.calls == KILL_AT and dist.get_rank() == 1 and not FLAG.exists():
            FLAG.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(model(inputs), targets)

def make(seed=0):
    inputs = torch.randn(96, 6)
    data = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    sampler = DistributedSampler(data, seed=seed) if {shared} else None
    return lrfind.Workload(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        train_loader=DataLoader(data, 12, sampler=sampler),
        val_loader=DataLoader(data, 96),
        loss_fn=Loss(),
    )
"""


def torchrun(
    folder: Path, *words: str, kill_at: int = -1, shared: bool = True, restarts: int = 2
) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder`` by two ranks, on a job of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(JOB.format(kill_at=kill_at, shared=shared))
    return launch(folder, "-m", "onecycle.cli", *words, restarts=restarts)


def launch(folder: Path, *words: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Have torchrun start two ranks in ``folder``."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    options = ("--max-restarts", str(restarts), "--monitor-interval", "0.2")
    return subprocess.run(
        [*torchrun, *options, *words],
        cwd=folder,
        env={"PATH": "", "HOME": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_the_guide_runs(tmp_path: Path) -> None:
    """Both files of the guide to many processes, by two ranks, as it says."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "distributed.md").read_text(encoding="utf-8")
    files = dict(re.findall(r'^```py title="(.*?)"\n(.*?)^```', page, flags=re.MULTILINE | re.DOTALL))
    assert set(files) == {"job.py", "train.py"}
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    trained = launch(tmp_path, "train.py")
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "runs" / "many" / "summary.json").exists()
    swept = launch(tmp_path, "-m", "lrfind.cli", "sweep", "job.py:make")
    assert swept.returncode == 0, swept.stderr
    assert swept.stdout.count("max_lr") == 1


def final(folder: Path) -> dict[str, Any]:
    """Return the last checkpoint of the only run in ``folder``."""
    return read(max((folder / "runs").glob("*/checkpoints/step-*.pt")))


@pytest.mark.parametrize("kill_at", [30, 17])
def test_a_rank_that_is_killed_comes_back_and_the_run_ends_as_if_undisturbed(kill_at: int, tmp_path: Path) -> None:
    """``kill -9`` of one rank of two in the middle of a run: restarted by torchrun, the same weights bit for bit."""
    words = ("train", "job.py:make", "--epochs", "10", "--max-lr", "0.2", "--checkpoint-every", "3")
    undisturbed = torchrun(tmp_path / "undisturbed", *words)
    assert undisturbed.returncode == 0, undisturbed.stderr
    killed = torchrun(tmp_path / "killed", *words, kill_at=kill_at)
    assert killed.returncode == 0, killed.stderr
    assert (tmp_path / "killed" / "killed").exists()
    assert "Going on from step" in killed.stdout
    one, other = final(tmp_path / "killed"), final(tmp_path / "undisturbed")
    assert one["step"] == other["step"] == 40
    for name, weights in other["work"]["modules"]["model"]["state"].items():
        assert torch.equal(one["work"]["modules"]["model"]["state"][name], weights), name


def test_two_ranks_speak_once(tmp_path: Path) -> None:
    """Sweep, pick and training with nothing configured; each line is there once, and one folder."""
    done = torchrun(tmp_path, "train", "job.py:make", "--epochs", "20")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished after 160 steps") == 0  # 96 samples by 2 ranks in batches of 12
    assert done.stdout.count("finished after 80 steps") == 1
    assert done.stdout.count("max_lr ") == 2  # the pick, and the outcome
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_loader_that_gives_both_the_same_is_refused_in_one_line(tmp_path: Path) -> None:
    """The remedy is in the only line that the command prints."""
    refused = torchrun(tmp_path, "train", "job.py:make", shared=False, restarts=0)
    assert refused.returncode != 0
    lines = [line for line in refused.stderr.splitlines() if line.startswith("onecycle: ")]
    assert len(set(lines)) == 1
    assert lines[0].startswith("onecycle: train_loader must give each rank data of its own; got the same batches on")
    assert "DistributedSampler" in lines[0]
