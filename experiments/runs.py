"""Training runs that an experiment does once and keeps in a cache: one cycle by ``fit``, or any other rates."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.machine import describe
from experiments.tasks.data import CACHE
from lrfind.batches import epoch
from lrfind.workload import Workload
from onecycle import OneCycle, fit
from onecycle.logs import strict
from onecycle.state import WorkState


@dataclass(frozen=True)
class Outcome:
    """A training run.

    Attributes:
        status: ``"diverged"`` once the loss has left its range for good; the run then ends early. ``"under way"``
            where the run was stopped and can go on.
        epochs: Passes over the training data at each validation, from 1.
        loss: Validation loss there.
        accuracy: Validation accuracy there, 0 to 1.
        cpu_seconds: Of the process, validations included.
        wall_seconds: The same by the clock on the wall, which other work on the machine slows down.
    """

    status: Literal["finished", "diverged", "under way"]
    epochs: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    cpu_seconds: float
    wall_seconds: float

    @property
    def last_accuracy(self) -> float:
        """Accuracy at the end, in percent; that of a guess among ten where the run diverged."""
        return 10.0 if self.status == "diverged" else 100 * self.accuracy[-1]


def by_cycle(work: Workload, cycle: OneCycle, epochs: int, *, compiled: bool = False) -> Outcome:
    """Train for one cycle with ``onecycle.fit``, validating after each epoch.

    Args:
        work: What to train.
        cycle: Its shape and peak.
        epochs: Its length.
        compiled: Whether to run the model through ``torch.compile``.
    """
    began = time.process_time(), time.perf_counter()
    run = fit(work, epochs=epochs, cycle=cycle, on_divergence="stop", progress=False, compile=compiled)
    return _outcome(run.status == "finished", run.history.where("val_loss"), work, began)


def by_rates(work: Workload, factor: Callable[[int], float], epochs: int, state: Path | None = None) -> Outcome:
    """Train with the optimizer's own rates times ``factor(step)``, momentum left alone, validating after each epoch.

    Args:
        work: What to train.
        factor: What the rates are multiplied by at an optimizer step, counted from 0.
        epochs: Passes over the training data.
        state: File that the run is saved to after each epoch, and goes on from where it exists. Its outcome counts
            the seconds of the last stretch only.
    """
    began = time.process_time(), time.perf_counter()
    steps, rows, whole = 0, [], WorkState(work, None)
    own_rates = [group["lr"] for group in work.optimizer.param_groups]
    if state is not None and state.exists():
        saved = torch.load(state, weights_only=True)
        whole.put(saved["work"])
        work.train_loader.generator.set_state(saved["order"])  # type: ignore[union-attr]
        steps, rows = saved["steps"], saved["rows"]
    for _ in range(len(rows), epochs):
        total = torch.zeros((), device=work.device)
        with work.training():
            for batches in epoch(work.batches(), 1):
                for group, rate in zip(work.optimizer.param_groups, own_rates, strict=True):
                    group["lr"] = rate * factor(steps)
                total += work.step(batches).loss
                steps += 1
        if not math.isfinite(float(total)):
            return _outcome(False, rows, work, began)
        values = work.evaluate()
        rows.append({"step": steps, "val_loss": values["loss"], "val_accuracy": values["accuracy"]})
        if state is not None:
            order = work.train_loader.generator.get_state()  # type: ignore[union-attr]
            _save(state, {"work": whole.take(), "order": order, "steps": steps, "rows": rows})
    if state is not None:
        state.unlink(missing_ok=True)
    return _outcome(True, rows, work, began)


def so_far(state: Path) -> Outcome | None:
    """Return how far ``by_rates`` has come in a run that it saves to ``state``; None where it has not begun."""
    if not state.exists():
        return None
    rows = torch.load(state, weights_only=True)["rows"]
    loss, accuracy = (tuple(row[name] for row in rows) for name in ("val_loss", "val_accuracy"))
    epochs = tuple(float(epoch) for epoch in range(1, len(rows) + 1))
    return Outcome("under way", epochs, loss, accuracy, math.nan, math.nan)


def _save(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        torch.save(record, file)
    Path(file.name).replace(path)  # whole or not at all


def _outcome(finished: bool, rows: Sequence[dict[str, float]], work: Workload, began: tuple[float, float]) -> Outcome:
    per_epoch = len(work.train_loader)  # type: ignore[arg-type]
    if work.device.type != "cpu":
        torch.accelerator.synchronize()
    return Outcome(
        status="finished" if finished else "diverged",
        epochs=tuple(row["step"] / per_epoch for row in rows),
        loss=tuple(row["val_loss"] for row in rows),
        accuracy=tuple(row["val_accuracy"] for row in rows),
        cpu_seconds=time.process_time() - began[0],
        wall_seconds=time.perf_counter() - began[1],
    )


def kept(experiment: str, name: str, settings: dict[str, Any], build: Callable[[], Any]) -> Any:
    """Return what ``build`` returns, as JSON values, from the cache if it was built with these settings before.

    Args:
        experiment: Whose cache: a folder in ``experiments/.cache/``.
        name: What is kept, for whoever looks at the files.
        settings: All that the result depends on; JSON values.
        build: Returns JSON values.
    """
    content = json.dumps(settings, sort_keys=True)
    path = CACHE / experiment / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}.json"
    if not path.exists():
        record = json.dumps({"settings": settings, "result": build()})
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(record)
        Path(file.name).replace(path)  # whole or not at all
    return json.loads(path.read_text(encoding="utf-8"))["result"]


@contextmanager
def temporary_cache() -> Iterator[None]:
    """Keep what the body keeps in a folder that is removed after it."""
    global CACHE
    usual = CACHE
    with tempfile.TemporaryDirectory() as folder:
        CACHE = Path(folder)
        try:
            yield
        finally:
            CACHE = usual


def kept_run(experiment: str, name: str, settings: dict[str, Any], train: Callable[[], Outcome]) -> Outcome:
    """Return a run, from the cache if it was done before; arguments as for :func:`kept`."""
    result = kept(experiment, name, settings, lambda: asdict(train()))
    return Outcome(**{key: tuple(value) if isinstance(value, list) else value for key, value in result.items()})


def absent() -> Any:
    """Stand in for a run where none is to be done.

    Raises:
        LookupError: Always.
    """
    raise LookupError("not in the cache")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return mean and standard deviation over seeds; of one value there is no deviation.

    >>> spread([99.1, 99.2, 99.3]), spread([99.1])
    ('99.20 ± 0.10', '99.10')
    """
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def write(
    name: str,
    found: Mapping[str, Sequence[Any]],
    plan: Mapping[str, Any],
    out: Path | None,
    *,
    packages: Sequence[str],
    text: Callable[[dict[str, Any]], str],
    picture: Callable[[Path], None],
) -> None:
    """Print what an experiment says, and write it with its numbers and its picture.

    Args:
        name: Of the files: ``NAME.md``, ``NAME.json``, ``NAME.png``.
        found: The runs of every row: named tuples with a ``seed`` and an ``outcome``.
        plan: What all runs have in common.
        out: Folder; None prints alone.
        packages: Whose versions belong to the facts.
        text: Returns the page, given the facts of the machine and of the runs.
        picture: Draws into a file.
    """
    several = [each for done in found.values() for each in done]
    seeds = ", ".join(str(seed) for seed in sorted({each.seed for each in several}))
    facts = describe(packages) | {"seeds": seeds, "number of runs": len(several)}
    page = text(facts)
    print(page)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(page, encoding="utf-8")
    runs = {row: [each._asdict() | {"outcome": asdict(each.outcome)} for each in done] for row, done in found.items()}
    numbers = {"facts": facts, "plan": dict(plan), "runs": runs}
    (out / f"{name}.json").write_text(json.dumps(strict(numbers), indent=1) + "\n", encoding="utf-8")
    picture(out / f"{name}.png")
    print(f"Written to {out}")
