"""notebooks/: each runs from top to bottom, and is kept with the outputs that a reader without Python sees."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# /home/..., ~/..., file://..., C:\...; neither 1/2 nor https://...
ABSOLUTE_PATH = re.compile(r"(?<![\w./:])/\w[\w.-]*/|~/|file://|\b[A-Za-z]:\\")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kept(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def kinds(cell: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return what a cell's outputs are, whatever their numbers: type, stream and formats of each."""
    return [(out["output_type"], out.get("name", ""), *sorted(out.get("data", ()))) for out in cell["outputs"]]


def texts(notebook: dict[str, Any]) -> list[str]:
    """Return all that is to be read: sources, streams, and data that are no picture."""
    found = [cell["source"] for cell in notebook["cells"]]
    for out in (out for cell in code_cells(notebook) for out in cell["outputs"]):
        found.append(out.get("text", ""))
        found += [data for kind, data in out.get("data", {}).items() if kind != "image/png"]
    return ["".join(text) for text in found]  # the file format cuts texts into lines


def test_there_is_a_quickstart():
    """Else the other tests would test nothing."""
    assert "quickstart" in [path.stem for path in NOTEBOOKS]


@each_notebook
def test_runs_and_gives_what_is_kept(path, tmp_path, monkeypatch):
    """No cell fails, and each gives outputs of the same kinds as those in the file."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient, of the extra notebooks, is not installed")
    import nbformat

    monkeypatch.delenv("MPLBACKEND")  # of conftest.py: the kernel is to bring its own, which draws into the notebook
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    # The kernel of this very environment, without the user's own kernels and startup files.
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    fresh = nbformat.read(path, as_version=4)

    nbclient.NotebookClient(
        fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    assert [kinds(cell) for cell in code_cells(fresh)] == [kinds(cell) for cell in code_cells(kept(path))]


@each_notebook
def test_was_run_from_top_to_bottom(path):
    """The execution counts are 1, 2, 3, ..."""
    counts = [cell["execution_count"] for cell in code_cells(kept(path))]

    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_outputs_are_kept(path):
    """Text and pictures, without errors and without the noise of stderr."""
    outputs = [kind for cell in code_cells(kept(path)) for kind in kinds(cell)]

    assert any("image/png" in kind for kind in outputs)
    assert any(kind[:2] == ("stream", "stdout") for kind in outputs)
    assert not [kind for kind in outputs if kind[0] == "error" or kind[1] == "stderr"]


@each_notebook
def test_holds_no_absolute_paths(path):
    """Neither in the sources nor in the outputs: they are those of somebody's machine."""
    assert [text for text in texts(kept(path)) if ABSOLUTE_PATH.search(text)] == []
