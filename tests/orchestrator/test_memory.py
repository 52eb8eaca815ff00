"""A trial that uses its node's memory up until Ray's own monitor ends its worker."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import attempts
from orchestrator.watch import GIB
from tests.orchestrator.faults import (
    Curves,
    check_laws,
    ends,
    finished,
    gone,
    hurt,
    resumed_from,
    start_driver,
    trial,
    wait_until,
)
from tests.orchestrator.ray_nodes import cluster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]
CONTROL, LIMIT = Path("/sys/fs/cgroup"), "memory.max"
if (CONTROL / "memory").is_dir():  # version 1 of control groups
    CONTROL, LIMIT = CONTROL / "memory", "memory.limit_in_bytes"
ENTER = f'echo $$ > "$0/cgroup.procs" && mount --bind "$0" {CONTROL} && exec "$@"'
WATCHFUL = {"RAY_memory_usage_threshold": "0.4", "RAY_memory_monitor_refresh_ms": "100"}


@pytest.fixture
def small_machine() -> Iterator[tuple[str, ...]]:
    """A command that runs another in a control group of 8 GiB, which takes it for the machine's memory."""
    group, limit = CONTROL / f"kvt-{os.getpid()}", str(8 * GIB)
    inside = ("unshare", "--mount", "bash", "-c", ENTER, str(group))
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here, it needs root: {error}")
    try:
        try:
            (group / LIMIT).write_text(limit)
            told = subprocess.run(
                [*inside, "cat", str(CONTROL / LIMIT)], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no process can be given a control group here: {error}")
        assert told.stdout.strip() == limit
        yield inside
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_worker_that_rays_memory_monitor_ends_costs_its_trial_one_attempt_and_no_other_any(
    place: Path, small_machine: tuple[str, ...], expected: Curves
) -> None:
    (place / "fates.json").write_text(json.dumps({"structured-seed0": "eats"}))
    folder = place / "fake"
    with cluster(place, 1, inside=small_machine, **WATCHFUL) as nodes:
        driver = start_driver(place, nodes.address, seeds=[0, 1])
        eater = hurt(folder, "structured-seed0")
        before = finished(folder)

        assert driver.wait(timeout=300) == 0, (place / "driver.log").read_text()

    check_laws("Ray's memory monitor", folder, before, expected)
    assert len(before) == 1
    assert gone(eater)
    assert ends(folder, "structured-seed0") == ["oom", "completed"]
    assert resumed_from(folder, "structured-seed0") == 6
    first, second = attempts.read(trial(folder, "structured-seed0"))
    assert "Ray ended its worker, for memory was running out" in str(first.reason)
    assert first.pid != second.pid
    assert {name: ends(folder, name) for name in ("flat-seed0", "flat-seed1", "structured-seed1")} == {
        name: ["completed"] for name in ("flat-seed0", "flat-seed1", "structured-seed1")
    }
