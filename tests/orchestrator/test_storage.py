"""A storage that fills up under running trials, and has room again later."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from orchestrator import attempts, cli, space
from orchestrator import launch as launch_module
from orchestrator.progress import board_of
from tests.fakes import FAKE, write_experiment
from tests.orchestrator.faults import (
    Curves,
    check_laws,
    finished,
    gone,
    hurt,
    launch,
    trial,
    wait_until,
)
from trainables.config import InputError


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    disk = place / "disk"
    disk.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("a small file system needs the mount command")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "kvtune-test", str(disk)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here, it needs root: {done.stderr.decode()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


ONCE = {"max_failures": 0}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_storage_that_stays_full_fails_trials_with_its_reason_and_the_next_launch_goes_on(
    small_disk: Path, expected: Curves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "PATIENCE_S", 0.3)
    monkeypatch.setattr(space, "POLL_S", 0.1)
    folder = launch(small_disk, "serial", seeds=[0], resources=ONCE).folder
    tables, before = (folder / "runs.parquet").read_bytes(), finished(folder)
    (small_disk / "fates.json").write_text(json.dumps({"flat-seed1": "fills"}))

    full = launch(small_disk, "serial", seeds=[0, 1], resources=ONCE)

    assert full.exit_code == 1
    assert full.lack is not None
    assert "No space left on device" in full.lack
    assert full.counts["completed"] == 2
    assert {trial.status for trial in full.unfinished} <= {"crashed", "not_run"}
    assert (folder / "runs.parquet").read_bytes() == tables, "no table was half written"
    assert "the storage is full" in str(attempts.read(trial(folder, "flat-seed1"))[-1].reason)
    with pytest.raises(InputError, match=r"--storage: .* cannot be written .*make room"):
        launch(small_disk, "serial", seeds=[0, 1, 2], resources=ONCE)

    (small_disk / "ballast").unlink()
    again = launch(small_disk, "serial", seeds=[0, 1], resources=ONCE)

    check_laws("storage full, then room again", folder, before, expected)
    assert (again.started, again.exit_code, again.lack) == (2, 0, None)
    assert [path for path in folder.rglob("*") if path.name.endswith(".part")] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.ray
def test_trials_on_a_full_storage_wait_and_go_on_from_their_checkpoints(
    small_disk: Path, ray_here: None, expected: Curves
) -> None:
    (small_disk / "fates.json").write_text(json.dumps({"structured-seed0": "fills"}))
    folder = small_disk / "fake"
    seen: list[str | None] = []

    def make_room() -> None:
        filler = hurt(folder, "structured-seed0")
        while not gone(filler):
            time.sleep(0.1)
        wait_until(lambda: board_of(str(folder)).now("waiting_for_room"))
        seen.append(board_of(str(folder)).lack())
        time.sleep(2)
        (small_disk / "ballast").unlink()

    helper = threading.Thread(target=make_room)
    helper.start()
    summary = launch(small_disk, "local", seeds=[0])
    helper.join()

    assert re.search(rf"a trial needs [\d.]+ MiB at {folder}, where [\d.]+ (?:B|KiB) are free", str(seen[0]))
    assert not list(folder.rglob(f"{space.MARK}*"))
    last = check_laws("storage full while running", folder, {}, expected)
    assert summary.exit_code == 0
    assert set(last["status"]) == {"completed"}
    runs = pd.read_parquet(folder / "runs.parquet").query("arm == 'structured'")
    assert list(runs["status"]) == ["crashed", "completed"]
    assert "the storage is full" in runs["failure_reason"].iloc[0]


def test_a_run_without_room_says_so_once_and_goes_on_when_there_is(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "Objective", lambda: FAKE)
    monkeypatch.setattr(space, "POLL_S", 0.05)
    began, statuses = time.monotonic(), []

    def full_for_a_while(path: Path) -> int:
        return 1000 if time.monotonic() < began + 8 and "trials" in path.parts else 2**30

    monkeypatch.setattr(space, "free_at", full_for_a_while)
    watcher = threading.Thread(target=lambda: statuses.append(status_while_waiting(place / "fake")))
    watcher.start()
    words = ["run", str(write_experiment(place)), "--storage", str(place), "--address", "serial", "--json"]
    code = cli.main(words)
    watcher.join()

    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines() if '"waiting_for_room"' in line]
    assert code == 0
    assert err.count("the storage is full: a trial needs 1 MiB") == 1
    assert f"at {place / 'fake'}, where" in err
    assert {event["needs_bytes"] for event in events} == {2**20}
    assert "waits for 1 MiB" in statuses[0]
    assert not list(place.rglob(f"{space.MARK}*"))


def status_while_waiting(folder: Path) -> str:
    """What `kvtune status` says as soon as a trial waits for room."""
    wait_until(lambda: list(folder.rglob(f"{space.MARK}*")))
    return subprocess.check_output([sys.executable, "-m", "orchestrator", "status", str(folder)], text=True)
