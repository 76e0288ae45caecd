"""Tests of lrfind.metrics: accuracy as a mean over samples."""

from __future__ import annotations

import math

import pytest
import torch

from lrfind.metrics import Accuracy, Metric, share_of_hits


def test_is_a_mean_over_samples_not_batches():
    """A ragged last batch weighs what it holds."""
    accuracy = Accuracy()
    outputs, targets = torch.randn(33, 5), torch.randint(5, (33,))

    for part in (slice(0, 16), slice(16, 32), slice(32, 33)):
        accuracy.update(outputs[part], targets[part])

    assert accuracy.compute() == (outputs.argmax(dim=1) == targets).double().mean().item()


def test_reset_forgets():
    """After reset only new batches count; with none it is NaN."""
    accuracy = Accuracy()
    accuracy.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))

    accuracy.reset()

    assert math.isnan(accuracy.compute())
    accuracy.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert accuracy.compute() == 1.0


def test_counts_every_pixel():
    """Outputs (batch, classes, ...) against targets (batch, ...)."""
    outputs = torch.zeros(2, 3, 4)
    outputs[:, 1] = 1
    targets = torch.tensor([[1, 1, 1, 0], [1, 1, 2, 2]])
    accuracy = Accuracy()

    accuracy.update(outputs, targets)

    assert accuracy.compute() == 5 / 8


def test_leaves_out_the_ignored_class():
    """Padding is neither hit nor miss."""
    accuracy = Accuracy(ignore_index=0)

    accuracy.update(torch.eye(3), torch.tensor([0, 1, 0]))

    assert accuracy.compute() == 1.0


def test_takes_class_probabilities():
    """Soft labels, as CrossEntropyLoss takes them: the likeliest class counts."""
    accuracy = Accuracy()

    accuracy.update(torch.eye(3), torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.0, 0.0, 1.0]]))

    assert accuracy.compute() == pytest.approx(2 / 3)


def test_protocol_tells_metrics_from_functions():
    """What has update, compute and reset is a metric; a function is none."""
    assert isinstance(Accuracy(), Metric)
    assert not isinstance(torch.nn.functional.cross_entropy, Metric)


def test_share_of_hits_is_the_first_that_rises_to_1():
    """Errors, and scores without an upper bound, are passed over."""

    class Error(Accuracy):
        higher_is_better = False

    class Score(Accuracy):
        plot_upper_bound = None

    assert share_of_hits({"error": Error(), "score": Score(), "accuracy": Accuracy(), "more": Accuracy()}) == "accuracy"
    assert share_of_hits({"error": Error(), "score": Score()}) is None


def test_share_of_hits_reads_torchmetrics():
    """Of torchmetrics an accuracy is a share of hits, a squared error and a signal-to-noise ratio are not."""
    torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed (extra: lightning)")
    metrics = {
        "error": torchmetrics.MeanSquaredError(),
        "ratio": torchmetrics.image.PeakSignalNoiseRatio(data_range=1.0),
        "accuracy": torchmetrics.Accuracy(task="multiclass", num_classes=3),
    }

    assert share_of_hits(metrics) == "accuracy"
    del metrics["accuracy"]
    assert share_of_hits(metrics) is None
