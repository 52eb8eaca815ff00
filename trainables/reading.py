"""Reading question, chain of thought and answer in one pass, and where its parts stand.

Dimension key: see kv_cache.py. "Chain" is the chain of thought; N its padded length in a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.batches import CHAIN, Batch
from trainables.capture import Pass, Reader
from trainables.config import DistillConfig
from trainables.kv_cache import KVCache
from trainables.losses import answer_loss


def chain_positions(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where each row's chain stands in the sequence: index [B N] (a valid one on padding too) and mask."""
    step = torch.arange(batch.longest_chain, device=batch.chain_len.device)
    start = batch.question_mask.sum(1)[:, None]
    mask = step < batch.chain_len[:, None]
    return torch.where(mask, start + step, start), mask


def answer_positions(batch: Batch) -> Tensor:
    """Where each row's answer stands in the whole sequence: [B Ta], clamped to the sequence on padding."""
    start = batch.question_mask.sum(1) + batch.chain_len
    index = start[:, None] + torch.arange(batch.answer_ids.shape[1], device=start.device)
    return index.clamp_max(batch.input_ids.shape[1] - 1)


def codi_position(batch: Batch) -> Tensor:
    """Where the last token before the answer's value stands in the whole sequence: [B]."""
    return answer_positions(batch).gather(1, batch.codi_index[:, None])[:, 0]


def read_whole(reader: Reader, batch: Batch) -> Pass:
    """[Q C A] in one pass; right-padded, so that a token's position is its index."""
    positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    return reader.read(batch.input_ids, batch.attention_mask, positions.expand_as(batch.input_ids))


def at(states: Tensor, index: Tensor) -> Tensor:
    """Rows of `states` [B L T W] at one position each, `index` [B]: [B L W]."""
    return states[torch.arange(len(index), device=index.device), :, index]


def chain_of(read: Pass, reader: Reader, batch: Batch, config: DistillConfig) -> KVCache:
    """The cache over the chain, [B L H N D] with mask [B N]; keys in the space compared (--k_space)."""
    positions, mask = chain_positions(batch)
    keys, values = (pick(states, positions) for states in (read.keys, read.values))
    if config.k_space == "post_rope":
        keys = reader.rotate(keys, positions)
    return KVCache(keys, values, mask)


def pick(states: Tensor, positions: Tensor) -> Tensor:
    """`states` [B L H T D] at `positions` [B N], the same in every layer and head: [B L H N D]."""
    index = positions[:, None, None, :, None].expand(*states.shape[:3], -1, states.shape[-1])
    return states.gather(3, index)


def explicit_loss(read: Pass, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of chain and answer after the question: mean, summed nats and tokens of each row, [B]."""
    chain_and_answer = batch.segment[:, 1:] >= CHAIN
    return answer_loss(read.logits[:, :-1], batch.input_ids[:, 1:], chain_and_answer, batch.n_explicit)
