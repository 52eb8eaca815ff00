"""The ladder of verdicts: the first rung that holds, and what takes a claim back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import signflip
from analysis.comparison import CLAIMS, Cap, Verdict
from analysis.missingness import WorstRank, worst_rank
from analysis.multiplicity import Holm
from analysis.paired_tests import Interval, Statistics, tested
from analysis.pairing import SeedRow
from analysis.ragged import Floats


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a verdict is held against."""

    alpha: float
    margin: float | None
    harm_sign: int
    """1 where lower is better."""


def ladder(numbers: Statistics, deltas: Floats, terms: Terms, holm: Holm | None = None) -> Verdict:
    """What the complete pairs say by themselves; in a family the adjusted p and its intervals count."""
    floor = signflip.floor_of(len(deltas)) if holm is None else holm.floor
    if max(floor, signflip.floor_of(len(deltas))) > terms.alpha:
        return "NOT TESTABLE"
    ranked = numbers.scale == "signed ranks"
    if numbers.p_t is None and (not ranked or not deltas.any()):
        return "DEGENERATE"
    if _claimed(numbers, holm) <= terms.alpha and numbers.lean:
        return "INFERIOR" if numbers.lean == terms.harm_sign else "SUPERIOR"
    harms = [
        _as_harm(interval, terms.harm_sign)
        for interval in (numbers.interval_family, numbers.interval_family_exact)
        if interval
    ]
    if terms.margin is None or len(harms) < 2:
        return "INCONCLUSIVE"
    if all(-terms.margin < low and high < terms.margin for low, high in harms):
        return "EQUIVALENT"
    return "NON-INFERIOR" if all(high < terms.margin for _, high in harms) else "INCONCLUSIVE"


def _claimed(numbers: Statistics, holm: Holm | None) -> float:
    """The larger p of both tests: a claim needs both."""
    source: Statistics | Holm = numbers if holm is None else holm
    return max(p for p in (source.p_signflip, source.p_t, 0.0) if p is not None)


def _as_harm(interval: Interval, harm_sign: int) -> Interval:
    low, high = interval
    return (low, high) if harm_sign > 0 else (-high, -low)


def verdict_of(
    deltas: Sequence[float] | Floats,
    *,
    alpha: float = 0.05,
    margin: float | None = None,
    harm_sign: int = 1,
    noise: float = 0.0,
) -> Verdict:
    """The verdict on complete pairs alone, for plain numbers: treatment - baseline, one per seed."""
    numbers = np.asarray(deltas, dtype=np.float64)
    terms = Terms(alpha=alpha, margin=margin, harm_sign=harm_sign)
    return ladder(tested(numbers, noise, alpha, 1), numbers, terms)


def cap_of(
    verdict: Verdict,
    rows: Sequence[SeedRow],
    terms: Terms,
    lean: int,
    *,
    worst: WorstRank | None,
    holm: Holm | None,
    allowed: bool,
    extended: bool,
) -> Cap | None:
    """What takes a claim back; None where it stands, or where nothing is claimed."""
    if verdict not in CLAIMS:
        return None
    if worst is not None and not _failures_agree(verdict, rows, terms, lean, worst, holm):
        return "failures"
    if extended:
        return "extension"
    return None if allowed else "interim"


def _failures_agree(
    verdict: Verdict,
    rows: Sequence[SeedRow],
    terms: Terms,
    lean: int,
    worst: WorstRank,
    holm: Holm | None,
) -> bool:
    """Whether direction and significance stay with failures ranked worst.

    Non-inferiority and equivalence must hold there against the margin, too.
    """
    leaning = {0: "neither", terms.harm_sign: "worse", -terms.harm_sign: "better"}[lean]
    claims = verdict in ("SUPERIOR", "INFERIOR")
    p = worst.p if holm is None or holm.p_worst_rank is None else holm.p_worst_rank
    if worst.direction != leaning or (p <= terms.alpha) != claims:
        return False
    if claims or terms.margin is None:
        return True
    level = terms.alpha / (1 if holm is None else holm.size)
    bounds = [(-terms.margin, "better")] + ([(terms.margin, "worse")] if verdict == "EQUIVALENT" else [])
    shifted = [(worst_rank(rows, terms.harm_sign, shift), wanted) for shift, wanted in bounds]
    return all(found and found.p <= level and found.direction == wanted for found, wanted in shifted)
