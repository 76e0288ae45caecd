"""Tests of lrfind.suggest: the pick, its range, its warnings, and when there is none."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrfind.curve import LRCurve, NoSuggestion
from lrfind.suggest import RULES, Suggestion, level, suggest

FALL, BLOW_UP = 0.01, 1.6
ANY_LOSS = st.floats(-1e100, 1e100) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0])


def losses_at(lr: np.ndarray, fall: float = FALL, blow_up: float = BLOW_UP) -> np.ndarray:
    """Loss 2.3, half of the drop to 0.5 at lr ``fall``, back above the start at about ``blow_up``."""
    return 2.3 - 1.8 / (1 + (fall / lr) ** 1.5) + np.minimum((lr / blow_up) ** 3, 50)


def sweep(steps: int = 100, noise: float = 0.0, seed: int = 0, end: float = 10.0, **changes: Any) -> LRCurve:
    """A curve that is stopped as our sweep stops, at three times the start."""
    lr = np.geomspace(1e-7, end, steps)
    calm = losses_at(lr)
    kept = slice(0, int(np.argmax(np.append(calm, np.inf) > 6.9)) + 1)
    loss = calm + noise * np.random.default_rng(seed).normal(size=steps)
    status = "diverged" if calm[-1] > 6.9 else "range end"
    return LRCurve(**({"lr": lr[kept], "loss": loss[kept], "status": status} | changes))


def flat(steps: int = 100, noise: float = 0.1, **changes: Any) -> LRCurve:
    loss = 2.3 + noise * np.random.default_rng(0).normal(size=steps)
    return LRCurve(**({"lr": np.geomspace(1e-7, 10, steps), "loss": loss, "status": "range end"} | changes))


@st.composite
def learning_curves(draw: st.DrawFn) -> LRCurve:
    steps, seed = draw(st.integers(50, 300)), draw(st.integers(0, 2**32 - 1))
    fall, apart = draw(st.floats(1e-4, 1e-1)), draw(st.floats(10, 300))
    noise = draw(st.floats(0, 0.3)) * np.random.default_rng(seed).normal(size=steps)
    lr = np.geomspace(1e-7, 100, steps)
    loss = losses_at(lr, fall, fall * apart)
    end = int(np.argmax(loss > 6.9)) + 1
    groups = np.stack([lr, lr / 10])[:, :end]
    return LRCurve(lr[:end], (loss + noise)[:end], "diverged", group_lrs=groups)


# The pick.


def test_pick_is_between_half_the_drop_and_the_minimum():
    """level: the geometric mean of where half of the drop is reached (0.01) and the lr of the minimum (0.16), as
    calculus finds them, within a quarter of a decade that smoothing costs."""
    assert math.log10(level(sweep(1000))) == pytest.approx(math.log10(math.sqrt(0.01 * 0.16)), abs=0.25)


@pytest.mark.parametrize(("noise", "factor"), [(0.0, 1.1), (0.05, 1.6), (0.2, 3.0)])
def test_pick_does_not_depend_on_the_number_of_steps(noise, factor):
    """Trap 12: the same curve in 50, 100, 400 and 1000 steps with 50 noise seeds each: the typical picks agree
    within 10 %, and every single one is within a stated factor of the noiseless pick at 1000 steps."""
    truth, typical = level(sweep(1000)), []
    for steps in (50, 100, 400, 1000):
        picks = [level(sweep(steps, noise, seed)) for seed in range(50 if noise else 1)]
        typical.append(np.exp(np.mean(np.log(picks))))
        assert truth / factor < min(picks)
        assert max(picks) < truth * factor
    assert max(typical) / min(typical) < 1.1


def test_range_covers_the_noise_at_the_stated_rate():
    """Trap 12: low..high holds the noiseless pick in at least 80 % of 200 noisy sweeps (seed 0 to 199)."""
    truth = level(sweep(400))
    found = [suggest(sweep(50, 0.3, seed)) for seed in range(200)]

    assert np.mean([pick.low <= truth <= pick.high for pick in found]) >= 0.8


@given(curve=learning_curves(), scale=st.floats(1e-2, 1e2), shift=st.floats(-1e2, 1e2))
def test_losses_may_be_scaled_and_shifted(curve, scale, shift):
    """Trap 8: loss -> a * loss + b changes neither pick nor range, negative losses included."""
    moved = LRCurve(curve.lr, scale * curve.loss + shift, curve.status, curve.group_lrs)

    before, after = suggest(curve), suggest(moved)

    assert (after.lr, after.low, after.high) == pytest.approx((before.lr, before.low, before.high), rel=1e-6)


@given(curve=learning_curves(), factor=st.floats(1e-5, 1e5))
def test_rates_may_be_scaled(curve, factor):
    """Trap 11: lr -> c * lr scales pick, range and group rates by c."""
    scaled = LRCurve(factor * curve.lr, curve.loss, curve.status, factor * curve.group_lrs)

    before, after = suggest(curve), suggest(scaled)

    assert (after.lr, after.low, after.high, *after.group_lrs) == pytest.approx(
        [factor * lr for lr in (before.lr, before.low, before.high, *before.group_lrs)], rel=1e-6
    )


@pytest.mark.parametrize("depth", [0.0, -5.0])
@pytest.mark.parametrize("back", [1, 3, 5])
def test_a_dip_after_divergence_changes_nothing(depth, back):
    """Trap 11: the search ends where the loss rises, so a late dip of the noise is not taken for the minimum."""
    curve = sweep(200, 0.05)
    dipped = curve.loss.copy()
    dipped[-back] = depth

    assert level(LRCurve(curve.lr, dipped, "diverged")) == pytest.approx(level(curve), rel=0.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_loss_anywhere_hardly_moves_the_pick(bad):
    """Trap 7: a single nan or inf at any step moves the pick by at most 20 %; peers jump to its neighbour."""
    curve = sweep(100, 0.05)
    whole = level(curve)
    for step in range(len(curve)):
        loss = curve.loss.copy()
        loss[step] = bad
        assert whole / 1.2 < level(LRCurve(curve.lr, loss, "diverged")) < whole * 1.2, f"bad loss at step {step}"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_pick_keeps_away_from_where_losses_stop_being_numbers(bad):
    """Trap 7: losses that fall until they become nan: the pick is well below that rate, and high not above it."""
    curve = sweep(100, 0.02)
    loss = curve.loss.copy()
    loss[70:] = bad

    pick = suggest(LRCurve(curve.lr, loss, "non-finite"))

    assert pick.lr < curve.lr[70] / 2
    assert pick.high <= curve.lr[70]


def test_a_drop_to_the_constant_predictor_is_not_learning():
    """With inputs that are not normalised the loss first falls to what a constant gets: counted from there, the
    pick belongs to the second fall."""
    lr = np.geomspace(1e-7, 10, 200)
    loss = 40 - 37.7 / (1 + (1e-5 / lr) ** 2) - 1.8 / (1 + (0.01 / lr) ** 2) + np.minimum((lr / 1.6) ** 3, 500)
    blind = LRCurve(lr[:185], loss[:185], "diverged")
    told = LRCurve(lr[:185], loss[:185], "diverged", facts={"constant_loss": 2.3})

    assert level(blind) < 0.01
    assert level(told) == pytest.approx(math.sqrt(0.01 * 0.3), rel=0.5)


# low and high.


def test_range_is_ordered_and_ends_at_the_blow_up():
    """low <= lr <= high, and high is not above the rate at which the loss had blown up."""
    curve = sweep(100, 0.05)
    pick = suggest(curve)

    assert pick.low < pick.lr < pick.high <= curve.lr[-1]
    assert math.log10(pick.lr / pick.low) == pytest.approx(0.79, abs=0.05)


def test_replicates_are_averaged_and_narrow_the_range():
    """Replicates that agree: the pick is their geometric mean and the range narrower than from one sweep;
    replicates that do not: wider."""
    one, *others = [sweep(100, 0.05, seed) for seed in range(5)]
    several = LRCurve(one.lr, one.loss, "diverged", replicates=others)
    far = [LRCurve(curve.lr * 30**index, curve.loss, "diverged") for index, curve in enumerate(others)]
    scattered = LRCurve(one.lr, one.loss, "diverged", replicates=far)

    picks = [level(curve) for curve in (one, *others)]
    assert suggest(several).lr == pytest.approx(np.exp(np.mean(np.log(picks))))
    assert suggest(several).low / suggest(several).lr > suggest(one).low / suggest(one).lr
    assert suggest(scattered).low / suggest(scattered).lr < suggest(one).low / suggest(one).lr
    assert any("Repeated sweeps disagree" in warning for warning in suggest(scattered).warnings)


def test_a_replicate_without_a_pick_is_left_out_and_said():
    """A replicate that gives nothing does not spoil the rest; a warning counts it."""
    curve = sweep(100)
    pick = suggest(LRCurve(curve.lr, curve.loss, "diverged", replicates=[sweep(100), flat()]))

    assert pick.lr == pytest.approx(level(curve))
    assert any("1 of 3 sweeps gave no suggestion" in warning for warning in pick.warnings)


def test_range_of_another_rule_holds_its_pick():
    """low..high is our range, stretched to the pick of whatever rule was asked for."""
    ours, theirs = suggest(sweep(100)), suggest(sweep(100), lambda curve: 1e-6)

    assert theirs.lr == theirs.low == 1e-6
    assert theirs.high == ours.high


def test_group_rates_lie_on_the_sweep():
    """Trap 14: every group's suggestion is its own rate where the reference group has the pick, also where ranges
    differ; a frozen group stays at 0."""
    curve = sweep(100)
    narrow = 1e-6 * (curve.lr / curve.lr[0]) ** 0.5
    groups = np.stack([curve.lr, curve.lr / 10, narrow, np.zeros(len(curve))])

    pick = suggest(LRCurve(curve.lr, curve.loss, "diverged", group_lrs=groups))

    expected = (pick.lr, pick.lr / 10, 1e-6 * (pick.lr / curve.lr[0]) ** 0.5, 0.0)
    assert pick.group_lrs == pytest.approx(expected, rel=1e-9)


def test_group_rates_beyond_the_sweep_keep_the_last_ratio():
    """A rule may pick outside the sweep; the groups keep the ratio they had at its end."""
    curve = sweep(100)
    pick = suggest(LRCurve(curve.lr, curve.loss, "diverged", [curve.lr, curve.lr / 4]), lambda _: 100.0)

    assert pick.group_lrs == pytest.approx((100.0, 25.0))


# When not to trust it.


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (
            sweep(100, lr=[0.1] * 9, loss=[1.0] * 9),
            r"Too few points: 9, and at least 10 are needed\. Sweep in more steps",
        ),
        (LRCurve([], [], "interrupted"), r"Too few points: 0"),
        (flat(loss=[math.nan] * 100), r"not finite from the first step on\. Check the loss on one batch"),
        (flat(loss=[2.0] * 5 + [math.inf] * 95), r"Only 5 of 100 losses are finite .*Sweep from a lower start_lr"),
        (flat(lr=np.geomspace(0.1, 0.2, 100)), r"range 0\.1 to 0\.2 is too narrow: less than half a decade"),
        (flat(), r"never fell: from lr 1e-07 to 10 it stayed at 2\.\d+, but for noise\. Raise end_lr"),
        (flat(noise=0.0), r"never fell: .*holds the model's parameters"),
        (flat(noise=1e-9), r"never fell: .*holds the model's parameters"),
        (flat(loss=1 + np.geomspace(1e-7, 10, 100)), r"never fell before it blew up \(by lr .*diverged at once"),
        (flat(40, loss=2.0 ** np.arange(40), status="diverged"), r"diverged at once\. Sweep from a lower start_lr"),
        (flat(12, lr=np.geomspace(3, 5, 12), loss=2.0 ** np.arange(12), status="diverged"), r"diverged at once"),
        (flat(40, lr=np.full(40, 0.1), loss=2.0 ** np.arange(40), status="diverged"), r"diverged at once"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("rule", [None, "valley", lambda curve: 0.1])
def test_an_unusable_curve_gives_no_suggestion(curve, message, rule):
    """Whatever the rule: NoSuggestion, a ValueError, with the reason and what to change."""
    with pytest.raises(NoSuggestion, match=message):
        suggest(curve, rule)
    assert issubclass(NoSuggestion, ValueError)


def test_a_good_curve_gives_no_warning():
    """A warning means something: an ordinary curve has none."""
    assert suggest(sweep(100, 0.05, facts={"constant_loss": 2.29})).warnings == ()


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (sweep(100, end=0.05), r"ended at lr 0\.05 before the loss turned, .*Raise end_lr\."),
        (sweep(100, end=0.05, status="interrupted"), r"was interrupted at lr 0\.05\. Run it to its end"),
        (sweep(100, 1.2, seed=1), r"fell by only [\d.]+ standard errors .*\(repeats=\)\."),
        (sweep(100, facts={"constant_loss": 0.3}), r"not below 0\.3, what the best constant predictor gets"),
        (LRCurve.from_history({"lr": sweep().lr, "loss": sweep().loss}), r"smoothed by a moving average, .*raw losses"),
    ],
    ids=["range end", "interrupted", "noisy", "constant", "history"],
)
def test_warnings_say_what_to_do(curve, message):
    """Each doubt is one full sentence or two, the last with what to do about it."""
    found = suggest(curve).warnings

    assert any(re.search(message, warning) for warning in found), found


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        (0.00101, r"at the lower edge of the range \(0\.001\)\. Lower start_lr\."),
        (0.79, r"at the upper edge of the range \(0\.8\)\. Raise end_lr\."),
    ],
)
def test_a_pick_at_an_edge_is_said(lr, message):
    """A pick next to the first or the last rate of the sweep may lie outside."""
    rates = np.geomspace(1e-3, 0.8, 100)
    curve = LRCurve(rates, losses_at(rates), "range end")

    found = suggest(curve, lambda _: lr).warnings

    assert any(re.search(message, warning) for warning in found), found


def test_families_a_decade_apart_are_said():
    """A loss that falls early and stays low puts the steepest fall decades below the minimum."""
    lr = np.geomspace(1e-7, 10, 200)
    loss = 2.3 - 1.8 / (1 + (1e-5 / lr) ** 2) - 0.1 * np.log10(lr / 1e-7) / 8 + np.minimum((lr / 3) ** 3, 50)
    pick = suggest(LRCurve(lr[:185], loss[:185], "diverged"))

    assert any("Rules disagree by more than a decade (this pick" in warning for warning in pick.warnings)


# Rules by name, and of one's own.


def test_rules_by_name():
    """The registry holds ours and the peers'; each is a pure function of the curve."""
    assert list(RULES) == ["level", "steepest", "minimum", "steep", "valley", "slide", "lightning", "ignite"]
    curve = sweep(100, 0.05)
    for name, rule in RULES.items():
        pick = curve.suggest(name)
        assert (pick.rule, pick.lr) == (name, rule(curve))


@pytest.mark.parametrize("rule", ["steepst", 7])
def test_an_unknown_rule_is_refused_with_the_known_ones(rule):
    """A typo raises ValueError, not NoSuggestion, and lists the rules."""
    with pytest.raises(ValueError, match=r"rule must be one of level, steepest, .* got (7|'steepst')") as error:
        sweep(100).suggest(rule)
    assert not isinstance(error.value, NoSuggestion)


def test_a_rule_of_ones_own():
    """Any function from a curve to a rate is a rule, under its own name."""

    def half_of_the_last(curve: LRCurve) -> float:
        return float(curve.lr[-1]) / 2

    pick = sweep(100).suggest(half_of_the_last)

    assert (pick.rule, pick.lr) == ("half_of_the_last", sweep(100).lr[-1] / 2)


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_a_rule_that_returns_no_rate_is_refused(lr):
    """A rule of one's own that returns nan or a rate that is none is an error, not a suggestion."""

    def constant(_: LRCurve) -> float:
        return lr

    with pytest.raises(ValueError, match="must return a positive finite learning rate; 'constant' returned"):
        sweep(100).suggest(constant)


@given(
    losses=st.lists(ANY_LOSS, max_size=60), ratio=st.floats(1.0, 1e9), status=st.sampled_from(["diverged", "range end"])
)
def test_any_curve_gives_a_sound_suggestion_or_none(losses, ratio, status):
    """Any losses: NoSuggestion, or a pick within the sweep with low <= lr <= high, all finite."""
    lr = np.geomspace(1e-6, 1e-6 * ratio, len(losses)) if losses else []
    try:
        pick = suggest(LRCurve(lr, losses, status))
    except NoSuggestion:
        return
    assert 0 < pick.low <= pick.lr <= pick.high < math.inf
    assert lr[0] * (1 - 1e-9) <= pick.lr <= lr[-1] * (1 + 1e-9)
    assert all(0 <= rate < math.inf for rate in pick.group_lrs)


# The value itself.


@pytest.mark.parametrize("values", [(0.1, 0.2, 0.3), (0.1, 0.01, 0.05), (math.nan, 0.1, 0.2), (0.1, 0.0, 0.2)])
def test_a_suggestion_is_ordered(values):
    """low <= lr <= high, positive and finite, is checked when one is built; nan fails."""
    lr, low, high = values
    with pytest.raises(ValueError, match=r"needs 0 < low <= lr <= high, all finite; got low="):
        Suggestion(lr, low=low, high=high, rule="level")


def test_a_suggestion_is_a_number():
    """float(pick) is the rate, so it goes wherever a number does; evidence says what it rests on."""
    pick = suggest(sweep(100))

    assert float(pick) == pick.lr
    assert pick.steps_used == 0
    assert pick.evidence == "one sweep of 94 steps, lr 1e-07 to 3.3 (diverged), loss 2.3 to 0.528"


def test_a_notebook_shows_pick_range_evidence_and_warnings():
    """Each on a line, escaped, so that a rule's own name or a warning with < shows as it is."""
    pick = Suggestion(
        0.1, low=0.03, high=0.3, rule="<lambda>", warnings=("lr < 1e-3. Raise it.",), evidence="one sweep"
    )

    assert pick._repr_html_().split("<br>") == [
        "<b>max_lr 0.1</b>, rule &lt;lambda&gt;",
        "trust range 0.03 to 0.3",
        "one sweep",
        "&#9888; lr &lt; 1e-3. Raise it.",
    ]
