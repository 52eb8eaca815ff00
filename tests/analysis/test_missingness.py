import itertools

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from analysis.missingness import failure_test
from analysis.records import ADMINISTRATIVE, FAILURES
from tests.analysis.questions import judged, judged_family

FLAT = [2.0, 2.1, 1.9, 2.05, 1.95, 2.2, 1.8, 2.0, 2.1, 1.9, 2.15, 1.85]
BETTER = [value - 0.5 - 0.01 * (place % 4) for place, value in enumerate(FLAT)]


def failing(structured=(), flat=(), status="diverged"):
    return {
        **{("structured", place): status for place in structured},
        **{("flat", place): status for place in flat},
    }


@pytest.mark.parametrize(("ours", "theirs", "both"), [*itertools.product([0, 1, 4], [0, 2, 5], [0, 1])])
def test_the_test_of_failures_is_statsmodels_exact_mcnemar(ours, theirs, both):
    structured = [*range(ours), *range(9, 9 + both)]
    flat = [*range(4, 4 + theirs), *range(9, 9 + both)]

    found = failure_test(judged(FLAT, BETTER, statuses=failing(structured, flat)).rows)

    table = [[found.both, found.treatment_only], [found.baseline_only, found.neither]]
    assert (found.treatment_only, found.baseline_only, found.both) == (ours, theirs, both)
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-10)


@pytest.mark.parametrize("status", ADMINISTRATIVE)
def test_a_seed_that_was_lost_is_in_no_count_of_failures(status):
    found = judged(FLAT, BETTER, statuses=failing([0], [1], status))

    assert found.failure_test.neither == 10
    assert found.failure_test.p == 1
    assert found.worst_rank is None
    assert [row.seed for row in found.excluded] == [0, 1]


@pytest.mark.parametrize("status", FAILURES)
def test_every_kind_of_failure_counts_alike(status):
    found = judged(FLAT, BETTER, statuses=failing([0, 1], (), status))

    assert found.failure_test.treatment_only == 2
    assert found.worst_rank.pairs == 12
    assert found.statuses["structured"] == {"completed": 10, status: 2}


def test_swapping_the_arms_mirrors_the_ranks_of_failures():
    ours = judged(FLAT, BETTER, statuses=failing([0, 1, 2])).worst_rank
    theirs = judged(BETTER, FLAT, statuses={("flat", place): "diverged" for place in (0, 1, 2)}).worst_rank

    assert ours.p == theirs.p
    assert (ours.direction, theirs.direction) == ("better", "worse")


def test_survivors_alone_do_not_win():
    """An arm of no effect that loses its worst fifth of seeds looks better on those that are left."""
    rng = np.random.default_rng(7)
    won = {"alone": 0, "here": 0}
    for _ in range(200):
        flat, other = rng.normal(0, 1, (2, 10))
        worst = np.argsort(other - flat)[-2:]
        found = judged(flat.tolist(), other.tolist(), margin=None, statuses=failing(worst.tolist()))
        won["alone"] += (found.capped_from or found.verdict) == "SUPERIOR"
        won["here"] += found.verdict == "SUPERIOR"

    assert won["alone"] > 0.1 * 200
    assert won["here"] <= 0.05 * 200


def test_a_claim_within_a_family_must_hold_with_failures_ranked_worst_after_holm_too():
    others = {f"b{n}": np.roll(FLAT, n).tolist() for n in range(1, 4)}
    statuses = failing([0])

    alone = judged(FLAT, BETTER, statuses=statuses)
    shared = judged_family(FLAT, {"structured": BETTER, **others}, statuses=statuses)["structured"]

    assert alone.worst_rank == shared.worst_rank
    assert alone.worst_rank.p <= 0.05 < shared.holm.p_worst_rank == pytest.approx(4 * alone.worst_rank.p)
    assert alone.verdict == "SUPERIOR"
    assert (shared.verdict, shared.capped_from, shared.cap) == ("INCONCLUSIVE", "SUPERIOR", "failures")


@pytest.mark.parametrize("verdict_holds", [True, False])
def test_equivalence_stands_only_if_failures_leave_it(verdict_holds):
    near = [value + 0.001 * (-1) ** place for place, value in enumerate(FLAT)]
    both = failing([0], [0]) if verdict_holds else failing([0, 1], ())

    found = judged(FLAT, near, margin=0.01, statuses=both)

    assert (found.verdict == "EQUIVALENT") == verdict_holds
    assert (found.cap == "failures") != verdict_holds
