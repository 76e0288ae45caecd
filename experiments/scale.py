"""What do a sweep, its pilots and checkpoints cost for 1M to 70B parameters on 1 to 1,024 ranks?

``python -m experiments.scale`` works it out from the formulas below and writes page and picture to
``experiments/results/scale/``. ``python -m experiments.scale --measure`` first takes what can be measured on this
machine, as 1, 2 and 4 processes over gloo, and keeps it in ``measured.json`` there; the page shows both, apart.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.machine import as_markdown
from experiments.scale_ranks import measure
from lrfind.palette import LR, METRIC, MOMENTUM, TRAIN_LOSS
from lrfind.sweep import BLOCK
from onecycle import auto
from onecycle.checkpoint import KEEP

RESULTS = Path(__file__).parent / "results" / "scale"
PARAMETERS = {"1M": 1e6, "10M": 1e7, "100M": 1e8, "1B": 1e9, "7B": 7e9, "70B": 7e10}
RANKS = (1, 8, 64, 256, 1024)
SWEEP_STEPS, RUN_STEPS = 100, 10_000
PILOTS = 5  # at most

# Bytes a parameter, in float32: the weights; with Adam's two moments, which are there from its first step on; with
# the gradient too.
WEIGHTS, STATE, TRAINING = 4, 12, 16
# Gathered for a forward or a backward pass in bfloat16; the gradient is scattered in float32.
GATHERED = 2
GIGABYTE = 1e9


@dataclass(frozen=True)
class Machine:
    """What the formulas are filled in with. Bandwidths in bytes a second, one way, of one rank.

    Source:
        NVIDIA's data sheets of H100 SXM5 (memory, its bandwidth, bfloat16 without sparsity, PCIe 5.0 x16 and half of
        NVLink's two ways) and DGX H100 (one 400 Gb/s adapter for each of 8 GPUs). Assumed: the share of the
        arithmetic that is reached, the disk of a node, the delay of a message, the batch.
    """

    memory: float = 80e9
    hbm: float = 3.35e12
    pcie: float = 64e9
    nvlink: float = 450e9
    network: float = 50e9
    disk: float = 8e9  # of a node
    delay: float = 5e-6  # seconds from rank to rank
    flops: float = 989e12
    reached: float = 0.4
    node: int = 8
    tokens: int = 8192  # of a rank, in a step

    def link(self, ranks: int) -> float:
        """Return the bandwidth between ranks: NVLink within a node, the network beyond."""
        return self.nvlink if ranks <= self.node else self.network


H100 = Machine()


def state(parameters: float, ranks: int, *, sharded: bool, started: bool) -> float:
    """Return what a rank copies, in bytes: its weights, and the optimizer's state where it has one already.

    >>> state(1e9, 64, sharded=False, started=False), state(1e9, 64, sharded=True, started=True)
    (4000000000.0, 187500000.0)
    """
    return (STATE if started else WEIGHTS) * parameters / (ranks if sharded else 1)


def fits(parameters: float, ranks: int, *, sharded: bool, copy_on_device: bool, machine: Machine = H100) -> bool:
    """Tell whether training and the copy of a sweep at its start fit a rank's memory, activations left out."""
    need = TRAINING * parameters / (ranks if sharded else 1)
    if copy_on_device:
        need += state(parameters, ranks, sharded=sharded, started=False)
    return need <= machine.memory


def fewest_ranks(parameters: float, *, copy_on_device: bool, machine: Machine = H100) -> int:
    """Return the smallest power of two of ranks over which sharded training and its sweep fit.

    >>> fewest_ranks(7e10, copy_on_device=True), fewest_ranks(7e10, copy_on_device=False), fewest_ranks(1e9, \
copy_on_device=True)
    (32, 16, 1)
    """
    ranks = 1
    while not fits(parameters, ranks, sharded=True, copy_on_device=copy_on_device, machine=machine):
        ranks *= 2
    return ranks


def copying(held: float, passes: int, *, where: str = "device", machine: Machine = H100) -> float:
    """Return the seconds for taking a copy or putting it back, ``passes`` times.

    On the device each byte is read and written; to and from the CPU it passes PCIe.

    >>> copying(67e9, 1), copying(64e9, 2, where="cpu")
    (0.04, 2.0)
    """
    return passes * (2 * held / machine.hbm if where == "device" else held / machine.pcie)


def agreeing(steps: int, ranks: int, *, every: int = BLOCK, machine: Machine = H100) -> float:
    """Return the seconds in which the ranks tell each other their losses around a ring, ``every`` so many steps.

    Range tests and pilots do so once in 10 steps on an accelerator, and in each on a CPU.

    >>> agreeing(100, 1), round(agreeing(100, 1024), 4), round(agreeing(100, 1024, every=1), 4)
    (0.0, 0.0512, 0.5115)
    """
    return math.ceil(steps / every) * (ranks - 1) * machine.delay


def exchanging(parameters: float, ranks: int, *, sharded: bool, machine: Machine = H100) -> float:
    """Return the seconds for gradients, and of shards weights, to travel once a step; training's, not the sweep's.

    DDP adds gradients up around a ring: each rank sends 2 (n - 1) / n of them. FSDP2 gathers weights twice and
    scatters gradients once, (n - 1) / n of each.

    Source:
        Patarasuk and Yuan, Journal of Parallel and Distributed Computing 69 (2009); ZeRO, arXiv:1910.02054, section 7.
    """
    each = (2 * GATHERED + WEIGHTS) if sharded else 2 * WEIGHTS
    return each * parameters * (ranks - 1) / ranks / machine.link(ranks)


def stepping(parameters: float, ranks: int, *, sharded: bool, machine: Machine = H100) -> float:
    """Return the seconds of a training step: arithmetic, or the exchange where that is longer than its shadow.

    Source:
        6 operations a parameter and token: Kaplan et al., arXiv:2001.08361, table 1.
    """
    arithmetic = 6 * parameters * machine.tokens / (machine.reached * machine.flops)
    return max(arithmetic, exchanging(parameters, ranks, sharded=sharded, machine=machine))


def sharded_at(parameters: float, machine: Machine = H100) -> bool:
    """Tell whether a model is too large for DDP, under which each rank holds all of it."""
    return not fits(parameters, 1, sharded=False, copy_on_device=True, machine=machine)


@dataclass(frozen=True)
class Search:
    """What ``auto`` or ``refine`` spends on a run at most: steps, and how often state is copied."""

    steps: int
    passes: int


def search(method: auto.Method, run_steps: int) -> Search:
    """Return what a search may spend, by the rules of ``onecycle.auto``.

    The range test takes a copy and puts it back; the pilots take one, go back to it before each, and after all.

    >>> search("auto", 10_000)
    Search(steps=1100, passes=9)
    """
    return Search(auto._budget(run_steps, method), 2 + PILOTS + 2)


def checkpoint(parameters: float, ranks: int, *, sharded: bool, machine: Machine = H100) -> tuple[float, float]:
    """Return the seconds for which a checkpoint holds up training, and for which it is written behind it.

    Held up: state goes to the CPU. Written: under DDP by the first rank, on one node's disk; of shards each node
    writes its own.
    """
    own = state(parameters, ranks, sharded=sharded, started=True)
    writers = max(1, ranks // machine.node) if sharded else 1
    return own / machine.pcie, STATE * parameters / writers / machine.disk


def added_by_sweep(parameters: float, ranks: int, *, sharded: bool, machine: Machine = H100) -> float:
    """Return the seconds that a range test takes beside its training steps."""
    held = state(parameters, ranks, sharded=sharded, started=False)
    return copying(held, 2, machine=machine) + agreeing(SWEEP_STEPS, ranks, machine=machine)


def added_by_search(parameters: float, ranks: int, spent: Search, *, sharded: bool, machine: Machine = H100) -> float:
    """Return the seconds that a search takes beside its training steps."""
    held = state(parameters, ranks, sharded=sharded, started=False)
    return copying(held, spent.passes, machine=machine) + agreeing(spent.steps, ranks, machine=machine)


def page(measured: dict[str, Any] | None, machine: Machine = H100) -> str:
    """Return the page as markdown."""
    largest, spent, short = PARAMETERS["70B"], search("auto", RUN_STEPS), search("auto", 1000)
    held = state(largest, 64, sharded=True, started=False)
    steps = SWEEP_STEPS * stepping(largest, 64, sharded=True, machine=machine)
    parts = [
        "# Scale",
        (__doc__ or "").split("\n\n")[0],
        "Most of this page is **computed**: formulas, filled in with the numbers of one kind of machine. What was "
        "**measured**, on a small one, stands in a section of its own at the end. In short: what a sweep costs is "
        f"its training steps. For 70B parameters sharded over 64 ranks its copy holds {_bytes(held)} a rank, takes "
        f"{_seconds(copying(held, 2, machine=machine))} to make and put back, and {SWEEP_STEPS} steps take "
        f"{_seconds(steps)}. What grows with the model is the memory of the copy (a quarter of what training "
        "holds) and, under DDP, the checkpoint that one rank writes for all; what grows with the ranks is the time "
        "in which they tell each other their losses, which shows beside small models.",
        "## Formulas",
        _formulas(machine),
        "Arithmetic is that of a transformer; starting kernels, loading data and activations are left out, so that "
        "models below 100M parameters take longer than this in truth.",
        "## Computed: what the copy holds",
        "Bytes a rank, before the first step (weights) and in mid-run (Adam's moments too). Ranks: the fewest, by "
        'powers of two, over which sharded training fits with the copy on the device, and with `snapshot="cpu"`.',
        _copies(machine),
        f"## Computed: a range test of {SWEEP_STEPS} steps",
        "Its steps, which are training steps, and in brackets what it adds to them: copies on the device and the "
        f"losses that ranks tell each other. DDP up to {_largest_ddp(machine)} parameters, FSDP2 above; –: does "
        "not fit.",
        _over_ranks(
            lambda count, ranks, sharded: _with_added(
                SWEEP_STEPS * stepping(count, ranks, sharded=sharded, machine=machine),
                added_by_sweep(count, ranks, sharded=sharded, machine=machine),
            ),
            machine,
        ),
        f'## Computed: `max_lr="auto"` for a run of {RUN_STEPS:,} steps',
        f"At most {spent.steps:,} steps ({spent.steps / RUN_STEPS:.0%} of the run), most of them in pilots, of which "
        f"there are {PILOTS} at most, and {spent.passes} copies taken or put back; for a run of 1,000 steps "
        f"{short.steps} steps. In brackets what copies and losses told add.",
        _over_ranks(
            lambda count, ranks, sharded: _with_added(
                spent.steps * stepping(count, ranks, sharded=sharded, machine=machine),
                added_by_search(count, ranks, spent, sharded=sharded, machine=machine),
            ),
            machine,
        ),
        "## Computed: a checkpoint",
        "Seconds for which training is held up, and in brackets for which it is written behind it. "
        f"{STATE} bytes a parameter; {KEEP} checkpoints and the start lie on the disk, and one more while it is "
        "written.",
        _over_ranks(
            lambda count, ranks, sharded: "{} ({})".format(
                *map(_seconds, checkpoint(count, ranks, sharded=sharded, machine=machine))
            ),
            machine,
        ),
        "![Seconds of a range test's steps, what it adds, and a checkpoint, over parameters](scale.png)",
        "## Measured",
        _measured(measured),
    ]
    return "\n\n".join(parts) + "\n"


def _copies(machine: Machine) -> str:
    columns = ["parameters", "copy, 1 rank", "in mid-run", "of 64 ranks, sharded", "in mid-run", "training"]
    rows = []
    for name, count in PARAMETERS.items():
        copies = [
            _bytes(state(count, ranks, sharded=ranks > 1, started=started))
            for ranks in (1, 64)
            for started in (False, True)
        ]
        fewest = [str(fewest_ranks(count, copy_on_device=on_device, machine=machine)) for on_device in (True, False)]
        rows.append([name, *copies, _bytes(TRAINING * count), *fewest])
    return _table([*columns, "ranks", 'ranks, "cpu"'], rows)


def _with_added(steps: float, added: float) -> str:
    return f"{_seconds(steps)} (+ {_seconds(added)})"


def _largest_ddp(machine: Machine) -> str:
    return [name for name, count in PARAMETERS.items() if not sharded_at(count, machine)][-1]


def _formulas(machine: Machine) -> str:
    rows = [
        [
            "copy held, a rank",
            f"{WEIGHTS} bytes a parameter, {STATE} once Adam has stepped; shards: divided by the ranks",
        ],
        ["training held, a rank", f"{TRAINING} bytes a parameter (weights, gradient, Adam), without activations"],
        ["taking or putting back", '2 × copy / memory bandwidth; `snapshot="cpu"`: copy / PCIe'],
        ["telling the losses", f"(ranks − 1) × delay, once in {BLOCK} steps of a range test or a pilot"],
        ["exchange a step, DDP", f"2 × {WEIGHTS} bytes × (ranks − 1) / ranks / link, as in a ring"],
        ["exchange a step, FSDP2", f"(2 × {GATHERED} + {WEIGHTS}) bytes × (ranks − 1) / ranks / link"],
        ["a step", "the longer of arithmetic (6 × parameters × tokens / operations a second) and exchange"],
        [
            "a checkpoint",
            f"{STATE} bytes a parameter: over PCIe, then to disk; shards: by each node of {machine.node} its own",
        ],
    ]
    numbers = [
        ["memory, its bandwidth", f"{_bytes(machine.memory)}, {machine.hbm / 1e12:.2f} TB/s", "H100 SXM5 data sheet"],
        [
            "arithmetic, bfloat16",
            f"{machine.reached:.0%} of {machine.flops / 1e12:.0f} TFLOP/s",
            "data sheet; the share is assumed",
        ],
        ["PCIe 5.0 x16, one way", f"{_bytes(machine.pcie)}/s", "data sheet"],
        ["link within a node: NVLink 4, one way", f"{_bytes(machine.nvlink)}/s", "data sheet (900 GB/s both ways)"],
        ["link between nodes: 400 Gb/s a rank", f"{_bytes(machine.network)}/s", "DGX H100 data sheet"],
        ["disk of a node", f"{_bytes(machine.disk)}/s", "assumed"],
        ["delay from rank to rank", f"{machine.delay * 1e6:.0f} µs", "assumed"],
        ["tokens a rank and step", f"{machine.tokens:,}", "assumed"],
    ]
    return _table(["what", "how much"], rows) + "\n\n" + _table(["of the machine", "", "source"], numbers)


def _over_ranks(cell: Callable[[float, int, bool], str], machine: Machine) -> str:
    rows = []
    for name, count in PARAMETERS.items():
        sharded = sharded_at(count, machine)
        fitting = [fits(count, ranks, sharded=sharded, copy_on_device=True, machine=machine) for ranks in RANKS]
        cells = [cell(count, ranks, sharded) if good else "–" for ranks, good in zip(RANKS, fitting, strict=True)]
        rows.append([f"{name}, {'FSDP2' if sharded else 'DDP'}", *cells])
    return _table(["parameters", *(f"{ranks:,} rank{'s' * (ranks > 1)}" for ranks in RANKS)], rows)


def beside_a_loop(measured: dict[str, Any] | None) -> str:
    """Return a page of what was measured alone: a sweep under DDP beside a hand-written loop under DDP."""
    question = "How long does a range test take, beside a hand-written DDP loop?"
    return "\n\n".join(["# Sweeps under DDP", question, _measured(measured)]) + "\n"


def _measured(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "Nothing yet: `python -m experiments.scale --measure`."
    head = (
        f"An MLP of {measured['parameters'] / 1e6:.1f}M parameters under DDP and Adam, {measured['batch']} samples a "
        f"rank and step, {measured['steps']} steps; 1, 2 and 4 processes of one thread each over gloo, launched by "
        f"torchrun. Medians of {measured['rounds']} rounds, in which sweep and hand-written loop take turns. All on "
        "two cores: 4 processes share them, so the table says what each part costs beside the others, not how a "
        "cluster scales. Predicted: 2 × copy / bandwidth, with the bandwidth of this memory as one process after "
        "another measures it, by cloning one tensor as large. `load` counts all that ran on the machine meanwhile."
    )
    rows = []
    for line in measured["lines"]:
        predicted = 2 * line["bytes"] / line["bandwidth"]
        rows.append(
            [
                str(line["ranks"]),
                *(f"{line[name] * 1e3:.1f}" for name in ("loop", "sweep")),
                f"**{line['ratio']:.2f}** ({line['least']:.2f} .. {line['most']:.2f})",
                *(f"{line[name] * 1e3:.2f}" for name in ("agree", "exchange")),
                *(f"{line[name] * 1e3:.1f}" for name in ("take", "restore")),
                f"{predicted * 1e3:.1f}",
                *(f"{line[name] * 1e3:.1f}" for name in ("checkpoint_take", "checkpoint_write")),
            ]
        )
    columns = ["ranks", "loop, ms a step", "sweep", "ratio", "tell a loss, ms", "all-reduce, ms", "take a copy, ms"]
    columns += ["put back", "predicted", "checkpoint: take, ms", "write"]
    over = {
        name: [line[name] * line["bandwidth"] / (2 * line["bytes"]) for line in measured["lines"]]
        for name in ("take", "restore")
    }
    tail = (
        f"Against the formula, taking a copy took {min(over['take']):.1f} to {max(over['take']):.1f} times as long, "
        f"and putting it back {min(over['restore']):.1f} to {max(over['restore']):.1f} times: the formula knows "
        "neither the walk from object to object, nor memory that is asked for the first time, nor processes that "
        "wait for a core."
    )
    return "\n\n".join([head, as_markdown(measured["facts"]), _table(columns, rows), tail])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _seconds(seconds: float) -> str:
    for unit, size, below in (("µs", 1e-6, 1e-3), ("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0)):
        if seconds < below:
            return f"{seconds / size:.2g} {unit}" if seconds / size < 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.2g} h"


def picture(path: Path, machine: Machine = H100) -> None:
    """Draw seconds over parameters, sharded over 64 ranks and on one: what a sweep takes and what it adds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    counts = [10 ** (6 + step / 20) for step in range(101) if 10 ** (6 + step / 20) <= 7e10] + [7e10]
    for axes, ranks in zip(panels, (1, 64), strict=True):
        sharded = ranks > 1
        here = [count for count in counts if fits(count, ranks, sharded=sharded, copy_on_device=True, machine=machine)]

        def drawn(
            seconds: Callable[[float], float], label: str, color: str, style: str, axes: Any = axes, here: Any = here
        ) -> None:
            axes.plot(here, [seconds(count) for count in here], color=color, linestyle=style, label=label)

        def stalled(count: float, which: int, ranks: int = ranks, sharded: bool = sharded) -> float:
            return checkpoint(count, ranks, sharded=sharded, machine=machine)[which]

        drawn(
            lambda count, ranks=ranks, sharded=sharded: (
                SWEEP_STEPS * stepping(count, ranks, sharded=sharded, machine=machine)
            ),
            f"{SWEEP_STEPS} steps of a sweep",
            LR,
            "-",
        )
        drawn(lambda count: stalled(count, 1), "checkpoint: written behind training", METRIC, "-.")
        drawn(lambda count: stalled(count, 0), "checkpoint: training held up", METRIC, "--")
        drawn(
            lambda count, ranks=ranks, sharded=sharded: added_by_sweep(count, ranks, sharded=sharded, machine=machine),
            "what the sweep adds: copies, losses told",
            TRAIN_LOSS,
            ":",
        )
        if here[-1] < counts[-1]:
            axes.axvspan(here[-1], counts[-1], color=MOMENTUM, alpha=0.15, linewidth=0)
            axes.text(here[-1] * 1.3, 3e-6, "does not\nfit one", fontsize=9)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(counts[0], counts[-1])
        axes.set_title("one rank" if ranks == 1 else f"FSDP2 over {ranks} ranks", loc="left", fontsize="medium")
        axes.set_xlabel("parameters")
        axes.grid(True, which="major", alpha=0.25)
    panels[0].set_ylabel("seconds, computed")
    panels[1].legend(fontsize="small", loc="upper left", framealpha=0.8)
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.scale", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure on this machine first")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, at least 5")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for page, picture and what was measured")
    given = parser.parse_args(arguments)
    if not given.rounds >= 5:
        parser.error(f"--rounds must be at least 5; got {given.rounds}. A median of fewer says little.")
    given.out.mkdir(parents=True, exist_ok=True)
    record = given.out / "measured.json"
    if given.measure:
        record.write_text(json.dumps(measure(given.rounds), indent=1) + "\n", encoding="utf-8")
    measured = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
    text = page(measured)
    (given.out / "scale.md").write_text(text, encoding="utf-8")
    picture(given.out / "scale.png")
    if given.out == RESULTS:  # with the other figures of overhead, where one looks for it
        (RESULTS.parent / "overhead" / "ranks.md").write_text(beside_a_loop(measured), encoding="utf-8")
    print(text)
    print(f"Written to {given.out}")


if __name__ == "__main__":
    main()
