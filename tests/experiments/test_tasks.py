"""The tasks of the regret study."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from experiments.tasks import TASKS, data
from experiments.tasks.task import R2

NEEDS_NOTHING = [name for name, task in TASKS.items() if not task.needs]
RUNNABLE = [name for name, task in TASKS.items() if task.missing() is None]


def test_there_are_enough_tasks_of_either_kind():
    """At least 30 tasks to choose rules on, and at least 15 to check them."""
    halves = [task.split for task in TASKS.values()]

    assert halves.count("design") >= 30
    assert halves.count("held-out") >= 15


def test_both_halves_have_every_kind_of_optimizer_and_score():
    """No kind of optimizer and no score stands on one half only."""
    for kind in ("-sgd-", "-sgd0-", "-nesterov-", "-adam-", "-adamw-", "-rmsprop-", "-adagrad-"):
        assert {task.split for task in TASKS.values() if kind in task.name} == {"design", "held-out"}, kind
    for score in ("accuracy", "r2"):
        assert {task.split for task in TASKS.values() if task.score == score} == {"design", "held-out"}


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_task_is_made_the_same_twice_and_steps(name):
    """The same seed gives the same weights and first batch; a step has a finite loss, evaluation has the score."""
    torch.set_num_threads(1)
    task = TASKS[name]

    first, second = task.make(3), task.make(3)
    batches = [next(iter(work.batches())) for work in (first, second)]
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one, other)
    assert math.isfinite(first.step([batches[0]]).loss)
    assert task.score in first.evaluate(max_batches=1)
    assert 150 <= task.total_steps <= 1000
    assert 0 <= task.constant_score() < 0.7


@pytest.mark.parametrize("name", NEEDS_NOTHING)
def test_a_task_hands_over_its_loss_as_users_do(name):
    """As a criterion, by which a range test knows what a constant gets; as a loss_fn for a class at each position."""
    work = TASKS[name].make(0)

    positions = TASKS[name].score == "accuracy" and next(iter(work.train_loader))[-1].ndim > 1
    assert (work.criterion is None) is positions


@pytest.mark.parametrize("name", [name for name in NEEDS_NOTHING if "-finetune-" not in name])
def test_another_seed_draws_other_weights(name):
    """The seed decides the initial weights, but for those of a network that was trained before."""
    one, other = (next(TASKS[name].make(seed).model.parameters()) for seed in (0, 1))

    assert not torch.equal(one, other)


def test_a_task_whose_data_are_absent_says_so(monkeypatch, tmp_path):
    """Without a data root, and with an empty one, the reason names the data set and what to do."""
    task = TASKS["mnist-mlp-nesterov-b128"]

    monkeypatch.delenv("LRFIND_DATA", raising=False)
    assert "MNIST is read from a data root: set LRFIND_DATA" in task.missing()
    monkeypatch.setenv("LRFIND_DATA", str(tmp_path))
    assert "MNIST is not in the data root" in task.missing()


def test_kept_tensors_are_built_once(monkeypatch, tmp_path):
    """The second call reads the file that the first one wrote."""
    monkeypatch.setattr(data, "CACHE", tmp_path)
    built = []

    def build():
        built.append(1)
        return {"x": torch.arange(3)}

    assert torch.equal(data.kept("numbers", build)["x"], data.kept("numbers", build)["x"])
    assert len(built) == 1


def test_r2_agrees_with_scikit_learn():
    """One output, in two batches: scikit-learn's r2_score; several: its variance-weighted mean."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, of the extra examples, is not installed")
    rng = np.random.default_rng(0)
    for outputs in (1, 3):
        truth = rng.normal(3, 2, (50, outputs))
        guess = truth + rng.normal(size=truth.shape)
        r2 = R2()
        for part in (slice(0, 20), slice(20, None)):
            r2.update(torch.tensor(guess[part]), torch.tensor(truth[part]))

        expected = metrics.r2_score(truth, guess, multioutput="variance_weighted")
        assert r2.compute() == pytest.approx(expected)
