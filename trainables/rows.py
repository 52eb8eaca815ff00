"""Examples as student and teacher read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trainables.batches import Batch, collate
from trainables.examples import Example
from trainables.teacher import Lesson
from trainables.tokenizers import Encoded, encode

AT_A_TIME = 8
"""Rows that a teacher reads at a time for statistics: few, whatever the batch of training or evaluation, so
that a large teacher fits, and that what it says follows from the rows alone."""


class Lessons(Protocol):
    """Where lessons of training rows are had from, if they are there."""

    def lesson(self, rows: Sequence[int], device: torch.device) -> Lesson | None: ...


@dataclass(frozen=True)
class Rows:
    """Examples, encoded for both; one encoding where the tokenizers agree."""

    examples: Sequence[Example]
    student: Sequence[Encoded]
    teacher: Sequence[Encoded]
    student_pad: int
    teacher_pad: int
    lessons: Lessons | None = None
    """The frozen teacher's lessons of these rows, where they were computed before."""

    @classmethod
    def encoded(cls, examples: Sequence[Example], mine: Any, theirs: Any) -> Rows:
        student = encode(examples, mine)
        teacher = student if theirs is mine else encode(examples, theirs)
        return cls(examples, student, teacher, mine.pad_token_id, theirs.pad_token_id)

    def batch(self, index: Sequence[int], device: torch.device) -> tuple[Batch, Batch | Lesson]:
        """The rows `index` for the student, and their lesson; where there is none, as the teacher reads them.

        That is the same object where both read alike.
        """
        mine = collate([self.student[i] for i in index], self.student_pad).to(device)
        lesson = self.lessons.lesson(index, device) if self.lessons is not None else None
        if lesson is not None:
            return mine, lesson
        return mine, mine if self.teacher is self.student else self.taught(index, device)

    def taught_in_batches(self, index: Sequence[int], device: torch.device) -> Iterator[Batch]:
        """The rows `index` as the teacher reads them, always in the same small batches."""
        for start in range(0, len(index), AT_A_TIME):
            yield self.taught(index[start : start + AT_A_TIME], device)

    def taught(self, index: Sequence[int], device: torch.device) -> Batch:
        """The rows `index` as the teacher reads them."""
        return collate([self.teacher[i] for i in index], self.teacher_pad).to(device)

    def __len__(self) -> int:
        return len(self.student)
