"""From a config to everything a trial trains with: rows, tokenizers, student, teacher, aligner, yardstick.

Each part draws from a random stream of its own name, so that what one arm has and another has not
(the aligner) moves nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
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
from trainables.device import DTYPES, present_device
from trainables.evaluate import compared_rows
from trainables.examples import Splits
from trainables.kv_cache import CacheShape
from trainables.latent import LatentProjection
from trainables.models import from_pretrained, load_student, weights_hash
from trainables.rows import Rows
from trainables.step import Distillation, HiddenProjector
from trainables.streams import stream, stream_seed
from trainables.teacher import Yardstick
from trainables.teacher_cache import Recipe, TeacherCache
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
    cache: TeacherCache | None
    """The teacher's lessons, where they were computed before."""

    def teacher_hash(self) -> str:
        return self.cache.teacher_hash if self.cache else weights_hash(self.distillation.teacher.lm)


def assemble(config: DistillConfig) -> Trial:
    """Load and build everything; InputError for whatever the user gave that cannot work."""
    device = present_device(config.device)
    splits = load_examples(config)
    vocabularies = tokenizers_of(config, splits)
    train, held_out = (Rows.encoded(part, *vocabularies) for part in (splits.train, splits.held_out))
    student = load_student(config, vocabularies[0]).to(device)
    lessons = _open_cache(config, student.shape.layers, train, held_out)
    train = replace(train, lessons=lessons)

    @cache
    def teacher() -> Reader:
        loaded = load_teacher(config, splits)
        return ready(student if loaded is None else loaded, train, device)

    distillation = _distillation(config, student, teacher, lessons, train, device)
    return Trial(distillation, splits, train, held_out, vocabularies[0], device, lessons)


def tokenizers_of(config: DistillConfig, splits: Splits) -> tuple[Any, Any]:
    """The student's and the teacher's tokenizer; the very same object where they agree."""
    mine = load_tokenizer(config.model_name, config.dataset, splits.everything)
    if config.teacher in (SELF, config.model_name):
        return mine, mine
    theirs = load_tokenizer(config.teacher, config.dataset, splits.everything, "--teacher_name")
    return mine, mine if same_tokenizer(mine, theirs) else theirs


def load_teacher(config: DistillConfig, splits: Splits) -> Reader | None:
    """The frozen teacher, in eval mode and without gradients, its weights in --dtype; None for SELF."""
    if config.teacher == SELF:
        return None
    dtype = DTYPES[config.dtype]
    if config.teacher == BUILTIN_TEACHER:
        teacher = load_builtin_teacher(Schooling.of(config, splits))
        for parameter in teacher.parameters():  # and not the rotary frequencies, which stay float32
            parameter.data = parameter.data.to(dtype)
    else:
        teacher = Reader(from_pretrained(config.teacher, "--teacher_name", dtype), "--teacher_name")
    return teacher.eval().requires_grad_(False)


def ready(reader: Reader, rows: Rows, device: torch.device) -> Reader:
    """A teacher on its device, its capture checked on a row."""
    reader.to(device)
    check_capture(reader, rows.taught(range(1), device).input_ids)
    return reader


def _open_cache(config: DistillConfig, layers: int, train: Rows, held_out: Rows) -> TeacherCache | None:
    """The trial's teacher cache, which must be of the very lessons that it would compute."""
    found = TeacherCache.open(config.teacher_cache) if config.teacher_cache is not None else None
    if found is not None:
        shown = [held_out.teacher[i] for i in compared_rows(held_out, config)]
        mapped = layer_map(found.shape.layers, layers, config.layer_map)
        found.check(Recipe.of(config, train, shown, mapped, found.recipe["teacher"]))
    return found


def _distillation(
    config: DistillConfig,
    student: Reader,
    teacher: Callable[[], Reader],
    lessons: TeacherCache | None,
    train: Rows,
    device: torch.device,
) -> Distillation:
    """The teacher is loaded only if there is something to ask it."""
    shape, width = (lessons.shape, lessons.width) if lessons else (teacher().shape, teacher().width)
    layers = layer_map(shape.layers, student.shape.layers, config.layer_map).to(device)
    yardstick = lessons.yardstick() if lessons else None
    if yardstick is None:
        yardstick = Yardstick.fit(teacher(), calibration(train, device), config, layers)
    built = Distillation(
        config=config,
        student=student,
        teacher=None if config.teacher == SELF else teacher,
        latent=_latent_projection(config, student) if config.student == "latent" else None,
        aligner=_aligner(config, student.shape, shape),
        hidden_projector=_hidden_projector(config, student, width),
        yardstick=yardstick,
        layers=layers,
        shown=lessons.shown(device) if lessons else None,
    )
    return built.to(device)


def calibration(train: Rows, device: torch.device) -> Iterator[Batch]:
    """The rows on which targets are standardised, as the teacher reads them: always in the same batches."""
    return train.taught_in_batches(range(min(CALIBRATION_ROWS, len(train))), device)


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


def _hidden_projector(config: DistillConfig, student: Reader, width: int) -> HiddenProjector | None:
    """None where the teacher's `width` is the student's own."""
    if not config.codi_weight or student.width == width:
        return None
    generator = stream(config.seed, "hidden_projector_init")
    return HiddenProjector(student.shape.layers, student.width, width, generator)
