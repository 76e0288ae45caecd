"""README.md: every Python block runs, every command and file that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lrfind
import onecycle
from lrfind import cli as lrfind_cli
from lrfind import console
from onecycle import cli as onecycle_cli

README = Path(__file__).resolve().parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def readers_own() -> dict[str, object]:
    """Return what a reader has: a model, an optimizer, a loss and loaders; and the imports of the first block."""
    images = torch.randn(320, 10)
    labels = (images[:, :3].sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))
    loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "criterion": nn.CrossEntropyLoss(),
        "train_loader": loader,
        "val_loader": loader,
        "dict_loader": [{"image": x, "label": y} for x, y in loader],
        "lrfind": lrfind,
        "onecycle": onecycle,
    }


def test_there_are_python_blocks():
    """Else the next test would test nothing."""
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("number", range(1, len(BLOCKS) + 1))
def test_every_python_block_runs(number):
    """With the reader's own model and loaders, and nothing else."""
    exec(compile(BLOCKS[number - 1], f"README.md, Python block {number}", "exec"), readers_own())
    plt.close("all")


def test_every_make_target_named_is_there():
    """``make demo`` and ``make test``."""
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")

    named = set(re.findall(r"^make (\w+)", TEXT, flags=re.MULTILINE))

    assert named == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


def test_every_file_linked_is_there():
    """Pictures and links inside the repository."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]

    assert "assets/range_test.png" in links
    assert all((README.parent / link).is_file() for link in links)


@pytest.mark.parametrize(
    "line",
    re.findall(r"^(?:\| `)?((?:onecycle|lrfind) (?:train|plan|plot|sweep|suggest)[^`#\n]*)", TEXT, flags=re.MULTILINE),
)
def test_every_command_named_is_understood(line):
    """Its words are parsed: the subcommand is there, and so is every flag."""
    prog, *words = line.split()
    commands = {"lrfind": lrfind_cli.Commands, "onecycle": onecycle_cli.Commands}[prog]

    console.parse(prog, "", commands, words)
