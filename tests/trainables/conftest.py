"""Small real trials: the built-in task, the packaged teacher, students of two families."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch

from trainables.assemble import Trial, assemble
from trainables.config import DistillConfig

STRUCTURED = {"alignment_mode": "structured", "map_proj_share_dim": True, "map_proj_init_uniform": True}


def small(**changes: Any) -> DistillConfig:
    """A config of seconds: 128 rows of the built-in task, structured unless told otherwise."""
    base: dict[str, Any] = {
        "model_name": "tiny-llama",
        "dataset": "arithmetic",
        "subset_size": 128,
        "batch_size": 8,
        "eval_size": 32,
        "target_len": 4,
        "lr": 2e-3,
    }
    mode = {} if changes.get("alignment_mode") == "flat" else STRUCTURED
    return DistillConfig(**{**base, **mode, **changes})


@cache
def _assembled(config: DistillConfig) -> Trial:
    return assemble(config)


@pytest.fixture(scope="session")
def trial_of() -> Callable[..., Trial]:
    """trial_of(**changes): an assembled trial, shared by tests; clear gradients before use, train nothing."""
    return lambda **changes: _assembled(small(**changes))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
