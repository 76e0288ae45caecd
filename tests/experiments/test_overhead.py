"""The overhead experiment: whom it times, what it makes of the times, that its record can be written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from experiments import overhead
from experiments.contestants import SWEEPS, Contestant, Setup
from experiments.machine import as_markdown, describe
from experiments.overhead import Case, Timing


def tiny() -> Setup:
    """Eight samples."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    data = TensorDataset(torch.randn(8, 3), torch.randint(0, 2, (8,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Setup(model, optimizer, nn.CrossEntropyLoss(), DataLoader(data, 4, shuffle=True))


CASE = Case("tiny", "tiny", tiny, SWEEPS[:4], {"lrfind.range_test": 1.5}, steps=12)


@pytest.mark.parametrize("contestant", SWEEPS[:4], ids=lambda contestant: contestant.name)
def test_every_contestant_takes_all_of_its_steps(contestant):
    """The same 12 optimizer steps each, or a time would compare different work."""
    setup, steps = tiny(), []
    setup.optimizer.register_step_post_hook(lambda *_: steps.append(1))

    with overhead._quiet():
        contestant.prepare(setup, 12)()

    assert len(steps) == 12


def test_ratios_are_taken_within_a_round():
    """A machine that is twice as slow in one round does not show; a median round does, with its extremes."""
    timings = {
        "hand-written loop": [Timing(1.0, 1.0), Timing(2.0, 2.0), Timing(1.0, 1.0)],
        "lrfind.range_test": [Timing(0.5, 0.4), Timing(1.0, 0.8), Timing(0.8, 0.4)],
    }
    first, second = overhead.rows(CASE, timings)

    assert (first.ratio, first.least, first.most) == (1.0, 1.0, 1.0)
    assert (second.ratio, second.least, second.most, second.cpu_ratio) == (0.5, 0.5, 0.8, 0.4)
    assert second.ms_per_step == pytest.approx(0.8 / 12 * 1e3)
    assert second.limit == 1.5


def test_who_is_not_installed_is_left_out():
    """A package that is missing costs its row, not the experiment."""
    missing = Contestant("nobody", SWEEPS[0].prepare, "no-such-package", "no_such_module")
    case = replace(CASE, contestants=(SWEEPS[0], missing))

    assert list(overhead.in_turn(case, 2, lambda _: None)) == ["hand-written loop"]


def test_the_record_is_written(tmp_path, monkeypatch, capsys):
    """Table, numbers and picture, from the command line on."""
    monkeypatch.setattr(overhead, "CASES", (CASE,))
    monkeypatch.setattr(overhead, "memory", lambda _: [overhead.Memory("lrfind.range_test", 216.0, 0.0, 1.0)])
    overhead.main(["--runs", "5", "--out", str(tmp_path)])

    text = (tmp_path / "overhead.md").read_text(encoding="utf-8")
    assert "| lrfind.range_test | 216 | 1.00 | 0 |" in text
    assert "## tiny, 12 steps" in text
    assert text in capsys.readouterr().out
    record = json.loads((tmp_path / "overhead.json").read_text(encoding="utf-8"))
    assert [len(seconds) for seconds in record["seconds"]["tiny"].values()] == [5] * 4
    assert (tmp_path / "overhead.png").stat().st_size > 1000


def test_few_runs_are_refused(capsys):
    """A median of fewer than 5 is not reported."""
    with pytest.raises(SystemExit):
        overhead.main(["--runs", "3"])

    assert "--runs must be at least 5; got 3" in capsys.readouterr().err


def test_memory_counts_the_copy_that_a_sweep_makes(monkeypatch):
    """In one process, by the sizes of tensors: something is measured, and it is a number."""
    monkeypatch.setattr(overhead, "large", tiny)
    measured = overhead.memory_of(SWEEPS[1])

    assert set(measured) == {"peak", "left", "copies"}
    assert measured["peak"] >= 0


def test_a_record_begins_with_the_machine():
    """Processor, versions and command; packages that are missing are said to be."""
    facts = describe(["torch-lr-finder", "no-such-package"])

    assert facts["versions"]["no-such-package"] == "not installed"
    assert f"torch {torch.__version__.split('+')[0]}" in as_markdown(facts)
    assert str(Path.cwd()) not in as_markdown({key: facts[key] for key in facts if key != "command"})
