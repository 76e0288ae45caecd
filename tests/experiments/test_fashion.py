"""The Fashion-MNIST experiment: the arithmetic of epochs to an accuracy, the cache, a quick run of everything."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from experiments import fashion, fashion_runs
from experiments.fashion_runs import ADAM, AUTO, CONSTANT, COSINE, FREE, POLICIES, QUICK, Job, Kept, Outcome, Plan

PLAN = Plan(lengths=(1, 2, 4), longest=3, grid=(0.01, 0.1), peaks=(0.1,), seeds=(0, 1))


def outcome(policy, lr, epochs, seed, *accuracy, search_steps=0) -> Outcome:
    return Outcome(Job("lenet", policy.name, lr, epochs, seed), accuracy, lr, search_steps, 10, 1.0)


@pytest.fixture
def kept(tmp_path):
    """No runs yet; ``add`` puts some in."""
    kept = Kept(tmp_path, PLAN)
    kept.add = lambda *runs: kept.outcomes.update({run.job: run for run in runs})
    return kept


def test_a_planned_schedule_takes_the_shortest_length_that_ends_at_the_target(kept):
    """Per seed; with the pick's 15 steps of 10 an epoch it is one and a half epochs more."""
    for seed, ends in ((0, (0.7, 0.85, 0.9)), (1, (0.7, 0.75, 0.8))):
        for epochs, end in zip(PLAN.lengths, ends, strict=True):
            kept.add(outcome(AUTO, None, epochs, seed, end, search_steps=15))

    assert fashion.reached("lenet", PLAN, AUTO, 0.8, kept) == ((2, 4), (3.5, 5.5))
    assert fashion.reached("lenet", PLAN, AUTO, 0.9, kept) == ((4, math.inf), (5.5, math.inf))


def test_a_run_without_a_plan_takes_its_first_epoch_at_the_target(kept):
    """It may fall again afterwards."""
    kept.add(outcome(ADAM, 1e-3, 3, 0, 0.7, 0.81, 0.79), outcome(ADAM, 1e-3, 3, 1, 0.7, 0.7, 0.7))

    assert fashion.reached("lenet", PLAN, ADAM, 0.8, kept).epochs == (2, math.inf)


def test_the_first_seed_chooses_from_the_grid_and_the_others_follow(kept):
    """Of a constant lr the one that reaches the target first; its search costs the whole grid for as long."""
    kept.add(
        outcome(CONSTANT, 0.01, 3, 0, 0.70, 0.80, 0.86),
        outcome(CONSTANT, 0.1, 3, 0, 0.81, 0.82, 0.82),
        outcome(CONSTANT, 0.01, 3, 1, 0.60, 0.79, 0.87),
        outcome(CONSTANT, 0.1, 3, 1, 0.75, 0.83, 0.83),
    )
    assert fashion.reached("lenet", PLAN, CONSTANT, 0.80, kept) == ((1, 2), (2, 4))
    assert fashion.reached("lenet", PLAN, CONSTANT, 0.86, kept) == ((3, 3), (6, 6))


def test_other_seeds_are_run_only_where_the_first_was_best(kept):
    """Of a cosine grid one lr a length."""
    for epochs, (low, high) in zip(PLAN.lengths, ((0.5, 0.6), (0.7, 0.6), (0.8, 0.0)), strict=True):
        kept.add(outcome(COSINE, 0.01, epochs, 0, low), outcome(COSINE, 0.1, epochs, 0, high))

    jobs = list(fashion_runs.other_jobs("lenet", PLAN, [COSINE], kept, seed=1))

    assert [(job.lr, job.epochs) for job in jobs] == [(0.1, 1), (0.01, 2), (0.01, 4)]


def test_a_run_that_collapsed_is_counted_and_not_averaged_in():
    """A guess among runs that have learned says nothing about their spread."""
    assert fashion._spread(np.array([0.87, 0.89, 0.0])) == "88.00 ± 1.41 (1 of 3 collapsed)"
    assert fashion._spread(np.array([0.1])) == "(1 of 1 collapsed)"


def test_a_seed_counts_once_all_of_its_runs_are_there(kept):
    """Half of one would compare policies on different seeds."""
    kept.add(*(outcome(AUTO, None, epochs, seed, 0.5) for epochs in PLAN.lengths for seed in (0, 1)))
    assert fashion.complete("lenet", PLAN, [AUTO], kept).seeds == (0, 1)

    del kept.outcomes[Job("lenet", AUTO.name, None, 4, 1)]
    assert fashion.complete("lenet", PLAN, [AUTO], kept).seeds == (0,)


def test_runs_are_done_once_and_a_line_cut_short_again(tmp_path, monkeypatch):
    """A second call with the same plan finds them; one with another batch size does not."""
    done = []

    def train(job, plan):
        done.append(job)
        return Outcome(job, (0.5,), 0.1, 0, 10, 1.0)

    monkeypatch.setattr(fashion_runs, "train", train)
    jobs = list(fashion_runs.first_jobs("lenet", PLAN, [ADAM, AUTO]))
    Kept(tmp_path, PLAN).do(jobs, lambda _: None)
    Kept(tmp_path, PLAN).do(jobs, lambda _: None)
    assert done == jobs

    lines = (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "runs.jsonl").write_text("\n".join([*lines[:-1], lines[-1][:30]]) + "\n", encoding="utf-8")
    Kept(tmp_path, PLAN).do(jobs, lambda _: None)
    assert done == [*jobs, jobs[-1]]
    assert Kept(tmp_path, PLAN._replace(batch_size=64)).outcomes == {}


def test_a_longer_run_without_a_plan_answers_for_its_beginning(tmp_path):
    """With a plan it does not: its schedule was another."""
    kept = Kept(tmp_path, PLAN._replace(longest=9, lengths=(9,)))
    kept.path.parent.mkdir(exist_ok=True)
    for run in (outcome(ADAM, 1e-3, 9, 0, *[0.1] * 9), outcome(AUTO, None, 9, 0, 0.1)):
        kept.write(run)

    found = Kept(tmp_path, PLAN).outcomes

    assert found[Job("lenet", ADAM.name, 1e-3, 3, 0)].accuracy == (0.1,) * 3
    assert Job("lenet", AUTO.name, None, 4, 0) not in found


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_each_policy_trains_as_long_as_it_says(policy):
    """Two epochs of six steps, beside what a pick takes; one validation at the end of a plan, else one an epoch."""
    if policy is FREE:
        pytest.importorskip("schedulefree", reason="schedulefree, of the extra peers, is not installed")
    steps = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    lr = min(QUICK.lrs(policy))
    try:
        result = fashion_runs.train(Job("lenet", policy.name, lr, 2, 0), QUICK)
    finally:
        hook.remove()

    assert len(steps) - result.search_steps == 2 * result.steps_per_epoch == 12
    assert (result.search_steps > 0) == (policy is AUTO)
    assert len(result.accuracy) == (1 if policy.planned else 2)


def test_a_loss_that_is_not_finite_ends_the_run():
    """At accuracy 0, whatever the weights would guess."""
    assert fashion_runs.train(Job("lenet", COSINE.name, 1e8, 2, 0), QUICK).accuracy == (0.0,)


def test_the_real_images_are_a_part_of_the_training_set(data_root, monkeypatch):
    """12,000 to train on and 5,000 others, classes about equally often."""
    monkeypatch.setenv("LRFIND_DATA", str(data_root))
    split = fashion_runs.data(Plan())

    assert (split.train_x.shape, split.val_x.shape) == ((12_000, 1, 28, 28), (5_000, 1, 28, 28))
    assert split.train_y.bincount().min() > 1_000


def test_a_quick_run_writes_table_picture_and_numbers(tmp_path):
    """From the command line on."""
    fashion.main(["--quick", "--out", str(tmp_path)])

    text = (tmp_path / "fashion.md").read_text(encoding="utf-8")
    assert "command: `" in text
    assert text.count(AUTO.name) >= 6
    record = json.loads((tmp_path / "fashion.json").read_text(encoding="utf-8"))
    assert {run["job"]["net"] for run in record["runs"]} == set(fashion.NETS)
    assert (tmp_path / "fashion.png").stat().st_size > 10_000
