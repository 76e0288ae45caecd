"""Smith's Table 2: the schedules are his, the pick sees no test image, the table says what was run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from experiments import smith_mnist
from experiments.runs import Outcome
from experiments.smith_mnist import LOG, QUICK, ROWS, TEXT, Plan, Run, inv, workload

PER_EPOCH = 118


@pytest.fixture
def mnist(data_root, monkeypatch):
    """MNIST where the experiment looks for it."""
    monkeypatch.setenv("LRFIND_DATA", str(data_root))
    pytest.importorskip("torchvision", reason="MNIST is read through torchvision")


@pytest.mark.parametrize(("shape", "end_of_fall"), [(LOG, 1e-5), (TEXT, 0.01)], ids=["log", "text"])
def test_the_cycle_is_up_in_five_epochs_and_down_in_five(shape, end_of_fall):
    """From 0.01 to 0.1 at epoch 5, down by epoch 10 (through 0.01, or to it), 1e-5 at the end; momentum opposite."""
    cycle = replace(shape, max_lr=0.1, total_steps=12 * PER_EPOCH)
    at = [0, 5 * PER_EPOCH - 1, 10 * PER_EPOCH - 1, 12 * PER_EPOCH - 1]

    assert [cycle.lr(step) for step in at] == pytest.approx([0.01, 0.1, end_of_fall, 1e-5], abs=2e-4)
    assert [cycle.momentum(step) for step in at] == pytest.approx([0.95, 0.80, 0.95, 0.95], abs=1e-3)


def test_inv_is_caffes():
    """lr = 0.01 (1 + 1e-4 step)^-0.75: Caffe's own solver prints 0.00594604 at its last step, 10,000."""
    assert 0.01 * inv(10_000) == pytest.approx(0.00594604, abs=1e-8)


def outcome(epochs: int, accuracy: float) -> Outcome:
    at = tuple(float(epoch) for epoch in range(1, epochs + 1))
    return Outcome("finished", at, (0.1,) * epochs, (accuracy / 2,) * (epochs - 1) + (accuracy,), 1.0, 1.0)


def found(inv_epochs: int) -> dict[str, list[Run]]:
    runs = {row.name: [] for row in ROWS}
    runs["his-range"] = [Run(seed, 0.1, None, outcome(12, value)) for seed, value in enumerate((0.991, 0.993))]
    runs["inv"] = [Run(0, 0.01, None, outcome(inv_epochs, 0.99))]
    return runs


def test_the_table_gives_mean_and_deviation_over_seeds_at_the_end():
    """Of the last epoch, and of each seed; rows without runs are left out."""
    first, *others = smith_mnist.lines(found(85), Plan())

    assert first[1:] == ["0.1", "12", "**99.20 ± 0.14**", "99.10 99.30", "99.25 ± 0.03"]
    assert [cells[2] for cells in others] == ["12", "85"]


def test_a_baseline_that_was_stopped_says_so():
    """How many epochs it has had, of how many."""
    *_, last = smith_mnist.lines(found(31), Plan())

    assert last[2] == "31, stopped on the way to 85"


def test_a_pick_sees_no_test_image_and_trains_on_none_that_it_validates_with(mnist):
    """Held-out images are training images, and no batch holds one."""
    work = workload(0, QUICK, smith_mnist.HELD_OUT)
    x, *_ = smith_mnist.split(smith_mnist.HELD_OUT)
    (val,) = [images for images, _ in work.val_loader]
    trained = torch.cat([images for images, _ in work.train_loader])

    assert len(x) == 55_000
    assert len(trained) == QUICK.train - QUICK.train // 10
    assert not (val.flatten(1)[:, None] == trained.flatten(1)[None]).all(2).any()
    test_images = smith_mnist.split(0).val_x
    assert not any((test_images == image).flatten(1).all(1).any() for image in val[:5])


def test_biases_learn_at_twice_the_rate_throughout_a_cycle(mnist):
    """As in Caffe's example: a peak for the biases of twice that of the weights."""
    work = workload(0, QUICK)
    scheduler = replace(LOG, max_lr=0.2, total_steps=20).scheduler(work.optimizer)

    assert [group["max_lr"] for group in scheduler.optimizer.param_groups] == [0.1, 0.2]
    assert {p.ndim for p in work.optimizer.param_groups[1]["params"]} == {1}


def test_a_quick_run_writes_table_numbers_and_picture(mnist, tmp_path, capsys):
    """640 images, every row once."""
    smith_mnist.main(["--quick", "--out", str(tmp_path)])

    text = (tmp_path / "smith_mnist.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert all(f"| {row.title} |" in text for row in ROWS)
    numbers = json.loads((tmp_path / "smith_mnist.json").read_text(encoding="utf-8"))
    (picked,) = numbers["runs"]["our-pick"]
    assert picked["max_lr"] == picked["pick"]["max_lr"]
    assert (tmp_path / "smith_mnist.png").stat().st_size > 10_000


def test_without_data_it_says_what_to_set(monkeypatch, capsys):
    """The environment variable, by name."""
    monkeypatch.delenv("LRFIND_DATA", raising=False)
    with pytest.raises(SystemExit):
        smith_mnist.main([])

    assert "set LRFIND_DATA" in capsys.readouterr().err
