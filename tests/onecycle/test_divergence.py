"""Runs that leave the range of their loss: when that is, what is kept of them, and how they begin again."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lrfind import Suggestion, Workload
from onecycle import Run, checkpoint, fit
from onecycle.divergence import Diverged, Divergence

pytestmark = pytest.mark.usefixtures("no_pictures")


def stop_at(losses: Any, **settings: Any) -> int | None:
    """Return the index of the loss at which the rule ends a run; None if it does not."""
    rule = Divergence(len(losses), **settings)
    for index, loss in enumerate(losses):
        try:
            rule.judge(float(loss))
        except Diverged:
            return index
    return None


def learning(steps: int, noise: float, seed: int = 0) -> np.ndarray:
    """Return losses that fall from 2.3 to 0.3, with noise."""
    random = np.random.default_rng(seed)
    return 0.3 + 2 * np.exp(-np.arange(steps) / (steps / 5)) + noise * random.standard_normal(steps)


@pytest.mark.parametrize("steps", [30, 300, 3000])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.3])
def test_learning_goes_on(steps: int, noise: float):
    """Neither noise nor a spike of two steps ends a run."""
    losses = learning(steps, noise)
    losses[steps // 2 : steps // 2 + 2] = 1e6
    assert stop_at(losses) is None


@pytest.mark.parametrize("steps", [30, 300, 3000])
def test_a_blow_up_ends_the_run_soon(steps: int):
    """Within half a window of 2 % of the run, at least three steps and at most 26."""
    losses = learning(steps, 0.1)
    losses[steps // 2 :] = 100.0
    late = stop_at(losses) - steps // 2
    assert late <= max(2, min(0.01 * steps, 25))


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.integers(0, 5))
def test_only_differences_count(scale: float, shift: float, seed: int):
    """loss and scale * loss + shift end at the same step, whatever the sign."""
    losses = learning(100, 0.1, seed)
    losses[60:] += 0.5 * np.arange(40)
    assert stop_at(scale * losses + shift) == stop_at(losses)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_trap_7_three_losses_that_are_no_numbers(bad: float):
    """Two in a row are passed over, three end it, also as the first ones."""
    losses = learning(100, 0.1)
    losses[[10, 11, 20, 22]] = bad
    assert stop_at(losses) is None
    losses[30:33] = bad
    assert stop_at(losses) == 32
    assert stop_at([bad] * 5) == 2


def test_trained_weights_may_lose_what_they_had():
    """A run that begins below the loss of a constant prediction may rise to it; without that knowledge it is ended."""
    losses = 0.05 + 0.01 * np.random.default_rng(0).standard_normal(100)
    losses[30:60] += 1.0
    assert stop_at(losses) is not None
    assert stop_at(losses, level=1.1) is None
    losses[60:] = 9.0
    assert stop_at(losses, level=1.1) == 62


@pytest.mark.parametrize("known", [True, False])
def test_a_run_learns_from_its_targets_what_it_may_lose(known: bool):
    """A classifier that is sure of itself, and meets wrong labels for a while, is not ended for that."""
    torch.manual_seed(0)
    model = nn.Linear(3, 3, bias=False)
    model.weight.data = 4.5 * torch.eye(3)
    labels = torch.randint(0, 3, (100, 40))
    batches = [(nn.functional.one_hot(each, 3).float(), each.clone()) for each in labels]
    for _, targets in batches[40:60]:
        targets[:16] = (targets[:16] + 1) % 3
    loss = nn.CrossEntropyLoss() if known else nn.CrossEntropyLoss(label_smoothing=1e-9)
    run = fit(
        Workload(model, torch.optim.SGD(model.parameters(), 0.1), loss, batches),
        epochs=1,
        max_lr=1e-9,
        progress=False,
    )
    assert 1.5 < max(run.history["loss"]) < 3
    assert run.status == ("finished" if known else "diverged")


def test_how_many_losses_were_well():
    """Up to the last one within the range."""
    rule = Divergence(100)
    losses = [*learning(100, 0.1)[:40], 50.0, 60.0]
    for loss in losses:
        rule.judge(loss)
    assert rule.well == 40
    rule.judge(1.0)
    assert rule.well == 43


def make_regression(*, groups: bool = False, **settings: Any) -> Workload:
    """Return a regression that training with a max_lr of 0.1 and more blows up."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.1), nn.Linear(16, 1))
    x = torch.randn(96, 6)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    parameters: Any = model.parameters()
    if groups:
        parameters = [{"params": model[0].parameters(), "lr": 0.07}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    return Workload(
        model, optimizer, nn.MSELoss(), DataLoader(data, 16, shuffle=True), DataLoader(data, 96), **settings
    )


def train(work: Workload, max_lr: Any, **settings: Any) -> Run:
    """Train for 40 steps, passes of six, with the seed set."""
    torch.manual_seed(7)
    return fit(work, total_steps=40, max_lr=max_lr, progress=False, **settings)


def weights(work: Workload) -> list[Tensor]:
    """Return the parameters and the optimizer's momenta."""
    return [*work.model.parameters(), *(entry["momentum_buffer"] for entry in work.optimizer.state.values())]


def test_a_given_peak_stops_with_the_last_good_weights(tmp_path: Path):
    """They are those of the checkpoint before the loss rose, optimizer and averages included; the notes say which."""
    work = make_regression()
    run = train(work, 0.3, out_dir=tmp_path, ema_decay=0.5)
    assert run.status == "diverged"
    assert run.retries == ()
    assert "failed at step 10: the loss rose to" in run.notes[0]
    assert run.notes[0].endswith("Stopped, with the weights of step 6; try max_lr=0.1.")
    reference = make_regression()
    short = train(reference, 0.3, ema_decay=0.5, callbacks=[lambda row: row["step"] == 6])
    assert all(map(torch.equal, weights(work), weights(reference)))
    assert work.optimizer.param_groups[0]["lr"] == reference.optimizer.param_groups[0]["lr"]
    assert all(map(torch.equal, run.ema_model.state_dict().values(), short.ema_model.state_dict().values()))
    assert run.history["loss"][-1] > 1e6
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "diverged"


def test_weights_that_are_saved_in_the_middle_of_a_blow_up_are_not_good():
    """With a pause after every step, those are given back whose next loss was still within the range."""
    work = make_regression()
    run = train(work, 0.3, validate_every=1)
    step = int(run.notes[0].partition("weights of step ")[2].partition(";")[0])
    losses = run.history["loss"]
    assert losses[step] < 3 * losses[0]
    assert losses[step + 1] > 3 * losses[0]
    assert work.evaluate()["loss"] < 3 * losses[0]


class _LastGradient(torch.autograd.Function):
    """The loss as it is, with a gradient of NaN."""

    @staticmethod
    def forward(_: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


def test_weights_that_are_no_numbers_are_noticed_without_a_loss_that_tells():
    """The last step of all spoils them: the run has not finished, and weights from before are back."""
    work = make_regression()
    calls: list[int] = []
    mse = nn.MSELoss()

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        loss = mse(model(batch[0]), batch[1])
        return _LastGradient.apply(loss) if model.training and sum(calls) >= 46 else loss

    work.criterion, work.loss_fn = None, loss_fn
    run = train(work, 0.01)
    assert (run.status, run.history.rows) == ("diverged", 40)
    assert "the weights are not finite any more" in run.notes[0]
    assert all(p.isfinite().all() for p in work.model.parameters())


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("settings", [{}, {"groups": True}, {"groups": True, "clip_grad_norm": 1e9}])
def test_a_retry_is_a_run_with_a_third_of_the_peak(folder: bool, settings: dict[str, Any], tmp_path: Path):
    """Bit for bit, and nothing is left of the attempts before but their record."""
    work, reference = make_regression(**settings), make_regression(**settings)
    run = train(work, 0.3, on_divergence="retry", out_dir=tmp_path / "run" if folder else None, ema_decay=0.5)
    expected = train(reference, 0.3 / 3 / 3, ema_decay=0.5)
    assert run.status == "finished"
    assert [retry.max_lr for retry in run.retries] == [0.3, 0.3 / 3]
    assert run.retries[0].step == 10
    assert run.max_lr == 0.3 / 3 / 3
    assert [run.history.row(i) for i in range(40)] == [expected.history.row(i) for i in range(40)]
    assert all(map(torch.equal, weights(work), weights(reference)))
    assert all(map(torch.equal, run.ema_model.state_dict().values(), expected.ema_model.state_dict().values()))
    if folder:
        rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, 41))
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert [retry["max_lr"] for retry in summary["retries"]] == [0.3, 0.3 / 3]
        assert json.loads((tmp_path / "run" / "config.json").read_text())["max_lr"] == 0.3 / 3 / 3


def test_a_retry_with_peaks_for_each_group():
    """A list is lowered as a whole."""
    run = train(make_regression(groups=True), [0.3, 0.15], on_divergence="retry")
    assert run.status == "finished"
    assert run.cycle.max_lr == (0.3 / 3, 0.15 / 3)


def test_at_most_three_retries(capsys: pytest.CaptureFixture[str]):
    """A fourth failure is the end; each is told."""
    torch.manual_seed(7)
    run = fit(make_regression(), total_steps=40, max_lr=30.0, on_divergence="retry")
    assert run.status == "diverged"
    assert [round(retry.max_lr, 2) for retry in run.retries] == [30.0, 10.0, 3.33]
    assert run.max_lr == pytest.approx(30 / 27)
    told = capsys.readouterr().out
    assert "max_lr 30 failed at step 6: the weights are not finite any more. Beginning again with max_lr 10." in told
    assert told.count("Beginning again") == 3
    assert "try max_lr=0.37." in told


def test_a_picked_peak_is_retried_by_default(monkeypatch: pytest.MonkeyPatch):
    """And a given one is not, unless asked for; a picked one stops if asked to."""
    pick = Suggestion(0.3, 0.1, 0.9, "level")
    monkeypatch.setattr(
        "onecycle.loop.pick_with_curve", lambda *_, **__: type("P", (), {"suggestion": pick, "curve": None})
    )
    assert len(train(make_regression(), "auto").retries) == 2
    assert train(make_regression(), "auto", on_divergence="stop").status == "diverged"
    assert train(make_regression(), 0.3).status == "diverged"


def test_a_run_resumed_in_the_middle_of_a_retry_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In any of its attempts, also where the kill came in the one that fails, or right between two."""
    monkeypatch.setattr(checkpoint, "KEEP", 1000)
    reference = make_regression()
    expected = train(reference, 0.3, on_divergence="retry")
    copies: list[Path] = []

    def keeps(row: Any) -> None:
        if row["step"] in (1, 4, 7, 9, 13, 14, 20, 38):
            copies.append(tmp_path / f"{len(copies)}")
            shutil.copytree(tmp_path / "run", copies[-1], ignore=shutil.ignore_patterns("*.partial"))

    settings = {"on_divergence": "retry", "checkpoint_every": 2}
    train(make_regression(), 0.3, out_dir=tmp_path / "run", callbacks=[keeps], **settings)
    assert len(copies) == 4 + 6 + 8
    for folder in copies:
        work = make_regression()
        run = train(work, 0.3, out_dir=folder, resume="auto", **settings)
        assert run.retries == expected.retries
        assert [run.history.row(i) for i in range(40)] == [expected.history.row(i) for i in range(40)]
        assert all(map(torch.equal, weights(work), weights(reference)))


def test_a_diverged_extension_goes_back_to_where_it_began(tmp_path: Path):
    """Not to the start of the run: the first cycle stays."""
    train(make_regression(), 0.03, out_dir=tmp_path)
    torch.manual_seed(7)
    settings = {"out_dir": tmp_path, "resume": "extend", "on_divergence": "retry", "progress": False}
    run = fit(make_regression(), total_steps=70, max_lr=0.6, **settings)
    assert run.status == "finished"
    assert run.retries
    assert run.history["step"] == list(range(1, 71))
    assert run.history["lr"][:40] == train(make_regression(), 0.03).history["lr"]
