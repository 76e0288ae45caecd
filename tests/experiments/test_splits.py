"""The data of the tasks of the regret study are what they say."""

from __future__ import annotations

import math
import unicodedata

import pytest
import torch

from experiments.tasks import data
from experiments.tasks.pretrained import pretrained_on_garments, pretrained_resmlp
from experiments.tasks.splits.classes import GARMENTS, ODD, other_classes, some_classes
from experiments.tasks.splits.images import images, turned, uneven
from experiments.tasks.splits.labels import confused, wrong
from experiments.tasks.splits.points import charges, ellipses, knots, octants, orbits, polynomial, runner_up, voronoi
from experiments.tasks.splits.series import BASE, LETTERS, brackets, gestures, languages, repeats, sums
from experiments.tasks.splits.tables import (
    boards,
    cancer,
    churn,
    concrete,
    defects,
    few_patients,
    flights,
    fraud,
    loans,
    mistaken_cancer,
    sensors,
    soils,
    worst_cells,
)
from experiments.tasks.splits.text import (
    SYMBOLS,
    before_and_next,
    comments,
    identifiers,
    next_of_name,
    next_of_signature,
    signatures,
    statements,
    strings,
    unicode_names,
)
from experiments.tasks.splits.tokens import syntax


def needs(name: str) -> None:
    """Skip the test where the data set is absent."""
    if reason := data.missing(name):
        pytest.skip(reason)


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
    split, whole = some_classes("MNIST", ODD, 300, seed=85), images("MNIST")

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


def test_a_plane_is_late_where_it_was_late_before():
    """Late rises with delay, traffic and wind from ahead; unnormalised columns are as they come, targets the same."""
    split, raw = flights(3000), flights(3000, normalise=False)
    names = ("hour", "weekday", "distance", "wind", "rain", "traffic", "before")
    with_late = {
        name: float(torch.corrcoef(torch.stack([split.train_x[:, at], split.train_y[:, 0]]))[0, 1])
        for at, name in enumerate(names)
    }

    assert min(with_late[name] for name in ("wind", "traffic", "before")) > 0.1
    assert abs(with_late["weekday"]) < 0.1
    assert torch.equal(split.train_y, raw.train_y)
    assert float(raw.train_x.std(0).max() / raw.train_x.std(0).min()) > 10


def test_soils_are_mistaken_only_where_one_trains():
    """All six are there; of the training classes the share asked for is wrong within four sd, of validation none."""
    right, mistaken = soils(2000), soils(2000, 0.3)

    assert set(right.train_y.tolist()) == set(range(6))
    changed = (right.train_y != mistaken.train_y).double().mean()
    assert changed == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 2000))
    assert torch.equal(right.val_y, mistaken.val_y)
    assert torch.equal(right.train_x, mistaken.train_x)


def test_a_customer_in_10_leaves_but_half_of_those_that_validate():
    """The share to train on within four sd, that to validate on exactly."""
    split = churn(6000)

    assert split.train_y.double().mean() == pytest.approx(1 / 10, abs=4 * math.sqrt(0.09 / 6000))
    assert split.val_y.bincount().tolist() == [1500, 1500]


def test_worst_cells_are_measured_as_the_mean_ones_are():
    """Every measure of the worst goes best with the same one of the mean, or with another of their size."""
    needs("scikit-learn")
    split = worst_cells()
    together = torch.corrcoef(torch.cat([split.train_x, split.train_y], 1).T)[:10, 10:]
    sizes = {0, 2, 3}  # radius, perimeter and area

    assert split.train_x.shape == split.train_y.shape == (269, 10)
    for measure, other in enumerate(together.argmax(0).tolist()):
        assert measure == other or {measure, other} <= sizes


def test_points_of_a_knot_lie_beside_others_of_it():
    """All four curves are there, and a point is mostly on that of its nearest neighbour, though not always."""
    split = knots(5000)
    neighbour = torch.cdist(split.val_x[:1000], split.train_x).argmin(1)
    share = (split.train_y[neighbour] == split.val_y[:1000]).double().mean()

    assert set(split.train_y.tolist()) == set(range(4))
    assert 0.75 < share < 1


def test_the_potential_is_as_at_places_nearby():
    """It differs much less from that of the nearest neighbour than from that of another place."""
    split = charges(6000)
    neighbour = torch.cdist(split.val_x, split.train_x).argmin(1)
    near = (split.train_y[neighbour] - split.val_y).square().mean()
    any_other = (split.train_y[: len(split.val_y)] - split.val_y).square().mean()

    assert split.val_x.shape == (3000, 3)
    assert near < 0.2 * any_other


def test_one_number_is_larger_than_the_runner_up():
    """Columns are scaled each by itself, so that it holds but for near ties; all places are as frequent."""
    split = runner_up(4000)
    larger = (split.train_x > split.train_x.gather(1, split.train_y[:, None])).sum(1)

    assert (larger == 1).double().mean() > 0.95
    assert (split.train_y.bincount() / 4000).tolist() == pytest.approx([1 / 6] * 6, abs=0.03)


def test_gestures_have_the_shapes_they_say():
    """Without noise a circle keeps its distance, a zigzag goes straight between its turns, and a spiral outwards."""
    split = gestures(24, 500, 0.0)
    radius = split.train_x[:, 0].norm(dim=2)
    ratio = radius.min(1).values / radius.max(1).values

    assert set(split.train_y.tolist()) == set(range(5))
    assert float(ratio[split.train_y == 0].min()) > 0.99
    assert float(ratio[split.train_y != 0].max()) < 0.9
    spiral = radius[split.train_y == 2].diff(dim=1)
    assert bool(((spiral > 0).sum(1) >= 22).all())  # but where it begins again
    bends = split.train_x[split.train_y == 3, 0].diff(dim=1).diff(dim=1).norm(dim=2)
    assert bool(((bends < 1e-5).sum(1) >= 8).all())


def test_repeats_are_counted():
    """Each token of a sequence by itself; three and more are one class."""
    split = repeats(10, 6, 200)
    for tokens, counts in zip(split.train_x.tolist(), split.train_y.tolist(), strict=True):
        assert counts == [min(tokens.count(token), 3) - 1 for token in tokens]


def test_languages_differ_in_which_letter_follows_which():
    """By the pairs of letters counted where one trains, most stretches to validate are told apart."""
    split = languages(16, 6000)
    pairs = torch.ones(6, LETTERS, LETTERS)
    for language in range(6):
        rows = split.train_x[split.train_y == language]
        pairs[language].index_put_((rows[:, :-1], rows[:, 1:]), torch.tensor(1.0), accumulate=True)
    chances = (pairs / pairs.sum(2, keepdim=True)).log()
    guess = chances[:, split.val_x[:, :-1], split.val_x[:, 1:]].sum(2).argmax(0)

    assert int(split.train_x.max()) == LETTERS - 1
    assert 0.7 < (guess == split.val_y).double().mean() < 1
