"""What every experiment's record begins with: the machine, the versions, how it was run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def describe(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return hardware, versions (of ``packages`` too, where installed), commit and command as JSON values.

    >>> sorted(describe(["no-such-package"]))
    ['accelerator', 'command', 'commit', 'cores', 'cpu', 'date', 'load', 'system', 'threads', 'versions']
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | _versions(["torch", "numpy", *packages]),
        "commit": _commit(),
        "command": f"python -m {_module()} {' '.join(sys.argv[1:])}".strip(),
    }


def as_markdown(facts: dict[str, Any]) -> str:
    """Return ``describe()`` and whatever an experiment adds as a list of lines."""
    lines = []
    for name, value in facts.items():
        text = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
        lines.append(f"- {name}: `{text}`" if name == "command" else f"- {name}: {text}")
    return "\n".join(lines)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    named = {name.strip(): value.strip() for line in lines if ":" in line for name, value in [line.split(":", 1)]}
    # Virtual machines often hide the name; family and model tell the generation.
    return f"{named.get('model name', 'unknown')} (family {named.get('cpu family')}, model {named.get('model')})"


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _commit() -> str:
    try:
        here = Path(__file__).parent
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ".."], cwd=here, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + (" and changes" if changed else "")


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem
