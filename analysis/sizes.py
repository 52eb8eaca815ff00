"""Sizes as people read them: the one way in which kvtune writes an amount of bytes."""

from __future__ import annotations

UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def size(amount: float | None) -> str:
    """Bytes to three digits: GiB from one GiB on, MiB and KiB below; a dash where nothing is known."""
    if amount is None:
        return "–"
    unit, name = next((pair for pair in UNITS if amount >= pair[0]), UNITS[-1])
    value = amount / unit
    return f"{value:.3g} {name}" if value < 999.5 else f"{value:,.0f} {name}"
