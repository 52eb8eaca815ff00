"""What ends a trial from outside, what its death is called, and who may write into its folder."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import attempts, closing, fence
from orchestrator.attempts import Outcome
from orchestrator.child import Job, _explain, run_in_child
from orchestrator.closing import noting_signals
from orchestrator.trial import run_trial
from orchestrator.watch import SUPERSEDED
from tests.fakes import FAKE, STEPS
from tests.fakes import distill as fake
from tests.orchestrator.faults import ROOT, gone, wait_until
from trainables.config import DistillConfig
from trainables.trial_folder import StorageFull

Report = Any


def job(folder: Path, distill: str = "tests.fakes:distill", **changes: Any) -> Job:
    """A trial of the fake; lr 6e-3 makes it wait for ever."""
    folder.mkdir(parents=True, exist_ok=True)
    config = DistillConfig(
        model_name="tiny-llama", dataset="arithmetic", max_steps=STEPS, output_dir=str(folder),
        alignment_mode="flat", lr=changes.pop("lr", 1e-3),
    )  # fmt: skip
    given = Job(
        trial_id="flat-seed0", arm="flat", seed=0, config_hash=config.hash(), config=config.to_dict(),
        folder=str(folder), cpus=1, gpus=0, memory_gib=None, time_limit_s=None, attempts_allowed=2,
        attempts_before=0, experiment="fake", objective=replace(FAKE, distill=distill),
    )  # fmt: skip
    return replace(given, **changes)


def run_it(given: Job) -> Outcome:
    return run_trial(given, lambda row: None)


def ends(folder: Path) -> list[tuple[str | None, str | None]]:
    return [(attempt.status, attempt.reason) for attempt in attempts.read(folder)]


def eat(config: DistillConfig, report: Report, resume_from: str | None = None) -> dict[str, Any]:
    """Use more memory and more, until something stops it."""
    eaten = []
    while True:
        eaten.append(b"x" * 2**24)
        time.sleep(0.02)


def eat_in_a_cage(config: DistillConfig, report: Report, resume_from: str | None = None) -> dict[str, Any]:
    """The same in a control group that its parent folder names."""
    cage = Path(Path(config.output_dir, "..", "cage").read_text())
    (cage / "cgroup.procs").write_text(str(os.getpid()))
    return eat(config, report)


def die_after_the_result(
    config: DistillConfig, report: Report, resume_from: str | None = None
) -> dict[str, Any]:
    """Killed between its result.json and its last word."""
    fake(config, report, resume_from)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hang_with_the_interpreter(
    config: DistillConfig, report: Report, resume_from: str | None = None
) -> dict[str, Any]:
    """Hang in C with the interpreter locked, where no thread of the process can act."""
    Path(config.output_dir, "pid").write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(3600)
    raise AssertionError


def test_a_trial_beyond_its_time_is_ended_recorded_and_tried_again(tmp_path: Path) -> None:
    outcome = run_it(job(tmp_path / "t", lr=6e-3, time_limit_s=0.5))

    assert outcome.status == "timeout"
    assert ends(tmp_path / "t") == [("timeout", "it was not over after resources.time_limit_s, 0.5 s")] * 2
    pids = [json.loads(line)[0] for line in (tmp_path / "t" / "pids.jsonl").read_text().splitlines()]
    assert all(gone(pid) for pid in pids)


def test_a_trial_beyond_its_memory_is_oom_and_not_tried_again_in_this_launch(tmp_path: Path) -> None:
    outcome = run_it(job(tmp_path / "t", "tests.orchestrator.test_limits:eat", memory_gib=0.2))

    assert (outcome.status, outcome.retry) == ("oom", False)
    assert outcome.reason is not None
    assert "resources.memory_gib gives it 0.2" in outcome.reason
    assert len(ends(tmp_path / "t")) == 1


@pytest.fixture
def cage(tmp_path: Path) -> Iterator[Path]:
    """A control group that allows 64 MiB; it needs root and a writable hierarchy."""
    for root, limit in (("memory", "memory.limit_in_bytes"), ("unified", "memory.max"), ("", "memory.max")):
        cage = Path("/sys/fs/cgroup", root, f"kvtune-test-{os.getpid()}")
        try:
            cage.mkdir()
        except OSError:
            continue
        try:
            (cage / limit).write_text(str(2**26))
            (tmp_path / "cage").write_text(str(cage))
            yield cage
            return
        except OSError:
            continue
        finally:
            wait_until(lambda cage=cage: not (cage / "cgroup.procs").read_text().split())
            cage.rmdir()
    pytest.skip("no control group for memory can be made here: it needs root and a writable /sys/fs/cgroup")


def test_a_trial_that_the_kernel_ends_for_memory_is_oom(tmp_path: Path, cage: Path) -> None:
    given = job(tmp_path / "t", "tests.orchestrator.test_limits:eat_in_a_cage", attempts_allowed=1)

    assert run_it(given) == Outcome("oom", "the kernel ended its process: memory had run out", retry=True)


@pytest.mark.parametrize(
    ("error", "status", "needs"),
    [
        (MemoryError(), "oom", 0),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom", 0),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), "oom", 0),
        (OSError(errno.ENOSPC, "No space left on device"), "crashed", 2**20),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "crashed", 2**20),
        (StorageFull("checkpoint-2 needs more", 5_000_000), "crashed", 5_000_000),
        (RuntimeError("no memory of it"), "crashed", 0),
    ],
)
def test_a_death_is_called_by_its_cause(error: Exception, status: str, needs: int) -> None:
    try:
        raise error
    except Exception as raised:
        outcome = _explain(raised)

    assert (outcome.status, outcome.needs_bytes, outcome.retry) == (status, needs, True)


def test_a_trial_killed_after_its_result_is_finished_and_not_run_again(tmp_path: Path) -> None:
    outcome = run_it(job(tmp_path / "t", "tests.orchestrator.test_limits:die_after_the_result"))

    assert outcome.status == "completed"
    assert ends(tmp_path / "t") == [("completed", None)]


def test_a_preempted_attempt_uses_up_none_of_those_allowed(tmp_path: Path) -> None:
    given = job(tmp_path / "t", attempts_allowed=1)
    for status in ("preempted", "preempted"):
        attempts.end(tmp_path / "t", attempts.start(tmp_path / "t", None), status, "its node was taken away")

    assert run_it(given).status == "completed"
    assert [status for status, _ in ends(tmp_path / "t")] == ["preempted", "preempted", "completed"]


def test_an_attempt_that_is_no_longer_the_newest_is_ended_and_leaves_the_record_alone(tmp_path: Path) -> None:
    given = job(tmp_path / "t", lr=6e-3)
    ours: list[int] = []

    def on_row(row: dict[str, Any]) -> None:
        ours.append(attempts.read(tmp_path / "t")[-1].number)
        attempts.start(tmp_path / "t", None, node="another")

    outcome = run_trial(given, on_row)

    assert (outcome.status, outcome.reason, outcome.retry) == ("crashed", SUPERSEDED, False)
    assert ours == [1]
    assert [status for status, _ in ends(tmp_path / "t")] == ["crashed", None], "the other one goes on"


def test_an_attempt_is_current_until_a_newer_one_starts_or_somebody_ends_it(tmp_path: Path) -> None:
    first = attempts.start(tmp_path, None)
    assert attempts.is_current(tmp_path, first)

    second = attempts.start(tmp_path, None)
    assert not attempts.is_current(tmp_path, first)

    attempts.end(tmp_path, second, "cancelled", "the run was ended")
    assert not attempts.is_current(tmp_path, second)
    assert not attempts.is_current(tmp_path / "set aside", second)


def test_two_hosts_that_number_their_attempts_alike_do_not_both_go_on(tmp_path: Path) -> None:
    number = attempts.start(tmp_path, None)
    line = {"event": "start", "attempt": number, "at": attempts.now(), "host": "another", "pid": os.getpid()}
    with (tmp_path / attempts.FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")

    assert not attempts.is_current(tmp_path, number)


def test_a_trial_waits_until_the_earlier_process_lets_its_folder_go(tmp_path: Path) -> None:
    given = job(tmp_path / "t", attempts_allowed=1)
    held = fence.hold(tmp_path / "t" / "output.log", 0)
    assert held is not None
    assert fence.hold(tmp_path / "t" / "output.log", 0.1) is None
    assert not fence.wait_until_free(tmp_path / "t" / "output.log", 0.1)
    seen: list[bool] = []

    def wanted() -> bool:
        if not seen:
            seen.append((tmp_path / "t" / "metrics.jsonl").exists())
            os.close(held)
        return True

    outcome = run_in_child(given, lambda row: None, wanted)

    assert seen == [False], "nothing was written while another held the folder"
    assert outcome.status == "completed"


DRIVER = """
import sys
from pathlib import Path
from tests.orchestrator.test_limits import job, run_it
run_it(job(Path(sys.argv[1]), "tests.orchestrator.test_limits:hang_with_the_interpreter"))
"""


def test_a_trial_that_hangs_with_the_interpreter_locked_ends_with_its_worker(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "t")], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    wait_until(lambda: (tmp_path / "t" / "pid").exists() and (tmp_path / "t" / "pid").read_text())
    trial = int((tmp_path / "t" / "pid").read_text())
    worker.kill()
    worker.wait()

    wait_until(lambda: gone(trial))


def test_a_signal_ends_a_run_the_next_lets_it_close_and_another_insists() -> None:
    with noting_signals() as ending:
        assert not ending
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        ending.arrived()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGHUP)

    assert ending


def test_a_signal_that_comes_while_a_run_closes_its_records_lets_it_and_is_noted() -> None:
    with noting_signals() as ending:
        ending.closing()
        assert not ending
        os.kill(os.getpid(), signal.SIGTERM)

    assert ending


def test_a_run_that_missed_its_end_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "AGAIN_S", 0.05)
    with noting_signals() as ending:
        with pytest.raises(KeyboardInterrupt):  # as if code that must not raise had swallowed it
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)
        ending.arrived()
        time.sleep(0.2)

    assert ending


def test_what_was_under_way_when_the_user_ended_the_run_is_cancelled_and_what_had_failed_stays_failed(
    tmp_path: Path,
) -> None:
    given = {name: job(tmp_path / name) for name in ("open", "failed", "terminated", "never")}
    attempts.start(tmp_path / "open", None)
    attempts.end(tmp_path / "failed", attempts.start(tmp_path / "failed", None), "crashed", "boom")
    said = "its process was killed by SIGTERM"
    attempts.end(tmp_path / "terminated", attempts.start(tmp_path / "terminated", None), "crashed", said)

    closing.close(list(given.values()), interrupted=True)

    assert {name: ends(tmp_path / name)[-1:] for name in given} == {
        "open": [("cancelled", "the run was ended")],
        "failed": [("crashed", "boom")],
        "terminated": [("cancelled", "the run was ended")],
        "never": [],
    }


def test_how_a_lost_worker_ended_follows_from_what_ray_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator import losses

    monkeypatch.setattr(losses, "_leaving", lambda: {"drained"})

    assert losses._why("... the actor's node was preempted: spot", "a")[0] == "preempted"
    assert losses._why("The actor is unavailable", "drained")[0] == "preempted"
    assert losses._why("1 worker(s) were killed due to the node running low on memory", "a")[0] == "oom"
    assert losses._why("The actor died unexpectedly", "a") == (
        "crashed", f"{attempts.NO_WORD}: The actor died unexpectedly",
    )  # fmt: skip
    assert losses._why("", None) == ("crashed", attempts.NO_WORD)


def test_a_ray_that_keeps_its_actor_manager_elsewhere_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ray.air.execution._internal import actor_manager

    from orchestrator import losses

    handle = actor_manager.RayActorManager._actor_task_failed
    with losses.outlived():
        assert actor_manager.RayActorManager._actor_task_failed is not handle
    monkeypatch.setitem(sys.modules, actor_manager.__name__, None)
    with losses.outlived():
        assert actor_manager.RayActorManager._actor_task_failed is handle

    assert "memory monitor" in caplog.text
