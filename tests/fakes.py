"""A stand-in for distillation that keeps the trial folder's contract and takes no time.

What it does follows from its config, so that tests choose a fate by an ordinary field, lr: 1e-3 trains, 2e-3
diverges at step 2, 3e-3 raises, 4e-3 dies by SIGSEGV before its first report, 5e-3 raises once,
6e-3 reports and waits for a file named `go` beside the trials, 7e-3 is bad input, 8e-3 leaves a torn
result.json.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.child import Objective
from trainables.config import DistillConfig, InputError
from trainables.trial_folder import TrialFolder

STEPS = 4
Report = Callable[[dict[str, Any]], None]
LEAKED: list[int] = []
"""Filled by every trial of a process: a second entry is a leak."""


def distill(config: DistillConfig, report: Report, resume_from: str | None = None) -> dict[str, Any]:
    """A trial of four steps whose numbers follow from arm and seed alone."""
    folder = TrialFolder(config.output_dir)
    folder.claim(config)
    LEAKED.append(os.getpid())
    (folder.path / "pids.jsonl").open("a").write(json.dumps([*LEAKED, random.random(), os.getcwd()]) + "\n")
    first_attempt = (folder.path / "pids.jsonl").read_text().count("\n") == 1
    if config.lr == 4e-3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if config.lr == 7e-3:
        raise InputError("--lr 0.007 is not to the fake's taste: choose another.")
    folder.cut_metrics(0, STEPS)
    noise = random.Random(f"{config.alignment_mode} {config.seed}")
    for step in range(1, STEPS + 1):
        diverged = config.lr == 2e-3 and step == 2
        loss = float("nan") if diverged else 1.0 / step + noise.random() / 10
        _write(folder, config, step, "train", {"loss": loss, "ce": loss, "grad_norm": float("inf")}, report)
        if diverged:
            return _result(folder, config, "diverged", step)
        if config.lr == 3e-3 or (config.lr == 5e-3 and first_attempt):
            raise RuntimeError(f"boom at step {step}")
        while config.lr == 6e-3 and not (folder.path.parent / "go").exists():
            time.sleep(0.05)
    _write(folder, config, STEPS, "eval", {"eval_ce": noise.random(), "eval_accuracy": 0.5}, report)
    folder.write_predictions({"item_id": f"item-{i}", "correct": i % 2 == 0} for i in range(4))
    if config.lr == 8e-3:
        folder.result.write_text('{"status": "comp')
        return {"status": "completed"}
    return _result(folder, config, "completed", None)


def tell_environment(config: DistillConfig, report: Report, resume_from: str | None = None) -> dict[str, Any]:
    """The fake trial, which also leaves what its process found: variables, niceness, when it was at work."""
    began = time.time()
    result = distill(config, report)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    found = {name: os.environ.get(name) for name in names}
    place = Path(config.output_dir) / "environment.json"
    place.write_text(json.dumps({**found, "nice": os.nice(0), "began": began, "ended": time.time()}))
    return result


def accept(config: DistillConfig) -> None:
    """A preflight that finds nothing wrong."""


def refuse(config: DistillConfig) -> None:
    """A preflight that always finds something wrong."""
    raise InputError("--train_file nowhere.jsonl is not there: name a file that is.")


def ready(config: DistillConfig, progress: Callable[[str], None]) -> None:
    """Nothing to prepare."""


def weightless(config: DistillConfig) -> int:
    """No checkpoints."""
    return 0


def heavy(config: DistillConfig) -> int:
    """A checkpoint of a thousand bytes."""
    return 1000


STEP, SAVE, EVAL = 0.1, 0.02, 0.5
"""Seconds that the paced trial's clock counts for its parts."""


def paced(config: DistillConfig, report: Report, resume_from: str | None = None) -> dict[str, Any]:
    """A trial of as many steps as it should have, with checkpoints, by a clock of its own."""
    folder = TrialFolder(config.output_dir)
    folder.claim(config)
    assert config.max_steps
    clock = 0.3
    for step in range(1, config.max_steps + 1):
        clock += STEP
        _tick(folder, step, clock, "train", {"loss": 1.0, "ce": 1.0})
        if step % config.save_steps == 0 or step == config.max_steps:
            clock += SAVE
            folder.checkpoint(step).mkdir()
            (folder.checkpoint(step) / "weights").write_bytes(bytes(1000))
            folder.keep_checkpoints(config.save_total_limit)
    _tick(folder, config.max_steps, clock + EVAL, "eval", {"eval_ce": 1.0})
    folder.write_predictions([{"item_id": "a", "correct": True}])
    result = {"status": "completed", "config_hash": config.hash(), "peak_mem_bytes": 10**8, "device": "cpu"}
    folder.write_result(result)
    return result


def _tick(folder: TrialFolder, step: int, clock: float, split: str, metrics: dict[str, float]) -> None:
    row = {"step": step, "epoch": 0.0, "tokens": 0, "wall_s": clock, "split": split, "n_items": 4}
    folder.append_metrics({**row, "metrics": metrics})


FAKE = Objective(
    distill="tests.fakes:distill",
    check="tests.fakes:accept",
    prepare="tests.fakes:ready",
    weigh="tests.fakes:weightless",
    preload=(),
)


PACED = replace(FAKE, distill="tests.fakes:paced")
TELLING = replace(FAKE, distill="tests.fakes:tell_environment")


def experiment(**changes: Any) -> dict[str, Any]:
    """The plain values of a small experiment."""
    values: dict[str, Any] = {
        "name": "fake",
        "base": {"model_name": "tiny-llama", "dataset": "arithmetic", "lr": 1e-3, "max_steps": STEPS},
        "arms": {"flat": {"alignment_mode": "flat"}, "structured": {"alignment_mode": "structured"}},
        "seeds": [0, 1],
        "analysis": {"baseline": "flat"},
        "resources": {"max_failures": 1},
    }
    return {**values, **changes}


def write_experiment(folder: Path, **changes: Any) -> Path:
    """The experiment as a file; JSON is YAML."""
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(experiment(**changes)))
    return path


def _write(
    folder: TrialFolder,
    config: DistillConfig,
    step: int,
    split: str,
    metrics: dict[str, float],
    report: Report,
) -> None:
    row = {
        "step": step,
        "epoch": config.epochs * step / STEPS,
        "tokens": 10 * step,
        "wall_s": time.perf_counter(),
        "split": split,
        "n_items": 4,
        "metrics": metrics,
    }
    folder.append_metrics(row)
    report(row)


def _result(folder: TrialFolder, config: DistillConfig, status: str, bad_step: int | None) -> dict[str, Any]:
    result = {
        "status": status,
        "failure_reason": f"loss is not finite at step {bad_step}" if bad_step else None,
        "first_nonfinite_step": bad_step,
        "planned_steps": STEPS,
        "completed_steps": bad_step or STEPS,
        "tokens_seen": 10 * (bad_step or STEPS),
        "config_hash": config.hash(),
        "data_order_hash": f"order-{config.seed}",
        "init_hash": f"init-{config.seed}",
        "eval_set_hash": "held-out",
        "device": "cpu",
        "threads": config.threads,
        "versions": {"python": "3"},
        "final": {},
    }
    folder.write_result(result)
    return result
