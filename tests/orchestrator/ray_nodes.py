"""A Ray cluster of several nodes on this machine, in a process of its own; what ends here ends only itself.

`python -m tests.orchestrator.ray_nodes 4 [IP]` starts a head without CPUs and four nodes with one each. It
tells of them in a line of JSON. A node's name on standard input has Ray told that it is being preempted.
The cluster ends with its input.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PREEMPTED = 2
"""Ray's number of this reason to drain a node."""
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
}
"""A lost node is noticed within seconds; a slow one on a loaded machine is not taken for lost."""


class Nodes:
    """A running cluster: its address, and the process id of every node's raylet by the node's name."""

    def __init__(self, process: subprocess.Popen[str], told: Mapping[str, Any]) -> None:
        self.process = process
        self.address: str = told["address"]
        self.raylets: dict[str, int] = told["raylets"]

    def preempt(self, node: str) -> None:
        """Have Ray told that the node will be gone in a second; to end it is up to the caller."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(node + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "True\n"


@contextmanager
def cluster(
    place: Path, nodes: int, ip: str | None = None, inside: Sequence[str] = (), **settings: str
) -> Iterator[Nodes]:
    """A cluster with a token of its own; environment variables for whoever joins it are set meanwhile.

    inside: a command that runs another, in a network namespace of its own. settings: Ray's, for its nodes.
    """
    (place / "token").write_text(secrets.token_hex(32))
    (place / "token").chmod(0o600)
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(place / "token"), "PYTHONPATH": str(ROOT)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    process = subprocess.Popen(
        [*inside, sys.executable, "-m", "tests.orchestrator.ray_nodes", str(nodes), *([ip] if ip else [])],
        cwd=ROOT,
        env={**os.environ, **QUICK, **settings, "RAY_TMPDIR": str(place)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(place / "cluster.log").open("w"),
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (place / "cluster.log").read_text()
        yield Nodes(process, json.loads(line))
    finally:
        process.communicate(timeout=60)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def main(count: int, ip: str | None = None) -> None:
    """Start the cluster and keep it until standard input ends."""
    import ray
    from ray.cluster_utils import Cluster

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints
    (Path(os.environ["RAY_TMPDIR"]) / "ray").mkdir(exist_ok=True)
    place = {"node_ip_address": ip} if ip else {}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **place}
    )
    nodes = [cluster.add_node(num_cpus=1, **place) for _ in range(count)]
    raylets = {node.node_id: node.all_processes["raylet"][0].process.pid for node in nodes}
    print(json.dumps({"address": cluster.address, "raylets": raylets}), file=out, flush=True)
    gcs = ray._raylet.GcsClient(address=cluster.address)
    for line in sys.stdin:
        soon = time.time_ns() // 1_000_000 + 1000
        print(gcs.drain_node(line.strip(), PREEMPTED, "the test takes it", soon)[0], file=out, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
