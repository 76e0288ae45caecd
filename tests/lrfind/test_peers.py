"""Tests of lrfind.peers: every rule against the package it comes from, and on curves that package never saw."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from lrfind import peers
from lrfind.curve import LRCurve, NoSuggestion
from lrfind.suggest import RULES

STEPS = 100
PEERS = ["steepest", "ignite", "lightning", "minimum", "steep", "valley", "slide"]


def falls_and_blows_up(step: int) -> float:
    decade = step / (STEPS - 1) * 8 - 7
    return 2.3 - 1.8 / (1 + 10 ** (-1.5 * (decade + 2))) + min(50.0, 10 ** (3 * (decade - 0.2)))


def jitter(step: int) -> float:
    """Noise in -0.5 .. 0.5 that needs no generator, so that it is the same for ever."""
    return math.modf(abs(math.sin(12.9898 * (step + 1)) * 43758.5453))[0] - 0.5


LOSSES: dict[str, Callable[[int], float]] = {
    "clean": falls_and_blows_up,
    "noisy": lambda i: falls_and_blows_up(i) + 0.4 * jitter(i),
    "very noisy": lambda i: falls_and_blows_up(i) + 1.5 * jitter(i),
    "one nan": lambda i: math.nan if i == 40 else falls_and_blows_up(i) + 0.4 * jitter(i),
    "inf at the end": lambda i: math.inf if i >= 90 else falls_and_blows_up(i) + 0.4 * jitter(i),
    "negative": lambda i: falls_and_blows_up(i) + 0.4 * jitter(i) - 5,
}

# Step at which each package's own rule stops on these losses (its rate / 10 for fastai's minimum), None where it
# gives none: torch-lr-finder 0.2.2, pytorch-ignite 0.5.5, lightning 2.6.6, fastai 2.8.12 on torch 2.14.1, run end
# to end on a model whose losses are scripted, as the tests below do where the packages are installed.
GOLDEN: dict[str, dict[str, int | None]] = {
    "clean": dict(zip(PEERS, [68, 68, 59, 88, 69, 48, 66], strict=True)),
    "noisy": dict(zip(PEERS, [69, 69, 31, 88, 74, 61, 66], strict=True)),
    "very noisy": dict(zip(PEERS, [77, 77, 12, 88, 11, 63, 73], strict=True)),
    "one nan": dict(zip(PEERS, [39, 39, 31, 13, 11, 35, 24], strict=True)),
    "inf at the end": dict(zip(PEERS, [69, 69, 31, 85, 74, 60, 66], strict=True)),
    "negative": dict.fromkeys(PEERS),
}


def rates(rule: str) -> NDArray[np.float64]:
    """Rates at which the sweep of the rule's own package would step from 1e-7 to 10."""
    steps = np.arange(STEPS)
    if rule == "lightning":
        return np.where(steps == 0, 1e-7, 1e-7 * 1e8 ** ((steps + 1) / STEPS))
    if rule in ("minimum", "steep", "valley", "slide"):
        return 1e-7 * 1e8 ** (steps / STEPS)
    return np.geomspace(1e-7, 10, STEPS)


def scripted_curve(rule: str, case: str, **facts: Any) -> LRCurve:
    return LRCurve(rates(rule), [LOSSES[case](step) for step in range(STEPS)], "range end", facts=facts)


def picked_step(rule: str, curve: LRCurve) -> int | None:
    try:
        lr = RULES[rule](curve) * (10 if rule == "minimum" else 1)
    except NoSuggestion:
        return None
    step = int(np.argmin(np.abs(np.log(curve.lr / lr))))
    assert curve.lr[step] == pytest.approx(lr, rel=1e-12)
    return step


@pytest.mark.parametrize("rule", PEERS)
@pytest.mark.parametrize("case", LOSSES)
def test_picks_the_step_that_the_package_picked(rule, case):
    """Each rule agrees with what its package was seen to pick, nan, inf and negative losses included."""
    assert picked_step(rule, scripted_curve(rule, case)) == GOLDEN[case][rule]


# The packages themselves, on scripted losses.


class Scripted(torch.nn.Module):
    """A model with a weight that no loss depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.weight * 0 + inputs.sum() * 0


def script(case: str, dtype: torch.dtype = torch.float64) -> Callable[..., torch.Tensor]:
    losses = iter([LOSSES[case](step) for step in range(STEPS + 5)])

    def criterion(outputs: torch.Tensor, _targets: Any = None) -> torch.Tensor:
        return outputs.sum() * 0 + torch.tensor(next(losses), dtype=dtype)

    return criterion


def batches() -> DataLoader:
    return DataLoader(TensorDataset(torch.zeros(STEPS + 5, 1), torch.zeros(STEPS + 5)), batch_size=1)


@pytest.mark.parametrize("case", LOSSES)
def test_steepest_is_what_torch_lr_finder_plots(case, capsys):
    """torch-lr-finder, swept and plotted for real, suggests the rate of `steepest`."""
    import matplotlib.pyplot as plt
    from torch_lr_finder import LRFinder

    model = Scripted()
    finder = LRFinder(model, torch.optim.SGD(model.parameters(), lr=1e-7), script(case))
    finder.range_test(batches(), end_lr=10, num_iter=STEPS)
    figure, axes = plt.subplots()

    try:
        _, theirs = finder.plot(ax=axes)
    except RuntimeError:  # "Need at least 17 iterations"
        theirs = None
    plt.close(figure)
    capsys.readouterr()

    if theirs is None:
        with pytest.raises(NoSuggestion, match="sees 1 points up to its own stop and needs 17"):
            peers.steepest(scripted_curve("steepest", case))
    else:
        assert peers.steepest(scripted_curve("steepest", case)) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.filterwarnings("ignore")  # the package's own, at import and while it runs
@pytest.mark.parametrize("case", LOSSES)
def test_ignite_is_what_ignite_suggests(case):
    """pytorch-ignite, run for real, suggests the step of `ignite`."""
    engine = pytest.importorskip("ignite.engine", reason="pytorch-ignite is not installed (extra peers)")
    handlers = pytest.importorskip("ignite.handlers", reason="pytorch-ignite is not installed (extra peers)")
    model = Scripted()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
    criterion = script(case)
    trainer = engine.Engine(lambda *_: criterion(torch.zeros(1)).item())
    finder = handlers.FastaiLRFinder()
    settings = {"num_iter": STEPS, "start_lr": 1e-7, "end_lr": 10.0}
    with finder.attach(trainer, to_save={"optimizer": optimizer, "model": model}, **settings) as attached:
        attached.run(batches())

    try:
        theirs = finder.get_results()["lr"].index(finder.lr_suggestion())
    except RuntimeError:
        theirs = None

    assert picked_step("ignite", scripted_curve("ignite", case)) == theirs


@pytest.mark.filterwarnings("ignore")  # the package's own, at import and while it runs
@pytest.mark.parametrize("case", LOSSES)
def test_lightning_is_what_lightning_suggests(case, tmp_path):
    """Lightning's tuner, run for real, suggests the rate of `lightning`."""
    pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed (extra peers)")
    tuner = pytest.importorskip("lightning.pytorch.tuner", reason="lightning is not installed (extra peers)")
    criterion = script(case)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.lr = Scripted(), 1e-3

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return criterion(self.net(batch[0]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, accelerator="cpu", **quiet)
    found = tuner.Tuner(trainer).lr_find(
        Module(), batches(), num_training=STEPS, min_lr=1e-7, max_lr=10.0, update_attr=False
    )

    if found.suggestion() is None:
        with pytest.raises(NoSuggestion, match="finite points after the first 10 and without the last"):
            peers.lightning(scripted_curve("lightning", case))
    else:
        assert peers.lightning(scripted_curve("lightning", case)) == pytest.approx(found.suggestion(), rel=1e-9)


@pytest.mark.filterwarnings("ignore")  # the package's own, at import and while it runs
@pytest.mark.parametrize("case", LOSSES)
def test_fastai_rules_are_what_fastai_suggests(case, tmp_path):
    """fastai's learner, run for real, suggests the rates of its four rules (in single precision)."""
    pytest.importorskip("fastai", reason="fastai is not installed (extra peers)")
    from fastai.basics import DataLoaders, Learner
    from fastai.callback import schedule

    names = ["minimum", "steep", "valley", "slide"]
    loaders = DataLoaders(batches(), batches())
    learner = Learner(loaders, Scripted(), loss_func=script(case, torch.float32), path=tmp_path, lr=1e-3)
    rules = [getattr(schedule, name) for name in names]
    found = None
    with learner.no_bar(), contextlib.suppress(IndexError):
        found = learner.lr_find(1e-7, 10, num_it=STEPS, show_plot=False, suggest_funcs=rules)

    for name in names:
        if found is None:
            with pytest.raises(NoSuggestion, match="points after trimming"):
                RULES[name](scripted_curve(name, case))
        else:
            assert RULES[name](scripted_curve(name, case)) == pytest.approx(getattr(found, name), rel=1e-5)


# Beyond the packages: what holds for any curve.

ANY_LOSS = st.floats(-1e100, 1e100) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0])


@st.composite
def any_curve(draw: st.DrawFn) -> LRCurve:
    losses = draw(st.lists(ANY_LOSS, max_size=60))
    lr = np.geomspace(1e-6, draw(st.floats(1e-5, 1e3)), len(losses)) if losses else []
    return LRCurve(lr, losses, "range end")


@st.composite
def learning_curve(draw: st.DrawFn) -> LRCurve:
    steps, seed = draw(st.integers(40, 200)), draw(st.integers(0, 2**32 - 1))
    noise, fall = draw(st.floats(0.01, 0.5)), draw(st.floats(1e-4, 1e-1))
    lr = np.geomspace(1e-7, 10, steps)
    loss = 2.3 - 1.8 / (1 + (fall / lr) ** 1.5) + np.minimum((lr / (50 * fall)) ** 3, 50)
    return LRCurve(lr, loss + noise * np.random.default_rng(seed).normal(size=steps), "diverged")


@pytest.mark.parametrize("rule", PEERS)
@given(curve=any_curve())
def test_any_curve_gives_a_rate_of_the_sweep_or_no_suggestion(rule, curve):
    """Whatever the losses, nan and inf included: a finite rate within the sweep (a tenth of it for minimum), or
    NoSuggestion; never another exception, never nan."""
    try:
        lr = RULES[rule](curve)
    except NoSuggestion:
        return
    assert curve.lr[0] / 10 <= lr <= curve.lr[-1]


@pytest.mark.parametrize("rule", PEERS)
@given(curve=learning_curve(), power=st.integers(-20, 20))
def test_scaling_all_rates_scales_the_pick(rule, curve, power):
    """lr -> c * lr gives pick -> c * pick, for every peer."""
    scaled = LRCurve(curve.lr * 2.0**power, curve.loss, curve.status)

    def pick(of: LRCurve) -> float | None:
        try:
            return RULES[rule](of)
        except NoSuggestion:
            return None

    before, after = pick(curve), pick(scaled)
    assert (before is None) == (after is None)
    if before is not None:
        assert after == pytest.approx(before * 2.0**power, rel=1e-9)


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0], 0),  # e 4, k 5, b -1: -1 + int(5/3) + int(5/6)
        ([2.0, 1.0], -1),  # e 1, k 2, b -1: -1 + 0 + 0, which Python takes for the last
        ([1.0, 2.0, 3.0], 0),  # never falls
        ([3.0, 9.0, 9.0, 2.0, 9.0, 9.0, 1.0, 9.0], 4),  # e 6, k 3, b 3: 3 + 1 + 0
    ],
)
def test_valley_on_curves_worked_by_hand(losses, step, monkeypatch):
    """The middle of the longest strictly falling subsequence, with the index arithmetic of fastai."""
    lrs = np.arange(1.0, len(losses) + 1)
    monkeypatch.setattr(peers, "_as_fastai", lambda *_, **__: (lrs, np.array(losses)))

    assert peers.valley(LRCurve([], [], "too few points")) == lrs[step]


def quadratic_lengths(losses: list[float]) -> list[int]:
    """Lengths of falling subsequences by the loops that fastai uses."""
    lengths = [1] * len(losses)
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
    return lengths


@given(st.lists(st.integers(0, 9).map(float), max_size=40))
def test_falling_lengths_equal_the_quadratic_loops(losses):
    """The O(n log n) search for falling subsequences gives what fastai's O(n^2) loops give, ties included."""
    assert peers._falling_lengths(np.array(losses)).tolist() == quadratic_lengths(losses)


def test_fastai_skips_a_tenth_of_the_planned_steps():
    """A sweep planned for 400 steps and stopped after 100 loses its first 40, as in fastai, not its first 10."""
    only_early = [3.0 if step < 20 else 4.0 for step in range(100)]
    short = LRCurve(rates("minimum"), only_early, "diverged")
    stopped = LRCurve(rates("minimum"), only_early, "diverged", facts={"num_iter": 400})

    assert peers.minimum(short) < rates("minimum")[20]
    assert peers.minimum(stopped) == pytest.approx(rates("minimum")[40] / 10)


@pytest.mark.parametrize("rule", ["lightning", "steep"])
def test_rules_that_divide_by_lr_steps_refuse_equal_rates(rule):
    """Two steps at one lr, a slope of 0 / 0 in the package, are refused with the reason."""
    lr = rates(rule).copy()
    lr[50] = lr[51]
    with pytest.raises(NoSuggestion, match="two steps have the same lr"):
        RULES[rule](LRCurve(lr, [falls_and_blows_up(step) for step in range(STEPS)], "diverged"))


@pytest.mark.parametrize("rule", PEERS)
def test_ten_points_are_too_few_for_every_peer_but_ignite(rule):
    """On ten points the packages crash or answer None; here the message says how many are needed."""
    curve = LRCurve(rates(rule)[:10], [falls_and_blows_up(70 + step) for step in range(10)], "range end")
    if rule in ("minimum", "valley", "ignite", "steep"):
        assert RULES[rule](curve) > 0
    else:
        with pytest.raises(NoSuggestion, match=r"sees \d+ .* needs \d+\. Sweep in more steps"):
            RULES[rule](curve)
