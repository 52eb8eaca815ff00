"""What Ray does to its driver, and users to a launch that still starts: the records are closed anyway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator import driver, launch, tuning
from orchestrator.child import Job
from orchestrator.spec import spec_from
from tests.fakes import FAKE, experiment, write_experiment
from tests.orchestrator.clusters import descendants
from tests.orchestrator.faults import (
    ARMS,
    ROOT,
    SMALL,
    STARTED,
    Curves,
    check_laws,
    ends,
    finished,
    gone,
    hurt,
    start_driver,
    trial,
    wait_until,
)
from tests.orchestrator.ray_nodes import cluster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
PAIR: dict[str, Any] = {"arms": {name: ARMS[name] for name in ("flat", "structured")}, "seeds": [0]}
PROGRAM = """
import sys
from orchestrator import cli, teacher_tasks
teacher_tasks.SMALL_WORK = 0  # so that Ray tasks ask even a small teacher
sys.exit(cli.main(sys.argv[1:]))
"""
HELD = "structured-seed0"


class Watched:
    """A launch in a process of its own, what it prints, and what it has started."""

    def __init__(self, place: Path, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self.folder, self.log = place / "fake", place / "driver.log"
        self.before = self.log.stat().st_size if self.log.exists() else 0
        self.process = start()

    @property
    def said(self) -> str:
        return self.log.read_bytes()[self.before :].decode(errors="replace")

    def until_line(self, line: str) -> None:
        wait_until(lambda: line in self.said or self.process.poll() is not None)
        assert line in self.said, self.said

    def strike(self, number: int, pid: int) -> tuple[int, float]:
        """Send the signal; the exit code and the seconds to the end. Nothing that was started is left."""
        session = [one for one in descendants(self.process.pid) if os.getsid(one) == one]
        struck = time.monotonic()
        os.kill(pid, number)
        code, took = self.process.wait(timeout=120), time.monotonic() - struck
        left = [pid for leader in session for pid in driver._session(leader)]
        print(f"STRIKE exit {code} after {took:.1f} s, {len(left)} left: {self.said.splitlines()[-2:]}")
        assert left == []
        for noise in ("state-dump", "Traceback", "*** "):
            assert noise not in self.said
        return code, took


def find(parent: int, word: str) -> int:
    """The one process under the parent whose command line holds the word, once it is there."""
    found: list[int] = []

    def look() -> list[int]:
        for pid in descendants(parent):
            try:
                if word in Path(f"/proc/{pid}/cmdline").read_text().partition(" --")[0][:500]:
                    found.append(pid)
            except OSError:
                continue
        return found

    wait_until(look)
    return found[0]


def held(place: Path, address: str) -> Watched:
    """A launch of which one trial is held in a step."""
    (place / "fates.json").write_text(json.dumps({HELD: "held"}))
    run = Watched(place, lambda: start_driver(place, address, **PAIR))
    hurt(run.folder, HELD)
    wait_until(lambda: finished(run.folder))
    return run


def kvtune_run(place: Path) -> subprocess.Popen[bytes]:
    path = write_experiment(place, **{**SMALL, **PAIR})
    with (place / "driver.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", str(path), "--storage", str(place)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    STARTED.append(process)
    return process


def test_a_ray_of_ours_that_dies_under_its_trials_ends_the_run_within_seconds(
    place: Path, expected: Curves
) -> None:
    for victim in ("raylet/raylet", "gcs/gcs_server"):
        run = held(place, "local")
        before, pid = finished(run.folder), hurt(run.folder, HELD)

        code, took = run.strike(signal.SIGKILL, find(run.process.pid, victim))

        assert code == 1
        assert took < 60
        assert gone(pid)
        assert f"{victim.partition('/')[2]} on this machine died; what was finished counts" in run.said
        check_laws(f"SIGKILL of {victim}", run.folder, before, expected, unfinished=1)
        (trial(run.folder, HELD) / "hurt").unlink()
    assert ends(run.folder, HELD) == ["crashed", "crashed"]
    (place / "go").touch()
    assert start_driver(place, "serial", **PAIR).wait(timeout=120) == 0
    check_laws("the next run", run.folder, before, expected)


def test_a_raylet_that_dies_after_the_last_result_costs_nothing(place: Path, expected: Curves) -> None:
    run = held(place, "local")
    tune = find(run.process.pid, "orchestrator.driver")
    raylet = find(tune, "raylet/raylet")
    os.kill(tune, signal.SIGSTOP)  # so that it learns of the last result when the raylet is dead
    (place / "go").touch()
    wait_until(lambda: len(finished(run.folder)) == 2)
    before = finished(run.folder)
    os.kill(raylet, signal.SIGKILL)

    code, _ = run.strike(signal.SIGCONT, tune)

    assert code == 0
    check_laws("SIGKILL of the raylet at the end", run.folder, before, expected)


def test_a_cluster_that_is_lost_for_good_ends_the_run(
    place: Path, expected: Curves, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(place, 2) as nodes:
        monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
        for victim, said in [
            ("raylet/raylet", "the node on which Ray is driven from here died"),
            ("gcs/gcs_server", "the cluster's head is gone"),
        ]:
            run = held(place, nodes.address)
            before = finished(run.folder)

            code, _ = run.strike(signal.SIGKILL, find(nodes.process.pid, victim))

            assert code == 1
            assert said in run.said
            check_laws(f"SIGKILL of a cluster's {victim}", run.folder, before, expected, unfinished=1)
            (trial(run.folder, HELD) / "hurt").unlink()


def test_a_signal_ends_a_launch_that_is_still_starting_and_the_same_command_goes_on(
    place: Path, expected: Curves
) -> None:
    moments: list[tuple[int, Callable[[Watched], object]]] = [
        (signal.SIGTERM, lambda run: run.until_line("2 of 2 trials to run")),
        (signal.SIGINT, lambda run: run.until_line("solves 100.0%")),
        (signal.SIGINT, lambda run: find(run.process.pid, "gcs/gcs_server")),
        (signal.SIGTERM, lambda run: (find(run.process.pid, "raylet/raylet"), time.sleep(1))),
        (signal.SIGTERM, lambda run: (run.until_line("computing the teacher's cache"), time.sleep(3))),
    ]
    for number, moment in moments:
        run = Watched(place, lambda: kvtune_run(place))
        moment(run)

        code, took = run.strike(number, run.process.pid)

        assert code == 130
        assert took < 30
        assert len(run.said.splitlines()) <= 4, run.said
    assert "2 of 2 trials left" in run.said, "the plan was there already"

    assert start_driver(place, "local", **PAIR).wait(timeout=120) == 0
    check_laws("signals at the start", run.folder, {}, expected)


def raises(jobs: Sequence[Job]) -> None:
    """Tune as it is where the folder that it was started in is gone."""
    tuning.fit(jobs)
    raise FileNotFoundError("os.getcwd")


def hangs(jobs: Sequence[Job]) -> None:
    tuning.fit(jobs)
    time.sleep(3600)


@pytest.mark.parametrize(
    ("fit", "said"),
    [(raises, "FileNotFoundError: os.getcwd"), (hangs, "Ray did not end after the last trial")],
)
def test_whatever_tune_does_after_its_trials_they_are_closed_and_counted(
    place: Path, ray_here: None, fit: Callable[[Sequence[Job]], None], said: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(launch, "fit", fit)
    monkeypatch.setattr(driver, "LINGER_S", 1.0)

    summary = launch.run(spec_from(experiment(seeds=[0]), "test"), storage=place, objective=FAKE)

    assert (summary.exit_code, summary.counts) == (0, {"completed": 2})
    assert list(pd.read_parquet(summary.folder / "runs.parquet")["status"]) == ["completed"] * 2
    assert said in (err := capfd.readouterr().err)
    assert "Traceback" not in err
    assert said in (summary.folder / "driver.log").read_text()


def test_ray_keeps_the_pids_of_its_processes_where_they_are_looked_for(ray_here: None) -> None:
    for name, pid in driver._own_processes().items():
        assert name in Path(f"/proc/{pid}/cmdline").read_text()
