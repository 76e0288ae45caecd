"""The tasks of the regret study and the grid of runs that says what their best max_lr is."""

from __future__ import annotations

import json
import math
import unicodedata

import numpy as np
import pytest
import torch
from torch import nn

from experiments import oracle
from experiments.oracle import Oracle, RunResult, fingerprint, grid_lr, grid_position, run_cycle, wanted
from experiments.tasks import TASKS, data
from experiments.tasks.assorted_data import boards, confused, wrong
from experiments.tasks.diverse_data import (
    SYMBOLS,
    before_and_next,
    comments,
    fraud,
    mistaken_cancer,
    odd_classes,
    polynomial,
    pretrained_resmlp,
    sensors,
    uneven,
    unicode_names,
    voronoi,
)
from experiments.tasks.held_out_data import (
    BASE,
    defects,
    ellipses,
    next_of_signature,
    orbits,
    signatures,
    statements,
    sums,
)
from experiments.tasks.images import body_and_head, images
from experiments.tasks.medley_data import brackets, syntax
from experiments.tasks.nets import mlp
from experiments.tasks.optimizers import adagrad, sgd
from experiments.tasks.tabular import cancer
from experiments.tasks.task import R2, Split, Task, task
from experiments.tasks.various_data import (
    GARMENTS,
    concrete,
    few_patients,
    identifiers,
    loans,
    next_of_name,
    octants,
    other_classes,
    pretrained_on_garments,
    strings,
    turned,
)

NEEDS_NOTHING = [name for name, task in TASKS.items() if not task.needs]
RUNNABLE = [name for name, task in TASKS.items() if task.missing() is None]


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


# The tasks


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


def test_wrong_classes_are_other_classes_in_the_share_asked_for():
    """Every changed class is another one; the share is met within four sd; the confused are the next."""
    classes = torch.arange(10).repeat(1000)

    for change in (wrong, confused):
        off = (change(classes, 0.3, 10) - classes) % 10
        assert (off > 0).double().mean() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 10000))
        assert set(off.tolist()) == (set(range(10)) if change is wrong else {0, 1})


def test_boards_are_those_of_the_uci_repository():
    """958 ends of the game, of which the first player has won 626; Aha, UCI Tic-Tac-Toe Endgame."""
    split = boards()
    rows = torch.cat([split.train_x, split.val_x])

    assert len(rows.unique(dim=0)) == len(rows) == 958
    assert int(split.train_y.sum() + split.val_y.sum()) == 626


def test_the_innermost_open_bracket_is_the_last_that_was_not_closed():
    """Read from the right: closing brackets on the way skip as many opening ones."""
    split = brackets(20, 50)
    for tokens, targets in zip(split.train_x.tolist(), split.train_y.tolist(), strict=True):
        for place in range(20):
            closed, expected = 0, 0
            for token in tokens[place::-1]:
                if token and not closed:
                    expected = token
                    break
                closed += -1 if token else 1
            assert targets[place] == expected


def test_characters_of_code_are_tagged_in_their_place():
    """Blanks outside strings and comments are of kind 0, letters never; quotes are of a string or a comment."""
    split = syntax(24, 8000)
    codes, kinds = split.train_x.flatten(), split.train_y.flatten()

    assert set(kinds.tolist()) == {0, 1, 2, 3, 4, 5}
    assert set(kinds[codes == 0].tolist()) == {0, 4, 5}
    assert set(kinds[(codes >= ord("a") - 32) & (codes <= ord("z") - 32)].tolist()) <= {1, 2, 3, 4, 5}
    assert set(kinds[codes == ord('"') - 32].tolist()) == {4, 5}


def needs(name: str) -> None:
    """Skip the test where the data set is absent."""
    if reason := data.missing(name):
        pytest.skip(reason)


def test_diagnoses_are_mistaken_in_the_share_asked_for_and_only_where_one_trains():
    """The share is met within four sd; the rows and the classes to validate on are as they were."""
    needs("scikit-learn")
    clean, split = cancer(), mistaken_cancer(0.3)

    changed = (split.train_y != clean.train_y).double().mean()
    assert changed == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / len(clean.train_y)))
    assert torch.equal(split.train_x, clean.train_x)
    assert torch.equal(split.val_y, clean.val_y)


def test_a_payment_in_33_is_false_but_half_of_those_that_validate():
    """The share to train on within four sd, that to validate on exactly."""
    split = fraud(6000)

    assert split.train_y.double().mean() == pytest.approx(1 / 33, abs=4 * math.sqrt(1 / 33 / 6000))
    assert split.val_y.bincount().tolist() == [1500, 1500]


def test_points_of_a_cell_are_of_one_class():
    """All seven classes are there, and a point is mostly of the class of its nearest neighbour."""
    split = voronoi(6000)
    neighbour = torch.cdist(split.val_x[:1000], split.train_x).argmin(1)

    assert set(split.train_y.tolist()) == set(range(7))
    assert (split.train_y[neighbour] == split.val_y[:1000]).double().mean() > 0.7


def test_the_noise_on_a_polynomial_is_as_large_as_said():
    """Targets with noise of 0.3 sd correlate with those without as 1 / sqrt(1 + 0.3^2)."""
    exact, noised = polynomial(3000, 0.0), polynomial(3000, 0.3)

    assert torch.equal(exact.train_x, noised.train_x)
    correlation = torch.corrcoef(torch.cat([exact.train_y, noised.train_y], 1).T)[0, 1]
    assert float(correlation) == pytest.approx(1 / math.sqrt(1.09), abs=0.01)


def test_readings_come_in_their_own_units():
    """The largest sd of a reading is thousands of times the smallest, none is scaled to 1 and mean 0."""
    split = sensors(4000)
    sds = split.train_x.std(0)

    assert float(sds.max() / sds.min()) > 1000
    assert bool((split.train_x.mean(0) > sds).all())


def test_even_classes_have_many_images_and_odd_ones_few():
    """To train on as asked for; to validate on all there are."""
    needs("FashionMNIST")
    split = uneven("FashionMNIST", 800, 40)

    assert split.train_y.bincount().tolist() == [800, 40] * 5
    assert len(split.val_y) == 4000


def test_fine_tuning_on_the_odd_classes_sees_images_of_those_only():
    """As many of each class as there are to validate on, numbered by half; a net's body is kept, its head is new."""
    needs("MNIST")
    split, whole = odd_classes("MNIST", 300), images("MNIST")

    assert len(split.train_x) == 300
    assert split.val_y.bincount().tolist() == whole.val_y.bincount().tolist()[1::2]
    places = [int((whole.val_x == image).flatten(1).all(1).nonzero()[0]) for image in split.val_x[:50]]
    assert whole.val_y[places].tolist() == [2 * label + 1 for label in split.val_y[:50].tolist()]
    torch.manual_seed(0)
    one, other = (list(pretrained_resmlp("MNIST").parameters()) for _ in range(2))
    same = [torch.equal(*pair) for pair in zip(one, other, strict=True)]
    assert same == [True] * (len(one) - 2) + [False] * 2


def test_characters_to_predict_are_those_that_follow():
    """In stretches of comments the targets are the inputs one on; a window's target lies in the window after it."""
    split, windows = comments(20, 20000), before_and_next(10)

    assert torch.equal(split.train_x[:, 1:], split.train_y[:, :-1])
    assert not (split.train_x[:, None] == split.val_x[:50]).all(2).any()
    overlap = (windows.train_x[:-1, 2:] == windows.train_x[1:, :-2]).all(1)
    assert overlap.double().mean() > 0.99  # not from one block to the next
    assert torch.equal(windows.train_y[:-1][overlap], windows.train_x[1:, -2][overlap])


def test_lines_between_two_line_feeds_are_names_of_characters():
    """Every whole line in a stretch names a character of Unicode."""
    split = unicode_names(40, 20000)
    lines = ["".join(SYMBOLS[code] for code in row).split("\n")[1:-1] for row in split.train_x.tolist()]
    whole = [line for row in lines for line in row]

    assert len(whole) > 500
    assert all(unicodedata.lookup(line) < chr(0x3000) for line in whole)


def test_concrete_is_stronger_the_older_and_the_drier():
    """Strength rises with age and cement and falls with water."""
    split = concrete(2000)
    strength = split.train_y[:, 0]
    names = ("cement", "slag", "water", "softener", "coarse", "fine", "age")
    with_strength = {
        name: float(torch.corrcoef(torch.stack([split.train_x[:, at], strength]))[0, 1])
        for at, name in enumerate(names)
    }

    assert with_strength["age"] > 0.2
    assert with_strength["cement"] > 0.2
    assert with_strength["water"] < -0.1


def test_a_loan_in_15_is_lost_but_half_of_those_that_validate():
    """The share to train on within four sd, that to validate on exactly."""
    split = loans(8000)

    assert split.train_y.double().mean() == pytest.approx(1 / 15, abs=4 * math.sqrt(1 / 15 / 8000))
    assert split.val_y.bincount().tolist() == [1500, 1500]


def test_the_octants_are_about_as_large():
    """Eight classes, each between a tenth and a sixth of the points."""
    shares = octants(6000).train_y.bincount() / 6000

    assert len(shares) == 8
    assert 0.1 < float(shares.min()) < float(shares.max()) < 1 / 6


def test_few_patients_and_all_the_others():
    """No row is lost and none is in both parts."""
    few, whole = few_patients(60), cancer()

    assert len(few.train_x) == 60
    assert len(few.train_x) + len(few.val_x) == len(whole.train_x) + len(whole.val_x)
    assert float(torch.cdist(few.train_x, few.val_x).min()) > 0


def test_images_are_turned_by_as_many_quarters_as_they_say():
    """Turned back they are the images they were; all four turns are as frequent."""
    needs("MNIST")
    split, upright = turned("MNIST", 2000), images("MNIST", 2000)
    back = torch.stack([x.rot90(-int(y), (1, 2)) for x, y in zip(split.train_x, split.train_y, strict=True)])

    assert torch.equal(back, upright.train_x)
    assert (split.train_y.bincount() / 2000).tolist() == pytest.approx([0.25] * 4, abs=0.04)


def test_fine_tuning_on_other_classes_sees_none_of_the_old():
    """Numbered 0 to 4 in order; a net's body is kept, its head is new."""
    needs("FashionMNIST")
    split, whole = other_classes("FashionMNIST", GARMENTS, 300), images("FashionMNIST")
    others = [label for label in range(10) if label not in GARMENTS]

    assert len(split.train_x) == 300
    assert split.val_y.bincount().tolist() == whole.val_y.bincount()[others].tolist()
    torch.manual_seed(0)
    one, other = (list(pretrained_on_garments().parameters()) for _ in range(2))
    same = [torch.equal(*pair) for pair in zip(one, other, strict=True)]
    assert same == [True] * (len(one) - 2) + [False] * 2


def test_strings_are_followed_by_what_follows():
    """Targets are the inputs one on, and no stretch to validate on is one to train on."""
    split = strings(20, 20000)

    assert torch.equal(split.train_x[:, 1:], split.train_y[:, :-1])
    assert not (split.train_x[:, None] == split.val_x[:50]).all(2).any()


def test_a_name_is_on_one_side_only():
    """Names are whole words, each once; the first context of each is blank."""
    names, split = identifiers(), next_of_name(6)

    assert len(names) == len(set(names)) > 3000
    assert all(name.isidentifier() and len(name) >= 4 for name in names)
    blank = (split.val_x == 0).all(1)
    assert int(blank.sum()) == len(names[9::10])


def test_a_planet_goes_around_once_a_year():
    """It is nearest in the beginning and the end of its year, far out in the middle, above in its first half."""
    split = orbits(2000)
    passed, (across, up) = split.train_x[:, 0], split.train_y.T
    near, first = passed.abs() > 1.4, passed < 0

    assert split.val_x.shape == (3000, 3)
    assert across[near].mean() > across[~near].mean() + 1
    assert up[first].mean() > up[~first].mean() + 1


def test_a_screw_in_12_is_bad_but_half_of_those_that_validate():
    """Training data are as they come in; validation has as many of either kind."""
    split = defects(4000)

    assert split.train_y.double().mean() == pytest.approx(1 / 12, abs=0.02)
    assert split.val_y.bincount().tolist() == [1500, 1500]


def test_points_of_ellipses_are_mistaken_only_where_one_trains():
    """A quarter of the training classes are others, of validation none."""
    right, mistaken = ellipses(2000), ellipses(2000, 0.25)

    assert (right.train_y != mistaken.train_y).double().mean() == pytest.approx(0.25, abs=0.04)
    assert torch.equal(right.val_y, mistaken.val_y)
    assert torch.equal(right.train_x, mistaken.train_x)


def test_sums_are_those_of_the_numbers():
    """Read as numbers, lowest digit first; the last carry is left out."""
    split = sums(12, 500)
    weights = torch.tensor([BASE**place for place in range(12)])
    first, second = ((digits * weights).sum(1) for digits in (split.train_x // BASE, split.train_x % BASE))

    assert torch.equal((split.train_y * weights).sum(1), (first + second) % BASE**12)
    assert split.val_x.shape == (1000, 12)


def test_the_character_that_follows_a_part_of_a_signature():
    """Of a stretch each target is the next character, and the one behind its end is what a context asks for."""
    stretches, asked = signatures(10, 20000), next_of_signature(10)

    assert torch.equal(stretches.train_x[:, 1:], stretches.train_y[:, :-1])
    assert torch.equal(asked.train_y, stretches.train_y[:, -1])


def test_statements_do_not_show_their_keyword():
    """What stands behind six keywords, as many of each as there are, up to a number; none begins with its own."""
    split = statements(24, 1000)
    kinds = torch.cat([split.train_y, split.val_y]).bincount()

    assert len(kinds) == 6
    assert kinds.max() <= 1000
    assert split.train_x.shape[1] == 24
    assert len(split.val_y) == 1200


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


def test_fine_tuning_keeps_the_ratio_of_the_groups_lr():
    """The group with the largest lr peaks at max_lr, the other at its share."""
    work = line_task(net=lambda: mlp(4, 8, 1), groups=body_and_head(0.01, 0.1)).make(0)

    scheduler = oracle.one_cycle(work, max_lr=2.0, steps=10)

    assert [group["max_lr"] for group in scheduler.optimizer.param_groups] == pytest.approx([0.2, 2.0])


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
