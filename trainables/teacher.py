"""What the teacher's pass leaves for the student: its selected cache and its thoughts before the answer.

Dimension key: see kv_cache.py. "Chain" is the chain of thought; N its padded length in a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.aligners.resample import resample_time
from trainables.batches import Batch, by_length
from trainables.capture import Pass, Reader
from trainables.compressors import select
from trainables.config import DistillConfig
from trainables.device import autocast, to_device
from trainables.kv_cache import KVCache, concatenated
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
from trainables.streams import stream


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
        indices = nn.functional.pad(self.indices, (0, beyond))
        return Lesson(self.cache.resized(count), indices, self.before_answer)

    def to(self, device: torch.device) -> Lesson:
        cache = KVCache(
            *(to_device(x, device) for x in (self.cache.keys, self.cache.values, self.cache.mask))
        )
        return Lesson(cache, to_device(self.indices, device), to_device(self.before_answer, device))


def joined(parts: Sequence[tuple[Tensor, Lesson]], slots: int) -> Lesson:
    """One lesson of `slots` slots from parts that each say, on the host, which rows they are."""
    if len(parts) == 1 and bool((parts[0][0].diff() == 1).all()):
        return parts[0][1].slots(slots)
    place = torch.cat([rows for rows, _ in parts]).argsort()
    lessons = [lesson.slots(slots) for _, lesson in parts]
    indices, before = (
        torch.cat([getattr(lesson, name) for lesson in lessons]) for name in ("indices", "before_answer")
    )
    return Lesson(concatenated([lesson.cache for lesson in lessons]), indices, before).rows(place)


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
    """What the frozen teacher teaches of a batch [B ..]; see _read_apart for what it depends on.

    A random selection is drawn for the batch's rows in their order, and so belongs to this batch alone.
    """
    parts = [
        (rows, lesson_of(read, teacher, part, config, layers, generator))
        for rows, part, read in _read_apart(teacher, batch, config)
    ]
    return joined(parts, slots_of(config, batch.longest_chain))


def _read_apart(teacher: Reader, batch: Batch, config: DistillConfig) -> Iterator[tuple[Tensor, Batch, Pass]]:
    """The teacher's passes over a batch, each with the rows that it is of.

    On a CPU rows are read in groups of one padded width that follows from the row alone: attention sums over
    that width, and nothing else of a row's company enters its sums. So what the teacher says of a row is the
    same, to the bit in float32, in whatever batch it comes, and may as well come from a cache. On any other
    device a library may choose another order of sums for another shape all the same: there it is one pass.
    """
    apart = batch.input_ids.device.type == "cpu" and config.kv_method != "random"
    groups = by_length(batch) if apart else [(torch.arange(len(batch.lengths)), batch)]
    for rows, part in groups:
        yield rows, part, _read_frozen(teacher, part, config)


def _read_frozen(teacher: Reader, batch: Batch, config: DistillConfig) -> Pass:
    with torch.no_grad(), autocast(config.dtype, batch.input_ids.device):
        return read_whole(teacher, batch)


@dataclass(frozen=True)
class Shown:
    """What held-out caches are compared with: the lesson, and the teacher's cache of the whole chain."""

    lesson: Lesson
    chain: KVCache
    """[B L H_t N D_t] for a same-sequence student; the lesson's own cache for a latent one."""
    rows: str
    """The hash of the rows shown."""

    @classmethod
    @torch.no_grad()
    def of(
        cls, teacher: Reader, batches: Iterable[Batch], rows: str, config: DistillConfig, layers: Tensor
    ) -> Shown:
        """By a teacher that reads the rows in these batches and keeps none of its passes."""
        lessons: list[tuple[Tensor, Lesson]] = []
        chains: list[KVCache] = []
        read_so_far = longest = 0
        generator = stream(config.seed, "selection", 0)
        for batch in batches:
            for place, part, read in _read_apart(teacher, batch, config):
                lesson = lesson_of(read, teacher, part, config, layers, generator)
                lessons.append((read_so_far + place, lesson))
                if config.student == "same_sequence":
                    chains.append(chain_of(read, teacher, part, config).layers(layers))
            read_so_far += len(batch.lengths)
            longest = max(longest, batch.longest_chain)
        lesson = joined(lessons, slots_of(config, longest))
        place = torch.cat([place for place, _ in lessons]).argsort()
        return cls(lesson, concatenated(chains).rows(place) if chains else lesson.cache, rows)


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

        Always of the same batches of the same rows, so that it needs no grouping; none of them is kept.
        """
        hidden: list[Tensor] = []

        def chain(batch: Batch) -> KVCache:
            read = _read_frozen(teacher, batch, config)
            hidden.append(at(read.hidden, codi_position(batch))[:, layers].float())
            return chain_of(read, teacher, batch, config).layers(layers)

        standardiser = Standardiser.fit(map(chain, batches))
        scale = torch.cat(hidden).transpose(0, 1).flatten(1).std(dim=1)
        return cls(standardiser, scale.clamp_min(1e-6))
