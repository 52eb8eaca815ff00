"""What asking the frozen teacher once saves: one grid with and without its cache, in one run.

    python -m benchmarks.teacher_cache [--seeds 3] [--rows 2048] [--epochs 6] [--address local]

A teacher of four times the student's parameters (random weights: only its cost matters), two arms, rkv. Each
run is timed whole, the making of the cache included, on a Ray that stands before.
Checks that every number of every trial is the same, to the bit, and prints seconds and the ratio.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.launch import SERIAL, run
from orchestrator.spec import Resources, spec_from
from orchestrator.trial_files import read_rows
from orchestrator.tuning import connected

STUDENT = "tiny-llama"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--address", default="local", help="local or serial")
    asked = parser.parse_args()
    ray = nullcontext() if asked.address == SERIAL else connected(asked.address, Resources(), print)
    with tempfile.TemporaryDirectory() as folder, ray:
        teacher = make_teacher(Path(folder) / "teacher")
        seconds, found = {}, {}
        for budget in ("off", "auto"):
            storage = Path(folder) / budget
            seconds[budget] = timed(spec_of(budget, teacher, asked), storage, asked.address)
            found[budget] = numbers(storage)
    same = found["off"] == found["auto"]
    trials, rows = len(found["off"]), sum(map(len, found["off"].values()))
    print(f"{trials} trials, {rows} rows of metrics: {'equal to the bit' if same else 'DIFFERENT'}")
    print(f"without {seconds['off']:.1f} s, with the cache {seconds['auto']:.1f} s, its making included")
    print(f"ratio {seconds['off'] / seconds['auto']:.2f}")
    return 0 if same else 1


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


def spec_of(budget: str, teacher: str, asked: argparse.Namespace) -> Any:
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
        "name": "grid",
        "base": base,
        "arms": {
            "flat": {"alignment_mode": "flat"},
            "structured": {"alignment_mode": "structured", **structured},
        },
        "seeds": list(range(asked.seeds)),
        "analysis": {"baseline": "flat"},
        "teacher_cache": budget,
        "trackers": [],
    }
    return spec_from(values, "benchmark")


def timed(spec: Any, storage: Path, address: str) -> float:
    began = time.perf_counter()
    summary = run(spec, storage=storage, address=address, console=Console(stderr=True))
    assert summary.exit_code == 0, summary.counts
    return time.perf_counter() - began


def numbers(storage: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every trial's metrics as written."""
    trials = (storage / "grid" / "trials").iterdir()
    return {t.name: [(r["step"], r["split"], r["metrics"]) for r in read_rows(t)] for t in trials}


if __name__ == "__main__":
    sys.exit(main())
