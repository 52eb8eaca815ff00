"""cluster.yaml and its kin against Ray's own schema, KubeRay's, and what those schemas do not look at."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from orchestrator import cli
from orchestrator.submit import STORAGE, check_environment

ROOT = Path(__file__).resolve().parents[2]
AWS, GCP, OWN = ROOT / "cluster.yaml", ROOT / "deploy/gcp.yaml", ROOT / "deploy/on-premise.yaml"
KUBERAY = ROOT / "deploy/kuberay.yaml"
FILES = [AWS, GCP, OWN]
NODE_CONFIG = {
    AWS: {"InstanceType", "InstanceMarketOptions", "BlockDeviceMappings"},
    GCP: {"machineType", "disks", "metadata", "scheduling"},
}
"""What the clouds' own APIs call these; Ray passes on a typo, and a misspelt spot key buys on-demand."""
SPOT: dict[Path, tuple[str, Any]] = {
    AWS: ("InstanceMarketOptions", {"MarketType": "spot"}),
    GCP: ("scheduling", [{"preemptible": True}]),
}
PROVIDER = {
    AWS: {"type", "region", "cache_stopped_nodes"},
    GCP: {"type", "region", "availability_zone", "project_id"},
    OWN: {"type", "head_ip", "worker_ips"},
}


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def resolved(content: dict[str, Any]) -> dict[str, Any]:
    """The file as Ray uses it, its defaults filled in; Ray's errors for what it does not take."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(content)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ray_accepts_the_cluster_file_and_refuses_it_with_a_typo(path: Path) -> None:
    resolved(read(path))

    with pytest.raises(ValidationError):
        resolved({**read(path), "idle_timeout_minuts": 3})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_listens_on_a_public_address(path: Path) -> None:
    used = yaml.safe_dump(resolved(read(path)), width=10_000)

    assert "0.0.0.0" not in path.read_text()
    assert "0.0.0.0" not in used, "a default of Ray's came back"
    assert "--dashboard-host=127.0.0.1" in used


@pytest.mark.parametrize("path", [AWS, GCP], ids=lambda path: path.name)
def test_workers_are_spot_and_the_head_is_not(path: Path) -> None:
    content = read(path)
    types, (key, value) = content["available_node_types"], SPOT[path]
    spot = {name for name, kind in types.items() if key in kind["node_config"]}

    assert spot == set(types) - {content["head_node_type"]}
    assert all(types[name]["node_config"][key] == value for name in spot)
    assert all(set(kind["node_config"]) <= NODE_CONFIG[path] for kind in types.values())
    assert any(kind["resources"].get("GPU") for kind in types.values())
    assert any(not kind["resources"].get("GPU") and kind["resources"]["CPU"] for kind in types.values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_provider_fields_are_known_ones(path: Path) -> None:
    assert set(read(path)["provider"]) == PROVIDER[path], "Ray's schema lets any field stand here"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_cluster_asks_for_a_token_and_holds_none(path: Path) -> None:
    content = read(path)
    starts = " ".join([*content["head_start_ray_commands"], *content["worker_start_ray_commands"]])
    in_container = "--env RAY_AUTH_MODE=token" in content.get("docker", {}).get("run_options", [])

    assert in_container or starts.count("RAY_AUTH_MODE=token") == 2
    assert content["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "ssh_private_key" not in content["auth"]
    assert not re.search(r"AKIA|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{32}", path.read_text())
    assert {"**/.*", "**/.*/**"} <= set(content["rsync_exclude"]), "hidden files hold keys"


@pytest.mark.parametrize("path", [AWS, GCP], ids=lambda path: path.name)
def test_idle_workers_go_away(path: Path) -> None:
    content = read(path)

    assert 0 < content["idle_timeout_minutes"] <= 15
    assert all(kind["min_workers"] == 0 for kind in content["available_node_types"].values())


def test_on_machines_of_your_own_no_other_ray_is_ended() -> None:
    commands = yaml.safe_dump({**resolved(read(OWN)), "file_mounts": None}, width=10_000)

    assert "ray stop" not in commands


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_node_installs_the_tested_versions_and_shares_the_storage(path: Path) -> None:
    content = read(path)

    assert "kvtune/constraints.txt" in content["setup_commands"][-1]
    assert any(STORAGE in command for command in content["initialization_commands"])
    for image in content.get("docker", {}).get("run_options", []):
        assert "--volume" not in image or image == f"--volume {STORAGE}:{STORAGE}"


def test_the_images_have_the_ray_that_was_tested() -> None:
    from importlib.metadata import version

    for path, count in ((AWS, 2), (GCP, 2), (ROOT / "deploy/Dockerfile", 1)):
        images = re.findall(r"rayproject/ray:([\d.]+)-py3(\d+)", path.read_text())
        assert len(images) == count
        assert all(int(python) >= 11 for _, python in images)
        assert {ray for ray, _ in images} == {version("ray")}
    assert kuberay()["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")


def kuberay() -> dict[str, Any]:
    """The RayJob of deploy/kuberay.yaml."""
    (job,) = [one for one in yaml.safe_load_all(KUBERAY.read_text()) if one["kind"] == "RayJob"]
    content: dict[str, Any] = job
    return content


def closed(schema: Any) -> Any:
    """The schema with every object that lists its properties closed to others."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {**inner, "additionalProperties": False} if isinstance(inner.get("properties"), dict) else inner


def rayjob_errors(job: dict[str, Any]) -> list[str]:
    schema = closed(read(Path(__file__).with_name("kuberay_rayjob_schema.yaml")))
    return [error.message for error in Draft202012Validator(schema).iter_errors(job)]


def test_kuberays_schema_accepts_the_job() -> None:
    assert rayjob_errors(kuberay()) == []


@pytest.mark.parametrize(
    ("place", "name", "value", "said"),
    [
        (("spec",), "entryPoint", "x", "'entryPoint' was unexpected"),
        (("spec", "rayClusterSpec", "authOptions"), "mode", "tokens", "'tokens' is not one of"),
        (("spec", "rayClusterSpec"), "enableInTreeAutoScaling", True, "was unexpected"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "groupName", None, "'groupName' is a required"),
        (
            ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"),
            "num-cpus",
            0,
            "is not of type 'string'",
        ),
    ],
)
def test_kuberays_schema_refuses_a_typo(place: tuple[Any, ...], name: str, value: Any, said: str) -> None:
    job = kuberay()
    inner: Any = job
    for key in place:
        inner = inner[key]
    if value is None:
        del inner[name]
    else:
        inner[name] = value

    assert any(said in error for error in rayjob_errors(job))


def test_the_rayjob_grows_shares_its_storage_and_asks_for_a_token() -> None:
    spec = kuberay()["spec"]
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]

    assert cluster["enableInTreeAutoscaling"], "with minReplicas 0 trials would wait for ever"
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in groups:
        pod = group["template"]["spec"]
        assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == [STORAGE]
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "kvtune"
    assert check_environment(yaml.safe_load(spec["runtimeEnvYAML"]), "runtimeEnvYAML")


def commands_in(text: str) -> Iterator[list[str]]:
    """Every kvtune command that a text shows."""
    for line in re.findall(
        r"kvtune (?:run|plan|submit|status|logs|stop|fetch|report|train|gates)\b[^\n`'|;)]*", text
    ):
        yield shlex.split(line.partition("  ")[0].partition(" #")[0])[1:]


@pytest.mark.parametrize("path", [*FILES, KUBERAY, ROOT / "docs/cluster.md"], ids=lambda path: path.name)
def test_every_command_that_is_shown_exists(path: Path) -> None:
    shown = list(commands_in(path.read_text()))

    assert shown
    for command in shown:
        cli._refuse_unknown_words(command)
