"""``python -m lrfind``: the command ``lrfind``."""

from __future__ import annotations

import sys

from lrfind.cli import main

sys.exit(main())
