"""Ray's trainable around a trial, and the attempts that a trial is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator import attempts
from orchestrator.child import Job, Outcome, Row, run_in_child
from orchestrator.trial_files import CorruptFile, read_result

REPORT_EVERY_S = 0.5
"""Seconds between two reports to Tune, which costs milliseconds each; the trial's own file has every row."""


def run_trial(job: Job, on_row: Callable[[Row], None]) -> Outcome:
    """Run a trial until it has a result or its attempts are used up; every attempt goes into attempts.jsonl.

    The count of attempts is read from that file, so that it holds when Ray moves the trial to another worker.
    Diverging is a result. A trial that has a result is not run again.
    """
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    outcome = _recorded(job)
    used = len(attempts.read(folder)) - job.attempts_before
    while outcome.retry and used < job.attempts_allowed:
        number = attempts.start(folder, job.code_rev)
        outcome = run_in_child(job, on_row)
        if outcome.status in attempts.RESULTS:
            outcome = _recorded(job)
        attempts.end(folder, number, outcome.status, outcome.reason)
        used += 1
    return outcome


def run_cell(config: Mapping[str, Any], jobs: Mapping[tuple[str, int], Job]) -> None:
    """Tune's function trainable: the trial of this arm and seed, in a fresh process, its rows relayed.

    It returns normally even if the trial failed, so that the warm worker lives on: attempts are counted
    here, and what became of a trial is read from its own folder.
    """
    from ray import tune

    job = jobs[config["arm"], config["seed"]]
    latest: dict[str, Any] = {"alignment_mode": job.config["alignment_mode"]}
    reported = 0.0

    def relay(row: Row) -> None:
        nonlocal reported
        latest.update({name: row[name] for name in ("step", "epoch", "tokens", "wall_s")})
        latest.update({f"{row['split']}/{name}": value for name, value in row["metrics"].items()})
        if time.monotonic() - reported >= REPORT_EVERY_S:
            reported = time.monotonic()
            tune.report(dict(latest))

    outcome = run_trial(job, relay)
    tune.report({**latest, "status": outcome.status})


def _recorded(job: Job) -> Outcome:
    """The outcome that result.json records; worth trying (again) where it records none."""
    try:
        result = read_result(Path(job.folder), job.config_hash)
    except CorruptFile as error:
        return Outcome("crashed", str(error), retry=True)
    if result is None:
        return Outcome("crashed", "the trial wrote no result.json", retry=True)
    return Outcome(result["status"], result.get("failure_reason"))
