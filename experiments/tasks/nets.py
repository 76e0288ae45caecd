"""The models of the regret study: small ones of every common kind."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers of these sizes, ``act`` between them, inputs flattened; two sizes: a linear model."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index, (before, after) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(before, after))
        if index < len(sizes) - 2:
            layers += [act(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers)


class ResidualMLP(nn.Module):
    """Blocks ``x + linear(relu(linear(norm(x))))`` between two linear layers."""

    def __init__(self, inputs: int, width: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs.flatten(1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


def cnn(channels: int, width: int, classes: int, *, size: int, batch_norm: bool, hidden: int = 0) -> nn.Sequential:
    """Two 3 x 3 convolutions with pooling, then a linear head; ``hidden``: a layer of that size before it."""
    layers: list[nn.Module] = []
    for before, after in ((channels, width), (width, 2 * width)):
        layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not batch_norm))
        layers += [*([nn.BatchNorm2d(after)] if batch_norm else []), nn.ReLU(), nn.MaxPool2d(2)]
    features = 2 * width * (size // 4) ** 2
    return nn.Sequential(*layers, *(mlp(features, hidden, classes) if hidden else mlp(features, classes)))


class ResNet(nn.Module):
    """A small residual network: stem, one block a width, strides of 2 between, BatchNorm, global pooling."""

    def __init__(self, channels: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stem = _conv_norm(channels, widths[0], stride=2)
        self.blocks = nn.ModuleList()
        self.shortcuts = nn.ModuleList()
        for index, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stride = 1 if index == 0 else 2
            self.blocks.append(nn.Sequential(_conv_norm(before, after, stride), nn.ReLU(), _conv_norm(after, after, 1)))
            self.shortcuts.append(
                nn.Identity() if before == after and stride == 1 else _conv_norm(before, after, stride, kernel=1)
            )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images).relu()
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            hidden = (block(hidden) + shortcut(hidden)).relu()
        return self.head(hidden.mean((2, 3)))


def _conv_norm(before: int, after: int, stride: int, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after))


def conv_autoencoder(channels: int, width: int) -> nn.Sequential:
    """Two strided convolutions down, two transposed ones up; image sides must be multiples of 4."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width // 2, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(width // 2, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
    )


class VisionTransformer(nn.Module):
    """Patches as tokens, transformer layers (norm first), the mean token classified."""

    def __init__(self, channels: int, size: int, patch: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(torch.randn((size // patch) ** 2, width) * 0.02)
        self.layers = _transformer_layers(width, layers)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.embed(images).flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden.mean(1))


class RowRNN(nn.Module):
    """Reads an image row by row and classifies the last hidden state, of a GRU or another kind."""

    def __init__(self, columns: int, width: int, classes: int, kind: Callable[..., Any] = nn.GRU) -> None:
        super().__init__()
        self.recurrent = kind(columns, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.recurrent(images.squeeze(1))[0][:, -1])


class CharTransformer(nn.Module):
    """Logits for the next character at every position, causal."""

    mask: Tensor

    def __init__(self, vocabulary: int, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.layers = _transformer_layers(width, layers)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)

    def forward(self, characters: Tensor) -> Tensor:
        hidden = self.embed(characters) + self.position
        for layer in self.layers:
            hidden = layer(hidden, src_mask=self.mask, is_causal=True)
        return self.head(hidden)


def _transformer_layers(width: int, layers: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, norm_first=True, batch_first=True)
        for _ in range(layers)
    )


class CharRNN(nn.Module):
    """Logits for the next character at every position, from a GRU or LSTM."""

    def __init__(self, kind: Callable[..., Any], vocabulary: int, embedding: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.recurrent = kind(embedding, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, characters: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(characters))[0])


def char_mlp(vocabulary: int, context: int, embedding: int, width: int) -> nn.Sequential:
    """Logits for the character after ``context`` characters."""
    return nn.Sequential(nn.Embedding(vocabulary, embedding), *mlp(context * embedding, width, vocabulary, act=nn.Tanh))


class BagOfTokens(nn.Module):
    """The mean embedding of a fixed number of tokens, classified."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(vocabulary, width)
        self.head = mlp(width, width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))
