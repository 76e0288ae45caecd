"""The grid of runs that says what a task's best max_lr is."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from experiments import oracle
from experiments.oracle import Oracle, RunResult, fingerprint, grid_lr, grid_position, run_cycle, wanted
from experiments.tasks.nets import mlp
from experiments.tasks.optimizers import adagrad, body_and_head, sgd
from experiments.tasks.task import Split, Task, task


def line_task(name: str = "line-linear-sgd-b16", steps: int = 30, **changes) -> Task:
    """A task of a few milliseconds: a linear function of four inputs."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(128, 4, generator=rng)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
    parts = {"net": lambda: mlp(4, 1), "optimizer": sgd(), "batch_size": 16, "score": "r2"} | changes
    return task(name, steps, lambda: Split(x[:64], y[:64], x[64:], y[64:]), **parts)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setattr(oracle, "CACHE", tmp_path)
    return tmp_path / "oracle"


# A run


def test_a_run_learns_and_is_found_again(cache, monkeypatch):
    """A good lr explains the line; asking again takes the kept result without training."""
    first = run_cycle(line_task(), 0.1, seed=0)
    monkeypatch.setattr(oracle, "_train", None)
    again = run_cycle(line_task(), 0.1, seed=0)

    assert first.score > 0.8
    assert again == first
    assert not first.diverged


def test_a_run_that_blows_up_stops_and_counts_as_the_constant_predictor(cache):
    """At a hopeless lr the run ends at the first loss that is not finite."""
    run = run_cycle(line_task(steps=200), 1e12, seed=0)

    assert run.steps_taken < 200
    assert run.diverged
    assert math.isnan(run.score)
    assert run.counted_score == 0.0
    assert run.counted_loss == run.initial_loss


def test_a_run_without_momentum_to_cycle(cache):
    """Adagrad has no momentum: the run goes without cycling it."""
    assert run_cycle(line_task(optimizer=adagrad()), 0.3, seed=0).score > 0.5


def test_looking_along_the_way_changes_nothing(cache):
    """With val_curve the end is the same, dropout included, and the curve ends in it."""
    dropout = line_task(net=lambda: mlp(4, 32, 1, dropout=0.3))

    plain = run_cycle(dropout, 0.05, seed=1)
    watched = run_cycle(dropout, 0.05, seed=1, val_curve=True)

    assert watched.score == plain.score
    assert len(watched.curve) == 10
    assert watched.curve[-1] == (30, plain.val_loss, plain.score)


def test_a_run_leaves_the_global_generator_alone(cache):
    """The caller's random numbers go on as if there had been no run."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run_cycle(line_task(), 0.1, seed=0)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 8},
        {"net": lambda: mlp(4, 8, 1)},
        {"optimizer": sgd(momentum=0)},
        {"criterion": nn.L1Loss()},
        {"clip": 1.0},
    ],
)
def test_another_content_has_another_fingerprint(changes):
    """A changed batch size, model, optimizer, loss or clipping is not served from the cache."""
    assert fingerprint(line_task(**changes)) != fingerprint(line_task())


def test_a_line_cut_short_is_skipped(cache):
    """A process killed while it wrote costs that run only."""
    first = run_cycle(line_task(), 0.1, seed=0)
    path = cache / "line-linear-sgd-b16.jsonl"
    path.write_text(path.read_text() + '{"key": "abc", "sco\n')

    assert run_cycle(line_task(), 0.1, seed=0) == first
    assert json.loads(path.read_text().splitlines()[0])["max_lr"] == 0.1


def test_fine_tuning_keeps_the_ratio_of_the_groups_lr():
    """The group with the largest lr peaks at max_lr, the other at its share."""
    work = line_task(net=lambda: mlp(4, 8, 1), groups=body_and_head(0.01, 0.1)).make(0)

    scheduler = oracle.one_cycle(work, max_lr=2.0, steps=10)

    assert [group["max_lr"] for group in scheduler.optimizer.param_groups] == pytest.approx([0.2, 2.0])


# The grid


def test_grid_positions_and_rates_are_inverse():
    """Four positions a decade, both ways."""
    assert [grid_position(grid_lr(k)) for k in range(-30, 10)] == list(range(-30, 10))
    assert grid_lr(4) / grid_lr(0) == pytest.approx(10)


def test_the_grid_grows_towards_the_better_end():
    """With the best at the upper end only the upper end lacks points, and both where the low end is no worse."""
    assert wanted({-2: [0.1], -1: [0.2], 0: [0.5], 1: [0.8]}, 0) == [2]
    assert wanted({-2: [0.79], -1: [0.79], 0: [0.79], 1: [0.8]}, 0) == [-3, 2]


def test_the_grid_is_complete_when_both_ends_are_clearly_worse():
    """Three points on either side and a fall of 2 points or of three sd, whichever is more."""
    scores = {k: [0.9 - 0.03 * abs(k)] * 3 for k in range(-3, 4)}
    assert wanted(scores, 0) == []

    scores[0] = [0.85, 0.9, 0.95]  # three sd are 0.15 now, more than the 0.09 that the ends are below
    assert wanted(scores, 0) == [-4, 4]


def test_a_score_that_never_falls_stops_at_the_most_points():
    """A flat task must not grow its grid for ever."""
    scores, rounds = {}, 0
    while missing := wanted(scores, 0):
        scores |= {k: [0.9] * 3 for k in missing}
        rounds += 1

    assert oracle.MOST_POINTS <= len(scores) <= oracle.MOST_POINTS + 1
    assert rounds < oracle.MOST_POINTS


def fake_run(task: Task, position: int, seed: int, score: float, val_loss: float = 1.0) -> RunResult:
    """A result as if trained."""
    return RunResult(
        task.name, grid_lr(position), seed, task.total_steps, score, val_loss, 1.0, 2.0, 0.0, task.total_steps, 0.1
    )


def test_the_oracle_reads_means_noise_and_plateau_from_the_cache(cache):
    """Best by the mean over seeds, noise as their sd there, interpolation in log lr, ends held beyond the grid."""
    line = line_task()
    scores = {-2: (0.5, 0.5, 0.5), -1: (0.8, 0.9, 1.0), 0: (0.89, 0.89, 0.89), 1: (math.nan, 0.0, -3.0)}
    for position, row in scores.items():
        for seed, score in enumerate(row):
            run = fake_run(line, position, seed, score)
            oracle._keep(line, oracle._key(line, run.max_lr, seed, run.steps, False), run)

    found = Oracle.load(line)

    assert found.best == pytest.approx((grid_lr(-1), 0.9, 0.1))
    assert found.score_at(grid_lr(0) * 10 ** (1 / 8)) == pytest.approx(0.89 / 2)
    assert found.score_at(1e-9) == pytest.approx(0.5)
    assert found.covers(grid_lr(-2))
    assert not found.covers(1e-9)
    assert found.plateau(0.02) == pytest.approx((grid_lr(-1), grid_lr(0)))
    assert found.diverged[-1].all()


def test_a_grid_that_was_not_run_is_an_error_that_names_the_command(cache):
    """Nothing is made up for a task without runs."""
    with pytest.raises(ValueError, match=r"got none from .* Run python -m experiments.oracle --tasks line-linear"):
        Oracle.load(line_task())


def test_the_whole_grid_of_a_small_task(cache, monkeypatch):
    """find_best grows the grid of a task until it is complete; a second call trains nothing."""
    line = line_task()
    monkeypatch.setattr(oracle, "TASKS", {line.name: line})

    def run_here(first, then, workers, data_root):
        jobs = list(first)
        while jobs:
            jobs += then(oracle._do(jobs.pop()))

    monkeypatch.setattr(oracle, "run_all", run_here)
    oracle.find_best([line], workers=1, data_root=None)
    found = Oracle.load(line)
    lines = len((cache / f"{line.name}.jsonl").read_text().splitlines())
    oracle.find_best([line], workers=1, data_root=None)

    assert found.best.score > 0.95
    assert found.score.mean(1)[0] < found.best.score - oracle.CLEARLY_WORSE
    assert lines == 3 * len(found.lr)
    assert len((cache / f"{line.name}.jsonl").read_text().splitlines()) == lines
    assert line.name in oracle.table([line])
