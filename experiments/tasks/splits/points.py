"""Points drawn from a formula, with classes or values that follow from where they lie."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.random import Generator, default_rng

from experiments.tasks.splits.labels import flipped, wrong
from experiments.tasks.splits.rows import equally_validated, split_rows
from experiments.tasks.task import Split


@functools.cache
def friedman(kind: int, train: int, noise: float = 1.0, normalise: bool = True) -> Split:
    """Friedman's regression problems 1, 2 and 3."""
    from sklearn import datasets

    make = getattr(datasets, f"make_friedman{kind}")
    return split_rows(*make(n_samples=train + 4000, noise=noise, random_state=kind), train, normalise=normalise)


@functools.cache
def clusters(
    train: int,
    features: int,
    classes: int,
    *,
    seed: int,
    per_class: int = 2,
    separation: float = 1.0,
    flip: float = 0.0,
) -> Split:
    """``make_classification``; a share ``flip`` of the training classes is redrawn, none to validate on."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        train + 4000,
        features,
        n_informative=features // 2,
        n_redundant=features // 4,
        n_classes=classes,
        n_clusters_per_class=per_class,
        class_sep=separation,
        flip_y=0.0,
        random_state=seed,
    )
    split = split_rows(inputs, targets, train)
    return split._replace(train_y=flipped(split.train_y, flip, classes))


@functools.cache
def wrong_clusters(train: int, share: float) -> Split:
    """Ten classes in 30 dimensions, a ``share`` of the training classes wrong."""
    split = clusters(train, 30, 10, seed=43, per_class=1, separation=1.2)
    return split._replace(train_y=wrong(split.train_y, share, 10))


@functools.cache
def imbalanced() -> Split:
    """Three classes of 92, 6 and 2 %; validated on equal shares, so accuracy is the classes' mean recall."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        60000, 16, n_informative=8, n_classes=3, weights=[0.92, 0.06], flip_y=0.0, random_state=5
    )
    split = split_rows(inputs, targets, train=3000)
    split = equally_validated(split, 3, 800)
    order = torch.from_numpy(default_rng(0).permutation(len(split.val_y)))
    return split._replace(val_x=split.val_x[order], val_y=split.val_y[order])


@functools.cache
def spirals() -> Split:
    """Three interleaved spirals in the plane."""
    rng = default_rng(2)
    labels = rng.integers(3, size=6000)
    radius = np.sqrt(rng.random(6000)) * 3
    angle = radius * 2.2 + labels * 2 * np.pi / 3 + rng.normal(0, 0.15, 6000)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return split_rows(points, labels, train=2000)


@functools.cache
def hastie() -> Split:
    """Is the squared norm of ten Gaussians above its median?"""
    from sklearn.datasets import make_hastie_10_2

    inputs, targets = make_hastie_10_2(8000, random_state=0)
    return split_rows(inputs, (targets > 0).astype(int), train=4000)


@functools.cache
def teacher(inputs: int, outputs: int, train: int, tails: bool = False) -> Split:
    """Outputs of a random two-layer network with 10 % noise; ``tails``: inputs from Student's t (3 degrees)."""
    rng: Generator = default_rng(3)
    x = rng.standard_t(3, (train + 4000, inputs)) if tails else rng.normal(size=(train + 4000, inputs))
    hidden = np.tanh(x @ rng.normal(size=(inputs, 20)) / np.sqrt(inputs))
    y = hidden @ rng.normal(size=(20, outputs))
    y += rng.normal(size=y.shape) * y.std() * 0.1
    return split_rows(x, y, train)


@functools.cache
def moons(train: int, noise: float, flip: float) -> Split:
    """Two interleaved half-moons; a share ``flip`` of the training classes is redrawn."""
    from sklearn.datasets import make_moons

    split = split_rows(*make_moons(train + 4000, noise=noise, random_state=0), train)
    return split._replace(train_y=flipped(split.train_y, flip, 2))


@functools.cache
def shells(classes: int) -> Split:
    """Concentric shells of a Gaussian in eight dimensions, equally many points in each."""
    from sklearn.datasets import make_gaussian_quantiles

    return split_rows(*make_gaussian_quantiles(n_samples=8000, n_features=8, n_classes=classes, random_state=0), 4000)


@functools.cache
def swiss_roll() -> Split:
    """Where along a rolled-up sheet does a point of three coordinates lie?"""
    from sklearn.datasets import make_swiss_roll

    return split_rows(*make_swiss_roll(6000, noise=0.3, random_state=0), 3000)


@functools.cache
def redundant() -> Split:
    """Fifty features, of which eight say all there is and forty are mixtures of those."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        7000, 50, n_informative=8, n_redundant=40, n_classes=4, n_clusters_per_class=1, flip_y=0.0, random_state=20
    )
    return split_rows(inputs, targets, 3000)


@functools.cache
def blobs(classes: int) -> Split:
    """Round clusters in six dimensions that overlap."""
    from sklearn.datasets import make_blobs

    inputs, targets = make_blobs(12000, 6, centers=classes, cluster_std=3.0, random_state=21)
    return split_rows(inputs, targets, 8192)


@functools.cache
def checkerboard(train: int, flip: float) -> Split:
    """Is a point on a black or a white square of 4 x 4? A share ``flip`` of the training classes is redrawn."""
    points = default_rng(22).uniform(0, 4, (train + 4000, 2))
    split = split_rows(points, points.astype(int).sum(1) % 2, train)
    return split._replace(train_y=flipped(split.train_y, flip, 2))


@functools.cache
def formula(train: int) -> Split:
    """``exp(-a^2) cos(3 b) + c |d|`` of six Gaussians, with noise."""
    rng = default_rng(23)
    x = rng.normal(size=(train + 4000, 6))
    y = np.exp(-(x[:, 0] ** 2)) * np.cos(3 * x[:, 1]) + x[:, 2] * np.abs(x[:, 3]) + rng.normal(0, 0.2, len(x))
    return split_rows(x, y, train)


@functools.cache
def rare() -> Split:
    """One case in twenty is of the second class; validated on equal shares, so accuracy is the mean recall."""
    rng = default_rng(25)
    x = rng.normal(size=(44000, 12))
    scores = x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + x[:, 3] ** 2 / 2 - x[:, 4] + rng.normal(0, 0.3, len(x))
    split = split_rows(x, (scores > np.quantile(scores, 0.95)).astype(int), train=4000)
    return equally_validated(split, 2, 1800)


@functools.cache
def yes_or_no(answers: int) -> Split:
    """Questions about twenty Gaussians, each answered yes for half of all rows."""
    rng = default_rng(26)
    x = rng.normal(size=(7000, 20))
    hidden = np.maximum(x @ rng.normal(size=(20, 16)), 0)
    logits = hidden @ rng.normal(size=(16, answers))
    y = logits + rng.normal(size=logits.shape) * logits.std() * 0.3 > np.median(logits, 0)
    return split_rows(x, y.astype(int), 3000)


@functools.cache
def circles(train: int, share: float) -> Split:
    """A circle around another; a ``share`` of the training classes is wrong."""
    from sklearn.datasets import make_circles

    split = split_rows(*make_circles(train + 4000, noise=0.12, factor=0.5, random_state=42), train)
    return split._replace(train_y=wrong(split.train_y, share, 2))


@functools.cache
def outliers(train: int) -> Split:
    """A linear function of 20 features, for one training row in six with a gross error."""
    from sklearn.datasets import make_regression

    split = split_rows(*make_regression(train + 4000, 20, n_informative=12, noise=40.0, random_state=44), train)
    rng = default_rng(44)
    errors = np.where(rng.random((train, 1)) < 1 / 6, rng.normal(0, 12, (train, 1)), 0)
    return split._replace(train_y=split.train_y + torch.tensor(errors, dtype=torch.float32))


@functools.cache
def arm(train: int) -> Split:
    """Where is the hand of an arm in the plane, given the angles of its four joints?"""
    rng = default_rng(45)
    angles = rng.uniform(-1.5, 1.5, (train + 4000, 4))
    turned, lengths = angles.cumsum(1), np.array([1.0, 0.8, 0.6, 0.4])
    hand = np.stack([(lengths * np.cos(turned)).sum(1), (lengths * np.sin(turned)).sum(1)], 1)
    return split_rows(angles, hand + rng.normal(0, 0.03, hand.shape), train)


@functools.cache
def trees(train: int, flip: float = 0.0) -> Split:
    """Five classes by the votes of six decision trees on 12 features; a share ``flip`` of those to train redrawn."""
    rng = default_rng(60)
    x = rng.normal(size=(train + 4000, 12))
    votes = np.zeros((len(x), 5))
    for _ in range(6):
        features, thresholds = rng.choice(12, 4, replace=False), rng.normal(0, 0.5, 4)
        leaves = (x[:, features] > thresholds) @ (1 << np.arange(4))
        votes += rng.normal(size=(16, 5))[leaves]
    split = split_rows(x, votes.argmax(1), train)
    return split._replace(train_y=flipped(split.train_y, flip, 5))


@functools.cache
def pendulum(train: int) -> Split:
    """Where is a damped pendulum after a while, and how fast? From angle, speed, damping and the time."""
    rng = default_rng(61)
    count = train + 3000
    start = rng.uniform(-2, 2, (2, count))
    damping, time = rng.uniform(0, 0.5, count), rng.uniform(0, 3, count)
    angle, speed = start
    for _ in range(300):
        speed = speed + time / 300 * (-2 * np.sin(angle) - damping * speed)
        angle = angle + time / 300 * speed
    return split_rows(np.stack([*start, damping, time], 1), np.stack([angle, speed], 1), train)


@functools.cache
def curve(train: int) -> Split:
    """A wavy function of one number, with noise."""
    rng = default_rng(63)
    x = rng.uniform(-2, 2, (train + 2000, 1))
    y = np.sin(3 * x[:, 0]) + 0.5 * np.cos(7 * x[:, 0]) + rng.normal(0, 0.2, len(x))
    return split_rows(x, y, train)


@functools.cache
def voronoi(train: int) -> Split:
    """Seven classes: that of the nearest of 40 sites in five dimensions, each site of a class drawn for it."""
    rng = default_rng(80)
    sites, owners = rng.uniform(-1, 1, (40, 5)), np.arange(40) % 7
    x = rng.uniform(-1, 1, (train + 4000, 5))
    nearest = ((x[:, None] - sites) ** 2).sum(2).argmin(1)
    return split_rows(x, owners[nearest], train)


@functools.cache
def s_curve(train: int) -> Split:
    """Where along a sheet bent to an S does a point of three coordinates lie?"""
    from sklearn.datasets import make_s_curve

    points, places = make_s_curve(train + 3000, noise=0.1, random_state=81)
    return split_rows(points, places, train)


@functools.cache
def polynomial(train: int, noise: float) -> Split:
    """Twelve random products of one to three of 14 Gaussians, added up; ``noise`` in sd of the sum."""
    rng = default_rng(82)
    x = rng.normal(size=(train + 3000, 14))
    y = np.zeros(len(x))
    for degree in (1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3):
        y += rng.choice((-1, 1)) * x[:, rng.choice(14, degree, replace=False)].prod(1)
    return split_rows(x, y + rng.normal(0, noise, len(x)) * y.std(), train)


@functools.cache
def octants(train: int) -> Split:
    """Eight classes: on which side of three wavy surfaces in nine dimensions does a point lie?"""
    rng = default_rng(102)
    x = rng.normal(size=(train + 4000, 9))
    turned = x @ np.linalg.qr(rng.normal(size=(9, 9)))[0]
    sides = turned[:, :3] + np.sin(2.5 * turned[:, 3:6]) > 0
    return split_rows(x, sides @ (1 << np.arange(3)), train)


@functools.cache
def orbits(train: int) -> Split:
    """Where is a planet? From the share of its year that has passed, eccentricity and size of its orbit."""
    rng = default_rng(120)
    count = train + 3000
    passed, eccentricity = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, 0.8, count)
    size = rng.uniform(0.5, 2, count)
    angle = np.full(count, np.pi)
    for _ in range(30):  # Newton's method on Kepler's equation
        angle -= (angle - eccentricity * np.sin(angle) - passed) / (1 - eccentricity * np.cos(angle))
    place = size * np.stack([np.cos(angle) - eccentricity, np.sqrt(1 - eccentricity**2) * np.sin(angle)])
    return split_rows(np.stack([passed, eccentricity, size], 1), place.T + rng.normal(0, 0.03, (count, 2)), train)


@functools.cache
def throws(train: int) -> Split:
    """How far flies a ball? From its speed, angle, height at the start, drag and the wind."""
    rng = default_rng(121)
    count = train + 3000
    speed, slope, height = rng.uniform(5, 35, count), rng.uniform(0.1, 1.4, count), rng.uniform(0, 3, count)
    drag, wind = rng.uniform(0, 0.02, count), rng.normal(0, 4, count)
    place = np.stack([np.zeros(count), height])
    velocity = speed * np.stack([np.cos(slope), np.sin(slope)])
    for _ in range(800):
        moving = place[1] >= 0
        relative = velocity - np.stack([wind, np.zeros(count)])
        velocity = velocity - 0.01 * (drag * np.hypot(*relative) * relative + np.array([[0.0], [9.81]]))
        place = place + 0.01 * moving * velocity
    return split_rows(np.stack([speed, slope, height, drag, wind], 1), place[0] + rng.normal(0, 1, count), train)


@functools.cache
def correlated(train: int) -> Split:
    """A noisy linear function of 40 columns, which are mixtures of ten factors and a little of their own."""
    rng = default_rng(122)
    count = train + 3000
    x = rng.normal(size=(count, 10)) @ rng.normal(size=(10, 40)) + rng.normal(size=(count, 40))
    y = x @ rng.normal(size=40)
    return split_rows(x, y + rng.normal(0, 0.4, count) * y.std(), train)


@functools.cache
def ellipses(train: int, share: float = 0.0) -> Split:
    """Six Gaussians in eight dimensions, of other centres and axes; a ``share`` of the training classes wrong."""
    rng = default_rng(125)
    y = rng.integers(6, size=train + 4000)
    axes, centres = rng.normal(0, 0.5, (6, 8, 8)), rng.normal(0, 0.8, (6, 8))
    x = np.einsum("ni,nij->nj", rng.normal(size=(len(y), 8)), axes[y]) + centres[y]
    split = split_rows(x, y, train)
    return split._replace(train_y=wrong(split.train_y, share, 6))


@functools.cache
def knots(train: int) -> Split:
    """On which of four closed curves in space does a point lie? With noise."""
    rng = default_rng(143)
    y, turn = rng.integers(4, size=train + 4000), rng.uniform(0, 2 * np.pi, (train + 4000, 1))
    waves = rng.normal(size=(4, 6, 3)) / np.array([1, 1.5, 2, 1, 1.5, 2])[:, None]
    angles = turn * np.arange(1, 4)
    x = np.einsum("nk,nkc->nc", np.concatenate([np.cos(angles), np.sin(angles)], 1), waves[y])
    return split_rows(x + rng.normal(0, 0.1, x.shape), y, train)


@functools.cache
def charges(train: int) -> Split:
    """The potential of ten charges in a cube, at some place, with noise."""
    rng = default_rng(144)
    x = rng.uniform(-1, 1, (train + 3000, 3))
    sites, amounts = rng.uniform(-1, 1, (10, 3)), rng.normal(size=10)
    away = np.sqrt(((x[:, None] - sites) ** 2).sum(2) + 0.05)
    potential = (amounts / away).sum(1)
    return split_rows(x, potential + rng.normal(0, 0.1, len(x)) * potential.std(), train)


@functools.cache
def runner_up(train: int) -> Split:
    """Which of six Gaussians is the second largest?"""
    x = default_rng(145).normal(size=(train + 4000, 6))
    return split_rows(x, x.argsort(1)[:, -2], train)
