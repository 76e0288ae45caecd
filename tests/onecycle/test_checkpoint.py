"""Checkpoints: whole or not there, read back without running code, passed over where they are damaged."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from lrfind import Workload
from onecycle import CheckpointError, checkpoint, fit
from onecycle.checkpoint import Checkpoints, read

Make = Callable[..., Workload]

pytestmark = pytest.mark.usefixtures("no_pictures")


def record(step: int) -> dict[str, Any]:
    """Return something to save, of more than one kilobyte."""
    return {"step": step, "weights": torch.arange(300) + float(step), "names": ["a", "b"], "betas": (0.9, None)}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Three saves, of steps 1 to 3."""
    made = Checkpoints(tmp_path / "checkpoints")
    made.begin(record(0))
    for step in (1, 2, 3):
        made.save(step, record(step))
    made.wait()
    return made


def names(checkpoints: Checkpoints) -> list[str]:
    """Return what lies in the folder."""
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_the_last_two_and_the_start_are_kept(checkpoints: Checkpoints):
    """Older ones go, and nothing else lies there."""
    assert names(checkpoints) == ["start.pt", "step-00000002.pt", "step-00000003.pt"]


def test_what_was_saved_is_read(checkpoints: Checkpoints):
    """Tensors bit for bit, containers with their types, no code run."""
    found = checkpoints.newest()
    assert torch.equal(found.pop("weights"), record(3)["weights"])
    assert found == {
        "format": "onecycle checkpoint",
        "version": 1,
        "step": 3,
        "names": ["a", "b"],
        "betas": (0.9, None),
    }
    assert torch.load(checkpoints.paths()[-1], weights_only=True)["step"] == 3


def test_a_run_writes_nothing_that_needs_code_to_read(make: Make, tmp_path: Path):
    """A whole checkpoint of a run, with everything on, loads with weights_only=True."""
    work = make("adam", "generator", grad_scaler=torch.amp.GradScaler("cpu", init_scale=4.0), groups=True)
    fit(work, total_steps=7, max_lr=0.01, ema_decay=0.9, out_dir=tmp_path / "run", progress=False)
    loaded = torch.load(tmp_path / "run" / "checkpoints" / "step-00000007.pt", weights_only=True)
    assert loaded["step"] == 7
    assert loaded["work"]["grad_scaler"]["scale"] == 4.0
    assert loaded["work"]["ema"]["n_averaged"] == 7


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.95, 0.9999])
def test_one_that_is_cut_short_is_passed_over(share: float, checkpoints: Checkpoints):
    """The one before it is used, and that is said."""
    last = checkpoints.paths()[-1]
    last.write_bytes(last.read_bytes()[: int(share * last.stat().st_size)])
    with pytest.warns(UserWarning, match=r"step-00000003.pt is damaged.*passed over for the one before it"):
        found = checkpoints.newest()
    assert found["step"] == 2


def test_an_altered_byte_is_noticed_wherever_it_matters(checkpoints: Checkpoints):
    """Of 200 places across the file, weights included: the content is the same, or the file is refused."""
    last = checkpoints.paths()[-1]
    whole = last.read_bytes()
    refused = 0
    for place in range(0, len(whole), len(whole) // 200):
        last.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = read(last)
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(found["weights"], record(3)["weights"])
            assert found["names"] == ["a", "b"]
    assert refused > 50
    last.write_bytes(whole)
    with zipfile.ZipFile(last) as archive:
        weights = next(info for info in archive.infolist() if info.file_size == 1200)
    altered = bytearray(whole)
    altered[weights.header_offset + 30 + 100 + weights.file_size // 2] ^= 1
    last.write_bytes(bytes(altered))
    with pytest.warns(UserWarning, match=r"is damaged: the checksum of .* is wrong"):
        assert checkpoints.newest()["step"] == 2


def test_without_steps_the_start_is_what_there_is(checkpoints: Checkpoints):
    """Damaged ones are passed over one after the other, down to the start."""
    for path in checkpoints.paths():
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"passed over"):
        assert checkpoints.newest()["step"] == 0


def test_if_none_can_be_read_that_is_an_error(checkpoints: Checkpoints):
    """A run that is there but damaged is not silently begun anew."""
    for path in checkpoints.folder.iterdir():
        path.write_bytes(b"PK")
    with (
        pytest.warns(UserWarning, match=r"passed over"),
        pytest.raises(CheckpointError, match=r"none of the 3 checkpoints in .* can be read. Bring back a copy"),
    ):
        checkpoints.newest()


def test_where_there_is_none_there_is_none(tmp_path: Path):
    """An empty folder, or none at all, holds no checkpoint."""
    assert Checkpoints(tmp_path / "nowhere").newest() is None


def test_a_file_of_another_kind_or_time_is_refused(tmp_path: Path):
    """The message says what it is not, or what to do."""
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other.pt is no checkpoint of onecycle"):
        read(tmp_path / "other.pt")
    torch.save({"format": "onecycle checkpoint", "version": 99}, tmp_path / "later.pt")
    with pytest.raises(CheckpointError, match=r"later.pt has version 99, this onecycle reads version 1. Upgrade"):
        read(tmp_path / "later.pt")
    with pytest.raises(CheckpointError, match=r"absent.pt is damaged or no checkpoint: FileNotFoundError"):
        read(tmp_path / "absent.pt")


def test_a_new_start_removes_what_lies_after_it(checkpoints: Checkpoints):
    """Begun again from step 2, the checkpoint of step 3 is one of another attempt."""
    checkpoints.begin(record(2))
    assert names(checkpoints) == ["start.pt", "step-00000002.pt"]
    assert checkpoints.start()["step"] == 2


def test_leftovers_of_a_kill_are_cleaned(make: Make, tmp_path: Path):
    """A run that goes on removes what was being written when it was killed."""
    fit(make(), total_steps=3, max_lr=0.01, out_dir=tmp_path, progress=False)
    (tmp_path / "checkpoints" / "step-00000009.partial").write_bytes(b"half")
    (tmp_path / ".summary.json.partial").write_bytes(b"half")
    fit(make(), total_steps=3, max_lr=0.01, out_dir=tmp_path, resume="auto", progress=False)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_state_that_cannot_be_read_back_is_refused_before_training(make: Make, same, tmp_path: Path):
    """Objects in the optimizer's groups would make every checkpoint useless: it is said at once."""
    work, before = make(), make()
    work.optimizer.param_groups[0]["share"] = Fraction(1, 3)
    with pytest.raises(
        CheckpointError, match=r"could not be written .* read back, because it holds fractions.Fraction;"
    ):
        fit(work, total_steps=3, max_lr=0.01, out_dir=tmp_path, progress=False)
    assert same(work, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which this system lacks")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", range(6))
def test_a_kill_between_any_two_operations_leaves_a_whole_one(
    operation: int, after: bool, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
):
    """Killed before or after each write, sync, rename and removal: the newest readable is of step 3 or 4."""
    left = [operation]

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            last = left[0] == 0
            left[0] -= 1
            if last and not after:
                os._exit(9)
            result = function(*arguments, **keywords)
            if last:
                os._exit(9)
            return result

        return call

    child = os.fork()
    if child == 0:
        for owner, name in ((torch, "save"), (os, "fsync"), (os, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))
        checkpoints.save(4, record(4))
        checkpoints.wait()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (9 if operation < 5 else 0)  # saved, synced, renamed, folder synced, one removed
    found = checkpoints.newest()
    assert torch.equal(found["weights"], record(found["step"])["weights"])
    renamed = operation > 2 or (operation == 2 and after)
    assert found["step"] == (4 if renamed else 3)


def test_a_failed_save_is_told_by_the_next(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch):
    """With the system's reason, the newest whole one, and what to do; nothing half-written stays."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        checkpoints.save(4, record(4))
        checkpoints._writer.join()
    with pytest.raises(CheckpointError, match=r"No space left on device. The newest whole one is step-00000003.pt"):
        checkpoints.save(5, record(5))
    assert names(checkpoints) == ["start.pt", "step-00000002.pt", "step-00000003.pt"]
    checkpoints.save(5, record(5))
    checkpoints.wait()
    assert checkpoints.newest()["step"] == 5


def test_training_goes_on_while_a_checkpoint_is_written(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is written are the weights of its step, however long the writing takes."""
    weights: list[torch.Tensor] = []
    work = make(val=False)
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: (time.sleep(0.05), save(*arguments)))
    fit(
        work,
        total_steps=6,
        max_lr=0.05,
        checkpoint_every=3,
        out_dir=tmp_path,
        callbacks=[lambda row: weights.append(work.model.outer.weight.detach().clone())],
        progress=False,
    )
    saved = read(tmp_path / "checkpoints" / "step-00000003.pt")["work"]["modules"]["model"]["state"]["outer.weight"]
    assert torch.equal(saved, weights[2])
    assert not torch.equal(saved, weights[3])


@pytest.mark.parametrize("left", ["start.partial", "step-00000004.partial"])
def test_what_was_being_written_when_a_run_was_killed_is_no_run(left: str, make: Make, tmp_path: Path):
    """A folder with half a checkpoint alone is as good as an empty one: a new run begins there."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.folder.mkdir()
    (checkpoints.folder / left).write_bytes(b"half of it")
    assert not checkpoints.any()
    assert fit(make(), total_steps=4, max_lr=0.05, out_dir=tmp_path, progress=False).status == "finished"
