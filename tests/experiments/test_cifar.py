"""CIFAR-10 (JPEG): images and crops are right, a pick leaves the loader as it was, the record says what was cut."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from torch import nn

from experiments import cifar
from experiments.cifar import ACCELERATOR, CPU, QUICK, ROWS, Crops, Images, normalised, workload
from experiments.tasks.data import CIFAR_ARCHIVE, CIFAR_CLASSES


def test_the_archive_is_read_with_all_classes_among_every_ten(tmp_path, monkeypatch):
    """Images in the order of their numbers, then of their classes; train and test apart."""
    image = pytest.importorskip("PIL.Image", reason="images are decoded by pillow")
    with tarfile.open(tmp_path / CIFAR_ARCHIVE, "w:xz") as archive:
        for part, count in (("train", 3), ("test", 1)):
            for number, name in enumerate(CIFAR_CLASSES):
                for stem in range(count):
                    grey = np.full((32, 32, 3), 20 * number + 5 * stem, dtype=np.uint8)
                    file = io.BytesIO()
                    image.fromarray(grey).save(file, "JPEG", quality=95)
                    entry = tarfile.TarInfo(f"{part}/{name}/{stem:04}.jpg")
                    entry.size = file.tell()
                    file.seek(0)
                    archive.addfile(entry, file)
    monkeypatch.setenv("LRFIND_DATA", str(tmp_path))

    tensors = cifar._decoded()

    assert tensors["train_classes"].tolist() == list(range(10)) * 3
    assert tensors["test_classes"].tolist() == list(range(10))
    expected = [20 * number + 5 * stem for stem in range(3) for number in range(10)]
    assert (tensors["train_pixels"].float().mean((1, 2, 3)) - torch.tensor(expected)).abs().max() < 2


def test_crops_are_the_image_moved_by_up_to_four_pixels_or_mirrored():
    """Each is one of 2 x 81 views cut from the padded image by hand; over many batches nearly all occur."""
    one = torch.arange(32 * 32 * 3).view(1, 32, 32, 3) % 251
    crops = Crops(Images(one.to(torch.uint8), torch.zeros(1, dtype=torch.long)), 1, 0, torch.device("cpu"))
    padded = nn.functional.pad(one.permute(0, 3, 1, 2).float(), (4,) * 4, mode="reflect")
    views = {}
    for row in range(9):
        for column in range(9):
            view = padded[:, :, row : row + 32, column : column + 32]
            views[view.numpy().tobytes()] = (row, column, False)
            views[view.flip(3).contiguous().numpy().tobytes()] = (row, column, True)

    seen = set()
    for _ in range(600):
        ((pixels, _),) = list(crops)
        back = (pixels.permute(0, 2, 3, 1) * torch.tensor(cifar.SD) + torch.tensor(cifar.MEAN)).round()
        seen.add(views[back.permute(0, 3, 1, 2).contiguous().numpy().tobytes()])

    assert len(seen) > 140


def test_batches_follow_from_the_seed_and_are_channels_last():
    """The same seed, the same batches; another epoch, others; the memory format that the convolutions want."""
    first, again = (Crops(cifar.images("train", True), 20, 3, torch.device("cpu")) for _ in range(2))
    (x, y), (x2, y2) = next(iter(first)), next(iter(again))

    assert torch.equal(x, x2)
    assert torch.equal(y, y2)
    assert not torch.equal(next(iter(first))[0], x)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert len(list(first)) == len(first) == 10


def test_a_pick_leaves_the_batches_to_come_as_they_were():
    """The generator inside our own loader is put back: training after a pick equals training without one."""
    asked, untouched = (workload(0, QUICK, held_out=QUICK.held_out) for _ in range(2))
    cifar.pick_with_curve(asked, total_steps=40, method="auto", cycle=None, progress=False)

    for (x, y), (x2, y2) in zip(asked.train_loader, untouched.train_loader, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_held_out_images_are_training_images_that_are_not_trained_on():
    """The last of the training images; without a hold-out validation is on the test images."""
    work = workload(0, QUICK, held_out=QUICK.held_out)
    everything = cifar.images("train", True).first(QUICK.train)

    val = torch.cat([x for x, _ in work.val_loader])
    assert torch.equal(val, normalised(everything.pixels[-QUICK.held_out :]))
    assert len(work.train_loader.classes) == QUICK.train - QUICK.held_out
    test = torch.cat([x for x, _ in workload(0, QUICK).val_loader])
    assert torch.equal(test, normalised(cifar.images("test", True).first(QUICK.test).pixels))


def test_the_net_is_pages():
    """6.6 million parameters at width 64, as in his log; ten logits."""
    assert sum(p.numel() for p in cifar.resnet9(64).parameters()) == 6_573_120
    assert cifar.resnet9(4)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_an_accelerator_gets_the_whole_plan(monkeypatch):
    """bfloat16 and compiled where there is one; else the short plan, in bfloat16 where the CPU computes in it."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert cifar.usual_plan() == ACCELERATOR
    assert (ACCELERATOR.bfloat16, ACCELERATOR.compiled, ACCELERATOR.train) == (True, True, 50_000)

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert cifar.usual_plan() == CPU._replace(bfloat16=False)


def test_the_record_says_what_was_cut():
    """Width, images and epochs beside those of the whole plan, which says nothing of the kind."""
    assert "This is a shortened version for a CPU" in cifar.shortening(CPU)
    assert f"{CPU.train:,} training images" in cifar.shortening(CPU)
    assert "shortened" not in cifar.shortening(ACCELERATOR)


def test_a_quick_run_writes_table_numbers_and_picture(tmp_path, capsys):
    """Every row once, on random images."""
    cifar.main(["--quick", "--out", str(tmp_path)])

    text = (tmp_path / "cifar.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert text.startswith("# Random images")
    assert all(f"| {row.title} |" in text for row in ROWS)
    numbers = json.loads((tmp_path / "cifar.json").read_text(encoding="utf-8"))
    (quarter,) = numbers["runs"]["pick-quarter"]
    assert quarter["lr"] == quarter["pick"]["max_lr"] / 4
    assert (tmp_path / "cifar.png").stat().st_size > 10_000
