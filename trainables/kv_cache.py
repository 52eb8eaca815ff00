"""The one layout of a key-value cache here: five dimensions, [B L H T D], never flattened.

Dimension key, the same in every file: B batch rows, L layers, H key-value heads, H_q query heads,
T time (token positions; N when a whole chain of thought, M when a selection of it), D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class CacheShape:
    """What a model's cache looks like apart from batch and time."""

    layers: int
    heads: int
    """Key-value heads, not query heads."""
    head_dim: int

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"CacheShape.{name} must be at least 1, got {getattr(self, name)}.")

    def __str__(self) -> str:
        return f"{self.layers} layers x {self.heads} key-value heads x {self.head_dim}"


@dataclass(frozen=True)
class KVCache:
    """Keys and values [B L H T D] with the positions that are real.

    `mask` is bool and says which positions exist: [B T], or [B L H T] where every layer and head
    has its own (after a selection). Masked positions may hold anything; nothing reads them.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.keys.dim() != 5:
            raise ValueError(
                f"a cache has five dimensions [B L H T D], got keys of shape {tuple(self.keys.shape)}."
            )
        if self.keys.shape != self.values.shape:
            raise ValueError(
                f"keys and values must have one shape: {tuple(self.keys.shape)}, {tuple(self.values.shape)}."
            )
        B, L, H, T, _ = self.keys.shape
        if self.mask.dtype != torch.bool or tuple(self.mask.shape) not in {(B, T), (B, L, H, T)}:
            raise ValueError(
                f"mask must be bool of shape {(B, T)} or {(B, L, H, T)}, "
                f"got {self.mask.dtype} {tuple(self.mask.shape)}."
            )

    @property
    def shape(self) -> CacheShape:
        return CacheShape(*(self.keys.shape[i] for i in (1, 2, 4)))

    @property
    def full_mask(self) -> Tensor:
        """The mask as [B L H T], whichever form it is kept in."""
        if self.mask.dim() == 4:
            return self.mask
        B, L, H, T, _ = self.keys.shape
        return self.mask[:, None, None, :].expand(B, L, H, T)

    def gather(self, indices: Tensor, mask: Tensor) -> KVCache:
        """The positions `indices` [B L H M] of every row, layer and head, with their `mask` [B L H M]."""
        index = indices[..., None].expand(*indices.shape, self.keys.shape[-1])
        return KVCache(self.keys.gather(3, index), self.values.gather(3, index), mask)

    def layers(self, indices: Tensor) -> KVCache:
        """The layers `indices` [L'], in that order; repeats are allowed."""
        mask = self.mask if self.mask.dim() == 2 else self.mask[:, indices]
        return KVCache(self.keys[:, indices], self.values[:, indices], mask)

    def rows(self, order: Tensor) -> KVCache:
        """The batch rows in another `order` [B]."""
        return KVCache(self.keys[order], self.values[order], self.mask[order])

    def resized(self, length: int) -> KVCache:
        """With `length` positions: those beyond are cut, those that lack are masked."""
        beyond = length - self.keys.shape[3]
        keys, values = (pad(states, (0, 0, 0, beyond)) for states in (self.keys, self.values))
        return KVCache(keys, values, pad(self.mask, (0, beyond)))

    def detach(self) -> KVCache:
        return KVCache(self.keys.detach(), self.values.detach(), self.mask)

    def float(self) -> KVCache:
        """In float32: where losses and statistics are computed."""
        return KVCache(self.keys.float(), self.values.float(), self.mask)


def concatenated(caches: Sequence[KVCache]) -> KVCache:
    """The rows of one cache after those of another, all as long as the longest; masks of one form."""
    longest = max(cache.keys.shape[3] for cache in caches)
    sized = [cache.resized(longest) for cache in caches]
    return KVCache(
        *(torch.cat([getattr(cache, name) for cache in sized]) for name in ("keys", "values", "mask"))
    )
