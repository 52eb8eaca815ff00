"""Every trial's own files, joined to the planned grid, as tables that the analysis reads anywhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from analysis.records import ResultsFolder
from orchestrator import attempts
from orchestrator.attempts import NO_WORD, RESULTS, Attempt
from trainables.json_files import LARGE, CorruptFile, Whole, read_object
from trainables.record import Row
from trainables.trial_folder import TrialFolder

TEXT, WHOLE, REAL = pa.string(), pa.int64(), pa.float64()
RUNS = {
    "experiment": TEXT, "plan_hash": TEXT, "trial_id": TEXT, "attempt": WHOLE, "arm": TEXT, "seed": WHOLE,
    "status": TEXT, "failure_reason": TEXT, "first_nonfinite_step": WHOLE, "planned_steps": WHOLE,
    "completed_steps": WHOLE, "tokens_seen": WHOLE, "config_hash": TEXT, "code_rev": TEXT, "env_hash": TEXT,
    "data_order_hash": TEXT, "init_hash": TEXT, "eval_set_hash": TEXT, "train_set_hash": TEXT,
    "student_params": WHOLE, "trainable_params": WHOLE, "aligner_params": WHOLE, "wall_s": REAL,
    "tokens_per_s": REAL, "peak_mem_bytes": WHOLE, "device": TEXT, "threads": WHOLE,
    "resumed_from_step": WHOLE, "max_grad_norm": REAL, "started_at": TEXT, "finished_at": TEXT, "host": TEXT,
}  # fmt: skip
METRICS = {
    "trial_id": TEXT, "attempt": WHOLE, "step": WHOLE, "tokens": WHOLE, "wall_s": REAL, "split": TEXT,
    "metric": TEXT, "value": REAL, "n_items": WHOLE,
}  # fmt: skip
ITEMS = {"trial_id": TEXT, "item_id": TEXT, "correct": pa.bool_()}
Record = dict[str, Any]


class PlannedCell(TypedDict):
    """A trial in plan.json; its name is that of a folder, and leads nowhere else."""

    trial_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    arm: str
    seed: Whole
    config_hash: str
    factors: NotRequired[dict[str, Any]]


@with_config(ConfigDict(extra="allow"))
class EarlierPlan(TypedDict):
    """What plan.json keeps of a plan before it."""

    plan_hash: str


@with_config(ConfigDict(extra="allow"))
class PlanFile(TypedDict):
    """What the orchestrator reads of plan.json; the analysis reads all of it (analysis.plan)."""

    name: str
    plan_hash: str
    arms: dict[str, dict[str, Any]]
    seeds: list[Whole]
    declared_factors: NotRequired[list[str]]
    cells: NotRequired[list[PlannedCell]]
    analysis: NotRequired[dict[str, Any]]
    history: NotRequired[list[EarlierPlan]]


PLAN = TypeAdapter(PlanFile)


@dataclass(frozen=True)
class Trial:
    """What one planned cell came to: its attempts and its result, and what its files would not tell."""

    cell: Mapping[str, Any]
    attempts: list[Attempt]
    result: Mapping[str, Any] | None
    rows: list[Row]
    items: list[tuple[str, bool]]
    config: Mapping[str, Any]
    """Its config.json; empty where there is none."""
    problem: str | None
    """A file that could not be read: the trial then counts as crashed."""

    @property
    def status(self) -> str:
        """completed, diverged, crashed ..., or not_run. A corrupt record is a crash, whatever it said."""
        if self.problem is not None:
            return "crashed"
        if self.result is not None:
            return str(self.result["status"])
        if not self.attempts:
            return "not_run"
        last = self.attempts[-1].status
        return "crashed" if last is None or last in RESULTS else last

    @property
    def reason(self) -> str | None:
        if self.problem is not None:
            return self.problem
        if self.result is not None:
            return self.result.get("failure_reason")
        if not self.attempts:
            return None
        last = self.attempts[-1]
        if last.status in RESULTS:
            return "its result.json is gone"
        return last.reason or (NO_WORD if last.status is None else None)


def collect(folder: ResultsFolder) -> list[Trial]:
    """Read every planned trial and write runs.parquet, metrics.parquet and items.parquet, each atomically.

    A planned trial has its row whatever happened to it; a corrupt file makes a row that says so.
    """
    plan = read_plan(folder)
    trials = read_trials(folder)
    factors = plan["declared_factors"]
    records = [record for trial in trials for record in _run_records(trial, plan, factors)]
    _write(folder.runs, records, {**RUNS, **{f"factor.{name}": TEXT for name in factors}})
    _write(folder.metrics, (record for trial in trials for record in _metric_records(trial)), METRICS)
    items = (
        {"trial_id": trial.cell["trial_id"], "item_id": item, "correct": correct}
        for trial in trials
        for item, correct in trial.items
    )
    _write(folder.items, items, ITEMS)
    return trials


def read_trials(folder: ResultsFolder) -> list[Trial]:
    """Every planned trial by its own files."""
    return [read_trial(folder.trials / cell["trial_id"], cell) for cell in read_plan(folder)["cells"]]


def read_plan(folder: ResultsFolder) -> dict[str, Any]:
    """plan.json. Raises FileNotFoundError, or CorruptFile where it is of no use."""
    missing: dict[str, Any] = {"cells": [], "declared_factors": []}
    return missing | read_object(folder.plan, PLAN, largest=LARGE, way_out="restore it from a copy")


def read_trial(path: Path, cell: Mapping[str, Any]) -> Trial:
    """One trial's files, as far as they can be read."""
    files, problems = TrialFolder(path), dict[str, None]()

    def read(reader: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return reader()
        except CorruptFile as error:
            problems[error.brief] = None
            return otherwise

    return Trial(
        cell=cell,
        attempts=read(lambda: attempts.known(path), []),
        result=read(lambda: files.read_result(cell["config_hash"]), None),
        rows=read(
            lambda: list({(row["step"], row["split"]): row for row in files.read_metrics()}.values()), []
        ),
        items=read(lambda: [(item["item_id"], item["correct"]) for item in files.read_items()], []),
        config=read(lambda: files.config_of(cell["config_hash"]), {}),
        problem="; ".join(problems) or None,
    )


def _run_records(trial: Trial, plan: Mapping[str, Any], factors: Iterable[str]) -> list[Record]:
    """One record per attempt; one with status not_run where there was none. The last tells the outcome."""
    config = {**trial.cell.get("factors", {}), **trial.config}
    shared = {
        "experiment": plan["name"],
        "plan_hash": plan["plan_hash"],
        **{name: trial.cell[name] for name in ("trial_id", "arm", "seed", "config_hash")},
        "max_grad_norm": config.get("max_grad_norm"),
        **{f"factor.{name}": json.dumps(config.get(name), sort_keys=True) for name in factors},
    }
    earlier = [
        {
            **shared,
            **_seen_of(attempt),
            "status": attempt.status or "crashed",
            "failure_reason": attempt.reason if attempt.status else NO_WORD,
        }
        for attempt in trial.attempts[:-1]
    ]
    last = {
        **shared,
        **(_seen_of(trial.attempts[-1]) if trial.attempts else {"attempt": 0}),
        "status": trial.status,
        "failure_reason": trial.reason,
        "completed_steps": trial.rows[-1]["step"] if trial.rows else 0,
        "tokens_seen": trial.rows[-1]["tokens"] if trial.rows else 0,
    }
    if trial.result is not None:
        told = {name: trial.result.get(name) for name in RUNS if trial.result.get(name) is not None}
        last = {
            **told,
            **last,
            **{name: told[name] for name in ("completed_steps", "tokens_seen") if name in told},
        }
        last["env_hash"] = _hash(trial.result.get("versions") or {})
    return [*earlier, last]


def _seen_of(attempt: Attempt) -> Record:
    return {
        "attempt": attempt.number,
        "started_at": attempt.started_at,
        "finished_at": attempt.ended_at,
        "host": attempt.host,
        "code_rev": attempt.code_rev,
    }


def _metric_records(trial: Trial) -> Iterable[Record]:
    attempt = trial.attempts[-1].number if trial.attempts else 0
    for row in trial.rows:
        place = {name: row[name] for name in ("step", "tokens", "wall_s", "split", "n_items")}
        for metric, value in row["metrics"].items():
            yield {
                "trial_id": trial.cell["trial_id"],
                "attempt": attempt,
                **place,
                "metric": metric,
                "value": value,
            }


def _write(path: Path, records: Iterable[Record], columns: Mapping[str, pa.DataType]) -> None:
    """Write a table whole or not at all; a value that does not fit its column becomes null."""
    lists: dict[str, list[Any]] = {name: [] for name in columns}
    for record in records:
        for name, kind in columns.items():
            lists[name].append(_fitting(record.get(name), kind))
    table = pa.table({name: pa.array(lists[name], type=kind) for name, kind in columns.items()})
    part = path.with_name(path.name + ".part")
    try:
        pq.write_table(table, part)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _fitting(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if kind == TEXT:
        return value if isinstance(value, str) else json.dumps(value)
    try:
        if kind == WHOLE:
            return int(value) if abs(int(value)) < 2**63 else None
        return float(value) if kind == REAL else bool(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
