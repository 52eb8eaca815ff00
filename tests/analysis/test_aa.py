import json

import numpy as np
import pytest

from analysis import compare
from analysis.comparison import CLAIMS
from analysis.results import analyse
from tests.analysis.fakes import FakeExperiment, loaded
from tests.analysis.questions import judged, plan_of
from tests.analysis.test_significance import nulls_in

FLAT = [2.0, 2.1, 1.9, 2.05, 1.95, 2.2, 1.8, 2.0]
TWINS = {"flat": {"alignment_mode": "flat"}, "twin": {"alignment_mode": "flat"}}
OFFSET = {"flat": {"alignment_mode": "flat"}, "twin": {"alignment_mode": "flat", "seed_offset": 1000}}


def against_itself(flat, twin, arms=TWINS, **options):
    return judged(flat, twin, arms=arms, mode="aa", **options)


def written(arms, finals, **options):
    """An A/A as its folder tells it."""
    fake = FakeExperiment(arms=dict.fromkeys(arms, 0.0), finals=finals, **options)
    plan = fake.plan()
    changes = {"arms": arms, "analysis": {**plan["analysis"], "mode": "aa"}}
    return loaded(arms=fake.arms, finals=finals, plan_changes=changes, **options)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_equal_seeds_that_repeat_to_the_bit_have_a_nondeterminism_floor_of_nothing(n):
    found = against_itself(FLAT[:n], FLAT[:n])

    assert found.verdict == "DEGENERATE"
    assert found.noise.kind == "nondeterminism"
    assert found.noise.largest == 0
    assert "nondeterminism floor 0" in found.sentence
    assert "the runs repeat to the bit" in found.sentence
    assert found.next_step.startswith("Give one arm a seed_offset")


def test_equal_seeds_that_do_not_repeat_measure_the_floor():
    found = against_itself(FLAT, [value + 1e-4 * (-1) ** place for place, value in enumerate(FLAT)])

    assert found.verdict == "INCONCLUSIVE"
    assert found.noise.kind == "nondeterminism"
    assert found.noise.largest == pytest.approx(1e-4)
    assert "nondeterminism floor SD 0.000107" in found.sentence


def test_other_seeds_measure_the_seed_variance_and_what_margin_it_leaves_room_for():
    twin = np.roll(FLAT, 3).tolist()

    found = against_itself(FLAT, twin, OFFSET)

    assert found.verdict == "INCONCLUSIVE"
    assert found.noise.kind == "seed variance"
    assert found.noise.sd == pytest.approx(np.std(np.subtract(twin, FLAT), ddof=1))
    assert found.noise.upper_sd > found.noise.sd
    assert found.noise.half_width == pytest.approx((found.interval[1] - found.interval[0]) / 2)
    assert "With 8 seeds and this SD no margin below 0.18 can be met" in found.sentence
    assert "Choose the margin of the A/B above 0.18" in found.next_step


def test_other_seeds_that_give_the_same_numbers_are_suspicious():
    found = against_itself(FLAT, FLAT, OFFSET)

    assert found.verdict == "DEGENERATE"
    assert "check that the seeds take effect" in found.sentence


@pytest.mark.parametrize("arms", [TWINS, OFFSET])
def test_an_a_against_a_claims_nothing_whatever_the_numbers(arms):
    rng = np.random.default_rng(0)
    for effect in (0, 0.01, 1, 50):
        for n in (1, 2, 5, 6, 12):
            found = against_itself(FLAT[:1] * n, rng.normal(effect, 0.1, n).tolist(), arms)
            assert found.verdict not in CLAIMS
            assert found.capped_from is found.holm is found.margin_test is None
            assert "Nothing is claimed." in found.sentence


def test_two_copies_that_differ_in_one_direction_raise_a_question():
    found = against_itself(FLAT, [value + 0.5 + 0.01 * (place % 3) for place, value in enumerate(FLAT)])

    assert found.verdict == "INCONCLUSIVE"
    assert any("look for what else differs" in warning for warning in found.warnings)


def test_hashes_that_follow_from_the_seed_are_not_checked_across_other_seeds():
    twin = np.roll(FLAT, 3).tolist()
    others = {
        ("twin", seed): {"init_hash": f"i{seed + 1000}", "data_order_hash": f"o{seed + 1000}"}
        for seed in range(8)
    }

    found = compare(written(OFFSET, {"flat": FLAT, "twin": twin}, run_changes=others), treatment="twin")
    same_seeds = compare(written(TWINS, {"flat": FLAT, "twin": twin}, run_changes=others), treatment="twin")

    gates = {gate.name: gate for gate in found.gates}
    for name in ("the same first weights", "the same batches in the same order"):
        gate = gates[f"{name} within each pair"]
        assert gate.status == "not checked"
        assert "seed_offset 1000 gives the two sides other seeds on purpose" in gate.detail
    assert found.verdict == "INCONCLUSIVE"
    assert same_seeds.verdict == "INVALID"


def test_what_other_seeds_do_not_change_is_checked_all_the_same():
    changes = {("twin", 2): {"eval_set_hash": "other"}}
    experiment = written(OFFSET, {"flat": FLAT, "twin": FLAT}, run_changes=changes)

    assert compare(experiment, treatment="twin").verdict == "INVALID"


@pytest.mark.parametrize("twin", [FLAT, FLAT[::-1]])
def test_an_a_against_a_has_no_families_no_effects_of_factors_and_strict_json(twin):
    results = analyse(written(TWINS, {"flat": FLAT, "twin": twin}))

    plain = results.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert results.exit_code == 0
    assert all(answer.holm is None for answer in (*results.comparisons, *results.secondary))
    assert plain["factorial"] == []
    for answer in plain["comparisons"]:
        assert set(nulls_in(answer)) == answer["why_null"].keys()


def test_an_ab_has_no_noise_block_and_says_why():
    plain = judged(FLAT, FLAT[::-1]).to_dict()

    assert plain["noise"] is None
    assert plain["why_null"]["noise"] == "only an A/A with a complete pair measures it"
    assert plan_of().mode == "ab"
