"""What asking the frozen teacher once saves: one grid with and without its cache, in one run.

    python -m benchmarks.teacher_cache [--seeds 3] [--rows 2048] [--epochs 3] [--address local]

A teacher of four times the student's parameters (random weights: only its cost matters), two arms, rkv. Each
run is timed whole, the making of the cache included, on a Ray that stands before; with and without take turns
seed by seed, so that other load meets both. Prints seconds, CPU seconds of driver and trials, which hardly
depend on that load, and both ratios; and checks that all numbers of all trials are the same, to the bit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.checks import SERIAL
from orchestrator.launch import run
from orchestrator.spec import Resources, spec_from
from orchestrator.tuning import connected
from trainables.trial_folder import TrialFolder

STUDENT = "tiny-llama"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--address", default="local", help="local or serial")
    asked = parser.parse_args()
    ray = nullcontext() if asked.address == SERIAL else connected(asked.address, Resources(), print)
    with tempfile.TemporaryDirectory() as folder, ray:
        teacher = make_teacher(Path(folder) / "teacher")
        spent = {"off": (0.0, 0.0), "auto": (0.0, 0.0)}
        for seed in range(asked.seeds):
            for budget in spent:
                spec = spec_of(budget, teacher, seed, asked)
                spent[budget] = added(spent[budget], measured(spec, Path(folder) / budget, asked.address))
        without, cached = (numbers(Path(folder) / budget) for budget in spent)
    rows = sum(map(len, without.values()))
    print(f"{len(without)} trials, {rows} rows: {'equal to the bit' if without == cached else 'DIFFERENT'}")
    for name, off, auto in zip(("wall clock", "CPU"), spent["off"], spent["auto"], strict=True):
        print(f"{name}: without {off:.1f} s, with the cache {auto:.1f} s, ratio {off / auto:.2f}")
    return 0 if without == cached else 1


def make_teacher(folder: Path) -> str:
    """A Llama of four times the student's parameters that reads the student's tokens."""
    from trainables.aligners import parameter_count
    from trainables.models import STUDENT_SIZE, Size, from_config, llama_config
    from trainables.tokenizers import load_tokenizer

    words = load_tokenizer(STUDENT, "arithmetic", [])
    size = Size(layers=4, width=80, heads=4, kv_heads=4)
    student, teacher = (from_config(llama_config(s, words), seed=0) for s in (STUDENT_SIZE, size))
    teacher.save_pretrained(folder)
    words.save_pretrained(folder)
    mine, theirs = parameter_count(student), parameter_count(teacher)
    print(f"student {mine:,} parameters, teacher {theirs:,}: {theirs / mine:.2f} times")
    return str(folder)


def spec_of(budget: str, teacher: str, seed: int, asked: argparse.Namespace) -> Any:
    structured = {"map_proj_share_dim": True, "map_proj_init_uniform": True}
    base = {
        "model_name": STUDENT,
        "teacher_name": teacher,
        "dataset": "arithmetic",
        "student": "same_sequence",
        "kv_method": "rkv",
        "subset_size": asked.rows,
        "batch_size": 32,
        "epochs": asked.epochs,
        "eval_steps": 64,
        "eval_size": 64,
        "lr": 2e-3,
    }
    values = {
        "name": f"seed-{seed}",
        "base": base,
        "arms": {
            "flat": {"alignment_mode": "flat"},
            "structured": {"alignment_mode": "structured", **structured},
        },
        "seeds": [seed],
        "analysis": {"baseline": "flat"},
        "teacher_cache": budget,
        "trackers": [],
    }
    return spec_from(values, "benchmark")


def measured(spec: Any, storage: Path, address: str) -> tuple[float, float]:
    """Seconds of a run by the clock, and of CPU in this process and its trials'."""
    began, clock = time.perf_counter(), CpuClock()
    clock.start()
    summary = run(spec, storage=storage, address=address, console=Console(stderr=True))
    assert summary.exit_code == 0, summary.counts
    return time.perf_counter() - began, clock.stop()


def added(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] + b[0], a[1] + b[1]


class CpuClock(threading.Thread):
    """CPU seconds of this process, the one that drives Ray for it, and trials, which a forkserver forks."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.began = time.process_time()
        self.seen: dict[str, float] = {}
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.25):
            parents = {pid: stat[0] for pid in processes() if (stat := stat_of(pid))}
            for pid in parents:
                if is_trial(pid, parents) and (stat := stat_of(pid)):
                    self.seen[pid] = stat[1]

    def stop(self) -> float:
        self.over.set()
        self.join()
        return time.process_time() - self.began + sum(self.seen.values())


def processes() -> list[str]:
    return [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]


def stat_of(pid: str) -> tuple[str, float] | None:
    """A process's parent and CPU seconds; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[1], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_trial(pid: str, parents: dict[str, str]) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    while pid in parents and pid != str(os.getpid()):
        pid = parents[pid]
    return (b"forkserver" in command or b"orchestrator.driver" in command) and pid == str(os.getpid())


def numbers(storage: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every trial's metrics as written."""
    trials = storage.glob("seed-*/trials/*")
    return {
        t.name: [(r["step"], r["split"], r["metrics"]) for r in TrialFolder(t).read_metrics()] for t in trials
    }


if __name__ == "__main__":
    sys.exit(main())
