"""Tests of lrfind.curve: what a curve is, and that files give it back."""

from __future__ import annotations

import copy
import csv
import json
import math
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrfind.curve import STATUSES, LRCurve

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
FACTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def curves(draw: st.DrawFn, replicates: int = 2) -> LRCurve:
    losses = draw(st.lists(FLOATS, max_size=12))
    rate = st.floats(1e-300, 1e300)
    lr = sorted(draw(st.lists(rate, min_size=len(losses), max_size=len(losses))))
    groups = draw(st.integers(1, 3))
    rows = [draw(st.lists(st.just(0.0) | rate, min_size=len(losses), max_size=len(losses))) for _ in range(groups)]
    more = draw(st.lists(curves(replicates=0), max_size=replicates)) if replicates else []
    facts = draw(st.dictionaries(st.text(max_size=4), FACTS, max_size=3))
    rows_array = np.array(rows, dtype=float).reshape(groups, len(losses))
    return LRCurve(lr, losses, draw(st.sampled_from(STATUSES)), group_lrs=rows_array, facts=facts, replicates=more)


def bits(array: np.ndarray) -> list[str]:
    return ["nan" if math.isnan(value) else float(value).hex() for value in array.ravel()]


def contents(curve: LRCurve) -> Any:
    facts = repr(curve.facts)  # nan equals nan there
    return (
        bits(curve.lr),
        bits(curve.loss),
        curve.status,
        curve.group_lrs.shape,
        bits(curve.group_lrs),
        facts,
        [contents(replicate) for replicate in curve.replicates],
    )


def a_curve(**changes: Any) -> LRCurve:
    given_: dict[str, Any] = {"lr": [0.01, 0.1, 1.0], "loss": [2.0, 1.0, math.nan], "status": "non-finite"}
    return LRCurve(**(given_ | changes))


def test_sequences_become_read_only_float64_arrays():
    """Lists are welcome; the arrays cannot be written to, nor changed through what was given."""
    losses = np.array([2, 1, 3])
    curve = a_curve(loss=losses)
    losses[0] = 99

    assert (curve.lr.dtype, curve.loss.dtype, curve.group_lrs.shape) == (np.float64, np.float64, (1, 3))
    assert curve.loss.tolist() == [2.0, 1.0, 3.0]
    for array in (curve.lr, curve.loss, curve.group_lrs):
        with pytest.raises(ValueError, match="read-only"):
            array[..., 0] = 1.0
    with pytest.raises(FrozenInstanceError):
        curve.status = "diverged"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": [1.0, 2.0]}, r"got shapes \(3,\) and \(2,\)\. Give one lr and one loss per optimizer step"),
        ({"lr": [[0.1, 0.2, 0.3]], "loss": [[1, 1, 1]]}, r"must be flat"),
        ({"lr": [0.1, math.nan, 1.0]}, r"lr must be finite and above 0; got lr=nan at step 1"),
        ({"lr": [0.0, 0.1, 1.0]}, r"got lr=0\.0 at step 0"),
        ({"lr": [0.1, 1.0, math.inf]}, r"got lr=inf at step 2"),
        ({"lr": [1.0, 0.1, 2.0]}, r"lr must never fall; got 1\.0, then 0\.1 at step 1\. .*swap start_lr and end_lr"),
        ({"status": "fine"}, r"status must be one of 'diverged', .*; got 'fine'"),
        ({"group_lrs": [0.1, 0.2, 0.3]}, r"group_lrs must have the shape \(groups, 3\).*got \(3,\)"),
        ({"group_lrs": [[0.1], [0.2], [0.3]]}, r"got \(3, 1\)\. Transpose it"),
        ({"group_lrs": [[0.1, -0.1, 1.0]]}, r"group_lrs must be finite and at least 0"),
    ],
)
def test_what_is_no_sweep_is_refused(changes, message):
    """A curve that cannot come from a sweep is refused when it is built, with what was given and what to do."""
    with pytest.raises(ValueError, match=message):
        a_curve(**changes)


def test_a_fact_that_json_cannot_hold_is_refused_by_name():
    """Facts are checked when the curve is built, not when a long run wants to save it."""
    with pytest.raises(TypeError, match=r"facts\['model'\]\[1\] must be a JSON value .*; got object"):
        a_curve(facts={"model": [1, object()]})


def test_numpy_facts_become_plain_numbers():
    """numpy scalars and tuples are stored as what JSON gives back."""
    facts = a_curve(facts={"a": np.float32(0.5), "b": np.int64(3), "c": (1, np.bool_(True))}).facts

    assert facts == {"a": 0.5, "b": 3, "c": [1, True]}
    assert [type(value) for value in facts.values()] == [float, int, list]


def test_equal_neighbouring_rates_are_allowed():
    """A history of another tool may repeat a rate; the curve takes it and smooths it."""
    assert np.isfinite(a_curve(lr=[0.1, 0.1, 0.1]).smoothed()[:2]).all()


@given(curve=curves())
def test_a_file_gives_back_every_bit(curve, tmp_path_factory):
    """save and load: equal to the last bit, nan, inf, groups, facts and replicates included; strict JSON."""
    path = tmp_path_factory.mktemp("curve") / "curve.json"
    curve.save(path)

    def refuse(token: str) -> float:
        raise AssertionError(f"{token} is not JSON")

    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert contents(LRCurve.load(path)) == contents(curve)
    assert [file.name for file in path.parent.iterdir()] == ["curve.json"]


@given(curve=curves())
def test_copies_and_pickles_are_equal(curve):
    """A curve travels between processes, and replace() keeps the rest."""
    assert contents(pickle.loads(pickle.dumps(curve))) == contents(curve)
    assert contents(copy.deepcopy(curve)) == contents(curve)
    assert contents(replace(replace(curve, status="interrupted"), status=curve.status)) == contents(curve)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """A save that dies half way leaves the file that was there, and no litter."""
    path = tmp_path / "curve.json"
    a_curve().save(path)
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))

    with pytest.raises(OSError, match="disk full"):
        a_curve(loss=[9.0, 9.0, 9.0]).save(path)

    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["curve.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,lr\n0,0.1\n", r"is not a saved LRCurve: not JSON .*Give a file written by LRCurve\.save"),
        ("[1, 2]", r"is not a saved LRCurve: \"format\" is not 'lrfind curve'"),
        ('{"lr": [0.1], "loss": [1.0]}', r"is not a saved LRCurve: .*LRCurve\.from_history"),
        ('{"format": "lrfind curve", "version": 7}', r"format version 7; this lrfind reads version 1\. Upgrade"),
        ('{"format": "lrfind curve", "version": 1, "lr": [0.1]}', r"is a damaged LRCurve file: KeyError\('loss'\)"),
    ],
)
def test_another_file_is_refused_with_the_reason(text, message, tmp_path):
    """load says what is wrong with a file that is no curve."""
    path = tmp_path / "other.json"
    path.write_text(text)

    with pytest.raises(ValueError, match=message):
        LRCurve.load(path)


def test_csv_has_a_row_per_step_and_a_column_per_group(tmp_path):
    """to_csv: step, lr, the groups' rates when there are several, raw and smoothed loss, all digits."""
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    a_curve().to_csv(one)
    a_curve(group_lrs=[[0.01, 0.1, 1.0], [0.001, 0.01, 1 / 3]]).to_csv(two)

    rows = list(csv.DictReader(one.read_text().splitlines()))
    assert list(rows[0]) == ["step", "lr", "loss", "smoothed_loss"]
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert [float(row["smoothed_loss"]) for row in rows][:2] == a_curve().smoothed()[:2].tolist()
    assert math.isnan(float(rows[2]["loss"]))
    rows = list(csv.DictReader(two.read_text().splitlines()))
    assert list(rows[0]) == ["step", "lr", "lr_0", "lr_1", "loss", "smoothed_loss"]
    assert float(rows[2]["lr_1"]) == 1 / 3


def falling(steps: int) -> list[float]:
    return np.linspace(2.0, 1.0, steps).tolist()


@pytest.mark.parametrize(
    ("losses", "status"),
    [
        (falling(9), "too few points"),
        (falling(40), "range end"),
        ([*falling(40), 1.1, 1.4, 2.5, 5.1], "diverged"),  # above 5 times the best: that tool's own stop
        ([*falling(40), *[4.0] * 15], "diverged"),  # its stop set higher
        ([*falling(40), 3.0, math.nan, math.nan], "non-finite"),
        ([-loss for loss in falling(40)][::-1], "range end"),
    ],
)
def test_history_tells_how_the_sweep_ended(losses, status):
    """from_history infers the status from the losses, and notes that they are not raw."""
    history = {"lr": np.geomspace(1e-5, 1, len(losses)).tolist(), "loss": losses}

    curve = LRCurve.from_history(history)

    assert curve.status == status
    assert "not raw" in curve.facts["notes"][0]


def test_history_without_losses_is_refused():
    """from_history names the keys it needs and those it got."""
    with pytest.raises(ValueError, match=r"must have the keys 'lr' and 'loss'; got \['lr'\]\. Give finder\.history"):
        LRCurve.from_history({"lr": [0.1]})


@pytest.mark.parametrize(
    ("curve", "text"),
    [
        (LRCurve([], [], "too few points"), "LRCurve(no points, status 'too few points')"),
        (LRCurve([0.1], [math.nan], "non-finite"), "LRCurve(1 point, lr 0.1 to 0.1, loss nan at the start, never"),
        (a_curve(replicates=[a_curve()]), "2 at the start, 1 at best, status 'non-finite', 1 replicates)"),
    ],
)
def test_repr_fits_a_line_of_a_notebook(curve, text):
    """repr tells size, range, losses and status, not a hundred numbers."""
    assert text in repr(curve)
    assert "\n" not in repr(curve)


def test_length_is_the_number_of_points():
    """len(curve) counts points, so that an empty curve is false."""
    assert (len(a_curve()), len(LRCurve([], [], "interrupted"))) == (3, 0)
