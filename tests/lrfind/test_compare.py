"""Tests of lrfind.compare: every curve has its row, whatever the others are."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from lrfind import LRCurve, compare, suggest
from lrfind.smoothing import read_shape

LR = np.geomspace(1e-5, 10, 100)


def curve(turn: float = 1.0, **settings) -> LRCurve:
    loss = 2.3 - 1.8 / (1 + (turn / 100 / LR) ** 1.5) + np.minimum((LR / turn) ** 3, 1e4)
    loss += 0.02 * np.random.default_rng(0).normal(size=len(LR))
    return LRCurve(**{"lr": LR, "loss": loss, "status": "diverged"} | settings)


def flat() -> LRCurve:
    return curve(loss=np.full(100, 2.0), status="range end")


def test_picks_are_those_of_suggest():
    """The same as each curve's own suggestion, by the default rule or another, in the order given."""
    curves = {"a": curve(), "b": curve(0.1)}

    for rule in (None, "minimum"):
        assert dict(compare(curves, rule).picks) == {name: suggest(each, rule) for name, each in curves.items()}
    assert list(compare(curves).curves) == ["a", "b"]


def test_a_curve_without_a_pick_keeps_its_row_and_its_reason():
    """It neither ends the comparison nor changes the other rows."""
    good, bad = compare({"bad": flat(), "good": curve()}).table()[::-1]

    assert good == compare({"good": curve()}).table()[0]
    assert bad["reason"].startswith("The loss never fell: from lr 1e-05 to 10 it stayed at 2")
    assert [bad[key] for key in ("max_lr", "low", "high", "rule", "lowest loss")] == [None] * 5
    assert (bad["ended"], bad["warnings"]) == ("range end", ())


def test_a_row_holds_the_numbers_as_they_are():
    """Unrounded, with the warnings; the lowest loss is that of the smoothed curve before it rises."""
    short = curve(lr=LR[:70], loss=curve().loss[:70], status="range end")
    (row,) = compare({"short": short}).table()
    pick = short.suggest()

    assert row == {
        "curve": "short",
        "max_lr": pick.lr,
        "low": pick.low,
        "high": pick.high,
        "rule": "level",
        "ended": "range end",
        "lowest loss": read_shape(short.lr, short.loss).lowest,
        "warnings": pick.warnings,
        "reason": "",
    }
    assert pick.warnings


def test_printed_it_is_a_table_with_remarks_below():
    """One line per curve in columns, then reasons and warnings, each after its curve's name."""
    short = curve(lr=LR[:70], loss=curve().loss[:70], status="range end")
    text = str(compare({"a long name": curve(), "short": short, "bad": flat()}))
    head, *rows = text.split("\n")

    assert head.split("  ")[0] == "curve"
    assert [row.index("level") for row in rows[:2]] == [head.index("rule")] * 2
    assert rows[2].split() == ["bad", "-", "-", "-", "-", "range", "end", "-"]
    assert rows[3].startswith("! bad: The loss never fell")
    assert rows[4].startswith("! short: The sweep ended at lr")
    assert repr(compare({"bad": flat()})) == str(compare({"bad": flat()}))


def test_it_does_not_change_with_the_dict_it_came_from():
    """A value: adding to the dict later changes nothing, and it can be copied and pickled."""
    curves = {"a": curve()}
    comparison = compare(curves)
    curves["b"] = curve()

    assert list(comparison.curves) == ["a"]
    with pytest.raises(AttributeError, match="cannot assign to field 'curves'"):
        comparison.curves = curves  # type: ignore[misc]
    for other in (copy.deepcopy(comparison), pickle.loads(pickle.dumps(comparison))):
        assert str(other) == str(comparison)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, r"curves must map names to curves, at least one; got \{\}"),
        ([curve()], r"curves must map names to curves, at least one; got \[LRCurve"),
        ({"a": curve(), "b": [1, 2]}, r"curves must map names to LRCurves; got a list for 'b'. Pass what range_test"),
    ],
)
def test_what_cannot_be_compared_is_refused(curves, message):
    """With what was given and what to pass."""
    with pytest.raises(ValueError, match=message):
        compare(curves)


def test_an_unknown_rule_is_no_missing_pick():
    """It is the caller's mistake, not a curve's."""
    with pytest.raises(ValueError, match=r"rule must be one of level, .* got 'best'"):
        compare({"a": curve()}, "best")
