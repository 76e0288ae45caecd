"""A cache that processes share: a file of JSON lines, each under a hash of what it is the result of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def key_of(content: str) -> str:
    """Return a key for what ``content`` says in words.

    >>> key_of("a task, a seed") == key_of("a task, a seed") != key_of("a task, another seed")
    True
    """
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield key and entry of every line, in the order written; none where there is no file."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # a line cut short when the process was killed
            continue
        yield entry.pop("key"), entry


def add(path: Path, key: str, entry: Mapping[str, Any]) -> None:
    """Add a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:  # one write, so that processes do not mix their lines
        file.write(json.dumps({"key": key, **entry}) + "\n")
