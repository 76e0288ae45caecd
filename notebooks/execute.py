"""Run the notebooks from top to bottom and keep their outputs: ``python -m notebooks.execute [FILE ...]``.

What is kept is the same in every run: no times, no paths, no random names of widgets. So ``git diff`` after
``make notebooks`` shows what really changed.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).resolve().parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TIMEOUT = 300  # seconds for a cell: far more than any needs
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
COLORS = 128  # of a kept picture: no eye sees the rest, which triples the file


def executed(path: Path) -> NotebookNode:
    """Return the notebook as it comes out of a run in an empty folder; the file stays as it is.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder, _own_jupyter(Path(folder)):
        NotebookClient(
            notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    return tidied(notebook)


@contextmanager
def _own_jupyter(folder: Path) -> Iterator[None]:
    """Start kernels of this very environment, without the user's own kernels, settings and startup files."""
    before = dict(os.environ)
    os.environ |= {
        "OMP_NUM_THREADS": "1",  # the nets are so small that a second thread only waits for the first
        "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER.parent), before.get("PYTHONPATH")])),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    os.environ |= {
        name: str(folder / f".{name}")
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")
    }
    for name in ("JUPYTER_PATH", "MPLBACKEND"):  # the kernel brings a backend that draws into the notebook
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def tidied(notebook: NotebookNode) -> NotebookNode:
    """Return the notebook without what differs from run to run: times, versions, random names of widgets."""
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = _joined(cell.outputs)
            for output in cell.outputs:
                data = output.get("data", {})
                if "image/png" in data:
                    data["image/png"] = _small(data["image/png"])
                if WIDGET_VIEW in data:  # the text that is seen where widgets are not, such as on GitHub
                    data["text/plain"] = "(Widgets: run the notebook to use them.)"
    notebook.metadata = nbformat.from_dict(METADATA | ({"widgets": notebook.metadata.widgets} if state else {}))
    text = json.dumps(notebook)
    for index, model in enumerate(state):  # in the order in which they were made
        text = text.replace(model, f"{index:032x}")
    return nbformat.from_dict(json.loads(text))


def _joined(outputs: list[Any]) -> list[Any]:
    """Join neighbours of one stream: where the kernel cuts a stream is a matter of its timing."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" == last.get("output_type") and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _small(png: str) -> str:
    """Return a picture in fewer colours, without the note of which matplotlib drew it."""
    drawn, kept = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    drawn.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(kept, "png", optimize=True)
    return base64.b64encode(kept.getvalue()).decode()


def main() -> None:
    """Run the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description="Run notebooks from top to bottom and keep their outputs.")
    parser.add_argument("notebook", nargs="*", type=Path, default=NOTEBOOKS, help="by default, every notebook here")
    for path in parser.parse_args().notebook:
        print(path.stem, flush=True)
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
