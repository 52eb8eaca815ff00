"""A storage that fills up under running trials, and has room again later."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from orchestrator import attempts, space
from orchestrator.launch import Summary, run
from orchestrator.spec import spec_from
from tests.orchestrator.faults import (
    FAULTY,
    WALK,
    Curves,
    check_laws,
    curves,
    finished,
    gone,
    hurt,
    small,
    trial,
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


def launch_walk(disk: Path, seeds: list[int]) -> Summary:
    spec = spec_from(small(seeds=seeds, resources={"max_failures": 0}), "test")
    return run(spec, storage=disk, address="serial", objective=WALK)


def test_a_storage_that_stays_full_fails_trials_with_its_reason_and_the_next_launch_goes_on(
    small_disk: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "PATIENCE_S", 0.3)
    monkeypatch.setattr(space, "POLL_S", 0.1)
    expected = curves(launch_walk(place / "unbroken", [0, 1]).folder)
    folder = launch_walk(small_disk, [0]).folder
    tables, before = (folder / "runs.parquet").read_bytes(), finished(folder)
    (small_disk / "fates.json").write_text(json.dumps({"flat-seed1": "fills"}))

    full = launch_walk(small_disk, [0, 1])

    assert full.exit_code == 1
    assert full.lack is not None
    assert "No space left on device" in full.lack
    assert full.counts["completed"] == 2
    assert {trial.status for trial in full.unfinished} <= {"crashed", "not_run"}
    assert (folder / "runs.parquet").read_bytes() == tables, "no table was half written"
    assert "the storage is full" in str(attempts.read(trial(folder, "flat-seed1"))[-1].reason)
    with pytest.raises(InputError, match=r"--storage: .* cannot be written .*make room"):
        launch_walk(small_disk, [0, 1, 2])

    (small_disk / "ballast").unlink()
    again = launch_walk(small_disk, [0, 1])

    check_laws("storage full, then room again", folder, before, expected)
    assert (again.started, again.exit_code, again.lack) == (2, 0, None)
    assert [path for path in folder.rglob("*") if path.name.endswith(".part")] == []


@pytest.mark.slow
@pytest.mark.ray
def test_trials_on_a_full_storage_wait_and_go_on_from_their_checkpoints(
    small_disk: Path, ray_here: None, expected: Curves
) -> None:
    (small_disk / "fates.json").write_text(json.dumps({"structured-seed0": "fills"}))
    folder = small_disk / "fake"

    def make_room() -> None:
        filler = hurt(folder, "structured-seed0")
        while not gone(filler):
            time.sleep(0.1)
        time.sleep(2)
        (small_disk / "ballast").unlink()

    helper = threading.Thread(target=make_room)
    helper.start()
    spec = spec_from(small(seeds=[0]), "test")
    summary = run(spec, storage=small_disk, address="local", objective=FAULTY)
    helper.join()

    last = check_laws("storage full while running", folder, {}, expected)
    assert summary.exit_code == 0
    assert set(last["status"]) == {"completed"}
    runs = pd.read_parquet(folder / "runs.parquet").query("arm == 'structured'")
    assert list(runs["status"]) == ["crashed", "completed"]
    assert "the storage is full" in runs["failure_reason"].iloc[0]
