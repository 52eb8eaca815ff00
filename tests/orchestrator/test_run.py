"""A run without Ray: what is started, what is recorded, what a second launch does."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator import attempts, launch
from orchestrator.child import Job
from orchestrator.launch import Summary, run
from orchestrator.plan import forecast
from orchestrator.spec import spec_from
from tests.fakes import FAKE, PACED, STEPS, experiment
from tests.orchestrator.faults import gone, wait_until
from trainables.config import InputError

FLAT = {"alignment_mode": "flat"}


def run_serially(place: Path, *, yes: bool = False, **changes: Any) -> Summary:
    spec = spec_from(experiment(**changes), "test")
    return run(spec, storage=place, address="serial", objective=FAKE, yes=yes)


def arms(**rates: float) -> dict[str, Any]:
    """Changes that give each arm a learning rate, and so a fate of the fake."""
    return {
        "arms": {name: {**FLAT, "lr": rate} for name, rate in rates.items()},
        "analysis": {"baseline": next(iter(rates))},
    }


def table(summary: Summary, name: str = "runs") -> pd.DataFrame:
    return pd.read_parquet(summary.folder / f"{name}.parquet")


def pids(summary: Summary) -> list[list[Any]]:
    lines = [path.read_text().splitlines() for path in sorted(summary.folder.glob("trials/*/pids.jsonl"))]
    return [json.loads(line) for trial in lines for line in trial]


def test_every_planned_trial_gets_its_row_and_its_curve(place: Path) -> None:
    summary = run_serially(place)

    runs, metrics, items = table(summary), table(summary, "metrics"), table(summary, "items")
    assert summary.exit_code == 0
    assert list(zip(runs["arm"], runs["seed"], strict=True)) == [
        ("flat", 0), ("structured", 0), ("flat", 1), ("structured", 1),
    ]  # fmt: skip
    assert set(runs["status"]) == {"completed"}
    assert set(runs["factor.alignment_mode"]) == {'"flat"', '"structured"'}
    assert runs["seed"].dtype == "int64"
    assert len(metrics) == 4 * (3 * STEPS + 2)
    assert (metrics.loc[metrics["metric"] == "grad_norm", "value"] == float("inf")).all()
    assert len(items) == 4 * 4


def test_finished_trials_of_a_grid_whose_folders_an_earlier_version_named_are_not_run_again(
    place: Path,
) -> None:
    grid = {"grid": {"target_len": [2, 4]}}
    first = run_serially(place, **grid)
    text = (first.folder / "plan.json").read_text()
    for path in list((first.folder / "trials").iterdir()):
        before = re.sub(r"-target_len-\d", "", path.name)
        assert before != path.name, "the folder tells the point of the grid"
        path.rename(path.with_name(before))
        text = text.replace(path.name, before)
    (first.folder / "plan.json").write_text(text)

    again, more = run_serially(place, **grid), run_serially(place, seeds=[0, 1, 2], **grid)

    assert (again.started, again.exit_code, again.counts["completed"]) == (0, 0, 8)
    assert (more.started, more.exit_code, more.counts["completed"]) == (4, 0, 12)


def test_a_teacher_is_made_ready_for_every_arms_rows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("tests.fakes.ready", lambda config, progress: asked.append(config.drop_last_step))

    run_serially(place, arms={"flat": FLAT, "short": {**FLAT, "drop_last_step": True}}, seeds=[0])

    assert asked == [False, True]


def test_every_trial_has_a_process_of_its_own_and_inherits_nothing(place: Path) -> None:
    summary = run_serially(place)

    seen = pids(summary)
    assert len({entry[0] for entry in seen}) == 4
    assert all(len(entry) == 3 for entry in seen), "a second pid in one entry is state of an earlier trial"
    assert {Path(entry[-1]).parent for entry in seen} == {summary.folder / "trials"}


def test_a_finished_trial_never_runs_again(place: Path) -> None:
    before = pids(run_serially(place))
    again = run_serially(place)

    assert again.started == 0
    assert pids(again) == before
    assert set(table(again)["attempt"]) == {1}


def test_more_seeds_run_only_themselves(place: Path) -> None:
    before = pids(run_serially(place))
    more = run_serially(place, seeds=[0, 1, 2])

    assert more.started == 2
    assert len(table(more)) == 6
    assert [entry for entry in pids(more) if entry in before] == sorted(before, key=pids(more).index)


def test_an_edited_arm_runs_only_what_the_edit_changes(place: Path) -> None:
    run_serially(place)
    edited = {"flat": FLAT, "structured": {"alignment_mode": "structured", "target_len": 4}}
    summary = run_serially(place, yes=True, arms=edited)

    assert summary.started == 2
    assert len(list((summary.folder / "trials").iterdir())) == 6, "the earlier trials are kept"
    assert len(table(summary)) == 4


def test_a_crashing_arm_fails_alone_and_every_attempt_is_counted(place: Path) -> None:
    summary = run_serially(place, **arms(good=1e-3, bad=3e-3))

    runs = table(summary)
    bad = runs[runs["arm"] == "bad"]
    assert summary.exit_code == 1
    assert summary.counts == {"completed": 2, "crashed": 2}
    assert list(bad["attempt"]) == [1, 2, 1, 2], "one attempt and one forgiven failure each"
    assert all("RuntimeError: boom at step 1 (fakes.py:" in reason for reason in bad["failure_reason"])
    assert set(runs.loc[runs["arm"] == "good", "attempt"]) == {1}


def test_a_trial_that_recovers_has_a_result_and_its_failure_is_shown(place: Path) -> None:
    summary = run_serially(place, **arms(good=1e-3, shaky=5e-3))

    runs = table(summary)
    assert summary.exit_code == 0
    assert list(runs.loc[runs["arm"] == "shaky", "status"]) == ["crashed", "completed"] * 2
    last = table(summary, "metrics").query("trial_id.str.startswith('shaky')")
    assert set(last["attempt"]) == {2}
    assert not last.duplicated(["trial_id", "step", "split", "metric"]).any()


def test_a_trial_that_dies_before_its_first_report_has_its_row(place: Path) -> None:
    summary = run_serially(place, **arms(good=1e-3, dead=4e-3))

    dead = table(summary).query("arm == 'dead'")
    assert len(dead) == 4
    assert set(dead["status"]) == {"crashed"}
    assert all("SIGSEGV" in reason for reason in dead["failure_reason"])
    assert "Segmentation fault" in next(summary.folder.glob("trials/dead-seed0-*/output.log")).read_text()


def test_a_diverged_trial_is_a_result_and_is_never_tried_again(place: Path) -> None:
    first = run_serially(place, **arms(good=1e-3, wild=2e-3))
    again = run_serially(place, **arms(good=1e-3, wild=2e-3))

    wild = table(again).query("arm == 'wild'")
    assert first.exit_code == again.exit_code == 0
    assert again.started == 0
    assert list(wild["status"]) == ["diverged", "diverged"]
    assert list(wild["first_nonfinite_step"]) == [2, 2]
    assert set(wild["attempt"]) == {1}
    values = table(again, "metrics").query(
        "trial_id.str.startswith('wild') and metric == 'loss' and step == 2"
    )
    assert values["value"].isna().all()


def test_bad_input_that_only_a_trial_finds_is_not_tried_again_in_vain(place: Path) -> None:
    runs = table(run_serially(place, **arms(good=1e-3, refused=7e-3)))

    assert list(runs.loc[runs["arm"] == "refused", "attempt"]) == [1, 1]


def test_a_failed_trial_is_tried_again_by_the_next_launch_with_fresh_attempts(place: Path) -> None:
    run_serially(place, **arms(good=1e-3, bad=3e-3))
    again = run_serially(place, **arms(good=1e-3, bad=3e-3))

    assert again.started == 2
    assert list(table(again).query("arm == 'bad' and seed == 0")["attempt"]) == [1, 2, 3, 4]


def test_a_torn_result_counts_as_a_crash_with_its_reason(place: Path) -> None:
    summary = run_serially(place, **arms(good=1e-3, torn=8e-3))

    torn = table(summary).query("arm == 'torn'")
    assert set(torn["status"]) == {"crashed"}
    assert all("result.json cannot be read" in reason for reason in torn["failure_reason"])


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "predictions.jsonl"])
def test_a_corrupt_file_stops_nothing_and_its_trial_runs_afresh_beside_it(place: Path, name: str) -> None:
    summary = run_serially(place)
    victim = next(summary.folder.glob("trials/flat-seed0-*"))
    (victim / name).write_bytes(b"\xff{not json\n" * 3)

    again = run_serially(place)

    assert again.started == 1
    assert again.exit_code == 0
    assert (victim.with_name(f"{victim.name}.corrupt-1") / name).read_bytes().startswith(b"\xff")


def test_the_folder_of_another_experiment_is_refused_before_anything_runs(place: Path) -> None:
    run_serially(place)

    with pytest.raises(InputError, match="another experiment"):
        run_serially(place, **arms(one=1e-3, two=2e-3))


def test_a_folder_with_other_files_is_refused(place: Path) -> None:
    (place / "fake").mkdir()
    (place / "fake" / "thesis.tex").touch()

    with pytest.raises(InputError, match="holds files and no experiment"):
        run_serially(place)


def test_a_plan_that_a_full_storage_or_a_kill_cut_short_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        (place / "fake" / "plan.json.part").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.launch.write_text", full)
        with pytest.raises(InputError, match="No space left on device"):
            run_serially(place)

    assert run_serially(place).exit_code == 0


def test_a_storage_without_locks_and_a_folder_that_is_deleted_meanwhile_are_no_tracebacks(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("orchestrator.launch.fcntl.flock", no_locks)
    assert run_serially(place).exit_code == 0

    real = launch.closing.close

    def deleted(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        shutil.rmtree(place / "fake")

    monkeypatch.setattr("orchestrator.launch.closing.close", deleted)
    summary = run_serially(place, seeds=[5], yes=True)

    assert summary.exit_code == 1
    assert {trial.status for trial in summary.trials} == {"not_run"}
    assert "could not be written" in str(summary.lack)


def test_a_preflight_that_fails_starts_nothing_and_names_the_arm(place: Path) -> None:
    refusing = replace(FAKE, check="tests.fakes:refuse")

    with pytest.raises(InputError, match=r"arm 'flat': --train_file nowhere\.jsonl"):
        run(spec_from(experiment(), "test"), storage=place, address="serial", objective=refusing)

    assert not (place / "fake").exists()


def test_what_was_left_out_of_the_data_is_told_once_whatever_the_arms(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVTUNE_CACHE", str(place / "cache"))
    lines = [f"{i}+{i}?||{f'<<{i}+{i}={2 * i}>>' * (i > 2)} #### {2 * i}\n" for i in range(99)]
    (place / "aug.txt").write_text("".join(lines))
    base = {
        "model_name": "tiny-llama",
        "dataset": "gsm8k",
        "train_file": str(place / "aug.txt"),
        "target_len": 2,
    }
    spec = spec_from(experiment(base={**base, "eval_size": 5, "max_steps": 2}), "test")
    checked = replace(PACED, check="trainables.preflight:check")

    run(spec, storage=place, address="serial", objective=checked)
    by_run = capsys.readouterr().err
    forecast(spec, storage=place / "other", address="serial", objective=checked)

    told = f"3 of 99 rows of --train_file {place / 'aug.txt'} left out: 3 no equation"
    assert (by_run.count(told), capsys.readouterr().err.count(told)) == (1, 1)


def test_a_trial_larger_than_the_machine_is_refused_by_the_resource_it_lacks(place: Path) -> None:
    with pytest.raises(InputError, match=r"resources\.cpus: a trial needs 4096 CPUs"):
        run_serially(place, resources={"cpus": 4096})


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_is_at_work(place: Path) -> None:
    waiting = start_waiting_run(place)
    try:
        with pytest.raises(InputError, match="another run is at work"):
            run_serially(place, **arms(waits=6e-3, good=1e-3))
    finally:
        (place / "fake" / "trials" / "go").touch()
        waiting.wait(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ended_run_keeps_what_it_has_and_goes_on_later(place: Path, number: int) -> None:
    waiting = start_waiting_run(place)
    waiting.send_signal(number)

    assert waiting.wait(timeout=60) == 130
    ended = pd.read_parquet(place / "fake" / "runs.parquet")
    assert list(ended["status"]) == ["cancelled", "not_run", "not_run", "not_run"]
    (place / "fake" / "trials" / "go").touch()
    again = run_serially(place, **arms(waits=6e-3, good=1e-3))
    assert again.started == 4
    assert again.exit_code == 0


def test_a_worker_that_outlives_its_trial_finds_the_run_cancelled_and_starts_nothing_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []
    jobs: list[Job] = []

    class Interrupted:
        def ask(self, function: object, given: Sequence[Job], over: object) -> None:
            jobs.extend(given)
            for job in jobs:
                Path(job.folder).mkdir(parents=True)
                attempts.start(Path(job.folder), None)
            raise KeyboardInterrupt

        def end(self) -> None:
            told.extend(attempts.read(Path(job.folder))[-1].status for job in jobs)

    monkeypatch.setattr(launch, "driving", lambda *arguments: nullcontext(Interrupted()))

    summary = run(spec_from(experiment(), "test"), storage=place, objective=FAKE)

    assert told == ["cancelled"] * 4, "before Ray ends anything"
    assert summary.exit_code == 130


def test_a_trial_ends_with_its_driver(place: Path) -> None:
    waiting = start_waiting_run(place)
    trial = pids(Summary(place / "fake", [], 0))[0][0]
    waiting.kill()
    waiting.wait()

    wait_until(lambda: gone(trial), seconds=60)


def test_provenance_tells_of_every_launch_and_no_secret(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["kvtune", "run", "--address", "http://me:hunter2@host", "hf_token=hunter2"]
    )
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    run_serially(place)
    summary = run_serially(place, seeds=[0, 1, 2])

    told = json.loads((summary.folder / "provenance.json").read_text())
    assert len(told["earlier_launches"]) == 1
    assert told["versions"]["torch"]
    assert told["finished_at"]
    assert "hunter2" not in json.dumps(told)


DRIVER = """
import sys
from orchestrator.launch import run
from orchestrator.spec import spec_from
from tests.fakes import FAKE, experiment
from tests.orchestrator.test_run import arms
spec = spec_from(experiment(**arms(waits=6e-3, good=1e-3)), "test")
sys.exit(run(spec, storage=sys.argv[1], address="serial", objective=FAKE).exit_code)
"""


def start_waiting_run(place: Path) -> subprocess.Popen[bytes]:
    """A run in a process of its own whose first trial has reported and waits."""
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(place)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    wait_until(lambda: any(path.stat().st_size for path in place.glob("fake/trials/*/metrics.jsonl")), 60)
    return process
