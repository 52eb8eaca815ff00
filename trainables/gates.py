"""Gates 1 and 2: before any time is spent on an experiment, see that every stage does what it says.

Gate 1 walks one batch through every stage, for both students, both aligners and every compressor. Gate 2
trains ten steps in each mode. One line per check with the figure seen; the first failure ends it.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from trainables.assemble import Trial, assemble
from trainables.config import (
    BUILTIN_STUDENTS,
    AlignmentMode,
    DistillConfig,
    InputError,
    KVMethod,
    StudentMode,
)
from trainables.distill import distill
from trainables.flags import fail
from trainables.trial_folder import TrialFolder, is_intact

STEPS = 10


class GateClosed(Exception):
    """A check did not hold; the message says which and what was seen."""


Check = Iterator[tuple[str, bool, str]]
"""(what is checked, whether it held, the figure seen)"""


def main(argv: Sequence[str] | None = None, prog: str = "kvtune gates") -> int:
    """Run both gates on the built-in models; 0 when every check held, 1 at the first that did not."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words:
        return fail(prog, InputError(f"takes no arguments, got {' '.join(words)!r}: leave them out."))
    try:
        with tempfile.TemporaryDirectory() as folder:
            count = _run("gate 1", gate_1()) + _run("gate 2", gate_2(Path(folder)))
    except GateClosed as closed:
        print(closed)
        return 1
    print(f"{count} checks held: the gates are open.")
    return 0


def _run(gate: str, checks: Check) -> int:
    count = 0
    for what, held, seen in checks:
        line = f"{gate}: {what}: {seen}"
        if not held:
            raise GateClosed(f"FAILED {line}")
        print(f"ok {line}", flush=True)
        count += 1
    return count


def arm(mode: str) -> dict[str, Any]:
    """The overrides of one alignment mode, as in the built-in experiments."""
    if mode == "flat":
        return {"alignment_mode": "flat"}
    return {"alignment_mode": mode, "map_proj_share_dim": True, "map_proj_init_uniform": True}


def _config(**changes: Any) -> DistillConfig:
    base: dict[str, Any] = {
        "model_name": "tiny-llama",
        "dataset": "arithmetic",
        "subset_size": 512,
        "batch_size": 16,
        "eval_size": 64,
        "lr": 3e-3,
        "target_len": 4,
        "threads": 1,
    }
    return DistillConfig(**{**base, **changes})


def gate_1() -> Check:
    """Shapes and gradients through every stage."""
    for model in BUILTIN_STUDENTS:
        for student in get_args(StudentMode):
            for mode in get_args(AlignmentMode):
                trial = assemble(_config(model_name=model, student=student, **arm(mode)))
                yield from _stages(trial, f"{model} {student} {mode}")
    for method in get_args(KVMethod):
        for student in get_args(StudentMode):
            trial = assemble(_config(kv_method=method, student=student, **arm("structured")))
            yield from _selection(trial, f"{method} {student}")
    yield from _same_start()


def _stages(trial: Trial, name: str) -> Check:
    model = trial.distillation
    batch, taught = trial.train.batch(range(8), trial.device)
    work = model.work(batch)
    lesson, _ = model.teach(taught, step=1)
    predicted, target = model.compared(work.cache, lesson)
    shape = tuple(predicted.keys.shape)
    wanted = (8, model.student.shape.layers, model.teacher.shape.heads, 4, model.teacher.shape.head_dim)
    yield f"{name} aligned cache is [B L H T D]", shape == wanted == tuple(target.keys.shape), str(shape)
    terms = model(batch, taught, 1)
    for part in ("ce", "kv", "codi"):
        value = float(getattr(terms, part).mean().detach())
        yield f"{name} {part} is finite", math.isfinite(value), f"{value:.4f}"
    model.zero_grad()
    terms.kv.mean().backward()
    reached = _gradient_norm(model.student.parameters())
    yield f"{name} KV loss trains the student", reached > 0, f"gradient norm {reached:.3e}"
    moved = [p for p in model.aligner.parameters() if p.grad is None or not p.grad.any()]
    yield f"{name} KV loss trains every aligner weight tensor", not moved, f"{len(moved)} without gradient"
    stray = sum(p.grad is not None for p in model.teacher.parameters())
    yield f"{name} the teacher gets no gradient", stray == 0, f"{stray} tensors with gradient"


def _selection(trial: Trial, name: str) -> Check:
    model = trial.distillation
    taught = trial.train.taught(range(8), trial.device)
    lesson, _ = model.teach(taught, step=1)
    kept = lesson.cache.full_mask.sum(-1)
    seen = f"{int(kept.min())} to {int(kept.max())} of {int(taught.chain_len.max())} entries"
    whole = model.config.kv_method == "full" and model.config.student == "same_sequence"
    wanted = taught.chain_len if whole else taught.chain_len.clamp_max(model.config.target_len)
    held = bool((kept == wanted[:, None, None]).all())
    yield f"{name} keeps what it should in every layer and head", held, seen


def _same_start() -> Check:
    """Both modes begin as the very same function, on the very same weights."""
    trials = [assemble(_config(student="same_sequence", **arm(mode))) for mode in ("flat", "structured")]
    losses = []
    for trial in trials:
        batch, taught = trial.train.batch(range(16), trial.device)
        losses.append(float(trial.distillation(batch, taught, 1).kv.mean().detach()))
    apart = abs(losses[0] - losses[1])
    yield "flat and structured start as one function", apart < 1e-5, f"KV losses differ by {apart:.1e}"


def gate_2(folder: Path) -> Check:
    """Ten steps in each mode, for both students."""
    for student in get_args(StudentMode):
        for mode in get_args(AlignmentMode):
            output = folder / f"{student}-{mode}"
            config = _config(
                student=student,
                max_steps=STEPS,
                logging_steps=1,
                save_steps=STEPS // 2,
                output_dir=str(output),
                **arm(mode),
            )
            yield from _ten_steps(config, f"{student} {mode}")


def _ten_steps(config: DistillConfig, name: str) -> Check:
    rows: list[dict[str, Any]] = []
    result = distill(config, rows.append)
    train = [row["metrics"] for row in rows if row["split"] == "train"]
    losses = [row["loss"] for row in train]
    finite = len(losses) == STEPS and all(map(math.isfinite, losses))
    yield f"{name} {STEPS} finite losses", finite, f"{losses[0]:.4f} to {losses[-1]:.4f}"
    first, last = (sum(row["ce"] for row in part) / 3 for part in (train[:3], train[-3:]))
    yield f"{name} CE falls", last < first, f"{first:.4f} to {last:.4f} (means of 3)"
    folder = TrialFolder(config.output_dir)
    marks = folder.log.read_text().count(f"[Mode: {config.alignment_mode}]")
    yield f"{name} the log bears the mode", marks == STEPS, f"{marks} of {STEPS} lines"
    yield from _read_back(config, folder, result, name)


def _read_back(config: DistillConfig, folder: TrialFolder, result: dict[str, Any], name: str) -> Check:
    """Resume from the middle: the end must be the same, to the bit on a CPU."""
    middle = folder.checkpoint(STEPS // 2)
    yield f"{name} a checkpoint was written", is_intact(middle), middle.name
    again = distill(config, _ignore, resume_from=str(middle))
    ends = result["final"]["eval_ce"], again["final"]["eval_ce"]
    exact = result["device"] == "cpu"  # elsewhere a library may add up in another order each time
    same = again["final"] == result["final"] if exact else math.isclose(*ends, rel_tol=1e-3)
    seen = f"eval_ce {ends[0]:.6f} and {ends[1]:.6f}"
    yield f"{name} resumed from it, the trial ends the same", same, seen


def _gradient_norm(parameters: Iterator[torch.nn.Parameter]) -> float:
    return float(sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None) ** 0.5)


def _ignore(row: dict[str, Any]) -> None:
    """A report that nobody reads."""


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
