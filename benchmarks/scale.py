"""How a run grows: 100, 1,000 and 10,000 trials of a stub on a simulated cluster of many slots.

All is real but the training: Ray Tune schedules every trial, a warm worker starts a process for it, which
writes a row and a result, and the launch shows, collects and tabulates them. Each size runs in a launch of
its own; its peak memory, and that of the process that drives Ray for it, are told by the kernel. The slots
are processes of this machine, so that with more of them than cores a trial's time is what the machine's cores
need for it, not what a cluster's would. The first trials, as many as slots, wait for each other, so that
every slot has its worker before the count begins: a stub is over so soon that Tune would hand one warm worker
from trial to trial and call off the others' start.

    python -m benchmarks.scale --sizes 100 1000 10000 --slots 16
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.child import Objective
from orchestrator.launch import run
from orchestrator.spec import spec_from
from orchestrator.tuning import import_quietly
from trainables.config import DistillConfig
from trainables.trial_folder import TrialFolder

DRIVER_LIMIT_GIB = 2.0
POLL_S = 0.05


def distill(config: DistillConfig, report: Any, resume_from: str | None = None) -> dict[str, Any]:
    """A trial that does nothing but keep its folder's contract; save_steps holds the number of slots."""
    folder = TrialFolder(config.output_dir)
    folder.claim(config)
    slots = config.save_steps
    while config.seed < slots // 2 and len(list(folder.path.parent.glob("*/config.json"))) < slots:
        time.sleep(POLL_S)
    row = {"step": 1, "epoch": 1.0, "tokens": 1, "wall_s": 0.0, "split": "eval", "n_items": 1}
    folder.append_metrics({**row, "metrics": {"eval_ce": float(config.seed)}})
    report({**row, "metrics": {"eval_ce": float(config.seed)}})
    result = {"status": "completed", "config_hash": config.hash(), "completed_steps": 1, "tokens_seen": 1}
    folder.write_result(result)
    return result


def accept(config: DistillConfig, progress: object = None) -> None:
    """Nothing to check, nothing to prepare."""


def measure(trials: int, slots: int) -> dict[str, float]:
    """Run so many trials in this process; seconds, the driver's peak memory, and rows that are there."""
    import_quietly()
    import pyarrow.parquet as pq
    import ray

    name = "benchmarks.scale"
    objective = Objective(
        distill=f"{name}:distill",
        check=f"{name}:accept",
        prepare=f"{name}:accept",
        preload=("trainables.trial_folder", name),
    )
    values = {
        "name": "scale",
        "base": {"model_name": "tiny-llama", "dataset": "arithmetic", "save_steps": slots},
        "arms": {"flat": {"alignment_mode": "flat"}, "structured": {"alignment_mode": "structured"}},
        "seeds": list(range(trials // 2)),
        "analysis": {"baseline": "flat"},
        "trackers": [],
    }
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(prefix="kvs") as place:
        began = time.monotonic()
        summary = run(spec_from(values, "benchmark"), storage=Path(place).resolve(), objective=objective)
        seconds = time.monotonic() - began
        runs = pq.read_table(summary.folder / "runs.parquet", columns=["trial_id", "status", "finished_at"])
        ends = sorted(datetime.fromisoformat(moment) for moment in runs["finished_at"].to_pylist())
        again = time.monotonic()
        assert run(spec_from(values, "benchmark"), storage=Path(place).resolve()).started == 0
        return {
            "seconds": seconds,
            "ms_a_trial": 1000 * (ends[-1] - ends[slots - 1]).total_seconds() / (trials - slots),
            "nothing_to_run_s": time.monotonic() - again,
            "driver_gib": (_peak(resource.RUSAGE_SELF) + _peak(resource.RUSAGE_CHILDREN)) / 2**20,
            "rows": len(set(runs["trial_id"].to_pylist())),
            "completed": runs["status"].to_pylist().count("completed"),
            "metric_rows": pq.read_metadata(summary.folder / "metrics.parquet").num_rows,
        }


def _peak(whose: int) -> int:
    """KiB of this process, or of the largest that it waited for: the one that drives Ray."""
    return resource.getrusage(whose).ru_maxrss


def main() -> int:
    """Run every size in a process of its own and print how the time per trial grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.slots)))
        return 0
    wrong = False
    for trials in given.sizes:
        command = [
            sys.executable,
            "-m",
            "benchmarks.scale",
            "--one",
            str(trials),
            "--slots",
            str(given.slots),
        ]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        lost = trials - min(found["rows"], found["completed"], found["metric_rows"])
        wrong |= lost != 0 or found["driver_gib"] > DRIVER_LIMIT_GIB
        print(
            f"{trials:6d} trials on {given.slots} slots: {found['seconds']:.0f} s, "
            f"{found['ms_a_trial']:.0f} ms a trial once all slots work, {lost} rows lost, "
            f"driver {found['driver_gib']:.2f} GiB; again, with nothing missing: "
            f"{found['nothing_to_run_s']:.1f} s",
            flush=True,
        )
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
