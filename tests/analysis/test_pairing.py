import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import compare
from analysis.endpoints import endpoint_of
from analysis.pairing import outcomes
from analysis.records import ADMINISTRATIVE, FAILURES
from analysis.validity import _equal_within_pairs
from tests.analysis.fakes import PLANNED, FakeExperiment, compared, loaded

EVERY_CELL = [(arm, seed) for arm in ("flat", "structured") for seed in range(8)]


@pytest.fixture(scope="module")
def plain():
    """What an experiment without any of these says."""
    return compare(loaded(), treatment="structured").to_dict()


def cells(**options):
    experiment = loaded(**options)
    return outcomes(experiment, endpoint_of(experiment.plan)).set_index(["arm", "seed"])


def invalid(**options):
    """The failed gates, by name, of an experiment that must be INVALID."""
    comparison = compare(loaded(**options), treatment="structured")
    assert comparison.verdict == "INVALID"
    assert comparison.p_signflip is None
    assert comparison.interval is None
    return {gate.name: gate.detail for gate in comparison.findings}


# --- the planned grid


def test_every_planned_cell_has_a_row_whatever_became_of_it():
    table = cells(statuses={("flat", 0): "not_run", ("structured", 3): "crashed"})

    assert len(table) == 16
    assert table.loc[("flat", 0), "status"] == "not_run"
    assert table.loc[("flat", 0), "attempts"] == 0
    assert table.loc[("structured", 3), "status"] == "crashed"


def test_a_cell_that_no_table_mentions_was_not_run(tmp_path):
    folder = FakeExperiment().write(tmp_path)
    runs = pd.read_parquet(folder / "runs.parquet")
    runs[runs["arm"] == "flat"].to_parquet(folder / "runs.parquet")

    from analysis import load

    comparison = compare(load(folder), treatment="structured")

    assert comparison.verdict == "NOT TESTABLE"
    assert comparison.lost == {"flat": 0, "structured": 8}


def test_a_trial_that_the_plan_does_not_name_is_left_aside(tmp_path):
    from analysis import load

    folder = FakeExperiment(seeds=range(9)).write(tmp_path)
    (folder / "plan.json").write_text((FakeExperiment().write(tmp_path / "other") / "plan.json").read_text())

    assert compare(load(folder), treatment="structured").planned == 8


@pytest.mark.parametrize("status", FAILURES)
def test_the_last_value_of_a_failed_run_is_never_its_endpoint(status):
    table = cells(statuses={("structured", 1): status})

    assert np.isnan(table.loc[("structured", 1), "value"])


@pytest.mark.parametrize("status", [*FAILURES, *ADMINISTRATIVE])
def test_failures_and_administrative_losses_are_told_apart(status):
    comparison = compared([1.0] * 8, [0.9] * 8, statuses={("flat", 2): status})

    kind = {row.seed: row.kind for row in comparison.rows}[2]
    assert kind == ("failed" if status in FAILURES else "lost")
    assert comparison.failures["flat"] == (status in FAILURES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_completed_without_a_finite_endpoint_is_diverged(value):
    finals = {"flat": [1.0] * 8, "structured": [0.9, value, *[0.9] * 6]}

    table = cells(finals=finals)

    assert table.loc[("structured", 1), "status"] == "diverged"
    assert table.loc[("structured", 1), "failure_reason"] == "eval_ce is not finite at the endpoint"
    assert compared(**finals).failures == {"flat": 0, "structured": 1}


def test_the_last_attempt_wins_and_attempts_are_counted():
    table = cells(retried=[("flat", 4)])

    assert table.loc[("flat", 4), "status"] == "completed"
    assert table.loc[("flat", 4), "attempts"] == 2
    assert table.loc[("flat", 4), "value"] == pytest.approx(cells().loc[("flat", 4), "value"])


def test_a_last_attempt_that_crashed_does_not_fall_back_on_an_earlier_value():
    changes = {("flat", 4): {"status": "crashed", "attempt": 3}}

    table = cells(retried=[("flat", 4)], run_changes=changes)

    assert table.loc[("flat", 4), "status"] == "crashed"
    assert np.isnan(table.loc[("flat", 4), "value"])


@pytest.mark.parametrize(
    "options", [{"shuffled": True}, {"twice": True}, {"string_seeds": True}, {"retried": [("structured", 2)]}]
)
def test_row_order_duplicates_string_seeds_and_retries_change_nothing(options):
    plain = compare(loaded(), treatment="structured").to_dict()

    assert compare(loaded(**options), treatment="structured").to_dict() == plain


@settings(max_examples=6, deadline=None)
@given(st.booleans(), st.booleans(), st.booleans(), st.sets(st.sampled_from(EVERY_CELL), max_size=4))
def test_nor_do_they_together(plain, shuffled, twice, string_seeds, retried):
    options = {"shuffled": shuffled, "twice": twice, "string_seeds": string_seeds}

    found = compare(loaded(retried=sorted(retried), **options), treatment="structured")

    assert found.to_dict() == plain
    assert sum(found.retries.values()) == len(retried)


# --- endpoints


def test_final_last_k_mean_and_area_read_the_same_curve_differently():
    def value(**primary):
        return cells(finals={"flat": [1.0] * 8, "structured": [1.0] * 8}, primary=primary).loc[
            ("flat", 0), "value"
        ]

    curve = [1 + left**2 for left in (1, 0.75, 0.5, 0.25)] + [1.0]
    assert value(at="final") == 1.0
    assert value(at="last_k_mean", k=2) == pytest.approx(np.mean(curve[-2:]))
    assert value(at="auc") == pytest.approx(np.trapezoid(curve, [0, 100, 200, 300, 400]) / 400)


def test_steps_to_ninety_is_the_first_evaluated_step_that_reaches_it():
    experiment = loaded(accuracy=lambda arm, seed: {0: 0.9, 1: 1.19, 2: 0.89}.get(seed, 0.95))

    values = outcomes(experiment, endpoint_of(experiment.plan, "steps_to_90")).set_index(["arm", "seed"])[
        "value"
    ]

    assert values[("flat", 0)] == 400
    assert values[("flat", 1)] == 400
    assert values[("flat", 2)] == np.inf
    assert (
        outcomes(experiment, endpoint_of(experiment.plan, "steps_to_50")).set_index(["arm", "seed"])["value"][
            ("flat", 1)
        ]
        == 200
    )


def test_a_mean_of_more_evaluations_than_there_are_is_no_endpoint():
    found = invalid(primary={"at": "last_k_mean", "k": 6})

    assert (
        "5 evaluations where the mean of the last 6 is asked" in found["every completed run has the endpoint"]
    )


# --- gates


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [
        ("data_order_hash", "other", "the same batches in the same order within each pair"),
        ("init_hash", "other", "the same first weights within each pair"),
        ("eval_set_hash", "other", "the same held-out rows within each pair"),
        ("planned_steps", PLANNED + 1, "as many planned steps within each pair"),
        ("tokens_seen", 7, "as many tokens seen within each pair"),
    ],
)
def test_a_pair_that_differs_in_what_it_should_share_is_invalid(column, value, name):
    found = invalid(run_changes={("structured", 3): {column: value}})

    assert found.keys() == {name}
    assert f"{column} differs for seeds 3" in found[name]


def test_a_factor_that_was_not_declared_makes_the_contrast_invalid():
    changes = {
        (arm, seed): {"factor.lr": "0.1" if arm == "flat" else "0.2"}
        for arm in ("flat", "structured")
        for seed in range(8)
    }

    found = invalid(run_changes=changes)

    assert "lr (seeds 0, 1" in found["configs differ in declared factors only"]


def test_a_factor_that_differs_in_the_plan_alone_is_found_too():
    fake = FakeExperiment()
    planned = fake.plan()["cells"]
    planned[3]["factors"]["lr"] = 0.5

    found = invalid(plan_changes={"cells": planned})

    assert "lr (seeds 3)" in found["configs differ in declared factors only"]


def test_a_trial_that_ran_another_config_than_planned_is_named():
    found = invalid(run_changes={("flat", 1): {"config_hash": "feedfeedfeed"}})

    assert "flat-seed1" in found["every trial ran the planned config"]


def test_an_endpoint_that_an_arm_never_logged_makes_the_contrast_invalid():
    found = invalid(primary={"metric": "probe_r2", "direction": "max"})

    assert found["every completed run has the endpoint"].count("no probe_r2 was logged") == 2


def test_a_different_number_of_evaluations_in_a_pair_is_invalid(tmp_path):
    from analysis import load

    folder = FakeExperiment().write(tmp_path)
    metrics = pd.read_parquet(folder / "metrics.parquet")
    dropped = (metrics["trial_id"].str.startswith("flat-seed2-")) & (metrics["step"] == 100)
    metrics[~dropped].to_parquet(folder / "metrics.parquet")

    comparison = compare(load(folder), treatment="structured")

    assert comparison.verdict == "INVALID"
    assert "number of evaluations differs for seeds 2 (seed 2: 5 against 4)" in comparison.sentence


def test_a_hash_that_was_not_recorded_is_said_to_be_unchecked():
    changes = {(arm, seed): {"init_hash": None} for arm in ("flat", "structured") for seed in range(8)}

    comparison = compare(loaded(run_changes=changes), treatment="structured")

    unchecked = [gate for gate in comparison.gates if gate.status == "not checked"]
    assert [gate.detail for gate in unchecked] == ["init_hash is not recorded for 8 pairs"]
    assert comparison.verdict == "SUPERIOR"


def by_module(**modules: str) -> str:
    """init_hash as a trial writes it, from one hex digit a module."""
    hashes = {"all": "".join(modules.values())[:1] * 16} | {name: x * 16 for name, x in modules.items()}
    return " ".join(f"{name}:{digest}" for name, digest in hashes.items())


@pytest.mark.parametrize(
    ("ours", "theirs", "detail"),
    [
        (by_module(student="1", latent="2"), by_module(student="1", latent="2"), "init_hash, 1 pairs"),
        (
            by_module(student="1", latent="2"),
            by_module(student="1", latent="2", hidden_projector_64="3"),
            "init_hash of latent, student, 1 pairs",
        ),
        (by_module(student="1"), by_module(latent="4", student="1"), "init_hash of student, 1 pairs"),
        ("1" * 16, by_module(student="1", latent="2"), "init_hash, 1 pairs"),
        ("of one's own", "of one's own", "init_hash, 1 pairs"),
    ],
)
def test_first_weights_are_compared_in_the_modules_that_both_arms_have(ours, theirs, detail):
    gate = weights_gate(ours, theirs)

    assert (gate.status, gate.detail) == ("passed", detail)


@pytest.mark.parametrize(
    ("ours", "theirs", "what"),
    [
        (
            by_module(student="1", latent="2"),
            by_module(student="1", latent="3"),
            "init_hash of latent differs",
        ),
        (by_module(student="1", latent="2"), by_module(student="4"), "init_hash of student differs"),
        ("5" * 16, by_module(student="1", latent="2"), "init_hash differs"),
        ("5" * 16, "6" * 16, "init_hash differs"),
        ("a:1", "b:1", "init_hash differs"),
        (1, 2, "init_hash differs"),
    ],
)
def test_first_weights_that_differ_in_a_shared_module_are_no_pair(ours, theirs, what):
    gate = weights_gate(ours, theirs)

    assert gate.status == "failed"
    assert gate.detail.startswith(f"{what} for seeds 7 (seed 7: ")


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ("5" * 16, by_module(student="1", latent="2"), True),
        ("5" * 16, "6" * 16, True),
        (by_module(student="1"), by_module(student="4"), False),
        ("a:1", "b:1", False),
    ],
)
def test_hashes_of_all_modules_together_are_told_with_the_way_to_compare_each(ours, theirs, said):
    assert ("under another name (--set name=...)" in weights_gate(ours, theirs).detail) == said


def test_hashes_of_imported_runs_are_not_taken_for_ours_of_before():
    assert "--set name" not in weights_gate("5" * 16, "6" * 16, own=False).detail


def weights_gate(ours, theirs, own=True):
    sides = {"treatment_init_hash": [ours], "baseline_init_hash": [theirs]}
    rows = pd.DataFrame({"seed": [7], "block": ["7"], "kind": ["paired"], **sides})
    return _equal_within_pairs(rows, "init_hash", own=own)


def test_a_run_that_stopped_early_may_have_seen_fewer_tokens():
    comparison = compare(loaded(statuses={("flat", 0): "diverged"}), treatment="structured")

    assert comparison.findings == ()
