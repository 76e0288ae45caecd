"""What `import lrfind` costs: torch, numpy, and little more."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("matplotlib", "tqdm", "torch_lr_finder", "tyro", "torchvision", "sklearn", "IPython", "pandas")
SWEEP = """
import torch, lrfind
model = torch.nn.Linear(3, 1)
batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3)]
work = lrfind.Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.nn.MSELoss(), batches)
lrfind.range_test(work, progress=False).suggest()
"""


def test_heavy_libraries_load_only_when_used():
    """Pictures, bars, command lines and data sets cost nothing in a sweep and its suggestion."""
    script = (
        "import sys, torch, torch.utils.data\n"
        "before = set(sys.modules)\n"  # torch itself loads tqdm where there is one
        f"{SWEEP}\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules.keys() - before])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_public_name_is_there():
    """What __all__ names can be had, the late ones too."""
    import lrfind

    for name in lrfind.__all__:
        assert getattr(lrfind, name) is not None
    with pytest.raises(AttributeError, match="module 'lrfind' has no attribute 'nonsense'"):
        lrfind.nonsense  # noqa: B018  # the access is the test
