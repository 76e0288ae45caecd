"""Find ``max_lr``: a learning-rate range test that leaves no trace, and the rules that read its curve.

>>> import torch, lrfind
>>> model = torch.nn.Linear(3, 1)
>>> batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3)]
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> work = lrfind.Workload(model, optimizer, torch.nn.MSELoss(), batches)
>>> curve = lrfind.range_test(work, start_lr=1e-4, progress=False)
>>> 0.001 < curve.suggest().lr < 1.0
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrfind.compare import Comparison, compare
from lrfind.curve import LRCurve
from lrfind.fields import FieldTest, field_test, momentum_test, weight_decay_test
from lrfind.metrics import Accuracy
from lrfind.preserve import preserve
from lrfind.ranks import RankError
from lrfind.suggest import RULES, NoSuggestion, Suggestion, suggest
from lrfind.sweep import range_test
from lrfind.workload import Workload

if TYPE_CHECKING:
    from lrfind.finder import LRFinder

__all__ = [
    "RULES",
    "Accuracy",
    "Comparison",
    "FieldTest",
    "LRCurve",
    "LRFinder",
    "NoSuggestion",
    "RankError",
    "Suggestion",
    "Workload",
    "compare",
    "field_test",
    "momentum_test",
    "preserve",
    "range_test",
    "suggest",
    "weight_decay_test",
]


def __getattr__(name: str) -> Any:
    # torch_lr_finder imports matplotlib and tqdm: only who asks for its class pays for them.
    if name == "LRFinder":
        from lrfind.finder import LRFinder

        return LRFinder
    raise AttributeError(f"module 'lrfind' has no attribute {name!r}")
