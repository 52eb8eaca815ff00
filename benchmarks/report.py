"""How fast a large experiment becomes a report: against pandas' plain reading of the same files, in one run.

    python -m benchmarks.report [--trials 1000] [--steps 1000]

Makes the tables of TRIALS trials (two arms) with six metrics at STEPS steps, then times, each in a process of
its own: pandas reading the two parquet files; write_report, which loads, compares and draws. Prints seconds,
peak memory and the ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

METRICS = {"eval_ce": "eval", "eval_accuracy": "eval", "kv_cka": "eval", "ce": "train", "loss": "train",
           "grad_norm": "train"}  # fmt: skip
PLAIN = (
    "import pandas as pd; tables = [pd.read_parquet(f'{folder}/{n}.parquet') for n in ('runs', 'metrics')]"
)
OURS = "from analysis.report import write_report; write_report(folder)"
MEASURED = (
    "import resource, sys, time; folder = sys.argv[1]; began = time.perf_counter(); {work}; "
    "print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), asked.trials, asked.steps)
        rows = asked.trials * asked.steps * len(METRICS)
        print(f"{asked.trials} trials x {asked.steps} steps x {len(METRICS)} metrics = {rows:,} rows")
        plain = measured("pandas reads the tables", PLAIN, folder)
        ours = measured("load, compare, report", OURS, folder)
        print(f"ratio {ours[0] / plain[0]:.2f} in time, {ours[1] / plain[1]:.2f} in memory")


def measured(name: str, work: str, folder: str) -> tuple[float, float]:
    """Seconds, and GiB of peak memory, of a fresh process that does the work; imports count."""
    command = [sys.executable, "-c", MEASURED.format(work=work), folder]
    seconds, gib = map(
        float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    )
    print(f"{name}: {seconds:.2f} s, {gib:.2f} GiB")
    return seconds, gib


def make(folder: Path, trials: int, steps: int) -> None:
    """plan.json, runs.parquet and metrics.parquet, as a run of that size leaves them."""
    arms, seeds = ("flat", "structured"), range(trials // 2)
    names = [f"{arm}-seed{seed}-{'0' * 12}" for seed in seeds for arm in arms]
    cells = [
        {"trial_id": f"{arm}-seed{seed}-{'0' * 12}", "arm": arm, "seed": seed, "config_hash": "0" * 12,
         "factors": {"alignment_mode": arm}}
        for seed in seeds for arm in arms
    ]  # fmt: skip
    primary = {
        "metric": "eval_ce",
        "split": "eval",
        "at": "final",
        "k": 3,
        "direction": "min",
        "margin": 0.02,
    }
    plan = {
        "name": "large",
        "plan_hash": "0" * 12,
        "arms": {arm: {"alignment_mode": arm} for arm in arms},
        "seeds": list(seeds),
        "declared_factors": ["alignment_mode"],
        "cells": cells,
        "contrasts": [{"treatment": "structured", "baseline": "flat"}],
        "analysis": {"baseline": "flat", "primary": primary, "secondary": ["eval_accuracy"], "alpha": 0.05},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    _write_runs(folder / "runs.parquet", cells, steps)
    _write_metrics(folder / "metrics.parquet", names, steps)


def _write_runs(path: Path, cells: list[dict[str, object]], steps: int) -> None:
    shared = {"attempt": 1, "status": "completed", "planned_steps": steps, "completed_steps": steps,
              "tokens_seen": steps * 100, "eval_set_hash": "held-out", "wall_s": 60.0,
              "tokens_per_s": steps / 0.6, "peak_mem_bytes": 2**29, "aligner_params": 1200}  # fmt: skip
    empty = {"failure_reason": None, "first_nonfinite_step": None}
    rows = [
        {**{name: cell[name] for name in ("trial_id", "arm", "seed", "config_hash")}, **shared, **empty,
         "data_order_hash": f"order-{cell['seed']}", "init_hash": f"init-{cell['seed']}",
         "factor.alignment_mode": json.dumps(cell["arm"])}
        for cell in cells
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)


def _write_metrics(path: Path, names: list[str], steps: int) -> None:
    """A row group per hundred trials, as many rows as the columns of that part need."""
    rng, step = np.random.default_rng(0), np.arange(1, steps + 1)
    writer = None
    for start in range(0, len(names), 100):
        part = names[start : start + 100]
        rows = len(part) * steps * len(METRICS)
        values = 1 + np.exp(-3 * np.tile(step, rows // steps) / steps) + rng.normal(0, 0.02, rows)
        table = pa.table(
            {
                "trial_id": np.repeat(part, steps * len(METRICS)),
                "attempt": np.ones(rows, dtype=np.int64),
                "step": np.tile(step, rows // steps),
                "tokens": np.tile(step * 100, rows // steps),
                "wall_s": np.tile(step * 0.06, rows // steps),
                "split": np.tile(np.repeat(list(METRICS.values()), steps), len(part)),
                "metric": np.tile(np.repeat(list(METRICS), steps), len(part)),
                "value": values,
                "n_items": np.full(rows, 256),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


if __name__ == "__main__":
    main()
