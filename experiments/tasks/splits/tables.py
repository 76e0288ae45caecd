"""Tables: what scikit-learn ships, and records made up after those that people keep."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.random import default_rng

from experiments.tasks.splits.labels import wrong
from experiments.tasks.splits.rows import equally_validated, split_rows
from experiments.tasks.task import Split

CENSUS = (9, 12, 14, 5, 6, 30)  # levels of each column
LOOKS = (6, 4, 10, 2, 9, 5, 7)  # of a mushroom: levels of each column


@functools.cache
def cancer(normalise: bool = True) -> Split:
    """Breast cancer: 30 features, 2 classes; unnormalised they span 1e-3 to 1e3."""
    from sklearn.datasets import load_breast_cancer

    return split_rows(*load_breast_cancer(return_X_y=True), train=269, normalise=normalise)


@functools.cache
def mistaken_cancer(share: float) -> Split:
    """Breast cancer with a ``share`` of the training classes wrong."""
    split = cancer()
    return split._replace(train_y=wrong(split.train_y, share, 2))


@functools.cache
def few_patients(train: int) -> Split:
    """Breast cancer with ``train`` rows to train on, all the others to validate."""
    split = cancer()
    x, y = torch.cat([split.train_x, split.val_x]), torch.cat([split.train_y, split.val_y])
    return Split(x[:train], y[:train], x[train:], y[train:])


@functools.cache
def diabetes() -> Split:
    """Diabetes: 10 features, one noisy target, 242 rows to train on."""
    from sklearn.datasets import load_diabetes

    return split_rows(*load_diabetes(return_X_y=True), train=242)


@functools.cache
def wine(normalise: bool = True) -> Split:
    """Wine: 13 features, 3 classes, 90 rows to train on; unnormalised they span 0.1 to 1,000."""
    from sklearn.datasets import load_wine

    return split_rows(*load_wine(return_X_y=True), train=90, normalise=normalise)


@functools.cache
def iris() -> Split:
    """Iris: 4 features, 3 classes, 45 rows to train on."""
    from sklearn.datasets import load_iris

    return split_rows(*load_iris(return_X_y=True), train=45)


@functools.cache
def boards() -> Split:
    """Has the first player won? All 958 boards on which a game of noughts and crosses can end."""
    rows = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
    ends: dict[tuple[int, ...], int] = {}

    def play(board: tuple[int, ...], player: int) -> None:
        won = any(all(board[place] == 3 - player for place in row) for row in rows)
        if won or 0 not in board:
            ends[board] = int(won and player == 2)
            return
        for place in range(9):
            if board[place] == 0:
                play((*board[:place], player, *board[place + 1 :]), 3 - player)

    play((0,) * 9, 1)
    last = np.array(sorted(ends))
    return split_rows(np.eye(3)[last].reshape(-1, 27), np.array([ends[tuple(board)] for board in last]), train=500)


@functools.cache
def houses() -> Split:
    """Log prices of made-up houses, from numbers between 0 and 300 as they come: area, rooms, age and so on."""
    rng = default_rng(24)
    count = 6000
    area = rng.uniform(30, 300, count)
    rooms = np.clip(np.round(area / 30 + rng.normal(0, 1, count)), 1, None)
    age = rng.uniform(0, 100, count)
    distance = rng.uniform(0, 40, count)  # km to the centre
    income = rng.lognormal(3.5, 0.4, count)  # thousands a year, of the neighbours
    price = np.log(area) - 0.06 * distance + 0.02 * income * (distance < 15) + ((age - 50) / 60) ** 2
    x = np.stack([area, rooms, age, distance, income], 1)
    return split_rows(x, price + rng.normal(0, 0.1, count), 2500, normalise=False)


@functools.cache
def districts(train: int) -> Split:
    """Log house prices of made-up districts around three cities, from columns of -124 to 219 as they come."""
    rng = default_rng(46)
    count = train + 3000
    place = rng.uniform((32, -124), (42, -114), (count, 2))  # degrees
    cities = np.array([(34.0, -118.2), (37.8, -122.4), (38.6, -121.5)])
    away = np.sqrt(((place[:, None] - cities) ** 2).sum(2))
    income = rng.lognormal(1.25, 0.45, count)  # ten thousands a year
    age = rng.integers(1, 53, count).astype(float)
    rooms = 3 + 0.6 * income + rng.normal(0, 0.8, count)
    bedrooms = rooms * rng.uniform(0.15, 0.3, count)
    households = rng.lognormal(1.4, 0.7, count)  # hundreds
    people = households * rng.lognormal(1.05, 0.2, count)
    price = np.log(income) + 0.8 * np.exp(-away / 1.5).sum(1) + 0.004 * age - 0.25 * np.log(people / households)
    x = np.stack([income, age, rooms, bedrooms, households, people, place[:, 0], place[:, 1]], 1)
    return split_rows(x, price + rng.normal(0, 0.15, count), train, normalise=False)


@functools.cache
def census(train: int) -> Split:
    """Does a person earn much? Made-up answers to six questions, each a whole number."""
    rng = default_rng(47)
    count = train + 4000
    x = np.stack([(rng.random(count) ** 1.5 * levels).astype(int) for levels in CENSUS], 1)
    effects = [rng.normal(size=levels)[x[:, column]] for column, levels in enumerate(CENSUS)]
    together = rng.normal(size=(CENSUS[1], CENSUS[2]))[x[:, 1], x[:, 2]]
    scores = np.sum(effects, 0) + 1.5 * together + rng.normal(0, 0.6, count)
    y = (scores > np.quantile(scores, 0.6)).astype(int)
    inputs, targets = torch.tensor(x), torch.tensor(y)
    return Split(inputs[:train], targets[:train], inputs[train:], targets[train:])


@functools.cache
def genes(train: int) -> Split:
    """Three kinds of tissue by 2,000 genes: 60 differ, and ten hidden factors move all of them."""
    rng = default_rng(48)
    count = train + 1500
    y = rng.integers(3, size=count)
    means = np.zeros((3, 2000))
    means[:, :60] = rng.normal(0, 0.8, (3, 60))
    x = means[y] + 0.5 * rng.normal(size=(count, 10)) @ rng.normal(size=(10, 2000)) + rng.normal(size=(count, 2000))
    return split_rows(x, y, train)


@functools.cache
def spectra() -> Split:
    """Mixtures of five substances, each with three peaks at one of 96 wavelengths; inputs and targets."""
    rng = default_rng(49)
    wavelengths = np.linspace(0, 1, 96)
    centres, widths = rng.random((5, 3, 1)), rng.uniform(0.02, 0.06, (5, 3, 1))
    pure = (rng.uniform(0.3, 1, (5, 3, 1)) * np.exp(-(((wavelengths - centres) / widths) ** 2))).sum(1)
    shares = rng.dirichlet(np.full(5, 0.7), 6000) * rng.uniform(0.5, 2, (6000, 1))
    mixed = 1 - np.exp(-2 * shares @ pure) + rng.normal(0, 0.02, (6000, 96))
    x = torch.tensor((mixed - mixed.mean(0)) / mixed.std(), dtype=torch.float32)
    return Split(x[:4000], x[:4000], x[4000:], x[4000:])


@functools.cache
def ratings(users: int, items: int) -> Split:
    """Who likes what? Each row is a user, an item and the user's noisy rating; four tastes explain most of it."""
    rng = default_rng(27)
    pairs = np.stack([rng.integers(users, size=16000), rng.integers(items, size=16000)], 1)
    likes = rng.normal(size=(users, 4)), rng.normal(size=(items, 4))
    scores = (likes[0][pairs[:, 0]] * likes[1][pairs[:, 1]]).sum(1) / 2
    scores += rng.normal(size=users)[pairs[:, 0]] + rng.normal(size=items)[pairs[:, 1]] + rng.normal(0, 0.5, 16000)
    x, y = torch.tensor(pairs), torch.tensor((scores - scores.mean()) / scores.std(), dtype=torch.float32)[:, None]
    return Split(x[:12000], y[:12000], x[12000:], y[12000:])


@functools.cache
def bikes(train: int) -> Split:
    """Log of the bicycles hired in an hour, made up, from hour, day, weather and holiday as they come: -10 to 365."""
    rng = default_rng(62)
    count = train + 3000
    hour, day = rng.integers(24, size=count), rng.integers(1, 366, count)
    warmth = 12 - 11 * np.cos(2 * np.pi * (day - 20) / 365) + rng.normal(0, 4, count)  # degrees
    humidity, wind = rng.uniform(25, 100, count), rng.gamma(2, 7, count)
    holiday = rng.random(count) < 0.3
    rush = np.exp(-((hour - 8) ** 2) / 3) + 1.2 * np.exp(-((hour - 17.5) ** 2) / 5)
    leisure = np.exp(-((hour - 14) ** 2) / 20)
    demand = 0.15 + np.where(holiday, leisure, rush + 0.3 * leisure)
    demand = demand * np.exp(-(((warmth - 22) / 14) ** 2)) * np.where(humidity > 85, 0.5, 1) / (1 + wind / 40)
    x = np.stack([hour, day, warmth, humidity, wind, holiday], 1)
    return split_rows(x, np.log(demand + 0.02) + rng.normal(0, 0.15, count), train, normalise=False)


@functools.cache
def sensors(train: int) -> Split:
    """Which of five states is a machine in? Eight readings as they come: of units from hundredths to hundreds."""
    rng = default_rng(84)
    count = train + 3000
    state = rng.integers(5, size=count)
    units = np.array([0.02, 0.1, 0.5, 1.0, 3.0, 10.0, 50.0, 200.0])
    centres, spreads = rng.normal(0, 1, (5, 8)), rng.uniform(0.5, 1.4, (5, 8))
    drift = np.sin(rng.uniform(0, 2 * np.pi, (count, 1)) + np.arange(8))
    x = (4 + centres[state] + spreads[state] * rng.normal(size=(count, 8)) + drift) * units
    return split_rows(x, state, train, normalise=False)


@functools.cache
def fraud(train: int) -> Split:
    """Is a payment false? One in 33 is; validated on as many of either kind, so accuracy is the mean recall."""
    rng = default_rng(83)
    count = train + 60000
    amount, hour = rng.lognormal(3.5, 1.2, count), rng.uniform(0, 24, count)
    age, distance = rng.gamma(2, 3, count), rng.exponential(20, count)  # of the account, in years; km from home
    habits = rng.normal(size=(count, 6))
    night = np.cos(2 * np.pi * (hour - 3) / 24)
    risk = 0.8 * np.log(amount) + 0.9 * night - 0.15 * age + 0.02 * distance + habits[:, 0] * habits[:, 1]
    risk += np.maximum(habits[:, 2], 0) * 1.5 + rng.normal(0, 0.5, count)
    x = np.column_stack([np.log(amount), hour, age, distance, habits])
    split = split_rows(x, (risk > np.quantile(risk, 1 - 1 / 33)).astype(int), train)
    return equally_validated(split, 2, 1500)


@functools.cache
def loans(train: int) -> Split:
    """Will a debtor pay? One in 15 does not; validated on as many of either kind, so accuracy is the mean recall."""
    rng = default_rng(101)
    count = train + 40000
    income, debt = rng.lognormal(1.2, 0.5, count), rng.lognormal(0.5, 0.9, count)
    age, late = rng.uniform(20, 75, count), rng.poisson(0.7, count).astype(float)
    rate, term = rng.uniform(1, 14, count), rng.integers(1, 11, count).astype(float)
    burden = debt * (rate / 100 + 1 / term) / income
    risk = 3 * np.tanh(2 * burden) + 0.7 * late + 1.2 * (age < 27) + 0.1 * rate + rng.normal(0, 0.6, count)
    x = np.stack([np.log(income), np.log(debt), age, late, rate, term], 1)
    split = split_rows(x, (risk > np.quantile(risk, 14 / 15)).astype(int), train)
    return equally_validated(split, 2, 1500)


@functools.cache
def concrete(train: int) -> Split:
    """How strong is concrete, made up, by its kilograms of this and that a cubic metre and its age in days?"""
    rng = default_rng(100)
    count = train + 3000
    cement, slag = rng.uniform(100, 540, count), rng.uniform(0, 350, count) * (rng.random(count) < 0.6)
    water, softener = rng.uniform(125, 245, count), rng.uniform(0, 30, count) * (rng.random(count) < 0.6)
    coarse, fine = rng.uniform(800, 1140, count), rng.uniform(600, 990, count)
    age = rng.choice((1, 3, 7, 14, 28, 56, 90, 180, 365), count).astype(float)
    binder = cement + 0.6 * slag
    ripe = np.log1p(age) / np.log(29) * (1 - 0.3 * (slag > 0) * np.exp(-age / 20))
    strength = 96 / 6 ** ((water - 1.5 * softener) / binder) * ripe + 0.01 * (coarse - 0.5 * fine)
    x = np.stack([cement, slag, water, softener, coarse, fine, age], 1)
    return split_rows(x, strength + rng.normal(0, 4, count), train)


@functools.cache
def patients(train: int, normalise: bool = True) -> Split:
    """Is a heart ill? Every second is; made up, from nine findings, unnormalised of 0 to 230."""
    rng = default_rng(123)
    count = train + 3000
    age, weight, height = rng.uniform(25, 85, count), rng.normal(78, 14, count), rng.normal(1.72, 0.09, count)
    smokes, pain = rng.integers(2, size=count), rng.integers(4, size=count)
    pressure = 95 + 0.5 * age + 0.2 * weight + rng.normal(0, 12, count)
    pulse, lipids = 205 - 0.8 * age + rng.normal(0, 15, count), rng.normal(5.4, 1.1, count)
    sugar = rng.lognormal(1.7, 0.2, count)
    bulk, ache = weight / height**2, np.array([0, 1, 2.5, 0])[pain]
    risk = (age - 55) / 15 + smokes * np.maximum(age - 40, 0) / 20 + np.abs(bulk - 24) / 5 + ache
    risk += np.maximum(pressure - 140, 0) / 12 + (lipids - 5.4) - (pulse - 160) / 25 + rng.normal(0, 0.8, count)
    x = np.stack([age, weight, height, smokes, pain == 2, pressure, pulse, lipids, sugar], 1)
    return split_rows(x, (risk > np.median(risk)).astype(int), train, normalise=normalise)


@functools.cache
def mushrooms(train: int) -> Split:
    """Tasty, edible or poisonous? Seven looks, each one of a few, as zeros and ones; pairs of them tell."""
    rng = default_rng(126)
    count = train + 3000
    looks = np.stack([rng.integers(levels, size=count) for levels in LOOKS], 1)
    danger = rng.normal(0, 0.4, count)
    for first, second in ((0, 2), (2, 4), (1, 5), (3, 6)):
        danger += rng.normal(size=(LOOKS[first], LOOKS[second]))[looks[:, first], looks[:, second]]
    x = np.concatenate([np.eye(levels)[looks[:, column]] for column, levels in enumerate(LOOKS)], 1)
    return split_rows(x, np.digitize(danger, np.quantile(danger, (0.3, 0.7))), train)


@functools.cache
def defects(train: int) -> Split:
    """Is a screw bad, by ten measures? One in 12 is; validated on as many of either kind."""
    rng = default_rng(127)
    count = train + 40000
    hidden = rng.normal(size=(count, 4))
    x = hidden @ rng.normal(size=(4, 10)) + 0.4 * rng.normal(size=(count, 10))
    harm = np.abs(hidden[:, 0]) + np.maximum(hidden[:, 1], 0) * 1.5 + 0.7 * hidden[:, 2] * hidden[:, 3]
    harm += rng.normal(0, 0.2, count)
    split = split_rows(x, (harm > np.quantile(harm, 11 / 12)).astype(int), train)
    return equally_validated(split, 2, 1500)


@functools.cache
def flights(train: int, normalise: bool = True) -> Split:
    """How late does a plane land? Made up, from hour, weekday, weather and so on, unnormalised of -200 to 200."""
    rng = default_rng(140)
    count = train + 3000
    hour, weekday = rng.uniform(5, 24, count), rng.integers(7, size=count)
    distance, wind = rng.uniform(2, 30, count), rng.normal(0, 50, count)  # hundreds of km; km/h from ahead
    rain = rng.gamma(1.5, 2, count) * (rng.random(count) < 0.4)
    traffic = 20 + 14 * np.exp(-((hour - 8) ** 2) / 6) + 16 * np.exp(-((hour - 18) ** 2) / 8)
    traffic = traffic - 6 * (weekday >= 5) + rng.normal(0, 4, count)
    before = np.maximum(rng.normal(0, 25, count), -20)  # minutes late where it comes from
    late = 0.9 * np.maximum(before - 10, 0) + 0.03 * np.maximum(traffic - 24, 0) ** 2 * (1 + rain / 3)
    late += 0.01 * distance * wind + rng.normal(0, 4, count)
    x = np.stack([hour, weekday, distance, wind, rain, traffic, before], 1)
    return split_rows(x, late, train, normalise=normalise)


@functools.cache
def soils(train: int, share: float = 0.0) -> Split:
    """Six soils by nine measures that follow from sand, silt and clay; a ``share`` of the training classes wrong."""
    rng = default_rng(141)
    parts = rng.dirichlet((1.2, 1.2, 1.2), train + 3000)
    sites = np.array(
        [(0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8), (0.5, 0.4, 0.1), (0.4, 0.1, 0.5), (0.2, 0.4, 0.4)]
    )
    kinds = ((parts[:, None] - sites) ** 2).sum(2).argmin(1)
    measures = np.tanh(3 * (parts - 1 / 3) @ rng.normal(size=(3, 9))) + rng.normal(0, 0.2, (len(parts), 9))
    split = split_rows(measures, kinds, train)
    return split._replace(train_y=wrong(split.train_y, share, 6))


@functools.cache
def churn(train: int) -> Split:
    """Does a customer leave? One in ten does, made up; validated on as many of either kind."""
    rng = default_rng(142)
    count = train + 30000
    months, fee = rng.exponential(24, count), rng.uniform(10, 90, count)
    calls, complaints = rng.poisson(2, count), rng.poisson(0.5, count)
    bound, trend = rng.integers(3, size=count), rng.normal(size=count)
    age, used = rng.uniform(18, 80, count), rng.lognormal(3, 0.6, count)  # of gigabytes
    dear = np.log(fee / used)
    risk = np.exp(-months / 12) * (bound == 0) * 2 + 1.5 * complaints * (calls > 2) + np.maximum(dear - 0.5, 0)
    risk += np.maximum(-trend, 0) * (1.5 - 0.5 * bound) - 0.01 * age + rng.normal(0, 0.4, count)
    x = np.stack([months, fee, calls, complaints, bound, trend, age, np.log(used)], 1)
    split = split_rows(x, (risk > np.quantile(risk, 0.9)).astype(int), train)
    return equally_validated(split, 2, 1500)


@functools.cache
def worst_cells() -> Split:
    """Ten measures of the worst cells in a breast by those of its mean cells, 269 rows to train on."""
    from sklearn.datasets import load_breast_cancer

    measures = load_breast_cancer().data
    return split_rows(measures[:, :10], measures[:, 20:], train=269)
