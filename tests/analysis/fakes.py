"""A synthetic experiment folder, as the contract between orchestrator and analysis has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from analysis import Comparison, Experiment, compare, load

STEPS = (0, 100, 200, 300, 400)
PLANNED = 400
METRIC_COLUMNS = ["trial_id", "attempt", "step", "tokens", "wall_s", "split", "metric", "value", "n_items"]
FINAL_ACCURACY = 0.95


def value_of(arm_effect: float, seed: int, noise: float) -> float:
    """A final CE with a seed effect that both arms share and a little of their own."""
    shared = np.random.default_rng([seed, 7]).normal(0, 0.05)
    own = np.random.default_rng([seed, 11, int(abs(arm_effect) * 1e6)]).normal(0, noise)
    return float(1.0 + arm_effect + shared + own)


@dataclass(kw_only=True)
class FakeExperiment:
    """What to write. `finals` (arm -> value per seed) overrides the made-up values."""

    arms: Mapping[str, float] = field(default_factory=lambda: {"flat": 0.0, "structured": -0.06})
    seeds: Sequence[int] = tuple(range(8))
    noise: float = 0.008
    finals: Mapping[str, Sequence[float]] | None = None
    statuses: Mapping[tuple[str, int], str] = field(default_factory=dict)
    run_changes: Mapping[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    primary: Mapping[str, Any] = field(default_factory=dict)
    plan_changes: Mapping[str, Any] = field(default_factory=dict)
    alpha: float = 0.05
    secondary: Sequence[str] = ("eval_accuracy", "steps_to_90")
    accuracy: Callable[[str, int], float] = lambda arm, seed: FINAL_ACCURACY
    retried: Sequence[tuple[str, int]] = ()
    string_seeds: bool = False
    shuffled: bool = False
    twice: bool = False

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        runs, metrics = pd.DataFrame(self.runs()), pd.DataFrame(self.metrics(), columns=METRIC_COLUMNS)
        if self.string_seeds:
            runs["seed"] = runs["seed"].astype(str)
        if self.twice:
            runs, metrics = pd.concat([runs, runs]), pd.concat([metrics, metrics])
        if self.shuffled:
            runs, metrics = runs.sample(frac=1, random_state=3), metrics.sample(frac=1, random_state=4)
        (folder / "plan.json").write_text(json.dumps(self.plan(), allow_nan=False))
        runs.to_parquet(folder / "runs.parquet", index=False)
        metrics.to_parquet(folder / "metrics.parquet", index=False)
        return folder

    def trial_id(self, arm: str, seed: int) -> str:
        return f"{arm}-seed{seed}-{self.config_hash(arm, seed)}"

    def config_hash(self, arm: str, seed: int) -> str:
        return f"{list(self.arms).index(arm):04x}{seed:08x}"

    def plan(self) -> dict[str, Any]:
        baseline = next(iter(self.arms))
        primary = {"metric": "eval_ce", "split": "eval", "at": "final", "k": 3, "direction": "min"}
        plan = {
            "name": "fake",
            "plan_hash": "0123456789ab",
            "arms": {arm: {"alignment_mode": arm} for arm in self.arms},
            "seeds": list(self.seeds),
            "declared_factors": ["alignment_mode"],
            "cells": [
                {
                    "trial_id": self.trial_id(arm, seed),
                    "arm": arm,
                    "seed": seed,
                    "config_hash": self.config_hash(arm, seed),
                    "factors": {"alignment_mode": arm, "lr": 0.002},
                }
                for arm in self.arms
                for seed in self.seeds
            ],
            "contrasts": [{"treatment": arm, "baseline": baseline} for arm in self.arms if arm != baseline],
            "analysis": {
                "baseline": baseline,
                "primary": {**primary, "margin": 0.02, "sesoi": 0.05, **self.primary},
                "secondary": list(self.secondary),
                "alpha": self.alpha,
            },
        }
        return {**plan, **self.plan_changes}

    def status(self, arm: str, seed: int) -> str:
        return self.statuses.get((arm, seed), "completed")

    def runs(self) -> list[dict[str, Any]]:
        rows = []
        for arm in self.arms:
            for seed in self.seeds:
                last = self._run(arm, seed)
                if (arm, seed) in self.retried:
                    rows.append({**last, "status": "crashed", "failure_reason": "node died"})
                    last = {**last, "attempt": 2}
                rows.append({**last, **self.run_changes.get((arm, seed), {})})
        return rows

    def _run(self, arm: str, seed: int) -> dict[str, Any]:
        status = self.status(arm, seed)
        ended = status in ("completed", "diverged")
        return {
            "experiment": "fake",
            "plan_hash": "0123456789ab",
            "trial_id": self.trial_id(arm, seed),
            "attempt": 0 if status == "not_run" else 1,
            "arm": arm,
            "seed": seed,
            "status": status,
            "failure_reason": None if status == "completed" else f"it was {status}",
            "first_nonfinite_step": 250.0 if status == "diverged" else None,
            "planned_steps": PLANNED,
            "completed_steps": PLANNED if status == "completed" else 200,
            "tokens_seen": 92_000 if status == "completed" else 46_000,
            "config_hash": self.config_hash(arm, seed),
            "code_rev": "abc",
            "env_hash": "def",
            "data_order_hash": f"order{seed}" if ended else None,
            "init_hash": f"init{seed}" if ended else None,
            "eval_set_hash": "held-out" if ended else None,
            "student_params": 85_000.0,
            "trainable_params": 90_000.0,
            "aligner_params": 9_200.0 if arm == "flat" else 4_700.0,
            "wall_s": 20.0 + seed,
            "tokens_per_s": 4_600.0,
            "peak_mem_bytes": 5.1e8,
            "device": "cpu",
            "started_at": "2026-01-01T00:00:00+00:00",
            "factor.alignment_mode": arm,
        }

    def metrics(self) -> list[dict[str, Any]]:
        return [
            row
            for arm in self.arms
            for place, seed in enumerate(self.seeds)
            if self.status(arm, seed) != "not_run"
            for row in self._curve(arm, seed, place)
        ]

    def _curve(self, arm: str, seed: int, place: int) -> list[dict[str, Any]]:
        final = (
            self.finals[arm][place] if self.finals is not None else value_of(self.arms[arm], seed, self.noise)
        )
        broken = self.status(arm, seed) != "completed"
        rows = []
        for step in STEPS:
            if broken and step > 200:
                continue
            left = (PLANNED - step) / PLANNED
            ce = (final if np.isfinite(final) else 1.0) + left**2 if left else final
            accuracy = self.accuracy(arm, seed) * (1 - left)
            rows += [
                self._row(arm, seed, step, "eval", "eval_ce", ce),
                self._row(arm, seed, step, "eval", "eval_accuracy", accuracy),
                self._row(arm, seed, step, "train", "ce", ce + 0.02),
                self._row(arm, seed, step, "train", "grad_norm", 1.0 + left),
                self._row(arm, seed, step, "train", "kv_loss", 0.5 + left),
            ]
        if self.status(arm, seed) == "diverged":
            rows.append(self._row(arm, seed, 300, "eval", "eval_ce", float("nan")))
        return rows

    def _row(self, arm: str, seed: int, step: int, split: str, metric: str, value: float) -> dict[str, Any]:
        return {
            "trial_id": self.trial_id(arm, seed),
            "attempt": 2 if (arm, seed) in self.retried else 1,
            "step": step,
            "tokens": step * 230,
            "wall_s": step * (0.05 + 0.001 * seed),
            "split": split,
            "metric": metric,
            "value": value,
            "n_items": 64,
        }


def loaded(**options: Any) -> Experiment:
    """A fake experiment, written and read back."""
    with TemporaryDirectory() as folder:
        return load(FakeExperiment(**options).write(Path(folder)))


def compared(flat: Sequence[float], structured: Sequence[float], **options: Any) -> Comparison:
    """structured against flat with these endpoints, seed by seed."""
    finals = {"flat": flat, "structured": structured}
    return compare(loaded(finals=finals, seeds=range(len(flat)), **options), treatment="structured")
