"""Docstrings as Markdown: examples become code, and names of the public API become links."""

from __future__ import annotations

import re
from typing import Any

import griffe

import lrfind
import onecycle

EXAMPLE = re.compile(r"(?m)^([ \t]*)>>> .*(?:\n(?![ \t]*$).+)*")
ROLE = re.compile(r":(?:func|class|meth):`([^`]+)`")
PUBLIC = {f"{module.__name__}.{name}" for module in (lrfind, onecycle) for name in module.__all__}
# Arguments described together: `base_momentum, max_momentum: Momentum at ...` and its further, deeper lines.
SHARED = re.compile(r"(?m)^( +)(\w+(?:, \w+)+):(.*(?:\n\1 +.*)*)")
NAME = re.compile(r"(?<!`)(`{1,2})([a-z]+\.\w+)\1(?!`)")


class AsMarkdown(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Return a docstring with examples fenced, reST roles as code, public names linked, arguments one by one.

    >>> as_markdown("Like :func:`blend`, for ``onecycle.fit``.")
    'Like `blend`, for [`onecycle.fit`][onecycle.fit].'
    """
    text = ROLE.sub(r"`\1`", text)
    text = NAME.sub(lambda match: f"[`{match[2]}`][{match[2]}]" if match[2] in PUBLIC else match[0], text)
    text = SHARED.sub(_one_each, text)
    return EXAMPLE.sub(_fenced, text)


def _fenced(match: re.Match[str]) -> str:
    indent = match[1]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"


def _one_each(match: re.Match[str]) -> str:
    return "\n".join(f"{match[1]}{name}:{match[3]}" for name in match[2].split(", "))
