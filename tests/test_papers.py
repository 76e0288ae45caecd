"""CHANGELOG.md, CONTRIBUTING.md and CITATION.cff agree with the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_is_of_this_version_and_names_the_papers():
    """Smith 2015 and 2018, Smith and Topin 2017; and what the format asks for."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML (extra docs)")
    citation = yaml.safe_load(read("CITATION.cff"))

    papers = {identifier["value"] for paper in citation["references"] for identifier in paper["identifiers"]}

    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert papers == {"arXiv:1506.01186", "arXiv:1708.07120", "arXiv:1803.09820"}
    assert all({"type", "title", "authors"} <= paper.keys() for paper in citation["references"])


def test_the_changelog_begins_with_this_version():
    """Released or not."""
    first = re.search(r"^## (.+)$", read("CHANGELOG.md"), flags=re.MULTILINE)

    assert first is not None
    assert PROJECT["version"] in first[1]


def test_every_command_and_place_that_contributing_names_is_there():
    """``make test`` and its like, and the folders."""
    text, makefile = read("CONTRIBUTING.md"), read("Makefile")

    assert all(re.search(rf"^{name}:", makefile, flags=re.MULTILINE) for name in re.findall(r"^make (\w+)", text, re.M))
    assert all((ROOT / place).is_dir() for place in re.findall(r"^\| `(\w+/)`", text, flags=re.MULTILINE))
