"""What every test starts from: fixed seeds, one thread, no screen, the same examples in every run."""

from __future__ import annotations

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")
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
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(named) if named else beside
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST/raw in {named or '../shared/data'}; set LRFIND_DATA to a torchvision data root")
    return root
