"""The regret study: the arithmetic of regret, the cache of answers, and a quick run from one end to the other."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments import judged as arithmetic
from experiments import oracle, picks, record, regret
from experiments.judged import Judged, bootstrap, coverage, judge, summarize
from experiments.oracle import Oracle
from experiments.picks import ROWS, Answer, Row, Said
from experiments.record import as_json, restore, task_record
from experiments.tasks import TASKS
from lrfind import NoSuggestion

TASK = TASKS["spirals-mlp-sgd0-b32"]
SCORES = st.lists(st.floats(0, 1), min_size=5, max_size=5)


def grid(scores: list[float], losses: list[float] | None = None) -> Oracle:
    """Five points, half a decade apart, the first at 0.01; every seed alike."""
    lr = 10 ** np.linspace(-2, 0, 5)
    score, loss = (np.repeat(np.array(values)[:, None], 3, 1) for values in (scores, losses or scores))
    return Oracle(TASK, TASK.total_steps, lr, score, loss, score <= TASK.constant_score(), 1.0)


PEAKED = grid([0.6, 0.8, 0.9, 0.7, 0.1], [0.5, 0.3, 0.2, 0.4, 0.9])


def said(lr: float | None = 0.1, seed: int = 0, **changes) -> Answer:
    return Answer("auto", TASK.name, seed, lr, **({"steps": 100} | changes))


def worth(regret: float, seed: int = 0, decades: float = 0.0, refusal: str | None = None) -> Judged:
    return Judged(said(seed=seed, refusal=refusal), regret, regret / 100, decades, 0.0, 0.1, False)


# The arithmetic


def test_regret_is_zero_at_the_best_and_counts_points():
    """At the best lr nothing is lost; at another grid point the difference of scores, in points of 100."""
    assert judge(PEAKED, said(0.1)).regret == pytest.approx(0)
    assert judge(PEAKED, said(0.1)).decades == pytest.approx(0)
    assert judge(PEAKED, said(10**-0.5)).regret == pytest.approx(20)
    assert judge(PEAKED, said(10**-0.5)).decades == pytest.approx(0.5)
    assert judge(PEAKED, said(10**-0.5)).loss_regret == pytest.approx(0.2)


def test_between_grid_points_regret_is_interpolated_in_log_lr():
    """Halfway between two points in log lr stands the mean of their regrets."""
    assert judge(PEAKED, said(10**-0.75)).regret == pytest.approx((0 + 20) / 2)


@given(SCORES, st.floats(-2, 0))
def test_regret_on_the_grid_is_never_negative(scores, exponent):
    """No interpolated score is above the best."""
    assert judge(grid(scores), said(10**exponent)).regret >= -1e-9


def test_a_pick_where_runs_fail_says_so():
    """The last point scores no better than a constant predictor."""
    assert [judge(PEAKED, said(lr)).failed for lr in (0.1, 1.0)] == [0.0, 1.0]


def test_a_pick_outside_the_grid_is_run(monkeypatch):
    """Beyond the grid's ends its values would flatter: the run is done, with the seed of the sweep."""
    asked = []

    def run_cycle(task, max_lr, seed):
        asked.append((task.name, max_lr, seed))
        return oracle.RunResult(task.name, max_lr, seed, 10, 0.4, 1.5, 1.0, 2.0, 0.34, 10, 0.1)

    monkeypatch.setattr(arithmetic, "run_cycle", run_cycle)

    outside = judge(PEAKED, said(1e-5, seed=2))

    assert asked == [(TASK.name, 1e-5, 2)]
    assert outside.outside
    assert outside.regret == pytest.approx(50)


def test_a_score_without_a_pick_has_no_distance():
    """Rows without a learning rate are compared by their score alone."""
    alone = judge(PEAKED, said(None, score=0.85, val_loss=0.25))

    assert alone.regret == pytest.approx(5)
    assert math.isnan(alone.decades)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40))
def test_the_interval_lies_between_the_extremes(values):
    """No mean of drawn values is below the least or above the most."""
    low, high = bootstrap(values, resamples=500)

    slack = 1e-9 * (1 + max(values))
    assert min(values) - slack <= low <= high <= max(values) + slack


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    """200 samples of 35 exponential values: the bootstrap's 95 % hold the true mean in 85 to 99 %."""
    rng = np.random.default_rng(1)
    held = [low <= 1.0 <= high for low, high in (bootstrap(rng.exponential(size=35), 1000) for _ in range(200))]

    assert 0.85 <= np.mean(held) <= 0.99


def test_the_interval_is_the_same_twice():
    """Its seed is fixed: a table can be made again."""
    assert bootstrap([1.0, 2.0, 4.0]) == bootstrap([1.0, 2.0, 4.0])


def test_a_line_takes_seeds_first_and_then_tasks():
    """Mean, median and worst are over tasks, of each task's mean over seeds; the worst pick is a single one."""
    line = summarize(
        "auto",
        [[worth(0), worth(6, 1)], [worth(1), worth(1, 1)], [worth(8, refusal="flat"), worth(10, 1)]],
    )

    assert (line.mean, line.median, line.worst, line.worst_pick) == pytest.approx((13 / 3, 3, 9, 10))
    assert line.within == pytest.approx(1 / 3)
    assert line.no_answer == 1


def test_spread_is_over_seeds_of_a_task_and_bias_over_all_picks():
    """Two tasks missed by 1 decade each way, without spread over seeds: no bias, a distance of 1."""
    line = summarize("auto", [[worth(0, s, decades) for s in (0, 1)] for decades in (-1.0, 1.0)])

    assert (line.spread, line.bias, line.distance) == pytest.approx((0, 0, 1))


def test_coverage_counts_the_best_and_its_plateau():
    """A range that misses the best but meets a point within 1 of it counts for the plateau alone."""
    flat = grid([0.6, 0.895, 0.9, 0.7, 0.1])
    ranges = [said(0.03, low=0.02, high=0.05), said(0.1, low=0.05, high=0.5), said(0.9, low=0.5, high=1.0)]

    found = coverage([(flat, each) for each in ranges])

    assert (found.best, found.plateau) == pytest.approx((1 / 3, 2 / 3))
    assert found.width == pytest.approx(math.log10(2.5))


# Asking


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setattr(oracle, "CACHE", tmp_path)
    return tmp_path / "regret"


def test_an_answer_is_asked_for_once_per_version(cache, monkeypatch):
    """The second time it comes from the cache; a new version of the row is asked again."""
    asked = []

    def ask(task, seed):
        asked.append(seed)
        return Said(0.1, 5)

    for version in (1, 1, 2):
        row = Row("auto", "ours", ask, version)
        monkeypatch.setattr(picks, "ROWS", {"auto": row})
        assert picks.answer(TASK, row, seed=1).lr == 0.1

    assert asked == [1, 1]


def test_a_line_cut_short_is_asked_again(cache, monkeypatch):
    """A process killed while it wrote leaves half a line, which is passed over."""
    row = Row("auto", "ours", lambda task, seed: Said(0.1, 5))
    monkeypatch.setattr(picks, "ROWS", {"auto": row})
    picks.answer(TASK, row, seed=0)
    (path,) = cache.iterdir()
    path.write_text(path.read_text()[:40] + "\n")

    assert picks.kept(TASK) == {}
    assert picks.answer(TASK, row, seed=0).lr == 0.1


def test_no_suggestion_counts_as_the_fixed_default(cache, monkeypatch):
    """The message is kept, so that the table can count it."""

    def refuse(task, seed):
        raise NoSuggestion("flat")

    row = Row("auto", "ours", refuse)
    monkeypatch.setattr(picks, "ROWS", {"auto": row})

    refused = picks.answer(TASK, row, seed=0)

    assert (refused.lr, refused.refusal) == (0.1, "flat")


@pytest.mark.parametrize("row", ["random search", "successive halving"])
def test_a_search_spends_no_more_than_half_a_run(cache, row):
    """As much as refine may spend, on any length of run."""
    torch.set_num_threads(1)
    task = regret.quick_tasks()[2]

    assert ROWS[row].ask(task, 0).steps <= task.total_steps / 2


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder that a quick run has written to."""
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra examples, is not installed")
    folder = tmp_path_factory.mktemp("quick")
    before = oracle.CACHE
    regret.main(["--quick", "--out", str(folder)])
    assert before == oracle.CACHE
    return folder


def test_a_quick_run_writes_tables_pictures_and_numbers(quick):
    """Six tasks from grids to pictures, nothing left in the cache; every row with its package has a line."""
    text = (quick / "regret.md").read_text(encoding="utf-8")
    assert "command: `" in text
    for row in ROWS.values():
        assert (f"{row.name}" in text) or row.missing()
    assert text.count("Noise floor") == len({TASKS[name].split for name in regret.QUICK}) == 2
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (quick / "tasks").iterdir()]
    assert sorted(record["task"] for record in records) == sorted(regret.QUICK)
    assert all(record["rows"]["refine"][0]["answer"]["lr"] > 0 for record in records)
    assert (quick / "regret.png").stat().st_size > 10_000
    assert (quick / "cost.png").stat().st_size > 10_000


# The record


def test_another_clone_goes_on_from_the_record(quick, cache):
    """Runs and answers come back number for number, those beyond the grid too; once, and nothing has to be measured."""
    for task in regret.quick_tasks():
        written = json.loads((quick / "tasks" / f"{task.name}.json").read_text(encoding="utf-8"))

        runs, answers = restore(task, quick / "tasks")

        assert (runs, answers) == (len(written["runs"]), sum(map(len, written["rows"].values())))
        assert runs >= 3 * len(regret.QUICK_GRID)
        assert json.loads(as_json(task_record(arithmetic.study([task]), task.name))) == written
        assert restore(task, quick / "tasks") == (0, 0)


def test_a_record_of_something_else_does_not_count(quick, cache, monkeypatch):
    """Other data, weights or lengths of run: nothing is taken. A new version of a row: all but its answers."""
    task = regret.quick_tasks()[0]
    assert restore(replace(task, total_steps=task.total_steps + 1), quick / "tasks") == (0, 0)
    assert restore(TASK, quick / "tasks") == (0, 0)
    with monkeypatch.context() as patched:
        patched.setattr(record, "fingerprint", lambda _: "another")
        assert restore(task, quick / "tasks") == (0, 0)
    newer = {name: replace(row, version=99) if name == "auto" else row for name, row in ROWS.items()}
    monkeypatch.setattr(record, "ROWS", newer)

    restore(task, quick / "tasks")

    rows = {row for row, _ in picks.kept(task)}
    assert rows == set(json.loads((quick / "tasks" / f"{task.name}.json").read_text(encoding="utf-8"))["rows"]) - {
        "auto"
    }
