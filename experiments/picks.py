"""The rows of the regret study: everything that names a ``max_lr``, or does without, asked on one task and seed.

Answers are kept in ``experiments/.cache/regret/`` under a hash of the row, its version, the task's content and the
seed, so that a second call resumes. Raise a row's version when its code changes what it answers.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from experiments import cache, oracle
from experiments.oracle import Oracle, fingerprint, run_cycle
from experiments.tasks import Task
from lrfind import LRCurve, NoSuggestion, Suggestion, peers, range_test
from lrfind.batches import endless
from lrfind.suggest import suggest
from lrfind.workload import Workload
from onecycle.auto import Method, pick_with_curve

SEEDS = (0, 1, 2)
ONE_SEED = (0,)
SWEEP_STEPS = 100  # steps of a peer's sweep
SEARCH_SHARE = 0.5  # of a run, what the searches may spend: as much as refine
SEARCH_DECADES = 2.0  # the searches look so far either side of the optimizer's usual lr
RANDOM_TRIALS = 5
HALVING_TRIALS = 6  # then half as many at twice the length


@dataclass(frozen=True)
class Answer:
    """What a row says.

    ``lr``, ``low``, ``high`` are None where there is none; ``steps``: optimizer steps it took to say so; ``refusal``:
    the message of ``NoSuggestion``, in which case ``lr`` is the optimizer's usual one; ``score`` and ``val_loss``:
    those of a run without a ``max_lr``.
    """

    row: str
    task: str
    seed: int
    lr: float | None
    steps: int
    low: float | None = None
    high: float | None = None
    refusal: str | None = None
    score: float | None = None
    val_loss: float | None = None


class Said(NamedTuple):
    """What a row's function returns: the fields of ``Answer`` that are its own."""

    lr: float | None
    steps: int
    low: float | None = None
    high: float | None = None
    score: float | None = None
    val_loss: float | None = None


Kind = Literal["peer", "usual", "ours", "search", "free", "grid"]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: In tables and pictures.
        kind: Rows of a kind are drawn alike and computed together.
        ask: Called with a task and a seed, which draws weights and batches. May raise ``NoSuggestion``.
        version: Raised when ``ask`` changes what it answers.
        seeds: Seeds asked for.
        package: What has to be installed for it, if anything.
    """

    name: str
    kind: Kind
    ask: Callable[[Task, int], Said]
    version: int = 1
    seeds: tuple[int, ...] = SEEDS
    package: str | None = None

    def missing(self) -> str | None:
        """Why the row cannot be asked here, or None."""
        if self.package is None or importlib.util.find_spec(self.package) is not None:
            return None
        return f"{self.package} is not installed (extra: peers)"


def usual_lr(work: Workload) -> float:
    """Return what a user would write without looking: the tasks' optimizers come with it."""
    return max(float(group["lr"]) for group in work.optimizer.param_groups)


# One sweep: peers at their own defaults, with the optimizer's own momentum and no stop but their own.


@functools.lru_cache(maxsize=8)  # rules of one tool read the same sweep
def peer_sweep(task: Task, seed: int, start_lr: float | None, end_lr: float) -> LRCurve:
    """Sweep as the tool that starts at ``start_lr`` does; None: at the optimizer's own lr."""
    work = task.make(seed)
    return range_test(
        work,
        start_lr=usual_lr(work) if start_lr is None else start_lr,
        end_lr=end_lr,
        num_iter=SWEEP_STEPS,
        stop_factor=math.inf,
        momentum=None,
        progress=False,
    )


@functools.lru_cache(maxsize=2)
def our_sweep(task: Task, seed: int) -> LRCurve:
    """Sweep at the defaults of ``range_test``."""
    return range_test(task.make(seed), progress=False)


def by_peer(rule: Callable[[LRCurve], float], start_lr: float | None, end_lr: float) -> Callable[[Task, int], Said]:
    """Return the row of a peer's rule on that peer's sweep."""

    def ask(task: Task, seed: int) -> Said:
        curve = peer_sweep(task, seed, start_lr, end_lr)
        lr = rule(curve)
        if not (math.isfinite(lr) and lr > 0):
            raise NoSuggestion(f"{rule.__name__} says {lr}.")
        return Said(lr, len(curve))

    return ask


def by_default(task: Task, seed: int) -> Said:
    """Return the fixed default: SGD 0.1, Adam, AdamW and RMSprop 1e-3, Adagrad 1e-2."""
    return Said(usual_lr(task.make(seed)), 0)


def by_minimum(task: Task, seed: int) -> Said:
    """Return a tenth of the lr with the lowest raw loss, on our sweep: the rule of thumb."""
    curve = our_sweep(task, seed)
    return Said(float(curve.lr[int(np.nanargmin(curve.loss))]) / 10, len(curve))


def by_suggest(task: Task, seed: int) -> Said:
    """Return what ``suggest()`` reads off our sweep."""
    curve = our_sweep(task, seed)
    return _suggested(suggest(curve), len(curve))


def by_pilots(method: Method) -> Callable[[Task, int], Said]:
    """Return the row of ``auto`` or ``refine``."""

    def ask(task: Task, seed: int) -> Said:
        pick = pick_with_curve(task.make(seed), total_steps=task.total_steps, method=method, cycle=None, progress=False)
        return _suggested(pick.suggestion, pick.suggestion.steps_used)

    return ask


def _suggested(suggestion: Suggestion, steps: int) -> Said:
    return Said(suggestion.lr, steps, suggestion.low, suggestion.high)


# Searches with the budget of refine: whole short cycles, compared by validation loss.


def _trials(task: Task, seed: int, number: int) -> list[float]:
    reach = np.random.default_rng([seed, 5]).uniform(-SEARCH_DECADES, SEARCH_DECADES, number)
    return [float(lr) for lr in usual_lr(task.make(seed)) * 10**reach]


def by_random_search(task: Task, seed: int) -> Said:
    """Return the best of five random peaks, each for a tenth of the run."""
    steps = int(task.total_steps * SEARCH_SHARE / RANDOM_TRIALS)
    runs = [run_cycle(task, lr, seed, steps) for lr in _trials(task, seed, RANDOM_TRIALS)]
    best = min(runs, key=lambda run: run.counted_loss)
    return Said(best.max_lr, sum(run.steps_taken for run in runs))


def by_halving(task: Task, seed: int) -> Said:
    """Return the best of six random peaks for a 24th of the run, of which three go on to a 12th."""
    steps = int(task.total_steps * SEARCH_SHARE / 2 / HALVING_TRIALS)
    first = [run_cycle(task, lr, seed, steps) for lr in _trials(task, seed, HALVING_TRIALS)]
    kept = sorted(first, key=lambda run: run.counted_loss)[: HALVING_TRIALS // 2]
    second = [run_cycle(task, run.max_lr, seed, 2 * steps) for run in kept]
    best = min(second, key=lambda run: run.counted_loss)
    return Said(best.max_lr, sum(run.steps_taken for run in [*first, *second]))


# Without a max_lr: learning-rate-free optimizers on the same steps, at the defaults of their READMEs.


def schedule_free_adamw(parameters: Any) -> torch.optim.Optimizer:
    import schedulefree

    return schedulefree.AdamWScheduleFree(parameters)


def _schedule_free_sgd(parameters: Any) -> torch.optim.Optimizer:
    import schedulefree

    return schedulefree.SGDScheduleFree(parameters)


def _prodigy(parameters: Any) -> torch.optim.Optimizer:
    import prodigyopt

    return prodigyopt.Prodigy(parameters)


def _dadapt_adam(parameters: Any) -> torch.optim.Optimizer:
    import dadaptation

    return dadaptation.DAdaptAdam(parameters)


def without_lr(make: Callable[[Any], torch.optim.Optimizer], cosine: bool) -> Callable[[Task, int], Said]:
    """Return the row of a learning-rate-free optimizer: its score, and no pick.

    Args:
        make: Of parameters, returns the optimizer at its defaults.
        cosine: Whether its README asks for cosine annealing.
    """

    def ask(task: Task, seed: int) -> Said:
        work = task.make(seed)
        initial_loss = work.evaluate(metrics=False)["loss"]
        optimizer = make(list(work.model.parameters()))
        work.optimizer = optimizer
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.total_steps) if cosine else None
        switch = getattr(optimizer, "train", None), getattr(optimizer, "eval", None)
        if switch[0] is not None:
            switch[0]()
        loss = math.inf
        with work.training():
            for _, group in zip(range(task.total_steps), endless(work.batches()), strict=False):
                loss = float(work.step(group).loss)
                if not math.isfinite(loss):
                    break
                if scheduler is not None:
                    scheduler.step()
            if switch[1] is not None:
                switch[1]()
                measure_batch_norm(work)
        worst = task.constant_score()
        values = work.evaluate() if math.isfinite(loss) else {"loss": math.inf, task.score: -math.inf}
        score, val_loss = values[task.score], values["loss"]
        # As RunResult.counted_score and counted_loss do.
        return Said(
            None,
            0,
            score=score if score > worst else worst,
            val_loss=val_loss if val_loss < initial_loss else initial_loss,
        )

    return ask


def measure_batch_norm(work: Workload) -> None:
    """Read 50 batches with the averaged weights, as schedulefree's README asks where there is BatchNorm."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in work.model.modules()):
        with torch.no_grad():
            for group in itertools.islice(endless(work.batches()), 50):
                work.model(group[0][0])


# The most that runs of one seed can tell.


def by_grid(task: Task, seed: int) -> Said:
    """Return the best of the whole grid by the score of this seed alone, whose runs are a third of those that judge."""
    grid = Oracle.load(task)
    return Said(float(grid.lr[int(grid.score[:, oracle.SEEDS.index(seed)].argmax())]), grid.lr.size * grid.steps)


ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
        Row("torch-lr-finder steepest", "peer", by_peer(peers.steepest, None, 10.0)),
        Row("ignite", "peer", by_peer(peers.ignite, None, 10.0)),
        Row("fastai valley", "peer", by_peer(peers.valley, 1e-7, 10.0)),
        Row("fastai slide", "peer", by_peer(peers.slide, 1e-7, 10.0)),
        Row("fastai minimum", "peer", by_peer(peers.minimum, 1e-7, 10.0)),
        Row("fastai steep", "peer", by_peer(peers.steep, 1e-7, 10.0)),
        Row("Lightning", "peer", by_peer(peers.lightning, 1e-8, 1.0)),
        Row("fixed default", "usual", by_default),
        Row("minimum / 10, our sweep", "usual", by_minimum),
        Row("suggest()", "ours", by_suggest, version=3),
        Row("auto", "ours", by_pilots("auto"), version=15),
        Row("refine", "ours", by_pilots("refine"), version=15),
        Row("random search", "search", by_random_search),
        Row("successive halving", "search", by_halving),
        Row("schedule-free AdamW", "free", without_lr(schedule_free_adamw, cosine=False), 1, ONE_SEED, "schedulefree"),
        Row("schedule-free SGD", "free", without_lr(_schedule_free_sgd, cosine=False), 1, ONE_SEED, "schedulefree"),
        Row("Prodigy, cosine", "free", without_lr(_prodigy, cosine=True), 1, ONE_SEED, "prodigyopt"),
        Row("D-Adaptation Adam, cosine", "free", without_lr(_dadapt_adam, cosine=True), 1, ONE_SEED, "dadaptation"),
        Row("whole grid, one seed", "grid", by_grid),
    )
}


# The cache: a file of JSON lines per task.


def _file(task: Task) -> Path:
    return oracle.CACHE / "regret" / f"{task.name}.jsonl"


def _key(task: Task, row: Row, seed: int) -> str:
    content = f"{row.name} {row.version} {fingerprint(task)} {task.total_steps} {seed}"
    return cache.key_of(content)


def kept(task: Task) -> dict[tuple[str, int], Answer]:
    """Return the answers in the cache, by row and seed."""
    lines = {key: Answer(**entry) for key, entry in cache.read(_file(task))}
    found = ((row, seed, lines.get(_key(task, row, seed))) for row in ROWS.values() for seed in row.seeds)
    return {(row.name, seed): answer for row, seed, answer in found if answer is not None}


def answer(task: Task, row: Row, seed: int) -> Answer:
    """Ask a row, or look up what it answered before."""
    known = kept(task).get((row.name, seed))
    if known is not None:
        return known
    with torch.random.fork_rng(devices=[]):
        try:
            given = Answer(row.name, task.name, seed, **row.ask(task, seed)._asdict())
        except NoSuggestion as refusal:
            given = Answer(row.name, task.name, seed, usual_lr(task.make(seed)), SWEEP_STEPS, refusal=str(refusal))
    _keep(task, row, given)
    return given


def keep_new(task: Task, answers: Iterable[Answer]) -> int:
    """Put answers that were given elsewhere into the cache, where it lacks them; return how many."""
    known = kept(task)
    new = [given for given in answers if (given.row, given.seed) not in known]
    for given in new:
        _keep(task, ROWS[given.row], given)
    return len(new)


def _keep(task: Task, row: Row, given: Answer) -> None:
    cache.add(_file(task), _key(task, row, given.seed), asdict(given))
