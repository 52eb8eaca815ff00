"""From a config to everything a trial trains with: rows, tokenizers, student, teacher, aligner, yardstick.

Each part draws from a random stream of its own name, so that what one arm has and another has not
(the aligner) moves nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainables.aligners import build_aligner
from trainables.aligners.resample import layer_map
from trainables.batches import Batch
from trainables.builtin_teacher import Schooling, load_builtin_teacher
from trainables.capture import Reader, check_capture
from trainables.config import BUILTIN_TEACHER, SELF, DistillConfig
from trainables.data import load_examples
from trainables.examples import Splits
from trainables.kv_cache import CacheShape
from trainables.latent import LatentProjection
from trainables.models import from_pretrained, load_student
from trainables.rows import Rows
from trainables.step import Distillation, HiddenProjector
from trainables.streams import stream, stream_seed
from trainables.teacher import Yardstick
from trainables.tokenizers import load_tokenizer, same_tokenizer

CALIBRATION_ROWS = 256
"""First training rows on which targets are standardised, the same in every arm and seed."""


@dataclass(frozen=True)
class Trial:
    """A trial, ready to train."""

    distillation: Distillation
    splits: Splits
    train: Rows
    held_out: Rows
    vocabulary: Any
    device: torch.device


def assemble(config: DistillConfig) -> Trial:
    """Load and build everything; InputError for whatever the user gave that cannot work."""
    device = pick_device(config.device)
    splits = load_examples(config)
    vocabularies = tokenizers_of(config, splits)
    train, held_out = (Rows.encoded(part, *vocabularies) for part in (splits.train, splits.held_out))
    student = load_student(config, vocabularies[0])
    teacher = load_teacher(config, splits)
    distillation = _distillation(config, student, teacher, train, device)
    return Trial(distillation, splits, train, held_out, vocabularies[0], device)


def tokenizers_of(config: DistillConfig, splits: Splits) -> tuple[Any, Any]:
    """The student's and the teacher's tokenizer; the very same object where they agree."""
    mine = load_tokenizer(config.model_name, config.dataset, splits.everything)
    if config.teacher in (SELF, config.model_name):
        return mine, mine
    theirs = load_tokenizer(config.teacher, config.dataset, splits.everything, "--teacher_name")
    return mine, mine if same_tokenizer(mine, theirs) else theirs


def load_teacher(config: DistillConfig, splits: Splits) -> Reader | None:
    """The frozen teacher, in eval mode and without gradients; None for self-distillation."""
    if config.teacher == SELF:
        return None
    if config.teacher == BUILTIN_TEACHER:
        teacher = load_builtin_teacher(Schooling.of(config, splits))
    else:
        teacher = Reader(from_pretrained(config.teacher, "--teacher_name"), "--teacher_name")
    return teacher.eval().requires_grad_(False)


def pick_device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _distillation(
    config: DistillConfig, student: Reader, teacher: Reader | None, train: Rows, device: torch.device
) -> Distillation:
    taught_by = teacher or student
    layers = layer_map(taught_by.shape.layers, student.shape.layers, config.layer_map).to(device)
    student.to(device)
    taught_by.to(device)
    check_capture(taught_by, train.batch(range(1), device)[1].input_ids)
    yardstick = Yardstick.fit(taught_by, _calibration(train, device), config, layers)
    built = Distillation(
        config=config,
        student=student,
        teacher=teacher,
        latent=_latent_projection(config, student) if config.student == "latent" else None,
        aligner=_aligner(config, student.shape, taught_by.shape),
        hidden_projector=_hidden_projector(config, student, taught_by),
        yardstick=yardstick,
        layers=layers,
    )
    return built.to(device)


def _calibration(train: Rows, device: torch.device, size: int = 64) -> Iterator[Batch]:
    rows = range(min(CALIBRATION_ROWS, len(train)))
    for start in range(0, len(rows), size):
        yield train.batch(rows[start : start + size], device)[1]


def _aligner(config: DistillConfig, student: CacheShape, teacher: CacheShape) -> nn.Module:
    """The one module in which arms differ. Teacher layers were mapped to the student's before it."""
    mapped = CacheShape(student.layers, teacher.heads, teacher.head_dim)
    generator = stream(config.seed, "aligner_init")
    if config.kv_direction == "student_to_teacher":
        return build_aligner(config, student, mapped, generator=generator)
    aligner = build_aligner(config, mapped, student, generator=generator)
    return aligner.requires_grad_(config.kv_direction == "teacher_to_student_joint")


def _latent_projection(config: DistillConfig, student: Reader) -> LatentProjection:
    rms = float(student.embeddings.detach().float().square().mean().sqrt())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "latent_init"))
        return LatentProjection(student.width, rms)


def _hidden_projector(config: DistillConfig, student: Reader, teacher: Reader) -> HiddenProjector | None:
    if not config.codi_weight or student.width == teacher.width:
        return None
    generator = stream(config.seed, "hidden_projector_init")
    return HiddenProjector(student.shape.layers, student.width, teacher.width, generator)
