"""Where trials can be placed: nodes that stand, and node types that an autoscaler may add."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.processes import cpus
from orchestrator.spec import Resources
from trainables.config import InputError

HEAD = "node:__internal_head__"
"""Ray's own resource of the head node, where the autoscaler's configuration lies."""
MOST = 10**6
"""Nodes, or trials on one, where nothing sets a limit."""
ANSWER_S = 60.0
"""Seconds that the head is given to tell its autoscaler's configuration."""


@dataclass(frozen=True)
class Place:
    """A kind of node that can hold trials."""

    name: str
    resources: Mapping[str, float]
    count: int = 1
    """How many of it there are, or may be at most."""


@dataclass(frozen=True)
class Growth:
    """What an autoscaler may add to the nodes that stand."""

    types: tuple[Place, ...] = ()
    most: int | None = None
    """Nodes of all types together, at most; None where nothing says so."""
    known: bool = True
    """False where a cluster may grow and nobody here knows by what, such as under Kubernetes."""


def this_machine() -> Place:
    """CPUs that this process may use here, and GPUs that its torch finds."""
    from trainables.device import gpus_here

    return Place("this machine", {"CPU": float(cpus()), "GPU": float(gpus_here())})


def slots_of(trial: Resources, place: Place) -> int:
    """Trials that one node of this kind holds at once."""
    wanted = {"CPU": trial.cpus, "GPU": trial.gpus, "memory": (trial.memory_gib or 0) * 2**30}
    return min(
        math.floor(min(place.resources.get(kind, 0) / amount, MOST))
        for kind, amount in wanted.items()
        if amount
    )


def slots(trial: Resources, standing: Sequence[Place], growth: Growth) -> int:
    """Trials at once when the cluster has grown as far as it may, the roomiest nodes first."""
    now = sum(slots_of(trial, place) * place.count for place in standing)
    left = growth.most if growth.most is not None else sum(place.count for place in growth.types)
    more = 0
    for place in sorted(growth.types, key=lambda place: slots_of(trial, place), reverse=True):
        taken = min(place.count, left)
        more, left = more + taken * slots_of(trial, place), left - taken
    return now + more


def growth_of(config: Mapping[str, Any]) -> Growth:
    """An autoscaler's configuration, the head node left out: it stands already, or is counted apart."""
    most = int(config.get("max_workers", 2))
    types = []
    for name, kind in (config.get("available_node_types") or {}).items():
        count = int(kind.get("max_workers", 0 if name == config.get("head_node_type") else most))
        if count:
            types.append(Place(f"node type {name}", _with_memory(kind.get("resources") or {}), count))
    return Growth(types=tuple(types), most=most)


def _with_memory(resources: Mapping[str, float]) -> dict[str, float]:
    """Without a word on a node type's memory it is not what a trial is refused for."""
    return {"memory": math.inf, **resources}


def cluster_file(path: str) -> tuple[list[Place], Growth]:
    """Head and node types of a cluster.yaml that nobody has started yet, checked by Ray's own code.

    Raises InputError where it is no such file, or leaves a node type's CPUs to the cloud.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        validate_config(prepare_config(config))
        kinds = config["available_node_types"]
        head = kinds[config["head_node_type"]]
    except Exception as error:  # Ray raises its own, jsonschema's, and what a wrong shape brings
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--address {path} is no cluster file ({type(error).__name__}: {reason}).") from None
    unsaid = [name for name, kind in kinds.items() if "CPU" not in (kind.get("resources") or {})]
    if unsaid:
        raise InputError(
            f"--address {path}: node type {unsaid[0]} does not say its resources, which the cloud fills in "
            "when the cluster starts: write resources: {CPU: ...}, or plan with --address auto on its head."
        )
    return [Place("the head", _with_memory(head["resources"]))], growth_of(config)


def standing_nodes() -> list[Place]:
    """The living nodes of the Ray that this process is connected to."""
    import ray

    return [
        Place(f"node {node['NodeManagerAddress']}", node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def growth_here() -> Growth:
    """What the autoscaler of the connected Ray may add: as the GCS was told, else as its head says."""
    import ray

    told = ray._private.state.state.get_cluster_config()
    if told is not None and told.node_group_configs:
        return Growth(
            types=tuple(
                Place(
                    f"node type {group.name}",
                    _with_memory(group.resources),
                    MOST if group.max_count < 0 else group.max_count,
                )
                for group in told.node_group_configs
                if group.max_count
            )
        )
    ask = ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_retries=0)(_autoscaler_on_head)
    try:
        answer = ray.get(ask.remote(ray.get_runtime_context().gcs_address), timeout=ANSWER_S)
    except ray.exceptions.RayError:
        return Growth(known=False)
    return Growth(known=False) if answer is None else growth_of(json.loads(answer))


def _autoscaler_on_head(gcs_address: str) -> str | None:
    """On the head: the configuration its autoscaler runs by, {} where none runs, None where nobody can tell.

    Ray hands it to the monitor process as a file and to no driver.
    """
    import psutil  # type: ignore[import-untyped]  # which Ray brings along

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.endswith("/monitor.py") for word in words) and f"--gcs-address={gcs_address}" in words:
            files = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
            if not files:
                return "{}"
            config = yaml.safe_load(Path(os.path.expanduser(files[0])).read_text(encoding="utf-8"))
            kept = ("max_workers", "available_node_types", "head_node_type")
            return json.dumps({name: config[name] for name in kept if name in config}, default=str)
    return None
