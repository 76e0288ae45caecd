"""lrfind.targets: a name, a file or a module becomes a workload, or a sentence that says why not."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lrfind import targets
from lrfind.targets import TargetError, load, user_line

TASK = """
import random

import numpy as np
import torch
from torch import nn

import lrfind
from widths import WIDTH

DRAWN = (random.random(), float(np.random.rand()), float(torch.rand(1)))


def make():
    model = nn.Linear(WIDTH, 2)
    batches = [(torch.randn(8, WIDTH), torch.randint(2, (8,))) for _ in range(3)]
    return lrfind.Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), batches)


def sized(*, width=4, seed=None):
    work = make()
    work.given = (width, seed)
    return work


def anything(**settings):
    work = make()
    work.given = settings
    return work


def both():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return lrfind.Workload(model, optimizer, nn.MSELoss(), [1], loss_fn=len)


def nothing():
    pass


def needy(width, *, depth):
    pass


def broken():
    return {}["key"]


def leaves():
    raise SystemExit("not today")


WEIGHTS = [1, 2]
"""


@pytest.fixture(autouse=True)
def unchanged_imports(monkeypatch):
    """Forget after each test which folders were searched and which files were imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(targets, "_from_files", set())
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("task", "widths", "other", "pack", "pack.inner"):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of the user's own, with a task and a module beside it; the current folder is another one."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "task.py").write_text(TASK)
    (own / "widths.py").write_text("WIDTH = 5\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return own


def test_a_built_in_name_gives_its_workload():
    """Settings are passed on to the function behind the name."""
    assert load("digits", batch_size=32).batch_size == 32


def test_a_file_gives_the_workload_of_its_function_and_may_import_its_siblings(folder):
    """FILE.py:FUNCTION works from any current folder."""
    work = load(f"{folder}/task.py:make")

    assert work.model.in_features == 5


def test_a_relative_path_is_seen_from_the_current_folder(folder):
    """As in a shell."""
    assert load("../own/task.py:make").model.in_features == 5


def test_a_file_is_read_anew_each_time(folder):
    """Who edits the file and loads again, in a notebook for instance, gets what is there now."""
    load(f"{folder}/task.py:make")
    (folder / "task.py").write_text(TASK.replace("nn.Linear(WIDTH, 2)", "nn.Linear(WIDTH, 7)"))

    assert load(f"{folder}/task.py:make").model.out_features == 7


def test_files_of_one_name_in_two_folders_do_not_meet(folder):
    """The second file is loaded, not the first again."""
    load(f"{folder}/task.py:make")
    (folder / "second").mkdir()
    (folder / "second" / "task.py").write_text(TASK.replace("nn.Linear(WIDTH, 2)", "nn.Linear(WIDTH, 3)"))

    assert load(f"{folder}/second/task.py:make").model.out_features == 3


def test_a_module_of_the_current_folder_is_found(folder, monkeypatch):
    """PACKAGE.MODULE:FUNCTION is imported with the current folder in front, which a console script lacks."""
    package = folder / "pack"
    package.mkdir()
    (package / "inner.py").write_text(TASK)
    monkeypatch.chdir(folder)

    assert load("pack.inner:make").model.in_features == 5


def test_the_seed_is_set_before_the_file_runs(folder):
    """Python, numpy and torch draw the same numbers again at import and in the function."""
    first = load(f"{folder}/task.py:make", seed=7)
    drawn = sys.modules["task"].DRAWN
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    again = load(f"{folder}/task.py:make", seed=7)

    assert drawn == sys.modules["task"].DRAWN
    assert torch.equal(first.model.weight, again.model.weight)


def test_without_a_seed_nothing_is_seeded(folder):
    """The caller's random state goes on."""
    torch.manual_seed(1)
    first = load(f"{folder}/task.py:make")
    second = load(f"{folder}/task.py:make")

    assert not torch.equal(first.model.weight, second.model.weight)


def test_settings_and_seed_are_passed_to_a_function_that_takes_them(folder):
    """A function of the user's own may have the same flags as a built-in one."""
    assert load(f"{folder}/task.py:sized", seed=3, width=9).given == (9, 3)
    assert load(f"{folder}/task.py:anything", batch_size=2).given == {"batch_size": 2}


BAD = [
    ("digit", r"TARGET must be digits, mnist or fashion-mnist, or path/to/file\.py:function, .* got 'digit'\. Correct"),
    ("own/task.py", r"got 'own/task\.py'\. Add :function\."),
    ("own/task.py:", r"got 'own/task\.py:'\. Add :function\."),
    (":make", r"got ':make'\. Correct the name\."),
    ("", r"got ''\. Correct the name\."),
    ("own/tusk.py:make", r"TARGET must name an existing file; got own/tusk\.py, seen from .*Correct the path"),
    ("own/task.py:mike", r"must name a function; got nothing of that name\. .* defines make, sized, .*: give one"),
    ("own/task.py:WEIGHTS", r"must name a function; got an object of type list\."),
    ("own/task.py:nothing", r"nothing must return a lrfind\.Workload; got None\. End the function with return"),
    ("own/task.py:needy", r"must be callable without arguments; got a function that needs width, depth\. Give them"),
    ("own/task.py:both", r"got ValueError: Workload takes either criterion or loss_fn; got both.*task\.py, line 35\)"),
    ("own/task.py:broken", r"must return a workload; got KeyError: 'key' \(.*task\.py, line 47\)\. Mend that"),
    ("own/task.py:leaves", r"got SystemExit: not today \(.*task\.py, line 51\)"),
    ("own/typo.py:make", r"own/typo\.py must be importable; got SyntaxError: .* \(.*typo\.py, line 2\)\. Mend that"),
    ("own/imports.py:make", r"got ModuleNotFoundError: No module named 'not_there' \(.*imports\.py, line 1\)"),
    ("own/random.py:make", r"must not have the name of a module that is in use; got own/random\.py, and 'random' is"),
    ("no_such_package.module:make", r"no_such_package\.module must be importable from .*No module named 'no_such_pack"),
    ("torch:zeros", r"must name a Python function that returns a lrfind\.Workload; got <built-in"),
]


@pytest.mark.parametrize(("target", "message"), BAD)
def test_what_gives_no_workload_says_why(target, message, folder, monkeypatch):
    """Every way to fail is a TargetError with what was given, what is allowed and what to do."""
    (folder / "typo.py").write_text("import torch\ndef make(:\n    pass\n")
    (folder / "imports.py").write_text("import not_there\n")
    (folder / "random.py").write_text("def make():\n    pass\n")
    monkeypatch.chdir(folder.parent)

    with pytest.raises(TargetError, match=message):
        load(target)


def test_a_setting_that_is_not_taken_is_refused():
    """Nothing that the user asked for is dropped silently."""
    with pytest.raises(TargetError, match=r"digits takes batch_size, .*; got data_root\. Leave that out\."):
        load("digits", data_root="somewhere")


def test_an_own_function_that_lacks_a_setting_may_be_given_it(folder):
    """The message says so."""
    with pytest.raises(TargetError, match=r"takes no settings; got width\. Leave that out, or give the function such"):
        load(f"{folder}/task.py:make", width=3)


def test_errors_of_built_in_workloads_come_in_their_own_words(tmp_path):
    """They say what to do already."""
    with pytest.raises(TargetError, match=r"^data_root must be an existing folder"):
        load("mnist", data_root=tmp_path / "nowhere")


def test_a_file_that_fails_is_not_left_half_imported(folder):
    """Mended, it loads."""
    (folder / "other.py").write_text("1 / 0\n")
    with pytest.raises(TargetError, match="ZeroDivisionError"):
        load(f"{folder}/other.py:make")
    assert "other" not in sys.modules

    (folder / "other.py").write_text(TASK)

    assert load(f"{folder}/other.py:make").model.in_features == 5


def test_the_line_of_an_error_is_the_users_own_not_a_librarys(folder):
    """Of a stack that ends inside torch, the last line of the user's own code is told."""
    (folder / "other.py").write_text(
        "import torch\n\n\ndef make():\n    return torch.zeros(2, 3) @ torch.zeros(2, 3)\n"
    )

    with pytest.raises(TargetError, match=r"RuntimeError: .*other\.py, line 5\)"):
        load(f"{folder}/other.py:make")


def test_an_error_of_this_package_alone_has_no_line():
    """An error that no line of the user's own led to speaks for itself."""
    with pytest.raises(TargetError) as caught:
        load("digit")

    assert "test_targets.py, line" in user_line(caught.value)  # this file called it
    caught.value.__traceback__ = caught.tb.tb_next
    assert user_line(caught.value) == ""
