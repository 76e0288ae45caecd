"""What every test starts from: fixed seeds, one thread, no screen, the same examples in every run."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"

os.environ.setdefault("MPLBACKEND", "Agg")
if BESIDE.is_dir():  # before tests are collected: which tasks of the regret study can run hangs on it
    os.environ.setdefault("LRFIND_DATA", str(BESIDE))
torch.set_num_threads(1)
hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed Python, numpy and torch before each test; the value is there for generators of its own."""
    value = 0
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002  # the global state is what the code under test must put back
    torch.manual_seed(value)
    return value


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with MNIST and Fashion-MNIST in torchvision's layout; the test is skipped where there is none."""
    named = os.environ.get("LRFIND_DATA")
    root = Path(named) if named else BESIDE
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST/raw in {named or '../shared/data'}; set LRFIND_DATA to a torchvision data root")
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium, driven by playwright; the test is skipped where either is missing.

    For a module and no longer: while playwright's synchronous interface is in use, an event loop runs in this thread,
    and nothing else here can run one of its own (nbclient must). It takes a second to start.
    """
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (extra dev)")
    with api.sync_playwright() as playwright:
        named = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        own = playwright.chromium.executable_path  # where "playwright install chromium" puts it
        if named is None and not Path(own).exists():
            pytest.skip("no chromium on the PATH, nor one of playwright's own; apt-get install chromium")
        browser = playwright.chromium.launch(executable_path=named or own)
        yield browser
        browser.close()
