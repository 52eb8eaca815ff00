"""The frozen teacher runs once: what every trial would need of it is computed before them, by Ray tasks.

The caches of a storage's experiments lie together in STORAGE/.teacher-cache, each in a folder named by the
hash of all that it follows from, so that arms, seeds, epochs, launches and experiments share them. A folder
may be deleted whenever no run is at work: it is made again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analysis.sizes import size
from orchestrator.driver import Lost
from orchestrator.spec import Resources
from orchestrator.trials import Cell
from orchestrator.workers import Ask, in_workers, placed
from trainables.config import BUILTIN_TEACHER, DistillConfig

if TYPE_CHECKING:
    from trainables.teaching import Task

FOLDER = ".teacher-cache"
GIB = 2**30
AUTO_SHARE = 0.25
"""Of the disk that is free when a launch begins."""
WORTH = 2
"""auto: rows that the trials read for every row that a cache computes, at least."""
FIELDS = (
    "model_name", "teacher", "dataset", "train_file", "eval_file", "train_sha256", "eval_sha256",
    "subset_size", "eval_size", "drop_last_step", "student", "kv_method", "target_len", "rkv_lambda",
    "layer_map", "k_space", "dtype", "device",
)  # fmt: skip
"""What a cache follows from, at most; its own key says it exactly."""
SMALL_BYTES = 2**28
"""Weights that the launch itself may load."""
SMALL_WORK = 10**11
"""Parameters times tokens that take a core some ten seconds, as long as a worker takes to start."""
Budget = Literal["auto", "off"] | float
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Teachers:
    """What trials find ready: plain values for their jobs."""

    caches: Mapping[str, str]
    """A trial's cache folder by trial_id; none where the teacher runs in its every step."""
    builtin: str | None = None
    """Where teachers lie that were trained for this run, if any; else each machine's own cache will do."""


NO_TEACHERS = Teachers({})


def provide(
    cells: Sequence[Cell], storage: Path, budget: Budget, resources: Resources, *, ask: Ask | None, tell: Tell
) -> Teachers:
    """Have the teachers and their caches ready on the storage before the first trial starts.

    A cache only saves time: what goes wrong with one is told, and the teacher runs in its trials' steps, to
    the same bits. `ask` calls a function where Ray is at hand; None where there is none. `budget` is what one
    launch may write: off, so many GiB, or auto, a quarter of the free disk, and then only where the trials
    read a row more than once. Raises Lost where Ray is gone.
    """
    builtin = _share_builtin(cells, storage / FOLDER)
    if budget == "off":
        return Teachers({}, builtin)
    left = bytes_of(budget, shutil.disk_usage(storage).free)
    work = _Work(storage / FOLDER, resources, ask, builtin, tell)
    caches: dict[str, str] = {}
    for alike in alike_in(cells):
        try:
            folder, written = _provide_one(alike, work, left, thrifty=budget == "auto")
        except Lost:
            raise
        except Exception as error:  # whatever it is, the trials can do without
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            tell(f"the teacher cache could not be made ({reason}): the teacher runs in every step")
            continue
        left -= written
        caches |= {cell.trial_id: str(folder) for cell in alike if folder is not None}
    return Teachers(caches, builtin)


@dataclass(frozen=True)
class _Work:
    """Where caches are made, and by whom."""

    root: Path
    resources: Resources
    ask: Ask | None
    builtin: str | None
    tell: Tell


def bytes_of(budget: Budget, free: float) -> float:
    """What one launch may write."""
    if budget == "off":
        return 0.0
    return free * AUTO_SHARE if budget == "auto" else budget * GIB


def alike_in(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells by what their cache follows from; an arm that distils nothing reads what another's needs."""
    alike: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        if cell.config.cacheable:
            alike.setdefault(tuple(getattr(cell.config, name) for name in FIELDS), []).append(cell)
    return [group for group in alike.values() if any(cell.config.uses_teacher for cell in group)]


def _provide_one(
    alike: Sequence[Cell], work: _Work, left: float, *, thrifty: bool
) -> tuple[Path | None, int]:
    """The folder of one cache, made or found, and the bytes written; None where it is not to be."""
    from trainables.teacher_cache import missing, seal
    from trainables.teaching import INEXACT

    config = placed(alike[0].config, work.resources)
    task = _describe(config, work)
    folder = work.root / task.key
    to_make = missing(folder, task.key, task.names)
    if to_make and (why := why_not(task, alike, left, thrifty)):
        work.tell(f"no teacher cache, the teacher runs in every step: {why}")
        return None, 0
    started = time.monotonic()
    if to_make:
        work.tell(
            f"computing the teacher's cache for {task.rows:,} rows, once for all trials ({size(task.bytes)})"
        )
        _make(config, work, task, to_make)
    if not seal(folder, task.parts):
        work.tell(INEXACT)
    done = f"computed in {time.monotonic() - started:.0f} s" if to_make else "found"
    work.tell(f"the teacher's cache for {task.rows:,} rows: {done}, {folder}")
    return folder, task.bytes if to_make else 0


def why_not(task: Task, alike: Sequence[Cell], left: float, thrifty: bool) -> str | None:
    """Why a cache is not to be made: it would save nothing, or is larger than the budget."""
    from trainables.distill import planned_steps

    configs = [cell.config for cell in alike if cell.config.uses_teacher]
    reads = sum(planned_steps(c, task.rows) * c.batch_size * c.gradient_accumulation_steps for c in configs)
    if thrifty and reads < WORTH * task.rows:
        return f"the trials read {reads:,} rows, a cache would hold {task.rows:,}"
    if task.bytes > left:
        enough = f"set teacher_cache: {task.bytes / GIB + 0.005:.2f} to have it"
        return f"it would take {size(task.bytes)}, {size(max(left, 0))} are left for it ({enough})"
    return None


def _describe(config: DistillConfig, work: _Work) -> Task:
    """What is to be made. That takes the teacher: a worker's business unless it is small."""
    from trainables.teaching import task_of

    if work.ask is None or _is_here(config):
        return task_of(config)
    task: Task = work.ask(in_workers, _task_in_worker, [(asdict(config), work.builtin)], work.resources)[0]
    return task


def _is_here(config: DistillConfig) -> bool:
    """Whether this process may load the teacher: one that is built in, or in a local folder and small."""
    weights = sum(path.stat().st_size for path in Path(config.teacher).glob("*.safetensors"))
    small = config.teacher == BUILTIN_TEACHER or 0 < weights < SMALL_BYTES
    return small and config.device == "cpu"


def _make(config: DistillConfig, work: _Work, task: Task, to_make: Sequence[str]) -> None:
    """By as many Ray tasks as there are slots; here where that is done before a worker has started."""
    from trainables.teaching import make_parts

    folder = work.root / task.key
    if work.ask is None or (_is_here(config) and task.work < SMALL_WORK):
        make_parts(config, folder, task.key, to_make)
        return
    slots = min(work.ask(_slots, work.resources), len(to_make))
    shares = [list(to_make[first::slots]) for first in range(slots)]
    calls = [(asdict(config), work.builtin, str(folder), task.key, share) for share in shares]
    work.ask(in_workers, _make_in_worker, calls, work.resources)


def _slots(resources: Resources) -> int:
    """Trials that fit into the cluster as it stands."""
    import ray

    there = ray.cluster_resources()
    slots = there.get("CPU", 1) // resources.cpus
    if resources.gpus:
        slots = min(slots, there.get("GPU", 0) // resources.gpus)
    return max(1, int(slots))


def _task_in_worker(config: dict[str, Any], builtin: str | None) -> Task:
    from trainables.teaching import task_of

    _use(builtin)
    return task_of(DistillConfig.from_dict(config))


def _make_in_worker(
    config: dict[str, Any], builtin: str | None, folder: str, key: str, parts: Sequence[str]
) -> None:
    from trainables.teacher_cache import missing
    from trainables.teaching import make_parts

    _use(builtin)
    to_make = missing(Path(folder), key, parts)
    make_parts(DistillConfig.from_dict(config), Path(folder), key, to_make)


def _use(builtin: str | None) -> None:
    """Look for built-in teachers on the storage: this node may have none of its own."""
    if builtin is not None:
        os.environ["KVTUNE_CACHE"] = builtin


def _share_builtin(cells: Sequence[Cell], root: Path) -> str | None:
    """Copy the built-in teachers that were trained here to the storage, where all nodes look for them."""
    configs = {
        (c.dataset, c.train_file, c.eval_file, c.drop_last_step): c
        for c in (cell.config for cell in cells)
        if c.teacher == BUILTIN_TEACHER and (c.dataset != "arithmetic" or c.drop_last_step)
    }
    if not configs:
        return None
    from trainables.builtin_teacher import share

    for config in configs.values():
        share(config, root / "builtin")
    return str(root / "builtin")
