"""The command ``onecycle``: draw a schedule, train with one, draw a run again, report on runs."""

from __future__ import annotations

import csv
import json
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import tyro
from tyro.conf import arg

from lrfind import console
from lrfind.console import Rates, Target, WorkloadOptions, default
from lrfind.launch import launched, started_again
from lrfind.plot import save_picture
from lrfind.ranks import Ranks
from onecycle.auto import Method
from onecycle.checkpoint import CheckpointError
from onecycle.logs import TensorBoardLog
from onecycle.outputs import COMMAND
from onecycle.plot import plot_history
from onecycle.reports.page import report
from onecycle.resume import MaxLR, Resume
from onecycle.run import Run, load_history
from onecycle.schedule import AnnealStrategy, OneCycle
from onecycle.train import OnDivergence, fit

DESCRIPTION = "Train with one cycle of the learning rate, at a peak that is measured."
EPOCHS = 10


@dataclass(frozen=True, kw_only=True)
class CycleOptions:
    """Shape of the cycle, in torch's words."""

    preset: Literal["torch", "fastai", "smith"] = "torch"
    """Whose defaults: torch's OneCycleLR, fastai's fit_one_cycle, or Smith's own of 2018."""
    pct_start: Annotated[float | None, default("0.3")] = None
    """Share of the steps, 0 to 1, in which the lr rises."""
    anneal_strategy: Annotated[AnnealStrategy | None, default("cos")] = None
    """Each phase half a cosine, or a straight line."""
    cycle_momentum: bool = True
    """Cycle the momentum (beta1), inversely to the lr."""
    base_momentum: Annotated[Rates | None, default("0.85")] = None
    """Momentum at the peak."""
    max_momentum: Annotated[Rates | None, default("0.95")] = None
    """Momentum at start and end."""
    div_factor: Annotated[float | None, default("25")] = None
    """max_lr over the lr of the first step."""
    final_div_factor: Annotated[float | None, default("1e4")] = None
    """Lr of the first step over that of the last."""
    three_phase: bool = False
    """Come down as one went up, then anneal to the end; needs pct_start below 0.5."""
    pct_flat: Annotated[float | None, default("0")] = None
    """Share of the steps that the end stays flat. Not in torch."""

    def cycle(self, max_lr: float | tuple[float, ...] | None, total_steps: int | None) -> OneCycle:
        """Return the cycle.

        Raises:
            ValueError: For a value out of its range.
        """
        shapes = {"torch": OneCycle, "fastai": OneCycle.fastai, "smith": OneCycle.smith}
        given = {name: value for name, value in asdict(self).items() if name != "preset" and value is not None}
        given |= {name: console.one(given[name]) for name in ("base_momentum", "max_momentum") if name in given}
        return replace(shapes[self.preset](1.0), max_lr=max_lr, total_steps=total_steps, **given)


@dataclass(frozen=True)
class Plan:
    """Draw a schedule; nothing is trained."""

    max_lr: Rates
    """Peak learning rate."""
    total_steps: Annotated[int | None, default("epochs x steps-per-epoch")] = None
    """Optimizer steps in the cycle."""
    epochs: Annotated[int | None, default("none")] = None
    """Passes over the data; with steps-per-epoch in place of total-steps."""
    steps_per_epoch: Annotated[int | None, default("none")] = None
    """Optimizer steps per epoch."""
    cycle: Annotated[CycleOptions, arg(name="")] = field(default_factory=CycleOptions)
    out_dir: Annotated[Path, arg(metavar="DIR")] = Path()
    """Folder for schedule.png."""
    csv: bool = False
    """Write schedule.csv too: lr and momentum of every step."""

    def run(self) -> int:
        """Print the phases and draw them."""
        length = OneCycle(1.0, self.total_steps, epochs=self.epochs, steps_per_epoch=self.steps_per_epoch)
        cycle = self.cycle.cycle(console.one(self.max_lr), length.require_total_steps())
        console.results_folder(self.out_dir, "plan")
        _print_phases(cycle)
        written = ["schedule.png"]
        save_picture(self.out_dir / "schedule.png", cycle.plot, height=3.5)
        if self.csv:
            _write_csv(cycle, self.out_dir / "schedule.csv")
            written.append("schedule.csv")
        print(f"In {self.out_dir}: {', '.join(written)}")
        return 0


@dataclass(frozen=True)
class Train:
    """Train for one cycle: range test, pick, one cycle.

    TARGET is digits, mnist or fashion-mnist, or path/to/file.py:function, or package.module:function: a function of
    yours that returns a lrfind.Workload.
    """

    target: Target
    """What to train."""
    epochs: Annotated[int | None, default(f"{EPOCHS}, unless total-steps is given")] = None
    """Passes over the training data."""
    total_steps: Annotated[int | None, default("epochs decide")] = None
    """Optimizer steps."""
    max_lr: Annotated[str, arg(metavar="auto|refine|X[,X...]")] = "auto"
    """Peak learning rate. auto: a range test decides; refine: with more care; or a number, or one per parameter
    group."""
    cycle: Annotated[CycleOptions, arg(name="")] = field(default_factory=CycleOptions)
    out_dir: Annotated[Path | None, arg(metavar="DIR"), default("runs/NAME-TIME")] = None
    """Folder for curve, pictures, history, summary and checkpoints."""
    resume: Annotated[str, arg(metavar="never|auto|extend|RUN")] = "never"
    """RUN, the folder of a run: go on with it, with the flags it was begun with. auto: go on in out-dir, or start
    there. extend: add a second cycle to the finished run in out-dir, up to the new epochs or total-steps."""
    on_divergence: Annotated[OnDivergence | None, default("retry with a picked max-lr, stop with a given one")] = None
    """stop, or go back to the start with a third of max-lr."""
    validate_every: Annotated[int | None, default("at the end of each epoch")] = None
    """Validate every so many steps."""
    checkpoint_every: Annotated[int | None, default("at the end of each epoch")] = None
    """Write a checkpoint every so many steps, besides."""
    ema_decay: Annotated[float | None, default("no average")] = None
    """Keep a moving average of the weights with this decay, and validate it too."""
    compile: bool = False
    """Run the model through torch.compile."""
    tensorboard: bool = False
    """Write TensorBoard events too."""
    progress: bool = True
    """Show bars, the pick, and a line per epoch."""
    workload: Annotated[WorkloadOptions, arg(name="")] = field(default_factory=WorkloadOptions)
    words: tyro.conf.Suppress[tuple[str, ...]] = ()

    def run(self) -> int:
        """Train, and say where the files are; status 1 if the run diverged. Under torchrun by all ranks, as one."""
        with launched() as ranks:
            return self._run(ranks)

    def _run(self, ranks: Ranks) -> int:
        max_lr = _max_lr(self.max_lr)
        cycle = self.cycle.cycle(None, None)
        work = self.workload.load(self.target, ranks)
        folder = ranks.from_first(self._folder)
        try:
            run = fit(
                work,
                epochs=EPOCHS if self.epochs is None and self.total_steps is None else self.epochs,
                total_steps=self.total_steps,
                max_lr=max_lr,
                cycle=cycle,
                out_dir=folder,
                # taken_up has put the folder of a run where it belongs
                resume="auto" if self.resume == "never" and started_again() else cast(Resume, self.resume),
                on_divergence=self.on_divergence,
                progress=self.progress,
                validate_every=self.validate_every,
                checkpoint_every=self.checkpoint_every,
                ema_decay=self.ema_decay,
                compile=self.compile,
                loggers=[TensorBoardLog(folder / "tensorboard")] if self.tensorboard and ranks.first else [],
            )
        except KeyboardInterrupt:
            go_on = shlex.join(["onecycle", "train", self.target, "--resume", str(folder)])
            console.complain("onecycle", f"interrupted; go on with: {go_on}")
            return 130
        _print_outcome(run, folder)
        return 0 if run.status == "finished" else 1

    def _folder(self) -> Path:
        folder = console.results_folder(self.out_dir, self.target)
        if not (folder / "config.json").exists():  # no run is there yet
            (folder / COMMAND).write_text(json.dumps(self.words) + "\n", encoding="utf-8")
        return folder

    def taken_up(self, words: Sequence[str]) -> Train:
        """Return this command with the folder it works in decided, and what a resumed run was begun with filled in.

        Args:
            words: The arguments that spell this command.

        Raises:
            ValueError: If there is no such run.
        """
        folder = self.out_dir
        if self.resume not in get_args(Resume):
            folder = Path(self.resume)
            if not folder.is_dir() or self.out_dir not in (None, folder):
                raise ValueError(
                    f"resume must be never, auto, extend, or the folder of a run (then without out-dir); got "
                    f"{self.resume!r}"
                    + (", and no such folder." if not folder.is_dir() else f" and {self.out_dir}.")
                    + " Correct it; runs lie in runs/ unless --out-dir was given."
                )
        elif self.resume == "never":
            return replace(self, words=tuple(words))
        if folder is None:
            raise ValueError(f"resume {self.resume} needs the folder of the run; got no --out-dir. Give it.")
        command = self
        if (folder / COMMAND).exists():
            begun = _train(json.loads((folder / COMMAND).read_text(encoding="utf-8")))
            command = _train(words, given=begun)
            if self.epochs is not None or self.total_steps is not None:  # one takes the place of the other
                command = replace(command, epochs=self.epochs, total_steps=self.total_steps)
        resume = self.resume if self.resume in get_args(Resume) else "auto"
        return replace(command, out_dir=folder, resume=resume, words=tuple(words))


@dataclass(frozen=True)
class Plot:
    """Draw the training of a run again."""

    folder: Annotated[Path, tyro.conf.Positional, arg(metavar="RUN")]
    """Folder of the run."""

    def run(self) -> int:
        """Write training.png."""
        history = load_history(self.folder)
        path = self.folder / "training.png"
        plot_history(history).savefig(path, dpi=150)
        print(path)
        return 0


@dataclass(frozen=True)
class Report:
    """Write runs as one self-contained HTML file: picks with their evidence, range tests, curves, configuration."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="RUN [RUN ...]", help_behavior_hint="")]
    """Folders of the runs; several are shown side by side."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("report.html")
    """The file to write."""

    def run(self) -> int:
        """Write the report, and say where it is."""
        print(report(*self.folders, out=self.out))
        return 0


Commands = (
    Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``onecycle``; returns its exit status (``lrfind.console.run``), 1 for a run that diverged."""
    words = sys.argv[1:] if argv is None else list(argv)
    command: Plan | Train | Plot | Report = console.parse("onecycle", DESCRIPTION, Commands, words)

    def work() -> int:
        return (command.taken_up(words[1:]) if isinstance(command, Train) else command).run()

    return console.run("onecycle", work, (*console.EXPECTED, CheckpointError))


def _max_lr(text: str) -> MaxLR:
    if text in get_args(Method):
        return cast(Method, text)
    try:
        peaks = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"max_lr must be auto, refine, a number above 0, or one per parameter group with commas between; got "
            f"{text!r}. auto lets a range test decide."
        ) from None
    return peaks[0] if len(peaks) == 1 else peaks


def _train(words: Sequence[str], given: Train | None = None) -> Train:
    train: Train = console.parse("onecycle train", DESCRIPTION, Train, words, given)
    return train


def _print_phases(cycle: OneCycle) -> None:
    rows = [("phase", "steps", "lr", "momentum")]
    for phase in cycle.phases:
        first, last = max(math.ceil(phase.start), 0), math.floor(phase.end)
        if first <= last:
            momentum = "-" if cycle.momentum(first) is None else _span(cycle.momentum, first, last)
            rows.append((phase.name, f"{first} to {last}", _span(cycle.lr, first, last), momentum))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _span(value: Callable[[int], float | None], first: int, last: int) -> str:
    return f"{value(first):.3g} to {value(last):.3g}"


def _write_csv(cycle: OneCycle, path: Path) -> None:
    groups = range(len(cycle.peaks))
    columns = {"lr" if len(groups) == 1 else f"lr_{group}": cycle.lrs(group) for group in groups}
    momentums = cycle.momentums()
    if momentums is not None:
        columns["momentum"] = momentums
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *columns])
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        writer.writerows([step, *row] for step, row in enumerate(rows))


def _print_outcome(run: Run, folder: Path) -> None:
    numbers = "".join(f", {name.replace('_', ' ')} {value:.4f}" for name, value in run.validation.items())
    print(f"{run.status} after {run.history.rows} steps: max_lr {run.max_lr:.3g}{numbers}")
    print(f"In {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


if __name__ == "__main__":  # as torchrun -m onecycle.cli
    sys.exit(main())
