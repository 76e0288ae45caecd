"""Tests of onecycle.pilot: short cycles that differ in their peak alone."""

from __future__ import annotations

import gc
import math
import multiprocessing
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

from lrfind import Workload, preserve
from lrfind.batches import endless
from lrfind.progress import Bar
from onecycle.pilot import Pilot, Plan, Validation, ceiling, run_pilot, validated
from onecycle.schedule import OneCycle

SHAPE = OneCycle(max_lr=None)
HIDDEN = Bar("pilots", 1, shown=False)


def pilot(work, start, max_lr=0.1, *, steps=12, unseen=0, shape=SHAPE, ceiling=math.inf):
    start.restore()
    plan = Plan(shape, steps, unseen=unseen, before=validated(work, steps), ceiling=ceiling)
    return run_pilot(work, start, plan, max_lr, HIDDEN)


def outcome(first=2.3, train=1.0, val: float | None = 1.0, fall_z=5.0, rise_z=0.0, hits=None, guessed=None) -> Pilot:
    """Return a pilot that began at a validation loss of ``first`` too, and at a share of hits of ``guessed``."""
    validations = () if val is None else (Validation(val, hits), Validation(first, guessed))
    return Pilot(0.1, 10, first, train, fall_z, rise_z, *validations)


def recorded(work, monkeypatch) -> list[tuple[list[Any], torch.Tensor]]:
    """Note the batches of each step, and the random state that it begins with."""
    seen: list[tuple[list[Any], torch.Tensor]] = []
    step = type(work).step

    def noting(self, group):
        seen.append(([part.clone() for batch in group for part in batch], torch.get_rng_state()))
        return step(self, group)

    monkeypatch.setattr(type(work), "step", noting)
    return seen


def equal(one, other) -> bool:
    return all(
        torch.equal(state, state_too) and all(map(torch.equal, parts, parts_too))
        for (parts, state), (parts_too, state_too) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("loader", ["shuffle", "generator", "stream", "list", "workers"])
@pytest.mark.parametrize("unseen", [0, 3])
def test_paired(make, monkeypatch, loader, unseen):
    """Pilots of any peak see the same batches with the same random numbers, and one tried again is the same."""
    work = make("adamw", loader)
    with preserve(work) as start:
        seen = recorded(work, monkeypatch)
        first = pilot(work, start, 0.01, unseen=unseen)
        low = list(seen)
        seen.clear()
        second = pilot(work, start, 0.03, unseen=unseen)

        assert equal(low, seen)
        assert second.train_loss != first.train_loss
        assert pilot(work, start, 0.01, unseen=unseen) == first


def test_looks_at_the_batches_that_come_next(make, monkeypatch):
    """It trains on the first groups of the stream; those after them it only evaluates, in eval mode, as they stand."""
    work = make(loader="list", accumulation_steps=2)
    groups = list(islice(endless(work.batches(), 2), 8))
    with preserve(work) as start:
        seen = recorded(work, monkeypatch)
        judged = pilot(work, start, steps=5, unseen=3)
        expected = work.evaluate([batch for group in groups[5:] for batch in group])
        plain = pilot(work, start, steps=5)

    trained = [parts for parts, _ in seen[:5]]
    assert all(torch.equal(parts[0], group[0][0]) for parts, group in zip(trained, groups, strict=False))
    assert (judged.unseen.loss, judged.unseen.hits) == (expected["loss"], expected["accuracy"])
    assert plain == replace(judged, unseen=None)


def test_a_pilot_that_diverged_looks_at_nothing_more(make):
    """Weights that are no numbers say nothing of any data."""
    work = make("sgd0")
    with preserve(work) as start:
        assert pilot(work, start, 1e4, steps=60, unseen=3).unseen is None


@pytest.mark.parametrize("shape", [SHAPE, OneCycle.smith(None), OneCycle(None, three_phase=True), OneCycle.fastai(1.0)])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd0", "adamw-tensor-lr", "rmsprop", "adagrad"])
@pytest.mark.parametrize("steps", [8, 12, 31])
def test_stays_at_its_peak(make, monkeypatch, optimizer, shape, steps):
    """Each group's lr goes up in a fifth of the steps and down in another, as a cycle of two such slopes does, and
    stays at the peak between; without momentum there is no warning."""
    work = make(optimizer, groups=True)
    ratios = [0.003 / float(work.optimizer.param_groups[1]["lr"]), 1.0]
    slope = round(steps / 5)
    cycle = replace(shape, max_lr=0.2, total_steps=2 * slope, pct_start=0.5, three_phase=False, pct_flat=0.0)
    up, down = [cycle.lr(step) for step in range(slope)], [cycle.lr(step) for step in range(slope, 2 * slope)]
    lrs = []
    work.optimizer.register_step_pre_hook(
        lambda optimizer, *_: lrs.append([float(group["lr"]) for group in optimizer.param_groups])
    )
    with preserve(work) as start:
        pilot(work, start, 0.2, steps=steps, shape=shape)

    expected = [*up, *[0.2] * (steps - 2 * slope), *down]
    assert up[-1] == pytest.approx(0.2)
    assert lrs == [pytest.approx([lr * ratio for ratio in ratios], rel=1e-5) for lr in expected]


def test_one_that_diverges_stops_early(make):
    """A peak of 1e4 costs fewer steps than planned, is infinitely bad, and has learned nothing."""
    work = make("sgd0")
    with preserve(work) as start:
        good, bad = pilot(work, start, 0.1, steps=60), pilot(work, start, 1e4, steps=60)

    assert good.steps == 60
    assert good.learned
    assert bad.steps < 60
    assert (bad.loss, bad.train_loss) == (math.inf, math.inf)
    assert bad.validation == Validation(math.inf)
    assert (good.failed, bad.failed, bad.learned) == (False, True, False)
    assert math.isfinite(bad.first_loss)


@pytest.mark.parametrize(("optimizer", "taken"), [("sgd", 16), ("adamw", 40), ("rmsprop", 40), ("adagrad", 40)])
def test_a_rise_ends_no_pilot_whose_optimizer_scales_its_own_steps(make, optimizer, taken):
    """It comes back from what would be the end of another; of a loss that is no number none comes back."""
    work = make(optimizer)
    told = iter([2.0] * 12 + [30.0] * 60)
    lost = iter([2.0] * 12 + [math.nan] * 60)
    step = work.step

    with preserve(work) as start:
        work.step = lambda group: step(group)._replace(loss=torch.tensor(next(told)))
        risen = pilot(work, start, 1e-3, steps=40, ceiling=5.0)
        work.step = lambda group: step(group)._replace(loss=torch.tensor(next(lost)))
        broken = pilot(work, start, 1e-3, steps=40, ceiling=5.0)

    assert risen.steps == pytest.approx(taken, abs=2)
    assert broken.steps < 20


def test_one_that_stays_above_the_ceiling_stops_at_once(make):
    """The median of the first five losses above what the range test allows: diverged after five steps."""
    work = make("sgd0")
    with preserve(work) as start:
        assert pilot(work, start, 0.1, steps=60, ceiling=1.0).steps == 5
        assert pilot(work, start, 0.1, steps=60, ceiling=1.0).failed
        assert pilot(work, start, 0.1, steps=60, ceiling=5.0) == pilot(work, start, 0.1, steps=60)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.0] * 5 + [1.5] * 5 + [1.0] * 5, 4.0),  # twice the fall of 1 above the start
        ([-8.0] * 5 + [-9.0] * 5, -6.0),
        ([2.0] * 5 + [1.0] * 5 + [math.inf] * 5, 4.0),
        ([math.nan] + [2.0] * 7 + [1.0] * 6, 4.0),
        ([2.0] * 20, math.inf),  # it never fell
        ([2.0, 3.0, 4.0, 5.0, 6.0, 7.0], math.inf),
        ([math.inf] * 9, math.inf),
        ([2.0], math.inf),
    ],
)
def test_ceiling(losses, expected):
    """Above the start by twice what the range test fell by; none where it did not fall."""
    assert ceiling(losses) == pytest.approx(expected)


def test_ceiling_is_above_the_noise():
    """Noise of 0.5 between neighbours, a fall of twice that: eight times the noise is allowed."""
    losses = [2.0, 2.5] * 10 + [1.0, 1.5] * 10

    assert ceiling(losses) == pytest.approx(13 / 6 + 8 * 0.5 / 0.9539)


@pytest.mark.parametrize("val", [True, False])
def test_validated_at_its_end(make, val):
    """Losses are means of the first three and the last fifth of the steps; then comes the validation set, if any."""
    work = make(val=val)
    losses: list[float] = []
    step = work.step

    def noting(group):
        result = step(group)
        losses.append(float(result.loss))
        return result

    with preserve(work) as start:
        before = work.evaluate() if val else None
        work.step = noting
        result = pilot(work, start, steps=20)
        after = work.evaluate() if val else None

    assert result.first_loss == pytest.approx(sum(losses[:3]) / 3)
    assert result.train_loss == pytest.approx(sum(losses[-4:]) / 4)
    for judged, expected in ((result.before, before), (result.validation, after)):
        if expected is None:
            assert judged is None
        else:
            assert (judged.loss, judged.hits) == (expected["loss"], expected["accuracy"])


@pytest.mark.parametrize(
    ("val", "hits", "guessed", "loss"),
    [
        (None, None, None, 1.0),  # the training loss
        (1.5, None, None, 1.5),  # the validation loss
        (1.0, 0.75, 0.5, 1.0),  # half of each is left, of a loss of 2
        (1.0, 1.0, 0.5, 2 * (0.5 + 0.05) / 2.1),
        (2 * math.e, 0.75, 0.5, 2 * (1 + 0.5 + 0.05) / 2.1),  # sure of its errors: no worse than untrained
        (1.0, 0.25, 0.5, 2 * (0.5 + 1.5 + 0.05) / 2.1),
        (1.0, 1.0, 1.0, 1.0),  # nothing was left to hit
        (math.inf, 0.75, 0.5, math.inf),
    ],
)
def test_compared_by_loss_and_hits(val, hits, guessed, loss):
    """By the shares that are left, of the validation loss, of the misses, and for a tenth of the training loss."""
    one = outcome(2.0, 1.0, val, hits=hits, guessed=guessed)

    assert one.loss == pytest.approx(loss)
    assert one.start == 2.0


@pytest.mark.parametrize(("val", "hits"), [(4.0, 0.5), (1.0, 0.75)])
def test_training_counts_a_tenth_where_hits_are_counted(val, hits):
    """So it decides where no pilot has found a rare class yet; a rise of it counts nothing."""
    none, some, most, worse = (outcome(2.0, train, val, hits=hits, guessed=0.5) for train in (2.0, 1.0, 0.0, 5.0))

    assert worse.loss == none.loss
    assert none.loss - some.loss == pytest.approx(0.1 / 2.1)
    assert none.loss - most.loss == pytest.approx(0.2 / 2.1)


def test_where_all_is_learned_no_loss_is_left():
    """It is never below 0, whatever the training loss; and nothing learned is where it began."""
    assert outcome(2.0, 0.0, 0.0, hits=1.0, guessed=0.5).loss == 0
    assert outcome(2.0, 2.0, 2.0, hits=0.5, guessed=0.5).loss == 2.0


def test_training_does_not_count_beside_a_validation_loss_alone():
    """That tells by itself."""
    assert outcome(2.0, 2.0, 1.0).loss == outcome(2.0, 0.5, 1.0).loss


def test_hits_that_are_no_number_do_not_count(make):
    """A metric without a value on the validation set leaves the comparison to the loss."""
    work = make("sgd0")
    work.metrics["accuracy"].compute = lambda: math.nan
    with preserve(work) as start:
        result = pilot(work, start, 0.1)

    assert result.loss == result.validation.loss < math.inf


@pytest.mark.parametrize(
    ("train", "val", "share"), [(1.0, 0.5, 0.5), (0.5, 1.5, 0.75), (0.5, None, 0.25), (math.inf, math.inf, math.inf)]
)
def test_unlearned_is_what_is_left_of_training_or_of_validation(train, val, share):
    """Of whichever more is left: little data may be learned by heart within a pilot already."""
    assert outcome(2.0, train, val).unlearned == share


def test_a_negative_loss_is_compared_as_it_is():
    """A likelihood may fall below 0, where shares of it mean nothing."""
    assert outcome(-1.0, -3.0, -2.5, hits=0.75, guessed=0.5).loss == -2.5


def test_validates_on_no_more_batches_than_it_has_read(make):
    """A validation set of 90 batches is read up to as many batches as the pilot has steps, and at least 10."""
    work = make()
    work.val_loader = list(zip(*(part.split(1) for part in work.train_loader.dataset.tensors), strict=True))
    read = []
    forward = work.forward
    work.forward = lambda batch, model=None: read.append(work.model.training) or forward(batch, model)
    with preserve(work) as start:
        for steps, expected in ((8, 10), (30, 30)):
            read.clear()
            pilot(work, start, steps=steps)
            assert read.count(False) == 2 * expected  # before its first step, and after its last


def test_first_loss_passes_over_what_is_no_number(make, overflows):
    """One infinite loss among the first three is left out of the loss before learning; three make it infinite."""
    work = make("sgd0", val=False, grad_scaler=torch.amp.GradScaler("cpu"))
    for at, finite in (((0,), True), ((0, 1), True), (range(99), False)):
        work.criterion = overflows(at)
        with preserve(work) as start:
            result = pilot(work, start, steps=8)
        assert math.isfinite(result.first_loss) is finite
        assert math.isfinite(result.train_loss) is finite


@pytest.mark.parametrize("val", [True, False])
def test_without_learning(make, val):
    """Where nothing depends on the weights that move, no pilot has learned, noise between batches or not."""
    work = make(loader="shuffle", val=val)
    for parameter in work.model.parameters():
        parameter.requires_grad_(False)
    work.model.norm.momentum = 0.0
    shift = nn.Parameter(torch.zeros(()))
    work.optimizer.add_param_group({"params": [shift]})
    criterion = work.criterion
    work.criterion = lambda outputs, targets: criterion(outputs + shift, targets)
    with preserve(work) as start:
        assert not any(pilot(work, start, lr, steps=20).learned for lr in (1e-3, 1e-2, 0.1))


@pytest.mark.parametrize(
    ("one", "wrong", "left"),
    [
        (outcome(2.0, 1.5, 1.0), 0.0, 0.75),  # not asked for
        (replace(outcome(2.0, 1.5, 1.0), unseen=Validation(1.6)), 0.3, 0.75),
        (replace(outcome(2.0, 0.5, 1.0), unseen=Validation(0.6)), -0.2, 0.25),  # seen before: it knows them
        (outcome(2.0, 1.5, None), 0.0, 0.75),
        (replace(outcome(-1.0, -3.0, -2.5), unseen=Validation(-2.0)), 0.0, 0.0),  # below 0 shares mean nothing
    ],
)
def test_says_what_is_left_to_learn_by_heart(one, wrong, left):
    """How much worse data that come next are than the validation set, and how much training loss is left: shares of
    what they began with."""
    assert one.wrong == pytest.approx(wrong)
    assert one.left == pytest.approx(left)


def test_an_error_lets_the_workers_go(make):
    """An error in a step, kept with its traceback, leaves no worker process running."""
    work = make(loader="workers")
    gc.collect()
    before = len(multiprocessing.active_children())
    with preserve(work) as start:
        work.criterion = nn.L1Loss()
        with pytest.raises(Exception) as kept:  # noqa: PT011
            pilot(work, start)
        assert kept.value.__traceback__ is not None
        assert len(multiprocessing.active_children()) == before


@pytest.mark.parametrize(
    ("val", "fall_z", "learned", "failed"),
    [
        (0.5, 10.0, True, False),
        (0.5, 1.0, True, False),  # within the noise of batches, but the validation set has no such noise
        (2.29, 1.0, False, False),
        (2.29, -1.0, False, False),
        (5.0, -10.0, False, True),  # worse than before
        (2.4, 1.0, False, True),
        (math.inf, 10.0, True, True),  # a validation loss that is no number
        (math.inf, -math.inf, False, True),
        (0.5, math.nan, True, True),
    ],
)
def test_learned_and_failed(val, fall_z, learned, failed):
    """Learned and failed are a fall and a rise beyond the noise; in between is neither."""
    one = outcome(val=val, fall_z=fall_z)

    assert (one.learned, one.failed) == (learned, failed)


@pytest.mark.parametrize(
    ("val", "rise_z", "failed"), [(2.2, 10.0, True), (2.2, 1.0, False), (1.0, 10.0, False), (1.0, math.inf, False)]
)
def test_a_wrecked_model_has_failed(val, rise_z, failed):
    """A training loss that rose far and came back to a little below its start is that of a model that ignores its
    inputs; one that came down further has recovered."""
    assert outcome(val=val, rise_z=rise_z).failed is failed


@pytest.mark.parametrize(
    ("before", "after", "constant"),
    [(10.0, 0.0, True), (10.0, 0.09, True), (10.0, 0.11, False), (0.0, 0.0, False), (None, 0.0, False)],
)
def test_a_model_that_answers_all_alike_has_failed(before, after, constant):
    """However far its loss has fallen; where its outputs differed before, that is."""
    fell = outcome(first=16.7, train=1.1, val=1.1, fall_z=300.0)
    one = replace(
        fell, validation=replace(fell.validation, output_std=after), before=replace(fell.before, output_std=before)
    )

    assert (one.constant, one.failed) == (constant, constant)


def test_tells_dead_units_from_learning():
    """Inputs in hundreds, on two classes: a peak that kills all units leaves the loss of the commonest answer, far
    below that of wild guesses; it has failed, a lower one has not."""
    torch.manual_seed(0)
    x = 300 + 100 * torch.randn(400, 4)
    y = (x[:, 0] > 300).long()
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    batches = list(zip(x.split(20), y.split(20), strict=True))
    work = Workload(model, torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), batches, batches[:10])

    with preserve(work) as start:
        low, high = pilot(work, start, 1e-3, steps=20), pilot(work, start, 3.0, steps=20)

    assert high.validation.loss < 0.1 * high.untrained
    assert high.fall_z > 2
    assert (low.constant, low.failed) == (False, False)
    assert (high.constant, high.failed) == (True, True)


def test_starts_no_worse_than_a_constant_prediction(make):
    """With inputs in hundreds a fall is counted from the loss of the commonest answers; elsewhere from the model's own,
    and so where a loss_fn does not say what a constant would get."""
    torch.manual_seed(0)
    x, y = torch.randn(400, 4), torch.arange(400) % 4
    model, criterion = nn.Linear(4, 4), nn.CrossEntropyLoss()

    def begun(size, **loss):
        batches = list(zip((size * x).split(40), y.split(40), strict=True))
        work = Workload(
            model, torch.optim.SGD(model.parameters(), 1e-3), train_loader=batches, val_loader=batches, **loss
        )
        with preserve(work) as start:
            return pilot(work, start, 1e-3)

    wild, tame = (begun(size, criterion=criterion) for size in (300.0, 1e-3))
    unknown = begun(300.0, loss_fn=lambda model, batch: criterion(model(batch[0]), batch[1]))

    assert wild.untrained > 50
    assert wild.start == pytest.approx(math.log(4))
    assert tame.start == pytest.approx(tame.untrained, rel=0.1)
    assert unknown.start == unknown.untrained == wild.untrained


def test_a_loss_without_outputs_tells_no_output_std(make):
    """A loss_fn that returns the loss alone is enough for pilots."""
    work = make()
    criterion = nn.CrossEntropyLoss()
    alone = Workload(
        work.model,
        work.optimizer,
        train_loader=work.train_loader,
        val_loader=work.val_loader,
        loss_fn=lambda model, batch: criterion(model(batch[0]), batch[1]),
    )
    with preserve(work) as start:
        with_outputs = pilot(work, start)
    with preserve(alone) as start:
        without = pilot(alone, start)

    assert without.validation.output_std is None
    assert with_outputs.validation.output_std > 0
    assert without.validation.loss == with_outputs.validation.loss


def test_says_how_far_the_loss_rose(make):
    """A peak at which the loss first rises has a rise beyond the noise, a low one has none."""
    work = make("sgd0")
    rises = iter([1.0] * 6 + [1.9] * 6 + [1.0] * 28)
    noise = iter([0.01, -0.01] * 99)
    step = work.step

    def told(group):
        result = step(group)
        return result._replace(loss=torch.tensor(next(rises) + next(noise)))

    with preserve(work) as start:
        low = pilot(work, start, 1e-3, steps=40)
        work.step = told
        high = pilot(work, start, 1e-3, steps=40)

    assert low.rise_z < 3 < high.rise_z < math.inf


def test_losses_in_blocks_change_nothing_but_when_it_stops(make, monkeypatch):
    """Read ten at a time, as on an accelerator: the same pilot; one that diverges takes up to nine steps more."""
    work = make(loader="list")
    with preserve(work) as start:
        one, wild = pilot(work, start, 0.01, steps=24), pilot(work, start, 1e4, steps=24)
        monkeypatch.setattr("onecycle.pilot._block", lambda work: 10)
        assert pilot(work, start, 0.01, steps=24) == one
        in_blocks = pilot(work, start, 1e4, steps=24)
    assert in_blocks.failed
    assert wild.failed
    assert wild.steps <= in_blocks.steps < wild.steps + 10
