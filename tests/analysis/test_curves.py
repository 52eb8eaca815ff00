import numpy as np
import pytest
from scipy import stats

from analysis.arms import arms_table
from analysis.curves import arm_curves, counts_text
from analysis.endpoints import endpoint_of
from analysis.pairing import outcomes
from tests.analysis.fakes import loaded


def curves(**options):
    experiment = loaded(**options)
    cells = outcomes(experiment, endpoint_of(experiment.plan))
    return {curve.arm: curve for curve in arm_curves(experiment.metrics, cells, "eval_ce", "eval", 0.05)}


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
    flat, structured = arms_table(outcomes(experiment, endpoint_of(experiment.plan)), experiment.metrics)

    assert (flat["arm"], flat["planned"], flat["n"], flat["failures"], flat["lost"]) == ("flat", 8, 6, 1, 1)
    assert flat["failure_rate"] == 1 / 8
    assert flat["first_nonfinite_step"] == 250
    assert structured["retries"] == 1
    assert structured["aligner_params"] == 4700
    assert structured["mean"] < flat["mean"]
    assert structured["sd"] > 0


def test_the_gradient_ratio_is_p99_over_p50():
    experiment = loaded()

    flat = arms_table(outcomes(experiment, endpoint_of(experiment.plan)), experiment.metrics)[0]

    norms = [2.0, 1.75, 1.5, 1.25, 1.0]
    assert flat["grad_norm_ratio"] == pytest.approx(np.quantile(norms, 0.99) / np.quantile(norms, 0.5))
