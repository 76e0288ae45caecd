"""What is known of a run, from its folder or from the ``Run`` itself."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Literal

from lrfind.curve import LRCurve, NoSuggestion
from lrfind.suggest import RULES, Suggestion, suggest
from onecycle.logs import History
from onecycle.outputs import COMMAND
from onecycle.run import Retry, Run, RunStatus, load_history
from onecycle.schedule import OneCycle

RunOrFolder = Run | str | os.PathLike[str]


@dataclass(frozen=True)
class Reading:
    """What one rule reads off a range test: a learning rate, or the reason why not.

    Attributes:
        rule: Its name in ``lrfind.RULES``.
        what: What it is, in words.
        lr: The pick; None where it gives none.
        reason: Why not; "" where it gives one.
    """

    rule: str
    what: str
    lr: float | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A run as a report shows it.

    Attributes:
        name: Unique among the runs of a report.
        status: That of the ``Run``; ``"unfinished"`` where the run was killed or still goes on.
        cycle: The schedule of the last cycle, with peak and length.
        first_step: Steps before that cycle: above 0 in an extended run.
        curve: The range test; None where there was none.
        pick: What was read off it; None where the peak was given as a number.
        config: What ``config.json`` holds of the workload and the machine; empty for a run without a folder.
        command: Arguments of ``onecycle``; empty where the run was begun from Python.
    """

    name: str
    status: RunStatus | Literal["unfinished"]
    history: History
    cycle: OneCycle
    first_step: int = 0
    curve: LRCurve | None = None
    pick: Suggestion | None = None
    retries: tuple[Retry, ...] = ()
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    @property
    def total_steps(self) -> int:
        """Steps planned, over all cycles."""
        return self.first_step + self.cycle.require_total_steps()

    @property
    def max_lr(self) -> float:
        """Peak of the parameter group with the largest."""
        return max(self.cycle.peaks)

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        """What every rule reads off the range test; none without one."""
        return () if self.curve is None else tuple(_reading(self.curve, name) for name in RULES)


def records(runs: Sequence[RunOrFolder]) -> list[Record]:
    """Return what is known of each run.

    Raises:
        ValueError: For no run, the same run twice, or a folder that holds no run or a damaged one.
        TypeError: For something that is neither.
    """
    if not runs:
        raise ValueError("a report needs at least one run; got none. Give the folder of a run, or a Run.")
    for run in runs:
        if not isinstance(run, Run | str | os.PathLike):
            raise TypeError(f"a report takes runs and folders of runs; got {run!r}. fit returns a Run.")
    folders = {index: folder for index, run in enumerate(runs) if (folder := _folder(run)) is not None}
    resolved = [folder.resolve() for folder in folders.values()]
    for folder in folders.values():
        if resolved.count(folder.resolve()) > 1:
            raise ValueError(f"each run is shown once; got {folder} twice. Leave one out.")
    names = dict(zip(folders, _short_names(resolved), strict=True))
    unnamed = len(runs) - len(folders)
    numbers = count(1)
    return [
        _read(folders[index], names[index])
        if index in folders
        else _of(run, "run" if unnamed == 1 else f"run {next(numbers)}")
        for index, run in enumerate(runs)
    ]


def _folder(run: RunOrFolder) -> Path | None:
    return run.out_dir if isinstance(run, Run) else Path(run)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Return the last parts of each path: as many as tell them apart.

    >>> _short_names([Path("/a/one/run"), Path("/a/two/run")])
    ['one/run', 'two/run']
    """
    for length in count(1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("whole paths differ")


def _of(run: Run | Any, name: str) -> Record:
    assert isinstance(run, Run), "folders have been taken out"
    return Record(
        name=name,
        status=run.status,
        history=run.history,
        cycle=run.cycle,
        curve=run.curve,
        pick=run.suggestion,
        retries=run.retries,
        notes=run.notes,
    )


def _read(folder: Path, name: str) -> Record:
    if not (folder / "config.json").is_file():
        what = "where there is no folder" if not folder.is_dir() else "which holds no config.json"
        raise ValueError(f"RUN must be the folder of a run; got {folder}, {what}. onecycle train writes one.")
    try:
        history = load_history(folder) if (folder / "history.jsonl").exists() else History()
        config = _load(folder / "config.json")
        outcome = _load(folder / "summary.json") if (folder / "summary.json").exists() else {}
        command = _load(folder / COMMAND) if (folder / COMMAND).exists() else ()
        if outcome.get("steps") != history.rows:  # of before the run was taken up again
            outcome = {}
        return Record(
            name=name,
            status=outcome.get("status", "unfinished"),
            history=history,
            cycle=OneCycle(config["max_lr"], config["total_steps"] - config["first_step"], **config["cycle"]),
            first_step=config["first_step"],
            curve=LRCurve.load(folder / "curve.json") if (folder / "curve.json").exists() else None,
            pick=None if config["pick"] is None else _suggestion(config["pick"]),
            retries=tuple(Retry(**retry) for retry in config["retries"]),
            notes=tuple(outcome.get("notes", ())),
            config=config,
            command=tuple(map(str, command)),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{folder} holds a damaged run, or one of another version: {error!r}. Train it again, or leave it out."
        ) from error


def _reading(curve: LRCurve, rule: str) -> Reading:
    # The first line of its documentation, such as: Return what ``lr_find()`` of fastai 2.8.12 suggests by default: ...
    what = (inspect.getdoc(RULES[rule]) or "").partition("\n")[0].removeprefix("Return ").replace("`", "").rstrip(".")
    try:
        return Reading(rule, what, suggest(curve, rule).lr)
    except NoSuggestion as reason:
        return Reading(rule, what, None, str(reason))


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _suggestion(record: dict[str, Any]) -> Suggestion:
    lists = ("warnings", "group_lrs")  # which JSON makes of tuples
    return Suggestion(**record | {name: tuple(record[name]) for name in lists})
