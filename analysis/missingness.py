"""Failed runs as outcomes: the exact test of their counts, and the ranks in which a failure is worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from analysis import signflip
from analysis.pairing import SeedRow
from analysis.records import FAILURES


@dataclass(frozen=True, kw_only=True)
class WorstRank:
    """The sign-flip test on signed ranks with failures counted as worse than any value."""

    p: float
    direction: Literal["better", "worse", "neither"]
    pairs: int
    """Complete pairs and pairs with a failure."""


@dataclass(frozen=True, kw_only=True)
class FailureTest:
    """Exact McNemar: does one arm fail on more seeds than the other? Seeds that were lost do not count."""

    treatment_only: int
    """Seeds on which the treatment failed and the baseline did not."""
    baseline_only: int
    both: int
    neither: int
    p: float
    """Two-sided; 1 where no seed tells the arms apart."""


def failure_test(rows: Sequence[SeedRow]) -> FailureTest:
    counts = {(ours, theirs): 0 for ours in (True, False) for theirs in (True, False)}
    for row in rows:
        if row.kind != "lost":
            counts[row.treatment_status in FAILURES, row.baseline_status in FAILURES] += 1
    ours, theirs = counts[True, False], counts[False, True]
    return FailureTest(
        treatment_only=ours,
        baseline_only=theirs,
        both=counts[True, True],
        neither=counts[False, False],
        p=float(stats.binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0,
    )


def worst_rank(rows: Sequence[SeedRow], harm_sign: int, shift: float = 0.0) -> WorstRank | None:
    """Signed ranks of harm + shift over complete and failed pairs; None where nothing failed.

    A failure is worse than any value: infinite harm of the side that failed, none where both failed.
    """
    if not any(row.kind == "failed" for row in rows):
        return None
    harms = np.array([_harm(row, harm_sign) + shift for row in rows if row.kind in ("paired", "failed")])
    ranks = signflip.signed_ranks(harms)
    total = float(ranks.sum())
    direction: Literal["better", "worse", "neither"] = "neither"
    if total:
        direction = "worse" if total > 0 else "better"
    return WorstRank(p=signflip.p_value(ranks), direction=direction, pairs=len(harms))


def _harm(row: SeedRow, harm_sign: int) -> float:
    if row.delta is not None:
        return row.delta * harm_sign
    failed = (row.treatment_status in FAILURES, row.baseline_status in FAILURES)
    return {(True, False): math.inf, (False, True): -math.inf}.get(failed, 0.0)
