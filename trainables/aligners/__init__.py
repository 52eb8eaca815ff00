"""One cache into another's shape. `alignment_mode` changes this module and nothing else.

To add a mode: an Aligner in a file here, a line in ALIGNERS, its name in `trainables.config.AlignmentMode`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainables.aligners.base import Aligner, parameter_count, uniform_head_sharing
from trainables.aligners.flat import FlatAligner, matched_flat_rank
from trainables.aligners.resample import layer_map, resample_time
from trainables.aligners.structured import StructuredAligner
from trainables.config import DistillConfig
from trainables.kv_cache import CacheShape
from trainables.streams import stream

__all__ = [
    "ALIGNERS",
    "Aligner",
    "build_aligner",
    "layer_map",
    "matched_flat_rank",
    "parameter_count",
    "resample_time",
    "uniform_head_sharing",
]

ALIGNERS: dict[str, Callable[[DistillConfig, CacheShape, CacheShape, torch.Generator], Aligner]] = {
    "flat": FlatAligner,
    "structured": StructuredAligner,
}


def build_aligner(
    config: DistillConfig,
    source: CacheShape,
    target: CacheShape,
    *,
    generator: torch.Generator | None = None,
) -> Aligner:
    """The map of `config.alignment_mode` from caches of shape `source` to caches of shape `target`.

    Its forward takes and gives a KVCache; time stays. With the same config.seed (or a generator in the same
    state) both modes start from the same dimension maps, and with uniform head sharing as the same function.
    """
    generator = generator or stream(config.seed, "aligner_init")
    return ALIGNERS[config.alignment_mode](config, source, target, generator)
