from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ragged import ragged_fields
from tests.trainables.conftest import small
from trainables.assemble import Trial, assemble
from trainables.batches import collate
from trainables.builtin_teacher import (
    RECIPES,
    Recipe,
    Schooling,
    load_builtin_teacher,
    solve_rate,
    train_teacher,
)
from trainables.data import load_examples
from trainables.evaluate import evaluate, probe_r2, target_state, unbiased_cka
from trainables.kv_cache import KVCache
from trainables.models import Size
from trainables.reading import read_whole


def samples(seed: int, n: int = 600, width: int = 8) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_cka_knows_a_rotated_and_scaled_copy(seed: int, scale: float) -> None:
    x = samples(seed)
    rotation = torch.linalg.qr(samples(seed + 1, 8, 8)).Q

    assert unbiased_cka(x, scale * x @ rotation) == pytest.approx(1, abs=1e-9)


def test_cka_of_unrelated_samples_is_near_zero_even_when_wide() -> None:
    assert abs(unbiased_cka(samples(0, 100, 90), samples(1, 100, 90))) < 0.1


def test_cka_is_symmetric_and_0_for_a_constant_side() -> None:
    x, y = samples(0), samples(0)[:, :4] + samples(1)[:, :4]

    assert unbiased_cka(x, y) == pytest.approx(unbiased_cka(y, x))
    assert unbiased_cka(x, torch.zeros_like(y)) == 0


def test_the_probe_finds_a_linear_map_and_nothing_in_noise() -> None:
    x = samples(0)

    assert probe_r2(x, x @ samples(1, 8, 5)) > 0.99
    assert probe_r2(x, samples(2, 600, 5)) < 0.05


def test_a_collapsed_target_shows_in_its_rank_and_size() -> None:
    def state_of(keys: torch.Tensor) -> dict[str, float]:
        states = keys.reshape(1, 1, 1, *keys.shape)
        return target_state(KVCache(states, states, torch.ones(1, len(keys), dtype=torch.bool)))

    healthy = state_of(samples(0))
    collapsed = state_of(0.01 * samples(0)[:, :1] @ samples(1, 1, 8))

    assert healthy["target_rank"] > 7
    assert healthy["target_rms"] == pytest.approx(1, abs=0.1)
    assert collapsed["target_rank"] == pytest.approx(1, abs=0.05)
    assert collapsed["target_rms"] < 0.1


@pytest.mark.parametrize("student", ["latent", "same_sequence"])
def test_evaluation_is_the_same_in_batches_of_any_size(trial_of: Callable[..., Trial], student: str) -> None:
    trials = [trial_of(student=student, eval_batch_size=size) for size in (128, 5)]

    (whole, said), (parts, said_in_parts) = (
        evaluate(trial.distillation, trial.held_out, trial.vocabulary) for trial in trials
    )

    assert whole["eval_ce"] == pytest.approx(parts["eval_ce"], rel=1e-5)
    assert whole["kv_cka"] == pytest.approx(parts["kv_cka"], rel=1e-3, abs=1e-5)
    assert whole["target_rms"] == pytest.approx(parts["target_rms"], rel=1e-6)
    assert [p.prediction for p in said] == [p.prediction for p in said_in_parts]
    assert len({p.item_id for p in said}) == 32


@pytest.mark.parametrize("method", ["rkv", "full", "random"])
@pytest.mark.parametrize("student", ["latent", "same_sequence"])
def test_rows_of_many_lengths_are_evaluated_alike_in_batches_of_any_size(
    tmp_path: Path, student: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the longest chain is that of a row whose cache is not compared."""
    monkeypatch.setattr("trainables.evaluate.CACHE_SAMPLES", 1)
    fields = {**ragged_fields(tmp_path), "eval_size": 12, "student": student, "kv_method": method}

    def found(size: int) -> tuple[dict[str, float], list[str | None]]:
        trial = assemble(small(**fields, eval_batch_size=size))
        rows = trial.held_out
        order = sorted(range(len(rows)), key=lambda row: len(rows.student[row].chain))
        examples, mine = ([side[i] for i in order] for side in (rows.examples, rows.student))
        rows = replace(rows, examples=examples, student=mine, teacher=mine)
        metrics, said = evaluate(trial.distillation, rows, trial.vocabulary)
        return metrics, [prediction.prediction for prediction in said]

    whole, said = found(128)
    assert len(said) > 4
    for size in (1, 5):
        parts, said_in_parts = found(size)
        assert said_in_parts == said
        assert parts == pytest.approx(whole, rel=1e-3, abs=1e-4)


def test_eval_ce_is_nats_per_token_of_chain_and_answer(trial_of: Callable[..., Trial]) -> None:
    trial = trial_of(student="same_sequence")
    rows = trial.held_out
    read = read_whole(trial.distillation.student, collate(rows.student, rows.student_pad))
    logp = read.logits[:, :-1].log_softmax(-1)
    batch = collate(rows.student, rows.student_pad)
    picked = logp.gather(2, batch.input_ids[:, 1:, None])[..., 0]
    by_hand = -picked[batch.segment[:, 1:] >= 2].mean()

    metrics, _ = evaluate(trial.distillation, rows, trial.vocabulary)

    assert metrics["eval_ce"] == pytest.approx(float(by_hand.detach()), rel=1e-5)


def test_the_packaged_teacher_solves_problems_it_never_saw() -> None:
    config = small()
    schooling = Schooling.of(config, load_examples(config))

    assert solve_rate(load_builtin_teacher(schooling), schooling, schooling.held_out) >= 0.95


def test_the_time_that_is_left_is_told_while_a_teacher_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Size(layers=1, width=16, heads=2, kv_heads=2)
    recipe = Recipe(size=size, steps=60, batch_size=2, lr=1e-3, warmup_steps=1)
    monkeypatch.setitem(RECIPES, "arithmetic", recipe)
    config = small(eval_size=2)
    told: list[str] = []

    train_teacher(Schooling.of(config, load_examples(config)), tmp_path / "teacher", told.append)

    begins, *steps = told
    assert begins.startswith("training tiny-teacher once for arithmetic, which takes minutes and is kept in ")
    assert [line.split(":")[0] for line in steps] == ["  teacher step 5/60", "  teacher step 50/60"]
    assert all(re.search(r"CE=\d\.\d{4}, \d+ s left$", line) for line in steps)
