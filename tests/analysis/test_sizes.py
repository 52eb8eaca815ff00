"""Amounts of bytes, as people read them."""

from __future__ import annotations

import pytest

from analysis.sizes import size


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (None, "–"), (0, "0 B"), (500, "500 B"), (1023, "1,023 B"), (4000, "3.91 KiB"),
        (2**20 - 1, "1,024 KiB"), (2**20, "1 MiB"), (123_456_789, "118 MiB"), (0.1 * 2**30, "102 MiB"),
        (2**30 - 1, "1,024 MiB"), (2**30, "1 GiB"), (1.5 * 2**30, "1.5 GiB"), (10**15, "931,323 GiB"),
    ],
)  # fmt: skip
def test_a_size_is_told_in_gib_from_one_gib_on_and_in_smaller_units_below(
    amount: float | None, said: str
) -> None:
    assert size(amount) == said
