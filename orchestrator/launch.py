"""A run from plan to tables: what is missing is run, under Ray Tune or serially, and then counted."""

from __future__ import annotations

import fcntl
import json
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.records import ResultsFolder
from orchestrator import attempts, capacity, changes, closing, fence, foresight, provenance, sockets, trackers
from orchestrator.attempts import RESULTS
from orchestrator.checks import (
    SERIAL,
    as_cell,
    check_address,
    missing_cells,
    preflight,
    prepare,
    refuse_full_disk,
    results_folder,
)
from orchestrator.child import DISTILL, Job, Objective
from orchestrator.collect import Trial, collect, read_trial
from orchestrator.driver import Driver, Lost, driving, reaching
from orchestrator.progress import Progress, Tell
from orchestrator.shared import check_shared
from orchestrator.spec import ExperimentSpec, Resources
from orchestrator.teacher_tasks import NO_TEACHERS, Teachers, provide
from orchestrator.terminal import Console
from orchestrator.trial import run_trial
from orchestrator.trials import Cell, Plan, in_known_folders, make_plan
from orchestrator.tuning import LOCAL, fit
from orchestrator.workers import check_devices, placed
from trainables.config import InputError, one_line
from trainables.trial_folder import set_aside, write_text

INTERRUPTED = 130
LOG = "driver.log"
"""In the folder: what was said where Ray, or what drives it, failed."""


@dataclass(frozen=True)
class Summary:
    """What became of a run, counted from the trials' own records."""

    folder: Path
    trials: list[Trial]
    started: int
    """Trials that this launch had to run."""
    interrupted: bool = False
    lack: str | None = None
    """Why the tables could not be written; the trials' own records are as told here."""

    @property
    def counts(self) -> Counter[str]:
        """Planned trials by status."""
        return Counter(trial.status for trial in self.trials)

    @property
    def unfinished(self) -> list[Trial]:
        """Planned trials without a result."""
        return [trial for trial in self.trials if trial.status not in RESULTS]

    @property
    def exit_code(self) -> int:
        """0 when every planned trial has a result, diverged or not, and the tables stand; 130 on Ctrl-C."""
        if self.interrupted:
            return INTERRUPTED
        return 1 if self.unfinished or self.lack else 0


def run(
    spec: ExperimentSpec,
    *,
    storage: str | Path = "runs",
    address: str = "local",
    objective: Objective | None = None,
    console: Console | None = None,
    yes: bool = False,
    tell: Tell | None = None,
) -> Summary:
    """Run what the experiment's folder STORAGE/NAME lacks, and write its tables.

    address: `local` starts Ray on this machine, `auto` or host:port joins a cluster (the storage must then be
    shared), `serial` runs the trials one after another without Ray, to the same bits.
    tell: is given the run's progress as plain values, for machines.
    yes: agree that finished trials are set aside or left out; else the user is asked, or the run refused.
    Trials that completed or diverged are never run again. Raises InputError before anything is started; what
    happens to a trial afterwards is in the summary, never an exception.
    """
    objective, console = objective or Objective(), console or Console(stderr=True)
    with closing.noting_signals() as ended:
        launch = provenance.describe_launch(address=address, started_at=attempts.now())
        check_address(address, spec.resources)
        for line in sockets.moved(ray=address == LOCAL):
            changes.say(console, line)
        trackers.refuse_missing(spec.trackers)
        plan = make_plan(spec)
        folder = results_folder(storage, spec)
        plan = in_known_folders(plan, folder.trials)
        known = changes.known_plan(folder, plan)
        missing = missing_cells(plan, folder)
        preflight(missing, objective, console)
        refuse_full_disk(missing, folder, objective)
        leaving = changes.leaving(known, plan, folder)
        changes.tell(known, leaving, plan, console)
        changes.agree(changes.edits(known, plan, folder), leaving, plan, yes=yes, console=console)
        if missing and len(missing) < len(plan.cells):
            provenance.tell_drift(folder.provenance, launch, lambda line: changes.say(console, line))
        with _locked(folder):
            _tell_what_runs(missing, plan, address, console)
            with _ray(address if missing else SERIAL, spec.resources, folder, console, ended) as driver:
                if objective.distill == DISTILL and missing:
                    with reaching(address):
                        _tell_remarks(plan, missing, address, driver, console)
                        check_devices(missing, spec.resources, driver.ask if driver else None)
                launch["teachers"] = prepare(missing, objective, console)
                with _writable(folder):
                    _write_plan(plan, folder, changes.history(known, plan, folder, launch["started_at"]))
                    provenance.write(folder.provenance, launch)
                    trackers.prepare(spec.trackers if missing else [], folder.path, spec.name)
                jobs: list[Job] = []
                with _whatever_happens(jobs, driver, folder, console, ended):
                    with _writable(folder):
                        teachers = _teachers(missing, plan, folder, objective, driver, console)
                        jobs += _jobs(missing, plan, folder, objective, launch["code_rev"], teachers)
                    _run_jobs(jobs, driver, plan, folder, console, tell)
                    ended.closing()
            _tell_complaints(jobs, console)
            trials, lack = _close(jobs, plan, folder, launch, interrupted=bool(ended))
        return Summary(
            folder=folder.path, trials=trials, started=len(jobs), interrupted=bool(ended), lack=lack
        )


def _tell_what_runs(missing: Sequence[Cell], plan: Plan, address: str, console: Console) -> None:
    total, name = len(plan.cells), plan.spec.name
    if not missing:
        line = f"{name}: all {total} trials have a result, nothing to run"
    else:
        where = {SERIAL: "one after another", LOCAL: "on this machine's Ray"}.get(
            address, "on the Ray cluster"
        )
        line = f"{name}: {len(missing)} of {total} trials to run, {where}"
    changes.say(console, line)


def _tell_remarks(
    plan: Plan, missing: Sequence[Cell], address: str, driver: Driver | None, console: Console
) -> None:
    far = driver is not None and address != LOCAL
    places = driver.ask(capacity.standing_nodes) if driver and far else [capacity.this_machine()]
    for line in foresight.remarks(plan, missing, places):
        changes.say(console, f"{plan.spec.name}: {line}")


def _write_plan(plan: Plan, folder: ResultsFolder, history: list[dict[str, Any]]) -> None:
    """plan.json first: by it the folder is known for this experiment's, wherever the writing ends."""
    told = {**plan.to_dict(), "setup": plan.setup, "history": history}
    write_text(folder.plan, json.dumps(told, indent=2, allow_nan=False) + "\n")
    write_text(folder.experiment_yaml, plan.spec.to_yaml())
    folder.trials.mkdir(parents=True, exist_ok=True)


def _teachers(
    cells: Sequence[Cell],
    plan: Plan,
    folder: ResultsFolder,
    objective: Objective,
    driver: Driver | None,
    console: Console,
) -> Teachers:
    """What the frozen teachers have to say, computed once; only our own trials ask for it."""
    if not cells or objective.distill != DISTILL:
        return NO_TEACHERS
    return provide(
        cells,
        folder.path.parent,
        plan.spec.teacher_cache,
        plan.spec.resources,
        ask=driver.ask if driver else None,
        tell=lambda line: changes.say(console, line),
    )


def _jobs(
    cells: Sequence[Cell],
    plan: Plan,
    folder: ResultsFolder,
    objective: Objective,
    code_rev: str | None,
    teachers: Teachers = NO_TEACHERS,
) -> list[Job]:
    resources = plan.spec.resources
    jobs = []
    for cell in cells:
        place = folder.trials / cell.trial_id
        if read_trial(place, as_cell(cell)).problem is not None:
            set_aside(place)
        cache = teachers.caches.get(cell.trial_id)
        config = replace(placed(cell.config, resources), output_dir=str(place), teacher_cache=cache)
        jobs.append(
            Job(
                trial_id=cell.trial_id,
                arm=cell.arm,
                seed=cell.seed,
                config_hash=cell.config.hash(),
                config=config.to_dict(),
                folder=str(place),
                cpus=resources.cpus,
                gpus=resources.gpus,
                memory_gib=resources.memory_gib,
                time_limit_s=resources.time_limit_s,
                attempts_allowed=1 + resources.max_failures,
                attempts_before=len(attempts.read(place)),
                experiment=plan.spec.name,
                trackers=tuple(plan.spec.trackers),
                builtin=teachers.builtin,
                code_rev=code_rev,
                objective=objective,
            )
        )
    return jobs


def _run_jobs(
    jobs: Sequence[Job],
    driver: Driver | None,
    plan: Plan,
    folder: ResultsFolder,
    console: Console,
    tell: Tell | None,
) -> None:
    """Run the jobs under Ray Tune, or one after another in this process where there is no Ray."""
    if not jobs:
        return
    with Progress(folder.trials, plan.to_dict()["cells"], console, tell) as progress:
        if driver is not None:
            driver.ask(fit, jobs, over=lambda: progress.board.over)
            return
        for job in jobs:
            run_trial(job, lambda row: None)


@contextmanager
def _whatever_happens(
    jobs: Sequence[Job],
    driver: Driver | None,
    folder: ResultsFolder,
    console: Console,
    ended: closing.Ending,
) -> Iterator[None]:
    """End the trials where the user ends the run, or Ray or anything else fails: what is on record counts.

    What the user can mend is refused as ever.
    """
    try:
        yield
    except KeyboardInterrupt:
        ended.arrived()
        closing.cancel(jobs)
        if driver is not None:
            driver.end()
    except InputError:
        raise
    except Exception as error:
        ended.closing()
        if driver is not None:
            driver.end()
        _tell_failure(error, driver, folder, console)


def _tell_failure(error: Exception, driver: Driver | None, folder: ResultsFolder, console: Console) -> None:
    """In one sentence, and in the folder with all that was printed."""
    lost = isinstance(error, Lost)
    what = one_line(error) if lost else f"{type(error).__name__}: {one_line(error)[:300]}"
    changes.say(console, f"{what}; what was finished counts, and {folder.path / LOG} has the details.")
    with suppress(OSError), (folder.path / LOG).open("a", encoding="utf-8") as log:
        told = what if lost else traceback.format_exc()
        log.write(f"{attempts.now()} {told}\n{driver.said() if driver else ''}\n")


def _tell_complaints(jobs: Sequence[Job], console: Console) -> None:
    for line in trackers.complaints(Path(job.folder) for job in jobs if job.trackers):
        changes.say(console, f"tracker left out of some trial: {line}")


def _close(
    jobs: Sequence[Job], plan: Plan, folder: ResultsFolder, launch: dict[str, Any], *, interrupted: bool
) -> tuple[list[Trial], str | None]:
    """The trials by their closed records, and why the tables could not be written, if they could not."""
    try:
        closing.close(jobs, interrupted=interrupted)
        trials = collect(folder)
        provenance.write(folder.provenance, {**launch, "finished_at": attempts.now()})
    except OSError as error:
        lack = (
            f"the tables in {folder.path} could not be written ({error}): make room there, then run it again."
        )
        cells = plan.to_dict()["cells"]
        return [read_trial(folder.trials / cell["trial_id"], cell) for cell in cells], lack
    return trials, None


@contextmanager
def _ray(
    address: str, resources: Resources, folder: ResultsFolder, console: Console, ended: closing.Ending
) -> Iterator[Driver | None]:
    """The process that drives Ray, on a cluster that shares the storage; None where trials run without."""
    if address == SERIAL:
        yield None
        return
    with driving(address, resources, console.print, ended) as driver:
        if address != LOCAL:
            with reaching(address):
                driver.ask(check_shared, folder.path)
        yield driver


@contextmanager
def _writable(folder: ResultsFolder) -> Iterator[None]:
    """Refuse a storage that cannot be written, before anything is started."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--storage: {folder.path} cannot be written ({error.strerror or error}): make room there, "
            "or choose another."
        ) from None


@contextmanager
def _locked(folder: ResultsFolder) -> Iterator[None]:
    """Make the folder and keep a second `kvtune run` out of it; one where nothing was started goes again."""
    new = not folder.path.exists()
    with _writable(folder):
        folder.path.mkdir(parents=True, exist_ok=True)
        file = (folder.path / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is at work in {folder.path}: wait for it, or end it.") from None
        except OSError as error:
            if error.errno not in fence.NO_LOCKS:
                raise
        try:
            yield
        except (InputError, KeyboardInterrupt):
            with suppress(OSError):
                if new and [path.name for path in folder.path.iterdir()] == [".lock"]:
                    shutil.rmtree(folder.path)
            raise
