"""A run that fits must not die where gradients are measured, at calibration or at evaluation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.memory import Meter
from tests.trainables.test_step import batch_of
from trainables.assemble import Trial
from trainables.evaluate import evaluate
from trainables.step import gradient_shares
from trainables.teacher import Yardstick

TrialOf = Callable[..., Trial]


def test_gradient_shares_take_one_gradient_and_are_those_of_whole_gradients(trial_of: TrialOf) -> None:
    trial = trial_of(student="same_sequence")
    model, config = trial.distillation, trial.distillation.config
    parameters = model.learners()["student"]
    batch = batch_of(trial, range(1))
    terms = model(batch, batch, 1)
    with Meter() as meter:
        found = gradient_shares(terms, config, parameters)

    parts = (terms.ce.mean(), config.kv_weight * terms.kv.mean(), config.codi_weight * terms.codi.mean())
    gradients = [
        torch.autograd.grad(part, parameters, retain_graph=True, materialize_grads=True) for part in parts
    ]
    flat = [torch.cat([x.flatten() for x in gradient]) for gradient in gradients]
    norms = [float(gradient.norm()) for gradient in flat]
    whole = sum(p.nbytes for p in parameters)
    assert meter.peak < 1.6 * whole
    assert [found[f"grad_share_{name}"] for name in ("ce", "kv", "codi")] == pytest.approx(
        [norm / sum(norms) for norm in norms], rel=1e-5
    )
    assert found["grad_cos_kv_ce"] == pytest.approx(
        float(flat[0] @ flat[1]) / (norms[0] * norms[1]), rel=1e-4
    )


def test_calibration_keeps_one_batch_at_a_time(trial_of: TrialOf) -> None:
    trial = trial_of(student="same_sequence")
    model = trial.distillation

    def peak(rows: int) -> int:
        batches = trial.train.taught_in_batches(range(rows), trial.device)
        with Meter() as meter:
            Yardstick.fit(model.teacher, batches, model.config, model.layers)
        return meter.peak

    assert peak(128) < 1.2 * peak(8)


def test_an_evaluation_takes_as_much_as_its_batch(trial_of: TrialOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the comparison of caches, for which the teacher reads its own small batches."""
    monkeypatch.setattr("trainables.evaluate.compare_caches", lambda *_: {})

    def peak(size: int) -> int:
        trial = trial_of(eval_batch_size=size)
        with Meter() as meter:
            evaluate(trial.distillation, trial.held_out, trial.vocabulary)
        return meter.peak

    assert peak(4) < peak(32) / 3
