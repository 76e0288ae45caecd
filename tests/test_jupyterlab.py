"""notebooks/ in a real JupyterLab, driven in a real browser: they run, and their widgets do what they say."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="needs the package playwright (extra dev)")
pytest.importorskip("jupyterlab", reason="needs jupyterlab (extra notebooks)")
from playwright.sync_api import Browser, Locator, Page, expect

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60  # the first start of a JupyterLab is slow
LOOK_SECONDS = 15  # a picture takes a fifth
RUN_SECONDS = 180  # a notebook takes 10 to 30, on a machine that does nothing else
PICTURES = ".jp-RenderedImage img"
# What JupyterLab shows of an exception, and of what is written to stderr.
TROUBLE = ", ".join(f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ("error", "stderr"))
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are there all the same
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab, with its token, on a copy of the notebooks; as a user without settings finds it."""
    home, folder = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("notebooks")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        (folder / path.name).write_text(json.dumps(emptied(json.loads(path.read_text(encoding="utf-8")))))
    for name, settings in SETTINGS.items():
        file = home / "JUPYTER_CONFIG_DIR" / "lab" / "user-settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings), encoding="utf-8")
    dirs = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    env = (
        os.environ
        | {name: str(home / name) for name in dirs}
        | {"OMP_NUM_THREADS": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    )
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env.pop("MPLBACKEND", None)  # of conftest.py: the kernel is to bring its own
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", str(folder)]
    with ExitStack() as stack:
        log = stack.enter_context((home / "log").open("w"))
        server = stack.enter_context(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        stack.callback(server.terminate)  # its kernels go with it
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/api/status?token={token}", server, home / "log")
        yield f"{address}/lab/tree/{{}}?reset&token={token}"  # reset: without the tabs of the test before


def emptied(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook without what is kept in it, so that whatever is seen comes from this run."""
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return notebook


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"JupyterLab did not start within {START_SECONDS} s:\n{log.read_text()[-2000:]}")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(LOOK_SECONDS * 1000)
    expect.set_options(timeout=LOOK_SECONDS * 1000)
    yield page
    expect.set_options(timeout=5000)  # playwright's own, for the tests of other files
    page.close()


def run_all(page: Page, address: str) -> None:
    """Open a notebook and run it by the menu; return when its last cell has run."""
    page.goto(address)
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    expect(cells.last).to_be_visible(timeout=START_SECONDS * 1000)
    expect(page.locator(".jp-NotebookPanel-toolbar").get_by_text("Python 3")).to_be_visible(timeout=30_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    expect(cells.last.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=RUN_SECONDS * 1000)
    expect(page.locator(TROUBLE)).to_have_count(0)


def test_a_slider_redraws_the_cycle(page: Page, lab: str):
    """Keys move a slider, and the picture follows; what OneCycle refuses is said, and drawn as torch does it."""
    run_all(page, lab.format("onecycle_explained.ipynb"))
    panel = page.locator(".jp-OutputArea", has=page.locator(".widget-slider"))
    slider = panel.locator(".widget-slider", has_text="pct_start")
    picture = panel.locator(PICTURES)
    expect(panel.locator(".widget-slider")).to_have_count(7)
    handle, readout = slider.locator(".noUi-handle"), slider.locator(".widget-readout")
    first = settled(picture)

    handle.press("ArrowRight")

    expect(readout).to_have_text("0.31")
    expect(picture).not_to_have_attribute("src", first)

    handle.press("ArrowLeft")

    expect(readout).to_have_text("0.30")
    expect(picture).to_have_attribute("src", first)  # this very figure, and not another one of the notebook

    handle.press("End")

    expect(readout).to_have_text("1.00")
    expect(picture).not_to_have_attribute("src", first)
    second = settled(picture)

    panel.get_by_label("three_phase").check()

    expect(panel.get_by_text("OneCycle refuses this.")).to_be_visible()
    expect(panel.get_by_text("three_phase needs pct_start below 0.5")).to_be_visible()
    expect(picture).not_to_have_attribute("src", second)
    expect(page.locator(TROUBLE)).to_have_count(0)


def settled(picture: Locator) -> str | None:
    """Return a picture that has not changed for a second."""
    seen, since = picture.get_attribute("src"), time.monotonic()
    while time.monotonic() - since < 1:
        picture.page.wait_for_timeout(100)
        if picture.get_attribute("src") != seen:
            seen, since = picture.get_attribute("src"), time.monotonic()
    return seen


def test_a_sweep_draws_itself(page: Page, lab: str):
    """The quickstart runs; each of its two sweeps leaves one picture in its cell, and a pick says what it rests on."""
    run_all(page, lab.format("quickstart.ipynb"))

    sweeps = page.locator(".jp-CodeCell", has_text="lrfind.range_test(work)")
    for index in range(2):
        expect(sweeps.nth(index).locator(PICTURES)).to_have_count(1)
    picks = page.locator(".jp-RenderedHTML", has_text="trust range")
    expect(picks).to_have_count(3)
    expect(picks.first).to_contain_text("one sweep of")
