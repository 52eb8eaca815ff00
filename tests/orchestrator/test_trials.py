"""From an experiment to its cells: names, order, factors, contrasts."""

from __future__ import annotations

import pytest

from orchestrator.spec import spec_from
from orchestrator.trials import make_plan
from tests.fakes import experiment
from trainables.config import InputError


def test_the_arm_varies_fastest_so_that_pairs_finish_together() -> None:
    plan = make_plan(spec_from(experiment(seeds=[4, 2]), "file"))

    order = [(cell.arm, cell.seed) for cell in plan.cells]
    assert order == [("flat", 4), ("structured", 4), ("flat", 2), ("structured", 2)]


def test_a_trial_is_named_by_arm_seed_and_config_hash() -> None:
    cell = make_plan(spec_from(experiment(), "file")).cells[0]

    assert cell.trial_id == f"flat-seed0-{cell.config.hash()}"


def test_more_cpus_or_failures_change_no_trial() -> None:
    one = make_plan(spec_from(experiment(), "file"))
    two = make_plan(spec_from(experiment(resources={"cpus": 2, "max_failures": 5}), "file"))

    assert [cell.trial_id for cell in one.cells] == [cell.trial_id for cell in two.cells]


def test_arms_may_differ_in_declared_factors_only() -> None:
    arms = {"flat": {"alignment_mode": "flat"}, "fast": {"lr": 0.01, "alignment_mode": "structured"}}
    plan = make_plan(spec_from(experiment(arms=arms), "file"))

    configs = [{**cell.config.to_dict(), "seed": 0} for cell in plan.cells]
    differing = {name for name in configs[0] if len({str(config[name]) for config in configs}) > 1}
    assert plan.declared_factors == ["alignment_mode", "lr"]
    assert differing == set(plan.declared_factors)
    assert plan.cells[0].factors == {"alignment_mode": "flat", "lr": 1e-3}


def test_a_grid_is_crossed_with_the_arms_and_compared_within_its_points() -> None:
    grid = {"kv_method": ["full", "right_crop"], "target_len": [2, 4]}
    plan = make_plan(spec_from(experiment(grid=grid), "file"))

    assert len(plan.cells) == 2 * 2 * 2 * 2
    assert len({cell.trial_id for cell in plan.cells}) == len(plan.cells)
    assert list(plan.labels)[:2] == [
        "flat,kv_method=full,target_len=2",
        "structured,kv_method=full,target_len=2",
    ]
    assert all(ours.partition(",")[2] == theirs.partition(",")[2] for ours, theirs in plan.contrasts)
    assert len(plan.contrasts) == 4


def test_the_name_of_a_trial_is_safe_whatever_the_grid_holds() -> None:
    plan = make_plan(spec_from(experiment(grid={"model_name": ["../../etc", "tiny-llama"]}), "file"))

    assert all("/" not in cell.trial_id and ".." not in cell.trial_id for cell in plan.cells)


def test_arms_that_the_grid_makes_equal_are_named() -> None:
    arms = {"one": {"lr": 1e-3}, "two": {"lr": 0.001}}

    with pytest.raises(InputError, match="'one' and 'two' are the same configuration"):
        make_plan(spec_from(experiment(arms=arms, analysis={"baseline": "one"}), "file"))
