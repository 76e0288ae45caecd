"""lrfind.workloads: real data, the same for the same seed, learned in seconds; clear words where some are missing."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import lrfind
import onecycle
from lrfind.workloads import WORKLOADS, digits, fashion_mnist, images, lenet, mnist

MNIST_LIKE = ["mnist", "fashion-mnist"]


def tensors(loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(loader.dataset, TensorDataset)
    return loader.dataset.tensors


@pytest.fixture
def root(data_root, monkeypatch):
    """The data root, by the environment variable."""
    monkeypatch.setenv("LRFIND_DATA", str(data_root))
    return data_root


def test_digits_split_is_stratified_and_complete():
    """1,437 images train and 360 validate, each class within one image of its share of 80 and 20 %."""
    split = digits.split()

    counts = torch.stack([split.train_y.bincount(), split.val_y.bincount()]).double()

    assert counts.sum(1).tolist() == [1437, 360]
    share = counts.sum(0) * 0.2
    assert (counts[1] - share).abs().max() <= 1


def test_digits_are_normalised_by_what_is_trained_on():
    """The training pixels have mean 0 and sd 1, and the validation pixels are scaled by the same numbers."""
    split = digits.split()

    assert split.train_x.shape[1:] == (1, 8, 8)
    assert split.train_x.mean().item() == pytest.approx(0, abs=1e-5)
    assert split.train_x.std().item() == pytest.approx(1, abs=1e-5)
    assert split.val_x.min() == split.train_x.min()  # an empty pixel is 0 in both


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_are_learned_by_sweep_pick_and_cycle(seed):
    """The whole pipeline reaches at least 97 % on the validation data, in half the epochs of the command."""
    work = WORKLOADS["digits"](seed=seed, device="cpu")

    run = onecycle.fit(work, epochs=5, progress=False)

    assert run.status == "finished"
    assert run.validation["val_accuracy"] >= 0.97


def test_the_seed_alone_decides_weights_and_order():
    """Same seed, same weights and first batch whatever the global random state; another seed, others."""
    first, again, other = (_first_batch(seed, noise) for seed, noise in ((3, 1), (3, 2), (4, 1)))

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def _first_batch(seed: int, noise: int) -> list[torch.Tensor]:
    torch.manual_seed(noise)
    work = WORKLOADS["digits"](seed=seed, device="cpu")
    inputs, _ = next(iter(work.train_loader))
    return [next(work.model.parameters()).detach(), inputs]


def test_making_a_workload_leaves_the_global_random_state_alone():
    """What the caller draws after it is what the caller would have drawn before it."""
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    WORKLOADS["digits"](device="cpu")

    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_settings_reach_the_optimizer(name):
    """Optimizer, momentum, weight decay and batch size are the ones asked for."""
    work = WORKLOADS["digits"](optimizer=name, momentum=0.8, weight_decay=0.01, batch_size=100, device="cpu")

    group = work.optimizer.param_groups[0]

    assert type(work.optimizer).__name__.lower() == name
    assert (group["momentum"] if name == "sgd" else group["betas"][0]) == 0.8
    assert group["weight_decay"] == 0.01
    assert work.batch_size == 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be at least 1; got 0\. It counts"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1; got 1\.0"),
        ({"momentum": float("nan")}, r"momentum must be .*; got nan"),
        ({"weight_decay": -1e-3}, r"weight_decay must be a finite number of at least 0; got -0\.001"),
        ({"weight_decay": float("nan")}, r"weight_decay must be .*; got nan"),
        ({"optimizer": "adam"}, r"optimizer must be one of 'sgd', 'adamw'; got 'adam'\. .*FILE\.py:FUNCTION"),
        ({"device": "tpu9"}, r"device must be one that torch can use here.*got 'tpu9'.*Leave it out"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    """A setting out of range says what is allowed, what was given and what to do."""
    with pytest.raises(ValueError, match=message):
        WORKLOADS["digits"](**settings)


@pytest.mark.parametrize("val_size", [-1, 60_000, float("nan")])
def test_a_bad_val_size_is_refused_before_anything_is_read(val_size):
    """At least one image must be left to train on."""
    with pytest.raises(ValueError, match=r"val_size must be in 0 \.\. 59999; got"):
        WORKLOADS["mnist"](val_size=val_size)


@pytest.mark.parametrize("name", MNIST_LIKE)
def test_images_are_normalised(name, root):
    """Mean 0 and sd 1 over all training pixels: the numbers in the source are those of these data."""
    source = {"mnist": mnist, "fashion-mnist": fashion_mnist}[name].make.args[0]

    split = images.split(source, None, 0)

    assert len(split.train_x) == 60_000
    assert len(split.val_x) == 10_000
    assert split.train_x.mean().item() == pytest.approx(0, abs=1e-3)
    assert split.train_x.std().item() == pytest.approx(1, abs=1e-3)


def test_held_out_images_are_the_same_for_every_seed_and_not_trained_on(root):
    """5,000 of the 60,000 training images validate, whatever the seed, and the other 55,000 train."""
    works = [WORKLOADS["mnist"](seed=seed, device="cpu") for seed in (0, 1)]

    (train_x, _), (val_x, _) = (tensors(loader) for loader in (works[0].train_loader, works[0].val_loader))
    known = {image.numpy().tobytes() for image in train_x}

    assert (len(train_x), len(val_x)) == (55_000, 5_000)
    assert torch.equal(val_x, tensors(works[1].val_loader)[0])
    # Not one of them; MNIST has no duplicates.
    assert not any(image.numpy().tobytes() in known for image in val_x)


def test_lenet_learns_mnist_in_a_few_steps(root):
    """30 steps at a moderate rate bring LeNet above 80 %."""
    work = WORKLOADS["mnist"](val_size=1000, device="cpu")
    work.optimizer.param_groups[0]["lr"] = 0.01

    with work.training():
        for _, batch in zip(range(30), work.batches(), strict=False):
            work.step([batch])

    assert work.evaluate()["accuracy"] > 0.8


def test_lenet_has_caffes_initialisation():
    """Uniform weights of variance 1 / fan-in, biases 0."""
    model = lenet.net()

    for layer, fan_in in ((model[0], 25), (model[2], 500), (model[5], 800), (model[7], 500)):
        assert layer.weight.abs().max() <= (3 / fan_in) ** 0.5
        assert layer.weight.var().item() == pytest.approx(1 / fan_in, rel=0.2)
        assert not layer.bias.any()


def test_the_argument_goes_before_the_environment(tmp_path, monkeypatch):
    """data_root is taken where both are given, and an error names the one that is wrong."""
    monkeypatch.setenv("LRFIND_DATA", str(tmp_path / "environment"))

    with pytest.raises(FileNotFoundError, match=r"data_root must be an existing folder; got '.*argument'\. Create it"):
        WORKLOADS["mnist"](data_root=tmp_path / "argument")
    with pytest.raises(FileNotFoundError, match=r"LRFIND_DATA must be an existing folder; got '.*environment'"):
        WORKLOADS["mnist"]()


def test_a_failed_download_says_where_data_are_looked_for(tmp_path, monkeypatch):
    """Without data and without a network the message names the layout, the folder and the ways out."""
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there

    with pytest.raises(
        FileNotFoundError,
        match=r"MNIST must lie in the data root as MNIST/raw/.*got .*download failed.*--data-root .*LRFIND_DATA",
    ):
        WORKLOADS["mnist"](data_root=tmp_path)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("digits", "sklearn.datasets", "scikit-learn"), ("fashion-mnist", "torchvision.datasets", "torchvision")],
)
def test_a_missing_extra_is_named(name, module, package, monkeypatch):
    """Without its data library a workload says which extra to install."""
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(
        ModuleNotFoundError, match=rf"'{name}' .* {package}, .*pip install \"lrfind-onecycle\[examples\]\""
    ):
        WORKLOADS[name]()


def test_a_sweep_takes_the_fast_path():
    """The built-in data are read by whole batches, not sample by sample."""
    work = WORKLOADS["digits"](device="cpu")

    assert work.batches() is not work.train_loader
    assert lrfind.range_test(work, num_iter=10, start_lr=1e-3, end_lr=1e-1, progress=False).status == "range end"
