from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.streams import stream, stream_seed


def test_a_stream_is_the_same_whatever_else_was_drawn() -> None:
    first = torch.rand(5, generator=stream(3, "student_init"))

    torch.rand(100, generator=stream(3, "aligner_init"))
    torch.rand(100)
    again = torch.rand(5, generator=stream(3, "student_init"))

    assert torch.equal(first, again)


def test_seeds_and_names_each_make_a_stream_of_their_own() -> None:
    keys = [(0, "data_order", 0), (1, "data_order", 0), (0, "data_order", 1), (0, "selection", 0), (0,)]

    seeds = {stream_seed(*key) for key in keys}

    assert len(seeds) == len(keys)


def test_names_are_not_run_together() -> None:
    assert stream_seed(0, "a", "b") != stream_seed(0, "ab")
    assert stream_seed(1, 2) != stream_seed(12)
    assert stream_seed(0, "1") != stream_seed(0, 1)


def test_stream_seeds_never_change() -> None:
    """Every recorded result hangs on these numbers."""
    assert stream_seed(0, "data_order", 0) == 7076801257691153440


@given(st.integers(0, 2**63), st.text())
def test_a_stream_seed_fits_into_63_bits(seed: int, name: str) -> None:
    assert 0 <= stream_seed(seed, name) < 2**63
