"""Tests of lrfind.metrics: accuracy as a mean over samples."""

from __future__ import annotations

import math

import pytest
import torch

from lrfind.metrics import Accuracy, Metric, OutputStd, share_of_hits


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


# -- the outputs' deviation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40,), (40, 3), (40, 3, 5)])
def test_output_std_is_that_between_samples(shape):
    """Within batches, about each output's own mean: what all samples share does not count."""
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    std = OutputStd()

    for batch in outputs.split(20):
        std.update(batch + 1e3 * torch.ones(shape[1:]))

    variances = [batch.double().var(dim=0, correction=0).mean() for batch in outputs.split(20)]
    assert std.compute() == pytest.approx(float(torch.stack(variances).mean()) ** 0.5, rel=1e-3)


def test_the_output_std_of_one_answer_is_0():
    """To the last bit, whatever the answer is."""
    std = OutputStd()
    std.update(torch.tensor([[0.1, -7.3, 1e4]]).expand(33, 3))

    assert std.compute() == 0.0


def test_output_std_takes_batches_of_any_length():
    """Of sequences padded to the longest of their batch, for one."""
    std = OutputStd()
    std.update(torch.tensor([[0.0, 0.0], [2.0, 2.0]]))
    std.update(torch.tensor([[0.0], [0.0], [0.0]]))

    assert std.compute() == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    "outputs", [None, {"logits": torch.ones(2, 2)}, torch.tensor([1, 2]), torch.tensor(0.5), torch.ones(1, 3)]
)
def test_no_output_std(outputs):
    """No outputs, several, whole numbers, a single number, a single sample."""
    std = OutputStd()
    std.update(outputs)

    assert math.isnan(std.compute())


def test_output_std_forgets():
    """A reset leaves nothing of what came before."""
    std = OutputStd()
    std.update(torch.tensor([0.0, 1.0]))
    std.reset()

    assert math.isnan(std.compute())
