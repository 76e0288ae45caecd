"""Text as words, and code as tokens: those that ship with Python."""

from __future__ import annotations

import functools
import io
import keyword
import re
import token
import tokenize
from collections import Counter

import torch
from numpy.random import default_rng
from torch import Tensor

from experiments.tasks.splits.text import MODULES, encode, source, stretches
from experiments.tasks.task import Split

AROUND_WORDS = 600  # that the word model knows; the first stands for all others
READ_WORDS = 500  # that the model of text knows; the first stands for all others
TOKENS = 400  # that the model of code knows, of which the first eight stand for all others of a kind
TAGS = 6  # of characters of code: blank, name, keyword, number or operator, string, comment


@functools.cache
def context(reach: int) -> Split:
    """Words of Python's language reference from the ``reach`` before and after them."""
    from pydoc_data.topics import topics

    words = re.findall("[a-z]+", "\n".join(topics[key] for key in sorted(topics)).lower())
    known = {word: number for number, (word, _) in enumerate(Counter(words).most_common(AROUND_WORDS - 1), start=1)}
    codes = torch.tensor([known.get(word, 0) for word in words])
    around = codes.unfold(0, 2 * reach + 1, 1)
    around = around[around[:, reach] > 0]
    x, y = torch.cat([around[:, :reach], around[:, reach + 1 :]], 1), around[:, reach]
    validate = torch.arange(len(y)) // 500 % 8 == 7
    return Split(x[~validate], y[~validate], x[validate], y[validate])


@functools.cache
def words(length: int, train: int) -> Split:
    """Words and stops of Python's language reference, one after the other."""
    from pydoc_data.topics import topics

    found = re.findall("[a-z]+|[.,:()]", "\n".join(topics[key] for key in sorted(topics)).lower())
    known = {word: number for number, (word, _) in enumerate(Counter(found).most_common(READ_WORDS - 1), start=1)}
    return stretches([known.get(word, 0) for word in found], length, train)


@functools.cache
def code_tokens(length: int, train: int) -> Split:
    """Tokens of Python's standard library: the commonest by themselves, others by their kind."""
    kinds = (token.NAME, token.NUMBER, token.STRING, token.OP, token.NEWLINE, token.INDENT, token.DEDENT)
    alone = (token.NEWLINE, token.INDENT, token.DEDENT)
    found = [
        (each.type, "" if each.type in alone else each.string)
        for module in MODULES
        for each in tokenize.generate_tokens(io.StringIO(source(module)).readline)
        if each.type in kinds
    ]
    common = Counter(each for each in found if each[0] not in (*alone, token.STRING)).most_common(TOKENS - 8)
    known = {each: number for number, (each, _) in enumerate(common, start=8)}
    return stretches([known.get(each, kinds.index(each[0])) for each in found], length, train)


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


@functools.cache
def syntax(length: int, train: int) -> Split:
    """Stretches of code of Python's standard library; targets are the kinds of the characters (``TAGS``)."""
    x, y = (torch.cat(parts) for parts in zip(*map(_tagged, MODULES), strict=True))
    windows, tags = (part[: len(part) // length * length].view(-1, length) for part in (x, y))
    validate = torch.arange(len(windows)) // 50 % 6 == 5
    order = torch.from_numpy(default_rng(68).permutation(int((~validate).sum()))[:train])
    return Split(windows[~validate][order], tags[~validate][order], windows[validate][:1000], tags[validate][:1000])


def _tagged(module: str) -> tuple[Tensor, Tensor]:
    """Codes of the characters of a module, and their kinds."""
    text = source(module)
    lines = text.splitlines(keepends=True)
    tags = [[0] * len(line) for line in lines]
    kinds = {tokenize.NAME: 1, tokenize.NUMBER: 3, tokenize.OP: 3, tokenize.STRING: 4, tokenize.COMMENT: 5}
    for each in tokenize.generate_tokens(io.StringIO(text).readline):
        # An f-string is one token or, from Python 3.12 on, several.
        kind = 4 if tokenize.tok_name[each.type].startswith("FSTRING") else kinds.get(each.type, 0)
        kind = 2 if kind == 1 and keyword.iskeyword(each.string) else kind
        (first, left), (last, right) = each.start, each.end
        for row in range(first, min(last, len(lines)) + 1):
            begin, end = left if row == first else 0, right if row == last else len(lines[row - 1])
            for place in range(begin, min(end, len(lines[row - 1]))):
                tags[row - 1][place] = kind
    kept = [
        tag
        for line, row in zip(lines, tags, strict=True)
        for tag, character in zip(row, line, strict=True)
        if character == "\n" or " " <= character <= "~"
    ]
    return encode(text), torch.tensor(kept)
