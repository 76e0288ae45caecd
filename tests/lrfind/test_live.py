"""Tests of lrfind.live: the picture of a running sweep, in a notebook real or played, and what it must leave alone."""

from __future__ import annotations

import base64
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrfind import Workload, live, range_test
from lrfind.live import in_notebook

SAVEFIG = Figure.savefig
ROOT = Path(__file__).resolve().parents[2]


def workload(loss_fn: Callable[..., torch.Tensor] | None = None) -> Workload:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(256, 4, generator=generator)
    data = TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(data, 32, shuffle=True)
    if loss_fn is None:
        return Workload(model, optimizer, nn.CrossEntropyLoss(), loader)
    return Workload(model, optimizer, train_loader=loader, loss_fn=loss_fn)


def weights(work: Workload) -> list[Any]:
    return [parameter.tolist() for parameter in work.model.parameters()]


class Notebook:
    """Plays the kernel: keeps every picture that is shown or put in the place of another, and its title."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []
        self.updates: list[dict[str, Any]] = []
        self.titles: list[str] = []

    def savefig(self, figure: Figure, file: Any) -> None:
        """Keep the title and do not render, which takes most of the time."""
        self.titles.append(figure.axes[0].get_title(loc="left"))
        file.write(b"\x89PNG")

    def display(self, data: dict[str, Any], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        self.shown.append(data)
        return SimpleNamespace(update=lambda data, raw: self.updates.append(data))


def ipython(shell: Any) -> Any:
    return SimpleNamespace(get_ipython=lambda: shell, version_info=(9, 0))  # matplotlib asks for the version


@pytest.fixture
def figure() -> Iterator[Figure]:
    """A figure of the user's own: the current one."""
    figure = plt.figure()
    yield figure
    plt.close(figure)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """A kernel that is not there, in which drawing is due at each point."""
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", ipython(SimpleNamespace(kernel=object())))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=notebook.display))
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: notebook.savefig(figure, file))
    monkeypatch.setattr(live, "INTERVAL", 0.0)
    monkeypatch.setattr(live, "PAUSE", 0.0)
    return notebook


def sweep(work: Workload, **settings: Any) -> Any:
    return range_test(work, **{"start_lr": 1e-4, "num_iter": 20, **settings})


# -- where it draws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shell",
    [None, SimpleNamespace(), SimpleNamespace(kernel=None)],
    ids=["no shell", "terminal", "no kernel"],
)
def test_draws_in_a_kernel_and_nowhere_else(shell, monkeypatch, notebook, capsys):
    """IPython that is loaded by something, or runs in a terminal, is no notebook: the bar stays."""
    assert in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", ipython(shell))
    assert not in_notebook()

    sweep(workload())

    assert notebook.shown == []
    assert "range test" in capsys.readouterr().err


def test_without_ipython_none_is_loaded(monkeypatch):
    """Looking for a notebook imports nothing."""
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    loaded = set(sys.modules)

    assert not in_notebook()
    assert set(sys.modules) == loaded


def test_progress_false_draws_nothing(notebook):
    """The same switch as the bar's."""
    sweep(workload(), progress=False)

    assert notebook.shown == []


def test_the_picture_takes_the_place_of_the_bar(notebook, capsys):
    """In a notebook nothing is written to stderr."""
    sweep(workload())

    assert notebook.shown
    assert capsys.readouterr().err == ""


# -- what it draws -----------------------------------------------------------------------------------------------


def test_one_picture_is_updated_in_place_and_the_last_is_complete(notebook):
    """A display per sweep; each update is a PNG; the last drawing is that of the curve that is returned."""
    curve = sweep(workload(), num_iter=15)

    assert len(notebook.shown) == 1
    assert len(notebook.updates) == len(notebook.titles) - 1
    assert all(data["image/png"].startswith(b"\x89PNG") for data in notebook.shown + notebook.updates)
    assert notebook.titles[0].startswith("step 1 of 15, lr 1.0e-04, loss ")
    assert notebook.titles[-1] == f"{len(curve)} steps, ended: {curve.status}, SGD, batch 32"


def test_repeats_share_one_picture(notebook):
    """The second sweep begins anew at its first step, in the same place."""
    sweep(workload(), num_iter=12, repeats=2, stop_factor=float("inf"))

    assert len(notebook.shown) == 1
    assert [title.split(",")[0] for title in notebook.titles].count("step 1 of 12") == 2


def test_draws_seldom(notebook, monkeypatch):
    """What a drawing took is waited for many times over before the next one: here only the last is due."""
    monkeypatch.setattr(live, "PAUSE", 1e6)
    sweep(workload())

    assert len(notebook.shown) == 1  # the first point was due
    assert len(notebook.updates) == 1  # and then the end


def test_a_short_sweep_is_drawn_once(notebook, monkeypatch):
    """Nothing is drawn before the first interval is over."""
    monkeypatch.setattr(live, "INTERVAL", 60.0)
    sweep(workload())

    assert len(notebook.shown) == 1
    assert notebook.updates == []


# -- what it must not disturb ------------------------------------------------------------------------------------


def test_the_sweep_is_the_same_bit_for_bit(notebook):
    """Losses, weights and random states with the picture are those without."""
    work, other = workload(), workload()
    torch.manual_seed(7)
    drawn = sweep(work)
    after = torch.rand(3)
    torch.manual_seed(7)
    quiet = sweep(other, progress=False)

    assert drawn.loss.tolist() == quiet.loss.tolist()
    assert torch.equal(torch.rand(3), after)
    assert all(
        torch.equal(one, two) for one, two in zip(work.model.parameters(), other.model.parameters(), strict=True)
    )


def test_pyplot_knows_nothing_of_it(figure, notebook, monkeypatch):
    """The user's current figure stays current, and no figure is added, by real drawings too."""
    monkeypatch.setattr(Figure, "savefig", SAVEFIG)
    sweep(workload(), num_iter=10)

    assert len(notebook.updates) >= 9
    assert (plt.get_fignums(), plt.gcf()) == ([figure.number], figure)


def test_on_point_is_called_and_can_stop(notebook):
    """The caller's own on_point hears every point and ends the sweep as it would without a picture."""
    heard: list[float] = []

    def until_five(lr: float, loss: float) -> bool:
        heard.append(lr)
        return len(heard) == 5

    curve = sweep(workload(), on_point=until_five)

    assert heard == curve.lr.tolist()
    assert (len(curve), curve.status) == (5, "interrupted")


def test_a_drawing_that_fails_is_the_last(notebook, monkeypatch, capsys):
    """A line says so, once; the sweep goes on to its end without further attempts."""
    attempts = []

    def broken(*_: Any, **__: Any) -> None:
        attempts.append(1)
        raise RuntimeError("no canvas")

    monkeypatch.setattr(Figure, "savefig", broken)
    curve = sweep(workload())

    assert curve.loss.tolist() == sweep(workload(), progress=False).loss.tolist()
    assert len(attempts) == 1
    assert capsys.readouterr().out == (
        "The picture of the running sweep could not be drawn (RuntimeError('no canvas')); "
        "the sweep goes on without it.\n"
    )


# -- how it ends -------------------------------------------------------------------------------------------------


def ctrl_c_at(step: int) -> Callable[[float, float], None]:
    heard: list[float] = []

    def press(lr: float, loss: float) -> None:
        heard.append(lr)
        if len(heard) == step:
            raise KeyboardInterrupt

    return press


def test_ctrl_c_gives_back_the_curve_and_its_picture(notebook):
    """The points so far come with the exception, and the last drawing shows them."""
    with pytest.raises(KeyboardInterrupt) as stop:
        sweep(workload(), on_point=ctrl_c_at(14))

    assert (len(stop.value.curve), stop.value.curve.status) == (14, "interrupted")
    assert notebook.titles[-1] == "14 steps, ended: interrupted, SGD, batch 32"


def test_ctrl_c_in_a_drawing_is_one_in_the_sweep(notebook, monkeypatch):
    """It is no failure of the picture: everything is restored and the curve so far handed over."""
    monkeypatch.setattr("lrfind.plot.ProgressPicture.save", _pressed)
    work = workload()
    before = weights(work)

    with pytest.raises(KeyboardInterrupt) as stop:
        sweep(work)

    assert len(stop.value.curve) == 1
    assert weights(work) == before


def _pressed(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("first", [True, False], ids=["a first", "a second"])
def test_ctrl_c_in_the_last_drawing_keeps_the_curve(first, notebook, monkeypatch):
    """Whether the sweep was over or was being ended by Ctrl-C already, the curve is with the exception."""
    monkeypatch.setattr("lrfind.plot.plot_curve", lambda *_, **__: _pressed())

    with pytest.raises(KeyboardInterrupt) as stop:
        sweep(workload(), on_point=None if first else ctrl_c_at(14), stop_factor=float("inf"))

    assert len(stop.value.curve) == (20 if first else 14)


def test_an_error_in_the_step_leaves_the_picture_as_it_stands(notebook):
    """The error is the user's to see; no curve is drawn that is not there."""
    calls = iter(range(1000))

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        if next(calls) == 12:
            raise RuntimeError("out of memory")
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(RuntimeError, match="out of memory"):
        sweep(workload(loss_fn))

    assert notebook.titles[-1].startswith("step 12 of 20")


# -- in a real kernel --------------------------------------------------------------------------------------------

SETUP = """
import sys, time, torch, lrfind
from torch import nn
torch.manual_seed(0)
x = torch.randn(512, 8)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), 32, shuffle=True)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
work = lrfind.Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), loader)
pyplot_before = "matplotlib.pyplot" in sys.modules
"""
# A tenth of a second a step, so that some drawings are due whatever the machine is doing.
SWEEP = "curve = lrfind.range_test(work, start_lr=1e-3, num_iter=25, on_point=lambda *_: time.sleep(0.1))"
AFTER = """
print(len(curve), curve.status, pyplot_before, "matplotlib.pyplot" in sys.modules)
"""


def test_in_a_real_kernel_the_output_is_one_picture(tmp_path, monkeypatch):
    """One output, an image, updated a few times while the sweep runs; pyplot is not even loaded."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient, of the extra notebooks, is not installed")
    import nbformat

    monkeypatch.delenv("MPLBACKEND")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, SWEEP, AFTER)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    messages: list[str] = []

    class Client(nbclient.NotebookClient):  # type: ignore[misc, name-defined]
        def process_message(self, msg: Any, *rest: Any) -> Any:
            messages.append(msg["msg_type"])
            return super().process_message(msg, *rest)

    began = time.perf_counter()
    Client(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    seconds = time.perf_counter() - began

    (output,) = notebook.cells[1]["outputs"]
    points, *_ = notebook.cells[2]["outputs"][0]["text"].split(maxsplit=1)
    picture = plt.imread(io.BytesIO(base64.b64decode(output["data"]["image/png"])))
    assert output["output_type"] == "display_data"
    assert picture.shape[:2] == (450, 700)
    assert int(points) > 15
    assert notebook.cells[2]["outputs"][0]["text"].split()[-2:] == ["False", "False"]
    assert messages.count("display_data") == 1
    assert 1 <= messages.count("update_display_data") <= seconds / live.INTERVAL
