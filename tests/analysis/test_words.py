"""The verdict in words: direction, digits, which test withholds a claim, and what would change it."""

import re

import numpy as np
import pytest

from analysis import compare, load
from analysis.intake import import_runs
from analysis.plan import Imported
from analysis.sentences import decimals_for, number
from tests.analysis.questions import judged, judged_family

IMPORTED = Imported(source="csv", runs=16, ignored=(), planned=False, remarks=(), step=None)
ONE_BETTER = [0.05, 0.04, 0.06, 0.05, 0.045, -0.003]
"""Differences that the t test calls harmful and the exact test does not."""


def against_zero(deltas, **options):
    """Differences as they are given, in a metric of which lower is better."""
    return judged([0.0] * len(deltas), list(deltas), **options)


# --- direction and digits


@pytest.mark.parametrize(
    ("sign", "direction", "said"),
    [
        (1, "min", "structured raised final eval CE by 0.040, worse than flat"),
        (-1, "min", "structured lowered final eval CE by 0.040, better than flat"),
        (1, "max", "structured raised final eval CE by 0.040, better than flat"),
        (-1, "max", "structured lowered final eval CE by 0.040, worse than flat"),
    ],
)
def test_the_sentence_says_the_direction_in_words(sign, direction, said):
    assert against_zero([sign * delta for delta in ONE_BETTER], direction=direction).sentence.startswith(said)


def test_a_mean_of_nothing_but_rounding_has_no_direction():
    found = against_zero([0.1, -0.1, 0.2, -0.2, 0.3, -0.3])

    assert found.sentence.startswith(
        "structured changed final eval CE by 0 against flat (95 % CI -0.25 to 0.25"
    )
    assert "3 of 6 seeds better, 3 worse" in found.sentence


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 0.02, 0.5, 7.0, 60.0])
def test_numbers_show_two_digits_of_the_half_width(scale):
    found = against_zero([scale * delta for delta in (1, -0.4, 1.2, 0.8, -0.5, 1.1, 0.2, 0.4)])
    half = (found.interval[1] - found.interval[0]) / 2

    shown = re.search(r"CI (-[\d.]+) to ([\d.]+);", found.sentence).groups()
    decimals = len(shown[1].partition(".")[2])
    digits = number(half, decimals).lstrip("0.").replace(".", "")
    assert len(digits) == 2
    assert float(shown[1]) == pytest.approx(found.interval[1], abs=0.51 * 10**-decimals)


@pytest.mark.parametrize(("spread", "decimals"), [(0.0996, 2), (0.0994, 3), (0.03, 3), (9.96, 0), (1e-9, 10)])
def test_rounding_up_to_a_power_of_ten_costs_no_third_digit(spread, decimals):
    assert decimals_for(spread) == decimals


# --- why there is no claim


def test_where_the_tests_disagree_the_range_is_the_hull_of_both_intervals():
    found = against_zero(ONE_BETTER)
    ends = [*found.interval, *found.interval_exact]

    assert found.p_t <= 0.05 < found.p_signflip
    assert found.interval[0] > 0 > min(ends)
    assert "The t test alone would claim it, the exact test does not" in found.sentence
    assert "5 of 6 seeds worse; with 6 seeds the exact test needs all 6" in found.sentence
    assert f"anything from {-min(ends):.3f} better to {max(ends):.3f} worse" in found.sentence
    assert "from 7 on the exact test bears one" in found.next_step


def test_an_exact_test_that_can_bear_a_seed_says_how_many_patterns_it_allows():
    found = against_zero([0.05, 0.04, 0.06, 0.05, 0.045, 0.04, -0.05, -0.06])
    share = round(found.p_signflip * 256)

    assert f"6 of 8 seeds worse; of the 256 ways to sign the differences {share} give" in found.sentence
    assert "the exact test allows 12" in found.sentence


def test_a_t_test_that_withholds_the_claim_is_named_with_the_spread():
    found = against_zero([-0.01, -0.01, -0.01, -0.01, -0.01, -5.0], margin=None)

    assert "The exact test alone would claim it, the t test does not: 6 of 6 seeds better" in found.sentence
    assert "(SD 2.0)" in found.sentence
    assert found.next_step.startswith("Look at what sets single seeds so far apart")


def test_a_margin_that_one_test_alone_excludes_is_not_excluded():
    deltas = np.array([0.9, -0.9, 0.8, -0.7, 0.85, -0.95])
    t_high = against_zero(deltas, margin=5.0).interval[1]
    exact_high = against_zero(deltas, margin=5.0).interval_exact[1]
    low, high = sorted((t_high, exact_high))

    found = against_zero(deltas, margin=(low + high) / 2)

    assert found.verdict == "INCONCLUSIVE"
    assert f"to {high:.2f} worse, so a harm beyond the margin" in found.sentence


def test_where_only_the_shared_level_forbids_a_claim_the_range_is_at_that_level():
    harm = [0.05, 0.04, 0.06, 0.05, 0.045, 0.055, 0.02, -0.03]
    noise = [1.0, -1, 1, -1, 1, -1, 1, -1.1]

    found = judged_family([0.0] * 8, {"a": harm, "b": noise, "c": noise[::-1]})["a"]
    families = found.statistics.interval_family, found.statistics.interval_family_exact

    assert max(found.p_signflip, found.p_t) <= 0.05 < found.holm.p_signflip
    assert "not at a level shared with the other questions (7 of 8 seeds worse)" in found.sentence
    assert f"to {max(high for _, high in families):.3f} worse" in found.sentence
    assert found.next_step.startswith("Fewer questions that share the level, or more seeds")


def test_an_end_of_the_range_that_few_decimals_make_zero_keeps_its_side():
    found = against_zero([0.1096, 0.0348, 0.1024, 0.0307, -0.0307, 0.0136, -0.0013, 0.1323])

    assert found.interval[0] < 0
    assert number(found.interval[0], 3) == "0.000"
    assert re.search(r"anything from 0\.000\d better to", found.sentence)


# --- what would change it


@pytest.mark.parametrize("imported", [None, IMPORTED])
def test_without_an_effect_of_interest_the_difference_that_so_many_seeds_find_is_told(imported):
    found = against_zero([0.05, -0.04, 0.06, -0.05, 0.045, 0.04, -0.05, -0.06], sesoi=None, imported=imported)

    assert found.next_step == (
        f"More seeds, in a new experiment. 8 have 80 % power for a difference of {found.detectable:.3f}; "
        "a smaller one takes more. Name a smallest effect of interest (sesoi) to learn how many."
    )


FAILED = {("structured", place): "diverged" for place in range(4)}
LOST = {("structured", 5): "not_run"}
EVERY = [
    ({}, "NOT TESTABLE", 3),
    ({"statuses": FAILED}, "NOT TESTABLE", 8),
    ({"statuses": LOST}, "INCONCLUSIVE", 8),
    ({"statuses": {("structured", place): "not_run" for place in range(8)}}, "NOT TESTABLE", 8),
    ({}, "SUPERIOR", 8),
    ({"direction": "max"}, "INFERIOR", 8),
]


@pytest.mark.parametrize(("options", "verdict", "n"), EVERY)
@pytest.mark.parametrize("imported", [None, IMPORTED])
def test_every_verdict_says_what_would_change_it_and_of_imported_runs_never_run_again(
    options, verdict, n, imported
):
    better = [-0.5 - 0.01 * (place % 4) for place in range(n)]

    found = against_zero(better, imported=imported, **options)

    assert found.verdict == verdict
    assert found.next_step.endswith(".")
    if imported:
        told = f"{found.sentence} {found.next_step} {' '.join(found.warnings)}"
        assert not re.search(
            r"\bruns? (the \w+ \w+ )?(again|at least)|not finished|Interim", told, re.IGNORECASE
        )


SHARED_NOTHING = {
    **{("flat", place): "not_run" for place in range(6, 12)},
    **{("structured", place): "not_run" for place in range(6)},
}


def test_arms_that_share_no_seed_are_unpaired_and_no_import_can_mend_that():
    seeds = [*range(6), *range(100, 106)]

    found = against_zero([1.0] * 12, statuses=SHARED_NOTHING, seeds=seeds, imported=IMPORTED)

    assert found.verdict == "NOT TESTABLE"
    assert found.sentence == (
        "NOT TESTABLE: structured and flat share no seed (6 in the one, 6 others in the other): the design "
        "is unpaired, and every test here is of differences within a seed. 0 of 12 runs failed."
    )
    assert found.next_step.startswith("Runs of both arms on the same seeds, at least 6:")


def test_a_table_whose_arms_have_other_seeds_is_imported_and_told_as_unpaired(tmp_path):
    rows = [f"{arm},{first + k},{1 + k / 50}" for arm, first in (("A", 0), ("B", 100)) for k in range(6)]
    (tmp_path / "runs.csv").write_text("\n".join(["arm,seed,loss", *rows, ""]))
    mapping = {
        "arm": "arm",
        "seed": "seed",
        "metrics": {"loss": {"column": "loss", "direction": "min"}},
        "analysis": {"baseline": "A", "primary": "loss"},
    }

    folder = import_runs("csv", [tmp_path / "runs.csv"], mapping, "map.yaml", tmp_path / "out")
    found = compare(load(folder), treatment="B")

    assert found.sentence.startswith("NOT TESTABLE: B and A share no seed (6 in the one, 6 others")
    assert found.sentence.endswith("0 of 12 runs failed.")


def test_failures_ranked_worst_say_nothing_where_their_p_is_large():
    statuses = {(arm, place): "diverged" for place in range(6) for arm in ("flat", "structured")}
    del statuses["structured", 5]

    found = against_zero([1.0] * 6, statuses=statuses)

    assert "With failures ranked worst nothing shows either: p = 1 (6 pairs)." in found.sentence


def test_a_run_of_ones_own_that_was_interrupted_is_not_called_unpaired():
    found = against_zero([1.0] * 12, statuses=SHARED_NOTHING)

    assert "unpaired" not in found.sentence
    assert found.next_step.startswith("Run the experiment again: only the missing trials")


def test_seeds_that_one_arm_lacks_are_told_of_imported_runs_without_advice_to_run_them():
    found = against_zero([-0.5 - 0.01 * (n % 4) for n in range(9)], statuses=LOST, imported=IMPORTED)

    assert (found.verdict, found.capped_from) == ("INCONCLUSIVE", "SUPERIOR")
    assert "why runs lack is not on record, so nothing is claimed" in found.sentence
    assert found.sentence.endswith(
        "0 of 17 runs failed. 1 of 9 seeds lacks a run that ended in one arm or in both."
    )
    assert found.next_step.startswith("Import the runs that 1 seed lacks")


def test_at_a_declared_look_the_verdict_stands_and_an_open_one_waits_for_the_next():
    missing = {("structured", place): "not_run" for place in range(8, 12)}
    claimed = against_zero([-0.5 - 0.01 * (n % 4) for n in range(12)], statuses=missing, looks=(8, 12))
    still_open = against_zero(
        [0.5 * (-1) ** n + 0.01 * n for n in range(12)], statuses=missing, looks=(8, 12)
    )

    assert claimed.verdict == "SUPERIOR"
    assert claimed.next_step.startswith("A mean nearer to zero by 0.5")
    assert claimed.sentence.endswith("4 of 12 planned seeds are left for later looks.")
    assert still_open.next_step.startswith("Go on to the next declared look, at 12 seeds")


@pytest.mark.parametrize("place", ["sentence", "next_step"])
def test_an_effect_size_is_spelled_for_people(place):
    assert not re.search(r"\bdz\b", getattr(against_zero([1.0, 2.0, 3.0]), place))
