"""Folders that Ray Tune wrote: what it says of its trials, in its own spelling."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis import ResultsError, load
from analysis.imports.ray_tune import STATES
from tests.analysis.imports.records import judged, remarks, statuses

pytestmark = [pytest.mark.slow, pytest.mark.ray]
MAPPING: dict[str, Any] = {
    "arm": "config/method",
    "seed": "config/seed",
    "step": "training_iteration",
    "metrics": {"val_loss": {"column": "loss", "direction": "min"}},
    "analysis": {"baseline": "A", "primary": "val_loss"},
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    script = Path(__file__).with_name("tuned.py")
    # Without what other tests of this process set for Ray, which then leaves Ctrl-C alone.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    environment = plain | {"RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([sys.executable, str(script), str(folder)], env=environment, check=True, timeout=500)
    return folder


@pytest.fixture
def grid(tuned: Path, tmp_path: Path) -> Path:
    """The first experiment, moved: a copy of its own for every test."""
    return Path(shutil.copytree(tuned / "grid", tmp_path / "moved"))


def trial(folder: Path, arm: str, seed: int) -> Path:
    return next(folder.glob(f"*method={arm},seed={seed}_*"))


def test_a_retry_that_ended_is_complete_a_crash_is_not_and_a_nan_diverged(grid: Path, tmp_path: Path) -> None:
    found = judged("ray", grid, MAPPING, tmp_path / "out")

    ends = statuses(tmp_path / "out")
    assert (trial(grid, "A", 3) / "error.txt").exists()
    assert ends["A-seed3"] == ("completed", None)
    assert ends["B-seed4"] == ("crashed", "RuntimeError: always")
    assert ends["A-seed4"] == ("crashed", "RuntimeError: always"), "before its first report"
    assert ends["B-seed2"][0] == "diverged"
    assert (found.pairs, found.difference) == (3, pytest.approx(-0.1))


def test_what_was_written_last_counts_in_a_restored_trial_and_is_told(grid: Path, tmp_path: Path) -> None:
    judged("ray", grid, MAPPING, tmp_path / "out")

    curve = load(tmp_path / "out").metrics
    again = curve[(curve["trial_id"] == "B-seed1") & (curve["step"] == 2)]["value"]
    assert again.tolist() == pytest.approx([2.01])
    assert "arm B, seed 1, training_iteration 2" in remarks(tmp_path / "out")


def test_settings_that_ray_recorded_are_checked_unasked(grid: Path, tmp_path: Path) -> None:
    file = trial(grid, "B", 1) / "result.json"
    file.write_text(file.read_text().replace('"lr": 0.01', '"lr": 0.5'))

    found = judged("ray", grid, MAPPING, tmp_path / "out")

    assert found.verdict == "INVALID"
    assert "config/lr (seeds 1)" in found.findings[0].detail


def test_progress_csv_alone_gives_the_same_verdict(grid: Path, tmp_path: Path) -> None:
    whole = judged("ray", grid, MAPPING, tmp_path / "out")
    for file in grid.rglob("result.json"):
        file.unlink()

    found = judged("ray", grid, MAPPING, tmp_path / "again")

    assert found.rows == whole.rows
    assert statuses(tmp_path / "again")["B-seed2"][0] == "diverged"


def test_without_the_experiments_state_the_trials_files_tell_what_they_can(
    grid: Path, tmp_path: Path
) -> None:
    for file in grid.glob(STATES):
        file.unlink()

    judged("ray", grid, MAPPING, tmp_path / "out")

    ends = statuses(tmp_path / "out")
    assert ends["B-seed4"] == ("crashed", "RuntimeError: always")
    assert ends["A-seed0"] == ("completed", None)


def test_a_torn_last_line_is_left_out_and_told(grid: Path, tmp_path: Path) -> None:
    file = trial(grid, "B", 3) / "result.json"
    file.write_bytes(file.read_bytes()[:-200])

    judged("ray", grid, MAPPING, tmp_path / "out")

    assert statuses(tmp_path / "out")["B-seed3"][0] == "stopped"
    assert "the last line of result.json is cut and was left out" in remarks(tmp_path / "out")


def test_what_a_scheduler_stopped_has_no_endpoint_and_is_no_crash(tuned: Path, tmp_path: Path) -> None:
    found = judged("ray", tuned / "asha", MAPPING, tmp_path / "out")

    status, reason = statuses(tmp_path / "out")["A-seed1"]
    assert (status, found.pairs) == ("stopped", 1)
    assert str(reason).startswith("ended at training_iteration 1 of 3, Ray says TERMINATED")
    assert "a scheduler such as ASHA" in remarks(tmp_path / "out")


def test_trials_that_never_started_are_planned(tuned: Path, tmp_path: Path) -> None:
    found = judged("ray", tuned / "interrupted", MAPPING, tmp_path / "out")

    assert (found.planned, found.pairs, sum(found.lost.values())) == (3, 1, 4)
    assert statuses(tmp_path / "out")["B-seed7"] == ("not_run", "Ray says PENDING")


def test_two_experiments_together_have_two_runs_of_a_seed(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="arm 'A' has 2 complete runs with seed 0"):
        judged("ray", [tuned / "grid", tuned / "asha"], MAPPING, tmp_path / "out")


def test_columns_of_the_users_own_named_like_ours_change_nothing(grid: Path, tmp_path: Path) -> None:
    """Every row has trial_id, by Ray, and here `attempt`, by its author."""
    text = (trial(grid, "A", 0) / "result.json").read_text()
    assert '"trial_id"' in text
    assert '"attempt": 3' in text

    assert judged("ray", grid, {**MAPPING, "config": ["config/lr"]}, tmp_path / "out").pairs == 3


def test_a_state_of_ray_before_2_5_tells_the_same(grid: Path, tmp_path: Path) -> None:
    """There the trials are a list of JSON texts named `checkpoints`, no pairs."""
    judged("ray", grid, MAPPING, tmp_path / "out")
    (file,) = grid.glob(STATES)
    state = json.loads(file.read_text())
    state["checkpoints"] = [trial for trial, _ in state.pop("trial_data")]
    file.write_text(json.dumps(state))
    shutil.rmtree(trial(grid, "A", 0))

    judged("ray", grid, MAPPING, tmp_path / "again")

    assert statuses(tmp_path / "again").keys() == statuses(tmp_path / "out").keys()


def test_trials_that_took_over_anothers_settings_are_refused(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"goes from .* to .* within the trial, as under PBT"):
        judged("ray", tuned / "pbt", MAPPING, tmp_path / "out")


@pytest.mark.parametrize("baseline", [None, "null"])
def test_an_arm_is_named_as_yaml_reads_it(tuned: Path, tmp_path: Path, baseline: str | None) -> None:
    mapping = MAPPING | {"analysis": {"baseline": baseline, "primary": "val_loss"}}

    assert judged("ray", tuned / "none", mapping, tmp_path / "out", "true").planned == 1
