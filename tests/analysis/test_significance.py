import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.weightstats import ttost_paired

from analysis import ResultsError, compare
from tests.analysis.fakes import compared, loaded
from tests.analysis.questions import judged

FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
"""R's `sleep` data: extra hours under two drugs, ten patients."""

finite = st.floats(-10, 10).map(lambda value: round(value, 3))
tables = st.integers(1, 8).flatmap(
    lambda n: st.tuples(st.lists(finite, min_size=n, max_size=n), st.lists(finite, min_size=n, max_size=n))
)
few = settings(max_examples=25, deadline=None)


def nulls_in(plain, inside=""):
    """The dotted path of every null outside the seeds' rows, which have their note."""
    for name, value in plain.items():
        if value is None:
            yield f"{inside}{name}"
        elif isinstance(value, dict):
            yield from nulls_in(value, f"{inside}{name}.")


def normal_pairs(n, effect, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    flat = rng.normal(0, 1, n)
    return flat.tolist(), (flat + rng.normal(effect, noise, n)).tolist()


# --- numbers


def test_the_sleep_data_give_rs_paired_t_test():
    sleep = compared(SECOND, FIRST, primary={"margin": None})

    error = sleep.statistics.sd / math.sqrt(10)
    assert sleep.difference / error == pytest.approx(-4.0621, abs=5e-5)
    assert sleep.p_t == pytest.approx(0.002833, abs=5e-7)
    assert sleep.interval == pytest.approx((-2.4598858, -0.7001142), abs=1e-6)
    assert sleep.verdict == "SUPERIOR"


@pytest.mark.parametrize("margin", [0.1, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_p_of_equivalence_is_that_of_statsmodels_tost(margin, seed):
    flat, structured = normal_pairs(9, 0.2, seed, noise=0.5)

    found = judged(flat, structured, margin=margin).margin_test

    both, _, (_, below, _) = ttost_paired(np.array(structured), np.array(flat), -margin, margin)
    assert found.p_equivalence == pytest.approx(both, abs=1e-10)
    assert found.p_noninferiority == pytest.approx(below, abs=1e-10)


@pytest.mark.parametrize("margin", [0.05, 0.2, 0.5, 1.5])
@pytest.mark.parametrize("effect", [-0.3, 0.0, 0.2])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_the_interval_inside_the_margin_and_the_p_against_it_say_the_same(margin, effect, direction):
    flat, structured = normal_pairs(8, effect, noise=0.3)

    found = judged(flat, structured, margin=margin, direction=direction)

    low, high = sorted(bound * found.endpoint.harm_sign for bound in found.interval)
    exact_low, exact_high = sorted(bound * found.endpoint.harm_sign for bound in found.interval_exact)
    test = found.margin_test
    assert (test.p_noninferiority < 0.025) == (high < margin)
    assert (test.p_noninferiority_exact <= 0.025) == (exact_high < margin)
    assert (test.p_equivalence < 0.025) == (-margin < low and high < margin)
    assert (test.p_equivalence_exact <= 0.025) == (-margin < exact_low and exact_high < margin)


@few
@given(tables)
def test_swapping_the_arms_flips_only_the_sign(table):
    flat, structured = table
    ours, theirs = judged(flat, structured), judged(structured, flat)

    mirrored = {"SUPERIOR": "INFERIOR", "INFERIOR": "SUPERIOR"}
    assert theirs.difference == -ours.difference
    assert theirs.p_signflip == ours.p_signflip
    assert theirs.p_t == pytest.approx(ours.p_t)
    if ours.interval is not None:
        assert theirs.interval == pytest.approx((-ours.interval[1], -ours.interval[0]))
    if ours.interval_exact is not None:
        assert theirs.interval_exact == pytest.approx((-ours.interval_exact[1], -ours.interval_exact[0]))
    if ours.verdict not in ("NON-INFERIOR", "INCONCLUSIVE"):
        assert theirs.verdict == mirrored.get(ours.verdict, ours.verdict)


@few
@given(st.integers(0, 1000), st.integers(-20, 20), st.integers(-64, 64))
def test_a_change_of_unit_or_origin_changes_no_p_and_no_verdict(seed, exponent, shift):
    flat, structured = normal_pairs(7, -0.8, seed)
    scale = 2.0**exponent
    plain = judged(flat, structured, margin=0.5)

    other = judged(
        [scale * (value + shift) for value in flat],
        [scale * (value + shift) for value in structured],
        margin=0.5 * scale,
    )

    assert other.verdict == plain.verdict
    assert other.p_signflip == plain.p_signflip
    assert other.p_t == pytest.approx(plain.p_t, rel=1e-6)
    assert other.difference == pytest.approx(scale * plain.difference, rel=1e-6)
    assert other.interval == pytest.approx((scale * plain.interval[0], scale * plain.interval[1]), rel=1e-6)


def test_a_metric_where_higher_is_better_turns_the_verdict_round():
    flat, structured = normal_pairs(8, 3)

    assert compared(flat, structured, primary={"direction": "min"}).verdict == "INFERIOR"
    assert compared(flat, structured, primary={"direction": "max"}).verdict == "SUPERIOR"


# --- verdicts


@few
@given(st.integers(0, 5), st.integers(0, 10_000))
def test_five_pairs_or_fewer_never_claim_anything(n, seed):
    flat, structured = normal_pairs(n, -50, seed)

    verdict = judged(flat, structured) if n else judged([1.0], [2.0], statuses={("flat", 0): "crashed"})

    assert verdict.verdict == "NOT TESTABLE"


def test_the_verdict_of_too_few_seeds_names_the_floor_and_what_is_needed():
    comparison = compared(*normal_pairs(3, -50))

    assert comparison.sentence.startswith(
        "NOT TESTABLE: 3 pairs; the smallest p an exact test can give is 0.25; "
        "run at least 3 more seeds (7 more for 80 % power at an effect size d_z (mean difference / "
        "SD of differences) of 1)."
    )
    assert comparison.interval is not None
    assert comparison.interval_exact is None


def test_six_pairs_of_one_sign_are_enough_and_the_floor_is_their_p():
    comparison = compared(*normal_pairs(6, -8))

    assert comparison.verdict == "SUPERIOR"
    assert comparison.p_signflip == comparison.floor == 0.03125


def test_a_claim_needs_the_t_test_too():
    flat = [0.0] * 6
    structured = [-0.01, -0.01, -0.01, -0.01, -0.01, -5.0]

    comparison = compared(flat, structured, primary={"margin": None})

    assert comparison.p_signflip <= 0.05 < comparison.p_t
    assert comparison.verdict == "INCONCLUSIVE"


def test_a_stricter_alpha_needs_more_pairs():
    assert compared(*normal_pairs(7, -8), alpha=0.01).verdict == "NOT TESTABLE"
    assert compared(*normal_pairs(8, -8), alpha=0.01).verdict == "SUPERIOR"


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"),
    [
        (0.0, 0.5, "EQUIVALENT"),
        (-0.06, 0.1, "NON-INFERIOR"),
        (0.0, 0.05, "INCONCLUSIVE"),
        (0.0, None, "INCONCLUSIVE"),
        (0.5, 1.0, "INFERIOR"),
        (-0.5, 1.0, "SUPERIOR"),
    ],
)
def test_one_interval_against_zero_and_the_margin_gives_the_verdict(shift, margin, verdict):
    deltas = np.array([-0.1, 0.1, -0.08, 0.08, -0.11, 0.11, -0.05, 0.05]) + shift

    comparison = compared([2.0] * 8, (2.0 + deltas).tolist(), primary={"margin": margin})

    assert comparison.verdict == verdict


def test_inconclusive_prints_what_the_data_are_compatible_with_and_never_no_difference():
    deltas = [-0.1, 0.1, -0.08, 0.08, -0.11, 0.11, -0.05, 0.05]
    comparison = compared([2.0] * 8, [2.0 + delta for delta in deltas])

    assert comparison.verdict == "INCONCLUSIVE"
    assert "compatible with anything from 0.079 better to 0.079 worse" in comparison.sentence
    assert "a harm beyond the margin of 0.02 is not excluded" in comparison.sentence
    assert "no difference" not in comparison.sentence
    assert "seeds in all" in comparison.next_step


def test_the_sentence_of_a_claim_carries_everything_it_rests_on():
    comparison = compared(
        [1.0] * 8, [0.94, 0.941, 0.939, 0.95, 0.93, 0.935, 0.945, 0.9405], primary={"margin": 0.02}
    )

    assert comparison.sentence == (
        "structured lowered final eval CE by 0.0599, better than flat (95 % CI -0.0650 to -0.0549; 8 paired "
        "seeds, exact sign-flip p = 0.0078, t p = 2e-8); margin 0.02: SUPERIOR. 0 of 16 runs failed."
    )


# --- failures


def test_an_arm_that_loses_its_worst_seeds_does_not_win():
    flat, structured = normal_pairs(8, -0.5, noise=0.05)
    lost = {("structured", 6): "diverged", ("structured", 7): "crashed"}

    comparison = compared(flat, structured, statuses=lost)

    assert comparison.verdict == "INCONCLUSIVE"
    assert comparison.capped_from == "SUPERIOR"
    assert comparison.pairs == 6
    assert comparison.failures == {"flat": 0, "structured": 2}
    assert comparison.worst_rank.p > 0.05
    assert comparison.worst_rank.pairs == 8
    assert "Complete pairs alone would say SUPERIOR" in comparison.sentence
    assert "2 of 16 runs failed (structured 2)" in comparison.sentence


def test_failures_that_point_the_same_way_let_the_claim_stand():
    flat, structured = normal_pairs(8, -0.5, noise=0.05)

    comparison = compared(flat, structured, statuses={("flat", 0): "diverged", ("flat", 1): "oom"})

    assert comparison.verdict == "SUPERIOR"
    assert comparison.worst_rank.p == 2 / 2**8
    assert comparison.worst_rank.direction == "better"


def test_non_inferiority_does_not_survive_a_treatment_that_fails_more_often():
    deltas = np.array([-0.1, 0.1, -0.08, 0.08, -0.11, 0.11, -0.05, 0.06, 0, 0])
    flat, structured = [2.0] * 10, (2.0 + deltas).tolist()
    lost = {("structured", 8): "diverged", ("structured", 9): "diverged"}
    wide = {"margin": 0.5}

    assert compared(flat[:8], structured[:8], primary=wide).verdict == "EQUIVALENT"
    assert compared(flat, structured, primary=wide, statuses=lost).verdict == "INCONCLUSIVE"


def test_a_treatment_that_always_fails_is_not_testable_but_its_failures_are_told():
    comparison = compared(
        *normal_pairs(8, 0), statuses={("structured", seed): "diverged" for seed in range(8)}
    )

    assert comparison.verdict == "NOT TESTABLE"
    assert comparison.pairs == 0
    assert "With failures ranked worst structured is worse at p = 0.0078 (8 pairs)." in comparison.sentence


def test_a_seed_lost_for_administrative_reasons_is_no_failure_and_makes_the_verdict_interim():
    comparison = compared(*normal_pairs(8, -8), statuses={("structured", 2): "preempted"})

    assert comparison.worst_rank is None
    assert comparison.failures == {"flat": 0, "structured": 0}
    assert comparison.lost == {"flat": 0, "structured": 1}
    assert "Interim: 1 of 8 planned seeds not finished yet." in comparison.sentence


def test_steps_never_reached_rank_worst_without_a_mean():
    experiment = loaded(accuracy=lambda arm, seed: 0.95 if arm == "structured" else 0.7)

    comparison = compare(experiment, treatment="structured", metric="steps_to_90")

    assert comparison.verdict == "SUPERIOR"
    assert comparison.difference is None
    assert comparison.p_signflip == 2 / 2**8
    assert comparison.to_dict()["seeds"][0]["note"] == "baseline: never reached; delta: unbounded"


def test_two_arms_that_never_got_there_differ_by_nothing():
    experiment = loaded(accuracy=lambda arm, seed: 0.5)

    comparison = compare(experiment, treatment="structured", metric="steps_to_90")

    assert comparison.deltas == (0.0,) * 8
    assert comparison.verdict == "DEGENERATE"


# --- degenerate input


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("flat", "structured", "verdict"),
    [
        ([1.0] * 8, [1.0] * 8, "DEGENERATE"),
        ([1.0] * 8, [1.1] * 8, "DEGENERATE"),
        ([0.1 * n for n in range(8)], [0.1 * n + 0.3 for n in range(8)], "DEGENERATE"),
        ([math.nan] * 8, [1.0] * 8, "NOT TESTABLE"),
        ([math.inf] * 8, [-math.inf] * 8, "NOT TESTABLE"),
        ([1.0], [2.0], "NOT TESTABLE"),
        ([1e300 * n for n in range(1, 9)], [1e300 * n * 1.01 for n in range(1, 9)], "INFERIOR"),
        ([1e-300 * n for n in range(1, 9)], [1e-300 * n * 1.01 for n in range(1, 9)], "INFERIOR"),
        ([5e-324] * 8, [0.0] * 8, "DEGENERATE"),
        ([1.7e308] * 8, [-1.7e308] * 8, "SUPERIOR"),
        ([1.0] * 40, [1.0 - 0.01 * n for n in range(1, 41)], "SUPERIOR"),
    ],
)
def test_degenerate_input_gives_a_typed_verdict_without_a_warning(flat, structured, verdict):
    comparison = compared(flat, structured, primary={"margin": None})

    assert comparison.verdict == verdict
    assert comparison.sentence
    assert comparison.next_step
    json.dumps(comparison.to_dict(), allow_nan=False)


@few
@given(tables)
def test_every_null_in_the_json_has_its_reason(table):
    plain = judged(*table).to_dict()

    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text) == plain
    assert set(nulls_in(plain)) == plain["why_null"].keys()
    assert all(plain["why_null"].values())


# --- names


def test_an_unknown_arm_or_metric_is_answered_with_the_nearest_known_one():
    experiment = loaded()

    with pytest.raises(ResultsError, match=r"arm 'structred' is unknown\. Did you mean 'structured'\?"):
        compare(experiment, treatment="structred")
    with pytest.raises(ResultsError, match=r"Did you mean 'eval_accuracy'\?"):
        compare(experiment, treatment="structured", metric="eval_acuracy")
    with pytest.raises(ResultsError, match="compared with itself"):
        compare(experiment, treatment="flat")


@pytest.mark.parametrize("metric", ["kv_loss", "loss"])
def test_what_means_something_else_in_every_arm_is_never_compared(metric):
    with pytest.raises(ResultsError, match="each arm's KV target is its own projection"):
        compare(loaded(), treatment="structured", metric=metric)


def test_the_baseline_is_the_plans_unless_another_is_named():
    experiment = loaded(arms={"flat": 0.0, "structured": -0.06, "ce_only": 0.2})

    assert compare(experiment, treatment="ce_only").baseline == "flat"
    assert compare(experiment, treatment="ce_only", baseline="structured").difference > 0.2
