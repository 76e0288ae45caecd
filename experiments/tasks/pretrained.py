"""Nets to fine-tune: trained once, kept, and given a fresh head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.tasks import data


def pretrained(
    name: str,
    examples: Callable[[], tuple[Tensor, Tensor]],
    make: Callable[[], nn.Module],
    steps: int,
    *,
    lr: float = 2e-3,
    fresh_head: bool = True,
) -> nn.Module:
    """Return a net trained with Adam on batches of 64, from the file of that name if it was trained before.

    Args:
        name: Of the file.
        examples: Returns inputs, and classes, one a sample or one a position.
        make: Returns the untrained net.
        steps: Of the training.
        lr: Of the training.
        fresh_head: Whether weights and biases of the last layer are those of an untrained net, by torch's generator.
    """

    def train() -> dict[str, Tensor]:
        x, y = examples()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = make()
            optimizer = torch.optim.Adam(net.parameters(), lr=lr)
            for _ in range(steps):
                chosen = torch.randint(len(x), (64,))
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[chosen]).flatten(0, -2), y[chosen].flatten()).backward()
                optimizer.step()
        return net.state_dict()

    net = make()
    head = {key: tensor.clone() for key, tensor in list(net.state_dict().items())[-2:]} if fresh_head else {}
    net.load_state_dict(data.kept(name, train) | head)
    return net
