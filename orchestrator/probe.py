"""A few real steps of a trial in a temporary folder: what its parts cost in time, disk and memory."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from orchestrator.child import Job, Objective, run_in_child
from orchestrator.spec import Resources
from orchestrator.trials import Cell
from trainables.config import DistillConfig, InputError
from trainables.record import Row
from trainables.trial_folder import TrialFolder

STEPS = 6
"""The first warms up; the third and the last write a checkpoint; a full evaluation follows."""
SAVE_AT = 3
ROWS = 256
"""Held-out rows evaluated at most; more cost in proportion."""
SMALL_FILES_BYTES = 20_000
"""config.json, result.json, attempts.jsonl and output.log together."""


@dataclass(frozen=True)
class Cost:
    """What one trial of an arm costs, as measured."""

    arm: str
    start_s: float
    """Models, rows and tokens, before the first step."""
    step_s: float
    eval_s: float
    """One evaluation of all held-out rows."""
    save_s: float
    checkpoint_bytes: int
    train_row_bytes: int
    """metrics.jsonl and train.log, for each logged step."""
    eval_row_bytes: int
    predictions_bytes: int
    train_values: int
    """Metrics in a row, each of which is a row of metrics.parquet."""
    eval_values: int
    peak_bytes: int
    """Largest resident memory; on a GPU its own."""
    device: str

    def trial_s(self, config: DistillConfig, steps: int) -> float:
        """Seconds of so many steps with their evaluations and checkpoints."""
        _, evaluations = _counts(config, steps)
        saves = -(-steps // config.save_steps)
        return self.start_s + steps * self.step_s + evaluations * self.eval_s + saves * self.save_s

    def record_bytes(self, config: DistillConfig, steps: int) -> int:
        """Everything of a whole trial but its checkpoints."""
        rows, evaluations = _counts(config, steps)
        return (
            rows * self.train_row_bytes
            + evaluations * self.eval_row_bytes
            + self.predictions_bytes
            + SMALL_FILES_BYTES
        )

    def values(self, config: DistillConfig, steps: int) -> int:
        """Rows that a whole trial adds to metrics.parquet."""
        rows, evaluations = _counts(config, steps)
        return rows * self.train_values + evaluations * self.eval_values


def _counts(config: DistillConfig, steps: int) -> tuple[int, int]:
    """Logged training rows and evaluations of a whole trial."""
    evaluations = 1 + ((steps - 1) // config.eval_steps if config.eval_steps else 0)
    return -(-steps // config.logging_steps), evaluations


def probe(job: Job, eval_size: int) -> tuple[Cost, float]:
    """Run the job in a temporary folder that is gone afterwards; its cost, and what its first process cost.

    Raises InputError, in the arm's name, where it does not come to its end: neither would the trials.
    """
    place = Path(tempfile.mkdtemp(prefix="kvtune-probe-"))
    try:
        config = {**job.config, "output_dir": str(place)}
        began = time.time()
        outcome = run_in_child(replace(job, folder=str(place), config=config), lambda row: None)
        result = TrialFolder(place).read_result(DistillConfig.from_dict(config).hash())
        if outcome.status != "completed" or result is None:
            reason = outcome.reason or "it wrote no result"
            raise InputError(
                f"arm {job.arm!r}: its probe of {STEPS} steps ended as {outcome.status} ({reason}): mend the "
                "arm, for its trials would end alike."
            )
        folder = TrialFolder(place)
        return _cost(job.arm, folder, list(folder.read_metrics()), result, eval_size), max(
            0.0, folder.config.stat().st_mtime - began
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _cost(
    arm: str,
    folder: TrialFolder,
    rows: Sequence[Row],
    result: Mapping[str, Any],
    eval_size: int,
) -> Cost:
    at = [float(row["wall_s"]) for row in rows if row["split"] == "train"]
    gaps = [later - earlier for earlier, later in pairwise(at)]
    (evaluation,) = (row for row in rows if row["split"] == "eval")
    saving = gaps.pop(SAVE_AT - 1)
    step_s = statistics.median(gaps)
    save_s = max(0.0, saving - step_s)
    took = folder.result.stat().st_mtime - folder.config.stat().st_mtime
    scale = eval_size / ROWS if evaluation["n_items"] == ROWS else 1.0
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    return Cost(
        arm=arm,
        start_s=max(0.0, took - float(evaluation["wall_s"])),
        step_s=step_s,
        eval_s=max(0.0, float(evaluation["wall_s"]) - at[-1] - save_s) * scale,
        save_s=save_s,
        checkpoint_bytes=size_of(folder.checkpoints()[0]),
        train_row_bytes=len(lines[0]) + size_of(folder.log) // STEPS,
        eval_row_bytes=len(lines[-1]) * 2,
        predictions_bytes=int(size_of(folder.predictions) * scale),
        train_values=len(rows[0]["metrics"]),
        eval_values=len(evaluation["metrics"]),
        peak_bytes=int(result.get("peak_mem_bytes") or 0),
        device=str(result.get("device")),
    )


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(size_of(inner) for inner in path.iterdir())
    return path.stat().st_size if path.is_file() else 0


def probe_job(cell: Cell, resources: Resources, objective: Objective) -> Job:
    """The cell's configuration, cut down to a probe, under the trial's resources."""
    config = replace(
        cell.config,
        max_steps=STEPS,
        logging_steps=1,
        eval_steps=None,
        eval_size=min(cell.config.eval_size, ROWS),
        save_steps=SAVE_AT,
        threads=resources.cpus,
    )
    return Job(
        trial_id=f"probe-{cell.arm}",
        arm=cell.arm,
        seed=cell.seed,
        config_hash=config.hash(),
        config=config.to_dict(),
        folder="",
        cpus=resources.cpus,
        gpus=resources.gpus,
        memory_gib=resources.memory_gib,
        time_limit_s=resources.time_limit_s,
        attempts_allowed=1,
        attempts_before=0,
        experiment="",
        objective=objective,
    )
