"""What --json prints: one JSON object on a line, nothing that is not finite, nothing else on stdout."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.report import ReportResult
    from orchestrator.launch import Summary
    from orchestrator.progress import Board


def emit(value: Mapping[str, Any]) -> None:
    """Print one object, and let whoever reads a pipe have it now."""
    print(json.dumps(_strict(value), allow_nan=False), flush=True)


def of_summary(summary: Summary, found: ReportResult | None, exit_code: int) -> dict[str, Any]:
    """The last line of a run: what became of every planned trial, and the report if there is one."""
    return {
        "event": "summary",
        "folder": str(summary.folder),
        "exit_code": exit_code,
        "interrupted": summary.interrupted,
        "started": summary.started,
        "counts": dict(summary.counts),
        "trials": [
            {
                **_named(trial.cell),
                "status": trial.status,
                "attempts": len(trial.attempts),
                "reason": trial.reason,
            }
            for trial in summary.trials
        ],
        "problem": summary.lack,
        "report": of_report(found) if found else None,
    }


def of_report(found: ReportResult) -> dict[str, Any]:
    """Verdict, arms and comparisons, and where the report lies."""
    return {
        "verdict": found.verdict,
        "sentence": found.sentence,
        "exit_code": found.exit_code,
        "html": str(found.html),
        "markdown": str(found.markdown),
        "results": str(found.results),
        "arms": found.arms,
        "comparisons": [comparison.to_dict() for comparison in found.comparisons],
    }


def of_board(folder: str | Path, board: Board) -> dict[str, Any]:
    """Where every trial of an experiment stands."""
    return {
        "folder": str(folder),
        "counts": board.counts(),
        "trials": [{**_named(cell), **board.states[cell["trial_id"]].to_dict()} for cell in board.cells],
    }


def _named(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cell[name] for name in ("trial_id", "arm", "seed")}


def _strict(value: Any) -> Any:
    """Plain values as JSON has them: what is not finite is null."""
    if isinstance(value, Mapping):
        return {str(name): _strict(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_strict(inner) for inner in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
