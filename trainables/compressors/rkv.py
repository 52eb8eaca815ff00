"""R-KV in KaVa's training-time form: attention that the answer pays, mixed with unlikeness to other keys.

Source: KaVa (arXiv:2510.02312), eviction and Listing 1, after R-KV (arXiv:2505.24133). One thing differs from
Listing 1: padding is masked before both softmaxes instead of after them, because otherwise the amount of
padding shifts the balance between the two terms, and with it the selection.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainables.compressors.context import Context
from trainables.device import widened

TIE_DECIMALS = 10
"""Scores equal to this many decimals tie. Sums are in float64, whose rounding noise lies far below."""


def rkv_score(context: Context) -> Tensor:
    """lambda * importance + (1 - lambda) * diversity [B L H N], in float64 where the device has it.

    Both terms sum to 1 over a row's real entries, for every layer and head; padding gets 0 of either.
    A row without a real query is ranked by diversity alone.
    """
    cache, lam = context.cache, context.rkv_lambda
    if context.queries is None:
        raise ValueError(
            "kv_method 'rkv' ranks entries by the attention that the answer pays them: pass queries "
            "[B L H_q N_A D], the answer positions' rotated queries, or choose full, right_crop or random."
        )
    real = cache.full_mask
    keys = _zero_where_masked(cache.keys, real)
    queries, query_mask = _checked_queries(context.queries, context.query_mask, cache.keys)
    queries = _zero_where_masked(queries, query_mask[:, None, None, :])
    score = lam * importance(keys, real, queries, query_mask) + (1 - lam) * diversity(keys, real)
    return torch.round(score, decimals=TIE_DECIMALS)


def importance(keys: Tensor, real: Tensor, queries: Tensor, query_mask: Tensor) -> Tensor:
    """Mean attention of the real queries [B L H_q N_A D] to the real keys [B L H N D]: [B L H N].

    Every key-value head serves a group of H_q / H query heads: the group's largest logit counts, before the
    softmax over the real entries.
    """
    head_dim = keys.shape[-1]
    grouped = queries.unflatten(2, (keys.shape[2], -1))  # [B L H G N_A D]
    logits = torch.einsum("blhgad,blhnd->blhgan", grouped, keys) / math.sqrt(head_dim)
    attention = masked_softmax(logits.amax(3), real[:, :, :, None, :])  # [B L H N_A N]
    weight = query_mask.to(attention) / query_mask.sum(-1, keepdim=True).clamp(min=1)
    return torch.einsum("blhan,ba->blhn", attention, weight)


def diversity(keys: Tensor, real: Tensor) -> Tensor:
    """Softmax over real entries of the negated mean cosine to the others: [B L H N], high = unlike the rest.

    An entry's own similarity counts 0 and the mean divides by the number of real entries. The sum over all
    pairs needs no N x N matrix: sum_j cos(i, j) = u_i . sum_j u_j, with u the keys of unit length.
    """
    unit = keys / keys.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    total = unit.sum(3, keepdim=True)
    to_others = (unit * total).sum(-1) - (unit * unit).sum(-1)
    mean = to_others / real.sum(-1, keepdim=True).clamp(min=1)
    return masked_softmax(-mean, real)


def masked_softmax(logits: Tensor, real: Tensor) -> Tensor:
    """Softmax over the last dimension among `real` entries; 0 elsewhere, also where none is real."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~real, lowest).softmax(-1).masked_fill(~real, 0)


def _zero_where_masked(x: Tensor, mask: Tensor) -> Tensor:
    """In the widest type, with whatever stands at masked positions (it may be inf or nan) replaced by 0."""
    return widened(x).masked_fill(~mask[..., None], 0)


def _checked_queries(queries: Tensor, mask: Tensor | None, keys: Tensor) -> tuple[Tensor, Tensor]:
    B, L, H, _, D = keys.shape
    fits = queries.dim() == 5 and queries.shape[:2] == (B, L) and queries.shape[4] == D
    if not fits or queries.shape[2] % H:
        raise ValueError(
            f"queries must be [B L H_q N_A D] with H_q a multiple of the {H} key-value heads, "
            f"got {tuple(queries.shape)} for keys of shape {tuple(keys.shape)}."
        )
    wanted = (B, queries.shape[3])
    if mask is None:
        mask = torch.ones(wanted, dtype=torch.bool, device=queries.device)
    if tuple(mask.shape) != wanted or mask.dtype != torch.bool:
        raise ValueError(f"query_mask must be bool of shape {wanted}, got {mask.dtype} {tuple(mask.shape)}.")
    return queries, mask
