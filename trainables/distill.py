"""The training loop of one trial: from a config to a folder with its whole record. No ray, no parsing."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables import checkpoint
from trainables.aligners import parameter_count
from trainables.assemble import Trial, assemble
from trainables.batches import batches
from trainables.checkpoint import Progress
from trainables.config import DistillConfig
from trainables.device import widened
from trainables.evaluate import Prediction, evaluate
from trainables.examples import set_hash
from trainables.models import weights_hash
from trainables.step import gradient_shares
from trainables.streams import stream_seed
from trainables.trial_folder import TrialFolder

Report = Callable[[dict[str, Any]], None]

GRADIENT_SHARES_EVERY = 50
"""Optimizer steps between two measurements of gradient shares, which cost a backward pass a loss."""

log = logging.getLogger(__name__)


def distill(config: DistillConfig, report: Report, resume_from: str | None = None) -> dict[str, Any]:
    """Train one trial to its end, or until its loss is no longer finite; the content of its result.json.

    Everything goes to `config.output_dir` (see TrialFolder); `report` is called with every row of
    metrics.jsonl. `resume_from` names a checkpoint folder: the trial goes on from there and ends with the
    numbers of one that never stopped, to the bit on one CPU. Raises InputError for bad input.
    """
    folder = TrialFolder(config.output_dir)
    folder.claim(config)
    with _logging_to(folder):
        return _Run(config, folder, report).finish(resume_from)


class _Run:
    """One attempt at one trial."""

    def __init__(self, config: DistillConfig, folder: TrialFolder, report: Report) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config = config
        self.folder = folder
        self.report = report
        self.started_at = _now()
        self.trial: Trial = assemble(config)
        for note in self.trial.splits.notes:
            log.info("%s.", note)
        self.distillation = self.trial.distillation
        self.learners = self.distillation.learners()
        self.optimizer = _optimizer(config, self.learners)
        self.init_hash = _init_hash(self.trial)
        self.progress = Progress(config_hash=config.hash())
        self.planned_steps = planned_steps(config, len(self.trial.train))
        self.before_s = 0.0
        self.clock = time.perf_counter()

    def finish(self, resume_from: str | None) -> dict[str, Any]:
        if resume_from is not None:
            self.progress = checkpoint.load(
                resume_from, self.distillation, self.optimizer, self.config.hash()
            )
            self.before_s = self.progress.wall_s
            step, last = self.progress.step, self.planned_steps
            known = f"goes on from {Path(resume_from).name}, step {step} of {last}"
            log.info("%s; steps after it are computed again", known)
        self.resumed_from = self.progress.step if resume_from else None
        self.folder.cut_metrics(self.progress.step, self.planned_steps)
        self.folder.drop_checkpoints_after(self.progress.step)
        self.clock = time.perf_counter()
        diverged_at = self._train()
        final = {} if diverged_at else self._evaluate_once_more()
        result = self._result(diverged_at, final)
        self.folder.write_result(result)
        return result

    def _train(self) -> int | None:
        """All steps still to do; the step whose loss or gradient was not finite, if one was not."""
        self.distillation.train()
        for step, index in self._order():
            metrics = self._step(step, index)
            diverged = not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]))
            if diverged or self._logs(step):
                self._write(step, "train", metrics, len(index))
                log.info(log_line(step, metrics, self.config))
            if diverged:
                log.error("diverged at step %d: %s", step, metrics)
                return step
            if self.config.eval_steps and step % self.config.eval_steps == 0 and step < self.planned_steps:
                self._evaluate(step)
            if step % self.config.save_steps == 0 or step == self.planned_steps:
                self._save()
        return None

    def _order(self) -> Iterator[tuple[int, Sequence[int]]]:
        """(step, rows) from the step after the last one done; a function of the seed alone."""
        rows_a_step = self.config.batch_size * self.config.gradient_accumulation_steps
        step, epoch = 0, 0
        while step < self.planned_steps:
            for index in batches(len(self.trial.train), rows_a_step, self.config.seed, epoch):
                step += 1
                if self.progress.step < step <= self.planned_steps:
                    yield step, [int(i) for i in index]
            epoch += 1

    def _logs(self, step: int) -> bool:
        return step % self.config.logging_steps == 0 or step == self.planned_steps

    def _step(self, step: int, index: Sequence[int]) -> dict[str, float]:
        """One optimizer step over micro-batches of the rows `index`; its losses and gradient norms.

        The host waits for the device once, to read them.
        """
        config = self.config
        torch.manual_seed(stream_seed(config.seed, "dropout", step))
        rates = _set_rates(self.optimizer, config, step, self.planned_steps)
        self.optimizer.zero_grad(set_to_none=True)
        sums: list[Tensor] = []
        shares: dict[str, float] = {}
        parts = config.gradient_accumulation_steps
        for start in range(0, len(index), config.batch_size):
            batch, taught = self.trial.train.batch(
                index[start : start + config.batch_size], self.trial.device
            )
            terms = self.distillation(batch, taught, step)
            loss = terms.total(config)
            if start == 0 and self._measures_shares(step):
                shares = gradient_shares(terms, config, self.learners["student"])
            (loss / parts).backward()
            self.progress.tokens += batch.n_tokens
            seen = torch.stack([loss, terms.ce.mean(), terms.kv.mean(), terms.codi.mean()])
            sums.append(widened(seen.detach()) / parts)
        norms = self._clip()
        read = torch.cat([torch.stack(sums).sum(0), widened(torch.stack(list(norms.values())))]).tolist()
        metrics = dict(zip(("loss", "ce", "kv_loss", "codi_loss", *norms), read, strict=True))
        if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
            self.optimizer.step()
        self._advance(step, index)
        return {**metrics, **rates, **shares}

    def _measures_shares(self, step: int) -> bool:
        """On the first step that is logged after every GRADIENT_SHARES_EVERY of them."""
        gone = step - self.config.logging_steps
        return self._logs(step) and step // GRADIENT_SHARES_EVERY > gone // GRADIENT_SHARES_EVERY

    def _advance(self, step: int, index: Sequence[int]) -> None:
        items = ",".join(self.trial.splits.train[i].item_id for i in index)
        chained = f"{self.progress.data_order_hash}:{items}"
        self.progress.data_order_hash = hashlib.sha256(chained.encode()).hexdigest()[:16]
        self.progress.step = step
        self.progress.wall_s = self.before_s + time.perf_counter() - self.clock

    def _clip(self) -> dict[str, Tensor]:
        """Clip each group by its own norm; the norms before clipping."""
        limits = {"student": self.config.max_grad_norm}
        norms = {"student": torch.zeros((), device=self.trial.device)}
        norms |= {"aligner": norms["student"]}
        for name, parameters in self.learners.items():
            if any(p.grad is not None for p in parameters):
                limit = limits.get(name, self.config.aligner_max_grad_norm)
                norms[name] = torch.nn.utils.clip_grad_norm_(parameters, limit)
        return {"grad_norm": norms["student"], "aligner_grad_norm": norms["aligner"]}

    def _evaluate(self, step: int) -> tuple[dict[str, float], list[Prediction]]:
        self.distillation.eval()
        metrics, predictions = evaluate(self.distillation, self.trial.held_out, self.trial.vocabulary)
        self.distillation.train()
        self._write(step, "eval", metrics, len(predictions))
        log.info("Eval %d: %s", step, ", ".join(f"{name}={value:.4f}" for name, value in metrics.items()))
        return metrics, predictions

    def _evaluate_once_more(self) -> dict[str, float]:
        metrics, predictions = self._evaluate(self.planned_steps)
        self.folder.write_predictions(asdict(prediction) for prediction in predictions)
        return metrics

    def _write(self, step: int, split: str, metrics: dict[str, float], n_items: int) -> None:
        row = {
            "step": step,
            "epoch": step
            * self.config.batch_size
            * self.config.gradient_accumulation_steps
            / len(self.trial.train),
            "tokens": self.progress.tokens,
            "wall_s": round(self.before_s + time.perf_counter() - self.clock, 4),
            "split": split,
            "n_items": n_items,
            "metrics": metrics,
        }
        self.folder.append_metrics(row)
        self.report(row)

    def _save(self) -> None:
        checkpoint.save(self.folder, self.distillation, self.optimizer, self.progress)
        self.folder.keep_checkpoints(self.config.save_total_limit)

    def _result(self, diverged_at: int | None, final: dict[str, float]) -> dict[str, Any]:
        splits, progress = self.trial.splits, self.progress
        return {
            "status": "diverged" if diverged_at else "completed",
            "failure_reason": f"loss or gradient not finite at step {diverged_at}" if diverged_at else None,
            "first_nonfinite_step": diverged_at,
            "planned_steps": self.planned_steps,
            "completed_steps": progress.step - (1 if diverged_at else 0),
            "tokens_seen": progress.tokens,
            "config_hash": self.config.hash(),
            "data_order_hash": progress.data_order_hash,
            "init_hash": self.init_hash,
            "eval_set_hash": set_hash(splits.held_out),
            "train_set_hash": set_hash(splits.train),
            "student_params": parameter_count(self.distillation.student),
            "trainable_params": sum(p.numel() for group in self.learners.values() for p in group),
            "aligner_params": parameter_count(self.distillation.aligner),
            "wall_s": progress.wall_s,
            "tokens_per_s": progress.tokens / progress.wall_s if progress.wall_s else None,
            "peak_mem_bytes": _peak_memory(self.trial.device),
            "device": str(self.trial.device),
            "threads": torch.get_num_threads(),
            "started_at": self.started_at,
            "finished_at": _now(),
            "resumed_from_step": self.resumed_from,
            "teacher": {"name": self.config.teacher, "hash": self.trial.teacher_hash()},
            "versions": versions(),
            "final": final,
        }


def planned_steps(config: DistillConfig, rows: int) -> int:
    """Optimizer steps of a trial on `rows` training rows; an epoch's incomplete last batch is left out."""
    if config.max_steps is not None:
        return config.max_steps
    return max(1, int(config.epochs * (rows // (config.batch_size * config.gradient_accumulation_steps))))


def log_line(step: int, metrics: dict[str, float], config: DistillConfig) -> str:
    return (
        f"Step {step}: loss={metrics['loss']:.4f}, CE={metrics['ce']:.4f}, KV={metrics['kv_loss']:.4f}, "
        f"CODI={metrics['codi_loss']:.4f} [Mode: {config.alignment_mode}]"
    )


def _optimizer(config: DistillConfig, learners: dict[str, list[torch.nn.Parameter]]) -> torch.optim.AdamW:
    """AdamW with the student's matrices decayed, and a rate of their own for aligner and hidden projector."""
    student = learners["student"]
    own = [p for name, group in learners.items() if name != "student" for p in group]
    groups = [
        {
            "params": [p for p in student if p.dim() >= 2],
            "peak": config.lr,
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in student if p.dim() < 2], "peak": config.lr, "weight_decay": 0.0},
        {"params": own, "peak": config.aligner_lr or config.lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr)


def _set_rates(
    optimizer: torch.optim.Optimizer, config: DistillConfig, step: int, steps: int
) -> dict[str, float]:
    factor = rate_factor(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return {"lr": config.lr * factor}


def rate_factor(config: DistillConfig, step: int, steps: int) -> float:
    """The learning rate of `step` (counted from 1) relative to its peak."""
    if step <= config.warmup_steps:
        return step / config.warmup_steps
    done = (step - 1 - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.lr_schedule == "linear":
        return 1 - done
    if config.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def _init_hash(trial: Trial) -> str:
    """`all:HASH student:HASH ..`: sixteen hex digits over the initial weights of each module, and of all.

    Student, latent projection and hidden projector, whichever there are: arms are compared in those that both
    have. A projector into another teacher's width is another module.
    """
    own = trial.distillation
    parts = {"student": own.student, "latent": own.latent, "hidden_projector": own.hidden_projector}
    modules = {name: part for name, part in parts.items() if part is not None}
    hashes = {"all": weights_hash(torch.nn.ModuleDict(modules))}
    for name, part in modules.items():
        into = f"_{own.hidden_projector.weight.shape[1]}" if part is own.hidden_projector else ""
        hashes[name + into] = weights_hash(part)
    return " ".join(f"{name}:{digest}" for name, digest in hashes.items())


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def _logging_to(folder: TrialFolder) -> Iterator[None]:
    """Send this package's log to train.log while a trial runs."""
    handler = logging.FileHandler(folder.log)
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("trainables")
    level = package.level
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()
