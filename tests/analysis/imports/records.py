"""The comparison that most tests of imports make: a loss that B lowers by 0.1 to 0.102, in three steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import Comparison, compare, load
from analysis.intake import import_runs

STEPS = (100, 200, 300)
DIFFERENCE = -0.101
MAPPING: dict[str, Any] = {
    "arm": "method",
    "seed": "seed",
    "step": "iter",
    "metrics": {"val_loss": {"column": "loss", "direction": "min", "unit": "nats"}},
    "analysis": {"baseline": "A", "primary": "val_loss", "margin": 0.02},
}


def value(arm: str, seed: int, step: int) -> float:
    return round(2 - step / 500 - (0.1 + 0.001 * (seed % 3)) * (arm == "B") + 0.01 * seed, 6)


def table(seeds: int = 6, steps: tuple[int, ...] = STEPS) -> pd.DataFrame:
    """method, seed, iter, loss: a row per arm, seed and step."""
    return pd.DataFrame(
        [
            (arm, seed, step, value(arm, seed, step))
            for arm in "AB"
            for seed in range(seeds)
            for step in steps
        ],
        columns=["method", "seed", "iter", "loss"],
    )


def mapped(**changes: Any) -> dict[str, Any]:
    """The mapping with fields replaced; a field that is None is left out, `analysis` is merged."""
    mapping = copy.deepcopy(MAPPING)
    mapping["analysis"] |= changes.pop("analysis", {})
    return {name: given for name, given in {**mapping, **changes}.items() if given is not None}


def judged(
    kind: str, files: Path | list[Path], mapping: dict[str, Any], out: Path, arm: str = "B"
) -> Comparison:
    paths = [files] if isinstance(files, Path) else files
    return compare(load(import_runs(kind, paths, mapping, "map.yaml", out)), treatment=arm)


def statuses(out: Path) -> dict[str, tuple[str, str | None]]:
    """trial_id -> status and reason."""
    runs = load(out).runs
    reasons = runs["failure_reason"].astype(object).where(runs["failure_reason"].notna(), None)
    return dict(zip(runs["trial_id"], zip(runs["status"], reasons, strict=True), strict=True))


def remarks(out: Path) -> str:
    imported = load(out).plan.imported
    assert imported is not None
    return " ".join(imported.remarks)
