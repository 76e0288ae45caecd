"""The article's figures: plan and scheduler agree, disagreement is seen, and each finding is what its text says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.optim import SGD

from experiments import article
from experiments.article import FIGURES, MAX_LR


@pytest.fixture
def optimizer():
    """What makes an optimizer like the article's, on one weight: a schedule does not know the model."""
    weight = torch.zeros(1, requires_grad=True)
    return lambda: SGD([weight], lr=0.1, momentum=0.9)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_plan_and_scheduler_agree_at_every_step(figure, optimizer):
    """100 values each of lr and momentum, equal to the last bit; the peak among them."""
    values = article.agreed(figure, optimizer)

    assert len(values.lrs) == len(values.momentums) == 100
    assert max(values.lrs) == MAX_LR
    assert min(values.momentums) == 0.85


def test_a_difference_is_seen(optimizer):
    """A scheduler with other options than the plan's words say fails, naming figure and steps."""
    other = replace(FIGURES[0], options={"pct_start": 0.4})

    with pytest.raises(AssertionError, match=r"two-phases: lrs of onecycle plan and torch differ at steps \[1, 2"):
        article.agreed(other, optimizer)


def test_three_phases_are_low_for_as_long_as_the_text_says(optimizer):
    """41 of the 100 steps lie below the lr that the run began with."""
    lrs = article.agreed(FIGURES[1], optimizer).lrs

    assert sum(lr < 0.999 * lrs[0] for lr in lrs) == 41  # one more is equal but for its last bits


def test_get_lr_returns_another_value_and_writes(optimizer):
    """Half of what the optimizer uses for ExponentialLR; for OneCycleLR a momentum set by hand is overwritten."""
    found = article.get_lr_outside_step(optimizer)

    assert found.numbers["exponential"] == [0.025, 0.05]
    assert found.numbers["momentum_after"] == 0.95
    assert "please use `get_last_lr()`" in found.numbers["warnings"][0]


def test_scheduler_first_ends_above_the_minimum_or_below_zero(optimizer):
    """The last update: far above the minimum on a cosine, negative on a line; torch warns."""
    found = article.scheduler_first(optimizer)

    assert found.numbers["last_lr"]["cos"] > 100 * found.numbers["min_lr"]
    assert found.numbers["last_lr"]["linear"] < 0
    assert found.numbers["warnings"][0].startswith("Detected call of `lr_scheduler.step()` before `optimizer.step()`")


def test_verbose_is_no_argument(optimizer):
    """torch says so."""
    assert "unexpected keyword argument 'verbose'" in article.verbose_argument(optimizer).numbers["said"]


def test_long_warm_ups_never_come_down(optimizer):
    """Up to 0.5 three phases end at the minimum; above, at a good part of the peak."""
    found = article.no_third_phase(optimizer)
    ends = {float(pct): end for pct, end in found.numbers["last_lr"].items()}

    assert all(end == found.numbers["min_lr"] for pct, end in ends.items() if pct <= 0.5)
    assert all(end > 0.2 * MAX_LR for pct, end in ends.items() if pct > 0.5)
    assert "three_phase needs pct_start below 0.5" in found.numbers["refusal"]


def test_the_finder_holds_no_scheduler(optimizer):
    """No module of torch-lr-finder mentions it; it is torch's."""
    found = article.not_in_the_finder(optimizer)

    assert set(found.numbers["mentions"].values()) == {0}
    assert found.numbers["owner"] == "torch"


def test_a_quick_run_writes_text_numbers_and_pictures(tmp_path, capsys):
    """On AlexNet itself; every picture that the text shows is there."""
    pytest.importorskip("torchvision", reason="AlexNet is torchvision's")

    article.main(["--quick", "--out", str(tmp_path)])

    text = (tmp_path / "article.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {f"{figure.name}.png" for figure in FIGURES} | {"momentum.png", "never-ends.png"}
    assert all(f"]({name})" in text for name in pictures)
    numbers = json.loads((tmp_path / "article.json").read_text(encoding="utf-8"))
    assert len(numbers["schedules"]["linear"]["lrs"]) == 100
