import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.results import analyse
from analysis.spread import pitman_morgan, spread_of
from analysis.steadiness import roughness
from tests.analysis.fakes import loaded

STEPS = np.arange(10, 1010, 10)


def training(experiment, ce, grad_norm=lambda arm, seed: np.full(len(STEPS), 0.5), limit=1.0):
    """The experiment with these training curves: (arm, seed) -> value at every step."""
    frames = [experiment.metrics[experiment.metrics["split"] == "eval"]]
    for cell in experiment.plan.cells:
        for metric, curve in (("ce", ce), ("grad_norm", grad_norm)):
            rows = {"trial_id": cell.trial_id, "attempt": 1, "step": STEPS, "tokens": STEPS * 230,
                    "wall_s": STEPS * 0.1, "split": "train", "metric": metric,
                    "value": curve(cell.arm, cell.seed), "n_items": 8}  # fmt: skip
            frames.append(pd.DataFrame(rows))
    runs = experiment.runs.assign(max_grad_norm=limit)
    return replace(experiment, metrics=pd.concat(frames, ignore_index=True), runs=runs)


def noisy(arm, seed, noise=0.02):
    rng = np.random.default_rng([seed, arm == "flat"])
    return 2 + np.exp(-STEPS / 300) + rng.normal(0, noise, len(STEPS))


def panel(experiment):
    stability = analyse(experiment).stability
    json.dumps(stability.to_dict(), allow_nan=False)
    (contrast,) = stability.contrasts
    return {measured.measure.name: measured for measured in contrast.measures}, contrast, stability


def test_an_arm_whose_loss_is_less_noisy_on_every_seed_is_steadier():
    experiment = loaded(seeds=range(10))

    found, _, _ = panel(
        training(experiment, lambda arm, seed: noisy(arm, seed, 0.02 if arm == "flat" else 0.01))
    )

    assert found["roughness"].finding == "STEADIER"
    assert found["roughness"].change == pytest.approx(0.5, rel=0.15)
    low, high = found["roughness"].interval
    assert low < found["roughness"].change < high < 1


@pytest.mark.parametrize(
    ("logged", "told", "unit"),
    [("ce", {}, "nats/token"), ("loss", {}, "as logged"), ("loss", {"loss": {"unit": "bits"}}, "bits")],
)
def test_roughness_has_the_unit_of_the_loss_that_was_logged(logged, told, unit):
    experiment = training(loaded(seeds=range(8)), noisy)
    metrics = experiment.metrics.assign(metric=experiment.metrics["metric"].replace("ce", logged))
    plan = replace(experiment.plan, quantities=told)

    found, _, stability = panel(replace(experiment, metrics=metrics, plan=plan))

    assert stability.loss == logged
    assert found["roughness"].measure.unit == found["roughness"].to_dict()["unit"] == unit
    assert found["roughness"].pairs == 8


def test_roughness_of_runs_without_a_training_loss_claims_no_unit():
    experiment = loaded(seeds=range(8))
    evaluated = experiment.metrics[experiment.metrics["split"] == "eval"]

    found, _, _ = panel(replace(experiment, metrics=evaluated))

    assert (found["roughness"].finding, found["roughness"].measure.unit) == ("NOT MEASURED", "as logged")


def test_arms_of_one_noise_are_not_told_apart():
    found, _, _ = panel(training(loaded(seeds=range(10)), noisy))

    assert {measured.finding for measured in found.values()} <= {"INCONCLUSIVE", "DEGENERATE"}


def test_an_arm_with_spikes_on_every_seed_is_less_steady():
    def spiky(arm, seed):
        curve = noisy(arm, seed)
        if arm == "structured":
            curve[30 :: 20 + seed] += 2.0
        return curve

    found, _, _ = panel(training(loaded(seeds=range(10)), spiky))

    assert found["spikes"].finding == "LESS STEADY"
    assert found["spikes"].baseline_median == 0
    assert found["spikes"].treatment_median > 2


def test_the_gradient_is_measured_after_its_warm_up_and_against_its_limit():
    def norms(arm, seed):
        rng = np.random.default_rng([seed, 3, arm == "flat"])
        curve = np.exp(rng.normal(0, 0.6 if arm == "structured" else 0.3, len(STEPS)))
        curve[:10] = 1000.0
        return curve

    found, _, _ = panel(training(loaded(seeds=range(10)), noisy, norms, limit=1.5))

    assert found["gradient_sd"].finding == "LESS STEADY"
    assert found["gradient_sd"].baseline_median == pytest.approx(0.3, rel=0.15)
    assert found["gradient_ratio"].treatment_median == pytest.approx(math.exp(0.6 * 2.33), rel=0.35)
    share = 0.1 + 0.9 * stats.norm.sf(math.log(1.5) / 0.6)
    assert found["clip_rate"].treatment_median == pytest.approx(share, abs=0.06)


def test_the_limit_of_the_gradient_may_be_a_factor_and_unknown_limits_give_no_rate():
    experiment = training(loaded(seeds=range(8)), noisy, lambda arm, seed: noisy(arm, seed), limit=None)
    assert panel(experiment)[0]["clip_rate"].finding == "NOT MEASURED"

    as_factor = replace(experiment, runs=experiment.runs.assign(**{"factor.max_grad_norm": "2.2"}))

    assert 0 < panel(as_factor)[0]["clip_rate"].baseline_median < 1


def test_spread_over_seeds_is_claimed_from_eight_pairs_on_only():
    rng = np.random.default_rng(2)
    wide, tight = rng.normal(1, 0.2, 12), rng.normal(1, 0.004, 12)

    def spread(n):
        return panel(loaded(seeds=range(n), finals={"flat": wide[:n], "structured": tight[:n]}))[0]["spread"]

    assert spread(12).finding == "STEADIER"
    assert (spread(7).finding, spread(7).why) == ("NOT TESTABLE", "7 complete pairs, and spread needs 8")


def test_the_panel_shares_one_level_between_its_questions():
    found, _, stability = panel(training(loaded(seeds=range(10)), noisy))

    assert stability.family == len(found) == 6
    assert stability.floor == 6 * 2 / 2**10
    assert found["roughness"].p_adjusted >= max(found["roughness"].p_t, found["roughness"].p_signflip)


def test_six_seeds_are_too_few_for_the_panel_and_it_says_so():
    found, _, _ = panel(training(loaded(seeds=range(6)), noisy))

    assert found["roughness"].finding == "NOT TESTABLE"
    assert (
        found["roughness"].why
        == "6 complete pairs: the smallest p of the exact test is 0.188 for 6 questions"
    )


def test_an_arm_that_fails_is_not_called_steadier_for_the_runs_it_has_left():
    failing = {("structured", seed): "diverged" for seed in range(4)}
    experiment = loaded(seeds=range(14), statuses=failing)

    found, contrast, _ = panel(
        training(experiment, lambda arm, seed: noisy(arm, seed, 0.02 if arm == "flat" else 0.01))
    )

    assert (contrast.failures, contrast.planned) == ({"flat": 0, "structured": 4}, 14)
    assert contrast.failure_test.p == pytest.approx(2 / 2**4)
    assert contrast.first_nonfinite_step == {"flat": None, "structured": 250}
    assert found["roughness"].finding == "INCONCLUSIVE"
    assert found["roughness"].why == "failed runs, ranked worst, do not point the same way"


def test_what_is_invalid_finds_nothing():
    changes = {("flat", 0): {"init_hash": "another"}}

    found, _, _ = panel(training(loaded(seeds=range(10), run_changes=changes), noisy))

    assert {measured.finding for measured in found.values()} == {"INVALID"}


def test_swapping_the_arms_turns_every_finding_round():
    def ce(arm, seed):
        return noisy(arm, seed, 0.02 if arm == "flat" else 0.01)

    experiment = training(loaded(seeds=range(10)), ce)
    plan = experiment.plan
    turned = replace(
        experiment, plan=replace(plan, contrasts=tuple(contrast.mirrored for contrast in plan.contrasts))
    )

    ours, theirs = panel(experiment)[0], panel(turned)[0]

    assert (ours["roughness"].finding, theirs["roughness"].finding) == ("STEADIER", "LESS STEADY")
    for name in ("roughness", "gradient_sd", "spread", "spikes"):
        assert ours[name].p_adjusted == theirs[name].p_adjusted
    assert ours["roughness"].change == pytest.approx(1 / theirs["roughness"].change)


def test_the_order_of_rows_changes_nothing():
    experiment = training(loaded(seeds=range(10)), noisy)
    shuffled = replace(
        experiment,
        metrics=experiment.metrics.sample(frac=1, random_state=1),
        runs=experiment.runs.sample(frac=1, random_state=2),
    )

    assert panel(shuffled)[2].to_dict() == panel(experiment)[2].to_dict()


def test_a_line_has_no_roughness_and_white_noise_has_its_own():
    steps = np.tile(np.arange(400.0), (2, 1))
    lines = np.array([3 - 0.01 * steps[0], np.random.default_rng(0).normal(0, 0.1, 400)])

    assert roughness(lines, steps) == pytest.approx([0, 0.1], abs=0.012)


def test_a_step_out_of_the_rhythm_makes_no_roughness():
    steps = np.r_[np.arange(0.0, 400.0, 10), 391.0][None]

    assert roughness(3 - 0.01 * steps, steps)[0] == pytest.approx(0, abs=1e-12)


def test_pitman_morgans_interval_is_dual_to_its_test():
    rng = np.random.default_rng(4)
    x, y = rng.normal(0, 1, 12), rng.normal(0, 2, 12)
    low, high = pitman_morgan(x, y, 0.05)

    for ratio in (low, high):
        p = stats.pearsonr(y / ratio + x, y / ratio - x).pvalue
        assert p == pytest.approx(0.05, abs=1e-9)


def test_the_spread_tells_sd_and_cv_of_both_arms():
    flat, structured = np.array([1.0, 2, 3, 4]), np.array([10.0, 14, 18, 22])

    found = spread_of(flat, structured, 0.05)

    assert found.baseline_sd == pytest.approx(np.std(flat, ddof=1))
    assert found.treatment_cv == pytest.approx(np.std(structured, ddof=1) / 16)
    assert found.ratio == pytest.approx(4)
    assert spread_of(flat, np.ones(4), 0.05).ratio_interval is None


def test_noise_within_runs_is_set_against_the_spread_over_seeds():
    experiment = loaded(seeds=range(8))
    rows, rng = [], np.random.default_rng(0)
    for cell in experiment.plan.cells:
        level = rng.normal(1, 0.1)
        values = level + rng.normal(0, 0.05, 40)
        rows += [
            {"trial_id": cell.trial_id, "attempt": 1, "step": 10 * (place + 1), "tokens": 1, "wall_s": 1.0,
             "split": "eval", "metric": "eval_ce", "value": value, "n_items": 64}
            for place, value in enumerate(values)
        ]  # fmt: skip
    metrics = pd.DataFrame(rows)

    share = analyse(replace(experiment, metrics=metrics)).stability.noise[0]

    assert (share.arm, share.seeds, share.evaluations) == ("flat", 8, 1)
    assert share.within == pytest.approx(0.05, rel=0.2)
    assert share.share == pytest.approx(share.within**2 / share.across**2)
    assert share.item_se is None


def test_the_items_give_accuracy_its_standard_error():
    experiment = loaded(primary={"metric": "eval_accuracy", "direction": "max"}, secondary=["eval_ce"])
    items = pd.DataFrame(
        [
            {"trial_id": cell.trial_id, "item_id": str(item), "correct": item < 48}
            for cell in experiment.plan.cells
            for item in range(64)
        ]
    )

    shares = analyse(replace(experiment, items=items)).stability.noise

    assert shares[0].item_se == pytest.approx(math.sqrt(0.75 * 0.25 / 64))


def test_what_was_not_measured_says_what_it_takes():
    found, _, _ = panel(loaded())

    assert (found["spikes"].finding, found["spikes"].why) == (
        "NOT MEASURED",
        "it takes more than 16 logged training losses",
    )


@pytest.mark.parametrize(
    "values",
    [[1e300] * 8, [1e-300] * 8, [1e300, -1e300] * 4, [0.0] * 8, [1.0, 1.0 + 1e-15] * 4, [math.nan] * 8],
)
def test_degenerate_values_give_a_typed_panel_and_curve(values):
    found, contrast, _ = panel(loaded(seeds=range(8), finals={"flat": values, "structured": values[::-1]}))

    assert found["spread"].finding in ("INCONCLUSIVE", "DEGENERATE", "NOT TESTABLE")
    assert contrast.planned == 8


@pytest.mark.parametrize("level", [1e-300, 1e150, 0.0])
def test_training_curves_of_any_size_give_a_typed_panel(level):
    def ce(arm, seed):
        return level * noisy(arm, seed)

    found, _, _ = panel(training(loaded(seeds=range(8)), ce, ce))

    assert {measured.finding for measured in found.values()} <= {
        "INCONCLUSIVE", "DEGENERATE", "NOT TESTABLE", "NOT MEASURED",
    }  # fmt: skip


@pytest.mark.parametrize("seeds", [0, 1])
def test_hardly_any_pairs_give_a_typed_panel_and_curve(seeds):
    statuses = {(arm, seed): "crashed" for arm in ("flat", "structured") for seed in range(seeds, 6)}

    found, contrast, _ = panel(loaded(seeds=range(6), statuses=statuses))

    assert found["spread"].finding == "NOT TESTABLE"
    assert contrast.failures == {"flat": 6 - seeds, "structured": 6 - seeds}
