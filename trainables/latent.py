"""The latent student: it reads the question, reasons in M latent tokens, then writes the answer.

A latent token is an input embedding made from the last hidden state of the position before it, as in
Coconut, CODI (arXiv:2502.21074) and KaVa (arXiv:2510.02312). Sequential: one token after the other.
Jacobi (PCCoT, KaVa): all M at once, refined T times; T >= M - 1 gives the sequential result exactly.
Dimension key: see kv_cache.py; W hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.capture import Pass, Prefix, Reader, read_prompt


class LatentProjection(nn.Module):
    """Last hidden state [.. W] to the next input embedding [.. W]: Linear, GELU, Linear, LayerNorm.

    The norm's gain starts at the root mean square of the embedding matrix, so that a latent token enters
    at the size of a word; a plain norm enters tens of times larger (facebookresearch/coconut, issue 29).
    """

    def __init__(self, width: int, embedding_rms: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.placeholder = nn.Parameter(torch.randn(width) * embedding_rms)
        nn.init.constant_(self.norm.weight, embedding_rms)

    def forward(self, hidden: Tensor) -> Tensor:
        """[.. W] -> [.. W]"""
        shaped: Tensor = self.norm(self.second(nn.functional.gelu(self.first(hidden))))
        return shaped


@dataclass(frozen=True)
class Thought:
    """The student after its latent tokens, ready to write the answer."""

    keys: Tensor
    """[B L H M D] of the latent tokens, before rotary embedding."""
    values: Tensor
    """[B L H M D]"""
    positions: Tensor
    """[B M]"""
    prefix: Prefix
    """Question and latent tokens, read."""


def think(
    reader: Reader,
    projection: LatentProjection,
    question_ids: Tensor,
    question_mask: Tensor,
    count: int,
    iterations: int | None = None,
) -> Thought:
    """Read right-padded questions [B Tq] and `count` latent tokens after each; gradients reach everything.

    Padding between a question and its latent tokens is masked and takes no position.
    """
    asked, last = read_prompt(reader, question_ids, question_mask)
    first = projection(last)[:, None]
    positions = asked.length[:, None] + torch.arange(count, device=last.device)
    mask = torch.cat([question_mask, question_mask.new_ones(len(last), count)], dim=1)
    if iterations is None:
        passes = _one_by_one(reader, projection, first, positions, mask, asked.past, count)
    else:
        passes = [_all_at_once(reader, projection, first, positions, mask, asked.past, count, iterations)]
    return Thought(
        keys=torch.cat([read.keys for read in passes], dim=3),
        values=torch.cat([read.values for read in passes], dim=3),
        positions=positions,
        prefix=Prefix(passes[-1].logits[:, -1], passes[-1].past, mask, asked.length + count),
    )


def _one_by_one(
    reader: Reader,
    projection: LatentProjection,
    first: Tensor,
    positions: Tensor,
    mask: Tensor,
    past: Any,
    count: int,
) -> Sequence[Pass]:
    asked = mask.shape[1] - count
    passes = [reader.read(first, mask[:, : asked + 1], positions[:, :1], past=past)]
    for slot in range(1, count):
        latent = projection(passes[-1].last_hidden)
        read_so_far = mask[:, : asked + slot + 1]
        passes.append(reader.read(latent, read_so_far, positions[:, slot : slot + 1], past=past))
    return passes


def _all_at_once(
    reader: Reader,
    projection: LatentProjection,
    first: Tensor,
    positions: Tensor,
    mask: Tensor,
    past: Any,
    count: int,
    iterations: int,
) -> Pass:
    """T refinements, then the pass whose cache counts (KaVa distils the last iteration's cache only)."""
    rest = projection.placeholder.expand(first.shape[0], count - 1, -1)
    latents = torch.cat([first, rest], dim=1)
    for _ in range(iterations):
        read = reader.read(latents, mask, positions, past=past)
        past.crop(-count)
        latents = torch.cat([first, projection(read.last_hidden)[:, :-1]], dim=1)
    return reader.read(latents, mask, positions, past=past)


def answer_logits(
    reader: Reader, thought: Thought, answer_ids: Tensor, answer_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits [B Ta V] that predict each answer token, and hidden states [B L Ta W] at the answer tokens.

    The answer is right-padded; its padding is read but seen by no real token.
    """
    prefix = thought.prefix
    positions = prefix.length[:, None] + torch.arange(answer_ids.shape[1], device=answer_ids.device)
    read = reader.read(answer_ids, torch.cat([prefix.mask, answer_mask], dim=1), positions, past=prefix.past)
    return torch.cat([prefix.next_logits[:, None], read.logits[:, :-1]], dim=1), read.hidden
