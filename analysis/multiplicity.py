"""Several questions of one experiment share its level: Holm's step-down, and what it leaves a few seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Holm:
    """One comparison among the questions it shares its level with; adjusted p are compared with alpha."""

    family: str
    """primary, secondary or factorial."""
    size: int
    """Questions asked, whatever became of them."""
    floor: float
    """The smallest adjusted p that the exact test can give in the family."""
    p_signflip: float | None
    p_t: float | None
    p_worst_rank: float | None
    """With failures ranked worst, in every member; None where no run of this comparison failed."""


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm-adjusted p in the order given. A question without a p stays without, and counts all the same."""
    order = sorted(range(len(ps)), key=lambda place: _or_one(ps[place]))
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * _or_one(ps[place])))
        adjusted[place] = highest if ps[place] is not None else None
    return adjusted


def family_of(
    name: str,
    floor: float,
    p_signflip: Sequence[float | None],
    p_t: Sequence[float | None],
    p_worst_rank: Sequence[float | None],
) -> list[Holm]:
    """Every member's p adjusted over the family, member by member; floor: of one of them by itself."""
    size = len(p_signflip)
    return [
        Holm(
            family=name, size=size, floor=min(1.0, size * floor), p_signflip=flips, p_t=t, p_worst_rank=worst
        )
        for flips, t, worst in zip(holm(p_signflip), holm(p_t), holm(p_worst_rank), strict=True)
    ]


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p
