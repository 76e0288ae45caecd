"""onecycle.reports.page: one file with everything in it, and nothing of it taken for HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrfind import palette
from onecycle import Run, report
from onecycle.cli import main
from onecycle.reports import page
from onecycle.reports.record import Record, records

Make = Callable[..., Record]
STATIC = files("onecycle.reports") / "static"


def data_of(path: Path) -> dict[str, Any]:
    """Return the numbers in a report; anything but standard JSON is an error."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text, parse_constant=refuse)


def run_of(record: Record) -> Run:
    return Run(0.1, record.cycle, None, None, record.history, "finished", notes=record.notes)


@pytest.mark.parametrize("kind", ["picked", "given", "diverged", "killed", "started", "hostile"])
def test_every_kind_of_run_has_a_report(runs: dict[str, Path], tmp_path: Path, kind: str):
    """Written where asked, in strict JSON, with no address of any host in it, and nothing left beside it."""
    path = report(runs[kind], out=tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == [path]
    assert data_of(path)["charts"]
    assert "://" not in path.read_text()


def test_numbers_that_are_none_are_json(record: Make, tmp_path: Path):
    """A history of NaN and inf."""
    values = [float("nan"), float("inf"), float("-inf"), 1.0]
    path = report(run_of(record(loss=values, lr=[0.1] * 4, val_loss=values)), out=tmp_path / "report.html")
    assert [1, None, None, 1] in [[1, *column[1:3], column[-1]] for column in data_of(path)["columns"]]


def test_a_long_run_makes_a_small_file(record: Make, tmp_path: Path):
    """100,000 steps in less than 0.3 MB, three such runs in less than 0.7 MB."""
    noise = np.random.default_rng(0)
    many = [
        run_of(record(loss=noise.normal(5, 1, 100_000).tolist(), lr=noise.random(100_000).tolist())) for _ in range(3)
    ]
    assert report(many[0], out=tmp_path / "one.html").stat().st_size < 300_000
    assert report(*many, out=tmp_path / "many.html").stat().st_size < 700_000


def test_names_and_notes_are_text(runs: dict[str, Path], record: Make, tmp_path: Path):
    """HTML in a folder's name, in a note and in the data stays text."""
    text = report(runs["hostile"], runs["given"], out=tmp_path / "names.html").read_text()
    assert "<img" not in text
    assert "&lt;img src=x onerror=injected=1&gt;" in text
    one = record(loss=[1.0], lr=[0.1], **{"val_</script><script>injected=1</script>": [1.0], "val_loss": [1.0]})
    run = Run(0.1, one.cycle, None, None, one.history, "finished", notes=("<script>injected=1</script>",))
    assert "<script>injected" not in report(run, out=tmp_path / "notes.html").read_text()


def test_the_outcome_is_told(runs: dict[str, Path], tmp_path: Path):
    """Pick, range, evidence, cost, warnings, and every rule, as the run itself has them."""
    (record,) = records([runs["picked"]])
    assert record.pick is not None
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", report(runs["picked"], out=tmp_path / "r.html").read_text()))
    assert f"max_lr {record.pick.lr:.3g} , to be trusted from {record.pick.low:.2g} to {record.pick.high:.2g}" in text
    assert record.pick.evidence in unescape(text)
    assert f"at a cost of {record.pick.steps_used} optimizer steps" in text
    for reading in record.readings:
        assert f" {reading.rule} {reading.lr:.3g} {reading.what}".replace("e-0", "e-") in text


def test_a_diverged_run_says_what_was_tried(runs: dict[str, Path], tmp_path: Path):
    """The peak given, each retry with its reason, and the advice."""
    (record,) = records([runs["diverged"]])
    text = report(runs["diverged"], out=tmp_path / "report.html").read_text()
    assert "<b>max_lr 1e6</b> was given" in text
    assert f"Training went on with {record.max_lr:.3g}".replace("e+0", "e") in text
    assert all(retry.reason.replace("'", "&#39;") in text for retry in record.retries)


def test_only_what_differs_is_listed(runs: dict[str, Path]):
    """Settings that all runs share are left out."""
    differences = page._differences(records([runs["picked"], runs["given"], runs["diverged"]]))
    assert set(differences) == {"max_lr", "ema_decay"}
    assert differences["ema_decay"] == ["none", "0.9", "none"]


def test_the_colours_are_those_of_every_picture():
    """In the light; report.css says so."""
    css = (STATIC / "report.css").read_text()
    for name, colour in [
        ("lr", palette.LR),
        ("momentum", palette.MOMENTUM),
        ("train", palette.TRAIN_LOSS),
        ("val", palette.VAL_LOSS),
        ("metric", palette.METRIC),
        ("raw", palette.RAW),
    ]:
        assert f"--{name}: {colour.lower()};" in css.partition("@media")[0]


def test_uplot_is_the_version_stated():
    """In the page, in the package's description and in the file itself; its licence goes into each report."""
    assert f"(v{page.UPLOT})" in (STATIC / "uPlot.iife.min.js").read_text().partition("\n")[0]
    assert (STATIC / "uPlot.LICENSE").read_text().startswith("The MIT License")


def test_the_command_writes_it(runs: dict[str, Path], tmp_path: Path, monkeypatch, capsys):
    """report.html in the present folder, unless --out says otherwise."""
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(runs["picked"])]) == 0
    assert main(["report", str(runs["picked"]), str(runs["given"]), "--out", "two.html"]) == 0
    assert capsys.readouterr().out == "report.html\ntwo.html\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "two.html"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "at least one run"),
        (["nowhere"], "there is no folder"),
        (["."], "holds no config.json"),
        (["given", "given"], "each run is shown once"),
        (["given", "--out", "no/such/report.html"], "No such file or directory. Give another."),
        (["given", "--out", "."], "out must be a file"),
    ],
)
def test_errors_are_one_line_and_status_2(runs, tmp_path: Path, monkeypatch, capsys, words: list[str], complaint: str):
    """And nothing is written."""
    monkeypatch.chdir(tmp_path)
    given = [str(runs["given"]) if word == "given" else word for word in words]
    assert main(["report", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("onecycle: ")
    assert complaint in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_leaves_the_old_one(runs: dict[str, Path], tmp_path: Path, monkeypatch):
    """Whole or not at all."""
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.os, "replace", fail)
    with pytest.raises(OSError, match=r"No space left on device. Give another"):
        report(runs["given"], out=path)
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"
