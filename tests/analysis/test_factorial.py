import itertools
import json

import numpy as np
import pytest

from analysis.factorial import designs_of, effects_of
from analysis.results import analyse
from tests.analysis.fakes import FakeExperiment, loaded
from tests.analysis.test_significance import nulls_in

ARMS = ("flat", "structured")
RATES = (0.001, 0.002)


def grid_of(values, seeds=8, rates=RATES, **options):
    """Arms crossed with learning rates; values(arm, rate, seed) is the endpoint."""
    points = list(itertools.product(rates, ARMS))
    names = {f"{arm},lr={rate}": (arm, rate) for rate, arm in points}
    finals = {name: [values(arm, rate, seed) for seed in range(seeds)] for name, (arm, rate) in names.items()}
    fake = FakeExperiment(
        arms=dict.fromkeys(names, 0.0), seeds=range(seeds), finals=finals, secondary=(), **options
    )
    cells = [
        {**cell, "factors": {"alignment_mode": names[cell["arm"]][0], "lr": names[cell["arm"]][1]}}
        for cell in fake.plan()["cells"]
    ]
    changes = {
        "grid": {"lr": list(rates)},
        "labels": {name: {"arm": arm, "point": {"lr": rate}} for name, (arm, rate) in names.items()},
        "declared_factors": ["alignment_mode", "lr"],
        "cells": cells,
        "contrasts": [
            {"treatment": f"structured,lr={rate}", "baseline": f"flat,lr={rate}"} for rate in rates
        ],
        "analysis": {**fake.plan()["analysis"], "baseline": "flat"},
    }
    return loaded(
        arms=fake.arms, seeds=range(seeds), finals=finals, secondary=(), plan_changes=changes, **options
    )


def additive(arm, rate, seed):
    """structured is 0.3 better, the higher rate 0.1 worse, and neither changes the other."""
    noise = np.random.default_rng([seed, ARMS.index(arm), int(rate * 1e4)]).normal(0, 0.01)
    return 2.0 + 0.5 * np.sin(seed) - 0.3 * (arm == "structured") + 0.1 * (rate > 0.001) + noise


def among_arms(arms, plan_changes=None, **options):
    """Arms with their declared fields: name -> (value offset, fields)."""
    fake = FakeExperiment(arms={name: offset for name, (offset, _) in arms.items()}, **options)
    fields = sorted({field for _, found in arms.values() for field in found})
    cells = [
        {**cell, "factors": {field: arms[cell["arm"]][1].get(field) for field in fields}}
        for cell in fake.plan()["cells"]
    ]
    return loaded(
        arms=fake.arms,
        plan_changes={"cells": cells, "declared_factors": fields, **(plan_changes or {})},
        **options,
    )


def structured(offset, share, uniform, method="rkv"):
    fields = {
        "alignment_mode": "structured",
        "share_dim": share,
        "init_uniform": uniform,
        "kv_method": method,
    }
    return offset, fields


ABLATION = {
    "flat": (0.0, {"alignment_mode": "flat", "share_dim": False, "init_uniform": False, "kv_method": "rkv"}),
    "shared_uniform": structured(-0.10, True, True),
    "shared_random": structured(-0.11, True, False),
    "per_head_uniform": structured(-0.12, False, True),
    "per_head_random": structured(-0.13, False, False),
    "full": structured(-0.30, True, True, "full"),
}


# --- designs


def test_a_grid_is_crossed_with_the_arms_and_gives_main_effects_and_the_interaction():
    effects = effects_of(grid_of(additive).plan)

    assert [(effect.name, effect.kind) for effect in effects] == [
        ("structured - flat", "main effect"),
        ("lr: 0.002 - 0.001", "main effect"),
        ("structured - flat × lr: 0.002 - 0.001", "interaction"),
    ]
    assert effects[0].weights == {
        "flat,lr=0.001": -0.5, "structured,lr=0.001": 0.5, "flat,lr=0.002": -0.5, "structured,lr=0.002": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("rates", [(0.001, 0.002), (0.001, 0.002, 0.004)])
def test_weights_of_every_effect_sum_to_nothing_and_a_main_effect_weighs_one(rates):
    for effect in effects_of(grid_of(lambda *_: 1.0, rates=rates).plan):
        weights = np.array(list(effect.weights.values()))
        assert weights.sum() == pytest.approx(0, abs=1e-15)
        assert np.abs(weights).sum() == pytest.approx(2.0 ** len(effect.changes))


def test_factors_that_only_structured_has_are_compared_among_its_arms_alone():
    designs = designs_of(among_arms(ABLATION).plan)

    found = {tuple(design.factors): sorted(design.labels) for design in designs}
    assert found == {
        ("init_uniform", "share_dim"): [
            "per_head_random", "per_head_uniform", "shared_random", "shared_uniform",
        ],
        ("kv_method",): ["full", "shared_uniform"],
    }  # fmt: skip
    assert all("flat" not in design.labels for design in designs)


def test_over_an_empty_cell_there_is_no_interaction_and_no_main_effect_of_both():
    arms = {name: found for name, found in ABLATION.items() if name not in ("per_head_random", "full")}

    designs = designs_of(among_arms(arms).plan)

    assert sorted(tuple(design.factors) for design in designs) == [("init_uniform",), ("share_dim",)]
    assert all(len(design.labels) == 2 for design in designs)


def test_two_arms_and_no_grid_have_no_factorial_part():
    assert analyse(loaded()).factorial == ()


# --- scores and verdicts


def test_each_effect_is_one_score_per_seed_and_is_judged_as_a_difference_is():
    arm, rate, both = analyse(grid_of(additive)).factorial

    assert arm.difference == pytest.approx(-0.3, abs=0.01)
    assert rate.difference == pytest.approx(0.1, abs=0.01)
    assert both.difference == pytest.approx(0.0, abs=0.02)
    assert (arm.verdict, rate.verdict, both.verdict) == ("SUPERIOR", "INFERIOR", "INCONCLUSIVE")
    assert arm.pairs == arm.planned == 8
    assert arm.holm.size == 3
    assert arm.holm.floor == 3 * 2 / 2**8
    assert arm.sentence.startswith("SUPERIOR: structured - flat (main effect) is -0.")


def test_a_score_is_the_same_number_by_hand():
    answer = analyse(grid_of(additive)).factorial[2]

    by_hand = [
        (additive("structured", 0.002, seed) - additive("flat", 0.002, seed))
        - (additive("structured", 0.001, seed) - additive("flat", 0.001, seed))
        for seed in range(8)
    ]
    assert [score for _, score in answer.scores] == pytest.approx(by_hand, abs=1e-12)


def test_five_blocks_or_a_family_too_large_for_its_seeds_claim_nothing():
    assert {answer.verdict for answer in analyse(grid_of(additive, seeds=5)).factorial} == {"NOT TESTABLE"}
    assert {answer.verdict for answer in analyse(grid_of(additive, seeds=6)).factorial} == {"NOT TESTABLE"}


def test_a_failed_run_takes_its_block_out_and_every_claim_back():
    answers = analyse(grid_of(additive, statuses={("structured,lr=0.001", 2): "diverged"})).factorial

    assert [answer.pairs for answer in answers] == [7, 7, 7]
    assert (answers[0].verdict, answers[0].capped_from, answers[0].cap) == (
        "INCONCLUSIVE", "SUPERIOR", "failures",
    )  # fmt: skip
    assert "SUPERIOR is not claimed, for a run failed in 1 block" in answers[0].sentence


def test_a_block_that_was_lost_is_no_failure_and_makes_the_look_an_interim_one():
    answer = analyse(grid_of(additive, statuses={("flat,lr=0.002", 2): "preempted"})).factorial[0]

    assert (answer.failed, answer.lost, answer.pairs) == (0, 1, 7)
    assert answer.cap == "interim"


def test_a_failed_check_inside_the_design_makes_its_effects_invalid():
    changes = {("structured,lr=0.001", 3): {"init_hash": "other"}}

    answers = analyse(grid_of(additive, run_changes=changes)).factorial

    assert {answer.verdict for answer in answers} == {"INVALID"}
    assert "the same first weights" in answers[0].sentence
    assert answers[0].statistics.p_signflip is None


@pytest.mark.parametrize("values", [additive, lambda *_: 1.0, lambda *_: float("nan")])
@pytest.mark.parametrize("seeds", [1, 2, 8])
def test_effects_are_strict_json_and_every_null_has_its_reason(values, seeds):
    for answer in analyse(grid_of(values, seeds=seeds)).factorial:
        plain = answer.to_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert set(nulls_in(plain)) == plain["why_null"].keys()
