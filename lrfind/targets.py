"""A TARGET of the command line as a workload: a built-in name, or a function of the user's own."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import random
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from lrfind.workload import Workload
from lrfind.workloads import WORKLOADS

# Modules that came from a FILE.py: those, and no others, are replaced by another file of the same name.
_from_files: set[str] = set()


class TargetError(ValueError):
    """A TARGET that gives no workload; the message says why and what to do."""


def load(target: str, *, seed: int | None = None, **settings: Any) -> Workload:
    """Return the workload that ``target`` names.

    Args:
        target: The name of a built-in workload (``lrfind.workloads.WORKLOADS``), or ``path/to/file.py:function`` or
            ``package.module:function``: a function that can be called without arguments and returns a ``Workload``. A
            file is read anew each time, and its folder goes to the front of ``sys.path`` as for ``python file.py``;
            for a module the current folder does.
        seed: Seeds Python, numpy and torch first, so that a function that makes a model makes the same one again; it
            is passed on where the function takes a ``seed``. Default: nothing is seeded.
        settings: Passed on to the function, which must take them.

    Raises:
        TargetError: For an unknown name, a file or function that is not there, an error inside of it, a setting that
            it does not take, or something other than a ``Workload`` returned.

    >>> load("digits", batch_size=32).batch_size
    32
    """
    if seed is not None:
        seed_all(seed)
    make = _function(target)
    arguments = _arguments(target, make, seed, settings)
    if target in WORKLOADS:
        try:
            built_in: Workload = make(**arguments)
        except (ValueError, OSError, ImportError) as error:
            raise TargetError(str(error)) from error
        return built_in
    with _telling(f"{target} must return a workload"):
        work = make(**arguments)
    if not isinstance(work, Workload):
        raise TargetError(
            f"{target} must return a lrfind.Workload; got {_kind(work)}. End the function with "
            "return lrfind.Workload(model, optimizer, criterion, train_loader, val_loader)."
        )
    return work


def name_of(target: str) -> str:
    """Return a short name of ``target``, fit for a folder.

    >>> name_of("digits"), name_of("jobs/net.py:make"), name_of("my.jobs:make")
    ('digits', 'net', 'jobs')
    """
    place = target.rpartition(":")[0] or target
    return Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]


def _function(target: str) -> Callable[..., Any]:
    if target in WORKLOADS:
        return WORKLOADS[target]
    place, _, name = target.rpartition(":")
    if not place or not name:
        *names, last = WORKLOADS
        raise TargetError(
            f"TARGET must be {', '.join(names)} or {last}, or path/to/file.py:function, or package.module:function; "
            f"got {target!r}. " + ("Add :function." if (place or name).endswith(".py") else "Correct the name.")
        )
    module = _file(Path(place).expanduser()) if place.endswith(".py") else _package_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        given = "nothing of that name" if function is None else _kind(function)
        raise TargetError(
            f"{target} must name a function; got {given}. {place} defines {', '.join(own) or 'none'}: give one that "
            "returns a lrfind.Workload."
        )
    return function  # type: ignore[no-any-return]  # whatever can be called


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(
            f"TARGET must name an existing file; got {path}, seen from {Path.cwd()}. Correct the path before the colon."
        )
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and name not in _from_files:
        raise TargetError(
            f"the file of a TARGET must not have the name of a module that is in use; got {path}, and {name!r} is "
            f"{getattr(loaded, '__file__', None) or 'part of Python'}. Rename the file."
        )
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a file that ends in .py has a spec"
    assert spec.loader is not None, "and a loader"
    module = importlib.util.module_from_spec(spec)
    _search_first(path.resolve().parent)
    # Before it runs, and under its own name: dataclasses, pickle and a loader's worker processes look it up there.
    sys.modules[name] = module
    _from_files.add(name)
    try:
        with _telling(f"{path} must be importable"):
            spec.loader.exec_module(module)
    except TargetError:
        del sys.modules[name]
        raise
    return module


def _package_module(name: str) -> ModuleType:
    _search_first(Path.cwd())
    with _telling(f"{name} must be importable from {Path.cwd()}"):
        return importlib.import_module(name)


def _search_first(folder: Path) -> None:
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))


def _arguments(target: str, make: Callable[..., Any], seed: int | None, settings: dict[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError as error:  # some functions written in C do not tell
        raise TargetError(
            f"{target} must name a Python function that returns a lrfind.Workload; got {make!r}. Wrap it in one."
        ) from error
    takes = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needs = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in settings
    ]
    if needs:
        raise TargetError(
            f"{target} must be callable without arguments; got a function that needs {', '.join(needs)}. "
            "Give them defaults."
        )
    unknown = settings.keys() - takes
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise TargetError(
            f"{target} takes {', '.join(sorted(takes)) or 'no settings'}; got {', '.join(sorted(unknown))}. "
            "Leave that out" + ("." if target in WORKLOADS else ", or give the function such an argument.")
        )
    return settings | ({"seed": seed} if seed is not None and "seed" in takes else {})


@contextmanager
def _telling(expected: str) -> Iterator[None]:
    """Turn whatever the user's own code raises into a ``TargetError`` that says what, and where."""
    try:
        yield
    except (Exception, SystemExit) as error:
        what = error.msg if isinstance(error, SyntaxError) else error
        raise TargetError(
            f"{expected}; got {type(error).__name__}: {what}{user_line(error)}. Mend that first."
        ) from error


def user_line(error: BaseException) -> str:
    """Return " (file, line n)" for the line of the user's own code that ``error`` comes from, "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    paths = sysconfig.get_paths()
    here = Path(__file__).parent
    others = [here, here.with_name("onecycle"), *(Path(paths[name]) for name in ("stdlib", "purelib", "platlib"))]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_absolute() and not any(path.is_relative_to(other) for other in others):
            return f" ({path}, line {frame.lineno})"
    return ""


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global state is what a user's function may draw from
    torch.manual_seed(seed)


def _kind(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"
