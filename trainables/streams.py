"""Named random streams: every use of chance draws from its own, derived from the trial's seed and its name.

A stream depends on nothing that was drawn before, so that an aligner with more weights cannot shift the
data order, and a resumed trial needs only the step to go on.
"""

from __future__ import annotations

import hashlib
import json

import torch


def stream_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream `names` of `seed`; names are anything JSON can write."""
    canonical = json.dumps([seed, *names], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: object) -> torch.Generator:
    """A fresh CPU generator at the start of the stream `names` of `seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, *names))
