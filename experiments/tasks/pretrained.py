"""Nets to fine-tune: trained once, kept, and given a fresh head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.tasks import data
from experiments.tasks.nets import CharRNN, ResidualMLP, ResNet, VisionTransformer, cnn
from experiments.tasks.splits.classes import ANIMALS, EVEN, FIRST_HALF, GARMENTS, class_by_class, of_classes
from experiments.tasks.splits.images import images
from experiments.tasks.splits.text import VOCABULARY, sequences


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


def pretrained_cnn(name: str) -> nn.Module:
    """Return a CNN for 14 x 14 pixels trained on the first half of the classes, with a fresh head."""

    def make() -> nn.Module:
        return cnn(1, 8, 5, size=14, batch_norm=False, hidden=32)

    return pretrained(f"{name}-14-first-half-cnn", lambda: _first_half(name), make, 300)


def pretrained_on_mnist() -> nn.Module:
    """Return a CNN trained on half of MNIST's classes, with a fresh head for ten."""
    net = pretrained_cnn("MNIST")
    assert isinstance(net, nn.Sequential)
    net[-1] = nn.Linear(net[-1].in_features, 10)
    return net


def pretrained_cnnbn(name: str) -> nn.Module:
    """Return a CNN with BatchNorm, for colour images, trained on the first half of the classes, with a fresh head."""

    def make() -> nn.Module:
        return cnn(3, 12, 5, size=16, batch_norm=True)

    return pretrained(f"{name}-first-half-cnnbn", lambda: _first_half(name), make, 400)


def pretrained_vit(name: str) -> nn.Module:
    """Return a vision transformer for 14 x 14 pixels trained on the first half of the classes, with a fresh head."""

    def make() -> nn.Module:
        return VisionTransformer(1, 14, 7, 32, 2, 5)

    return pretrained(f"{name}-first-half-vit", lambda: _first_half(name), make, 400)


def pretrained_resnet(name: str) -> nn.Module:
    """Return a residual network for colour images trained on the even classes, with a fresh head."""
    return pretrained(f"{name}-even-classes-resnet", lambda: _even(name), lambda: ResNet(3, (16, 32), 5), 500)


def pretrained_resmlp(name: str) -> nn.Module:
    """Return a residual MLP for 14 x 14 pixels trained on the even classes, with a fresh head."""
    return pretrained(f"{name}-even-classes-resmlp", lambda: _even(name), lambda: ResidualMLP(196, 64, 2, 5), 500)


def pretrained_on_garments() -> nn.Module:
    """Return a CNN with BatchNorm trained on five classes of Fashion-MNIST, with a fresh head."""

    def garments() -> tuple[Tensor, Tensor]:
        split = images("FashionMNIST")
        return class_by_class(split.train_x, split.train_y, GARMENTS)

    def make() -> nn.Module:
        return cnn(1, 10, 5, size=14, batch_norm=True, hidden=32)

    return pretrained("FashionMNIST-garments", garments, make, 500)


def pretrained_on_animals() -> nn.Module:
    """Return a residual network trained on five classes of CIFAR-10, with a fresh head."""

    def animals() -> tuple[Tensor, Tensor]:
        split = images("CIFAR-10")
        return class_by_class(split.train_x, split.train_y, ANIMALS)

    return pretrained("CIFAR-10-animals", animals, lambda: ResNet(3, (12, 24), 5), 500)


def pretrained_on_topics() -> nn.Module:
    """Return a character model of Python's language reference, head and all."""

    def topics() -> tuple[Tensor, Tensor]:
        split = sequences("topics")
        return split.train_x, split.train_y

    def make() -> nn.Module:
        return CharRNN(nn.GRU, VOCABULARY, 24, 64)

    return pretrained("topics-gru", topics, make, 600, lr=4e-3, fresh_head=False)


def _first_half(name: str) -> tuple[Tensor, Tensor]:
    split = images(name)
    return of_classes(split.train_x, split.train_y, FIRST_HALF)


def _even(name: str) -> tuple[Tensor, Tensor]:
    split = images(name)
    return of_classes(split.train_x, split.train_y, EVEN)
