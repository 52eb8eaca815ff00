"""Workers, nodes and drivers that die under trials on a cluster of several nodes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from orchestrator import attempts
from tests.orchestrator.faults import (
    SEEDS,
    Curves,
    check_laws,
    ends,
    finished,
    gone,
    hurt,
    resumed_from,
    start_driver,
    tear,
    trial,
    wait_until,
)
from tests.orchestrator.ray_nodes import Nodes, cluster
from trainables.trial_folder import TrialFolder

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Four nodes with one slot each; the first test takes two of them away."""
    place = Path(tempfile.mkdtemp(prefix="kvt"))
    with cluster(place, 4) as running:
        yield running
    shutil.rmtree(place, ignore_errors=True)


def hold(place: Path, *names: str) -> None:
    """Let fate hold these trials in the middle of a step."""
    (place / "fates.json").write_text(json.dumps(dict.fromkeys(names, "held")))


def held_of(folder: Path, names: list[str]) -> list[str]:
    """Those of the trials that fate holds, or has held."""
    return [name for name in names if [*folder.glob(f"trials/{name}-*/hurt")]]


def last_attempt(folder: Path, name: str) -> attempts.Attempt:
    return attempts.read(trial(folder, name))[-1]


def kill(*pids: int | None) -> None:
    for pid in pids:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


def test_a_worker_a_node_and_a_preempted_one_may_go_while_others_live(
    place: Path, nodes: Nodes, expected: Curves
) -> None:
    held = ["structured-seed0", "flat-seed1", "structured-seed1", "flat-seed2"]
    hold(place, *held, "structured-seed2")
    driver, folder = start_driver(place, nodes.address, seeds=SEEDS), place / "fake"
    struck = {name: hurt(folder, name) for name in held}
    before = finished(folder)

    kill(struck["structured-seed0"])
    kill(last_attempt(folder, "flat-seed1").pid)
    kill(last_attempt(folder, "structured-seed1").pid, struck["structured-seed1"])
    kill(nodes.raylets[str(last_attempt(folder, "flat-seed2").node)])
    hurt(folder, "structured-seed2")
    taken = str(last_attempt(folder, "structured-seed2").node)
    nodes.preempt(taken)
    time.sleep(1.5)  # Ray calls a node preempted once the second is over that it was given
    kill(nodes.raylets[taken])

    assert driver.wait(timeout=300) == 0
    check_laws("workers and nodes", folder, before, expected)
    assert len(before) == 1
    assert {name: ends(folder, name) for name in held} == {name: ["crashed", "completed"] for name in held}
    assert ends(folder, "structured-seed2") == ["preempted", "completed"]
    for name, pid in struck.items():
        assert gone(pid), name
    assert last_attempt(folder, "flat-seed2").node != attempts.read(trial(folder, "flat-seed2"))[0].node


def test_a_driver_that_is_ended_or_killed_loses_no_report_and_any_backend_goes_on(
    place: Path, nodes: Nodes, expected: Curves
) -> None:
    folder = place / "fake"
    waiting = ["structured-seed0", "flat-seed1", "structured-seed1", "flat-seed2", "structured-seed2"]
    for number, address, slots in [
        (signal.SIGTERM, nodes.address, 2),
        (signal.SIGINT, nodes.address, 2),
        (signal.SIGKILL, "local", 1),
    ]:
        hold(place, *waiting)  # all of them: Ray need not start them in their order
        driver = start_driver(place, address, seeds=SEEDS)
        wait_until(lambda: len(held_of(folder, waiting)) >= slots, seconds=400)  # noqa: B023
        held = held_of(folder, waiting)
        waiting = [name for name in waiting if name not in held]
        struck = {name: hurt(folder, name) for name in held}
        before = finished(folder)
        reported = {name: list(TrialFolder(trial(folder, name)).read_metrics()) for name in held}

        driver.send_signal(number)

        code = driver.wait(timeout=240)
        for name, pid in struck.items():
            wait_until(lambda pid=pid: gone(pid))
            assert list(TrialFolder(trial(folder, name)).read_metrics()) == reported[name]
        if number == signal.SIGKILL:
            continue
        assert code == 130
        last = check_laws(number.name, folder, before, expected, unfinished=None).set_index("trial_id")
        table = pd.read_parquet(folder / "metrics.parquet")
        for name in held:
            assert last.loc[trial(folder, name).name, "status"] == "cancelled"
            told = table[table["trial_id"] == trial(folder, name).name]
            assert set(told["step"]) == {row["step"] for row in reported[name]}
    before = finished(folder)
    tear(trial(folder, held[0]))

    assert start_driver(place, "serial", seeds=SEEDS).wait(timeout=300) == 0

    check_laws("SIGKILL", folder, before, expected)
    assert resumed_from(folder, held[0]) == 4, "its newest checkpoint was torn"
    assert ends(folder, held[0])[-2:] == ["crashed", "completed"], "nobody could record the end"
