"""Run the test suite of torch-lr-finder on ``lrfind.LRFinder``, put in the place of its own class.

    git clone --branch v0.2.2 https://github.com/davidtvs/pytorch-lr-finder
    pip install pytest-mock
    python -m tests.peer_suite pytorch-lr-finder/tests

What follows the folder goes to pytest; ``--own`` leaves its own class in place, for comparison.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def main(arguments: list[str]) -> int:
    """Return pytest's exit status."""
    if not arguments or not (Path(arguments[0]) / "test_lr_finder.py").is_file():
        print(__doc__, file=sys.stderr)
        return 2
    folder, *rest = arguments
    os.environ.setdefault("MPLBACKEND", "Agg")
    if "--own" in rest:
        rest.remove("--own")
    else:
        import torch_lr_finder

        from lrfind import LRFinder

        # Before pytest imports the tests, which bind the name.
        torch_lr_finder.LRFinder = torch_lr_finder.lr_finder.LRFinder = LRFinder
    # The suite stands on its own: this project's settings of pytest are not for it.
    return pytest.main(["--config-file", os.devnull, "--rootdir", folder, "-p", "no:cacheprovider", folder, *rest])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
