"""Runs that experiments keep: what is validated when, a run that is stopped and goes on, the cache."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from experiments import runs
from experiments.runs import Outcome, by_cycle, by_rates, kept, kept_run, so_far, temporary_cache
from lrfind.workload import Workload
from onecycle import OneCycle


def workload(lr: float = 0.1) -> Workload:
    """A linear model on 40 points of two classes, always the same, four steps an epoch."""
    torch.manual_seed(0)
    x = torch.randn(40, 2)
    data = TensorDataset(x, (x.sum(1) > 0).long())
    model = nn.Linear(2, 2)
    order = torch.Generator().manual_seed(0)
    return Workload(
        model,
        torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
        nn.CrossEntropyLoss(),
        DataLoader(data, 10, shuffle=True, generator=order),
        DataLoader(data, 40),
    )


@pytest.fixture
def cache():
    """An empty cache."""
    with temporary_cache():
        yield runs.CACHE


def test_a_cycle_is_validated_after_each_epoch():
    """Three epochs, three validations, of which the last is the end."""
    outcome = by_cycle(workload(), OneCycle(0.3), 3)

    assert outcome.status == "finished"
    assert outcome.epochs == (1.0, 2.0, 3.0)
    assert outcome.last_accuracy == 100 * outcome.accuracy[-1] > 50
    assert len(outcome.loss) == 3


def test_rates_follow_the_factor_and_momentum_stays():
    """Each optimizer step is taken at the group's own rate times factor(step)."""
    work, used = workload(), []
    work.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
    )

    by_rates(work, lambda step: 1 / (1 + step), 2)

    assert used == [(0.1 * (1 / (1 + step)), 0.9) for step in range(8)]


class PulledError(Exception):
    """Somebody pulls the plug."""


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    """PulledError in the third epoch and begun again: validations equal to the last bit, and the file is gone."""
    state = tmp_path / "run.pt"

    def falling(step: int) -> float:
        return 0.9**step

    def until_the_third_epoch(step: int) -> float:
        if step == 10:
            raise PulledError
        return falling(step)

    whole = by_rates(workload(), falling, 4)
    with pytest.raises(PulledError):
        by_rates(workload(), until_the_third_epoch, 4, state)
    begun = so_far(state)
    resumed = by_rates(workload(), falling, 4, state)

    assert begun is not None
    assert (begun.status, begun.loss) == ("under way", whole.loss[:2])
    assert (resumed.epochs, resumed.loss, resumed.accuracy) == (whole.epochs, whole.loss, whole.accuracy)
    assert so_far(state) is None


def test_a_run_whose_loss_is_no_number_has_diverged():
    """It ends there, and counts as a guess among ten classes."""
    outcome = by_rates(workload(), lambda step: math.inf if step else 1.0, 3)

    assert (outcome.status, outcome.epochs, outcome.last_accuracy) == ("diverged", (), 10.0)


def test_what_is_kept_is_built_once_per_settings(cache):
    """Twice the same settings: built once; others: built anew, and the first is still there."""
    built = []

    def build(value):
        built.append(value)
        return {"value": value}

    for value in (1, 1, 2, 1):
        assert kept("trial", "run", {"value": value}, lambda value=value: build(value)) == {"value": value}

    assert built == [1, 2]


def test_a_kept_run_is_what_was_run(cache):
    """From the cache comes an equal outcome; where nothing is to be trained, what is missing is said to be."""
    outcome = Outcome("finished", (1.0,), (0.5,), (0.9,), 2.0, 3.0)

    with pytest.raises(LookupError, match="not in the cache"):
        kept_run("trial", "run", {}, runs.absent)
    assert kept_run("trial", "run", {}, lambda: outcome) == outcome
    assert kept_run("trial", "run", {}, runs.absent) == outcome


def test_a_temporary_cache_leaves_nothing():
    """Afterwards the usual one is back and the folder is gone, also after an error."""
    usual, inside = runs.CACHE, []

    @temporary_cache()
    def pull_the_plug():
        inside.append(runs.CACHE)
        raise PulledError

    with pytest.raises(PulledError):
        pull_the_plug()

    assert usual == runs.CACHE != inside[0]
    assert not inside[0].exists()
