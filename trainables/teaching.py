"""Asking the frozen teacher once about every row: how a teacher cache (teacher_cache.py) is made.

Work is cut into parts that follow from the rows alone, so that whoever makes one, in whatever process or
order, writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from trainables.aligners import parameter_count
from trainables.aligners.resample import layer_map
from trainables.assemble import calibration, load_teacher, ready, tokenizers_of
from trainables.capture import Reader, cache_shape
from trainables.config import BUILTIN_STUDENTS, DistillConfig, InputError
from trainables.data import load_examples
from trainables.device import present_device
from trainables.evaluate import compared_rows
from trainables.models import builtin_config, read_config, weights_hash
from trainables.rows import Rows
from trainables.streams import stream
from trainables.teacher import Lesson, Shown, Yardstick, frozen_lesson, joined, slots_of
from trainables.teacher_cache import (
    COMMON,
    INDEX,
    Recipe,
    TeacherCache,
    lesson_tensors,
    missing,
    seal,
    shown_tensors,
    write_shard,
)

INEXACT = (
    "on this machine a row's numbers depend on the rows beside it: losses with and without the teacher cache "
    "agree to rounding, not to the bit"
)
SHARD_BYTES = 2**26
SHARD_ROWS = 1024
"""A shard is cut at whichever comes first: small enough to share among workers, large enough to map."""


@dataclass(frozen=True)
class Task:
    """What there is to make, in plain values."""

    key: str
    parts: tuple[str, ...]
    """Without the common one."""
    rows: int
    bytes: int
    """Of all shards, nearly."""
    work: int
    """The teacher's parameters times the tokens it reads."""

    @property
    def names(self) -> tuple[str, ...]:
        return (COMMON, *self.parts)


class Teaching:
    """A config's rows and its frozen teacher, which is asked about each of them once."""

    def __init__(self, config: DistillConfig) -> None:
        self.device = present_device(config.device)
        self.config = replace(config, device=str(self.device), teacher_cache=None)
        splits = load_examples(self.config)
        vocabularies = tokenizers_of(self.config, splits)
        self.train, self.held_out = (
            Rows.encoded(part, *vocabularies) for part in (splits.train, splits.held_out)
        )
        loaded = load_teacher(self.config, splits)
        assert loaded is not None, "only a frozen teacher's lessons can be computed beforehand"
        self.teacher: Reader = ready(loaded, self.train, self.device)
        student = _layers(self.config, vocabularies[0])
        self.layers = layer_map(self.teacher.shape.layers, student, config.layer_map).to(self.device)
        self.shown_index = compared_rows(self.held_out, self.config)

    @cached_property
    def recipe(self) -> Recipe:
        shown = [self.held_out.teacher[i] for i in self.shown_index]
        return Recipe.of(self.config, self.train, shown, self.layers, _identity(self.teacher))

    @cached_property
    def pieces(self) -> dict[str, list[int]]:
        """The rows of every part, short ones first, so that few widths share a shard."""
        order = sorted(range(len(self.train)), key=lambda row: (len(self.train.teacher[row].ids), row))
        pieces: list[list[int]] = []
        filled = SHARD_BYTES
        for row in order:
            size = self._row_bytes(row)
            if filled + size > SHARD_BYTES or len(pieces[-1]) == SHARD_ROWS:
                pieces.append([])
                filled = 0
            pieces[-1].append(row)
            filled += size
        return {f"part-{number:05d}": rows for number, rows in enumerate(pieces)}

    @property
    def task(self) -> Task:
        size = sum(map(self._row_bytes, range(len(self.train))))
        tokens = sum(len(row.ids) for row in self.train.teacher)
        work = parameter_count(self.teacher) * tokens
        return Task(self.recipe.key, tuple(self.pieces), len(self.train), size, work)

    def make(self, folder: Path, part: str) -> None:
        """Compute one part and write its shard and receipt."""
        if part == COMMON:
            self._make_common(folder)
        else:
            self._make_rows(folder, part)

    def _make_rows(self, folder: Path, part: str) -> None:
        rows = self.pieces[part]
        size = self.config.batch_size
        lessons = [self._lesson(rows[start : start + size]) for start in range(0, len(rows), size)]
        slots = slots_of(self.config, max(len(self.train.teacher[row].chain) for row in rows))
        places = torch.arange(len(rows)).split(size)
        tensors = lesson_tensors(joined(list(zip(places, lessons, strict=True)), slots))
        alone = lesson_tensors(self._lesson(rows[:1]).slots(slots))
        exact = all(torch.equal(alone[name][0], tensors[name][0]) for name in tensors)
        write_shard(folder, self.recipe.key, part, tensors, {"rows": rows, "exact": exact})

    def _make_common(self, folder: Path) -> None:
        yardstick = Yardstick.fit(
            self.teacher, calibration(self.train, self.device), self.config, self.layers
        )
        batches = self.held_out.taught_in_batches(self.shown_index, self.device)
        shown = Shown.of(self.teacher, batches, self.recipe.held_out, self.config, self.layers)
        shape = self.teacher.shape
        about = {
            "recipe": asdict(self.recipe),
            "shape": [shape.layers, shape.heads, shape.head_dim],
            "width": self.teacher.width,
        }
        write_shard(folder, self.recipe.key, COMMON, shown_tensors(shown, yardstick), about)

    def _lesson(self, rows: Sequence[int]) -> Lesson:
        taught = self.train.taught(rows, self.device)
        return frozen_lesson(self.teacher, taught, self.config, self.layers, stream(0))

    def _row_bytes(self, row: int) -> int:
        shape, layers = self.teacher.shape, len(self.layers)
        slots = slots_of(self.config, len(self.train.teacher[row].chain))
        item = 2 if self.config.dtype == "bfloat16" else 4
        entries = layers * shape.heads * slots
        return entries * (2 * shape.head_dim * item + 5) + 4 * layers * self.teacher.width


def task_of(config: DistillConfig) -> Task:
    """What the config's cache takes."""
    return Teaching(config).task


def make_parts(config: DistillConfig, folder: Path, key: str, parts: Sequence[str]) -> None:
    """Make some parts of the cache `key`; InputError where this process would make another."""
    teaching = Teaching(config)
    if teaching.recipe.key != key:
        raise InputError(
            f"the teacher cache {key} cannot be made on this node, whose code, versions, data or device make "
            f"it {teaching.recipe.key}: give every node the same ones, or set teacher_cache: off."
        )
    for part in parts:
        teaching.make(folder, part)


def fill(config: DistillConfig, folder: Path, progress: Callable[[str], None]) -> None:
    """Make the config's cache in `folder`, or what is missing or damaged of it, in this process.

    Raises InputError where the folder holds another config's lessons.
    """
    teaching = Teaching(config)
    task = teaching.task
    if (folder / INDEX).exists() and (there := TeacherCache.open(folder)):
        there.check(teaching.recipe)
    to_make = missing(folder, task.key, task.names)
    if to_make:
        progress(f"computing the teacher's cache for {task.rows:,} rows, once: {folder}")
    for part in to_make:
        teaching.make(folder, part)
    if not seal(folder, task.parts):
        progress(INEXACT)


def _layers(config: DistillConfig, vocabulary: object) -> int:
    """The student's layers, by its config alone."""
    if config.model_name in BUILTIN_STUDENTS:
        return cache_shape(builtin_config(config.model_name, vocabulary)).layers
    return cache_shape(read_config(config.model_name, "--model_name")).layers


def _identity(teacher: Reader) -> str:
    """Weights and configuration: two models of the same weights may still read differently."""
    settings = teacher.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "dtype"):
        settings.pop(name, None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    return f"{weights_hash(teacher.lm)}-{digest[:16]}"
