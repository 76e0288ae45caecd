"""Bad input and faults: a clear error, the last checkpoint readable, the model usable."""

from __future__ import annotations

import gc
import math
import os
import shutil
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lrfind import LRCurve, NoSuggestion, Workload
from onecycle import CheckpointError, fit, load_history
from onecycle.checkpoint import Checkpoints

Make = Callable[..., Workload]

pytestmark = pytest.mark.usefixtures("no_pictures")


def train(work: Workload, **settings: Any) -> Any:
    """Train for 20 steps, four passes less four steps, with the seed set."""
    torch.manual_seed(7)
    return fit(work, **{"total_steps": 20, "max_lr": 0.05, "progress": False, **settings})


def assert_sound(work: Workload, folder: Path, step: int) -> None:
    """Check that the newest checkpoint is readable and of that step, and that the model still trains and predicts."""
    assert Checkpoints(folder / "checkpoints").newest()["step"] == step
    assert work.model.training
    assert all(p.isfinite().all() for p in work.model.parameters())
    result = work.step([(torch.randn(8, 6), torch.randint(0, 3, (8,)))])
    assert result.loss.isfinite()


class _Empty:
    """A validation loader without length that yields nothing."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Raises:
    """A metric with a fault in one of its methods."""

    def __init__(self, where: str) -> None:
        self.where = where

    def reset(self) -> None:
        pass

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if self.where == "update":
            raise ZeroDivisionError("in update")

    def compute(self) -> Any:
        if self.where == "compute":
            raise ZeroDivisionError("in compute")
        return "very good" if self.where == "result" else 1.0


def _broken_validation(kind: str, make: Make) -> Workload:
    work = make(metrics={"broken": _Raises(kind)})
    if kind == "empty":
        work.val_loader = _Empty()
    return work


BROKEN = [
    ("empty", ValueError, r"val_loader must yield at least one batch; got none from <.*_Empty"),
    ("update", ZeroDivisionError, r"in update"),
    ("compute", ZeroDivisionError, r"in compute"),
    ("result", ValueError, r"could not convert string to float: 'very good'"),
]


@pytest.mark.parametrize(("kind", "error", "message"), BROKEN, ids=[kind for kind, *_ in BROKEN])
def test_a_validation_that_fails_costs_no_step(
    kind: str, error: type[Exception], message: str, make: Make, same: Callable[..., bool], tmp_path: Path
):
    """The step before it is saved, and a run with the fault mended ends as one that never had it."""
    work = _broken_validation(kind, make)
    with pytest.raises(error, match=message):
        train(work, out_dir=tmp_path)
    assert_sound(work, tmp_path, 6)
    mended, undisturbed = make(metrics={}), make(metrics={})
    run = train(mended, out_dir=tmp_path, resume="auto")
    expected = train(undisturbed)
    assert same(mended, undisturbed)
    assert run.history["val_loss"][5] == expected.history["val_loss"][5]


def _mount(folder: Path, options: str) -> None:
    mount = shutil.which("mount")
    if mount is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root and mount, for a file system of its own")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr.decode().strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small file system with the options given; it is unmounted at the end."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(options: str) -> Path:
        _mount(folder, options)
        return folder

    yield mounted
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)


def _big_work() -> Workload:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 3))
    x = torch.randn(96, 6)
    batches = list(zip(x.split(16), (x.argmax(1) % 3).split(16), strict=True))
    return Workload(model, torch.optim.SGD(model.parameters(), 0.1, 0.9), nn.CrossEntropyLoss(), batches)


@pytest.mark.parametrize(("size", "left"), [("300k", None), ("900k", 0), ("2600k", 4)])
def test_a_full_disk(size: str, left: int | None, disk: Callable[[str], Path], tmp_path: Path):
    """On a real file system that fills up at the start, the first or the third checkpoint: said, and none is lost."""
    folder = disk(f"size={size}")
    work = _big_work()
    whole = "none" if left is None else "start.pt" if left == 0 else f"step-{left:08d}.pt"
    message = rf"could not be written to .*checkpoints: \[Errno 28\] No space left.* newest whole one is {whole}. Mend"
    with pytest.raises(CheckpointError, match=message):
        fit(work, total_steps=60, max_lr=0.05, out_dir=folder / "run", checkpoint_every=2, progress=False)
    assert not list(folder.rglob("*.partial"))
    assert work.step([(torch.randn(8, 6), torch.randint(0, 3, (8,)))]).loss.isfinite()
    if left is None:
        return
    assert Checkpoints(folder / "run" / "checkpoints").newest()["step"] == left
    shutil.copytree(folder / "run", tmp_path / "larger")
    resumed, undisturbed = _big_work(), _big_work()
    fit(resumed, total_steps=60, max_lr=0.05, out_dir=tmp_path / "larger", resume="auto", progress=False)
    fit(undisturbed, total_steps=60, max_lr=0.05, progress=False)
    assert all(map(torch.equal, resumed.model.parameters(), undisturbed.model.parameters()))


def test_a_disk_too_full_for_the_history(disk: Callable[[str], Path], make: Make):
    """Rows that find no room are an error with its reason, not a silent gap."""
    folder = disk("size=160k")
    fit(make(val=False), total_steps=2, max_lr=0.01, out_dir=folder / "run", progress=False)
    (folder / "rest").write_bytes(bytes(shutil.disk_usage(folder).free))
    with pytest.raises(CheckpointError, match=r"could not be written to .*No space left on device.*resume=\"auto\""):
        fit(
            make(val=False),
            total_steps=40,
            max_lr=0.01,
            out_dir=folder / "run",
            resume="extend",
            checkpoint_every=10,
            progress=False,
        )
    assert Checkpoints(folder / "run" / "checkpoints").newest()["step"] == 2


def test_a_folder_that_cannot_be_written_to(disk: Callable[[str], Path], make: Make, same: Callable[..., bool]):
    """A file system that is mounted read-only is named before any step."""
    folder = disk("size=1m,ro")
    work, before = make(), make()
    with pytest.raises(CheckpointError, match=r"out_dir must be a folder that can be written to; got .*Read-only file"):
        train(work, out_dir=folder)
    assert same(work, before)


def test_a_folder_below_a_file(make: Make, same: Callable[..., bool], tmp_path: Path):
    """So is a path that cannot be a folder."""
    (tmp_path / "file").touch()
    work, before = make(), make()
    for where in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=r"out_dir must be a folder that can be written to; got"):
            train(work, out_dir=where)
    assert same(work, before)


def test_a_folder_that_holds_a_run_is_not_written_over(make: Make, tmp_path: Path):
    """Nothing of it changes."""
    train(make(), out_dir=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"holds a run already. Go on with it by resume=\"auto\", or choose"):
        train(make(), out_dir=tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_run_without_its_checkpoints_is_not_begun_anew(make: Make, tmp_path: Path):
    """What is left of it would be written over."""
    train(make(), out_dir=tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"holds a run whose checkpoints are gone, so it cannot go on"):
        train(make(), out_dir=tmp_path, resume="auto")


def test_nothing_to_extend(make: Make, tmp_path: Path):
    """An empty folder holds no run that could be extended."""
    with pytest.raises(CheckpointError, match=r"resume=\"extend\" needs a finished run; .* holds no checkpoint"):
        train(make(), out_dir=tmp_path, resume="extend")


def _nan_targets() -> Workload:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    batches = [(torch.randn(8, 4), torch.full((8, 1), math.nan)) for _ in range(5)]
    return Workload(model, torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss(), batches)


def test_targets_that_are_no_numbers(tmp_path: Path):
    """The run ends with the weights it began with, and says why; a range test finds nothing to suggest."""
    work, before = _nan_targets(), _nan_targets()
    run = train(work, out_dir=tmp_path)
    assert run.status == "diverged"
    assert run.notes == (
        "max_lr 0.05 failed at step 3: the loss is not finite any more. Stopped, with the weights of step 0; "
        "try max_lr=0.0167.",
    )
    assert torch.equal(work.model.weight, before.model.weight)
    assert all(map(math.isnan, load_history(tmp_path)["loss"]))
    with pytest.raises(NoSuggestion, match=r"losses are not finite from the first step on"):
        train(_nan_targets(), max_lr="auto")


def test_the_curve_behind_no_pick_is_kept(tmp_path: Path):
    """Where ``auto`` finds nothing the range test lies in the folder to look at, which is free for another try."""
    with pytest.raises(NoSuggestion, match=r"losses are not finite from the first step on") as refused:
        train(_nan_targets(), max_lr="auto", out_dir=tmp_path)
    assert LRCurve.load(tmp_path / "curve.json").status == refused.value.curve.status == "non-finite"
    assert train(_nan_targets(), out_dir=tmp_path).status == "diverged"


class _Dies(Dataset[tuple[Tensor, Tensor]]):
    """A dataset of which one sample ends the process that reads it."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == self.at:
            os._exit(1)
        return torch.full((6,), index / 96), torch.tensor(index % 3)


def _loses_a_worker(work: Workload, folder: Path) -> None:
    # One batch at a time: one that waits in the queue when its worker dies is lost with another error than torch's.
    work.train_loader = DataLoader(_Dies(70), 8, num_workers=1, prefetch_factor=1)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.* exited unexpectedly"):
        train(work, out_dir=folder, checkpoint_every=2)
    gc.collect()  # the loader's iterator, and with it what the handler watches
    assert_sound(work, folder, Checkpoints(folder / "checkpoints").newest()["step"])


def _in_a_child(check: Callable[..., None], *arguments: Any) -> int:
    """Return the exit status of a process that makes the check: 0 where it holds."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            check(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which this system lacks")
def test_a_worker_that_dies(make: Make, same: Callable[..., bool], tmp_path: Path):
    """torch's error comes through, and the run can go on from its last checkpoint."""
    mended, undisturbed = make(val=False), make(val=False)
    # In a process of its own: torch raises its error in a signal handler, wherever the process is then, in the test
    # runner too.
    assert _in_a_child(_loses_a_worker, make(val=False), tmp_path) == 0
    assert 0 < Checkpoints(tmp_path / "checkpoints").newest()["step"] <= 8
    mended.train_loader = undisturbed.train_loader = DataLoader(_Dies(None), 8, num_workers=2)
    train(mended, out_dir=tmp_path, resume="auto")
    train(undisturbed)
    assert same(mended, undisturbed)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_an_error_in_the_middle(error: type[BaseException], make: Make, same: Callable[..., bool], tmp_path: Path):
    """Ctrl-C, or an error in a callback, comes through as it is, and the run can go on."""
    work = make()

    def fails(row: Any) -> None:
        if row["step"] == 9:
            raise error("in step 9")

    with pytest.raises(error, match=r"in step 9"):
        train(work, out_dir=tmp_path, callbacks=[fails], checkpoint_every=4)
    assert_sound(work, tmp_path, 8)
    assert load_history(tmp_path).rows == 9
    resumed, undisturbed = make(), make()
    train(resumed, out_dir=tmp_path, resume="auto")
    train(undisturbed)
    assert same(resumed, undisturbed)


def test_sigterm_writes_one_more_checkpoint(make: Make, same: Callable[..., bool], tmp_path: Path):
    """The process is asked to end: the step is finished, saved, and the exit status is 143."""
    former = signal.getsignal(signal.SIGTERM)

    def asks(row: Any) -> None:
        if row["step"] == 9:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as exit_:
        train(make(), out_dir=tmp_path, callbacks=[asks])
    assert exit_.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is former
    assert Checkpoints(tmp_path / "checkpoints").newest()["step"] == 10  # the row of 9 is seen once 10 is on its way
    resumed, undisturbed = make(), make()
    train(resumed, out_dir=tmp_path, resume="auto")
    train(undisturbed)
    assert same(resumed, undisturbed)


def test_sigterm_at_the_very_end_is_obeyed_too(make: Make, tmp_path: Path):
    """During the last row there is nothing left to save; the run is written, and the process ends as asked."""

    def asks(row: Any) -> None:
        if row["step"] == 20:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as exit_:
        train(make(), out_dir=tmp_path, callbacks=[asks])
    assert exit_.value.code == 143
    assert (tmp_path / "summary.json").exists()


def test_without_a_folder_sigterm_is_left_alone(make: Make):
    """There is nothing to save it to."""
    former = signal.getsignal(signal.SIGTERM)
    seen = []
    train(make(), callbacks=[lambda row: seen.append(signal.getsignal(signal.SIGTERM) is former)])
    assert all(seen)
