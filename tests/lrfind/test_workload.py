"""Tests of lrfind.workload: one optimizer step, one validation pass, and what is refused before either."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict, UserDict
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from lrfind import Accuracy, Workload
from lrfind.batches import endless, epoch

SAMPLES = 33


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(SAMPLES, 4, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def workload(**settings: Any) -> Workload:
    model = settings.pop("model", None) or network()
    optimizer = settings.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    if "loss_fn" not in settings:
        settings.setdefault("criterion", nn.CrossEntropyLoss())
    settings.setdefault("train_loader", DataLoader(dataset(), 16))
    return Workload(model, optimizer, **settings)


# -- what is refused ---------------------------------------------------------------------------------------------


class Empty:
    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Unfit(torch.optim.Optimizer):
    def step(self, closure: Any) -> Any:
        return closure()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no loss": ({"criterion": None}, r"either criterion or loss_fn; got neither. Pass criterion=nn.Cross"),
    "two losses": (
        {"criterion": nn.MSELoss(), "loss_fn": lambda model, batch: None},
        r"either criterion or loss_fn; got both",
    ),
    "a class for a loss": ({"criterion": nn.MSELoss}, r"criterion must be something to call.*with brackets"),
    "no function for a loss": ({"loss_fn": 3}, r"loss_fn must be something to call.*; got 3"),
    "no model": (
        {"model": lambda x: x, "optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))])},
        r"model must be a",
    ),
    "no optimizer": ({"optimizer": torch.optim.SGD}, r"optimizer must be a torch.optim.Optimizer; got type"),
    "foreign parameters": (
        {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)},
        r"optimizer must hold parameters of the model; got an optimizer of 2 parameters of which none",
    ),
    "lbfgs": (
        {"model": (lbfgs := network()), "optimizer": torch.optim.LBFGS(lbfgs.parameters())},
        r"without a closure; got LBFGS.*Use SGD, AdamW",
    ),
    "a closure": (
        {"model": (unfit := network()), "optimizer": Unfit(unfit.parameters(), {"lr": 0.1})},
        r"without a closure; got Unfit",
    ),
    "no steps to accumulate": ({"accumulation_steps": 0}, r"accumulation_steps must be .* at least 1; got 0"),
    "half a step": ({"accumulation_steps": 1.5}, r"accumulation_steps must be a whole number.*got 1\.5"),
    "a truth for a step": ({"accumulation_steps": True}, r"accumulation_steps must be a whole number.*got True"),
    "sums to accumulate": (
        {"accumulation_steps": 2, "criterion": nn.MSELoss(reduction="sum")},
        r"must have reduction='mean'; got reduction='sum'",
    ),
    "clip at zero": ({"clip_grad_norm": 0.0}, r"clip_grad_norm must be .* above 0; got 0\.0"),
    "clip at nan": ({"clip_grad_norm": math.nan}, r"clip_grad_norm must be .* above 0; got nan"),
    "clip at infinity": ({"clip_grad_norm": math.inf}, r"clip_grad_norm must be a finite.*; got inf"),
    "odd precision": ({"amp_dtype": torch.float64}, r"amp_dtype must be torch.bfloat16.*; got torch.float64"),
    "no scaler": ({"grad_scaler": 1024.0}, r"grad_scaler must be a torch.amp.GradScaler or None; got 1024\.0"),
    "no loader": ({"train_loader": 5}, r"train_loader must be an iterable of batches.*; got int"),
    "empty list": ({"train_loader": []}, r"train_loader must yield at least one batch; got one of length 0"),
    "empty loader": ({"train_loader": Empty()}, r"train_loader must yield at least one batch"),
    "all dropped": (
        {"train_loader": DataLoader(dataset(), 64, drop_last=True)},
        r"train_loader must yield at least one batch.*drop_last",
    ),
    "empty validation": ({"val_loader": []}, r"val_loader must yield at least one batch"),
    "metric named loss": ({"metrics": {"loss": Accuracy()}}, r"metrics must map names other than 'loss'"),
    "function for a metric": ({"metrics": {"mae": nn.L1Loss()}}, r"metrics must map names.*'mae'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_when_it_is_built(case):
    """Each bad argument raises at once, saying what was given, what is allowed, what to do."""
    settings, message = REFUSED[case]

    with pytest.raises(ValueError, match=message):
        workload(**settings)


@pytest.mark.parametrize("layer", [nn.LazyLinear(3), nn.Sequential(nn.Linear(4, 3), nn.LazyBatchNorm1d(affine=False))])
def test_lazy_modules_are_refused_until_they_are_made(layer):
    """Parameters or buffers that the first batch would make cannot be put back: run a batch first."""
    model = nn.Sequential(layer, nn.Linear(3, 3))
    settings = {"model": model, "optimizer": torch.optim.SGD(model[1].parameters(), lr=0.1)}

    with pytest.raises(ValueError, match=r"lazy one that is not initialized yet. Run one batch through the model"):
        workload(**settings)

    model(torch.randn(5, 4))
    workload(**settings)


@pytest.mark.parametrize(
    ("batch", "given"),
    [
        ({"label": torch.ones(2), "image": torch.ones(2)}, r"a dict with keys \['image', 'label'\]"),
        ((torch.ones(2, 4),), "a tuple of 1 parts"),
        ([torch.ones(2, 4)] * 3, "a list of 3 parts"),
        (torch.ones(2, 4), "a Tensor"),
    ],
)
def test_batch_that_is_no_pair(batch, given):
    """With a criterion a batch is a pair; else the message shows the loss_fn to write."""
    work = workload(train_loader=[batch])

    with pytest.raises(ValueError, match=rf"must be a pair \(inputs, targets\); got {given}. Use loss_fn"):
        work.step([batch])


@pytest.mark.parametrize(
    ("loss", "given"),
    [
        (lambda out: out, r"a tensor of shape \(2, 3\)"),
        (lambda out: out.mean().reshape(1), r"a tensor of shape \(1,\)"),
        (lambda out: out.mean().detach(), r"a tensor of shape \(\) without gradient"),
        (lambda out: out.mean().item(), "a float"),
        (lambda out: None, "a NoneType"),
    ],
)
def test_loss_that_cannot_be_stepped_on(loss, given):
    """No scalar, no gradient, no tensor: refused before the backward pass, weights untouched."""
    work = workload(loss_fn=lambda model, batch: loss(model(batch)))
    before = [p.clone() for p in work.model.parameters()]

    with pytest.raises(ValueError, match=rf"must be a scalar tensor with a gradient; got {given} from loss_fn"):
        work.step([torch.ones(2, 4)])

    assert all(map(torch.equal, before, work.model.parameters()))
    assert all(p.grad is None for p in work.model.parameters())


def test_loss_fn_with_two_results():
    """A pair is neither the loss nor all three."""
    work = workload(loss_fn=lambda model, batch: (model(batch).mean(), model(batch)))

    with pytest.raises(ValueError, match=r"the loss or \(loss, outputs, targets\); got a tuple of 2"):
        work.step([torch.ones(2, 4)])


def test_no_train_loader():
    """A workload without training data can be evaluated, not stepped."""
    with pytest.raises(ValueError, match="train_loader is needed to take steps; got None"):
        workload(train_loader=None).batches()


# -- one step ----------------------------------------------------------------------------------------------------


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters()]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_accumulated_gradient_is_that_of_one_large_batch(sizes):
    """Batches of any sizes, accumulated, weigh by their samples: loss and gradient of the batch they make up."""
    x, y = torch.randn(sum(sizes), 4), torch.randint(3, (sum(sizes),))
    parts = list(zip(x.split(sizes), y.split(sizes), strict=True))
    one, many = workload(), workload(accumulation_steps=len(sizes))

    whole, summed = one.step([(x, y)]), many.step(parts)

    assert summed.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)
    for a, b in zip(gradients(one.model), gradients(many.model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_steps_are_those_of_a_loop_written_by_hand(accumulation, clip):
    """Bit for bit, losses and weights, over full batches."""
    data = Subset(dataset(), range(32))
    work = workload(accumulation_steps=accumulation, clip_grad_norm=clip, train_loader=DataLoader(data, 4))
    model, loss_of = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    ours = [work.step(group).loss.item() for group in epoch(work.batches(), accumulation)]

    theirs = []
    for group in epoch(DataLoader(data, 4), accumulation):
        optimizer.zero_grad()
        total = torch.zeros(())
        for x, y in group:
            loss = loss_of(model(x), y) / accumulation
            loss.backward()
            total += loss.detach()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        theirs.append(total.item())
    assert ours == theirs
    assert all(map(torch.equal, work.model.parameters(), model.parameters()))


def test_clipping_sees_groups_added_later():
    """A layer that is unfrozen during training is clipped with the others."""
    model = network()
    work = workload(model=model, optimizer=torch.optim.SGD(model[2].parameters(), lr=0.1), clip_grad_norm=1e-3)
    work.optimizer.add_param_group({"params": model[0].parameters()})

    work.step([dataset()[:16]])

    total = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert total.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_overflow_is_told_from_a_step(fused):
    """A step that the scaler skips is no step, also for fused optimizers, whose step() runs either way."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    spoiled = iter([True, True, False, False, True, False])

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return loss * math.inf if next(spoiled) else loss

    work = workload(model=model, optimizer=optimizer, loss_fn=loss_fn, grad_scaler=torch.amp.GradScaler("cpu"))
    stepped = []
    for group in islice(endless(work.batches()), 6):
        before = model[0].weight.clone()
        stepped.append(work.step(group).stepped)
        assert torch.equal(before, model[0].weight) is not stepped[-1]

    assert stepped == [False, False, True, True, False, True]


def test_scaler_that_is_switched_off_steps():
    """GradScaler(enabled=False), as scripts for several devices have it."""
    assert workload(grad_scaler=torch.amp.GradScaler("cpu", enabled=False)).step([dataset()[:8]]).stepped


def test_scaled_step_is_the_plain_one():
    """Scaling by a power of two and back changes no bit; clipping sees unscaled gradients."""
    plain = workload(clip_grad_norm=0.05)
    scaled = workload(clip_grad_norm=0.05, grad_scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))

    for work in (plain, scaled):
        for group in epoch(work.batches()):
            work.step(group)

    assert all(map(torch.equal, plain.model.parameters(), scaled.model.parameters()))


def test_autocast_holds_for_training_and_validation():
    """The model computes in the precision asked for, and the loss sees it."""
    seen = []

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        out = model(batch[0])
        seen.append(out.dtype)
        return nn.functional.cross_entropy(out, batch[1])

    work = workload(loss_fn=loss_fn, amp_dtype=torch.bfloat16, val_loader=[dataset()[:8]])
    work.step([dataset()[:8]])
    work.evaluate()

    assert seen == [torch.bfloat16, torch.bfloat16]


def test_gradients_of_the_step_before_are_gone():
    """A step starts from no gradients, whoever left some."""
    work, fresh = workload(), workload()
    for parameter in work.model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)

    work.step([dataset()[:8]])
    fresh.step([dataset()[:8]])

    assert all(map(torch.equal, gradients(work.model), gradients(fresh.model)))


def test_loss_is_detached():
    """What a step returns keeps no graph alive."""
    loss = workload().step([dataset()[:8]]).loss

    assert (loss.ndim, loss.requires_grad) == (0, False)


class Tokens(UserDict):
    """Stands for a tokenizer's batch: a mapping that moves itself."""

    def to(self, device: Any) -> Tokens:
        return Tokens({name: value.to(device) for name, value in self.items()})


@pytest.mark.parametrize(
    "batch",
    [
        {"x": torch.ones(5, 4), "y": torch.zeros(5).long()},
        OrderedDict(x=torch.ones(5, 4), y=torch.zeros(5).long()),
        Tokens(x=torch.ones(5, 4), y=torch.zeros(5).long()),
        {"name": "a", "id": torch.tensor(3), "x": torch.ones(5, 4), "y": torch.zeros(5).long(), "no": None},
    ],
)
def test_batches_of_any_kind_keep_their_kind(batch):
    """A loss_fn gets what the loader gave, container and all, and accumulation finds its size."""
    kinds = []

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        kinds.append(type(batch))
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

    work = workload(loss_fn=loss_fn, accumulation_steps=2)
    work.step([batch, batch])

    assert kinds == [type(batch)] * 2
    assert work.shares([batch, {"x": torch.ones(3, 4)}]) == [(5, 8), (3, 8)]


# -- modes -------------------------------------------------------------------------------------------------------


class Merging(nn.Linear):
    """Merges into its weight when told to evaluate and splits when told to train, as adapters do."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        if mode is self.merged:
            self.weight.data += -0.25 if mode else 0.25
            self.merged = not mode
        return super().train(mode)


def test_modes_are_as_they_were():
    """Per submodule: frozen ones stay frozen in training, all are in eval mode in validation."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()
    modes = [True, True, False, True]
    seen = []

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        seen.append([module.training for module in model.modules()])
        return model(batch[0]).mean()

    work = workload(model=model, loss_fn=loss_fn, val_loader=[dataset()[:8]])
    with work.training():
        work.step([dataset()[:8]])
        work.evaluate()
    model.eval()
    with work.training():
        work.step([dataset()[:8]])

    assert seen == [modes, [False] * 4, [True] * 4]
    assert not any(module.training for module in model.modules())


def test_modes_are_as_they_were_after_an_error():
    """Validation that fails leaves no model in eval mode."""
    work = workload(val_loader=[{"no": "pair"}])

    with pytest.raises(ValueError, match="must be a pair"):
        work.evaluate()

    assert all(module.training for module in work.model.modules())


def test_modules_with_a_train_of_their_own_are_told():
    """Whoever reacts to eval() must hear of the way back: a merged adapter is split again."""
    model = nn.Sequential(Merging(4, 3))
    work = workload(model=model, val_loader=[dataset()[:8]])
    before = model[0].weight.clone()

    work.evaluate()

    assert not model[0].merged
    torch.testing.assert_close(model[0].weight, before)


# -- validation --------------------------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([dataset()[index] for index in range(20)])


@pytest.mark.parametrize(
    ("loader", "used"),
    [
        (DataLoader(dataset(), 16), range(33)),
        (DataLoader(dataset(), 16, drop_last=True), range(32)),
        (DataLoader(dataset(), 7, sampler=SubsetRandomSampler(range(5, 25))), range(5, 25)),
        (DataLoader(Subset(dataset(), range(9)), 4), range(9)),
        (DataLoader(Stream(), 8), range(20)),
    ],
    ids=["ragged", "dropped", "sampled", "subset", "stream"],
)
def test_validation_is_a_mean_over_the_samples_read(loader, used):
    """Loss and accuracy equal those of one large batch of the samples, however they were cut."""
    work = workload(val_loader=loader)
    x, y = dataset()[list(used)]
    with torch.no_grad():
        out = work.model(x)

    found = work.evaluate()

    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(out, y).item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((out.argmax(1) == y).double().mean().item())


def test_validation_on_some_batches():
    """max_batches reads so many from the start, no more."""
    reads = []

    class Counted:
        def __iter__(self) -> Iterator[Any]:
            for x, y in DataLoader(dataset(), 8):
                reads.append(len(x))
                yield x, y

    work = workload()
    first = work.evaluate(DataLoader(Subset(dataset(), range(16)), 16))

    some = work.evaluate(Counted(), max_batches=2)

    assert reads == [8, 8]
    assert some["loss"] == pytest.approx(first["loss"], rel=1e-6)


def test_validation_metrics_from_a_loss_fn():
    """(loss, outputs, targets) go to the metrics; the loss alone is not enough for them."""

    def loss_fn(model: nn.Module, batch: Any) -> Any:
        out = model(batch[0])
        return nn.functional.cross_entropy(out, batch[1]), out, batch[1]

    metrics = {"right": Accuracy()}
    by_hand = workload(val_loader=DataLoader(dataset(), 8)).evaluate()["accuracy"]
    work = workload(loss_fn=loss_fn, metrics=metrics, val_loader=DataLoader(dataset(), 8))
    silent = workload(loss_fn=lambda m, b: loss_fn(m, b)[0], metrics=metrics, val_loader=DataLoader(dataset(), 8))

    assert work.evaluate() == work.evaluate()
    assert work.evaluate()["right"] == by_hand
    assert set(silent.evaluate(metrics=False)) == {"loss"}
    with pytest.raises(ValueError, match=r"metrics need outputs and targets.*Return \(loss, outputs, targets\)"):
        silent.evaluate()


def test_default_accuracy_leaves_out_what_the_loss_leaves_out():
    """Padding that CrossEntropyLoss ignores is no miss."""
    x, y = dataset()[:8]
    padded = torch.cat([y[:4], torch.full((4,), 9)])
    work = workload(criterion=nn.CrossEntropyLoss(ignore_index=9), val_loader=[(x, padded)])

    found = work.evaluate()["accuracy"]

    assert found == (work.model(x[:4]).argmax(1) == y[:4]).double().mean().item()


def test_nothing_to_validate_on():
    """No loader, and a loader that turns out empty."""
    with pytest.raises(ValueError, match="val_loader is needed to evaluate; got None"):
        workload().evaluate()
    with pytest.raises(ValueError, match="val_loader must yield at least one batch; got none from"):
        workload(val_loader=iter([])).evaluate()


def test_validation_draws_no_gradients():
    """The pass leaves neither graph nor gradient."""
    work = workload(val_loader=DataLoader(dataset(), 8))

    work.evaluate()

    assert all(p.grad is None for p in work.model.parameters())


# -- the rest ----------------------------------------------------------------------------------------------------


def test_model_and_loss_are_moved_to_the_device():
    """Class weights go where the logits will be."""
    criterion = nn.CrossEntropyLoss(weight=torch.ones(3))

    work = workload(criterion=criterion, device="meta")

    assert work.device.type == "meta"
    assert all(p.is_meta for p in work.model.parameters())
    assert criterion.weight.is_meta


def test_device_is_the_models_by_default():
    """Nothing moves unless asked to, except a loss that lies elsewhere than the model."""
    model = network().to("meta")
    criterion = nn.CrossEntropyLoss(weight=torch.ones(3))

    work = workload(model=model, criterion=criterion)

    assert work.device == torch.device("meta")
    assert criterion.weight.is_meta


@pytest.mark.parametrize(
    ("loader", "size"),
    [(DataLoader(dataset(), 16), 16), ([dataset()[:8]], None), (DataLoader(dataset(), batch_sampler=[[0, 1]]), None)],
)
def test_batch_size_is_what_the_loader_says(loader, size):
    """None where it does not say."""
    assert workload(train_loader=loader).batch_size == size


def test_length_that_is_not_there_is_no_error():
    """Loaders whose __len__ raises are read as those without one."""

    class Endless:
        def __len__(self) -> int:
            raise NotImplementedError

        def __iter__(self) -> Iterator[Any]:
            return iter([dataset()[:4]])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        workload(train_loader=Endless(), val_loader=DataLoader(Stream(), 8))
