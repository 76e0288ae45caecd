"""The end-to-end experiment: that everybody does the same task, what is counted, that its record can be written."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from experiments import end_to_end, ways
from experiments.end_to_end import CASES, QUICK, Case, Try
from experiments.tasks import TASKS
from experiments.tasks.optimizers import adam
from experiments.ways import WAYS, PerToken, Start, Validation, Watch, Way
from lrfind.workload import Workload

EPOCHS = 4


class Tiny(Start):
    """Three clusters, 100 batches an epoch; keeps the last model that it gave."""

    def work(self) -> Workload:
        draw = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 4, (600,), generator=draw)
        data = TensorDataset(torch.randn(600, 5, generator=draw) + labels[:, None] % 3, labels)
        torch.manual_seed(self.seed)
        model = nn.Linear(5, 4)
        object.__setattr__(self, "model", model)
        order = torch.Generator().manual_seed(self.seed)
        return Workload(
            model,
            self.optimizer(model.parameters()),
            nn.CrossEntropyLoss(),
            DataLoader(data, 6, shuffle=True, generator=order),
            DataLoader(data, 400),
        )


def tiny() -> Tiny:
    return Tiny("tiny", adam(), EPOCHS, 0)


def go(way: Way, target: float) -> tuple[Watch, Tiny]:
    if (reason := way.missing()) is not None:
        pytest.skip(reason)
    start = tiny()
    with end_to_end._quiet(), Watch(target) as watch:
        way.go(start, watch)
    return watch, start


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_everybody_trains_to_the_planned_length(way):
    """Without a target within reach: 4 validations 100 steps apart behind the search, which has a pick."""
    watch, _ = go(way, target=2.0)

    runs = 10 if "Optuna" in way.name else 1
    assert EPOCHS <= len(watch.validations) <= runs * EPOCHS
    assert watch.max_lr > 0
    last = watch.validations[-EPOCHS:]
    if runs == 1:
        assert [each.steps - watch.search_steps for each in last] == [100, 200, 300, 400]
    assert all(before.cpu <= after.cpu for before, after in itertools.pairwise(last))


@pytest.mark.parametrize("way", [way for way in WAYS if "schedule-free" not in way.name], ids=lambda way: way.name)
def test_the_accuracy_seen_is_that_of_the_model(way):
    """What a tool reports of its last validation is what the trained model does on those data."""
    watch, start = go(way, target=2.0)

    told = watch.validations[-1].accuracy
    assert ways.accuracy(start.model, tiny().work().val_loader) == pytest.approx(told, abs=1e-6)
    assert told > 0.3


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_everybody_stops_at_the_first_validation_that_reaches_the_target(way):
    """With a target that every validation reaches there is one, after one epoch."""
    watch, _ = go(way, target=0.0)

    assert len(watch.validations) == 1
    assert watch.validations[0].steps - watch.search_steps == 100


@pytest.mark.parametrize("case", [*CASES, *QUICK], ids=lambda case: case.task)
def test_the_optimizer_is_the_tasks_own(case, data_root, monkeypatch):
    """Those who make the optimizer afresh get what the task has."""
    monkeypatch.setenv("LRFIND_DATA", str(data_root))
    task = TASKS[case.task]
    if (reason := task.missing()) is not None:
        pytest.skip(reason)
    theirs, ours = task.make(0).optimizer, case.optimizer(nn.Linear(1, 1).parameters())

    assert type(theirs) is type(ours)
    assert theirs.defaults == ours.defaults


def test_the_target_is_a_share_of_the_gain_of_the_best():
    """All of the gain is the best score on record; none of it is the constant predictor's."""
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra examples, is not installed")
    case = CASES[0]

    assert case.target(0.0) == TASKS[case.task].constant_score()
    assert case.target(1.0) == pytest.approx(0.9754, abs=1e-3)


def test_the_loss_of_a_text_is_the_mean_over_its_positions():
    """Sequences of logits are flattened, images are as they were."""
    logits, targets = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5))

    each = torch.stack([nn.functional.cross_entropy(logits[:, at], targets[:, at]) for at in range(5)])
    assert PerToken()(logits, targets) == pytest.approx(each.mean())
    assert PerToken()(logits[:, 0], targets[:, 0]) == pytest.approx(each[0])


def one(seed: int, *accuracies: float, way: str = WAYS[0].name) -> Try:
    seen = tuple(Validation(index, 2.0 * index, 10 * index, each) for index, each in enumerate(accuracies, start=1))
    return Try("case", way, seed, 0.8, seen, 0.1, 5)


def test_a_seed_that_never_reaches_the_target_is_not_averaged_in():
    """It counts as infinite; what it spent stands apart."""
    (line,) = end_to_end.lines([one(0, 0.5, 0.9), one(1, 0.5, 0.7, 0.75), one(2, 0.8)], "case")

    assert (line.cpu, line.wall, line.steps) == ([2, math.inf, 1], [4, math.inf, 2], [20, math.inf, 10])
    assert line.share == pytest.approx(2 / 3)
    assert line.spent == 3


def test_a_tool_that_gives_up_is_a_result(monkeypatch):
    """What it raised is kept, and the others go on."""
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra examples, is not installed")

    def give_up(start, watch):
        raise RuntimeError("no lr")

    tried = end_to_end.attempt(QUICK[0], Way("who", "peer", give_up), 0, 0.9)

    assert (tried.failure, tried.validations, tried.reached()) == ("RuntimeError: no lr", (), None)


def test_a_quick_run_writes_table_picture_and_numbers(tmp_path, monkeypatch):
    """From the command line on; who is not installed, and a case without its data, are named with the reason."""
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra examples, is not installed")
    monkeypatch.delenv("LRFIND_DATA", raising=False)
    monkeypatch.setattr(end_to_end, "QUICK", (*QUICK, Case("clothes", "fashion-cnnbn-sgd-b64", adam())))

    end_to_end.main(["--quick", "--out", str(tmp_path)])

    text = (tmp_path / "end_to_end.md").read_text(encoding="utf-8")
    assert "command: `" in text
    assert "clothes (FashionMNIST is read from a data root" in text
    for way in WAYS:
        assert way.name in text
        assert (way.missing() or "") in text
    record = json.loads((tmp_path / "end_to_end.json").read_text(encoding="utf-8"))
    assert len(record["tries"]) == sum(way.missing() is None for way in WAYS)
    assert (tmp_path / "end_to_end.png").stat().st_size > 10_000


def test_a_record_can_be_drawn_again(tmp_path):
    """From its numbers alone, with what somebody wrote about them above the tables."""
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra examples, is not installed")
    case = QUICK[0]
    tries = [replace(one(seed, 0.5, 0.99, way=way.name), case=case.title) for seed in (0, 1) for way in WAYS[:2]]
    record = {"facts": {"runs": 4}, "skipped": {}, "tries": [end_to_end._as_json(each) for each in tries]}
    (tmp_path / "end_to_end.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "reading.md").write_text("A tie.\n", encoding="utf-8")

    end_to_end.main(["--redraw", "--out", str(tmp_path)])

    text = (tmp_path / "end_to_end.md").read_text(encoding="utf-8")
    assert "A tie." in text
    assert "| **onecycle.fit, auto** | 100% | 2 | 4 | 20 |" in text
    assert json.loads((tmp_path / "end_to_end.json").read_text(encoding="utf-8")) == record
