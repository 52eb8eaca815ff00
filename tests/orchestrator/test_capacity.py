"""Where trials can be placed, on nodes that stand and on those that an autoscaler may add."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.capacity import Growth, Place, cluster_file, growth_of, slots, slots_of
from orchestrator.plan import refuse_unplaceable
from orchestrator.spec import Resources, load_spec
from tests.fakes import write_experiment
from trainables.config import InputError

ROOT = Path(__file__).resolve().parents[2]
CLUSTER: dict[str, Any] = {
    "cluster_name": "planned",
    "provider": {"type": "aws", "region": "us-west-2"},
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "node_config": {}, "max_workers": 3},
        "cpu": {"resources": {"CPU": 16}, "node_config": {}, "max_workers": 4},
    },
}


@pytest.mark.parametrize(
    ("trial", "fits"),
    [
        (Resources(cpus=3), 5),
        (Resources(cpus=1, gpus=0.5), 4),
        (Resources(cpus=17), 0),
        (Resources(gpus=1), 2),
    ],
)
def test_a_node_holds_as_many_trials_as_its_scarcest_resource(trial: Resources, fits: int) -> None:
    assert slots_of(trial, Place("node", {"CPU": 16.0, "GPU": 2.0})) == fits


def test_a_grown_cluster_has_its_roomiest_nodes_first_and_no_more_than_it_may() -> None:
    growth = growth_of(CLUSTER)

    assert slots(Resources(cpus=4), [Place("head", {"CPU": 2})], growth) == 4 * 4 + 1 * 2
    assert slots(Resources(cpus=1, gpus=0.5), [], growth) == 3 * 2
    assert slots(Resources(cpus=2), [Place("head", {"CPU": 2})], Growth()) == 1


def test_the_head_is_no_type_to_grow_by_unless_it_says_so() -> None:
    types = {"head": {"resources": {"CPU": 2}}, "worker": {"resources": {"CPU": 4}}}
    config = {"max_workers": 3, "head_node_type": "head", "available_node_types": types}

    assert growth_of(config).types == (Place("node type worker", {"CPU": 4, "memory": math.inf}, 3),)


def test_what_no_node_type_has_is_refused_by_the_resource_that_is_short(tmp_path: Path) -> None:
    spec = load_spec("smoke", ["resources={cpus: 17, gpus: 1}"])
    standing, growth = [Place("head", {"CPU": 2})], growth_of(CLUSTER)

    with pytest.raises(InputError, match=r"resources\.cpus: a trial needs 17 CPUs, the largest node has 16"):
        refuse_unplaceable(spec, standing, growth)
    refuse_unplaceable(load_spec("smoke", ["resources={cpus: 4, gpus: 1}"]), standing, growth)
    refuse_unplaceable(spec, standing, Growth(known=False))


def test_a_cluster_file_is_planned_for_before_it_is_started(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(CLUSTER, sort_keys=False))

    standing, growth = cluster_file(str(path))

    assert [place.resources for place in standing] == [{"CPU": 2, "memory": math.inf}]
    assert growth == growth_of(CLUSTER)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head_node_type": "haed"}, "no cluster file"),
        ({"available_node_types": 3}, "no cluster file"),
        ({"available_node_types": {"head": {"node_config": {}, "resources": {}}}}, "head does not say"),
    ],
)
def test_a_file_that_describes_no_cluster_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({**CLUSTER, **change}))

    with pytest.raises(InputError, match=said):
        cluster_file(str(path))


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


@pytest.fixture
def autoscaling(place: Path) -> Iterator[str]:
    """The address of a real head without a CPU of its own, whose autoscaler may add nodes of two CPUs."""
    port, here = free_port(), socket.gethostbyname(socket.gethostname())
    config = place / "autoscaler.json"
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "small": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    empty = ("file_mounts", "cluster_synced_files", "initialization_commands", "setup_commands")
    commands = ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands")
    config.write_text(
        json.dumps(
            {
                "cluster_name": "fake", "max_workers": 2, "idle_timeout_minutes": 0.1, "upscaling_speed": 9,
                "provider": {"type": "external", "module": provider, "gcs_address": f"{here}:{port}"},
                "available_node_types": types, "head_node_type": "ray.head.default", "auth": {}, "docker": {},
                **{name: {} if name == "file_mounts" else [] for name in (*empty, *commands)},
                "worker_start_ray_commands": [], "file_mounts_sync_continuously": False,
            }
        )
    )  # fmt: skip
    environment = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": "f" * 56,
        "PYTHONPATH": str(ROOT),
    }
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}",
        f"--autoscaling-config={config}", "--include-dashboard=false", f"--temp-dir={place / 'ray'}",
        f"--node-ip-address={here}", "--num-cpus=0",
    ]  # fmt: skip
    head = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(here, port, head)
        yield f"{here}:{port}"
    finally:
        end(head)


def wait_for_port(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the head never answered")


def end(process: subprocess.Popen[bytes]) -> None:
    """End the head and everything in its session, which is ours alone."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kvtune(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys\nfrom orchestrator import cli, launch, plan\nfrom tests.fakes import FAKE, PACED\n"
        "launch.Objective, plan.Objective = (lambda: FAKE), (lambda: PACED)\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.ray
def test_an_autoscaling_cluster_is_asked_for_its_node_types(place: Path, autoscaling: str) -> None:
    options = [str(write_experiment(place)), "--storage", str(place), "--address", autoscaling]

    for command in ("plan", "run"):
        refused = kvtune(command, *options, "--set", "resources.cpus=3")
        assert refused.returncode == 2, refused.stderr
        assert "resources.cpus: a trial needs 3 CPUs, the largest node has 2" in refused.stderr
        assert not (place / "fake").exists()
    planned = kvtune("plan", *options, "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["slots"] == 4, "two nodes of two CPUs, none of which stands yet"
