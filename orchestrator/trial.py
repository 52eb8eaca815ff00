"""Ray's trainable around a trial, and the attempts that a trial is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator import attempts, space
from orchestrator.attempts import RESULTS, Outcome
from orchestrator.child import Job, Row, run_in_child
from orchestrator.shared import require_here
from orchestrator.trackers import Tracking
from orchestrator.watch import SUPERSEDED
from trainables.json_files import CorruptFile
from trainables.trial_folder import TrialFolder

REPORT_EVERY_S = 0.5
"""Seconds between two reports to Tune, which costs milliseconds each; the trial's own file has every row."""


def run_trial(job: Job, on_row: Callable[[Row], None], node: str | None = None) -> Outcome:
    """Run a trial until it has a result or its attempts are used up; every attempt goes into attempts.jsonl.

    The count of attempts is read from that file, so that it holds when Ray moves the trial to another worker.
    Diverging is a result. A trial that has a result is not run again. On a full storage it waits for room.
    """
    space.forget(Path(job.folder))
    outcome, needed, unwritten = _recorded(job), space.FLOOR, 0
    while outcome.retry and _used(job) + unwritten < job.attempts_allowed:
        if (lack := space.wait_for(Path(job.folder), needed)) is not None:
            return _give_up(job, lack, node)
        try:
            outcome = _attempt(job, on_row, node)
        except OSError as error:
            outcome = Outcome("crashed", f"its record could not be written: {error}", retry=True)
            unwritten += 1
        needed = max(space.FLOOR, outcome.needs_bytes)
    return outcome


def _give_up(job: Job, lack: str, node: str | None) -> Outcome:
    """A failure of the storage, on record if there is room for a line; the next launch tries again."""
    folder = Path(job.folder)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        attempts.end(folder, attempts.start(folder, job.code_rev, node), "crashed", lack)
    return Outcome("crashed", lack, retry=True)


def _used(job: Job) -> int:
    """Attempts of this launch that count as failures, or that go on elsewhere."""
    return sum(attempt.counts for attempt in attempts.read(Path(job.folder))[job.attempts_before :])


def _attempt(job: Job, on_row: Callable[[Row], None], node: str | None) -> Outcome:
    """One attempt, its start and end on record; a result on record counts whatever its writer died of."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    number = attempts.start(folder, job.code_rev, node)

    def current() -> bool:
        return attempts.is_current(folder, number)

    with Tracking(job, on_row) as tracking:
        outcome = run_in_child(job, tracking.add, current)
        recorded = _recorded(job)
        if recorded.status in RESULTS or outcome.status in RESULTS:
            outcome = recorded
        elif not current():
            return Outcome("crashed", SUPERSEDED)  # whoever ended this attempt has recorded it
        if outcome.needs_bytes:
            space.wait_for(folder, space.FLOOR, shown=outcome.needs_bytes)
        attempts.end(folder, number, outcome.status, outcome.reason)
        tracking.ended(outcome.status)
    return outcome


def run_cell(config: Mapping[str, Any]) -> None:
    """Tune's function trainable: one trial, in a fresh process, its rows relayed.

    It returns normally even if the trial failed, so that the warm worker lives on: attempts are counted
    here, and what became of a trial is read from its own folder.
    """
    from ray import get_runtime_context, tune

    job = Job.from_json(config["job"])
    require_here(Path(job.folder))
    latest: dict[str, Any] = {"alignment_mode": job.config["alignment_mode"]}
    reported = time.monotonic()

    def relay(row: Row) -> None:
        nonlocal reported
        latest.update({name: row[name] for name in ("step", "epoch", "tokens", "wall_s")})
        latest.update({f"{row['split']}/{name}": value for name, value in row["metrics"].items()})
        if time.monotonic() - reported >= REPORT_EVERY_S:
            reported = time.monotonic()
            tune.report(dict(latest))

    outcome = run_trial(job, relay, get_runtime_context().get_node_id())
    tune.report({**latest, "status": outcome.status})


def _recorded(job: Job) -> Outcome:
    """The outcome that result.json records; worth trying (again) where it records none."""
    try:
        result = TrialFolder(job.folder).read_result(job.config_hash)
    except CorruptFile as error:
        return Outcome("crashed", error.brief, retry=True)
    if result is None:
        return Outcome("crashed", "the trial wrote no result.json", retry=True)
    return Outcome(result["status"], result.get("failure_reason"))
