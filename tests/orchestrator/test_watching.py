"""How a launch sees that Ray is gone or stands still, and how it goes on where nobody can read it."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import driver
from orchestrator.child import signal_name
from orchestrator.progress import Progress
from orchestrator.spec import spec_from
from orchestrator.terminal import Console
from orchestrator.trials import make_plan
from tests.fakes import experiment
from tests.orchestrator.faults import wait_until


@pytest.fixture
def asleep() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_a_vital_process_that_is_stopped_or_dead_is_seen_without_pidfds(
    asleep: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    watched = driver.Driver.__new__(driver.Driver)
    watched._vital = {"raylet": (asleep.pid, driver._born(asleep.pid))}

    def end() -> str | None:
        found = watched._end(lambda: False)
        return found[0] if found else None

    assert end() is None
    asleep.send_signal(signal.SIGSTOP)
    wait_until(lambda: end() == "Ray's raylet on this machine was stopped")
    asleep.send_signal(signal.SIGCONT)
    wait_until(lambda: end() is None)
    asleep.kill()
    wait_until(lambda: end() == "Ray's raylet on this machine died")


def test_a_signal_without_a_name_has_its_number() -> None:
    assert [signal_name(9), signal_name(40)] == ["SIGKILL", "signal 40"]


class Closed(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_closed_terminal_ends_no_run_and_its_board_is_looked_at_all_the_same(tmp_path: Path) -> None:
    cells = make_plan(spec_from(experiment(), "test")).to_dict()["cells"]
    console = Console(file=Closed(), force_terminal=True, stderr=True)

    console.print("a message")
    with Progress(tmp_path, cells, Console(file=Closed(), stderr=True), lambda row: print(1 / 0)) as progress:
        trial = tmp_path / cells[0]["trial_id"]
        trial.mkdir()
        (trial / "result.json").write_text("{")
        progress.tell = Closed().write  # type: ignore[assignment]
        progress._update()

    assert progress.unread
    assert progress.board.states[cells[0]["trial_id"]].status == "crashed"


def test_what_a_command_prints_to_a_broken_place_is_no_success() -> None:
    with pytest.raises(OSError, match="Input/output error"):
        Console(file=Closed()).print("a result")
