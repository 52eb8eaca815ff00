"""Twenty kills at random moments: whatever they hit, the three laws hold in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import attempts
from tests.orchestrator.faults import (
    SMALL,
    check_laws,
    finished,
    gone,
    start_driver,
    unbroken,
    wait_until,
)
from tests.orchestrator.ray_nodes import cluster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]
KILLS = {"child": 8, "worker": 7, "driver": 5}
STEPS_APART = 10
LAST_S = 500
"""Seconds after which the test gives up; it takes two minutes on an idle machine."""
LONG: dict[str, Any] = {
    "base": {**SMALL["base"], "max_steps": 40, "eval_steps": 20, "save_steps": 3},
    "resources": {"max_failures": 100},
}
"""Trials of seconds, so that kills land in the middle of them."""


class Chaos:
    """A run that is killed piece by piece and launched again, and grows by a seed whenever it gets done."""

    def __init__(self, place: Path, address: str, seed: int) -> None:
        self.place, self.address, self.folder = place, address, place / "fake"
        self.dice = random.Random(seed)
        kinds = [kind for kind, times in KILLS.items() for _ in range(times)]
        self.dice.shuffle(kinds)
        self.plan = [(kind, self.dice.randrange(2 * STEPS_APART)) for kind in kinds]
        """What to kill next, and after how many more steps; only what runs at that moment is up to chance."""
        self.seeds = [0, 1, 2]
        self.killed = dict.fromkeys(KILLS, 0)
        self.launches = 0
        self.seen: dict[Path, tuple[bytes, int, int]] = {}
        self.driver = self._launch()
        self.deadline = time.monotonic() + LAST_S

    def _launch(self) -> subprocess.Popen[bytes]:
        self.launches += 1
        return start_driver(self.place, self.address, seeds=self.seeds, **LONG)

    def _go_on(self) -> None:
        """Launch again where the driver was killed or is done."""
        code = self.driver.poll()
        if code is None:
            return
        assert code in (0, -signal.SIGKILL), (self.place / "driver.log").read_text()
        if code == 0:
            self.seeds = [*self.seeds, len(self.seeds)]
        self.driver = self._launch()

    def kill(self, kind: str, steps: int) -> None:
        """Kill something that is there, once the trials are so many steps further."""
        due = self._steps() + steps
        while self._steps() < due or (victim := self._victim(kind)) is None:
            assert time.monotonic() < self.deadline, f"time is up after {self.killed}"
            self._go_on()
            for path, what in finished(self.folder).items():
                self.seen.setdefault(path, what)
            time.sleep(self.dice.uniform(0, 0.1))
        os.kill(victim, signal.SIGKILL)
        self.killed[kind] += 1
        if kind == "driver":
            self.driver.wait(timeout=60)

    def _steps(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.folder.glob("trials/*/metrics.jsonl"))

    def _victim(self, kind: str) -> int | None:
        if kind == "driver":
            return self.driver.pid if self.driver.poll() is None else None
        running = [
            (known[-1].pid, path.with_name("pid"))
            for path in self.folder.glob("trials/*/attempts.jsonl")
            if (known := attempts.read(path.parent)) and known[-1].status is None
        ]
        pids = [int(text) for _, file in running if file.exists() and (text := file.read_text())]
        if kind == "worker":
            pids = [pid for pid, _ in running if pid is not None]
        alive = [pid for pid in pids if not gone(pid)]
        return self.dice.choice(alive) if alive else None

    def finish(self) -> None:
        """Launch until everything is done."""
        while self.driver.wait(timeout=max(1, self.deadline - time.monotonic())) != 0:
            self._go_on()


def test_twenty_random_kills_lose_nothing_repeat_nothing_and_change_no_bit(place: Path) -> None:
    with cluster(place, 2) as nodes:
        chaos = Chaos(place, nodes.address, seed=20)
        for kind, steps in chaos.plan:
            chaos.kill(kind, steps)
        chaos.finish()

    expected = unbroken(place / "unbroken", seeds=chaos.seeds, **LONG)
    told = f"{chaos.killed} in {chaos.launches} launches of {len(expected)} trials"
    check_laws(f"random kills {told}", chaos.folder, chaos.seen, expected)
    wait_until(lambda: all(gone(int(path.read_text())) for path in chaos.folder.glob("trials/*/pid")))
    assert chaos.killed == KILLS
    assert chaos.seen, "finished trials were at stake"
    leftover = [
        p for p in chaos.folder.rglob("*") if p.name.endswith(".part") or p.name.startswith(".checkpoint")
    ]
    assert leftover == []
