"""README.md: every Python block runs, every command and file that it names is there; README.zh.md says the same."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import lrfind
import onecycle
from lrfind import cli as lrfind_cli
from lrfind import console
from onecycle import cli as onecycle_cli
from tests.reader import python_blocks, readers_own

README = Path(__file__).resolve().parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = python_blocks(TEXT)
CHINESE = README.with_suffix(".zh.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)


def test_there_are_python_blocks():
    """Else the next test would test nothing."""
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("number", range(1, len(BLOCKS) + 1))
def test_every_python_block_runs(number):
    """With the reader's own model and loaders, and nothing else."""
    exec(compile(BLOCKS[number - 1], f"README.md, Python block {number}", "exec"), readers_own())
    plt.close("all")


def test_the_weights_of_a_run_are_where_the_readme_says(tmp_path):
    """The line that loads a checkpoint gives a state dict of the model."""
    own = readers_own()
    work = lrfind.Workload(own["model"], own["optimizer"], own["criterion"], own["train_loader"])
    onecycle.fit(work, total_steps=2, max_lr=0.1, out_dir=tmp_path, progress=False)
    (line,) = re.findall(r"`(torch\.load\(.+?)`", TEXT)

    weights = eval(line.replace("RUN/", f"{tmp_path}/").replace("step-00000230", "step-00000002"))

    assert all(torch.equal(weights[name], value) for name, value in work.model.state_dict().items())


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


def test_the_translation_shows_the_same_code():
    """Block for block, comments too."""
    assert FENCED.findall(CHINESE) == FENCED.findall(TEXT)


@pytest.mark.parametrize(
    "pattern",
    [r"\d[\d.,]*\d|\d", r"`[^`\n]+`", r"\]\(([^)]+)\)", r"^#+ "],
    ids=["numbers", "code words", "links", "headings"],
)
def test_the_translation_says_as_much(pattern):
    """The same numbers, words of code, links and headings: what changes in one README has to change in the other."""

    def found(text: str) -> Counter[str]:
        prose = FENCED.sub("", text).replace("README.zh.md", "README.md")  # each names the other at its top
        return Counter(re.findall(pattern, prose, flags=re.MULTILINE))

    english, chinese = found(TEXT), found(CHINESE)

    assert english - chinese == Counter(), "in README.md, not in README.zh.md"
    assert chinese - english == Counter(), "in README.zh.md, not in README.md"
