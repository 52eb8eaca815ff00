"""Examples as student and teacher read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainables.batches import Batch, collate
from trainables.examples import Example
from trainables.tokenizers import Encoded, encode


@dataclass(frozen=True)
class Rows:
    """Examples, encoded for both; one encoding where the tokenizers agree."""

    examples: Sequence[Example]
    student: Sequence[Encoded]
    teacher: Sequence[Encoded]
    student_pad: int
    teacher_pad: int

    @classmethod
    def encoded(cls, examples: Sequence[Example], mine: Any, theirs: Any) -> Rows:
        student = encode(examples, mine)
        teacher = student if theirs is mine else encode(examples, theirs)
        return cls(examples, student, teacher, mine.pad_token_id, theirs.pad_token_id)

    def batch(self, index: Sequence[int], device: torch.device) -> tuple[Batch, Batch]:
        """The rows `index` for the student, and for the teacher (the same object where they read alike)."""
        mine = collate([self.student[i] for i in index], self.student_pad).to(device)
        if self.teacher is self.student:
            return mine, mine
        return mine, collate([self.teacher[i] for i in index], self.teacher_pad).to(device)

    def __len__(self) -> int:
        return len(self.student)
