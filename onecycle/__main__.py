"""``python -m onecycle``: the command ``onecycle``."""

from __future__ import annotations

import sys

from onecycle.cli import main

sys.exit(main())
