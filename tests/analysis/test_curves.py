import numpy as np
import pytest
from scipy import stats

from analysis.arms import arms_table
from analysis.curves import arm_curves, counts_text, smoothed, smoothing_text
from analysis.endpoints import endpoint_of
from analysis.pairing import outcomes
from tests.analysis.fakes import loaded


def curves(**options):
    experiment = loaded(**options)
    cells = outcomes(experiment, endpoint_of(experiment.plan))
    return {curve.arm: curve for curve in arm_curves(experiment.curves("eval_ce", "eval"), cells, 0.05)}


def test_the_band_is_the_pointwise_t_interval_over_runs():
    flat = curves()["flat"]

    last = flat.mean.iloc[-1]
    values = flat.runs.loc[flat.runs["step"] == 400, "value"].to_numpy()
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (last["low"], last["mean"], last["high"]) == pytest.approx((low, values.mean(), high))


def test_a_run_leaves_the_mean_where_it_diverges_and_its_end_is_marked():
    structured = curves(statuses={("structured", 1): "diverged"})["structured"]

    assert structured.mean.set_index("step")["n"].tolist() == [8, 8, 8, 7, 7]
    assert structured.ends[["seed", "step", "status"]].values.tolist() == [[1, 200, "diverged"]]
    assert counts_text([structured]) == "structured n = 8 of 8, 7 from step 300"


def test_no_curve_passes_a_value_that_is_not_finite():
    finals = {"flat": [1.0] * 8, "structured": [0.9, float("nan"), *[0.9] * 6]}

    structured = curves(finals=finals)["structured"]

    assert np.isfinite(structured.runs["value"]).all()
    assert structured.ends["seed"].tolist() == [1]


def test_the_arms_table_counts_what_happened():
    experiment = loaded(
        statuses={("flat", 1): "diverged", ("flat", 2): "not_run"}, retried=[("structured", 3)]
    )
    flat, structured = arms_table(
        outcomes(experiment, endpoint_of(experiment.plan)),
        experiment.curves("grad_norm", "train"),
        experiment.runs,
    )

    assert (flat["arm"], flat["planned"], flat["n"], flat["failures"], flat["lost"]) == ("flat", 8, 6, 1, 1)
    assert flat["failure_rate"] == 1 / 8
    assert flat["first_nonfinite_step"] == 250
    assert structured["retries"] == 1
    assert structured["aligner_params"] == 4700
    assert structured["mean"] < flat["mean"]
    assert structured["sd"] > 0


def test_the_gradient_ratio_is_p99_over_p50():
    experiment = loaded()

    flat = arms_table(
        outcomes(experiment, endpoint_of(experiment.plan)),
        experiment.curves("grad_norm", "train"),
        experiment.runs,
    )[0]

    norms = [2.0, 1.75, 1.5, 1.25, 1.0]
    assert flat["grad_norm_ratio"] == pytest.approx(np.quantile(norms, 0.99) / np.quantile(norms, 0.5))


def test_by_wall_time_a_run_counts_with_its_last_report_and_a_failed_one_leaves():
    structured = curves(statuses={("structured", 1): "diverged"})["structured"]

    table = structured.by_time
    quick = structured.runs[structured.runs["seed"] == 0]
    end = structured.ends.set_index("seed").loc[1, "wall_s"]
    assert table["n"].iloc[-1] == 7
    assert (table.loc[table["wall_s"] <= end, "n"] == 8).all()
    assert table["wall_s"].iloc[-1] > quick["wall_s"].max()
    finals = structured.runs[structured.runs["step"] == 400]["value"]
    assert table["mean"].iloc[-1] == pytest.approx(finals.mean())


def test_curves_may_be_aligned_on_tokens():
    experiment = loaded()
    cells = outcomes(experiment, endpoint_of(experiment.plan))

    flat = arm_curves(experiment.curves("eval_ce", "eval"), cells, 0.05, along="tokens")[0]

    assert flat.mean["tokens"].tolist() == [0, 23_000, 46_000, 69_000, 92_000]
    assert flat.mean["step"].tolist() == [0, 100, 200, 300, 400]
    np.testing.assert_array_equal(flat.mean["mean"], curves()["flat"].mean["mean"])


def test_smoothing_is_for_display_only_and_off_unless_asked_for():
    plain = curves()["flat"]

    drawn = smoothed(plain, 3)

    assert smoothed(plain, 1) is plain
    assert smoothing_text(1) == "Nothing is smoothed"
    assert "running mean over 3 points" in smoothing_text(3)
    assert drawn.mean["mean"].iloc[2] == pytest.approx(plain.mean["mean"].iloc[1:4].mean())
    first = drawn.runs[drawn.runs["seed"] == 0]["value"]
    assert first.iloc[0] == pytest.approx(plain.runs[plain.runs["seed"] == 0]["value"].iloc[:2].mean())
    assert drawn.mean["n"].tolist() == plain.mean["n"].tolist()
