"""flat: heads and dimensions in one vector, one linear map of it per layer, apart for keys and values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.aligners.base import Aligner, dimension_starts, uniform_head_sharing
from trainables.config import DistillConfig, InputError
from trainables.kv_cache import CacheShape


class FlatAligner(Aligner):
    """y = W_l vec(x) with W [L_t H_t*D_t H_s*D_s], no bias; a product of two factors with config.flat_rank.

    'kronecker' starts W as (uniform head sharing) x (dimension start): the very function that the structured
    mode with uniform sharing starts as. A low rank starts as the nearest map of that rank.
    """

    def __init__(
        self, config: DistillConfig, source: CacheShape, target: CacheShape, generator: torch.Generator
    ) -> None:
        super().__init__(source, target, config.layer_map)
        starts = dimension_starts(source, target, generator)
        if config.flat_init == "random":
            starts = (_random(source, target, generator), _random(source, target, generator))
        else:
            starts = (_kronecker(source, target, starts[0]), _kronecker(source, target, starts[1]))
        if config.flat_rank is None:
            self.keys, self.values = (FlatMap(target, start) for start in starts)
        else:
            check_rank(config.flat_rank, source, target)
            self.keys, self.values = (LowRankMap(target, start, config.flat_rank) for start in starts)


class FlatMap(nn.Module):
    """[B L H_s T D_s] -> [B L H_t T D_t] through one full matrix a layer."""

    def __init__(self, target: CacheShape, start: Tensor) -> None:
        super().__init__()
        self.target = target
        self.weight = nn.Parameter(start.clone())  # [L_t H_t*D_t H_s*D_s]

    def forward(self, x: Tensor) -> Tensor:
        return _unflatten(torch.einsum("loi,blti->blto", self.weight, _flatten(x)), self.target)


class LowRankMap(nn.Module):
    """[B L H_s T D_s] -> [B L H_t T D_t] through `rank` numbers a position."""

    def __init__(self, target: CacheShape, start: Tensor, rank: int) -> None:
        super().__init__()
        self.target = target
        u, s, vh = torch.linalg.svd(start.double(), full_matrices=False)
        # All of s on one side: where s is 0 the other factor stays alive, and with it the gradient.
        self.up = nn.Parameter(
            (u * s[:, None, :])[..., :rank].to(start.dtype).contiguous()
        )  # [L_t H_t*D_t r]
        self.down = nn.Parameter(vh[:, :rank].to(start.dtype).contiguous())  # [L_t r H_s*D_s]

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.einsum("lri,blti->bltr", self.down, _flatten(x))
        return _unflatten(torch.einsum("lor,bltr->blto", self.up, inner), self.target)


def matched_flat_rank(source: CacheShape, target: CacheShape, share_dim: bool) -> int:
    """The rank at which a flat map has about as many parameters as the structured one; at least 1."""
    dims = target.head_dim * source.head_dim * (1 if share_dim else target.heads)
    structured = target.heads * source.heads + dims
    widths = _width(target), _width(source)
    return max(1, min(round(structured / sum(widths)), *widths))


def _width(shape: CacheShape) -> int:
    return shape.heads * shape.head_dim


def check_rank(rank: int, source: CacheShape, target: CacheShape) -> None:
    """InputError where a map from `source` to `target` cannot have the rank."""
    full = min(_width(source), _width(target))
    if rank > full:
        raise InputError(
            f"--flat_rank {rank} is more than the {full} that a map from {source} to {target} can have: "
            f"give at most {full}, or leave it out for a full map."
        )


def _kronecker(source: CacheShape, target: CacheShape, dims: Tensor) -> Tensor:
    """Head sharing (x) dimension map as one matrix a layer: [L_t H_t*D_t H_s*D_s]."""
    sharing = uniform_head_sharing(source.heads, target.heads)
    return torch.einsum("gh,led->lgehd", sharing, dims).flatten(3).flatten(1, 2)


def _random(source: CacheShape, target: CacheShape, generator: torch.Generator) -> Tensor:
    """Normal numbers that keep the variance: [L_t H_t*D_t H_s*D_s]."""
    drawn = torch.randn(target.layers, _width(target), _width(source), generator=generator)
    return drawn * _width(source) ** -0.5


def _flatten(x: Tensor) -> Tensor:
    return x.transpose(2, 3).flatten(3)  # [B L H T D] -> [B L T H*D]


def _unflatten(x: Tensor, target: CacheShape) -> Tensor:
    return x.unflatten(3, (target.heads, target.head_dim)).transpose(2, 3)  # [B L T H*D] -> [B L H T D]
