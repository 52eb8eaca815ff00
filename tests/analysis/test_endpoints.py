import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from analysis import ResultsError
from analysis.endpoints import endpoint_of, extract
from analysis.ragged import curves_of
from tests.analysis.fakes import compared, loaded

PLAN = loaded().plan


def table(*curves, metric="eval_ce", tokens_a_step=230.0):
    """Trials t0, t1, ... with these (step, value) points."""
    return pd.DataFrame(
        [
            {"trial_id": f"t{place}", "attempt": 1, "step": step, "tokens": step * tokens_a_step,
             "wall_s": step * 0.1, "split": "eval", "metric": metric, "value": value}
            for place, curve in enumerate(curves)
            for step, value in curve
        ]
    )  # fmt: skip


def values(metrics, name):
    endpoint = endpoint_of(PLAN, name)
    return extract(curves_of(metrics, endpoint.source, endpoint.split), endpoint).set_index("trial_id")[
        ["value", "gap"]
    ]


points = st.lists(
    st.tuples(st.integers(0, 500), st.floats(-1e3, 1e3)), min_size=2, max_size=12, unique_by=lambda p: p[0]
)


@settings(deadline=None, max_examples=30)
@given(st.lists(points, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_every_reading_is_that_of_its_own_run_in_any_order_of_rows(curves, random):
    metrics = table(*curves)
    shuffled = metrics.sample(frac=1, random_state=random.randint(0, 9))

    found = {name: values(shuffled, f"eval_ce@{name}") for name in ("final", "auc", "last_2_mean")}

    for place, curve in enumerate(curves):
        steps, series = np.array(sorted(curve)).T
        wanted = {
            "final": series[-1],
            "auc": trapezoid(series, steps) / (steps[-1] - steps[0]),
            "last_2_mean": series[-2:].mean(),
        }
        for name, value in wanted.items():
            assert found[name].loc[f"t{place}", "value"] == pytest.approx(value, abs=1e-9)
            assert found[name].loc[f"t{place}", "gap"] == ""


@settings(deadline=None, max_examples=30)
@given(points, st.floats(0.1, 10), st.floats(-100, 100))
def test_every_reading_moves_with_scale_and_shift(curve, scale, shift):
    moved = [(step, value * scale + shift) for step, value in curve]

    for name in ("eval_ce@final", "eval_ce@auc", "eval_ce@last_2_mean"):
        plain, other = values(table(curve, moved), name)["value"]
        assert other == pytest.approx(plain * scale + shift, abs=1e-7)


def test_a_run_of_too_few_evaluations_has_no_mean_of_the_last_and_no_area():
    metrics = table([(0, 1.0)], [(0, 1.0), (10, 2.0), (20, 3.0)])

    assert values(metrics, "eval_ce@last_2_mean")["gap"].tolist() == [
        "1 evaluations where the mean of the last 2 is asked",
        "",
    ]
    assert values(metrics, "eval_ce@auc")["value"].isna().tolist() == [True, False]
    assert values(metrics, "eval_ce@auc")["value"]["t1"] == 2.0


def test_steps_and_tokens_to_an_accuracy_are_infinite_where_it_is_never_reached():
    metrics = table([(0, 0.1), (10, 0.9), (20, 0.5)], [(0, 0.1), (10, 0.2)], metric="eval_accuracy")

    assert values(metrics, "steps_to_90")["value"].tolist() == [10, math.inf]
    assert values(metrics, "tokens_to_90")["value"].tolist() == [2300, math.inf]


def test_tokens_to_an_accuracy_has_no_value_where_tokens_were_not_logged():
    metrics = table([(0, 0.1), (10, 0.9)], metric="eval_accuracy").drop(columns="tokens")

    assert values(metrics, "tokens_to_90")["gap"].tolist() == ["tokens were not logged"]


def test_an_experiment_without_evaluations_has_no_endpoints():
    assert len(values(table([(0, 1.0)], metric="other"), None)) == 0


def test_a_secondary_endpoint_is_compared_in_its_own_reading():
    comparison = compared([1.0 + s / 50 for s in range(8)], [0.9 + s / 60 for s in range(8)])
    assert comparison.endpoint.label == "final eval CE"

    experiment = loaded(secondary=["eval_ce@auc", "tokens_to_90"])
    named = [endpoint_of(experiment.plan, name) for name in experiment.plan.secondary]

    assert [endpoint.metric for endpoint in named] == ["eval_ce@auc", "tokens_to_90"]
    assert named[0].label == "eval CE (mean over training, from the area under the curve)"
    assert (named[1].label, named[1].unit) == ("tokens to 90 % accuracy", "tokens")


def test_an_unknown_reading_is_an_error_that_names_the_known_ones():
    with pytest.raises(ResultsError, match=r"Did you mean 'auc'\?.*last_k_mean"):
        endpoint_of(PLAN, "eval_ce@aux")
