"""Series and sequences made here."""

from __future__ import annotations

import functools

from torch import nn

from experiments.tasks.nets import CharRNN, RowRNN, Tagger, mlp, wave_cnn
from experiments.tasks.optimizers import adam, rmsprop, sgd
from experiments.tasks.splits.series import (
    BASE,
    BRACKETS,
    brackets,
    flat_waves,
    mackey_glass,
    marked_sums,
    series,
    shuffled_numbers,
    sums,
    waves,
    waves_by_row,
)
from experiments.tasks.task import Task, task

TASKS: list[Task] = [
    task(
        "brackets-gru-rmsprop-b64-clip1",
        400,
        functools.partial(brackets, 20, 5000),
        lambda: CharRNN(nn.GRU, BRACKETS + 1, 8, 32),
        rmsprop(),
        64,
        clip=1.0,
    ),
    task(
        "mackeyglass-gru-sgd-b64-clip1",
        300,
        functools.partial(mackey_glass, 16, 4000, 8, 0.05),
        lambda: RowRNN(1, 24, 1),
        sgd(),
        64,
        score="r2",
        clip=1.0,
    ),
    task(
        "series-gru-adam-b128-clip",
        200,
        functools.partial(series, 28, 4),
        lambda: RowRNN(1, 32, 4),
        adam(),
        128,
        score="r2",
        clip=0.5,
    ),
    task(
        "sorting-transformer-adam-b64",
        300,
        functools.partial(shuffled_numbers, 8, 5000),
        lambda: Tagger(10, 8, 32, 2, 10),
        adam(),
        64,
    ),
    task(
        "sums-gru-adam-b64-clip1",
        400,
        functools.partial(marked_sums, 16),
        lambda: RowRNN(2, 32, 1),
        adam(),
        64,
        score="r2",
        clip=1.0,
    ),
    task(
        "sums-lstm-rmsprop-b32-clip1",
        250,
        functools.partial(sums, 12, 8000),
        lambda: CharRNN(nn.LSTM, BASE**2, 16, 32),
        rmsprop(),
        32,
        clip=1.0,
    ),
    task(
        "waves-autoencoder-sgd-b64",
        400,
        functools.partial(flat_waves, 48, 0.1),
        lambda: mlp(48, 48, 8, 48, 48, act=nn.Tanh),
        sgd(),
        64,
        score="r2",
    ),
    task(
        "waves-cnnbn-sgd-b128",
        200,
        functools.partial(waves, 64, 0.6),
        lambda: wave_cnn(16, 6),
        sgd(),
        128,
    ),
    task(
        "waves-lstm-rmsprop-b32-clip1",
        300,
        functools.partial(waves_by_row, 32, 0.3),
        lambda: RowRNN(1, 32, 6, nn.LSTM),
        rmsprop(),
        32,
        clip=1.0,
    ),
]
