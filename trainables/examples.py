"""What every data set is made into: examples of question, worked steps and answer. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

HELD_OUT_SHARE = 10
"""One question in so many is held out."""


@dataclass(frozen=True, slots=True)
class Example:
    """One problem. Its four strings, joined as they are, make the text that is tokenised."""

    item_id: str
    """16 hex digits over the question: the same item in every trial, whatever the subset."""
    question: str
    chain: str
    """The worked steps: what the teacher reads and the latent student does not."""
    mark: str
    """What announces the answer (`#### `); its last token is CODI's position."""
    answer: str
    """The normalised value alone: 72, not #### 72."""

    @property
    def text(self) -> str:
        return self.question + self.chain + self.mark + self.answer


@dataclass(frozen=True)
class Splits:
    """A trial's rows, in file order; no question of one side is on the other."""

    train: list[Example]
    held_out: list[Example]
    everything: list[Example]
    """All training rows, whatever --subset_size takes: what built-in tokenizers and teachers learn from."""
    skipped: RowCounts
    notes: tuple[str, ...] = ()
    """What was left out of which file, and how many rows are held out if fewer than asked for: to be told."""


@dataclass(frozen=True)
class RowCounts:
    """Rows that were read and left out, by reason. They are told, never dropped in silence."""

    no_equation: int = 0
    """No <<...>> annotation with something in it, or no worked chain at all."""
    one_step: int = 0
    """drop_last_step leaves nothing of a chain of one step."""
    repeated: int = 0
    """A held-out question that came before: it would count twice."""

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def note(self, source: str, kept: int) -> tuple[str, ...]:
        """A sentence on what was left out of `source`, if anything was; `kept` rows were not."""
        left_out = sum(astuple(self))
        if not left_out:
            return ()
        return (f"{left_out:,} of {kept + left_out:,} rows of {source} left out: {self}",)

    def __str__(self) -> str:
        parts = [
            f"{getattr(self, f.name)} {f.name.replace('_', ' ')}"
            for f in fields(self)
            if getattr(self, f.name)
        ]
        return ", ".join(parts) or "none"


def question_hash(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()


def make_example(question: str, chain: str, mark: str, answer: str) -> Example:
    return Example(question_hash(question)[:16], question, chain, mark, answer)


def is_held_out(example: Example) -> bool:
    """Whether the split by hash holds the question out; it depends on its text alone, not on other rows.

    Reads digits of the hash that item_id leaves out, so that ids say nothing about the side.
    """
    return int(question_hash(example.question)[16:32], 16) % HELD_OUT_SHARE == 0


def split_by_hash(examples: Iterable[Example]) -> tuple[list[Example], list[Example]]:
    """(train, held out), both in the order given; equal questions land on one side."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        sides[is_held_out(example)].append(example)
    return sides


def set_hash(examples: Sequence[Example]) -> str:
    """Twelve hex digits over the contents, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(
            json.dumps([example.question, example.chain, example.mark, example.answer]).encode() + b"\n"
        )
    return digest.hexdigest()[:12]
