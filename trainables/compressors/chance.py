"""The control: entries kept by lot."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.compressors.context import Context
from trainables.device import to_device, widest


def random_score(context: Context) -> Tensor:
    """Uniform numbers [B L H N], drawn anew for every row, layer and head.

    The n-th real entry of a row gets the same number however much padding stands around it: numbers are
    drawn time first and dealt to real entries in order. One call moves the generator on by one draw, so
    the padding of this batch cannot change the next batch's selection either.
    """
    if context.generator is None:
        raise ValueError(
            "kv_method 'random' draws its entries: pass generator=torch.Generator().manual_seed(...)."
        )
    mask = context.cache.full_mask
    B, L, H, N = mask.shape
    child = torch.Generator().manual_seed(_one_draw(context.generator))
    drawn = torch.rand(N, B, L, H, generator=child, dtype=torch.float64)
    drawn = to_device(drawn.movedim(0, -1).to(widest(mask.device)), mask.device)  # [B L H N]
    nth_real = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return drawn.gather(-1, nth_real)


def _one_draw(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device).item())
