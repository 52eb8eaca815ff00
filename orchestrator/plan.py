"""What a run will cost and what it can show, before it starts: counted, and measured by a short probe."""

from __future__ import annotations

import heapq
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from analysis.looks import level_of
from analysis.power import detectable_dz, least_pairs, upper_sd
from analysis.processes import cpus
from analysis.records import ResultsFolder
from analysis.signflip import floor_of
from analysis.sizes import size
from orchestrator import capacity, changes, child, closing, sockets
from orchestrator.capacity import MOST, Growth, Place
from orchestrator.checks import (
    SERIAL,
    check_address,
    missing_cells,
    preflight,
    prepare,
    results_folder,
)
from orchestrator.child import Job, Objective
from orchestrator.driver import driving, reaching
from orchestrator.foresight import remarks
from orchestrator.lessons import Lessons, lessons_of, try_lessons
from orchestrator.probe import Cost, probe, probe_job
from orchestrator.space import free_at
from orchestrator.spec import ExperimentSpec
from orchestrator.terminal import Console
from orchestrator.trials import Cell, Plan, in_known_folders, make_plan
from orchestrator.tuning import LOCAL, lacking
from trainables.config import DistillConfig, InputError
from trainables.trial_folder import TrialFolder

POWER = 0.8
PARQUET_BYTES = 30
"""A row of metrics.parquet, compressed, at most."""
REPORT_BYTES = 5_000_000
HERE = "this machine"
GROWN = " when it has grown"
At = Callable[..., Any]
"""Calls a function where trials run, and gives its result."""


@dataclass(frozen=True)
class Effect:
    """The smallest effect that the planned seeds can show."""

    pairs: int
    alpha: float
    """Of the strictest test: shared among looks and, by Holm's first step, among contrasts."""
    floor: float
    """The smallest p that the exact test can give."""
    pairs_needed: int
    """Fewest pairs with which the exact test can claim anything at this alpha."""
    dz: float | None
    """Found with 80 % power; None where nothing can be claimed."""
    metric: str
    sesoi: float | None
    sd_for_sesoi: float | None
    """The largest SD of the paired differences at which the effect of interest is found."""
    known: tuple[Mapping[str, Any], ...]
    """Per contrast with earlier results: their pairs, SD and its upper limit, and the effects by these."""


@dataclass(frozen=True)
class Forecast:
    """Everything that `kvtune plan` says, as plain numbers: seconds, bytes; None: not known here."""

    name: str
    plan_hash: str
    folder: str | None
    """STORAGE/NAME; None where it lies on a cluster that nobody has started yet."""
    trials: int
    done: int | None
    to_run: int
    steps: int
    steps_left: int
    slots: int
    where: str
    arms: tuple[Cost, ...]
    trial_s: Mapping[str, float]
    """One whole trial of each arm."""
    lessons_s: float
    """To compute the frozen teacher's cache, which all trials then read."""
    total_s: float
    """That and all trials, one after another."""
    wall_s: float
    """From the start to the end of the last trial on these slots."""
    disk_bytes: Mapping[str, int]
    free_bytes: int | None
    memory_bytes: int
    """Of as many trials as run at once on this machine; on a cluster of one."""
    machine_bytes: int | None
    effect: Effect
    remarks: tuple[str, ...]
    """Checks that no result can pass, GPUs that nobody would use: a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """For strict JSON."""
        return asdict(self)


def forecast(
    spec: ExperimentSpec,
    *,
    storage: str | Path = "runs",
    address: str = "local",
    objective: Objective | None = None,
    console: Console | None = None,
) -> Forecast:
    """Count, probe and add up; nothing stays but a built-in teacher in the cache, which a run needs as well.

    address: as for run; or a cluster.yaml, whose nodes are then counted and the probe is made here.
    Raises InputError for whatever run would refuse, and for a disk too small for what the run will write.
    """
    objective, console = objective or Objective(), console or Console(stderr=True)
    for line in sockets.moved(ray=address == LOCAL):
        changes.say(console, line)
    plan = make_plan(spec)
    told: list[str] = []
    lessons: list[Lessons] = []
    with _folder(storage, address, spec) as folder:
        plan = in_known_folders(plan, folder.trials)
        known = changes.known_plan(folder, plan)
        missing = missing_cells(plan, folder)
        with _reached(address, spec, console) as (places, growth, where, at):
            refuse_unplaceable(spec, places, growth)
            preflight(missing, objective, console)
            changes.tell(known, changes.leaving(known, plan, folder), plan, console)
            changes.show(changes.edits(known, plan, folder), plan, console)
            prepare(missing, objective, console)
            jobs = {cell.arm: probe_job(cell, spec.resources, objective) for cell in reversed(missing)}
            costs, start_s = _probe_arms(jobs, missing, at)
            if objective.distill == child.Objective.distill and missing:
                storage, free = folder.path.parent, math.inf if _is_file(address) else free_at(folder.path)
                lessons = lessons_of(missing, spec, storage, free, jobs, partial(at, try_lessons))
                there = [capacity.this_machine()] if where == HERE else [*places, *growth.types]
                told += remarks(plan, missing, there)
        count = 1 if address == SERIAL else max(1, capacity.slots(spec.resources, places, growth))
        costs = _with_lessons(costs, lessons)
        found = _add_up(plan, folder, missing, costs, lessons, count, where, start_s)
    found = replace(found, remarks=tuple(told))
    return replace(found, folder=None, done=None, free_bytes=None) if _is_file(address) else found


def _is_file(address: str) -> bool:
    """Whether the address is a cluster.yaml, of a cluster that is not there yet."""
    return address.endswith((".yaml", ".yml"))


@contextmanager
def _folder(storage: str | Path, address: str, spec: ExperimentSpec) -> Iterator[ResultsFolder]:
    """STORAGE/NAME; an empty one where the storage is that of a cluster.yaml: nothing is known of it here."""
    if not _is_file(address):
        yield results_folder(storage, spec)
        return
    with tempfile.TemporaryDirectory(prefix="kvtune-plan-") as place:
        yield results_folder(place, spec)


def refuse_unplaceable(spec: ExperimentSpec, places: Sequence[Place], growth: Growth) -> None:
    """Raise InputError where no node that stands or may be added holds a trial, naming what is short."""
    lack = lacking(spec.resources, [place.resources for place in (*places, *growth.types)])
    if lack and growth.known:
        raise InputError(lack)


Reached = tuple[Sequence[Place], Growth, str, At]


@contextmanager
def _reached(address: str, spec: ExperimentSpec, console: Console) -> Iterator[Reached]:
    """Where the trials may go, and a way to probe one there."""
    if _is_file(address):
        places, growth = capacity.cluster_file(address)
        yield places, growth, f"the cluster of {address}{GROWN}", _here
        return
    check_address(address, spec.resources)
    told = spec.resources.gpus or spec.resources.memory_gib
    if address == SERIAL or (address == LOCAL and not told):
        here = Place("this machine", {"CPU": float(cpus()), "GPU": MOST, "memory": math.inf})
        yield [here], Growth(), HERE, _here
        return
    with (
        closing.noting_signals() as ended,
        reaching(address),
        driving(address, spec.resources, console.print, ended) as driver,
    ):
        growth = Growth() if address == LOCAL else driver.ask(capacity.growth_here)
        where = HERE if address == LOCAL else "the cluster" + GROWN * bool(growth.types)
        yield driver.ask(capacity.standing_nodes), growth, where, partial(driver.ask, _on_ray)


def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _on_ray(function: Callable[..., Any], job: Job, *arguments: Any) -> Any:
    """In a worker with the job's resources."""
    import ray

    remote = ray.remote(num_cpus=job.cpus, num_gpus=job.gpus, max_retries=0, max_calls=1)(function)
    try:
        return ray.get(remote.remote(job, *arguments))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, InputError) else error) from None


def _probe_arms(jobs: Mapping[str, Job], missing: Sequence[Cell], at: At) -> tuple[dict[str, Cost], float]:
    """Arm -> its cost, each distinct configuration once; and what the first process of a worker costs."""
    sizes = {cell.arm: cell.config.eval_size for cell in missing}
    found: dict[str, tuple[Cost, float]] = {arm: at(probe, jobs[arm], size) for arm, size in sizes.items()}
    starts = [start for _, start in found.values()]
    return {arm: cost for arm, (cost, _) in found.items()}, max(starts, default=0.0)


def _with_lessons(costs: Mapping[str, Cost], lessons: Sequence[Lessons]) -> dict[str, Cost]:
    """The costs with the steps and evaluations of trials that read the teacher's cache."""
    cached = {arm: cost for found in lessons for arm, cost in found.costs.items()}
    return {
        arm: replace(cost, step_s=cached[arm].step_s, eval_s=cached[arm].eval_s) if arm in cached else cost
        for arm, cost in costs.items()
    }


def _add_up(
    plan: Plan,
    folder: ResultsFolder,
    missing: Sequence[Cell],
    costs: Mapping[str, Cost],
    lessons: Sequence[Lessons],
    slots: int,
    where: str,
    start_s: float,
) -> Forecast:
    steps = _steps_of(plan.cells)
    left = {cell.trial_id: max(0, steps[cell.arm] - _reached_step(folder, cell)) for cell in missing}
    seconds = [costs[cell.arm].trial_s(cell.config, left[cell.trial_id]) for cell in missing]
    disk = _disk(plan, missing, costs, lessons, steps)
    lessons_s = sum(found.make_s for found in lessons)
    at_once = min(slots, len(missing)) if where == HERE else 1
    return Forecast(
        name=plan.spec.name,
        plan_hash=plan.to_dict()["plan_hash"],
        folder=str(folder.path),
        trials=len(plan.cells),
        done=len(plan.cells) - len(missing),
        to_run=len(missing),
        steps=sum(steps[cell.arm] for cell in plan.cells),
        steps_left=sum(left.values()),
        slots=slots,
        where=where,
        arms=tuple(costs.values()),
        trial_s={cell.arm: costs[cell.arm].trial_s(cell.config, steps[cell.arm]) for cell in missing},
        lessons_s=lessons_s,
        total_s=sum(seconds) + lessons_s,
        wall_s=start_s + lessons_s / slots + makespan(seconds, slots),
        disk_bytes=disk,
        free_bytes=free_at(folder.path),
        memory_bytes=at_once * max((cost.peak_bytes for cost in costs.values()), default=0),
        machine_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if where == HERE else None,
        effect=effect_of(plan, folder),
        remarks=(),
    )


def refuse_full_disk(found: Forecast) -> None:
    """Raise InputError where the run would fill the disk, if it is known how much is free there."""
    needed = found.disk_bytes["all"]
    if found.free_bytes is not None and needed > found.free_bytes:
        raise InputError(
            f"--storage: the run will write {size(needed)} and {size(found.free_bytes)} are free at "
            f"{found.folder}: choose another --storage, free some, or lower base.save_total_limit."
        )


def makespan(seconds: Sequence[float], slots: int) -> float:
    """When the last of these is over, each taken in order by the slot that is free first."""
    free = [0.0] * slots
    for lasts in seconds:
        heapq.heappush(free, heapq.heappop(free) + lasts)
    return max(free)


def _steps_of(cells: Sequence[Cell]) -> dict[str, int]:
    """Arm -> optimizer steps of one of its trials."""
    return {cell.arm: _steps(cell.config) for cell in {cell.arm: cell for cell in cells}.values()}


def _steps(config: DistillConfig) -> int:
    if config.max_steps is not None:
        return config.max_steps
    from trainables.data import load_examples
    from trainables.distill import planned_steps

    return planned_steps(config, len(load_examples(config).train))


def _reached_step(folder: ResultsFolder, cell: Cell) -> int:
    """Where an unfinished trial would go on, if its newest checkpoint is intact."""
    found = TrialFolder(folder.trials / cell.trial_id).checkpoints()
    return int(found[0].name.rpartition("-")[2]) if found else 0


def _disk(
    plan: Plan,
    missing: Sequence[Cell],
    costs: Mapping[str, Cost],
    lessons: Sequence[Lessons],
    steps: Mapping[str, int],
) -> dict[str, int]:
    """What the run will still write, by kind. A trial keeps its last checkpoints when it ends."""
    checkpoints = records = values = 0
    for cell in missing:
        cost, config = costs[cell.arm], cell.config
        kept = min(config.save_total_limit, math.ceil(steps[cell.arm] / config.save_steps))
        checkpoints += kept * cost.checkpoint_bytes
        records += cost.record_bytes(config, steps[cell.arm])
        values += cost.values(config, steps[cell.arm])
    more = len(plan.cells) / len(missing) if missing else 0.0
    tables = int(values * more * PARQUET_BYTES) + (REPORT_BYTES if missing else 0)
    kinds = {
        "checkpoints": checkpoints,
        "records": records,
        "tables": tables,
        "teacher cache": sum(found.write_bytes for found in lessons),
    }
    return {**kinds, "all": sum(kinds.values())}


def effect_of(plan: Plan, folder: ResultsFolder) -> Effect:
    """What the planned pairs can show, in SDs of the paired differences and, where known, in the unit."""
    analysis, pairs = plan.spec.analysis, len(plan.spec.seeds)
    # All contrasts of the primary endpoint share the level (Holm); an A/A claims nothing and shares nothing.
    questions = 1 if analysis.mode == "aa" else max(1, len(plan.contrasts))
    alpha = level_of(analysis.alpha, analysis.looks) / questions
    floor = floor_of(pairs)
    dz = detectable_dz(pairs, alpha, POWER) if floor <= alpha else None
    return Effect(
        pairs=pairs,
        alpha=alpha,
        floor=floor,
        pairs_needed=least_pairs(alpha),
        dz=dz,
        metric=analysis.primary,
        sesoi=analysis.sesoi,
        sd_for_sesoi=analysis.sesoi / dz if analysis.sesoi and dz else None,
        known=tuple(_known_effects(plan, folder, dz)) if dz else (),
    )


def _known_effects(plan: Plan, folder: ResultsFolder, dz: float) -> Iterator[dict[str, Any]]:
    """The detectable effect by the SD of differences that are there; the differences stay untold."""
    if not folder.runs.is_file():
        return
    from analysis import compare, load

    experiment = load(folder.path)
    for treatment, baseline in plan.contrasts:
        if not {treatment, baseline} <= experiment.plan.arms.keys():
            continue
        found = compare(experiment, treatment=treatment, baseline=baseline)
        sd = found.statistics.sd
        if found.pairs >= 2 and sd:
            upper = upper_sd(sd, found.pairs)
            yield {
                "treatment": treatment,
                "baseline": baseline,
                "pairs": found.pairs,
                "sd": sd,
                "detectable": dz * sd,
                "upper_sd": upper,
                "detectable_at_upper_sd": dz * upper,
            }
