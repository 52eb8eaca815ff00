import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from analysis import signflip
from analysis.maxt import max_t
from analysis.results import analyse
from tests.analysis.fakes import loaded

curves = arrays(np.float64, (7, 5), elements=st.floats(-100, 100).map(lambda value: round(value, 3)))


def evaluated(experiment, curve, steps=range(0, 401, 50)):
    """The experiment with (arm, seed) -> eval CE at every step; None where nothing was logged."""
    rows = [
        {"trial_id": cell.trial_id, "attempt": 1, "step": step, "tokens": step, "wall_s": step * 0.1,
         "split": "eval", "metric": "eval_ce", "value": value, "n_items": 64}
        for cell in experiment.plan.cells
        for step, value in zip(steps, curve(cell.arm, cell.seed), strict=True)
        if value is not None
    ]  # fmt: skip
    return replace(experiment, metrics=pd.DataFrame(rows))


def ahead_from(place, gain=0.1):
    """structured equals flat but for noise, and leads from that evaluation on."""

    def curve(arm, seed):
        noise = np.random.default_rng([seed, arm == "flat"]).normal(0, 0.01, 9)
        lead = np.where(np.arange(9) >= place, gain, 0.0) * (arm == "structured")
        return list(2 + 0.1 * seed + noise - lead)

    return curve


def difference(experiment):
    (curve,) = analyse(experiment).differences
    json.dumps(curve.to_dict(), allow_nan=False)
    return curve


def test_the_band_leaves_zero_out_where_one_arm_leads_on_every_seed():
    found = difference(evaluated(loaded(seeds=range(8)), ahead_from(5)))

    assert [(s.first, s.last, s.steps, s.lead) for s in found.stretches] == [(250, 400, 4, "better")]
    assert found.counts == "n = 8 pairs"
    assert found.sentence.startswith(
        "structured against flat along training: better from step 250 to 400 (at 95 %"
    )
    assert found.p == pytest.approx(2 / 2**8)


def test_the_mean_and_its_pointwise_interval_are_those_of_the_paired_differences():
    curve = ahead_from(5)
    table = difference(evaluated(loaded(seeds=range(8)), curve)).table

    deltas = [curve("structured", seed)[6] - curve("flat", seed)[6] for seed in range(8)]
    low, high = stats.t.interval(0.95, 7, np.mean(deltas), stats.sem(deltas))
    row = table.set_index("step").loc[300]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((np.mean(deltas), low, high))
    assert row["band_low"] < row["low"] < row["high"] < row["band_high"]


def test_five_pairs_have_a_pointwise_band_and_no_claim():
    found = difference(evaluated(loaded(seeds=range(5)), ahead_from(0)))

    assert found.why == "no step has the 6 pairs that a claim takes"
    assert (found.tested, found.p, found.stretches) == (0, None, ())
    assert found.table["low"].notna().all()


def test_nothing_is_tested_among_the_survivors_of_a_failed_run():
    def curve(arm, seed):
        values = ahead_from(2)(arm, seed)
        return values[:5] + [None] * 4 if (arm, seed) == ("structured", 3) else values

    failed = evaluated(loaded(seeds=range(9), statuses={("structured", 3): "crashed"}), curve)
    found = difference(failed)

    assert found.why == "from step 250 on a failed run is missing: nothing is tested there"
    assert found.stretches[-1].last == 200
    assert found.counts == "n = 9 pairs, 8 from step 250"
    assert found.table["band_low"].notna().tolist() == [True] * 5 + [False] * 4


def test_a_run_leaves_the_difference_where_its_value_is_first_not_finite():
    def curve(arm, seed):
        values = ahead_from(2)(arm, seed)
        return [*values[:5], float("nan"), *values[6:]] if (arm, seed) == ("flat", 1) else values

    found = difference(evaluated(loaded(seeds=range(9)), curve))

    assert found.table["n"].tolist() == [9] * 5 + [8] * 4


def test_steps_that_only_one_arm_logged_are_not_interpolated():
    def curve(arm, seed):
        values = ahead_from(2)(arm, seed)
        return [None if place % 2 and arm == "flat" else value for place, value in enumerate(values)]

    found = difference(evaluated(loaded(seeds=range(8)), curve))

    assert found.table["step"].tolist() == [0, 100, 200, 300, 400]


def test_an_invalid_contrast_claims_nothing_along_the_curve():
    changes = {("flat", 0): {"init_hash": "another"}}

    found = difference(evaluated(loaded(seeds=range(8), run_changes=changes), ahead_from(0)))

    assert (found.why, found.stretches) == ("a validity gate failed", ())


def test_several_contrasts_share_the_level():
    arms = {"flat": 0.0, "structured": 0.0, "third": 0.0}
    found = analyse(evaluated(loaded(arms=arms, seeds=range(8)), ahead_from(5))).differences

    assert [curve.level for curve in found] == [0.025, 0.025]
    assert found[0].stretches
    assert not found[1].stretches


def test_swapping_the_arms_mirrors_the_curve():
    experiment = evaluated(loaded(seeds=range(8)), ahead_from(5))
    mirrored = tuple(contrast.mirrored for contrast in experiment.plan.contrasts)

    ours = difference(experiment)
    theirs = difference(replace(experiment, plan=replace(experiment.plan, contrasts=mirrored)))

    np.testing.assert_allclose(theirs.table["band_low"], -ours.table["band_high"])
    np.testing.assert_array_equal(theirs.table["p"], ours.table["p"])
    assert theirs.stretches[0] == replace(ours.stretches[0], lead="worse")


@given(curves)
@settings(deadline=None)
def test_on_one_step_p_is_that_of_the_sign_flip_test(deltas):
    column = deltas[:, :1]
    found = max_t(column, 0.05)

    if np.isnan(found.p[0]):
        assert np.ptp(column) <= 1e-9 * np.abs(column).max()
        return
    assert found.p[0] == pytest.approx(signflip.p_value(column[:, 0]))
    assert found.t[0] == pytest.approx(stats.ttest_1samp(column[:, 0], 0).statistic, rel=1e-6)


@given(curves, st.integers(-40, 40), st.permutations(range(7)), st.permutations(range(5)))
@settings(deadline=None)
def test_units_and_order_change_nothing_and_a_sign_turns_t(deltas, exponent, pairs, steps):
    plain = max_t(deltas, 0.05)
    scaled = max_t(deltas * 2.0**exponent, 0.05)
    ordered = max_t(deltas[pairs][:, steps], 0.05)
    turned = max_t(-deltas, 0.05)

    np.testing.assert_array_equal(scaled.p, plain.p)
    np.testing.assert_allclose(ordered.p, plain.p[steps])
    np.testing.assert_allclose(turned.t, -plain.t)
    np.testing.assert_array_equal(turned.p, plain.p)


@given(curves)
@settings(deadline=None)
def test_the_band_leaves_zero_out_only_where_the_test_rejects(deltas):
    found = max_t(deltas, 0.05)
    known = ~np.isnan(found.t)

    outside = np.abs(found.t[known]) > found.width[known]

    assert (found.p[known][outside] <= 0.05).all()


def test_more_steps_make_the_band_wider_and_p_larger():
    deltas = np.random.default_rng(3).normal(0.4, 1, (10, 40))

    few, many = max_t(deltas[:, :5], 0.05), max_t(deltas, 0.05)

    assert (many.p[:5] >= few.p).all()
    assert many.width[0] > few.width[0] > stats.t.isf(0.025, 9)


def test_above_sixteen_pairs_signs_are_drawn_and_come_close_to_all_of_them(monkeypatch):
    deltas = np.random.default_rng(5).normal(0.5, 1, (14, 6))
    exact = max_t(deltas, 0.05)

    monkeypatch.setattr("analysis.maxt.ENUMERATED", 10)
    drawn = max_t(deltas, 0.05)

    np.testing.assert_allclose(drawn.p, exact.p, atol=0.02)
    np.testing.assert_allclose(drawn.width, exact.width, rtol=0.05)
    np.testing.assert_array_equal(drawn.p, max_t(deltas, 0.05).p)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_neither_huge_nor_tiny_differences_break_the_band(scale):
    deltas = np.random.default_rng(5).normal(0.5, 1, (8, 6))

    np.testing.assert_allclose(max_t(deltas * scale, 0.05).t, max_t(deltas, 0.05).t, rtol=1e-9)


def test_a_step_at_which_the_differences_do_not_vary_has_no_t():
    deltas = np.random.default_rng(5).normal(0.5, 1, (8, 3))
    deltas[:, 0] = 0.0
    deltas[:, 1] = 0.3

    found = max_t(deltas, 0.05)

    assert np.isnan(found.t).tolist() == [True, True, False]
    assert np.isnan(max_t(np.full((8, 2), np.nan), 0.05).p).all()
