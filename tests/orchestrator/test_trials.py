"""From an experiment to its cells: names, order, factors, contrasts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec import spec_from
from orchestrator.trials import Plan, in_known_folders, make_plan
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


GRID = {"kv_method": ["full", "right_crop"], "lr": [1e-4, 0.002]}


def test_the_name_of_a_trial_tells_its_point_of_the_grid() -> None:
    cell = make_plan(spec_from(experiment(grid=GRID), "file")).cells[0]

    assert cell.trial_id == f"flat-kv_method-full-lr-0.0001-seed0-{cell.config.hash()}"


@pytest.mark.parametrize(
    ("grid", "shown"),
    [
        ({"model_name": ["../../etc", "tiny-llama"]}, "flat-model_name-etc-seed0-"),
        ({"model_name": ["Qwen/Qwen2.5-0.5B", "/models/gpt2/"]}, "flat-model_name-Qwen2.5-0.5B-seed0-"),
        ({"model_name": ["a b; rm -rf ~", ".."]}, "flat-model_name-a_b_rm_-rf_-seed0-"),
        ({"eval_steps": [None, 2]}, "flat-eval_steps-None-seed0-"),
        ({"model_name": ["x" * 300, "tiny-llama"]}, f"flat-model_name-{'x' * 68}-seed0-"),
    ],
)
def test_the_name_of_a_trial_is_short_and_safe_whatever_the_grid_holds(
    grid: dict[str, list[Any]], shown: str
) -> None:
    plan = make_plan(spec_from(experiment(grid=grid), "file"))

    assert plan.cells[0].trial_id.startswith(shown)
    for cell in plan.cells:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,180}", cell.trial_id)
        assert ".." not in cell.trial_id
    assert len({cell.trial_id for cell in plan.cells}) == len(plan.cells)


def names(plan: Plan) -> list[str]:
    return [cell.trial_id for cell in plan.cells]


def as_before(plan: Plan) -> list[str]:
    """How version 0.1 named the trials: arm, seed and hash, whatever the grid."""
    return [f"{plan.labels[c.arm].arm}-seed{c.seed}-{c.config.hash()}" for c in plan.cells]


def test_trials_of_a_grid_that_an_earlier_version_named_are_found(tmp_path: Path) -> None:
    plan = make_plan(spec_from(experiment(grid=GRID), "file"))
    for name in as_before(plan)[:-1]:
        (tmp_path / name).mkdir()

    found = in_known_folders(plan, tmp_path)

    assert names(found) == [*as_before(plan)[:-1], names(plan)[-1]]
    assert names(in_known_folders(plan, tmp_path / "nowhere")) == names(plan)


def test_arms_that_the_grid_makes_equal_are_named() -> None:
    arms = {"one": {"lr": 1e-3}, "two": {"lr": 0.001}}

    with pytest.raises(InputError, match="'one' and 'two' are the same configuration"):
        make_plan(spec_from(experiment(arms=arms, analysis={"baseline": "one"}), "file"))
