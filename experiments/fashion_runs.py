"""What ``experiments.fashion`` trains: policies, their plan, the runs of both nets, and the cache that keeps them."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import onecycle
from experiments.picks import measure_batch_norm, schedule_free_adamw
from experiments.tasks.nets import ResNet
from lrfind.batches import endless, steps_per_epoch
from lrfind.palette import LR, METRIC, MOMENTUM, TRAIN_LOSS, VAL_LOSS
from lrfind.workload import Workload
from lrfind.workloads import images, lenet
from lrfind.workloads.parts import Split, classifier

SOURCE = images.Source("fashion-mnist", "FashionMNIST", mean=0.2860, sd=0.3530)
NETS: Mapping[str, tuple[str, Callable[[], nn.Module]]] = {
    "lenet": ("LeNet, 431,080 parameters", lenet.net),
    "resnet": ("residual net, 3 blocks with BatchNorm, 19,810 parameters", lambda: ResNet(1, (8, 16, 32), 10)),
}
TARGETS = tuple(percent / 100 for percent in range(80, 91))


@dataclass(frozen=True)
class Policy:
    """A way to train.

    Args:
        name: In tables and pictures.
        planned: Whether the schedule has to know how long the run will be.
        searched: Whether its lr comes from a grid.
        look: Colour, marker and line style.
        version: Raised when the runs of this policy have become others, so that they are done again.
    """

    name: str
    planned: bool
    searched: bool
    look: tuple[str, str, str]
    version: int = 1


AUTO = Policy("one cycle, auto", True, False, (LR, "o", "-"), version=5)
CYCLE = Policy("one cycle, best of the grid", True, True, (LR, "s", "--"))
COSINE = Policy("cosine, best of the grid", True, True, (METRIC, "^", "-."))
CONSTANT = Policy("constant lr, best of the grid", False, True, (TRAIN_LOSS, "D", ":"))
ADAM = Policy("Adam, 1e-3", False, False, (MOMENTUM, "v", "-"))
FREE = Policy("schedule-free AdamW", False, False, (VAL_LOSS, "P", "--"))
POLICIES = (AUTO, CYCLE, COSINE, CONSTANT, ADAM, FREE)
WITHOUT_PLAN = [policy.name for policy in POLICIES if not policy.planned]


class Plan(NamedTuple):
    """How much is run: images, lengths and grid."""

    train: int = 12_000
    val: int = 5_000
    batch_size: int = 128
    lengths: tuple[int, ...] = (1, 2, 3, 5, 8)
    longest: int = 8
    grid: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)
    peaks: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)  # the grid of one cycle, which stands higher rates
    seeds: tuple[int, ...] = (0, 1, 2)
    random: bool = False  # images drawn from a random generator, for a quick look

    def lrs(self, policy: Policy) -> tuple[float | None, ...]:
        """Return what the first seed tries."""
        if policy.searched:
            return self.peaks if policy is CYCLE else self.grid
        return (1e-3 if policy is ADAM else None,)

    def epochs(self, policy: Policy) -> tuple[int, ...]:
        """Return the lengths at which a policy is run."""
        return self.lengths if policy.planned else (self.longest,)


QUICK = Plan(60, 100, 10, lengths=(1, 2), longest=2, grid=(0.01, 0.1), peaks=(0.01,), seeds=(0, 1), random=True)


class Job(NamedTuple):
    """One training run; ``lr`` is None where the policy brings its own."""

    net: str
    policy: str
    lr: float | None
    epochs: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        job: The run.
        accuracy: Validation accuracy, 0 to 1: after each epoch, or of the end alone for a planned schedule. A run
            whose loss is not finite ends there, and its last value is 0.
        lr: The peak, or constant lr; None for schedule-free.
        search_steps: Optimizer steps before the run, or in attempts that diverged.
        steps_per_epoch: To make epochs of them.
        cpu_seconds: All of it, search and validation included.
    """

    job: Job
    accuracy: tuple[float, ...]
    lr: float | None
    search_steps: int
    steps_per_epoch: int
    cpu_seconds: float

    @property
    def search_epochs(self) -> float:
        """What the pick cost."""
        return self.search_steps / self.steps_per_epoch


# Training.


@functools.cache
def data(plan: Plan) -> Split:
    """Return the images; the held-out ones do not depend on how many train."""
    if plan.random:
        draw = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 10, (plan.train + plan.val,), generator=draw)
        x = torch.randn(len(labels), 1, 28, 28, generator=draw) + 0.3 * (labels - 4.5).view(-1, 1, 1, 1)
        return Split(x[: plan.train], labels[: plan.train], x[plan.train :], labels[plan.train :])
    everything = images.split(SOURCE, None, plan.val)
    return everything._replace(train_x=everything.train_x[: plan.train], train_y=everything.train_y[: plan.train])


def workload(job: Job, plan: Plan) -> Workload:
    """Return what a job trains: SGD with momentum 0.9 and weight decay 5e-4, or Adam without either."""
    adam = job.policy in (ADAM.name, FREE.name)
    return classifier(
        data(plan),
        NETS[job.net][1],
        batch_size=plan.batch_size,
        optimizer="adamw" if adam else "sgd",
        momentum=0.9,
        weight_decay=0.0 if adam else 5e-4,
        seed=job.seed,
        device="cpu",
    )


def train(job: Job, plan: Plan) -> Outcome:
    """Do one run."""
    torch.manual_seed(job.seed)
    began = time.process_time()
    work = workload(job, plan)
    assert work.train_loader is not None
    each = steps_per_epoch(work.train_loader)
    assert each is not None
    steps = job.epochs * each
    if job.policy in (AUTO.name, CYCLE.name):
        taken = []
        work.optimizer.register_step_post_hook(lambda *_: taken.append(1))
        given: Any = "auto" if job.lr is None else job.lr
        run = onecycle.fit(work, epochs=job.epochs, max_lr=given, validate_every=steps, progress=False)
        # A run that diverges for good has the weights of its last good moment, and ends early.
        accuracy = (run.validation.get("val_accuracy", 0.0) if run.status == "finished" else 0.0,)
        lr, search = run.max_lr, max(0, len(taken) - steps)
    else:
        accuracy, lr, search = _by_loop(job, work, steps, each), job.lr, 0
    return Outcome(job, accuracy, lr, search, each, time.process_time() - began)


def _by_loop(job: Job, work: Workload, steps: int, each: int) -> tuple[float, ...]:
    planned = job.policy == COSINE.name
    if job.policy == FREE.name:
        work.optimizer = schedule_free_adamw(work.model.parameters())
    elif job.lr is not None:
        for group in work.optimizer.param_groups:
            group["lr"] = job.lr
    scheduler = CosineAnnealingLR(work.optimizer, steps) if planned else None
    found: list[float] = []
    with work.training():
        _switch(work, "train")
        for step, group in zip(range(1, steps + 1), endless(work.batches()), strict=False):
            loss = float(work.step(group).loss)
            if not math.isfinite(loss):
                return (*found, 0.0)
            if scheduler is not None:
                scheduler.step()
            if step == steps or (step % each == 0 and not planned):
                _switch(work, "eval")
                if job.policy == FREE.name:
                    measure_batch_norm(work)
                found.append(work.evaluate()["accuracy"])
                _switch(work, "train")
    return tuple(found)


def _switch(work: Workload, mode: str) -> None:
    # schedule-free optimizers hold other weights for training than for validation.
    if (switch := getattr(work.optimizer, mode, None)) is not None:
        switch()


# The cache: a file of JSON lines.


class Kept:
    """Runs that were done before, and those done now."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.path, self.plan = folder / "runs.jsonl", plan
        self.outcomes: dict[Job, Outcome] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # a line cut short when the process was killed
                continue
            job = Job(**entry.pop("job"))
            if entry.pop("setting") == self.setting(job):
                accuracy = tuple(entry.pop("accuracy"))
                if job.policy in WITHOUT_PLAN and job.epochs > plan.longest:  # its beginning is what is asked for
                    job, accuracy = job._replace(epochs=plan.longest), accuracy[: plan.longest]
                if job.policy in WITHOUT_PLAN or job.epochs in plan.lengths:
                    self.outcomes[job] = Outcome(job, accuracy, **entry)

    def setting(self, job: Job) -> list[Any]:
        """Return what a run has to agree in to be taken from the file."""
        plan, versions = self.plan, {policy.name: policy.version for policy in POLICIES}
        return [versions[job.policy], plan.train, plan.val, plan.batch_size, plan.random]

    def do(self, jobs: Iterable[Job], say: Callable[[str], Any]) -> None:
        """Do the jobs that are missing."""
        missing = [job for job in jobs if job not in self.outcomes]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for index, job in enumerate(missing, start=1):
            outcome = train(job, self.plan)
            self.outcomes[job] = outcome
            self.write(outcome)
            said = f"{job.policy}, lr {outcome.lr or 0:.3g}, {job.epochs} epochs, seed {job.seed}"
            say(f"{index} of {len(missing)}: {job.net}, {said}: {100 * outcome.accuracy[-1]:.2f} %")

    def write(self, outcome: Outcome) -> None:
        """Add a run to the file."""
        entry = asdict(outcome) | {"job": outcome.job._asdict(), "setting": self.setting(outcome.job)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


# What is run: the grids with the first seed, the other seeds where the first was best.


def first_jobs(net: str, plan: Plan, policies: Sequence[Policy]) -> Iterator[Job]:
    """Yield the runs of the first seed: a policy's whole grid, at every length if it has to be planned."""
    for policy in policies:
        for epochs in plan.epochs(policy):
            for lr in plan.lrs(policy):
                yield Job(net, policy.name, lr, epochs, plan.seeds[0])


def other_jobs(net: str, plan: Plan, policies: Sequence[Policy], kept: Kept, seed: int) -> Iterator[Job]:
    """Yield the runs of another seed."""
    for policy in policies:
        for epochs in plan.epochs(policy):
            for lr in dict.fromkeys(best_lrs(net, plan, policy, epochs, kept)):
                yield Job(net, policy.name, lr, epochs, seed)


def best_lrs(net: str, plan: Plan, policy: Policy, epochs: int, kept: Kept) -> list[float | None]:
    """Return the lrs that were best with the first seed: one at a planned length, one a target without a plan."""
    if not policy.searched:
        return list(plan.lrs(policy))
    grid = [kept.outcomes[Job(net, policy.name, lr, epochs, plan.seeds[0])] for lr in plan.lrs(policy)]
    if policy.planned:
        return [max(grid, key=lambda outcome: outcome.accuracy[-1]).job.lr]
    return [_fastest(grid, target).job.lr for target in TARGETS]


def _fastest(runs: Sequence[Outcome], target: float) -> Outcome:
    """Return the run that reaches ``target`` first; of equals, and of those that never do, the most accurate."""
    return min(runs, key=lambda run: (first_epoch(run.accuracy, target), -max(run.accuracy)))


def first_epoch(accuracy: Sequence[float], target: float) -> float:
    """Return the number of the first epoch that reaches ``target``, infinite if none does.

    >>> first_epoch([0.7, 0.9, 0.8], 0.8), first_epoch([0.7], 0.8)
    (2, inf)
    """
    return next((index for index, value in enumerate(accuracy, start=1) if value >= target), math.inf)
