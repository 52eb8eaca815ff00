import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from analysis import compare
from analysis.multiplicity import holm
from analysis.results import analyse
from tests.analysis.fakes import loaded
from tests.analysis.questions import judged, judged_family

FLAT = [2.0, 2.1, 1.9, 2.05, 1.95, 2.2, 1.8, 2.0]
SPREAD = np.array([0.01, -0.012, 0.008, -0.01, 0.011, -0.009, 0.012, -0.008])


def better_by(effect, seed=0):
    """An arm that is better by about so much on every seed."""
    return (np.array(FLAT) - effect + np.roll(SPREAD, seed)).tolist()


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holms_p_are_those_of_statsmodels(ps):
    expected = multipletests(ps, method="holm")[1]

    assert holm(ps) == pytest.approx(expected.tolist(), abs=1e-10)


@given(st.permutations([0.01, 0.04, 0.03, 0.2, 0.01]))
def test_the_order_of_the_questions_changes_no_adjusted_p(ps):
    assert dict(zip(ps, holm(ps), strict=True)) == {0.01: 0.05, 0.04: 0.09, 0.03: 0.09, 0.2: 0.2}


def test_a_question_without_a_p_counts_in_the_family_and_stays_without():
    assert holm([0.01, None, 0.02]) == pytest.approx([0.03, None, 0.04])


def test_one_arm_against_the_baseline_shares_its_level_with_nobody():
    assert judged(FLAT, better_by(0.5)).holm is None


def test_several_arms_against_one_baseline_share_the_level():
    found = judged_family(FLAT, {"a": better_by(0.5), "b": better_by(0.5, 1), "c": better_by(0.0, 2)})

    assert {arm: answer.verdict for arm, answer in found.items()} == {
        "a": "SUPERIOR", "b": "SUPERIOR", "c": "EQUIVALENT",
    }  # fmt: skip
    assert found["a"].p_signflip == 2 / 2**8
    assert found["a"].holm.p_signflip == 3 * 2 / 2**8
    assert found["a"].holm.floor == 3 * 2 / 2**8
    assert "after Holm over 3 questions 0.023 and" in found["a"].sentence


def test_a_family_too_large_for_its_seeds_is_not_testable_and_says_what_would_help():
    found = judged_family(FLAT, {f"arm{n}": better_by(0.5, n) for n in range(7)})["arm0"]

    assert found.verdict == "NOT TESTABLE"
    assert found.floor == 2 / 2**8 <= found.alpha < found.holm.floor == 7 * 2 / 2**8
    assert "0.05469 after Holm over 7 questions); run at least 1 more seed" in found.sentence
    assert "or fewer questions that share the level" in found.next_step


def test_a_p_that_is_enough_alone_may_not_be_enough_in_a_family():
    weak = (np.array(FLAT) - np.array([0.3, 0.2, 0.25, 0.1, 0.3, -0.03, 0.1, 0.02])).tolist()

    alone = judged(FLAT, weak)
    shared = judged_family(FLAT, {"a": weak, **{f"b{n}": better_by(0.0, n) for n in range(4)}})["a"]

    assert alone.verdict == "SUPERIOR"
    assert alone.p_signflip == shared.p_signflip
    assert shared.verdict == "INCONCLUSIVE"
    assert "but not at a level shared with the other questions" in shared.sentence


def test_the_margin_is_held_against_an_interval_for_the_whole_family():
    near = (np.array(FLAT) + SPREAD).tolist()

    alone = judged(FLAT, near, margin=0.0108)
    shared = judged_family(
        FLAT, {"a": near, **{f"b{n}": better_by(0.0, n) for n in range(5)}}, margin=0.0108
    )["a"]

    assert alone.interval == shared.interval
    assert shared.interval_family[0] < shared.interval[0] < shared.interval[1] < shared.interval_family[1]
    assert (alone.verdict, shared.verdict) == ("EQUIVALENT", "INCONCLUSIVE")


def test_secondaries_are_one_family_over_metrics_and_arms_and_the_primary_is_another():
    results = analyse(loaded(arms={"flat": 0.0, "structured": -0.06, "other": -0.05}))

    sizes = {family.name: (family.size, family.floor) for family in results.families}
    assert sizes["primary"] == (2, 2 * 2 / 2**8)
    assert sizes["secondary"] == (4, 4 * 2 / 2**8)
    assert [answer.holm.size for answer in results.secondary] == [4, 4, 4, 4]


def test_a_claim_of_a_secondary_needs_both_tests_after_holm():
    accuracy = {"flat": [0.70 + 0.01 * (seed % 3) for seed in range(8)]}
    accuracy["structured"] = [value + 0.05 + 0.01 * (seed % 2) for seed, value in enumerate(accuracy["flat"])]
    experiment = loaded(accuracy=lambda arm, seed: accuracy[arm][seed])

    found = compare(experiment, treatment="structured", metric="eval_accuracy")

    assert (found.role, found.verdict) == ("secondary", "SUPERIOR")
    assert found.holm.p_signflip == 2 * 2 / 2**8
    assert max(found.holm.p_signflip, found.holm.p_t) <= 0.05


def test_one_comparison_gets_the_answer_that_the_report_gives():
    experiment = loaded(arms={"flat": 0.0, "structured": -0.06, "other": -0.05})

    alone = compare(experiment, treatment="other").to_dict()

    assert alone == analyse(experiment).comparisons[1].to_dict()


def test_a_question_of_the_plan_asked_the_other_way_round_is_its_mirror_image():
    experiment = loaded(arms={"flat": 0.0, "structured": -0.06, "other": -0.05})

    ours = compare(experiment, treatment="structured")
    theirs = compare(experiment, treatment="flat", baseline="structured")

    assert theirs.role == "primary"
    assert theirs.difference == -ours.difference
    assert (theirs.p_signflip, theirs.holm.p_signflip) == (ours.p_signflip, ours.holm.p_signflip)
    assert (ours.verdict, theirs.verdict) == ("SUPERIOR", "INFERIOR")


def test_a_question_that_the_plan_does_not_name_is_estimated_and_never_tested():
    experiment = loaded(arms={"flat": 0.0, "structured": -0.06, "other": 0.3})

    found = compare(experiment, treatment="other", baseline="structured")

    assert found.role == "exploratory"
    assert found.verdict == "INCONCLUSIVE"
    assert found.difference > 0.3
    assert found.interval[0] > 0.3
    assert found.p_signflip is found.p_t is found.sensitivity.p_wilcoxon is None
    assert "the plan does not name this question" in found.sentence
    assert found.to_dict()["why_null"]["p_t"].startswith("the plan does not name this question")


def test_what_was_logged_and_not_planned_is_estimated_for_the_report():
    results = analyse(loaded(secondary=()))

    assert [(answer.metric, answer.role) for answer in results.exploratory] == [
        ("eval_accuracy", "exploratory")
    ]
    assert results.secondary == ()
