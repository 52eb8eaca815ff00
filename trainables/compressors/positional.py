"""Compressors that look at nothing but an entry's place."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.compressors.context import Context


def right_crop_score(context: Context) -> Tensor:
    """Later is better, so the LAST real entries stay (KaVa's own "right crop" keeps the first ones)."""
    mask = context.cache.full_mask
    return torch.arange(mask.shape[-1], device=mask.device, dtype=torch.float32).expand(mask.shape)


def full_score(context: Context) -> Tensor:
    """All alike: every real entry stays."""
    mask = context.cache.full_mask
    return torch.zeros(mask.shape, device=mask.device)
