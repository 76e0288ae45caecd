"""What pytest leaves out: the adapters to trainers that are not installed, whose examples cannot be loaded."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [f"onecycle/adapters/{name}.py" for name in ("lightning", "transformers") if find_spec(name) is None]
