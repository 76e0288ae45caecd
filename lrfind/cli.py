"""The command ``lrfind``: measure a learning-rate curve, and read max_lr off it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from lrfind import console
from lrfind.compare import compare
from lrfind.console import Rates, Target, WorkloadOptions, default
from lrfind.curve import LRCurve
from lrfind.launch import launched
from lrfind.plot import save_picture
from lrfind.ranks import Ranks
from lrfind.suggest import DEFAULT_RULE, RULES, NoSuggestion, Suggestion
from lrfind.sweep import CYCLE_MOMENTUM, StepMode, range_test
from lrfind.workload import Workload

CURVE = "curve.json"


@dataclass(frozen=True)
class Sweep:
    """Sweep the learning rate over a workload, and pick max_lr.

    TARGET is digits, mnist or fashion-mnist, or path/to/file.py:function, or package.module:function: a function of
    yours that returns a lrfind.Workload.
    """

    target: Target
    """What to train."""
    start_lr: Rates = (1e-7,)
    """Learning rate of the first step."""
    end_lr: Rates = (10.0,)
    """Learning rate of the last step."""
    num_iter: int = 100
    """Optimizer steps."""
    step_mode: StepMode = "exp"
    """exp: equal ratios between steps; linear: equal differences."""
    stop_factor: float = 2.0
    """How many times its fall the loss may rise again before the sweep stops; inf: never."""
    momentum: float | Literal["own"] = CYCLE_MOMENTUM
    """Momentum (beta1) during the sweep; by default OneCycleLR's at its peak; own: the optimizer's."""
    val_batches: Annotated[int | Literal["all"] | None, default("the training loss")] = None
    """Record the loss of so many validation batches after each step."""
    repeats: int = 1
    """Sweeps from the same start on other batches; their spread counts towards the trust range."""
    rule: str = DEFAULT_RULE
    """Rule of the pick: one that lrfind suggest --all-rules lists."""
    out_dir: Annotated[Path | None, arg(metavar="DIR"), default("runs/NAME-TIME")] = None
    """Folder for curve.json and range_test.png."""
    csv: bool = False
    """Write curve.csv too."""
    workload: Annotated[WorkloadOptions, arg(name="")] = field(default_factory=WorkloadOptions)

    def run(self) -> int:
        """Sweep, write the curve and its picture, print the pick; under torchrun by all ranks, as one."""
        _check_rule(self.rule)
        with launched() as ranks:
            return self._run(ranks)

    def _run(self, ranks: Ranks) -> int:
        ranks.from_first(lambda: _check_free(self.out_dir))
        work = self.workload.load(self.target, ranks)
        folder = ranks.from_first(lambda: console.results_folder(self.out_dir, self.target))
        try:
            curve = self._sweep(work)
        except BaseException as stop:
            so_far: LRCurve | None = getattr(stop, "curve", None)  # of a sweep that Ctrl-C ended
            if so_far is not None and len(so_far) and ranks.first:
                self._write(so_far, folder)
            with suppress(OSError):
                folder.rmdir()  # where nothing was written
            raise
        ranks.from_first(lambda: self._write(curve, folder))
        _print_pick(curve.suggest(self.rule))
        return 0

    def _sweep(self, work: Workload) -> LRCurve:
        return range_test(
            work,
            start_lr=console.one(self.start_lr),
            end_lr=console.one(self.end_lr),
            num_iter=self.num_iter,
            step_mode=self.step_mode,
            stop_factor=self.stop_factor,
            momentum=None if self.momentum == "own" else self.momentum,
            val_batches=self.val_batches,
            repeats=self.repeats,
        )

    def _write(self, curve: LRCurve, folder: Path) -> None:
        curve.save(folder / CURVE)
        written = [CURVE]
        if self.csv:
            curve.to_csv(folder / "curve.csv")
            written.append("curve.csv")
        save_picture(folder / "range_test.png", curve.plot)
        written.append("range_test.png")
        print(f"{len(curve)} points ({curve.status}). In {folder}: {', '.join(written)}")


@dataclass(frozen=True)
class Suggest:
    """Read max_lr off a curve that was saved."""

    curve: Annotated[Path, tyro.conf.Positional, arg(metavar="CURVE")]
    """curve.json, or the folder that holds it."""
    rule: str = DEFAULT_RULE
    """Rule of the pick: one that --all-rules lists."""
    all_rules: bool = False
    """Print the pick of every rule, as a table."""

    def run(self) -> int:
        """Print the pick, or all of them."""
        _check_rule(self.rule)
        curve = _load(self.curve)
        if self.all_rules:
            _print_rules(curve)
        else:
            _print_pick(curve.suggest(self.rule))
        return 0


@dataclass(frozen=True)
class Compare:
    """Compare curves that were saved: a table, and all of them in one picture."""

    curves: Annotated[
        tuple[Path, ...], tyro.conf.Positional, arg(metavar="CURVE [CURVE ...]", help_behavior_hint="(one or more)")
    ]
    """Each curve.json, or the folder that holds it."""
    rule: str = DEFAULT_RULE
    """Rule of the picks: one that lrfind suggest --all-rules lists."""
    out_dir: Annotated[Path, arg(metavar="DIR")] = Path()
    """Folder for comparison.png."""

    def run(self) -> int:
        """Print the table and draw the picture."""
        _check_rule(self.rule)
        comparison = compare({name: _load(path) for name, path in _named(self.curves).items()}, self.rule)
        folder = console.results_folder(self.out_dir, "comparison")
        print(comparison)
        save_picture(folder / "comparison.png", comparison.plot, width=8.5)
        print(f"In {folder}: comparison.png")
        return 0


Commands = (
    Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Suggest, tyro.conf.subcommand("suggest")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``lrfind``; returns its exit status (``lrfind.console.run``)."""
    words = sys.argv[1:] if argv is None else argv
    command: Sweep | Suggest | Compare = console.parse(
        "lrfind", "Find max_lr by a learning-rate range test.", Commands, words
    )
    return console.run("lrfind", command.run)


def _check_rule(rule: str) -> None:
    # Before a sweep, which may take long: curve.suggest would find out only after it.
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}. Leave it out for {DEFAULT_RULE}.")


def _check_free(folder: Path | None) -> None:
    if folder is not None and (folder / CURVE).exists():
        raise FileExistsError(
            f"out_dir must not hold a curve yet; got {folder}, which has a {CURVE}. Give another --out-dir, or none."
        )


def _load(path: Path) -> LRCurve:
    file = path / CURVE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"CURVE must be a file that lrfind sweep wrote, or its folder; got {path}, where there is none. "
            "Correct the path, or measure a curve: lrfind sweep TARGET."
        )
    return LRCurve.load(file)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Name each curve after its file or folder, or by the whole path where that would not tell them apart."""
    if not paths or len(set(paths)) < len(paths):
        given = ", ".join(map(str, paths)) or "none"
        raise ValueError(
            f"CURVE must be one or more files or folders, none of them twice; got {given}. Name each once."
        )
    names = [_short_name(path.absolute()) for path in paths]
    return {(str(path) if names.count(name) > 1 else name): path for name, path in zip(names, paths, strict=True)}


def _short_name(path: Path) -> str:
    if path.name == CURVE:
        return path.parent.name
    return path.name if path.is_dir() else path.stem


def _print_pick(pick: Suggestion) -> None:
    print(f"{pick}: {pick.evidence}")
    if len(set(pick.group_lrs)) > 1:
        print("parameter groups: " + ", ".join(f"{lr:.2g}" for lr in pick.group_lrs))
    for warning in pick.warnings:
        print(f"warning: {warning}")


def _print_rules(curve: LRCurve) -> None:
    width = max(map(len, RULES))
    print(f"{'rule':<{width}}  max_lr")
    for rule in RULES:
        try:
            said = f"{curve.suggest(rule).lr:.2g}"
        except NoSuggestion as reason:
            said = f"none: {reason}"
        print(f"{rule:<{width}}  {said}" + ("  (default)" if rule == DEFAULT_RULE else ""))


if __name__ == "__main__":  # as torchrun -m lrfind.cli
    sys.exit(main())
