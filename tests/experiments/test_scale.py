"""The scale page: formulas at points worked out by hand, and a page that is what the code prints."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import lrfind
from experiments import scale, scale_ranks
from experiments.scale import H100, PARAMETERS, RANKS, Machine
from lrfind.preserve import Snapshot, preserve
from onecycle import auto

# Round numbers, so that seconds can be worked out in one's head.
ROUND = Machine(
    memory=100.0,
    hbm=10.0,
    pcie=2.0,
    nvlink=4.0,
    network=1.0,
    disk=3.0,
    delay=0.5,
    flops=20.0,
    reached=0.5,
    node=2,
    tokens=5,
)


@pytest.mark.parametrize(
    ("computed", "by_hand"),
    [
        (scale.state(6, 3, sharded=False, started=False), 24),
        (scale.state(6, 3, sharded=True, started=True), 24),
        (scale.copying(5, 3, machine=ROUND), 3),  # 3 times 5 bytes read and written at 10 bytes a second
        (scale.copying(5, 3, where="cpu", machine=ROUND), 7.5),
        (scale.agreeing(25, 5, machine=ROUND), 6),  # 3 blocks of 10 steps, 4 hops of half a second each
        (scale.agreeing(25, 5, every=1, machine=ROUND), 50),
        (scale.exchanging(3, 2, sharded=False, machine=ROUND), 3),  # 24 bytes, half of them, at 4 bytes a second
        (scale.exchanging(3, 4, sharded=False, machine=ROUND), 18),  # three quarters, over the network
        (scale.exchanging(3, 4, sharded=True, machine=ROUND), 18),  # 2 x 2 + 4 bytes
        (scale.stepping(4, 1, sharded=False, machine=ROUND), 12),  # 120 operations at 10 a second
        (scale.stepping(4, 4, sharded=False, machine=ROUND), 24),  # the exchange takes longer
        (scale.checkpoint(1, 4, sharded=False, machine=ROUND), (6, 4)),
        (scale.checkpoint(1, 4, sharded=True, machine=ROUND), (1.5, 2)),
        (scale.fewest_ranks(19, copy_on_device=True, machine=ROUND), 4),
        (scale.fewest_ranks(12, copy_on_device=False, machine=ROUND), 2),
    ],
)
def test_formulas(computed, by_hand):
    """At points that were worked out without the code."""
    assert computed == pytest.approx(by_hand)


@pytest.mark.parametrize("started", [False, True])
def test_the_copy_holds_what_the_formula_says(started):
    """Of a real sweep: bytes of the tensors that a snapshot clones, for Adam before and after its first step."""
    model = nn.Linear(100, 100, bias=False)
    optimizer = torch.optim.Adam(model.parameters())
    batch = (torch.ones(2, 100), torch.ones(2, 100))
    work = lrfind.Workload(model, optimizer, nn.MSELoss(), [batch])
    if started:
        work.step([batch])
    cloned: list[int] = []
    clone = torch.Tensor.clone

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        cloned.append(tensor.numel() * tensor.element_size())
        return clone(tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "clone", counted)
        with preserve(work):
            pass

    steps = 4 * started  # Adam counts them in a tensor
    assert sum(cloned) == scale.state(10_000, 1, sharded=False, started=started) + steps


@pytest.mark.parametrize("total_steps", [1000, 3000])
def test_a_search_spends_what_the_page_says(total_steps):
    """Of a real search: at most so many steps and pilots, and as many copies as pilots call for."""
    spent = scale.search("auto", total_steps)
    restores: list[int] = []
    restore = Snapshot.restore
    generator = torch.Generator().manual_seed(0)
    batches = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(20, 16, 3, generator=generator)]
    model = nn.Linear(3, 1)
    work = lrfind.Workload(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), batches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Snapshot, "restore", lambda *given, **named: (restores.append(1), restore(*given, **named)))
        pick = auto.pick_with_curve(work, total_steps=total_steps, method="auto", cycle=None, progress=False)

    assert pick.suggestion.steps_used <= spent.steps
    assert len(pick.pilots) <= scale.PILOTS
    assert len(restores) + 2 == len(pick.pilots) + 4 <= spent.passes  # two copies taken


def test_the_page_is_what_the_code_prints():
    """The page in the repository: from the formulas as they are, and from what is in measured.json."""
    measured = json.loads((scale.RESULTS / "measured.json").read_text(encoding="utf-8"))

    assert (scale.RESULTS / "scale.md").read_text(encoding="utf-8") == scale.page(measured)
    assert [line["ranks"] for line in measured["lines"]] == list(scale_ranks.RANKS)
    assert measured["rounds"] >= 5


def test_page_and_picture_are_written(tmp_path, capsys):
    """From the command line on, without anything measured."""
    scale.main(["--out", str(tmp_path)])

    text = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert "Nothing yet: `python -m experiments.scale --measure`." in text
    for name in PARAMETERS:
        assert text.count(f"| {name}") == 4
    assert text.count(" ranks |") >= 3 * (len(RANKS) - 1)
    assert text in capsys.readouterr().out
    assert (tmp_path / "scale.png").stat().st_size > 1000


def test_what_is_computed_says_so():
    """Every table of computed numbers stands under a heading that calls them so, and measured ones apart."""
    headings = [line for line in scale.page(None).splitlines() if line.startswith("## ")]

    assert headings[0] == "## Formulas"
    assert headings[-1] == "## Measured"
    assert all(heading.startswith("## Computed: ") for heading in headings[1:-1])


def test_few_rounds_are_refused(capsys):
    """A median of fewer than 5 is not reported."""
    with pytest.raises(SystemExit):
        scale.main(["--rounds", "3"])

    assert "--rounds must be at least 5; got 3" in capsys.readouterr().err


def test_larger_models_are_sharded():
    """DDP as far as one rank holds training and copy: 20 bytes a parameter in 80 GB."""
    assert [name for name, count in PARAMETERS.items() if scale.sharded_at(count, H100)] == ["7B", "70B"]
