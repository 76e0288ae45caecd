"""``LRFinder`` against the class it stands in for: the same numbers, and none of its faults."""

from __future__ import annotations

import copy
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_lr_finder
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torch_lr_finder import TrainDataLoaderIter, ValDataLoaderIter

import lrfind
from lrfind import LRFinder, Workload

ROOT = Path(__file__).parents[2]
FEATURES, CLASSES = 6, 3


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, CLASSES))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)),
        nn.Conv1d(1, 4, 3, bias=False),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * (FEATURES - 2), CLASSES),
    )


def tensors(samples: int = 90) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(samples, FEATURES, generator=generator)
    return inputs, inputs[:, :CLASSES].argmax(dim=1)


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """What no fast path reads."""

    def __init__(self) -> None:
        self.inputs, self.labels = tensors()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*tensors(), strict=True)


def in_memory(**options: Any) -> Callable[[], DataLoader[Any]]:
    return lambda: DataLoader(TensorDataset(*tensors()), **({"batch_size": 8} | options))


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "in order": in_memory(),
    "shuffled": in_memory(shuffle=True),
    "shuffled by a generator": lambda: in_memory(shuffle=True, generator=torch.Generator().manual_seed(3))(),
    "no ragged batch": in_memory(shuffle=True, drop_last=True),
    "one batch": in_memory(batch_size=90),
    "rows": lambda: DataLoader(Rows(), batch_size=8, shuffle=True),
    "stream": lambda: DataLoader(Stream(), batch_size=8),
}
MODELS = {"perceptron": perceptron, "dropout": with_dropout, "batch norm": convolutional}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, nesterov=True),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-5),
}


def finder(
    of: type[Any] = LRFinder,
    model: Callable[[], nn.Module] = perceptron,
    optimizer: Callable[[Any], torch.optim.Optimizer] = OPTIMIZERS["SGD"],
    criterion: Any = None,
    **options: Any,
) -> Any:
    """Return a finder of either class, weights and random states always the same."""
    torch.manual_seed(0)
    net = model()
    return of(net, optimizer(net.parameters()), criterion or nn.CrossEntropyLoss(), **options)


def both(loader: Callable[[], Any], val_loader: Callable[[], Any] | None = None, **options: Any) -> tuple[Any, Any]:
    """Return our finder and the peer's, each after the same sweep."""
    settings = {name: options.pop(name) for name in ("model", "optimizer", "criterion") if name in options}
    finders = finder(LRFinder, **settings), finder(torch_lr_finder.LRFinder, **settings)
    for each in finders:
        torch.manual_seed(1)
        each.range_test(loader(), None if val_loader is None else val_loader(), **options)
    return finders


def same_sweep(ours: Any, theirs: Any) -> None:
    assert ours.history["lr"] == theirs.history["lr"]
    assert ours.history["loss"] == theirs.history["loss"]
    assert ours.best_loss == theirs.best_loss
    for mine, peers in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(mine, peers)


# What is kept.


@pytest.mark.parametrize("accumulation_steps", [1, 2, 4, 3])
@pytest.mark.parametrize("loader", LOADERS)
def test_raw_losses_are_the_peers_to_the_bit(loader, accumulation_steps):
    """Smoothing off: every rate, loss and weight is theirs, across epochs and ragged batches too."""
    ours, theirs = both(LOADERS[loader], smooth_f=0, accumulation_steps=accumulation_steps)

    same_sweep(ours, theirs)
    assert ours.curve.loss.tolist() == theirs.history["loss"]
    assert ours.curve.lr.tolist() == theirs.history["lr"]


@pytest.mark.parametrize("step_mode", ["exp", "linear"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_sweeps_as_the_peers(model, optimizer, step_mode):
    """Dropout and BatchNorm draw and count alike; linear sweeps and Adam are no exception."""
    settings = {"model": MODELS[model], "optimizer": OPTIMIZERS[optimizer], "step_mode": step_mode}
    ours, theirs = both(LOADERS["shuffled"], smooth_f=0, end_lr=1, **settings)

    same_sweep(ours, theirs)
    for mine, peers in zip(ours.model.buffers(), theirs.model.buffers(), strict=True):
        assert torch.equal(mine, peers)


@pytest.mark.parametrize("diverge_th", [1.5, 5, 1e9])
def test_smooths_and_stops_as_the_peer(diverge_th, capsys):
    """``history`` holds the peer's moving average and ends where the peer ends, with its words."""
    ours, theirs = both(LOADERS["shuffled"], diverge_th=diverge_th, end_lr=1e3, num_iter=60)

    same_sweep(ours, theirs)
    mine, peers = (part.splitlines()[:-1] for part in _halves(capsys.readouterr().out))
    assert mine == peers
    assert (len(ours.history["lr"]) < 60) == (ours.curve.status == "diverged")
    assert ours.curve.loss.tolist() != ours.history["loss"]


def _halves(printed: str) -> tuple[str, str]:
    end = printed.index("\n", printed.index("search finished")) + 1
    return printed[:end], printed[end:]


@pytest.mark.parametrize("val_loader", ["in order", "shuffled", "rows"])
def test_a_validation_sweep_is_the_peers(val_loader):
    """The training draws the same batches though the validation loader draws from the same random state."""
    ours, theirs = both(LOADERS["shuffled"], LOADERS[val_loader], smooth_f=0, num_iter=30, model=with_dropout)

    assert ours.history["lr"] == theirs.history["lr"]
    # The peer adds up in another order.
    assert ours.history["loss"] == pytest.approx(theirs.history["loss"], rel=1e-13)
    for mine, peers in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(mine, peers)


class DictLoader(DataLoader[Any]):
    def __init__(self, **options: Any) -> None:
        super().__init__(TensorDataset(*tensors()), batch_size=8, collate_fn=as_dict, **options)


def as_dict(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    inputs, labels = zip(*samples, strict=True)
    return {"x": torch.stack(inputs), "y": torch.stack(labels)}


class FromDict(TrainDataLoaderIter):
    def inputs_labels_from_batch(self, batch_data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return batch_data["x"], batch_data["y"]


class ValFromDict(ValDataLoaderIter):
    def inputs_labels_from_batch(self, batch_data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return batch_data["x"], batch_data["y"]


def test_the_peers_iterators_are_read_as_the_peer_reads_them():
    """Children of its iterators give dict batches; made before the sweep, they drew their seed before it."""
    ours, theirs = both(
        lambda: FromDict(DictLoader(shuffle=True)), lambda: ValFromDict(DictLoader()), smooth_f=0, num_iter=25
    )

    assert ours.history["loss"] == pytest.approx(theirs.history["loss"], rel=1e-13)
    for mine, peers in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(mine, peers)


def test_an_iterator_can_be_swept_again():
    """A validation iterator read to its end starts over in the next sweep, as a fresh one would."""
    both_iterators = FromDict(DictLoader()), ValFromDict(DictLoader())
    ours = finder()

    ours.range_test(*both_iterators, num_iter=12)
    first = ours.history
    ours.reset()
    ours.range_test(both_iterators[0], both_iterators[1], num_iter=12)

    assert len(ours.history["loss"]) == len(first["loss"]) == 12


def test_a_batch_of_more_than_two_parts_is_cut():
    """Inputs and labels are the first two parts of a batch; the rest is left aside."""
    inputs, labels = tensors()
    ours, theirs = both(lambda: DataLoader(TensorDataset(inputs, labels, labels), batch_size=8), smooth_f=0)

    same_sweep(ours, theirs)


def test_groups_sweep_from_their_own_rates_to_one():
    """Each group climbs from its own rate to the same end; history has the first, the curve the largest."""

    def groups(parameters: Any) -> torch.optim.Optimizer:
        first, *others = parameters
        return torch.optim.SGD([{"params": [first], "lr": 1e-5}, {"params": others, "lr": 1e-3}], lr=0.1)

    ours, theirs = both(LOADERS["in order"], optimizer=groups, smooth_f=0, end_lr=0.1)

    same_sweep(ours, theirs)
    assert ours.curve.lr[0] == 1e-3
    assert ours.curve.group_lrs[:, 0].tolist() == [1e-5, 1e-3]
    assert ours.curve.group_lrs[:, -1] == pytest.approx([0.1, 0.1], rel=1e-12)


def test_the_swept_weights_stay_until_reset():
    """Model and optimizer are left as the sweep left them, and brought back by hand."""
    ours = finder()
    before = copy.deepcopy(ours.model.state_dict())

    ours.range_test(LOADERS["in order"](), num_iter=20)
    assert not torch.equal(ours.model[0].weight, before["0.weight"])
    assert ours.optimizer.param_groups[0]["lr"] == ours.history["lr"][-1]

    ours.reset()
    assert all(torch.equal(value, before[name]) for name, value in ours.model.state_dict().items())
    assert ours.optimizer.param_groups[0]["lr"] == 1e-4
    assert not ours.optimizer.state


def test_plots_as_the_peer(capsys):
    """``plot`` is the peer's own, suggestion and all."""
    import matplotlib.pyplot as plt

    ours, theirs = both(LOADERS["in order"])
    figure, axes = plt.subplots(ncols=2)

    assert ours.plot(ax=axes[0])[1] == theirs.plot(ax=axes[1])[1]
    plt.close(figure)


@pytest.mark.skipif(
    "PEER_TESTS" not in os.environ,
    reason="needs PEER_TESTS, the tests folder of a checkout of torch-lr-finder: its releases hold a part of it only",
)
def test_the_peers_own_suite_passes():
    """Every test of torch-lr-finder holds for this class."""
    command = [sys.executable, "-m", "tests.peer_suite", os.environ["PEER_TESTS"], "-q"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout
    assert "44 passed, 4 skipped" in result.stdout


# What is mended.


def test_is_the_peers_class_and_loads_it_only_when_asked():
    """``isinstance`` holds, and ``import lrfind`` alone loads neither torch_lr_finder nor matplotlib."""
    assert issubclass(LRFinder, torch_lr_finder.LRFinder)
    code = (
        "import lrfind, sys; print({'torch_lr_finder', 'matplotlib'} & set(sys.modules)); "
        "lrfind.LRFinder; print('torch_lr_finder' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert result.stdout.split("\n")[:2] == ["set()", "True"]


def test_trap_1_a_warm_optimizer_survives_two_sweeps():
    """Adam after 16 steps, swept and reset twice: every state tensor is as before, both times."""
    ours = finder(optimizer=OPTIMIZERS["Adam"])
    _train(ours.model, ours.optimizer, steps=16)
    ours = LRFinder(ours.model, ours.optimizer, nn.CrossEntropyLoss())
    before = copy.deepcopy(ours.optimizer.state_dict())

    for _ in range(2):
        ours.range_test(LOADERS["shuffled"](), num_iter=20)
        ours.reset()
        after = ours.optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for index, state in before["state"].items():
            assert state["step"] == 16
            assert all(torch.equal(value, after["state"][index][name]) for name, value in state.items())


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    loader = LOADERS["shuffled"]()
    criterion, losses = nn.CrossEntropyLoss(), []
    while True:
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                return losses


class Keeps(nn.Module):
    """A buffer that no state dict holds, a counter in Python, a frozen BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last, self.unused = nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, CLASSES), nn.Linear(2, 2)
        self.norm.eval()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.seen += len(inputs)
        return self.last(torch.dropout(self.norm(inputs), 0.3, self.training))


@pytest.mark.parametrize("val_loader", [None, "shuffled"])
def test_training_after_sweep_and_reset_is_training_without(val_loader):
    """Traps 3, 4, 5, 6: random states, modes, buffers, counters, gradients, group keys: nothing stays."""

    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = Keeps()
        model.unused.weight.grad = torch.ones(2, 2)
        return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    model, optimizer = start()
    plain = _train(model, optimizer, steps=15)
    swept, other = start()
    gradient, states = swept.unused.weight.grad, (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    ours = LRFinder(swept, other, nn.CrossEntropyLoss())
    assert swept.unused.weight.grad is gradient
    ours.range_test(LOADERS["shuffled"](), val_loader and LOADERS[val_loader](), num_iter=20)
    assert [module.training for module in swept.modules()] == [True, False, True, True]
    ours.reset()

    assert (swept.calls, float(swept.seen)) == (0, 0.0)
    assert swept.unused.weight.grad is gradient
    assert swept.last.weight.grad is None
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002
    assert other.param_groups[0].keys() == optimizer.param_groups[0].keys()
    assert _train(swept, other, steps=15) == plain


def test_the_loaders_generator_is_back_before_reset():
    """The order of the batches after a sweep is what it would have been without."""
    loader = LOADERS["shuffled by a generator"]()
    ours = finder()
    ours.range_test(loader, num_iter=20)

    after = [labels.tolist() for _, labels in loader]
    assert after == [labels.tolist() for _, labels in LOADERS["shuffled by a generator"]()]


def test_every_submodule_is_in_train_mode_during_the_sweep():
    """As with the peer, a BatchNorm frozen by eval() learns in the sweep; it is frozen again afterwards."""
    ours = finder(model=Keeps)
    modes = []
    ours.model.norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    ours.range_test(LOADERS["in order"](), num_iter=10)

    assert set(modes) == {True}
    assert not ours.model.norm.training


def test_trap_2_an_error_leaves_what_reset_can_mend():
    """Error in step 10: raised as it is, modes and random states at once, weights by reset(), no sweep before it."""
    calls = iter(range(1000))

    def fails(outputs: Tensor, labels: Tensor) -> Tensor:
        if next(calls) == 10:
            raise OSError("disk full")
        return nn.functional.cross_entropy(outputs, labels)

    ours = finder(criterion=fails)
    weight, state = ours.model[0].weight.clone(), torch.get_rng_state()
    with pytest.raises(OSError, match="disk full"):
        ours.range_test(LOADERS["shuffled"]())

    assert torch.equal(torch.get_rng_state(), state)
    assert (len(ours.history["loss"]), ours.curve.status) == (10, "interrupted")
    with pytest.raises(RuntimeError, match=r"Call reset\(\) first"):
        ours.range_test(LOADERS["shuffled"]())
    ours.reset()
    assert torch.equal(ours.model[0].weight, weight)
    ours.range_test(LOADERS["shuffled"](), num_iter=10)


def test_ctrl_c_keeps_the_points_so_far():
    """Ctrl-C is raised on; history and curve hold the points before it."""
    calls = iter(range(1000))

    def interrupted(outputs: Tensor, labels: Tensor) -> Tensor:
        if next(calls) == 30:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, labels)

    ours = finder(criterion=interrupted)
    with pytest.raises(KeyboardInterrupt) as stop:
        ours.range_test(LOADERS["in order"]())

    assert len(ours.history["lr"]) == len(ours.history["loss"]) == len(ours.curve) == 30
    assert (ours.curve.status, len(stop.value.curve)) == ("interrupted", 30)


def scripted(losses: Callable[[int], float]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a criterion that gives these losses whatever the model does."""
    steps = iter(range(10_000))
    return lambda outputs, _: outputs.sum() * 0 + losses(next(steps))


@pytest.mark.parametrize("loss", [math.nan, -math.inf])
@pytest.mark.parametrize("smooth_f", [0, 0.05])
def test_trap_7_one_loss_that_is_no_number_is_stepped_over(loss, smooth_f):
    """At step 40: the average stands still for a point and goes on; the raw loss is in the curve."""
    ours = finder(criterion=scripted(lambda step: loss if step == 40 else 2 - step / 100))
    ours.range_test(LOADERS["in order"](), smooth_f=smooth_f)

    smoothed = ours.history["loss"]
    assert (len(smoothed), ours.curve.status) == (100, "range end")
    assert all(map(math.isfinite, smoothed))
    assert smoothed[40] == smoothed[39]
    assert not math.isfinite(ours.curve.loss[40])


def test_trap_7_losses_that_stay_nan_end_the_sweep(capsys):
    """NaN from step 30 on: over at the third of them, and said to be."""
    ours = finder(criterion=scripted(lambda step: math.nan if step >= 30 else 2.0))
    ours.range_test(LOADERS["in order"]())

    assert (len(ours.history["loss"]), ours.curve.status) == (33, "non-finite")
    assert "Stopping early, the loss is no finite number any more" in capsys.readouterr().out


def test_trap_7_inf_ends_the_sweep_at_once():
    """An infinite loss is above every multiple of the best: the sweep ends there, as the peer's does."""
    ours, theirs = (
        finder(of, criterion=scripted(lambda step: math.inf if step == 30 else 2.0))
        for of in (LRFinder, torch_lr_finder.LRFinder)
    )
    for each in (ours, theirs):
        each.range_test(LOADERS["in order"]())

    assert ours.history["loss"] == theirs.history["loss"]
    assert (len(ours.history["loss"]), ours.curve.status) == (31, "diverged")


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_trap_7_a_first_loss_that_is_no_number_poisons_nothing(loss):
    """The first point takes the value of the first finite one, and the best starts there."""
    ours = finder(criterion=scripted(lambda step: loss if step == 0 else 2 - step / 100))
    ours.range_test(LOADERS["in order"]())

    assert len(ours.history["loss"]) == 100
    assert ours.history["loss"][:2] == pytest.approx([1.99, 1.99])
    assert ours.best_loss == ours.history["loss"][-1]


@pytest.mark.parametrize("offset", [0.0, -5.0, -2.0, -1.0])
def test_trap_8_a_negative_loss_ends_when_it_has_risen(offset):
    """A loss that falls by 1 and then blows up: read to its blow-up wherever zero lies, which ends it."""

    def loss(step: int) -> float:
        return (2 - step / 60 if step < 60 else 1 + (step - 60.0) ** 2) + offset

    ours = finder(criterion=scripted(loss))
    ours.range_test(LOADERS["in order"](), smooth_f=0)

    assert 60 < len(ours.history["loss"]) < 70
    assert ours.curve.status == "diverged"


@pytest.mark.parametrize("drop_last", [False, True])
def test_trap_18_a_validation_loss_is_the_mean_over_the_samples_read(drop_last):
    """33 samples in batches of 16: the mean of 33, or of the 32 that were read, not of the dataset's length."""
    inputs, labels = tensors(33)
    val_loader = DataLoader(TensorDataset(inputs, labels), batch_size=16, drop_last=drop_last)
    ours = finder(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-12))
    read = 32 if drop_last else 33
    with torch.no_grad():
        expected = nn.functional.cross_entropy(ours.model(inputs[:read]), labels[:read]).item()
    ours.range_test(LOADERS["in order"](), val_loader, end_lr=1e-11, num_iter=3)

    assert ours.curve.loss == pytest.approx([expected] * 3, rel=1e-6)


def test_a_validation_loader_needs_no_length():
    """An iterable dataset is validated on as any other."""
    ours = finder()
    ours.range_test(LOADERS["in order"](), LOADERS["stream"](), num_iter=5)

    assert len(ours.history["loss"]) == 5


def test_torch_amp_needs_no_config():
    """Left out, torch's own dtype for the device is taken; given, it is used; the scaler is back after reset."""
    seen: list[torch.dtype] = []

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        seen.append(outputs.dtype)
        return nn.functional.cross_entropy(outputs.float(), labels)

    for config, dtype in (
        (None, torch.bfloat16),
        ({"dtype": torch.float16}, torch.float16),
        ({"enabled": False}, None),
    ):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        ours = finder(criterion=criterion, amp_backend="torch", amp_config=config, grad_scaler=scaler)
        ours.range_test(LOADERS["in order"](), num_iter=10)
        assert seen.pop() is (dtype or torch.float32)
        assert scaler.get_scale() > 1024.0
        ours.reset()
        assert scaler.get_scale() == 1024.0


def test_trap_16_a_skipped_step_is_no_point():
    """Overflow in the first two steps: their rates are tried again, and every point is a step taken."""
    steps = iter(range(1000))

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(outputs, labels)
        return loss * math.inf if next(steps) < 2 else loss

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ours = finder(criterion=criterion, amp_backend="torch", grad_scaler=scaler)
    ours.range_test(LOADERS["in order"](), num_iter=10)

    assert len(ours.history["loss"]) == 10
    assert next(steps) == 12
    assert all(map(math.isfinite, ours.curve.loss))


def test_trap_6_a_tensor_lr_stays_the_same_object():
    """A tensor lr is filled, not replaced, and the rate recorded is the one it could hold."""
    lr = torch.tensor(1e-4)
    ours = finder(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr))
    ours.range_test(LOADERS["in order"](), num_iter=10)
    assert ours.optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == ours.history["lr"][-1]

    ours.reset()
    assert ours.optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == torch.tensor(1e-4).item()


def test_memory_cache_off_keeps_the_copy_in_files(tmp_path):
    """The copy lies in cache_dir while the finder lives, restores as well, and is deleted with it."""
    ours = finder(memory_cache=False, cache_dir=str(tmp_path))
    weight = ours.model[0].weight.clone()
    ours.range_test(LOADERS["in order"](), num_iter=10)
    assert [file.suffix for file in tmp_path.rglob("*.pt")]
    ours.reset()
    assert torch.equal(ours.model[0].weight, weight)

    del ours
    assert not list(tmp_path.iterdir())


def test_the_last_line_names_what_to_call(capsys):
    """No placeholder is left in what is printed."""
    finder().range_test(LOADERS["in order"](), num_iter=5)

    assert capsys.readouterr().out == "Learning rate search finished. See the graph with finder.plot()\n"


def test_few_points_are_said_to_be_few():
    """5 steps are allowed, as with the peer; the curve's status says what they are worth."""
    ours = finder()
    ours.range_test(LOADERS["in order"](), num_iter=5)

    assert (len(ours.curve), ours.curve.status) == (5, "too few points")


def test_curve_before_a_sweep_says_what_to_do():
    """There is no curve before range_test."""
    with pytest.raises(RuntimeError, match=r"none so far. Call range_test\(train_loader\)"):
        finder().curve  # noqa: B018


def test_a_scheduler_attached_is_refused():
    """As the peer refuses it, with its words."""
    ours = finder()
    torch.optim.lr_scheduler.StepLR(ours.optimizer, 3)

    with pytest.raises(RuntimeError, match="already has a scheduler attached"):
        ours.range_test(LOADERS["in order"]())


def test_a_subclass_with_a_step_of_its_own_is_refused():
    """A step that would not be called is not passed over in silence."""

    class Gan(LRFinder):
        def _train_batch(self, *_: Any, **__: Any) -> float:
            return 0.0

    with pytest.raises(RuntimeError, match="does not call _train_batch; got one of Gan's own"):
        finder(Gan).range_test(LOADERS["in order"]())


BAD = [
    ({"start_lr": 0}, r"start_lr .* must be above 0 .* got start_lr=0, end_lr=10"),
    ({"start_lr": 1.0, "end_lr": 0.1}, r"got start_lr=1.0, end_lr=0.1"),
    ({"start_lr": math.nan}, r"got start_lr=nan"),
    ({"end_lr": math.inf}, r"end_lr=inf"),
    ({"start_lr": [1e-4, 1e-3]}, r"got 2 for 1 groups"),
    ({"num_iter": 1}, r"`num_iter` must be larger than 1, and whole; got 1"),
    ({"num_iter": 10.5}, r"got 10.5"),
    ({"step_mode": "cos"}, r"expected one of \(exp, linear\), got cos"),
    ({"smooth_f": 1}, r"smooth_f is outside the range \[0, 1\[; got 1"),
    ({"smooth_f": math.nan}, r"got nan"),
    ({"diverge_th": 0.5}, r"diverge_th must be at least 1; got 0.5"),
    ({"diverge_th": math.nan}, r"diverge_th must be at least 1; got nan"),
    ({"accumulation_steps": 0}, r"accumulation_steps must be a whole number of at least 1; got 0"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_bad_settings_are_refused_before_any_step(settings, message):
    """Each names what was given; nothing has moved, and the next call works without reset."""
    ours = finder()
    before = ours.model[0].weight.clone()

    with pytest.raises(ValueError, match=message):
        ours.range_test(LOADERS["in order"](), **settings)

    assert torch.equal(ours.model[0].weight, before)
    ours.range_test(LOADERS["in order"](), num_iter=5)


AMP = [
    ({"amp_backend": "apex"}, r"got 'apex'"),
    ({"amp_backend": "torch"}, r"`grad_scaler` is required"),
    ({"amp_backend": "tf32"}, r"Unknown amp backend: tf32"),
]


@pytest.mark.parametrize(("settings", "message"), AMP)
def test_bad_amp_settings_are_refused(settings, message):
    """As the peer refuses them; apex, which torch.amp has replaced, as well."""
    with pytest.raises(ValueError, match=message):
        finder(**settings)


def test_unknown_amp_config_is_refused():
    """A key that would be dropped in silence is named."""
    scaler = torch.amp.GradScaler("cpu")
    ours = finder(amp_backend="torch", amp_config={"cache_enabled": False}, grad_scaler=scaler)

    with pytest.raises(ValueError, match="got cache_enabled as well"):
        ours.range_test(LOADERS["in order"]())


# The peer's iterators, given to a Workload.


def from_iterators() -> Workload:
    torch.manual_seed(0)
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Workload(
        model, optimizer, nn.CrossEntropyLoss(), FromDict(DictLoader(shuffle=True)), ValFromDict(DictLoader())
    )


def test_a_workload_takes_the_peers_iterators():
    """Their batch functions are called; size, epochs and a sweep are those of the loader inside."""
    work = from_iterators()
    epoch = list(work.batches())

    assert work.batch_size == 8
    assert [len(labels) for _, labels in epoch] == [8] * 11 + [2]
    assert len(lrfind.range_test(work, start_lr=1e-4, num_iter=30, stop_factor=math.inf, progress=False)) == 30
    assert len(list(work.batches())) == 12


def test_a_workload_validates_on_the_peers_iterator_again_and_again():
    """A pass cut short does not shorten the next one."""
    work = from_iterators()
    inputs, labels = tensors()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(work.model(inputs), labels).item()

    work.evaluate(max_batches=3)
    assert work.evaluate()["loss"] == pytest.approx(expected, rel=1e-6)
    assert work.evaluate()["loss"] == pytest.approx(expected, rel=1e-6)
