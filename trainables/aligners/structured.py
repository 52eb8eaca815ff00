"""structured: heads mapped, then dimensions; the cache keeps its five dimensions the whole way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.aligners.base import Aligner, dimension_starts, uniform_head_sharing
from trainables.config import DistillConfig
from trainables.kv_cache import CacheShape


class StructuredAligner(Aligner):
    """y[g] = D_l (sum_h A_l[g, h] x[h]): head mixing A [L_t H_t H_s], then a dimension map, no bias.

    D is one [D_t D_s] a layer with config.map_proj_share_dim, otherwise one for each target head, all of
    which start alike. A starts as uniform head sharing with config.map_proj_init_uniform, otherwise with
    random positive rows that sum to 1. Keys and values have maps of their own.
    """

    def __init__(
        self, config: DistillConfig, source: CacheShape, target: CacheShape, generator: torch.Generator
    ) -> None:
        super().__init__(source, target, config.layer_map)
        dims = dimension_starts(source, target, generator)
        share = bool(config.map_proj_share_dim)
        uniform = bool(config.map_proj_init_uniform)
        self.keys, self.values = (
            StructuredMap(
                heads=_head_start(source, target, uniform, generator),
                dims=start if share else start[:, None].expand(-1, target.heads, -1, -1),
            )
            for start in dims
        )


class StructuredMap(nn.Module):
    """[B L H_s T D_s] -> [B L H_t T D_t]; `dims` is [L_t D_t D_s], or [L_t H_t D_t D_s] for one per head."""

    def __init__(self, *, heads: Tensor, dims: Tensor) -> None:
        super().__init__()
        self.heads = nn.Parameter(heads.clone())
        self.dims = nn.Parameter(dims.clone(memory_format=torch.contiguous_format))

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.einsum("lgh,blhtd->blgtd", self.heads, x)
        equation = "led,blgtd->blgte" if self.dims.dim() == 3 else "lged,blgtd->blgte"
        return torch.einsum(equation, self.dims, mixed)


def _head_start(source: CacheShape, target: CacheShape, uniform: bool, generator: torch.Generator) -> Tensor:
    if uniform:
        return uniform_head_sharing(source.heads, target.heads).repeat(target.layers, 1, 1)
    drawn = 1 - torch.rand(target.layers, target.heads, source.heads, generator=generator)  # in (0, 1]
    return drawn / drawn.sum(-1, keepdim=True)
