"""The questions that published code of this field fails: does padding touch a row, do rows touch each
other, is there a gradient where one is wanted, and only there?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainables.conftest import small
from trainables.assemble import Trial, assemble
from trainables.batches import Batch, collate
from trainables.distill import _init_hash
from trainables.evaluate import evaluate
from trainables.step import Distillation, gradient_shares

TrialOf = Callable[..., Trial]
STUDENTS = ("latent", "same_sequence")
MODES: tuple[dict[str, Any], ...] = ({"alignment_mode": "flat"}, {"alignment_mode": "structured"})


def batch_of(trial: Trial, rows: range = range(6), multiple_of: int = 1) -> Batch:
    return collate([trial.train.student[i] for i in rows], trial.train.student_pad, multiple_of)


def losses(model: Distillation, batch: Batch) -> dict[str, Tensor]:
    terms = model(batch, batch, 1)
    return {"ce": terms.ce, "kv": terms.kv, "codi": terms.codi}


def gradients(loss: Tensor, module: torch.nn.Module) -> dict[str, Tensor | None]:
    module.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("student", STUDENTS)
def test_the_kv_loss_trains_student_and_aligner_and_never_the_teacher(
    trial_of: TrialOf, student: str, mode: dict[str, Any]
) -> None:
    model = trial_of(student=student, **mode).distillation
    batch = batch_of(trial_of(student=student, **mode))

    found = gradients(losses(model, batch)["kv"].mean(), model)

    blocks = [g for name, g in found.items() if "k_proj" in name or "v_proj" in name]
    assert blocks
    assert all(g is not None and g.abs().sum() > 0 for g in blocks)
    assert all(g is not None and g.abs().sum() > 0 for name, g in found.items() if "aligner" in name)
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize("method", ["full", "right_crop", "rkv", "random"])
@pytest.mark.parametrize("student", STUDENTS)
def test_padding_a_batch_further_changes_no_loss(trial_of: TrialOf, student: str, method: str) -> None:
    trial = trial_of(student=student, kv_method=method)

    plain = losses(trial.distillation, batch_of(trial))
    wide = losses(trial.distillation, batch_of(trial, multiple_of=32))

    for name in plain:
        torch.testing.assert_close(wide[name], plain[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("student", STUDENTS)
def test_what_stands_on_padding_changes_no_loss_and_no_gradient(trial_of: TrialOf, student: str) -> None:
    trial = trial_of(student=student)
    batch = batch_of(trial, multiple_of=16)
    noisy = replace(
        batch,
        question_ids=torch.where(batch.question_mask, batch.question_ids, 5),
        answer_ids=torch.where(batch.answer_mask, batch.answer_ids, 5),
        input_ids=torch.where(batch.attention_mask, batch.input_ids, 5),
    )

    found = [
        gradients(sum(term.mean() for term in losses(trial.distillation, b).values()), trial.distillation)  # type: ignore[arg-type]
        for b in (batch, noisy)
    ]

    for name, gradient in found[0].items():
        if gradient is not None:
            torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("method", ["full", "right_crop", "rkv"])
@pytest.mark.parametrize("student", STUDENTS)
def test_a_rows_losses_are_the_same_in_any_company(trial_of: TrialOf, student: str, method: str) -> None:
    trial = trial_of(student=student, kv_method=method)

    together = losses(trial.distillation, batch_of(trial, range(6)))
    apart = losses(trial.distillation, batch_of(trial, range(3, 6)))

    for name in together:
        torch.testing.assert_close(apart[name], together[name][3:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("student", STUDENTS)
def test_both_modes_start_from_the_same_weights_and_the_same_function(student: str) -> None:
    flat, structured = (assemble(small(student=student, **mode)) for mode in MODES)
    batch = batch_of(flat)

    assert _init_hash(flat) == _init_hash(structured)
    torch.testing.assert_close(
        losses(flat.distillation, batch)["kv"], losses(structured.distillation, batch)["kv"]
    )


def hashes_of(trial: Trial) -> dict[str, str]:
    return dict(part.split(":") for part in _init_hash(trial).split())


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"kv_weight": 0.0, "codi_weight": 0.0}, {"student", "latent"}),
        ({"student": "same_sequence", "kv_weight": 0.0, "codi_weight": 0.0}, {"student"}),
        ({"student": "same_sequence"}, {"student", "hidden_projector_64"}),
        ({"teacher_name": "self"}, {"student", "latent"}),
        ({"kv_method": "random"}, {"all", "student", "latent", "hidden_projector_64"}),
    ],
)
def test_an_arm_without_a_module_starts_from_the_same_weights_in_all_others(
    trial_of: TrialOf, change: dict[str, Any], shared: set[str]
) -> None:
    ours, theirs = hashes_of(trial_of(**change)), hashes_of(trial_of())

    assert {name for name in ours.keys() & theirs.keys() if ours[name] == theirs[name]} == shared
    assert ours.keys() - {"all"} == shared - {"all"}


def test_another_seed_starts_from_other_weights(trial_of: TrialOf) -> None:
    ours, theirs = hashes_of(trial_of()), hashes_of(trial_of(seed=1))

    assert ours.keys() == theirs.keys()
    assert all(ours[name] != theirs[name] for name in ours)


def test_the_losses_add_up_with_their_weights(trial_of: TrialOf) -> None:
    trial = trial_of(kv_weight=0.5, codi_weight=3.0)
    terms = trial.distillation(batch_of(trial), batch_of(trial), 1)

    total = terms.total(trial.distillation.config)

    torch.testing.assert_close(total, terms.ce.mean() + 0.5 * terms.kv.mean() + 3 * terms.codi.mean())


def test_a_shuffled_teacher_teaches_another_row(trial_of: TrialOf) -> None:
    true, shuffled = (trial_of(student="same_sequence", shuffle_teacher=on) for on in (False, True))
    batch = batch_of(true)

    a, b = (losses(trial.distillation, batch) for trial in (true, shuffled))

    torch.testing.assert_close(a["ce"], b["ce"])
    assert (a["kv"] - b["kv"]).abs().min() > 1e-6


def test_self_distillation_trains_the_explicit_chain_too_and_detaches_its_targets(
    trial_of: TrialOf,
) -> None:
    trial = trial_of(teacher_name="self")
    model, batch = trial.distillation, batch_of(trial)

    lesson, own_ce = model.teach(batch, 1)

    assert not lesson.cache.keys.requires_grad
    assert not lesson.before_answer.requires_grad
    torch.testing.assert_close(losses(model, batch)["ce"], model.work(batch).ce + own_ce)
    assert own_ce.requires_grad


@pytest.mark.parametrize("direction", ["teacher_to_student_frozen", "teacher_to_student_joint"])
@pytest.mark.parametrize(("student", "method"), [("latent", "rkv"), ("same_sequence", "right_crop")])
def test_the_other_directions_train_the_student_and_freeze_or_train_the_aligner(
    trial_of: TrialOf, direction: str, student: str, method: str
) -> None:
    trial = trial_of(kv_direction=direction, student=student, kv_method=method)

    found = gradients(losses(trial.distillation, batch_of(trial))["kv"].mean(), trial.distillation)

    assert any(g is not None and g.abs().sum() > 0 for name, g in found.items() if "k_proj" in name)
    trained = [g is not None for name, g in found.items() if "aligner" in name]
    assert all(trained) if direction.endswith("joint") else not any(trained)


def test_post_rotary_keys_are_other_keys_with_the_same_values(trial_of: TrialOf) -> None:
    before, after = (trial_of(student="same_sequence", k_space=space) for space in ("pre_rope", "post_rope"))
    batch = batch_of(before)

    a, b = (trial.distillation.work(batch).cache for trial in (before, after))

    torch.testing.assert_close(a.values, b.values)
    assert (a.keys - b.keys).abs().max() > 1e-3
    torch.testing.assert_close(a.keys.norm(dim=-1), b.keys.norm(dim=-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("student", STUDENTS)
def test_random_selection_follows_the_seed_and_the_step_and_nothing_else(
    trial_of: TrialOf, student: str
) -> None:
    trial = trial_of(student=student, kv_method="random")
    batch = batch_of(trial)

    first, again, later = (trial.distillation.teach(batch, step)[0].indices for step in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_gradient_shares_leave_gradients_that_are_there_as_they_are(trial_of: TrialOf) -> None:
    trial = trial_of()
    model, batch = trial.distillation, batch_of(trial)
    parameters = model.learners()["student"]
    before = gradients(losses(model, batch)["ce"].mean(), model)

    terms = model(batch, batch, 1)
    shares = gradient_shares(terms, model.config, parameters)

    assert sum(shares[f"grad_share_{name}"] for name in ("ce", "kv", "codi")) == pytest.approx(1)
    assert all(p.grad is before[name] for name, p in model.named_parameters())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("student", STUDENTS)
def test_in_bfloat16_the_passes_are_narrow_and_everything_after_them_is_float32(
    trial_of: TrialOf, student: str, mode: dict[str, Any]
) -> None:
    trial = trial_of(student=student, dtype="bfloat16", **mode)
    model, batch = trial.distillation, batch_of(trial)

    seen: set[tuple[torch.dtype, bool]] = set()
    handle = model.aligner.register_forward_hook(
        lambda _module, _inputs, out: seen.add((out.keys.dtype, torch.is_autocast_enabled("cpu")))
    )
    terms = model(batch, batch, 1)
    terms.total(model.config).backward()  # type: ignore[no-untyped-call]
    evaluate(model, trial.held_out, trial.vocabulary)
    handle.remove()

    assert model.work(batch).cache.keys.dtype == torch.bfloat16
    assert model.teach(batch, 1)[0].cache.keys.dtype == torch.bfloat16
    assert seen == {(torch.float32, False)}
    assert {terms.ce.dtype, terms.kv.dtype, terms.codi.dtype} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_a_frozen_teacher_is_kept_in_the_compute_type_and_its_rotary_frequencies_are_not(
    trial_of: TrialOf,
) -> None:
    teacher = trial_of(dtype="bfloat16").distillation.teacher

    assert {p.dtype for p in teacher.parameters()} == {torch.bfloat16}
    assert {b.dtype for name, b in teacher.named_buffers() if "inv_freq" in name} == {torch.float32}


def test_without_distillation_the_teacher_is_not_asked(trial_of: TrialOf) -> None:
    trial = trial_of(kv_weight=0.0, codi_weight=0.0)

    terms = trial.distillation(batch_of(trial), batch_of(trial), 1)

    assert terms.kv.abs().sum() == 0
    assert terms.codi.abs().sum() == 0
    torch.testing.assert_close(terms.total(trial.distillation.config), terms.ce.mean())
