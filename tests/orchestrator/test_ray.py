"""The same runs under Ray Tune: same bits, same records, in warm workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.child import Objective
from orchestrator.launch import Summary, run
from orchestrator.spec import Resources, spec_from
from orchestrator.tuning import GIB, lacking, param_space
from tests.fakes import FAKE, experiment
from tests.orchestrator.faults import curves, launch
from tests.orchestrator.test_run import arms, pids, table


def run_on_ray(place: Path, **changes: Any) -> Summary:
    return run(spec_from(experiment(**changes), "test"), storage=place, address="local", objective=FAKE)


@pytest.mark.ray
def test_ray_and_serial_give_the_same_tables(place: Path, ray_here: None) -> None:
    on_ray = run_on_ray(place / "ray")
    serial = run(spec_from(experiment(), "test"), storage=place / "serial", address="serial", objective=FAKE)

    assert on_ray.exit_code == 0
    assert curves(on_ray.folder) == curves(serial.folder)
    ours, theirs = table(on_ray), table(serial)
    when = ["started_at", "finished_at"]
    pd.testing.assert_frame_equal(ours.drop(columns=when), theirs.drop(columns=when))


@pytest.mark.ray
def test_tune_leaves_nothing_in_the_experiments_folder(place: Path, ray_here: None) -> None:
    summary = run_on_ray(place)

    assert {path.name for path in summary.folder.iterdir()} == {
        ".lock", "experiment.yaml", "plan.json", "provenance.json", "trials",
        "runs.parquet", "metrics.parquet", "items.parquet",
    }  # fmt: skip


@pytest.mark.ray
def test_warm_workers_run_every_trial_in_a_fresh_process(place: Path, ray_here: None) -> None:
    summary = run_on_ray(place, seeds=[0, 1, 2])

    workers = {attempt.pid for trial in summary.trials for attempt in trial.attempts}
    assert len({entry[0] for entry in pids(summary)}) == 6
    assert all(len(entry) == 3 for entry in pids(summary))
    assert len(workers) <= 2, "two slots, two workers"


@pytest.mark.ray
def test_failures_under_ray_stay_with_their_trial(place: Path, ray_here: None) -> None:
    summary = run_on_ray(place, **arms(good=1e-3, bad=3e-3, dead=4e-3, wild=2e-3, shaky=5e-3), seeds=[0])

    last = table(summary).drop_duplicates("trial_id", keep="last").set_index("arm")
    assert summary.exit_code == 1
    assert dict(last["status"]) == {
        "good": "completed", "bad": "crashed", "dead": "crashed", "wild": "diverged", "shaky": "completed",
    }  # fmt: skip
    assert dict(last["attempt"]) == {"good": 1, "bad": 2, "dead": 2, "wild": 1, "shaky": 2}


@pytest.mark.ray
def test_a_relaunch_runs_the_holes_of_the_grid_only(place: Path, ray_here: None) -> None:
    run_on_ray(place)
    victim = next((place / "fake" / "trials").glob("structured-seed0-*"))
    (victim / "result.json").unlink()

    again = run_on_ray(place, seeds=[0, 1, 2])

    assert again.started == 3
    assert again.exit_code == 0
    assert len(table(again)) == 7


@pytest.mark.ray
def test_what_no_node_can_hold_is_refused(place: Path, ray_here: None) -> None:
    with pytest.raises(ValueError, match=r"resources\.gpus: a trial needs 1 GPUs"):
        run_on_ray(place, resources={"gpus": 1})

    assert not (place / "fake" / "plan.json").exists()


@pytest.mark.ray
def test_the_real_distillation_has_the_same_bits_in_any_order_under_ray_and_without(
    place: Path, ray_here: None
) -> None:
    backwards = dict(reversed(experiment()["arms"].items()))
    serial = launch(place / "serial", "serial", Objective())
    other = launch(place / "ray", "local", Objective(), arms=backwards)

    assert serial.exit_code == other.exit_code == 0
    assert curves(serial.folder) == curves(other.folder)
    for hashed in ("data_order_hash", "init_hash", "eval_set_hash"):
        results = [
            json.loads(path.read_text()) for path in serial.folder.glob("trials/*-seed0-*/result.json")
        ]
        assert len({result[hashed] for result in results}) == 1


def test_a_full_grid_is_searched_arm_first_and_holes_are_listed(place: Path) -> None:
    from orchestrator.checks import results_folder
    from orchestrator.launch import _jobs
    from orchestrator.trials import make_plan

    plan = make_plan(spec_from(experiment(), "test"))
    jobs = _jobs(plan.cells, plan, results_folder(place, plan.spec), FAKE, None)

    full, holes = param_space(jobs), param_space(jobs[1:])

    assert list(full)[:2] == ["arm", "seed"]
    assert full["arm"] == {"grid_search": ["flat", "structured"]}
    assert full["seed"] == {"grid_search": [0, 1]}
    assert len(holes["cell"]["grid_search"]) == 3
    assert set(holes) - {"cell"} == set(full) == {"arm", "seed", "alignment_mode", "job"}


@pytest.mark.parametrize(
    ("cpus", "gpus", "memory", "said"),
    [
        (1, 0, None, None),
        (2, 0.5, 3.5, None),
        (3, 0, None, "CPUs, the largest node has 2"),
        (1, 0, 8.5, "resources.memory_gib: a trial needs 8.5 GiB of memory, the largest node has 7.99"),
        (1, 1, 5.0, "no single node has 1 CPUs together with 1 GPUs and 5 GiB of memory"),
    ],
)
def test_a_trial_must_fit_on_one_node(cpus: int, gpus: float, memory: float | None, said: str | None) -> None:
    nodes = [{"CPU": 2.0, "GPU": 1.0, "memory": 4 * GIB}, {"CPU": 2.0, "memory": 7.999 * GIB}]

    lack = lacking(Resources(cpus=cpus, gpus=gpus, memory_gib=memory), nodes)

    assert (lack is None) if said is None else (lack is not None and said in lack)
