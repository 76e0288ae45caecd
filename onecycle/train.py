"""``fit``: one cycle of training, from the pick of ``max_lr`` to the last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from lrfind.batches import epoch as one_epoch
from lrfind.batches import rewinds
from lrfind.preserve import data_preserved
from lrfind.ranks import is_sharded
from lrfind.workload import Workload
from onecycle.logs import Log
from onecycle.loop import Training
from onecycle.outputs import RunFolder
from onecycle.resume import MaxLR, Resume
from onecycle.rows import Callback
from onecycle.run import Run
from onecycle.schedule import OneCycle

OnDivergence = Literal["stop", "retry"]


def fit(
    work: Workload,
    *,
    epochs: int | None = None,
    total_steps: int | None = None,
    max_lr: MaxLR = "auto",
    cycle: OneCycle | None = None,
    out_dir: str | os.PathLike[str] | None = None,
    resume: Resume = "never",
    on_divergence: OnDivergence | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    validate_every: int | None = None,
    checkpoint_every: int | None = None,
    ema_decay: float | None = None,
    compile: bool = False,  # noqa: A002  # torch's own word
    loggers: Sequence[Log] = (),
) -> Run:
    """Train a workload for one cycle.

    With a model under DDP or ``fully_shard`` every rank calls this with the same arguments, and gets the same run; the
    first one prints and writes. See ``Workload``.

    Args:
        work: What to train; its model is trained in place.
        epochs: Passes over ``train_loader``; an incomplete group of batches at a pass's end is a step of its own. A
            loader without length is read once to count. Give this or ``total_steps``, or a ``cycle`` with a length.
        total_steps: Optimizer steps; the loader is read as often as that takes.
        max_lr: The peak. ``"auto"`` (default): a range test and short pilots decide, see ``onecycle.pick_max_lr``;
            ``"refine"``: with more of them, for at most half a run; or a number, a ``Suggestion``, or a list with one
            per parameter group. With one number the groups keep their ratios.
        cycle: Shape of the cycle (default: torch's). Its peak is used where ``max_lr`` is left at ``"auto"`` and
            the cycle has one.
        out_dir: Folder for ``curve.json``, ``history.jsonl``, ``config.json``, ``summary.json``, the pictures and the
            checkpoints: the last two, and the start. Default: no files.
        resume: ``"never"`` refuses an ``out_dir`` that holds a run. ``"auto"`` goes on from its newest checkpoint, to
            the same weights as never stopped, or starts where there is none. ``"extend"`` adds a second cycle of
            the same shape and peak (or of a ``max_lr`` given as a number) to a finished run, over the steps by which
            ``total_steps`` (or ``epochs``) is larger now; called again, it goes on with that. The same weights means:
            with the same arguments and loaders that draw the same batches from the same random numbers. Workers that
            are kept between epochs, and a stream that shuffles by torch's global random numbers, which dropout
            draws from as well, do not.
        on_divergence: What to do once the loss has left the range it began in (``onecycle.divergence``), or loss or
            weights are not finite. ``"stop"`` ends the run with the weights of the last good moment; ``"retry"`` goes
            back to the start with ``max_lr / 3``, at most three times. Default: ``"retry"`` where the peak was picked
            here, ``"stop"`` where it was given.
        callbacks: Called with each row of the history, on every rank; the run stops where one returns True (on an
            accelerator, where losses come in blocks of 20 steps, up to so many steps later; of several ranks, a block
            later).
        progress: Show progress bars and a line per epoch.
        validate_every: Validate every so many steps, and at the end. Default: at the end of each epoch.
        checkpoint_every: Write a checkpoint every so many steps, besides the ends of epochs and validations.
        ema_decay: Keep an exponential moving average of the weights (``Run.ema_model``) with this decay, 0 to 1;
            it is validated too, as ``val_ema_loss`` etc.
        compile: Run the model through ``torch.compile``.
        loggers: Further logs of the rows, such as ``onecycle.TensorBoardLog``.

    Returns:
        The ``Run``. Its ``status`` says whether it finished.

    Raises:
        ValueError: For anything that cannot work, before any step.
        NoSuggestion: If ``"auto"`` finds no learning rate; the message says why.
        CheckpointError: If a checkpoint cannot be written, or ``out_dir`` holds another run.
        SystemExit: On SIGTERM with an ``out_dir``: after one more checkpoint, with status 143.
        RankError: Where another rank has failed.

    >>> import torch
    >>> model = nn.Linear(3, 1)
    >>> batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3)]
    >>> work = Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), batches)
    >>> run = fit(work, epochs=2, max_lr=0.1, progress=False)
    >>> run.status, run.history.rows, round(max(run.history["lr"]), 3)
    ('finished', 40, 0.1)
    """
    peak = _peak(max_lr, cycle)
    _check_resume(resume, on_divergence, out_dir)
    _check_pauses(work, out_dir, validate_every, checkpoint_every)
    _check_extras(work, ema_decay, callbacks, loggers)
    steps = _count_steps(work, epochs, total_steps, cycle)
    training = Training(
        work,
        shape=cycle if cycle is not None else OneCycle(max_lr=None),
        total_steps=steps,
        folder=RunFolder(Path(out_dir), work) if out_dir is not None else None,
        callbacks=callbacks,
        progress=progress,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        ema_decay=ema_decay,
        loggers=loggers,
    )
    heal = (on_divergence or ("retry" if isinstance(peak, str) else "stop")) == "retry"
    with closing(training), _compiled(work.model) if compile else nullcontext():
        return training.run(peak, resume, heal=heal)


def _peak(max_lr: MaxLR, cycle: OneCycle | None) -> MaxLR:
    if isinstance(max_lr, str):
        if max_lr not in ("auto", "refine"):
            raise ValueError(
                f"max_lr must be 'auto', 'refine', a number, a Suggestion or a list with one peak per parameter group; "
                f"got {max_lr!r}. 'auto' lets a range test decide."
            )
        chosen = None if cycle is None else cycle.max_lr
        return max_lr if max_lr == "refine" or chosen is None else chosen
    OneCycle(max_lr)  # refuses a bad peak, in its own words
    return max_lr


def _check_resume(resume: Resume, on_divergence: OnDivergence | None, out_dir: str | os.PathLike[str] | None) -> None:
    if resume not in get_args(Resume):
        raise ValueError(
            f"resume must be 'never', 'auto' or 'extend'; got {resume!r}. 'auto' goes on from the newest checkpoint."
        )
    if resume != "never" and out_dir is None:
        raise ValueError(
            f"resume={resume!r} needs the folder of the run; got out_dir=None. Pass out_dir, the same in every attempt."
        )
    if on_divergence not in (None, *get_args(OnDivergence)):
        raise ValueError(
            f"on_divergence must be 'stop', 'retry' or None; got {on_divergence!r}. None retries a picked max_lr and "
            "stops with a given one."
        )


def _check_pauses(
    work: Workload,
    out_dir: str | os.PathLike[str] | None,
    validate_every: int | None,
    checkpoint_every: int | None,
) -> None:
    for name, every in (("validate_every", validate_every), ("checkpoint_every", checkpoint_every)):
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or not every >= 1):
            raise ValueError(
                f"{name} must be a whole number of steps, at least 1, or None; got {every!r}. None means the end of "
                "each epoch."
            )
    if validate_every is not None and work.val_loader is None:
        raise ValueError(
            f"validate_every={validate_every} needs something to validate on; got a workload without val_loader. "
            "Pass val_loader to Workload."
        )
    if checkpoint_every is not None and out_dir is None:
        raise ValueError(
            f"checkpoint_every={checkpoint_every} needs a folder to write to; got out_dir=None. Pass out_dir."
        )


def _check_extras(
    work: Workload, ema_decay: float | None, callbacks: Sequence[Callback], loggers: Sequence[Log]
) -> None:
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise ValueError(f"ema_decay must be above 0 and below 1; got {ema_decay!r}. 0.999 is usual.")
    if ema_decay is not None and any(map(is_sharded, work.model.parameters())):
        raise ValueError(
            f"ema_decay averages a model that each rank holds as a whole; got ema_decay={ema_decay!r} and a model "
            "sharded by fully_shard, of which torch makes no copy. Leave it out, or train under DDP."
        )
    for callback in callbacks:
        if not callable(callback):
            raise ValueError(f"callbacks must be functions of a row; got {callback!r}. Pass the function itself.")
    for log in loggers:
        if not isinstance(log, Log):
            raise ValueError(
                f"loggers must be objects with write(row) and close(); got {log!r}. onecycle.TensorBoardLog is one."
            )


def _count_steps(work: Workload, epochs: int | None, total_steps: int | None, cycle: OneCycle | None) -> int:
    of_cycle = None if cycle is None else cycle.total_steps
    given = {"epochs": epochs, "total_steps": total_steps, "cycle.total_steps": of_cycle}
    stated = {name: value for name, value in given.items() if value is not None}
    if "cycle.total_steps" in stated and len(stated) > 1:
        del stated["cycle.total_steps"]  # a cycle is a shape: what is said here decides
    if len(stated) != 1:
        raise ValueError(
            f"fit takes either epochs or total_steps; got epochs={epochs!r}, total_steps={total_steps!r}. "
            "epochs counts passes over train_loader, total_steps optimizer steps: give one."
        )
    (name, count), *_ = stated.items()
    if not isinstance(count, int) or isinstance(count, bool) or not count >= 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {count!r}. It says how long to train.")
    return count * _steps_per_epoch(work) if name == "epochs" else count


def _steps_per_epoch(work: Workload) -> int:
    if (steps := work.steps_per_epoch) is not None:
        return steps
    assert work.train_loader is not None, "batches() has refused that"
    if not rewinds(work.train_loader):
        raise ValueError(
            "epochs needs a train_loader with a length, or one that can be read twice to count it; got a stream. "
            "Give total_steps instead."
        )
    with data_preserved(work):
        steps = sum(1 for _ in one_epoch(work.batches(), work.accumulation_steps))
    if steps == 0:
        raise ValueError("train_loader must yield at least one batch; got none. Check that its dataset is not empty.")
    return steps


@contextmanager
def _compiled(model: nn.Module) -> Iterator[None]:
    """Run the model's forward through torch.compile in the body; its parameters and names stay the same."""
    former = model._compiled_call_impl
    model.compile()
    try:
        yield
    finally:
        model._compiled_call_impl = former
