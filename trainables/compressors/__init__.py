"""Which entries of the chain of thought's cache are kept: per row, layer and key-value head.

A compressor only scores entries; `select` ranks them. To add one: a function in a file here, a line in
COMPRESSORS, its name in `trainables.config.KVMethod`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.compressors.chance import random_score
from trainables.compressors.context import Context, Score
from trainables.compressors.positional import full_score, right_crop_score
from trainables.compressors.rkv import rkv_score
from trainables.config import unknown
from trainables.kv_cache import KVCache

__all__ = ["COMPRESSORS", "Selection", "select"]

COMPRESSORS: dict[str, Score] = {
    "full": full_score,
    "right_crop": right_crop_score,
    "rkv": rkv_score,
    "random": random_score,
}


@dataclass(frozen=True)
class Selection:
    """Positions in time, for `KVCache.gather`."""

    indices: Tensor
    """int64 [B L H M]: kept positions in ascending order, then 0 in the slots without one."""
    mask: Tensor
    """bool [B L H M]: the slots that hold a kept position."""


@torch.no_grad()
def select(
    cache: KVCache,
    *,
    method: str,
    keep: int,
    queries: Tensor | None = None,
    query_mask: Tensor | None = None,
    rkv_lambda: float = 0.1,
    generator: torch.Generator | None = None,
) -> Selection:
    """The `keep` real entries of highest score, for every row, layer and head of a cache [B L H N D].

    M is `keep` (N for method 'full', which keeps every real entry); where fewer entries are real, all of them
    are kept and the other slots masked. Of equal scores the earlier entry is kept. `queries`
    [B L H_q N_A D] are the answer positions' rotated queries and `query_mask` [B N_A] says which are real;
    'rkv' needs them, 'random' needs `generator`. Padding, whatever it holds, never changes a selection.
    """
    if method not in COMPRESSORS:
        raise unknown("kv_method", method, COMPRESSORS)
    if keep < 1:
        raise ValueError(f"keep must be at least 1 entry, got {keep}.")
    score = COMPRESSORS[method](Context(cache, queries, query_mask, rkv_lambda, generator))
    slots = cache.keys.shape[3] if method == "full" else keep
    return _best(score, cache.full_mask, slots)


def _best(score: Tensor, real: Tensor, slots: int) -> Selection:
    """The `slots` highest scores [B L H N] among the real ones, back in the order of time."""
    N = score.shape[-1]
    lowest = torch.finfo(score.dtype).min  # above the -inf of padding, also where a real score is not finite
    ranked = torch.nan_to_num(score, nan=lowest, neginf=lowest).masked_fill(~real, -torch.inf)
    best = ranked.argsort(dim=-1, descending=True, stable=True)[..., :slots]
    best = torch.nn.functional.pad(best, (0, slots - best.shape[-1]), value=N)
    mask = torch.arange(slots, device=real.device) < real.sum(-1, keepdim=True)
    in_time = best.masked_fill(~mask, N).sort(dim=-1).values
    return Selection(in_time.masked_fill(~mask, 0), mask)
