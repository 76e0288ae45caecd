"""Text that ships with Python: its language reference and the source of its standard library."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch
from numpy.random import default_rng
from torch import Tensor, nn

from experiments.tasks.nets import BagOfTokens, CharRNN, CharTransformer, char_mlp
from experiments.tasks.optimizers import adagrad, adam, adamw, nesterov, rmsprop, sgd
from experiments.tasks.task import Split, Task, task

VOCABULARY = 96  # printable ASCII and the line feed
LENGTH = 24  # characters that a sequence model sees
CONTEXT = 8  # characters that a window model sees
MODULES = (
    "argparse",
    "ast",
    "calendar",
    "difflib",
    "doctest",
    "inspect",
    "mailbox",
    "optparse",
    "tarfile",
    "turtle",
)


def encode(text: str) -> Tensor:
    """Codes of the printable characters and line feeds of ``text``, 0 to ``VOCABULARY - 1``."""
    codes = torch.tensor([ord(character) for character in text if character == "\n" or " " <= character <= "~"])
    return torch.where(codes == 10, VOCABULARY - 1, codes - 32)


@functools.cache
def source(module: str) -> str:
    """The source of a module of the standard library."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


@functools.cache
def _corpus(name: str) -> Tensor:
    """Codes of "topics" (the language reference, English) or "code" (the modules' source)."""
    if name == "code":
        return encode("\n".join(map(source, MODULES)))
    from pydoc_data.topics import topics

    return encode("\n".join(topics[key] for key in sorted(topics)))


def _halves(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Every tenth stretch of 2,000 characters to validate, the others to train."""
    stretches = codes[: len(codes) // 2000 * 2000].view(-1, 2000)
    validate = torch.arange(len(stretches)) % 10 == 9
    return stretches[~validate], stretches[validate]


@functools.cache
def sequences(corpus: str, train_characters: int | None = None) -> Split:
    """Stretches of ``LENGTH`` characters; targets are the characters that follow each."""
    parts = []
    for stretches in _halves(_corpus(corpus)):
        windows = stretches.unfold(1, LENGTH + 1, LENGTH + 1).flatten(0, 1)
        parts.append((windows[:, :-1].contiguous(), windows[:, 1:].contiguous()))
    (train_x, train_y), (val_x, val_y) = parts
    count = len(train_x) if train_characters is None else train_characters // (LENGTH + 1)
    return Split(train_x[:count], train_y[:count], val_x[:800], val_y[:800])


@functools.cache
def windows(corpus: str) -> Split:
    """``CONTEXT`` characters and the one that follows."""
    train, val = (stretches.unfold(1, CONTEXT + 1, 3).flatten(0, 1) for stretches in _halves(_corpus(corpus)))
    chosen = torch.from_numpy(default_rng(0).permutation(len(val))[:8000])
    val = val[chosen]
    return Split(*(part.contiguous() for part in (train[:, :-1], train[:, -1], val[:, :-1], val[:, -1])))


@functools.cache
def lines() -> Split:
    """Which module does a line of code come from? Its trigrams as 24 hashed tokens."""
    tokens, modules = [], []
    for label, module in enumerate(MODULES):
        for line in source(module).splitlines():
            codes = encode(line.strip())
            if len(codes) >= 12:
                trigrams = codes.unfold(0, 3, 1) @ torch.tensor([1, 97, 9409])
                tokens.append((trigrams % 4001).repeat(1 + 24 // len(trigrams))[:24])
                modules.append(label)
    order = torch.from_numpy(default_rng(0).permutation(len(tokens)))
    x, y = torch.stack(tokens)[order], torch.tensor(modules)[order]
    return Split(x[4000:], y[4000:], x[:4000], y[:4000])


TASKS: list[Task] = [
    task(
        "topics-transformer-adamw-b32",
        350,
        functools.partial(sequences, "topics"),
        lambda: CharTransformer(VOCABULARY, LENGTH, 32, 2),
        adamw(),
        32,
    ),
    task(
        "code-transformer-sgd-b32-clip1",
        350,
        functools.partial(sequences, "code"),
        lambda: CharTransformer(VOCABULARY, LENGTH, 32, 1),
        sgd(),
        32,
        clip=1.0,
    ),
    task(
        "topics4k-transformer-adam-b16",
        400,
        functools.partial(sequences, "topics", 4000),
        lambda: CharTransformer(VOCABULARY, LENGTH, 32, 1),
        adam(),
        16,
    ),
    task(
        "topics-gru-adam-b32",
        250,
        functools.partial(sequences, "topics"),
        lambda: CharRNN(nn.GRU, VOCABULARY, 24, 48),
        adam(),
        32,
    ),
    task(
        "code-lstm-sgd-b16-clip",
        500,
        functools.partial(sequences, "code"),
        lambda: CharRNN(nn.LSTM, VOCABULARY, 24, 64),
        sgd(),
        16,
        clip=0.5,
    ),
    task(
        "code-gru-rmsprop-b64",
        200,
        functools.partial(sequences, "code"),
        lambda: CharRNN(nn.GRU, VOCABULARY, 24, 32),
        rmsprop(),
        64,
    ),
    task(
        "topics-charmlp-nesterov-b256",
        500,
        functools.partial(windows, "topics"),
        lambda: char_mlp(VOCABULARY, CONTEXT, 16, 128),
        nesterov(),
        256,
    ),
    task(
        "code-charmlp-adamw-b128-decay1",
        600,
        functools.partial(windows, "code"),
        lambda: char_mlp(VOCABULARY, CONTEXT, 16, 96),
        adamw(weight_decay=1.0),
        128,
    ),
    task("lines-bag-adagrad-b64", 500, lines, lambda: BagOfTokens(4001, 32, 10), adagrad(), 64),
]
