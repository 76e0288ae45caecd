"""The result of a range test as plain data: learning rates, raw losses, how the sweep ended."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrfind.smoothing import read_shape, smooth, usable_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lrfind.suggest import Suggestion

Status = Literal["diverged", "range end", "non-finite", "too few points", "interrupted"]
"""How a sweep ended. "too few points" wins over the others: nothing can be read off such a curve."""

STATUSES: tuple[Status, ...] = get_args(Status)
MIN_POINTS = 10
"""Fewer points than this say nothing about the shape of a loss curve."""


class NoSuggestion(ValueError):  # noqa: N818  (an expected answer, not a fault)
    """A curve from which no learning rate can be read; the message says why and what to change.

    Attributes:
        curve: The curve, where it was measured on the way and nobody else has it; else None.
    """

    def __init__(self, reason: str, curve: LRCurve | None = None) -> None:
        super().__init__(reason)
        self.curve = curve


_FORMAT = "lrfind curve"
_VERSION = 1


@dataclass(frozen=True, eq=False, repr=False, init=False)
class LRCurve:
    """Loss against learning rate, one point per optimizer step. Pure data, frozen.

    Args:
        lr: shape ``(n,)``. The rate really used at each step (of the parameter group with the largest
            rate), finite, above 0, never falling. Neighbours may be equal, as in a coarse history of
            another tool.
        loss: shape ``(n,)``. Raw losses; nan and inf are kept as they came.
        status: how the sweep ended.
        group_lrs: shape ``(groups, n)``. Rates of every parameter group; by default one row, ``lr``.
            0 is allowed here: a frozen group.
        facts: how the curve came about, as JSON values, by convention ``start_lr``, ``end_lr``,
            ``num_iter``, ``step_mode``, ``momentum``, ``optimizer``, ``batch_size``, ``constant_loss``
            (loss of the best constant predictor) and ``notes`` (list of sentences). All optional.
        replicates: further sweeps from the same start state.

    Raises:
        ValueError: If shapes disagree, a rate is not a finite positive number, the rates fall, or the
            status is unknown.
        TypeError: If a fact is not a JSON value.

    >>> curve = LRCurve([0.01, 0.1, 1.0], [2.3, 1.9, float("inf")], "non-finite")
    >>> curve
    LRCurve(3 points, lr 0.01 to 1, loss 2.3 at the start, 1.9 at best, status 'non-finite')
    >>> curve.group_lrs.shape
    (1, 3)
    """

    lr: NDArray[np.float64]
    loss: NDArray[np.float64]
    status: Status
    group_lrs: NDArray[np.float64]
    facts: Mapping[str, Any]
    replicates: tuple[LRCurve, ...]

    def __init__(
        self,
        lr: ArrayLike,
        loss: ArrayLike,
        status: Status,
        group_lrs: ArrayLike | None = None,
        facts: Mapping[str, Any] | None = None,
        replicates: Sequence[LRCurve] = (),
    ) -> None:
        lr = _read_only(lr)
        loss = _read_only(loss)
        groups = lr[np.newaxis] if group_lrs is None else _read_only(group_lrs)
        if lr.ndim != 1 or loss.shape != lr.shape:
            raise ValueError(
                f"lr and loss must be flat and equally long; got shapes {lr.shape} and {loss.shape}. "
                "Give one lr and one loss per optimizer step."
            )
        if groups.ndim != 2 or groups.shape[0] < 1 or groups.shape[1] != lr.size:
            raise ValueError(
                f"group_lrs must have the shape (groups, {lr.size}), a row per parameter group; "
                f"got {groups.shape}. Transpose it, or leave it out for a single group."
            )
        _check_rates(lr, groups)
        if status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(map(repr, STATUSES))}; got {status!r}.")
        for name, value in (
            ("lr", lr),
            ("loss", loss),
            ("status", status),
            ("group_lrs", groups),
            ("facts", _plain(dict(facts or {}), "facts")),
            ("replicates", tuple(replicates)),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return int(self.lr.size)

    def __repr__(self) -> str:
        if len(self) == 0:
            return f"LRCurve(no points, status {self.status!r})"
        finite = self.loss[np.isfinite(self.loss)]
        losses = f"loss {self.loss[0]:.4g} at the start"
        losses += f", {finite.min():.4g} at best" if finite.size else ", never finite"
        repeats = f", {len(self.replicates)} replicates" if self.replicates else ""
        points = "1 point" if len(self) == 1 else f"{len(self)} points"
        return f"LRCurve({points}, lr {self.lr[0]:.4g} to {self.lr[-1]:.4g}, {losses}, status {self.status!r}{repeats})"

    def smoothed(self) -> NDArray[np.float64]:
        """Return the smoothed losses, shape ``(n,)``; nan from where the losses stay non-finite.

        See `lrfind.smoothing.smooth`: no lag, a blow-up does not leak back.
        """
        return smooth(self.lr, self.loss)

    def suggest(self, rule: str | Callable[[LRCurve], float] | None = None) -> Suggestion:
        """Pick a ``max_lr`` for one cycle; see `lrfind.suggest.suggest`."""
        from lrfind.suggest import suggest

        return suggest(self, rule)

    def plot(self, ax: Axes | None = None, *, rules: Sequence[str] = ()) -> Axes:
        """Draw the curve with its suggestion; see `lrfind.plot.plot_curve`."""
        from lrfind.plot import plot_curve

        return plot_curve(self, ax=ax, rules=rules)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the curve as JSON. Every float comes back bit for bit, nan and inf too.

        Atomic: a reader sees the old file or the new one, never half of it.
        """
        record = {"format": _FORMAT, "version": _VERSION, **_to_record(self)}
        # One key per line: readable, and a diff of two curves says which part differs.
        lines = (f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items())
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a curve that `save` wrote.

        Raises:
            ValueError: If the file is not such a curve, or was written by a newer version.
            OSError: If it cannot be read.
        """
        hint = "Give a file written by LRCurve.save (for a torch-lr-finder history: LRCurve.from_history)."
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not a saved LRCurve: not JSON ({error}). {hint}") from error
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise ValueError(f'{path} is not a saved LRCurve: "format" is not {_FORMAT!r}. {hint}')
        if record.get("version") != _VERSION:
            raise ValueError(
                f"{path} has format version {record.get('version')!r}; this lrfind reads version {_VERSION}. "
                "Upgrade lrfind, or save the curve again with this one."
            )
        try:
            return cls._from_record(record)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is a damaged LRCurve file: {error!r}. Save the curve again.") from error

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a row per point: step, lr, loss, smoothed_loss; with several groups also lr_0, lr_1, ..."""
        several = len(self.group_lrs) > 1
        groups = [f"lr_{index}" for index in range(len(self.group_lrs))] if several else []
        columns = [self.lr, *(self.group_lrs if several else ()), self.loss, self.smoothed()]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "lr", *groups, "loss", "smoothed_loss"])
            for step, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
                writer.writerow([step, *row])

    @classmethod
    def from_history(cls, history: Mapping[str, Sequence[float]]) -> Self:
        """Make a curve from ``torch_lr_finder.LRFinder(...).history``.

        Args:
            history: "lr" and "loss", equally long. That tool keeps smoothed losses only, so a rule
                smooths them a second time; a note in ``facts`` says so.

        Raises:
            ValueError: If a key is missing, or the lists are no sweep.

        >>> LRCurve.from_history({"lr": [0.1, 1.0], "loss": [2.0, 1.0]}).status
        'too few points'
        """
        if not {"lr", "loss"} <= set(history):
            raise ValueError(
                f"history must have the keys 'lr' and 'loss'; got {sorted(history)}. "
                "Give finder.history after finder.range_test(...)."
            )
        note = "Losses are as torch-lr-finder keeps them: smoothed by its moving average, not raw."
        facts = {"source": "history", "notes": [note]}
        curve = cls(history["lr"], history["loss"], "too few points", facts=facts)
        return replace(curve, status=_status_of(curve.lr, curve.loss))

    @classmethod
    def _from_record(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            record["lr"],
            [float(loss) for loss in record["loss"]],
            record["status"],
            group_lrs=record["group_lrs"],
            facts=_decode(record["facts"]),
            replicates=[LRCurve._from_record(replicate) for replicate in record["replicates"]],
        )


def together(curves: Sequence[LRCurve]) -> LRCurve:
    """Return the first of several sweeps from the same start state, with the others as its replicates."""
    first, *others = curves
    return replace(first, replicates=tuple(others))


def _status_of(lr: NDArray[np.float64], loss: NDArray[np.float64]) -> Status:
    """Infer how a sweep of torch-lr-finder ended."""
    if len(loss) < MIN_POINTS:
        return "too few points"
    if usable_points(loss) < len(loss):
        return "non-finite"
    best = float(np.nanmin(loss))
    stopped = best > 0 and loss[-1] > 5 * best  # its default diverge_th; another one is not in the history
    return "diverged" if stopped or read_shape(lr, loss).risen is not None else "range end"


def _read_only(values: ArrayLike) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)  # a copy: what the caller keeps can no longer change us
    array.flags.writeable = False
    return array


def _check_rates(lr: NDArray[np.float64], groups: NDArray[np.float64]) -> None:
    good = np.isfinite(lr) & (lr > 0)
    if not good.all():
        step = int(np.argmin(good))
        raise ValueError(
            f"lr must be finite and above 0; got lr={float(lr[step])!r} at step {step}. "
            "Leave such points out: a step at lr 0 or below trains nothing."
        )
    falls = np.diff(lr) < 0
    if falls.any():
        step = int(np.argmax(falls))
        raise ValueError(
            f"lr must never fall; got {float(lr[step])!r}, then {float(lr[step + 1])!r} at step {step + 1}. "
            "A range test goes upwards: swap start_lr and end_lr."
        )
    if not (np.isfinite(groups) & (groups >= 0)).all():
        raise ValueError("group_lrs must be finite and at least 0. Check the lr of every parameter group.")


def _plain(value: Any, where: str) -> Any:
    """Copy a value as JSON types, so that what is saved equals what is loaded."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return float(value) if isinstance(value, float) else int(value)
    if isinstance(value, np.integer | np.floating | np.bool_):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(
        f"{where} must be a JSON value (number, str, bool, None, list, dict); got {type(value).__name__}. "
        "Convert it, for instance by float(...) or str(...)."
    )


def _encode(value: Any) -> Any:
    # Strict JSON has no nan or inf. The tag keeps the fact inf apart from the fact "inf".
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"float"} and isinstance(value["float"], str):
            return float(value["float"])
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value


def _to_record(curve: LRCurve) -> dict[str, Any]:
    return {
        "status": curve.status,
        "facts": _encode(curve.facts),
        "lr": curve.lr.tolist(),
        "loss": [loss if np.isfinite(loss) else repr(loss) for loss in curve.loss.tolist()],
        "group_lrs": curve.group_lrs.tolist(),
        "replicates": [_to_record(replicate) for replicate in curve.replicates],
    }
