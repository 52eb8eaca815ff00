"""A device is looked for where trials will run, before they do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.child import Objective
from orchestrator.launch import run
from orchestrator.spec import Resources, spec_from
from orchestrator.trials import Cell, make_plan
from orchestrator.workers import check_devices, placed
from tests.fakes import experiment
from trainables.config import DistillConfig, InputError

ROOT = Path(__file__).resolve().parents[2]


def cells(gpus: float = 0, **base: Any) -> list[Cell]:
    values = experiment(resources={"gpus": gpus})
    values["base"].update(base)
    return list(make_plan(spec_from(values, "test")).cells)


@pytest.mark.parametrize(
    ("device", "gpus", "wanted"),
    [("auto", 0, "cpu"), ("auto", 0.5, "cuda"), ("cpu", 1, "cpu"), ("cuda", 1, "cuda"), ("mps", 0, "mps")],
)
def test_a_trial_that_is_given_a_gpu_computes_on_it(device: str, gpus: float, wanted: str) -> None:
    config = placed(DistillConfig(device=device), Resources(cpus=3, gpus=gpus))

    assert (config.device, config.threads) == (wanted, 3)


def test_a_second_gpu_is_refused_by_name_for_a_trial_sees_its_own_alone() -> None:
    assert cells(gpus=1, device="cuda:0")
    with pytest.raises(InputError, match="arm 'flat': device cuda:1 is seen by no trial"):
        cells(gpus=1, device="cuda:1")


def test_without_ray_the_device_is_looked_for_here() -> None:
    check_devices(cells(), Resources(), None)
    with pytest.raises(InputError, match="arm 'flat': --device mps: torch finds none on this machine"):
        check_devices(cells(device="mps"), Resources(), None)


def test_a_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    values = experiment(resources={"gpus": 1})

    with pytest.raises(InputError, match="arm 'flat': --device cuda: torch finds none on this machine"):
        run(spec_from(values, "test"), storage=tmp_path, address="serial", objective=Objective())

    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import ray
from orchestrator.spec import Resources
from orchestrator.tuning import import_quietly
from orchestrator.workers import check_devices
from tests.orchestrator.test_workers import cells
import_quietly()
ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
ask = lambda function, *arguments: function(*arguments)
check_devices(cells(device="cpu"), Resources(gpus=1), ask)
try:
    check_devices(cells(), Resources(gpus=0.5), ask)
except ValueError as error:
    print(error)
"""


@pytest.mark.ray
def test_under_ray_a_worker_with_the_trials_resources_looks_for_it(place: Path) -> None:
    """Of a node that says it has a GPU, and whose torch finds none."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("arm 'flat': --device cuda: torch finds none on this machine")
