"""Text that ships with Python: its language reference, its standard library, Unicode's names."""

from __future__ import annotations

import ast
import functools
import importlib.util
import io
import keyword
import tokenize
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from numpy.random import default_rng
from torch import Tensor

from experiments.tasks.task import Split

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
AUTHORS = ("configparser", "shutil", "smtplib", "statistics", "subprocess", "typing", "pickle", "ipaddress")
COMMENTED = (
    "dataclasses",
    "heapq",
    "locale",
    "pdb",
    "pickletools",
    "profile",
    "pydoc",
    "statistics",
    "typing",
    "_pydecimal",
    "argparse",
    "datetime",
    "difflib",
    "doctest",
    "enum",
    "inspect",
    "optparse",
    "platform",
    "subprocess",
    "tarfile",
    "threading",
)
SYMBOLS = " ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-\n"  # of the names of Unicode's characters
DOCUMENTED = (
    "asyncio.base_events",
    "_pydecimal",
    "_pyio",
    "collections",
    "contextlib",
    "datetime",
    "email.message",
    "enum",
    "fractions",
    "ftplib",
    "functools",
    "http.client",
    "imaplib",
    "logging",
    "pathlib",
    "platform",
    "random",
    "socket",
    "ssl",
    "textwrap",
    "threading",
    "unittest.case",
    "urllib.request",
    "xml.etree.ElementTree",
    "zipfile",
)
QUOTED = (
    "argparse",
    "ast",
    "configparser",
    "ctypes.util",
    "dataclasses",
    "decimal",
    "email._header_value_parser",
    "ftplib",
    "http.cookiejar",
    "inspect",
    "ipaddress",
    "locale",
    "mimetypes",
    "optparse",
    "pdb",
    "pickletools",
    "pydoc",
    "shutil",
    "ssl",
    "tarfile",
    "typing",
    "unittest.mock",
    "uuid",
    "webbrowser",
    "zipfile",
)
READ = (
    "_pydecimal",
    "_pyio",
    "argparse",
    "ast",
    "asyncio.base_events",
    "collections",
    "configparser",
    "datetime",
    "dataclasses",
    "email.message",
    "ftplib",
    "http.client",
    "http.cookiejar",
    "imaplib",
    "inspect",
    "logging",
    "optparse",
    "pickle",
    "platform",
    "shutil",
    "socket",
    "statistics",
    "subprocess",
    "tarfile",
    "threading",
    "typing",
    "unittest.case",
    "unittest.mock",
    "urllib.request",
    "xml.etree.ElementTree",
    "zipfile",
)
STATEMENTS = ("def", "for", "from", "if", "raise", "return")
NAME = 32  # characters of a name


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


def stretches(codes: Sequence[int], length: int, train: int) -> Split:
    """Stretches of ``length`` codes and, as targets, the next code at every place; every sixth 50 validate."""
    windows = torch.tensor(codes).unfold(0, length + 1, length + 1)
    validate = torch.arange(len(windows)) // 50 % 6 == 5
    x, y = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
    return Split(x[~validate][:train], y[~validate][:train], x[validate][:1000], y[validate][:1000])


@functools.cache
def snippets(length: int, train: int) -> Split:
    """Which of eight modules does a stretch of ``length`` characters come from?"""
    parts = [encode(source(module)).unfold(0, length, length // 2) for module in AUTHORS]
    x = torch.cat(parts)
    y = torch.cat([torch.full((len(part),), label) for label, part in enumerate(parts)])
    # In blocks, so that no stretch to validate shares characters with one to train on, but for the blocks' ends.
    blocks = torch.arange(len(x)) // 40
    chosen = torch.from_numpy(default_rng(52).permutation(len(x)))
    validate = (blocks % 4 == 3)[chosen]
    return Split(
        x[chosen][~validate][:train],
        y[chosen][~validate][:train],
        x[chosen][validate][:2000],
        y[chosen][validate][:2000],
    )


@functools.cache
def _comments() -> Tensor:
    """Codes of the comments of Python's standard library, one a line, without the sharps."""
    found = [
        text
        for module in COMMENTED
        for each in tokenize.generate_tokens(io.StringIO(source(module)).readline)
        if each.type == tokenize.COMMENT and (text := each.string.strip("#-= "))
    ]
    return encode("\n".join(found))


@functools.cache
def comments(length: int, train: int) -> Split:
    """Stretches of comments; targets are the characters that follow each."""
    return stretches(_comments().tolist(), length, train)


@functools.cache
def before_and_next(context: int) -> Split:
    """``context`` characters of comments and the one that follows; every tenth 1,500 validate."""
    codes = _comments()
    blocks = codes[: len(codes) // 1500 * 1500].view(-1, 1500)
    validate = torch.arange(len(blocks)) % 10 == 9
    train, val = (part.unfold(1, context + 1, 2).flatten(0, 1) for part in (blocks[~validate], blocks[validate]))
    val = val[torch.from_numpy(default_rng(86).permutation(len(val))[:5000])]
    return Split(*(part.contiguous() for part in (train[:, :-1], train[:, -1], val[:, :-1], val[:, -1])))


@functools.cache
def unicode_names(length: int, train: int) -> Split:
    """Stretches of the names of Unicode's characters below 0x3000, in any order; targets are what follows each."""
    found = [name for code in range(0x3000) if (name := unicodedata.name(chr(code), ""))]
    order = default_rng(87).permutation(len(found))
    text = "\n".join(found[index] for index in order)
    return stretches([SYMBOLS.index(symbol) for symbol in text], length, train)


@functools.cache
def docstrings(length: int, train: int) -> Split:
    """Stretches of docstrings of Python's standard library; targets are the characters that follow each."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        text
        for module in DOCUMENTED
        for node in ast.walk(ast.parse(source(module)))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
    ]
    return stretches(encode("\n\n".join(found)).tolist(), length, train)


@functools.cache
def strings(length: int, train: int) -> Split:
    """Stretches of the strings of more than a word in Python's standard library; targets are what follows each."""
    found = [
        text
        for module in QUOTED
        for node in ast.walk(ast.parse(source(module)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in (text := node.value.strip())
    ]
    return stretches(encode("\n".join(found)).tolist(), length, train)


@functools.cache
def identifiers() -> tuple[str, ...]:
    """The names of four letters or more in the code of Python's standard library, once each, in any order."""
    found = {
        each.string
        for module in QUOTED
        for each in tokenize.generate_tokens(io.StringIO(source(module)).readline)
        if each.type == tokenize.NAME and len(each.string) >= 4 and each.string.isascii()
    }
    names = sorted(name for name in found if not keyword.iskeyword(name))
    return tuple(names[index] for index in default_rng(106).permutation(len(names)))


@functools.cache
def next_of_name(context: int) -> Split:
    """``context`` characters of a name, blanks before its first, and the one that follows; every tenth name validates.

    The last of every name is a line feed.
    """
    parts: dict[bool, list[Tensor]] = {False: [], True: []}
    for index, name in enumerate(identifiers()):
        codes = torch.cat([torch.zeros(context, dtype=torch.long), encode(name + "\n")])
        parts[index % 10 == 9].append(codes.unfold(0, context + 1, 1))
    train, val = torch.cat(parts[False]), torch.cat(parts[True])
    assert int(train.max()) == VOCABULARY - 1
    return Split(*(part.contiguous() for part in (train[:, :-1], train[:, -1], val[:, :-1], val[:, -1])))


@functools.cache
def _lines_of_code() -> tuple[str, ...]:
    """Lines of Python's standard library without their indents, once each, in any order."""
    found = sorted({line.strip() for module in READ for line in source(module).splitlines()})
    return tuple(found[index] for index in default_rng(129).permutation(len(found)))


@functools.cache
def signatures(length: int, train: int) -> Split:
    """Stretches of the first lines of functions and classes; targets are the characters that follow each."""
    found = [line for line in _lines_of_code() if line.startswith(("def ", "class "))]
    return stretches(encode("\n".join(found)).tolist(), length, train)


@functools.cache
def next_of_signature(context: int) -> Split:
    """``context`` characters of the first lines of functions and classes, and the one that follows."""
    parts = signatures(context, 20000)
    return Split(parts.train_x, parts.train_y[:, -1].contiguous(), parts.val_x, parts.val_y[:, -1].contiguous())


@functools.cache
def statements(length: int, most: int) -> Split:
    """With which keyword does a line of code begin? The ``length`` characters behind it; ``most`` of each kind."""
    rows, kinds = [], []
    for kind, word in enumerate(STATEMENTS):
        found = [line.removeprefix(word + " ") for line in _lines_of_code() if line.startswith(word + " ")]
        for rest in found[:most]:
            rows.append(encode(rest[:length].ljust(length)))
            kinds.append(kind)
    order = torch.from_numpy(default_rng(130).permutation(len(rows)))
    x, y = torch.stack(rows)[order], torch.tensor(kinds)[order]
    return Split(x[1200:], y[1200:], x[:1200], y[:1200])


@functools.cache
def names() -> Split:
    """Is a character of Unicode a letter, a mark, a digit or a symbol, and of which sort? By its name."""
    kinds = ("Ll", "Lu", "Lo", "Mn", "No", "Po", "Sm", "So")
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    for code in range(0x1F900):
        name = unicodedata.name(chr(code), "")
        kind = unicodedata.category(chr(code))
        if kind in found and name and not name.startswith(("CJK", "HANGUL")):
            found[kind].append(name)
    rng = default_rng(31)
    rows = [
        (name, label)
        for label, kind in enumerate(kinds)
        for name in (found[kind][place] for place in rng.permutation(len(found[kind]))[:1200])
    ]
    rows = [rows[place] for place in rng.permutation(len(rows))]
    codes = [[ord(character) - 32 for character in f"{name:{NAME}}"[-NAME:]] for name, _ in rows]
    x, y = torch.tensor(codes), torch.tensor([label for _, label in rows])
    return Split(x[2500:], y[2500:], x[:2500], y[:2500])
