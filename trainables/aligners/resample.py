"""The two maps that all alignment modes share: which layer meets which, and a long chain on fewer slots."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.config import LayerMap, unknown
from trainables.device import widened
from trainables.kv_cache import KVCache


def layer_map(source_layers: int, target_layers: int, method: LayerMap) -> Tensor:
    """For each of `target_layers` the source layer it is paired with: int64 [target_layers], ascending.

    endpoints: evenly spread from first to last, halves rounded up; a single target layer gets the last.
    last_aligned: last with last and so on backwards; what is left over at the front gets the first.
    """
    place = torch.arange(target_layers)
    if method == "last_aligned":
        return (place + source_layers - target_layers).clamp(min=0)
    if method != "endpoints":
        raise unknown("--layer_map", method, ("endpoints", "last_aligned"))
    if target_layers == 1:
        return torch.tensor([source_layers - 1])
    steps = target_layers - 1
    return (2 * place * (source_layers - 1) + steps) // (2 * steps)  # in integers: no half is ever missed


def resample_time(cache: KVCache, length: int) -> KVCache:
    """A chain of any length [B L H N D] on `length` slots [B L H length D].

    A row of n real entries keeps them in order where n <= length, and the slots beyond are masked; a longer
    row is interpolated linearly at linspace(0, n - 1, length) over its real entries. Masked entries are
    never read, rows do not touch each other, and gradients reach the real entries.
    The mask keeps its form: [B length], or [B L H length] where every layer and head had its own.
    """
    if length < 1:
        raise ValueError(f"resample_time needs at least 1 slot, got length {length}.")
    B, L, H, N, _ = cache.keys.shape
    low, high, weight, mask = _places(cache.mask, length)
    real_first = cache.mask.long().argsort(dim=-1, descending=True, stable=True)

    def take(place: Tensor) -> KVCache:
        index = real_first.gather(-1, place.clamp(max=N - 1))
        index = index if index.dim() == 4 else index[:, None, None, :].expand(B, L, H, length)
        return cache.gather(index, mask)

    left, right = take(low), take(high)
    weight = weight[..., None] if weight.dim() == 4 else weight[:, None, None, :, None]
    weight = weight.to(cache.keys.dtype)
    return KVCache(left.keys.lerp(right.keys, weight), left.values.lerp(right.values, weight), mask)


def _places(mask: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where each slot reads among the real entries: left and right one, the right one's weight, the mask.

    In whole numbers, so that a slot that falls on an entry reads that entry alone.
    """
    slot = torch.arange(length, device=mask.device)
    n = mask.sum(-1, keepdim=True)
    steps = max(length - 1, 1)
    scaled = slot * (n - 1).clamp(min=0)
    shortened = n > length
    low = torch.where(shortened, scaled // steps, slot)
    weight = torch.where(shortened, widened(scaled % steps) / steps, 0.0)
    high = torch.where(weight > 0, low + 1, low)
    return low, high, weight, (slot < n)
