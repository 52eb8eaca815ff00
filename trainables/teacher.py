"""What the teacher's pass leaves for the student: its selected cache and its thoughts before the answer.

Dimension key: see kv_cache.py. "Chain" is the chain of thought; N its padded length in a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.aligners.resample import resample_time
from trainables.batches import Batch, by_length
from trainables.capture import Pass, Reader
from trainables.compressors import select
from trainables.config import DistillConfig
from trainables.kv_cache import KVCache
from trainables.losses import Standardiser
from trainables.reading import (
    answer_positions,
    at,
    chain_of,
    chain_positions,
    codi_position,
    pick,
    read_whole,
)


@dataclass(frozen=True)
class Lesson:
    """What is distilled of a batch, detached: only the teacher layers a student layer is compared with."""

    cache: KVCache
    """[B L H_t M D_t]: the entries kept, ascending in time, masked where the chain was shorter."""
    indices: Tensor
    """[B L H_t M]: their positions in the chain; meaningless where the cache was resampled in time."""
    before_answer: Tensor
    """[B L W_t]: hidden states at the last token before the answer's value (CODI's position)."""

    def rows(self, order: Tensor) -> Lesson:
        return Lesson(self.cache.rows(order), self.indices[order], self.before_answer[order])

    def slots(self, count: int) -> Lesson:
        """With `count` slots: those beyond are cut, missing ones are masked."""
        beyond = count - self.indices.shape[3]
        if not beyond:
            return self
        keys, values = (nn.functional.pad(x, (0, 0, 0, beyond)) for x in (self.cache.keys, self.cache.values))
        mask, indices = (nn.functional.pad(x, (0, beyond)) for x in (self.cache.full_mask, self.indices))
        return Lesson(KVCache(keys, values, mask), indices, self.before_answer)

    def to(self, device: torch.device) -> Lesson:
        cache = KVCache(*(x.to(device) for x in (self.cache.keys, self.cache.values, self.cache.mask)))
        return Lesson(cache, self.indices.to(device), self.before_answer.to(device))


def joined(parts: Sequence[tuple[Tensor, Lesson]], slots: int) -> Lesson:
    """One lesson of `slots` slots from parts that each say which rows they are."""
    if len(parts) == 1 and bool((parts[0][0].diff() == 1).all()):
        return parts[0][1].slots(slots)
    place = torch.cat([rows for rows, _ in parts]).argsort()
    lessons = [lesson.slots(slots) for _, lesson in parts]
    keys, values, mask = (
        torch.cat([getattr(lesson.cache, name) for lesson in lessons])[place]
        for name in ("keys", "values", "full_mask")
    )
    indices, before = (
        torch.cat([getattr(lesson, name) for lesson in lessons])[place]
        for name in ("indices", "before_answer")
    )
    return Lesson(KVCache(keys, values, mask), indices, before)


def keeps_whole_chains(config: DistillConfig) -> bool:
    """Whether a lesson has a slot for every token of the chain, instead of --target_len."""
    return config.kv_method == "full" and config.student == "same_sequence"


def slots_of(config: DistillConfig, longest_chain: int) -> int:
    """Slots of a lesson for rows whose longest chain has so many tokens."""
    return longest_chain if keeps_whole_chains(config) else config.target_len


@torch.no_grad()
def frozen_lesson(
    teacher: Reader, batch: Batch, config: DistillConfig, layers: Tensor, generator: torch.Generator
) -> Lesson:
    """What the frozen teacher teaches of a batch [B ..].

    Rows are read in groups of one padded width that follows from the row alone: attention sums over that
    width, and nothing else of a row's company enters its sums. So a row's lesson is the same, to the bit in
    float32 on a CPU, in whatever batch it comes, and may as well come from a cache. A random selection is
    drawn for the batch's rows in their order, and so belongs to this batch alone.
    """
    if config.kv_method == "random":
        return lesson_of(read_whole(teacher, batch), teacher, batch, config, layers, generator)
    parts = [
        (rows, lesson_of(read_whole(teacher, part), teacher, part, config, layers, generator))
        for rows, part in by_length(batch)
    ]
    return joined(parts, slots_of(config, int(batch.chain_len.max())))


@dataclass(frozen=True)
class Shown:
    """What held-out caches are compared with: the lesson, and the teacher's cache of the whole chain."""

    lesson: Lesson
    chain: KVCache
    """[B L H_t N D_t] for a same-sequence student; the lesson's own cache for a latent one."""
    ids: Tensor
    """[B T]: the rows shown."""

    @classmethod
    @torch.no_grad()
    def by(
        cls, teacher: Reader, batch: Batch, lesson: Lesson, config: DistillConfig, layers: Tensor
    ) -> Shown:
        if config.student == "latent":
            return cls(lesson, lesson.cache, batch.input_ids)
        chain = chain_of(read_whole(teacher, batch), teacher, batch, config).layers(layers)
        return cls(lesson, chain, batch.input_ids)


def lesson_of(
    read: Pass,
    reader: Reader,
    batch: Batch,
    config: DistillConfig,
    layers: Tensor,
    generator: torch.Generator,
) -> Lesson:
    """What the teacher's pass over [Q C A] teaches: the teacher's `layers` [L], compressed by --kv_method.

    Scores are taken from the real attention, after rotary embedding, whichever space is compared.
    """
    compared = chain_of(read, reader, batch, config).layers(layers).detach()
    before = at(read.hidden, codi_position(batch))[:, layers].detach()
    if config.kv_method == "full" and config.student == "latent":
        resampled = resample_time(compared, config.target_len)
        nowhere = torch.zeros(resampled.full_mask.shape, dtype=torch.long, device=layers.device)
        return Lesson(KVCache(resampled.keys, resampled.values, resampled.full_mask), nowhere, before)
    scored, queries = compared, None
    if config.kv_method == "rkv":
        rotated = compared.keys if config.k_space == "post_rope" else _rotated(compared, reader, batch)
        scored = KVCache(rotated, compared.values, compared.mask)
        queries = _answer_queries(read, reader, batch, layers)
    selection = select(
        scored,
        method=config.kv_method,
        keep=config.target_len,
        queries=queries,
        query_mask=batch.answer_mask,
        rkv_lambda=0.1 if config.rkv_lambda is None else config.rkv_lambda,
        generator=generator,
    )
    return Lesson(compared.gather(selection.indices, selection.mask), selection.indices, before)


def _rotated(chain: KVCache, reader: Reader, batch: Batch) -> Tensor:
    """The chain's keys as attention sees them, [B L H N D]."""
    return reader.rotate(chain.keys, chain_positions(batch)[0])


def _answer_queries(read: Pass, reader: Reader, batch: Batch, layers: Tensor) -> Tensor:
    """Rotated queries at the answer tokens, [B L H_q Ta D]."""
    positions = answer_positions(batch)
    return reader.rotate(pick(read.queries[:, layers].detach(), positions), positions)


class Yardstick(nn.Module):
    """The statistics by which targets are standardised: one fixed calibration, then constants of the run.

    A target normalised per batch, or one that the loss itself moves, can be made small instead of met.
    """

    def __init__(self, standardiser: Standardiser, hidden_scale: Tensor) -> None:
        super().__init__()
        self.standardiser = standardiser
        self.register_buffer("hidden_scale", hidden_scale)
        self.hidden_scale: Tensor

    @classmethod
    def fit(
        cls, teacher: Reader, batches: Iterable[Batch], config: DistillConfig, layers: Tensor
    ) -> Yardstick:
        """Mean and SD per layer, head and dimension of chains; SD of hidden states per layer [L].

        Always of the same batches of the same rows, so that it needs no grouping.
        """
        caches: list[KVCache] = []
        hidden: list[Tensor] = []
        with torch.no_grad():
            for batch in batches:
                read = read_whole(teacher, batch)
                caches.append(chain_of(read, teacher, batch, config).layers(layers).float())
                hidden.append(at(read.hidden, codi_position(batch))[:, layers].float())
        scale = torch.cat(hidden).transpose(0, 1).flatten(1).std(dim=1)
        return cls(Standardiser.fit(caches), scale.clamp_min(1e-6))
