"""Trials on a cluster without a place for them yet: nodes come, trials run, nodes go. Ray's fake provider."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.fakes import write_experiment
from tests.orchestrator.clusters import TOKEN, TestCluster, cluster, free_ports, wait_for

HEAD = "127.0.0.2"
HEAD_ID = "f" * 51 + "00000"
"""What the provider takes the head's node for."""
SETUP = (
    "file_mounts", "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


def growing(gcs: str) -> str:
    """A cluster file: a head without CPUs, up to two workers with one each."""
    head, worker = {"CPU": 0}, {"CPU": 1}
    return yaml.safe_dump({
        "cluster_name": "growing", "max_workers": 2, "idle_timeout_minutes": 0.05, "upscaling_speed": 100.0,
        "provider": {
            "type": "external", "gcs_address": gcs,
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        },
        "available_node_types": {
            "ray.head.default": {"resources": head, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        "auth": {}, "docker": {},
        **{name: {} if name == "file_mounts" else [] for name in SETUP},
    })  # fmt: skip


def nodes(ours: TestCluster) -> list[str]:
    """States of all nodes that ever were."""
    request = urllib.request.Request(
        f"{ours.dashboard}/nodes?view=summary", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            summary = json.load(reply)["data"]["summary"]
    except OSError:
        return []
    return [node["raylet"].get("state", "") for node in summary]


@pytest.mark.slow
@pytest.mark.ray
def test_nodes_come_for_waiting_trials_and_go_when_they_are_done(place: Path) -> None:
    (port,) = free_ports(1)
    (place / "cluster.yaml").write_text(growing(f"{HEAD}:{port}"))
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    flags = ("--num-cpus=0", f"--autoscaling-config={place / 'cluster.yaml'}")
    with cluster(*flags, address=HEAD, port=port, environment=environment) as ours:
        wait_for("the head", lambda: nodes(ours) == ["ALIVE"])
        file = write_experiment(place)

        done = subprocess.run(
            [sys.executable, "-m", "tests.orchestrator.fake_job", "run", str(file), str(place / "store")],
            cwd=place, env={**ours.environment, "RAY_ADDRESS": ours.gcs}, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip

        assert done.returncode == 0, done.stdout + done.stderr
        assert "Trials wait until the cluster grows" in " ".join(done.stderr.split())
        assert set(pd.read_parquet(place / "store/fake/runs.parquet")["status"]) == {"completed"}
        assert workers(place / "store") <= {"f" * 51 + f"0000{number}" for number in (1, 2, 3, 4)}
        wait_for("workers to go", lambda: nodes(ours) == ["ALIVE"])


def workers(store: Path) -> set[str]:
    """Nodes on which trials ran; the provider numbers those that it adds from 1."""
    lines = [json.loads(line) for path in store.glob("fake/trials/*/attempts.jsonl")
             for line in path.read_text().splitlines()]  # fmt: skip
    found = {line["node"] for line in lines if line["event"] == "start"}
    assert found
    return found
