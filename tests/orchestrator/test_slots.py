"""What a trial's process is given: as many threads as CPUs, its worker's GPUs and no others, its niceness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.checks import results_folder
from orchestrator.child import Job, environment_of
from orchestrator.launch import Summary, _jobs, run
from orchestrator.spec import spec_from
from orchestrator.trials import make_plan
from orchestrator.tuning import _per_trial
from tests.fakes import FAKE, TELLING, experiment

ROOT = Path(__file__).resolve().parents[2]


def job_with(place: Path, **resources: Any) -> Job:
    plan = make_plan(spec_from(experiment(resources=resources), "test"))
    return _jobs(plan.cells[:1], plan, results_folder(place, plan.spec), FAKE, None)[0]


def environments(summary: Summary) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in summary.folder.glob("trials/*/environment.json")]


def test_a_job_survives_the_text_in_which_tune_carries_it(place: Path) -> None:
    job = job_with(place, cpus=2, gpus=0.5)

    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    ("resources", "asked"),
    [
        ({}, {"cpu": 1, "gpu": 0}),
        ({"cpus": 2, "gpus": 0.25}, {"cpu": 2, "gpu": 0.25}),
        ({"gpus": 1}, {"cpu": 1, "gpu": 1}),
    ],
)
def test_ray_is_asked_for_what_the_experiment_says(
    place: Path, resources: dict[str, Any], asked: dict[str, float]
) -> None:
    assert _per_trial(job_with(place, **resources)) == asked


@pytest.mark.parametrize(
    ("gpus", "given", "seen"),
    [(0, "0,1", ""), (0, None, ""), (0.5, "1", "1"), (1, "0", "0"), (1, None, None)],
)
def test_a_trial_sees_its_workers_gpus_and_without_gpus_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, gpus: float, given: str | None, seen: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)

    assert environment_of(job_with(place, gpus=gpus))["CUDA_VISIBLE_DEVICES"] == seen


def test_threads_and_gpus_follow_each_experiment_though_the_forkserver_is_older(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    for cpus, gpus, devices in ((1, 0, ""), (2, 0.5, "7")):
        spec = spec_from(experiment(name=f"with-{cpus}", resources={"cpus": cpus, "gpus": gpus}), "test")
        found = environments(run(spec, storage=place, address="serial", objective=TELLING))
        assert {env["CUDA_VISIBLE_DEVICES"] for env in found} == {devices}
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            assert {env[name] for env in found} == {str(cpus)}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


@pytest.mark.ray
def test_workers_and_their_trials_are_as_quick_as_the_rest(place: Path, ray_here: None) -> None:
    spec = spec_from(experiment(), "test")
    found = environments(run(spec, storage=place, address="local", objective=TELLING))

    assert {env["nice"] for env in found} == {os.nice(0)}
    assert {env["OMP_NUM_THREADS"] for env in found} == {"1"}


@pytest.mark.ray
@pytest.mark.slow
def test_two_trials_share_a_gpu_that_ray_was_told_of(place: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from orchestrator.tuning import import_quietly\nimport_quietly()\nimport ray\n"
        "from orchestrator.launch import run\nfrom orchestrator.spec import spec_from\n"
        "from tests.fakes import TELLING, experiment\n"
        "ray.init(address='local', num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)\n"
        "values = experiment(resources={'gpus': 0.5}, base={**experiment()['base'], 'lr': 6e-3}, seeds=[0])\n"
        "print(run(spec_from(values, 'test'), storage=Path(sys.argv[1]), objective=TELLING).exit_code)\n"
    )
    command = [sys.executable, "-c", program, str(place)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    while (
        len(list(place.glob("fake/trials/*/metrics.jsonl"))) < 2
    ):  # both at work at once: each waits for `go`
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (place / "fake" / "trials" / "go").touch()

    assert process.wait(timeout=60) == 0
    found = [json.loads(path.read_text()) for path in place.glob("fake/trials/*/environment.json")]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in found] == ["0", "0"]
