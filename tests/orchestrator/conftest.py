"""One small Ray for all tests that need one, and a temporary folder with a short name."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tuning import import_quietly

import_quietly()  # before any test module imports Ray, which reads its environment once


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder with a short name; drivers that were started in it end with it."""
    folder = Path(tempfile.mkdtemp(prefix="kvt"))
    yield folder
    if faults := sys.modules.get("tests.orchestrator.faults"):
        for driver in faults.STARTED:
            driver.kill()
            driver.wait()
        faults.STARTED.clear()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The curves of the arms and seeds in tests/orchestrator/faults.py where nothing goes wrong."""
    from tests.orchestrator.faults import ARMS, SEEDS, unbroken

    return unbroken(tmp_path_factory.mktemp("unbroken"), arms=ARMS, seeds=SEEDS)


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A Ray of this test run's own, with two slots and token authentication."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
