"""cluster.yaml against Ray's own schema, and what that schema does not look at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"
NODE_CONFIG = {"InstanceType", "InstanceMarketOptions", "BlockDeviceMappings"}
"""Keys of boto3's create_instances; Ray passes on a misspelt one, and a misspelt spot key buys on-demand."""


@pytest.fixture
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_ray_refuses_a_misspelt_field(cluster: dict[str, Any]) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError):
        validate_config(prepare_config({**cluster, "idle_timeout_minuts": 3}))


def test_nothing_listens_on_a_public_address(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config

    resolved = yaml.safe_dump(prepare_config(cluster))
    assert "0.0.0.0" not in FILE.read_text()
    assert "0.0.0.0" not in resolved, "a default of Ray's came back"
    assert "--dashboard-host=127.0.0.1" in resolved


def test_workers_are_spot_and_the_head_is_not(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}

    assert spot == set(types) - {cluster["head_node_type"]}
    assert all(types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for name in spot)
    assert all(set(kind["node_config"]) <= NODE_CONFIG for kind in types.values())
    assert any(kind["resources"].get("GPU") for kind in types.values())


def test_the_cluster_asks_for_a_token_and_holds_none(cluster: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "ssh_private_key" not in cluster["auth"]
    assert not re.search(r"AKIA|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{32}", FILE.read_text())


def test_idle_workers_go_away(cluster: dict[str, Any]) -> None:
    assert 0 < cluster["idle_timeout_minutes"] <= 15
    assert all(kind["min_workers"] == 0 for kind in cluster["available_node_types"].values())


def test_the_image_has_the_ray_that_was_tested(cluster: dict[str, Any]) -> None:
    from importlib.metadata import version

    images = re.findall(r"rayproject/ray:([\d.]+)-py3(\d+)", FILE.read_text())
    assert len(images) == 2
    assert all(int(python) >= 11 for _, python in images)
    assert {ray for ray, _ in images} == {version("ray")}
