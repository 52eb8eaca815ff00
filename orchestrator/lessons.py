"""What a run's teacher cache costs and saves, from a small one made for a probe."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.child import Job
from orchestrator.probe import STEPS, Cost, probe, size_of
from orchestrator.spec import ExperimentSpec
from orchestrator.teacher_tasks import FOLDER, alike_in, bytes_of, why_not
from orchestrator.trials import Cell
from trainables.config import DistillConfig

if TYPE_CHECKING:
    from trainables.teaching import Task

ROWS = 64
"""Rows of the small cache, at least."""


@dataclass(frozen=True)
class Lessons:
    """One teacher cache of a run, and the arms that read it."""

    costs: dict[str, Cost]
    """Arm -> what its trials cost with the cache."""
    write_bytes: int
    """Still to be written."""
    make_s: float
    """By one slot."""


@dataclass(frozen=True)
class Tried:
    """What a worker found out with a small cache."""

    cost: Cost
    task: Task
    """Of the whole cache."""
    bytes: int
    """Of all rows, and what is common to them."""
    row_s: float
    """To compute one row's part of the cache."""


Try = Callable[[Job, DistillConfig], Tried]


def lessons_of(
    missing: Sequence[Cell],
    spec: ExperimentSpec,
    storage: Path,
    free: float,
    jobs: dict[str, Job],
    attempt: Try,
) -> list[Lessons]:
    """The caches that a run would make or find; in arms beside them the teacher runs in every step."""
    from trainables.teacher_cache import missing as lacking

    if spec.teacher_cache == "off":
        return []
    left = bytes_of(spec.teacher_cache, free)
    found = []
    for alike in alike_in(missing):
        arms = {cell.arm: cell.config for cell in alike if cell.config.uses_teacher}
        tried = {arm: attempt(jobs[arm], config) for arm, config in arms.items()}
        one = next(iter(tried.values()))
        to_make = lacking(storage / FOLDER / one.task.key, one.task.key, one.task.names)
        if to_make and why_not(one.task, alike, left, thrifty=spec.teacher_cache == "auto"):
            continue
        written = one.bytes if to_make else 0
        left -= written
        costs = {arm: each.cost for arm, each in tried.items()}
        found.append(Lessons(costs, written, one.row_s * one.task.rows if to_make else 0.0))
    return found


def try_lessons(job: Job, whole: DistillConfig) -> Tried:
    """Probe the job with a small cache in a temporary folder, and weigh the cache of its whole config."""
    from trainables.teacher_cache import COMMON, seal
    from trainables.teaching import Teaching, task_of

    place = Path(tempfile.mkdtemp(prefix="kvtune-probe-"))
    try:
        small = _cut(DistillConfig.from_dict(job.config))
        teaching = Teaching(small)
        task = teaching.task
        teaching.make(place, COMMON)
        common_bytes = size_of(place)
        began = time.perf_counter()
        for part in task.parts:
            teaching.make(place, part)
        row_s = (time.perf_counter() - began) / task.rows
        seal(place, task.parts)
        cached = replace(small, teacher_cache=str(place))
        cost, _ = probe(replace(job, config=cached.to_dict(), config_hash=cached.hash()), whole.eval_size)
        task = task_of(replace(whole, threads=small.threads))
        return Tried(cost, task, common_bytes + task.bytes, row_s)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _cut(config: DistillConfig) -> DistillConfig:
    """The probe's config with no more rows than it needs."""
    rows = max(ROWS, STEPS * config.batch_size * config.gradient_accumulation_steps)
    return replace(config, subset_size=min(rows, config.subset_size or rows))
