"""``report``: the page around the pictures, and the file."""

from __future__ import annotations

import ast
import base64
import hashlib
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from onecycle.reports.charts import COLOURS, DASHES, Charts, metrics
from onecycle.reports.parts import number
from onecycle.reports.record import Record, RunOrFolder, records

UPLOT = "1.6.32"
# What of config.json is the machine's; the rest is the run's.
ENVIRONMENT = ("python", "torch", "threads", "processor")
# Shown elsewhere on the page.
ELSEWHERE = ("model", "modules", "parameter groups", "cycle", "max_lr", "first_step", "pick", "retries")


def report(*runs: RunOrFolder, out: str | os.PathLike[str] = "report.html") -> Path:
    """Write runs as one HTML file: each pick with its evidence, range test, schedule, training, configuration.

    The file needs no network and no other file. With several runs their curves are drawn over each other, and their
    outcomes and whatever differs in their configurations are listed side by side. Curves are thinned to 2000 points a
    run (16,000 in all), with the lowest and the highest loss of each stretch kept.

    Args:
        runs: Folders of runs, or what ``fit`` returned. A run that is still going on, or was killed, is shown as far
            as it has got.
        out: The file to write; one of that name is replaced.

    Returns:
        Where it was written.

    Raises:
        ValueError: For no run, the same run twice, or a folder that holds no run or a damaged one.
        TypeError: For something that is neither a run nor a folder.
        OSError: If the file cannot be written.

    >>> import tempfile, torch, lrfind, onecycle
    >>> model = torch.nn.Linear(3, 1)
    >>> batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3)]
    >>> work = lrfind.Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.MSELoss(), batches)
    >>> run = onecycle.fit(work, epochs=2, max_lr=0.1, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = onecycle.report(run, out=f"{folder}/report.html")
    ...     path.name, "max_lr" in path.read_text(encoding="utf-8")
    ('report.html', True)
    """
    target = Path(out)
    page = _page(records(runs))
    partial = Path(f"{target}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise OSError(
            f"out must be a file that can be written; got {target}: {error.strerror}. Give another."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _page(runs: Sequence[Record]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    charts = Charts(runs)
    of_runs = [charts.of_run(index) for index in range(len(runs))]
    of_all = charts.of_all() if len(runs) > 1 else []
    drawn = [*of_all, *(chart for some in of_runs for chart in some)]
    scripts = [Markup(text) for text in (_static("uPlot.iife.min.js").partition("\n")[2], _static("report.js"))]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "words": words}
    return environment.from_string(_static("report.html.jinja")).render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        runs=[
            _run(record) | {"charts": some, "colour": index % COLOURS, "dash": DASHES[index % len(DASHES)]}
            for index, (record, some) in enumerate(zip(runs, of_runs, strict=True))
        ],
        charts=of_all,
        metrics=list(dict.fromkeys(name for record in runs for name in _validation(record))),
        differences=_differences(runs),
        styles=[Markup(_static(name)) for name in ("uPlot.min.css", "report.css")],
        scripts=scripts,
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        data={"columns": charts.columns.values, "charts": [asdict(chart) for chart in drawn]},
        uplot=UPLOT,
        licence=_static("uPlot.LICENSE"),
    )


def words(value: Any) -> str:
    """Return a value of a configuration as it is shown.

    >>> words(None), words(True), words([0.9, 0.95]), words(1e-4)
    ('none', 'yes', '0.9, 0.95', '0.0001')
    """
    if value is None or value == "None":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value)) or "none"
    return str(value)


def _static(name: str) -> str:
    return (files("onecycle.reports") / "static" / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _run(record: Record) -> dict[str, Any]:
    """Return what the page says of a run, in words and numbers."""
    history, config = record.history, record.config
    return {
        "record": record,
        "steps": history.rows,
        "train_loss": history["loss"][-1] if history.rows else None,
        "validation": _validation(record),
        "extremes": {name: _extremes(record, name) for name in _validation(record)},
        "picked": record.pick is not None,
        "command": shlex.join(["onecycle", "train", *record.command]) if record.command else "",
        "settings": {name: value for name, value in config.items() if name not in (*ELSEWHERE, *ENVIRONMENT)},
        "cycle": _cycle(record),
        "groups": config.get("parameter groups", []),
        "modules": {name: kind for name, kind in config.get("modules", {}).items() if name},
        "tensors": config.get("model", {}),
        "numbers": sum(map(_size, config.get("model", {}).values())),
        "environment": {name: config[name] for name in ENVIRONMENT if name in config},
    }


def _cycle(record: Record) -> dict[str, Any]:
    """Return the shape of the cycle; peak and length are shown elsewhere."""
    return {name: value for name, value in asdict(record.cycle).items() if name not in ("max_lr", "total_steps")}


def _validation(record: Record) -> dict[str, float]:
    """Return the numbers of the last validation."""
    rows = record.history.where("val_loss")
    names = [f"{kind}{name}" for name in ("loss", *metrics(record.history)) for kind in ("val_", "val_ema_")]
    return {name: rows[-1][name] for name in names if rows and name in rows[-1]}


def _extremes(record: Record, name: str) -> tuple[float, float] | None:
    values = [row[name] for row in record.history.where(name) if math.isfinite(row[name])]
    return (min(values), max(values)) if values else None


def _differences(runs: Sequence[Record]) -> dict[str, list[str]]:
    """Return the settings in which runs differ, each with its value in every run."""
    settings = [
        {"max_lr": record.max_lr, "total_steps": record.total_steps} | _flat({**record.config, "cycle": _cycle(record)})
        for record in runs
    ]
    names = dict.fromkeys(name for some in settings for name in some)
    table = {name: [words(some[name]) if name in some else "–" for some in settings] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with names such as ``cycle pct_start``; what is no setting is left out."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("modules", "max_lr", "first_step", "pick", "retries"):
            continue
        if key == "model":
            value = f"{sum(map(_size, value.values())):,} numbers"
        name = f"{prefix} {key}".strip()
        if isinstance(value, Mapping):
            flat |= _flat(value, name)
        elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            for index, part in enumerate(value):
                flat |= _flat(part, f"group {index}" if len(value) > 1 else "")
        else:
            flat[name] = value
    return flat


def _size(shape: str) -> int:
    """Return how many numbers a tensor has whose shape is told as in ``config.json``; 0 for what is none.

    >>> _size("(32, 1, 3, 3) float32"), _size("() int64"), _size("dict")
    (288, 1, 0)
    """
    text = shape.rpartition(" ")[0]
    return math.prod(ast.literal_eval(text)) if text.startswith("(") else 0
