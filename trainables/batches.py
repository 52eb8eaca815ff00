"""Encoded examples as padded tensors, and the order in which an epoch visits them.

Dimension key: B batch rows, T time (tokens); Tq, Ta of questions and answers alone. All padding is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.device import to_device
from trainables.streams import stream
from trainables.tokenizers import Encoded

PADDING, QUESTION, CHAIN, ANSWER = range(4)
"""The values of Batch.segment."""


class Lengths(NamedTuple):
    """Real tokens of a row's parts."""

    question: int
    chain: int
    answer: int


@dataclass(frozen=True)
class Batch:
    """A batch twice: question and answer apart (latent student), and the whole text (teacher, same_sequence).

    Ids are int64, masks bool, True where a token is real.
    """

    question_ids: Tensor
    """[B Tq]"""
    question_mask: Tensor
    """[B Tq]"""
    answer_ids: Tensor
    """[B Ta] mark, value, end of sequence."""
    answer_mask: Tensor
    """[B Ta]"""
    codi_index: Tensor
    """[B] index in answer_ids of the last token before the value."""
    input_ids: Tensor
    """[B T] question, chain and answer."""
    attention_mask: Tensor
    """[B T]"""
    segment: Tensor
    """[B T] int8: 0 padding, 1 question, 2 chain, 3 answer."""
    chain_len: Tensor
    """[B] tokens of the chain."""
    lengths: tuple[Lengths, ...]
    """Of each row; on the host, so that reading them never waits for a device."""

    @property
    def n_tokens(self) -> int:
        """Real tokens of the whole texts."""
        return sum(map(sum, self.lengths))

    @property
    def n_answer(self) -> int:
        """Real tokens of the answers."""
        return sum(row.answer for row in self.lengths)

    @property
    def n_explicit(self) -> int:
        """Real tokens of chains and answers."""
        return self.n_tokens - sum(row.question for row in self.lengths)

    @property
    def longest_chain(self) -> int:
        return max(row.chain for row in self.lengths)

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: to_device(x, torch.device(device)) for name, x in self._tensors().items()}
        return Batch(**moved, lengths=self.lengths)

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "lengths"}


def collate(encoded: Sequence[Encoded], pad_id: int, multiple_of: int = 1) -> Batch:
    """Rows in the order given, right-padded to the longest; each length rounded up to `multiple_of`."""
    question_ids, question_mask = _padded([e.question for e in encoded], pad_id, multiple_of)
    answer_ids, answer_mask = _padded([e.answer for e in encoded], pad_id, multiple_of)
    input_ids, attention_mask = _padded([e.ids for e in encoded], pad_id, multiple_of)
    segments = [
        (QUESTION,) * len(e.question) + (CHAIN,) * len(e.chain) + (ANSWER,) * len(e.answer) for e in encoded
    ]
    return Batch(
        question_ids=question_ids,
        question_mask=question_mask,
        answer_ids=answer_ids,
        answer_mask=answer_mask,
        codi_index=torch.tensor([e.codi_index for e in encoded]),
        input_ids=input_ids,
        attention_mask=attention_mask,
        segment=_padded(segments, PADDING, multiple_of)[0].to(torch.int8),
        chain_len=torch.tensor([len(e.chain) for e in encoded]),
        lengths=tuple(Lengths(len(e.question), len(e.chain), len(e.answer)) for e in encoded),
    )


def _padded(rows: Sequence[Sequence[int]], fill: int, multiple_of: int) -> tuple[Tensor, Tensor]:
    """(values, mask), both [B T]."""
    lengths = torch.tensor([len(row) for row in rows])
    width = -(-int(lengths.max()) // multiple_of) * multiple_of
    values = torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
    return values, torch.arange(width) < lengths[:, None]


def padded_width(length: int) -> int:
    """The width at which a text of `length` tokens is read by itself: exact up to 64, then a quarter of its
    octave at most wider. Follows from the row alone, so that its numbers can."""
    if length <= 64:
        return length
    step = 1 << (length - 1).bit_length() - 3
    return -(-length // step) * step


def by_length(batch: Batch) -> list[tuple[Tensor, Batch]]:
    """The rows of a batch [B ..] parted by padded_width, each part with its row numbers.

    A batch whose rows all have its own width is handed on as it is.
    """
    rows_of: dict[int, list[int]] = {}
    for row, lengths in enumerate(batch.lengths):
        rows_of.setdefault(padded_width(sum(lengths)), []).append(row)
    if list(rows_of) == [batch.input_ids.shape[1]]:
        return [(torch.arange(len(batch.lengths)), batch)]
    return [(torch.tensor(rows), _rows_at(batch, rows, width)) for width, rows in rows_of.items()]


def _rows_at(batch: Batch, rows: list[int], width: int) -> Batch:
    """Some rows of a batch, their whole texts cut or padded to `width`."""
    beyond = width - batch.input_ids.shape[1]
    values = {name: x[rows] for name, x in batch._tensors().items()}
    for name in ("input_ids", "attention_mask", "segment"):
        values[name] = torch.nn.functional.pad(values[name], (0, beyond))
    return Batch(**values, lengths=tuple(batch.lengths[row] for row in rows))


def batches(n_rows: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The epoch's batches as row indices, in an order of the seed's own; the incomplete last one is dropped.

    Depends on nothing but the arguments: a resumed trial asks again and skips what it has done.
    """
    order = torch.randperm(n_rows, generator=stream(seed, "data_order", epoch)).numpy()
    whole = n_rows // batch_size * batch_size
    return list(order[:whole].reshape(-1, batch_size))


def data_order_hash(order: Iterable[NDArray[np.int64]]) -> str:
    """Twelve hex digits over the row indices of the batches, their order and their borders."""
    digest = hashlib.sha256()
    for indices in order:
        digest.update(len(indices).to_bytes(8, "little") + np.asarray(indices, dtype="<i8").tobytes())
    return digest.hexdigest()[:12]
