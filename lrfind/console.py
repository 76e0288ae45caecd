"""What both commands share: arguments from typed dataclasses, errors as one line, folders for results."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import arg

from lrfind.launch import data_parallel, is_first, run_id
from lrfind.ranks import ALONE, RankError, Ranks
from lrfind.targets import load, name_of, seed_all, user_line
from lrfind.workload import Workload
from lrfind.workloads.parts import OptimizerName

EXPECTED = (ValueError, OSError, ModuleNotFoundError, RankError)
"""Errors that tell the user what to do: shown as one line, exit status 2. All others are ours, with a traceback."""

# None is what a flag left out means; the word None is not taken.
_STYLE = (tyro.conf.DisallowNone,)


def default(text: str) -> Any:
    """Say in the help what happens where a flag whose value is None is left out."""
    return arg(help_behavior_hint=f"(default: {text})")


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"needs a number, or one per parameter group with commas between (0.1,0.01); got {text!r}"
        ) from None


Rates = Annotated[
    tuple[float, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="X[,X...]",
        instance_from_str=lambda words: _rates(words[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(f"{part:g}" for part in value)],
    ),
]
"""One number, or one per parameter group as ``0.1,0.01``."""

Target = Annotated[str, tyro.conf.Positional, arg(metavar="TARGET")]


def one(rates: tuple[float, ...]) -> float | tuple[float, ...]:
    """Return a single rate as a number, several as they are."""
    return rates[0] if len(rates) == 1 else rates


@dataclass(frozen=True, kw_only=True)
class WorkloadOptions:
    """How the workload is made: passed on to the TARGET's function, which must take what is given here."""

    data_root: Annotated[Path | None, arg(metavar="DIR"), default("$LRFIND_DATA, else ~/.cache/lrfind")] = None
    """Folder of MNIST/raw or FashionMNIST/raw; what is missing there is downloaded."""
    batch_size: Annotated[int | None, default("the workload's own")] = None
    """Samples per batch."""
    optimizer: Annotated[OptimizerName | None, default("sgd")] = None
    """Optimizer of a built-in workload."""
    weight_decay: Annotated[float | None, default("5e-4")] = None
    """Weight decay of a built-in workload."""
    val_size: Annotated[int | None, default("5000")] = None
    """mnist and fashion-mnist: training images held out for validation; 0: validate on the test images."""
    device: Annotated[str | None, default("an accelerator, else the CPU")] = None
    """Where a built-in workload is trained."""
    seed: int = 0
    """Seeds Python, numpy and torch before the workload is made."""
    threads: Annotated[int | None, default("torch's choice")] = None
    """CPU threads of torch."""

    def load(self, target: str, ranks: Ranks = ALONE) -> Workload:
        """Return the workload of ``target``, of which each of several ranks trains its part of the data.

        Raises:
            ValueError: If ``threads`` is below 1.
            TargetError: If there is no such workload.
        """
        if self.threads is not None:
            if not self.threads >= 1:
                raise ValueError(f"threads must be at least 1; got {self.threads}. Leave it out for torch's choice.")
            torch.set_num_threads(self.threads)
        settings = asdict(self)
        del settings["threads"]
        work = load(target, **{name: value for name, value in settings.items() if value is not None})
        if ranks.size > 1:  # from here on each draws random numbers of its own, for its own samples
            seed_all(self.seed + ranks.rank)
        return data_parallel(work, ranks)


def parse(prog: str, description: str, commands: Any, words: Sequence[str], given: Any = None) -> Any:
    """Return the command that ``words`` spell: an object of one of the dataclasses ``commands``.

    Args:
        prog: Name of the command.
        description: What it is for, in a line.
        commands: A dataclass, or a union of dataclasses annotated with ``tyro.conf.subcommand(name)``.
        words: The arguments.
        given: An object with the values of what ``words`` leave out. Default: the dataclass's own.

    Raises:
        SystemExit: After ``--help`` (status 0), or words that cannot be parsed (status 2).
    """
    known = {} if given is None else {"default": given}
    with ExitStack() as stack:
        if not is_first():
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        return tyro.cli(commands, prog=prog, description=description, args=words, config=_STYLE, **known)


def run(prog: str, work: Callable[[], int], expected: tuple[type[Exception], ...] = EXPECTED) -> int:
    """Return the exit status of ``work``: its own; 2 after an expected error, told in one line; 130 after Ctrl-C."""
    try:
        return work()
    except KeyboardInterrupt:
        complain(prog, "interrupted")
        return 130
    except expected as error:
        complain(prog, f"{error}{user_line(error)}")
        return 2


def complain(prog: str, message: str) -> None:
    """Print one line on stderr; of several ranks the first one does, which names another that has failed."""
    if is_first():
        print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)


def results_folder(given: Path | None, target: str) -> Path:
    """Make the folder of the results and return it: the one given, else a new one ``runs/NAME-TIME``.

    Raises:
        ValueError: If it cannot be made or written to.
    """
    try:
        folder = _new_folder(target) if given is None else given
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"out_dir must be a folder that can be written to; got {given or 'none, so runs/'}: {error.strerror}. "
            "Give another --out-dir."
        ) from error
    return folder


def _new_folder(target: str) -> Path:
    if (run := run_id()) is not None:  # the same when it is started again
        return Path("runs") / f"{name_of(target)}-{run}"
    name = f"{name_of(target)}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # by another command of the same second
            continue
        return folder
    raise AssertionError("some number is free")
