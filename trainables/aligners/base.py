"""What both alignment modes have in common: layers, masks, and how the dimension maps start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.aligners.resample import layer_map
from trainables.config import LayerMap
from trainables.kv_cache import CacheShape, KVCache


class Aligner(nn.Module):
    """A learned linear map from caches of one shape to caches of another, position by position.

    A mode sets `keys` and `values`: modules from [B L H_s T D_s] to [B L H_t T D_t], L the target's layers.
    Time is unchanged. Masked positions are taken as 0, so their content reaches neither output nor gradient.
    A mask [B T] passes through. With a mask per layer and head, an output position is real where every head
    of the layer it reads is, since each output head is made of all of them.
    """

    keys: nn.Module
    values: nn.Module
    layer_index: Tensor

    def __init__(self, source: CacheShape, target: CacheShape, layers: LayerMap) -> None:
        super().__init__()
        self.source = source
        self.target = target
        index = layer_map(source.layers, target.layers, layers)
        self.register_buffer("layer_index", index, persistent=False)

    def forward(self, cache: KVCache) -> KVCache:
        if cache.shape != self.source:
            raise ValueError(f"this aligner maps caches of {self.source}, got one of {cache.shape}.")
        cache = zero_masked(cache)
        if self.source.layers != self.target.layers:
            cache = cache.layers(self.layer_index)
        dtype = next(self.parameters()).dtype
        keys, values = self.keys(cache.keys.to(dtype)), self.values(cache.values.to(dtype))
        return KVCache(keys, values, self._mask(cache.mask))

    def _mask(self, mask: Tensor) -> Tensor:
        if mask.dim() == 2:
            return mask
        return mask.all(dim=2, keepdim=True).expand(-1, -1, self.target.heads, -1)

    def extra_repr(self) -> str:
        return f"{self.source} -> {self.target}"


def zero_masked(cache: KVCache) -> KVCache:
    """The cache with 0 at masked positions: what stood there, even nan, reaches no sum and no gradient."""
    real = cache.full_mask[..., None]
    return KVCache(cache.keys.where(real, 0), cache.values.where(real, 0), cache.mask)


def dimension_starts(
    source: CacheShape, target: CacheShape, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """How the dimension maps of keys and of values start: [L_t D_t D_s] each.

    The identity where head_dim stays, otherwise drawn with orthonormal rows or columns. Both modes draw this
    first from the same stream, and so start from the same maps.
    """
    keys, values = (_dimension_start(source, target, generator) for _ in range(2))
    return keys, values


def _dimension_start(source: CacheShape, target: CacheShape, generator: torch.Generator) -> Tensor:
    if source.head_dim == target.head_dim:
        return torch.eye(target.head_dim).repeat(target.layers, 1, 1)
    drawn = torch.empty(target.layers, target.head_dim, source.head_dim)
    for layer in drawn:
        nn.init.orthogonal_(layer, generator=generator)
    return drawn


def uniform_head_sharing(inputs: int, outputs: int) -> Tensor:
    """Weights [outputs inputs] that share `inputs` heads out equally, for any two counts.

    With both laid side by side over one width, output head o takes from input head i the share of o's
    interval that i covers. Rows sum to 1, every input carries outputs/inputs in all, equal counts give the
    identity, and where one count divides the other the weights are group means or copies.
    """
    ours, theirs = torch.arange(outputs)[:, None] * inputs, torch.arange(inputs)[None, :] * outputs
    end = torch.minimum(ours + inputs, theirs + outputs)  # in units of 1/(inputs * outputs): whole numbers
    overlap = (end - torch.maximum(ours, theirs)).clamp(min=0)
    return overlap.float() / inputs


def parameter_count(module: nn.Module) -> int:
    """Numbers a module learns, or would if it were not frozen."""
    return sum(parameter.numel() for parameter in module.parameters())
