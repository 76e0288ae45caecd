"""What a reader of README and docs has, and the code that they show."""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lrfind
import onecycle


def python_blocks(markdown: str) -> list[str]:
    """Return the Python blocks of a page, those that are not indented."""
    return re.findall(r"^```python\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL)


def readers_own() -> dict[str, object]:
    """Return what a reader has: a model, an optimizer, a loss and loaders; and the imports of the first block."""
    images = torch.randn(320, 10)
    labels = (images[:, :3].sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))
    loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "criterion": nn.CrossEntropyLoss(),
        "train_loader": loader,
        "val_loader": loader,
        "dict_loader": [{"image": x, "label": y} for x, y in loader],
        "lrfind": lrfind,
        "onecycle": onecycle,
    }
