"""What a compressor may look at when it scores a cache's entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.kv_cache import KVCache


@dataclass(frozen=True)
class Context:
    """One cache [B L H N D] and whatever else the caller has; `queries` and `generator` may be missing."""

    cache: KVCache
    queries: Tensor | None
    """Rotated queries of the answer's positions [B L H_q N_A D]."""
    query_mask: Tensor | None
    """Which of them are real, bool [B N_A]; all when None."""
    rkv_lambda: float
    generator: torch.Generator | None


Score = Callable[[Context], Tensor]
"""Scores [B L H N], high = keep. What stands at masked positions is never read."""
