"""The models of the regret study: small ones of every common kind."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
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


def normed_mlp(*sizes: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    """As ``mlp``, with ``norm(width)`` before every ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(before, after), norm(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def group_norm_cnn(channels: int, width: int, classes: int) -> nn.Sequential:
    """Two strided 3 x 3 convolutions with GroupNorm, and a linear head on the mean over places."""
    layers: list[nn.Module] = []
    for before, after in ((channels, width), (width, 2 * width)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *mlp(2 * width, classes))


def denoiser(channels: int, width: int) -> nn.Sequential:
    """Three 3 x 3 convolutions that keep the image's size."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, channels, 3, padding=1),
    )


class Siamese(nn.Module):
    """Two images, as the channels of one: the distances of their encodings classified as other or same."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, 2)

    def forward(self, pairs: Tensor) -> Tensor:
        one, other = self.encoder(pairs.flatten(0, 1)[:, None]).unflatten(0, pairs.shape[:2]).unbind(1)
        return self.head((one - other).abs())


class YesOrNo(nn.Module):
    """Several yes-or-no answers: logits of shape ``(batch, answers, 2)``, that of no at 0.

    Cross-entropy on them is ``BCEWithLogitsLoss`` on the logits of yes.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        yes = self.net(inputs)
        return torch.stack([torch.zeros_like(yes), yes], -1)


class Factors(nn.Module):
    """Matrix factorisation: what does a user think of an item? Both as whole numbers, ``(batch, 2)``."""

    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for embedding in self.children():
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(1)
        match = (self.user(user) * self.item(item)).sum(1, keepdim=True)
        return match + self.user_bias(user) + self.item_bias(item)


class CharConvolution(nn.Module):
    """Logits for the next character at every position, from convolutions over what came before (dilations 1, 2, 4)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=2**index) for index in range(3))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, characters: Tensor) -> Tensor:
        hidden = self.embed(characters).transpose(1, 2)
        for convolution in self.convolutions:
            before = nn.functional.pad(hidden, (2 * convolution.dilation[0], 0))
            hidden = hidden + convolution(before).relu()
        return self.head(hidden.transpose(1, 2))


class TextCNN(nn.Module):
    """Classifies characters: embedding, two convolutions, the largest value over places."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.convolutions = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1), nn.ReLU(), nn.Conv1d(width, 2 * width, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, characters: Tensor) -> Tensor:
        return self.head(self.convolutions(self.embed(characters).transpose(1, 2)).amax(2))


class AttentionOverTokens(nn.Module):
    """Token embeddings, self-attention with a residual, then their mean weighted by a learned query, classified."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, 1)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        hidden = self.norm(hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0])
        return self.head((self.query(hidden).softmax(1) * hidden).sum(1))


class WordFromContext(nn.Module):
    """Logits for a word from the mean embedding of those around it."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(vocabulary, width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, context: Tensor) -> Tensor:
        return self.head(self.embed(context))


def lenet(channels: int, classes: int) -> nn.Sequential:
    """LeNet-5 for images of 28 x 28: tanh and mean pooling."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        *mlp(400, 120, 84, classes, act=nn.Tanh),
    )


def relu_lenet(channels: int, classes: int) -> nn.Sequential:
    """LeNet for images of 28 x 28 as in PyTorch's first examples: ReLU and max pooling, 10 and 20 filters."""
    return nn.Sequential(
        nn.Conv2d(channels, 10, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        *mlp(320, 50, classes),
    )


class Mixer(nn.Module):
    """Patches as tokens; layers that mix tokens, then channels, each normed before and added; the mean classified."""

    def __init__(self, channels: int, size: int, patch: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        tokens = (size // patch) ** 2
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.across = nn.ModuleList(_mixing(tokens, 2 * tokens) for _ in range(layers))
        self.within = nn.ModuleList(_mixing(width, 2 * width) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.embed(images).flatten(2).transpose(1, 2)
        for index, (across, within) in enumerate(zip(self.across, self.within, strict=True)):
            hidden = hidden + across(self.norms[2 * index](hidden).transpose(1, 2)).transpose(1, 2)
            hidden = hidden + within(self.norms[2 * index + 1](hidden))
        return self.head(hidden.mean(1))


def _mixing(size: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size))


class EmbeddedColumns(nn.Module):
    """Columns of whole numbers, ``(batch, len(levels))``: an embedding for each, together into an MLP."""

    def __init__(self, levels: Sequence[int], width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(count, width) for count in levels)
        self.head = mlp(width * len(levels), hidden, outputs)

    def forward(self, columns: Tensor) -> Tensor:
        return self.head(torch.cat([embed(columns[:, index]) for index, embed in enumerate(self.embed)], 1))


class TextGRU(nn.Module):
    """Classifies characters: embedding, a GRU in both directions, the mean over places."""

    def __init__(self, vocabulary: int, embedding: int, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.recurrent = nn.GRU(embedding, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, characters: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(characters))[0].mean(1))


class Tagger(nn.Module):
    """Logits for a class of every position, from a transformer that sees the whole sequence."""

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.layers = _transformer_layers(width, layers)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens) + self.position
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


def wave_cnn(width: int, classes: int) -> nn.Sequential:
    """Two strided convolutions over time with BatchNorm, and a linear head on the mean over time."""
    layers: list[nn.Module] = []
    for before, after in ((1, width), (width, 2 * width)):
        layers += [nn.Conv1d(before, after, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), *mlp(2 * width, classes))
