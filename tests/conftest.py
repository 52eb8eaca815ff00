"""How the tests share a machine."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under `pytest -n`, keep the tests that start Ray in one process: two Rays would fight for the cores."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("ray"):
                item.add_marker(pytest.mark.xdist_group("ray"))
