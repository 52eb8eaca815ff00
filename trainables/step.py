"""One batch through teacher and student, to the three losses.

Dimension key: see kv_cache.py. Every loss is a mean within its row first and over rows last, so no row
weighs on another and padding weighs nothing (KaVa, arXiv:2510.02312, writes its losses per example).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainables.batches import Batch
from trainables.capture import Reader
from trainables.config import SELF, DistillConfig
from trainables.device import autocast, widened
from trainables.kv_cache import KVCache
from trainables.latent import LatentProjection, answer_logits, think
from trainables.losses import answer_loss, hidden_state_loss, kv_loss
from trainables.reading import at, chain_of, codi_position, explicit_loss, read_whole
from trainables.rows import Rows
from trainables.streams import stream
from trainables.teacher import Lesson, Shown, Yardstick, frozen_lesson, lesson_of
from trainables.tokenizers import encoded_hash


@dataclass(frozen=True)
class LossTerms:
    """The three losses of a batch, each [B], and what the cross-entropy was taken over."""

    ce: Tensor
    kv: Tensor
    codi: Tensor
    nats: Tensor
    """[B]: summed cross-entropy of the student's target tokens."""
    tokens: Tensor
    """[B]: how many those are."""

    def total(self, config: DistillConfig) -> Tensor:
        """loss = CE + kv_weight KV + codi_weight CODI, mean over rows."""
        total = self.ce.mean()
        if config.kv_weight:
            total = total + config.kv_weight * self.kv.mean()
        if config.codi_weight:
            total = total + config.codi_weight * self.codi.mean()
        return total


@dataclass(frozen=True)
class Work:
    """What the student did with a batch."""

    ce: Tensor
    nats: Tensor
    tokens: Tensor
    cache: KVCache
    """same_sequence: over the chain, [B L H N D]. latent: over its latent tokens, [B L H M D]."""
    before_answer: Tensor
    """[B L W]: hidden states at the last token before the answer's value."""


class HiddenProjector(nn.Module):
    """One linear map per layer from the student's width to the teacher's, for the CODI loss only."""

    def __init__(self, layers: int, source: int, target: int, generator: torch.Generator) -> None:
        super().__init__()
        drawn = torch.randn(layers, target, source, generator=generator)
        self.weight = nn.Parameter(drawn / source**0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B L W_s] -> [B L W_t]"""
        return torch.einsum("blw,lvw->blv", hidden, self.weight)


class Distillation(nn.Module):
    """Everything that one trial trains, with the frozen teacher and its yardstick beside it.

    `teacher` hands on the frozen teacher, which is loaded when first asked for and is never a submodule: its
    weights belong to no checkpoint and no optimizer. It is None for self-distillation, where the student's
    own explicit pass teaches.
    """

    def __init__(
        self,
        config: DistillConfig,
        student: Reader,
        teacher: Callable[[], Reader] | None,
        latent: LatentProjection | None,
        aligner: nn.Module,
        hidden_projector: HiddenProjector | None,
        yardstick: Yardstick,
        layers: Tensor,
        shown: Shown | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.latent = latent
        self.aligner = aligner
        self.hidden_projector = hidden_projector
        self.yardstick = yardstick
        self._teacher = teacher
        self._shown = shown
        self.register_buffer("layers", layers, persistent=False)
        self.layers: Tensor

    @property
    def teacher(self) -> Reader:
        return self._teacher() if self._teacher is not None else self.student

    @property
    def is_self(self) -> bool:
        return self.config.teacher == SELF

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """The parameter groups, each with a clip of its own: one's gradient cannot rescale another's."""
        modules: dict[str, list[nn.Module | None]] = {
            "student": [self.student, self.latent],
            "aligner": [self.aligner],
            "hidden_projector": [self.hidden_projector],
        }
        return {
            name: [
                p for module in group if module is not None for p in module.parameters() if p.requires_grad
            ]
            for name, group in modules.items()
        }

    def forward(self, batch: Batch, taught: Batch | Lesson, step: int) -> LossTerms:
        """The losses of a batch [B ..] in optimizer step `step` (which seeds random selection).

        `taught` is the same rows' lesson where there is a cache of them, and otherwise these rows as the
        teacher's tokenizer has them: `batch` itself where the tokenizers agree.
        """
        work = self.work(batch)
        zero = torch.zeros_like(work.ce)
        if not self.config.uses_teacher:
            return LossTerms(work.ce, zero, zero, work.nats, work.tokens)
        lesson, own_ce = self.teach(taught, step)
        if self.config.shuffle_teacher:
            lesson = lesson.rows(torch.arange(len(work.ce), device=self.layers.device).roll(1))
        kv = self.kv_loss(work, lesson) if self.config.kv_weight else zero
        codi = self.codi_loss(work, lesson) if self.config.codi_weight else zero
        return LossTerms(work.ce + own_ce, kv, codi, work.nats, work.tokens)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The context of forward passes; losses, aligners and statistics are computed outside of it."""
        return autocast(self.config.dtype, self.layers.device)

    def work(self, batch: Batch) -> Work:
        """The student's pass; every captured tensor requires grad when training."""
        with self.precision():
            work = self._think_and_answer(batch) if self.latent is not None else self._read_all(batch)
        if torch.is_grad_enabled():
            for name in ("keys", "values"):
                assert getattr(work.cache, name).requires_grad, f"the student's {name} carry no gradient"
        return work

    def _read_all(self, batch: Batch) -> Work:
        read = read_whole(self.student, batch)
        ce, nats, tokens = explicit_loss(read, batch)
        cache = chain_of(read, self.student, batch, self.config)
        return Work(ce, nats, tokens, cache, at(read.hidden, codi_position(batch)))

    def _think_and_answer(self, batch: Batch) -> Work:
        assert self.latent is not None
        config = self.config
        thought = think(
            self.student,
            self.latent,
            batch.question_ids,
            batch.question_mask,
            config.target_len,
            config.latent_iterations,
        )
        logits, hidden = answer_logits(self.student, thought, batch.answer_ids, batch.answer_mask)
        ce, nats, tokens = answer_loss(logits, batch.answer_ids, batch.answer_mask, batch.n_answer)
        keys = thought.keys
        if config.k_space == "post_rope":
            keys = self.student.rotate(keys, thought.positions)
        mask = torch.ones_like(thought.positions, dtype=torch.bool)
        return Work(ce, nats, tokens, KVCache(keys, thought.values, mask), at(hidden, batch.codi_index))

    def teach(self, taught: Batch | Lesson, step: int) -> tuple[Lesson, Tensor]:
        """The teacher's lesson, detached, and its own cross-entropy [B] where it shares the weights."""
        if isinstance(taught, Lesson):
            return taught, torch.zeros((), device=self.layers.device)
        generator = stream(self.config.seed, "selection", step)
        if self.is_self:
            with self.precision():
                read = read_whole(self.student, taught)
            lesson = lesson_of(read, self.student, taught, self.config, self.layers, generator)
            return lesson, explicit_loss(read, taught)[0]
        lesson = frozen_lesson(self.teacher, taught, self.config, self.layers, generator)
        return lesson, torch.zeros((), device=self.layers.device)

    def show(self, rows: Rows, index: Sequence[int]) -> Shown:
        """What held-out rows' caches are compared with; a frozen teacher is asked about them once."""
        key = encoded_hash([rows.teacher[i] for i in index])
        if self._shown is None or self._shown.rows != key or self.is_self:
            batches = rows.taught_in_batches(index, self.layers.device)
            self._shown = Shown.of(self.teacher, batches, key, self.config, self.layers)
        return self._shown

    def compared(self, cache: KVCache, lesson: Lesson) -> tuple[KVCache, KVCache]:
        """The two caches the KV loss compares, in one shape: what the student has, what it should have."""
        target = self.yardstick.standardiser(lesson.cache.float())
        mine = cache.float()
        if self.config.kv_direction != "student_to_teacher":
            slots = KVCache(target.keys, target.values, target.full_mask[:, 0, 0])
            target = self.aligner(slots)
            return self._where_compared(mine, lesson, mine.shape.heads), target
        aligned = self.aligner(mine)
        return self._where_compared(aligned, lesson, aligned.shape.heads), target

    def _where_compared(self, cache: KVCache, lesson: Lesson, heads: int) -> KVCache:
        """The student's cache at the teacher's kept positions; latent tokens are slots already."""
        if self.latent is not None:
            return cache
        indices = lesson.indices
        if indices.shape[2] != heads:  # the other directions keep one set of positions for all heads
            indices = indices[:, :, :1].expand(-1, -1, heads, -1)
        # a shuffled lesson may name positions beyond this row's own chain
        inside = indices.clamp_max(cache.keys.shape[3] - 1)
        return cache.gather(inside, cache.full_mask.gather(3, inside))

    def kv_loss(self, work: Work, lesson: Lesson) -> Tensor:
        """[B]; KaVa's L_KV on aligned caches, both sides in float32."""
        return kv_loss(*self.compared(work.cache, lesson), kind=self.config.kv_loss)

    def codi_loss(self, work: Work, lesson: Lesson) -> Tensor:
        """[B]; CODI's hidden-state loss (arXiv:2502.21074) at the last token before the answer's value."""
        mine = work.before_answer.float()
        if self.hidden_projector is not None:
            mine = self.hidden_projector(mine)
        return hidden_state_loss(mine, lesson.before_answer.float(), self.yardstick.hidden_scale)


def gradient_shares(
    terms: LossTerms, config: DistillConfig, parameters: list[nn.Parameter]
) -> dict[str, float]:
    """How much of the student's gradient each weighted term makes, and the cosine of KV's with CE's.

    A KV loss may look healthy while its share vanishes. Keeps the graph; costs a backward pass a term, and
    memory for one whole gradient, CE's, as the step's own backward pass does after it.
    """
    parts = {
        "ce": terms.ce.mean(),
        "kv": config.kv_weight * terms.kv.mean(),
        "codi": config.codi_weight * terms.codi.mean(),
    }
    parts = {name: part for name, part in parts.items() if part.requires_grad}
    products = {name: torch.zeros((), device=terms.ce.device) for name in (*parts, "kv with ce")}
    of_ce: dict[nn.Parameter, Tensor] = {}

    def add(name: str, one: Tensor, other: Tensor) -> None:
        products[name] = products[name] + widened(one.flatten().dot(other.flatten()))

    def take(name: str, parameter: nn.Parameter, gradient: Tensor) -> None:
        add(name, gradient, gradient)
        if name == "ce" and "kv" in parts:
            of_ce[parameter] = gradient
        elif name == "kv" and parameter in of_ce:
            add("kv with ce", of_ce[parameter], gradient)

    for name, part in parts.items():
        _each_gradient(part, parameters, partial(take, name))
    return _shares(dict(zip(products, torch.stack(list(products.values())).tolist(), strict=True)))


def _each_gradient(
    loss: Tensor, parameters: list[nn.Parameter], take: Callable[[nn.Parameter, Tensor], None]
) -> None:
    """Hand every parameter's gradient on as the backward pass makes it, and keep none. `.grad` stays."""
    before = [parameter.grad for parameter in parameters]

    def hand_on(parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        take(parameter, parameter.grad)
        parameter.grad = None

    for parameter in parameters:
        parameter.grad = None
    handles = [parameter.register_post_accumulate_grad_hook(hand_on) for parameter in parameters]
    loss.backward(retain_graph=True, inputs=parameters)
    for handle, parameter, gradient in zip(handles, parameters, before, strict=True):
        handle.remove()
        parameter.grad = gradient


def _shares(products: dict[str, float]) -> dict[str, float]:
    """Norms by their sum, and a cosine, from the dot products of gradients."""
    crossed = products.pop("kv with ce")
    norms = {name: square**0.5 for name, square in products.items()}
    whole = sum(norms.values())
    shares = {f"grad_share_{name}": norm / whole if whole else 0.0 for name, norm in norms.items()}
    if norms.get("kv") and norms["ce"]:
        shares["grad_cos_kv_ce"] = crossed / (norms["kv"] * norms["ce"])
    return shares
