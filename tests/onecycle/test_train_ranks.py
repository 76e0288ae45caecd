"""Training by several processes: DDP in gloo groups of 2 and 4, against one process on the same batches."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import lrfind
import onecycle
from tests.ranks import on_ranks, results, sharded

SAMPLES, BATCH, STEPS = 96, 24, 16  # batches of all ranks together; four steps an epoch


def data(samples: int = SAMPLES) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 6, generator=generator)
    return TensorDataset(inputs, (inputs @ torch.randn(6, 3, generator=generator)).argmax(dim=1))


def workload(
    *, how: str = "ddp", dropout: float = 0.0, loader: Any = None, optimizer: str = "SGD", **settings: Any
) -> lrfind.Workload:
    """Return the same training for any number of ranks: their batches together are the same, shuffled each epoch."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3)
    )
    if dropout:  # then it is not the same for any number of ranks
        torch.manual_seed(100 + rank())
    else:
        model[1] = nn.Identity()  # batch statistics are those of a rank's own samples
    size = dist.get_world_size() if dist.is_initialized() else 1
    if size > 1:
        model = DistributedDataParallel(model) if how == "ddp" else sharded(model)
    if loader is None:
        # Of one process it deals the same order as of several.
        sampler = DistributedSampler(data(), num_replicas=size, rank=rank(), shuffle=True, seed=5)
        loader = DataLoader(data(), BATCH // size // settings.get("accumulation_steps", 1), sampler=sampler)
    step = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}[optimizer](model.parameters(), lr=0.1)
    return lrfind.Workload(model, step, nn.CrossEntropyLoss(), loader, DataLoader(data(), 32), **settings)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def whole(parameter: Any) -> torch.Tensor:
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach()


def outcome(work: lrfind.Workload, run: onecycle.Run) -> dict[str, Any]:
    return {
        "weights": np.concatenate([whole(parameter).numpy().ravel() for parameter in work.model.parameters()]),
        "loss": np.array(run.history["loss"]),
        "accuracy": run.validation["val_accuracy"],
        "max_lr": run.max_lr,
        "status": run.status,
    }


def train(settings: Mapping[str, Any], **of_work: Any) -> dict[str, Any]:
    work = workload(**of_work)
    return outcome(work, onecycle.fit(work, progress=False, **settings))


def train_with(of_work: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    return train(settings, **of_work)


@pytest.mark.parametrize(("how", "optimizer", "size"), [("ddp", "SGD", 2), ("ddp", "AdamW", 4), ("fsdp", "AdamW", 2)])
def test_ranks_end_with_the_weights_of_a_single_process(how: str, optimizer: str, size: int) -> None:
    """After a sweep and a cycle: the same on all ranks bit for bit; those of one process on the same batches to 1e-4.

    Gradients are float32 and added up in another order.
    """
    settings = {"total_steps": STEPS, "max_lr": {"SGD": 0.3, "AdamW": 0.02}[optimizer]}
    of_work = {"optimizer": optimizer, "clip_grad_norm": 0.5}
    alone = train(settings, **of_work)
    first, *others = results(size, train_with, {"how": how, **of_work}, settings)
    for other in others:
        np.testing.assert_array_equal(other["weights"], first["weights"])
        np.testing.assert_array_equal(other["loss"], first["loss"])
    np.testing.assert_allclose(first["weights"], alone["weights"], atol=1e-4)
    np.testing.assert_allclose(first["loss"], alone["loss"], rtol=1e-4)
    assert first["accuracy"] == pytest.approx(alone["accuracy"], abs=0.011)  # one sample of 96


@pytest.mark.parametrize(("how", "method"), [("ddp", "auto"), ("ddp", "refine"), ("fsdp", "auto")])
def test_ranks_pick_the_same(how: str, method: str) -> None:
    """``auto`` and ``refine``: one pick on every rank, the same weights after training with it."""
    first, second = results(2, train_with, {"how": how}, {"total_steps": 200, "max_lr": method})
    assert first["max_lr"] == second["max_lr"]
    np.testing.assert_array_equal(first["weights"], second["weights"])


def test_ranks_accumulate() -> None:
    """Two batches a step on each of two ranks: the weights of one process that takes them as one batch."""
    settings = {"epochs": 3, "max_lr": 0.3}
    first, _ = results(2, train_with, {"accumulation_steps": 2}, settings)
    np.testing.assert_allclose(first["weights"], train(settings)["weights"], atol=1e-4)


def train_on_parts(sizes: list[int]) -> dict[str, Any]:
    """Each rank holds a share of its own of 60 samples, in a single batch."""
    begin = sum(sizes[: rank()])
    inputs, targets = data(60).tensors
    part = slice(begin, begin + sizes[rank()])
    return train({"total_steps": STEPS, "max_lr": 0.3}, loader=[(inputs[part], targets[part])])


def test_a_step_is_the_mean_over_all_samples_where_ranks_have_batches_of_different_sizes() -> None:
    """40 samples on one rank and 20 on the other are trained as 60 on one: each sample counts alike."""
    alone = train({"total_steps": STEPS, "max_lr": 0.3}, loader=[data(60).tensors])
    first, second = results(2, train_on_parts, [40, 20])
    np.testing.assert_allclose(first["weights"], alone["weights"], atol=1e-4)
    np.testing.assert_allclose(first["loss"], alone["loss"], rtol=1e-4)
    np.testing.assert_array_equal(first["weights"], second["weights"])


class Stream(IterableDataset[Any]):
    """So many batches, without a length."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(rank())
        for _ in range(self.count):
            inputs = torch.randn(8, 6, generator=generator)
            yield inputs, inputs[:, :3].argmax(dim=1)


def train_unevenly(stream: bool) -> int:
    """Rank 0 has 5 batches an epoch, rank 1 has 3."""
    batches = Stream(5 - 2 * rank())
    work = workload(loader=DataLoader(batches, None) if stream else list(batches))
    return onecycle.fit(work, epochs=4, max_lr=0.1, progress=False).history.rows


@pytest.mark.parametrize("stream", [False, True])
def test_an_epoch_is_as_long_as_that_of_the_rank_with_the_fewest_batches(stream: bool) -> None:
    """Nobody waits for a rank that has no batch any more, whether or not loaders know their length."""
    assert results(2, train_unevenly, stream) == [12, 12]


def stop_early(folder: str, how: str) -> dict[str, Any]:
    work = workload(dropout=0.5, how=how, optimizer="AdamW")

    def stop(row: Mapping[str, float]) -> bool:
        return rank() == 1 and row["step"] == 6

    run = onecycle.fit(work, total_steps=STEPS, max_lr=0.02, progress=False, callbacks=[stop], out_dir=folder)
    return outcome(work, run)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_callback_on_one_rank_stops_all_and_the_run_goes_on_to_the_same_weights(how: str, tmp_path: Path) -> None:
    """Stopped by rank 1 in the middle of an epoch and resumed, with dropout: bit for bit as never stopped."""
    settings = {"total_steps": STEPS, "max_lr": 0.02}
    of_work = {"dropout": 0.5, "how": how, "optimizer": "AdamW"}
    undisturbed = results(2, train_with, of_work, settings)
    stopped = results(2, stop_early, str(tmp_path), how)
    assert [part["status"] for part in stopped] == ["stopped"] * 2
    assert len(stopped[0]["loss"]) == len(stopped[1]["loss"]) < STEPS
    resumed = results(2, train_with, of_work, settings | {"out_dir": str(tmp_path), "resume": "auto"})
    for one, other in zip(resumed, undisturbed, strict=True):
        np.testing.assert_array_equal(one["weights"], other["weights"])
        np.testing.assert_array_equal(one["loss"], other["loss"])


def end_early(folder: str) -> None:
    work = workload()

    def terminate(row: Mapping[str, float]) -> None:
        if rank() == 1 and row["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    onecycle.fit(work, total_steps=STEPS, max_lr=0.3, progress=False, callbacks=[terminate], out_dir=folder)


def test_a_sigterm_on_one_rank_ends_all_with_a_checkpoint(tmp_path: Path) -> None:
    """Both ranks leave with status 143 after one more checkpoint, from which one process can go on."""
    for raised in on_ranks(2, end_early, str(tmp_path)):
        assert isinstance(raised, SystemExit)
        assert raised.code == 143
    settings = {"total_steps": STEPS, "max_lr": 0.3}
    resumed = train(settings | {"out_dir": str(tmp_path), "resume": "auto"})
    alone = train(settings)
    np.testing.assert_allclose(resumed["weights"], alone["weights"], atol=1e-4)
    np.testing.assert_allclose(resumed["loss"], alone["loss"], rtol=1e-4)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_saved_on_four_ranks_and_resumed_on_two_gives_the_same_losses(how: str, tmp_path: Path) -> None:
    """The rest of the run, on half as many ranks with batches twice as large: losses of one process to 1e-4."""
    settings = {"total_steps": STEPS, "max_lr": 0.02, "out_dir": str(tmp_path)}
    of_work = {"how": how, "optimizer": "AdamW"}
    assert results(4, end_at, settings, 10, of_work)[0] < STEPS
    first, _ = results(2, train_with, of_work, settings | {"resume": "auto"})
    alone = train({"total_steps": STEPS, "max_lr": 0.02}, optimizer="AdamW")
    np.testing.assert_allclose(first["loss"], alone["loss"], rtol=1e-4)
    np.testing.assert_allclose(first["weights"], alone["weights"], atol=1e-4)


def end_at(settings: Mapping[str, Any], step: int, of_work: Mapping[str, Any]) -> int:
    run = onecycle.fit(workload(**of_work), progress=False, callbacks=[lambda row: row["step"] == step], **settings)
    return run.history.rows


def test_another_global_batch_is_refused(tmp_path: Path) -> None:
    """A run of two ranks is not gone on with by one whose steps hold half as many samples."""
    settings = {"total_steps": STEPS, "max_lr": 0.3, "out_dir": str(tmp_path)}
    results(2, end_at, settings, 5, {})
    loader = DataLoader(data(), BATCH // 2)
    with pytest.raises(onecycle.CheckpointError, match=r"another run: samples per step was 24 and is 12\."):
        train(settings | {"resume": "auto"}, loader=loader)


def write_and_tell(folder: str) -> tuple[list[str], str]:
    work = workload()
    with redirect_stdout(io.StringIO()) as printed:
        run = onecycle.fit(work, epochs=2, max_lr=0.3, progress=True, out_dir=folder)
    return sorted(path.name for path in run.out_dir.iterdir()), printed.getvalue()


def test_the_first_rank_alone_prints_and_writes(tmp_path: Path) -> None:
    """Each line is printed once and each row written once; both runs know the folder."""
    (first, printed), (second, nothing) = results(2, write_and_tell, str(tmp_path))
    assert first == second
    assert printed.count("epoch 1 ") == printed.count("epoch 2 ") == 1
    assert nothing == ""
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 8


def fail_to_write(folder: str) -> None:
    work = workload()

    def fill(row: Mapping[str, float]) -> None:
        if rank() == 0 and row["step"] == 6:
            raise OSError(28, "No space left on device")

    onecycle.fit(work, total_steps=STEPS, max_lr=0.3, progress=False, callbacks=[fill], out_dir=folder)


def test_an_error_on_the_first_rank_is_told_by_the_others(tmp_path: Path) -> None:
    """Rank 0 raises its own error, rank 1 one that names rank 0."""
    first, second = on_ranks(2, fail_to_write, str(tmp_path))
    assert isinstance(first, OSError)
    assert isinstance(second, lrfind.ranks.RankError)
    assert str(second).startswith("rank 0 failed: OSError: [Errno 28] No space left on device; rank 1 of 2 could not")


def average(settings: Mapping[str, Any]) -> float:
    run = onecycle.fit(workload(), progress=False, **settings)
    return run.validation["val_ema_loss"]


def test_ranks_average_weights() -> None:
    """An exponential average under DDP is that of one process."""
    settings = {"total_steps": STEPS, "max_lr": 0.3, "ema_decay": 0.8}
    first, second = results(2, average, settings)
    assert first == second
    assert first == pytest.approx(average(settings), rel=1e-4)


def diverge(how: str, folder: str) -> dict[str, Any]:
    work = workload(how=how)
    settings: dict[str, Any] = {"max_lr": 1e4, "on_divergence": "retry", "out_dir": folder}
    run = onecycle.fit(work, total_steps=200, progress=False, **settings)
    return outcome(work, run) | {"retries": len(run.retries)}


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_all_ranks_begin_again_together(how: str, tmp_path: Path) -> None:
    """A run that diverges goes back to its start with a lower peak, on every rank at the same step."""
    first, second = results(2, diverge, how, str(tmp_path))
    assert first["retries"] == second["retries"] > 0
    np.testing.assert_array_equal(first["loss"], second["loss"])
    np.testing.assert_array_equal(first["weights"], second["weights"])


def test_checkpoints_of_a_sharded_model_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    """What DDP wrote is refused by a sharded run, and named."""
    settings = {"total_steps": STEPS, "max_lr": 0.3, "out_dir": str(tmp_path)}
    results(2, end_at, settings, 5, {})
    for refused in on_ranks(2, end_at, settings | {"resume": "auto"}, 9, {"how": "fsdp"}):
        assert isinstance(refused, onecycle.CheckpointError)
        assert "holds checkpoints of a model that was not sharded, which this run cannot go on from." in str(refused)


def test_a_damaged_shard_is_passed_over_for_the_checkpoint_before_it(tmp_path: Path) -> None:
    """A part of the newest checkpoint is gone: all ranks go on from the one before, and say so."""
    settings = {"total_steps": STEPS, "max_lr": 0.3, "out_dir": str(tmp_path)}
    results(2, end_at, settings | {"checkpoint_every": 2}, 9, {"how": "fsdp"})
    newest = max((tmp_path / "checkpoints").glob("step-*.shards"))
    min(newest.glob("*.distcp")).unlink()
    for step in results(2, go_on, settings):
        assert step == STEPS


def go_on(settings: Mapping[str, Any]) -> int:
    with pytest.warns(UserWarning, match=r"is damaged or no checkpoint.* It is passed over for the one before it"):
        return onecycle.fit(workload(how="fsdp"), progress=False, resume="auto", **settings).history.rows


def test_no_average_of_sharded_weights() -> None:
    """torch makes no copy of a sharded model, so the option is refused with what to do."""
    for refused in on_ranks(2, train_with, {"how": "fsdp"}, {"total_steps": 5, "max_lr": 0.1, "ema_decay": 0.9}):
        assert isinstance(refused, ValueError)
        assert str(refused).startswith("ema_decay averages a model that each rank holds as a whole; got ema_decay=0.9")
