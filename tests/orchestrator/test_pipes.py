"""Readers who leave early, as `kvtune report | head` has one: real pipes with nobody at their end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import attempts
from orchestrator.cli import main
from orchestrator.spec import spec_from
from orchestrator.trials import make_plan
from tests.fakes import experiment, write_experiment
from tests.orchestrator.test_cli import lab_runs

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (
    "import sys\nfrom orchestrator import cli, launch\nfrom tests.fakes import FAKE\n"
    "launch.Objective = lambda: FAKE\nsys.exit(cli.main(sys.argv[1:]))\n"
)


def unread(
    *arguments: str, program: str = PROGRAM, streams: tuple[str, ...] = ("stdout",)
) -> tuple[int, str]:
    """Exit code, and stderr where that is read, of a command of whose pipe nobody reads a byte."""
    reader, writer = os.pipe()
    os.close(reader)
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, check=False, timeout=120,
        **{**pipes, **dict.fromkeys(streams, writer)},
    )  # fmt: skip
    os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with an INFERIOR verdict, and a plan of which nothing has run."""
    place = tmp_path_factory.mktemp("lab")
    main(lab_runs(place, effect=0.5))
    return str(place / "out")


@pytest.mark.parametrize("flags", [(), ("--json",), ("--fail-on", "inferior")])
def test_a_report_that_nobody_reads_ends_as_sigpipe_would_and_never_with_a_verdicts_code(
    folder: str, flags: tuple[str, ...]
) -> None:
    assert unread("report", folder, *flags) == (141, "")


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("status", "FOLDER", "--json")])
def test_whatever_prints_to_nobody_ends_so_without_a_traceback(
    place: Path, arguments: tuple[str, ...]
) -> None:
    follow = planned(place)

    assert unread(*(follow if word == "FOLDER" else word for word in arguments)) == (141, "")


def planned(place: Path) -> str:
    """The folder of an experiment with one trial that crashed, and others that wait."""
    plan = make_plan(spec_from(experiment(), "test"))
    trial = place / "trials" / plan.cells[0].trial_id
    trial.mkdir(parents=True)
    (place / "plan.json").write_text(json.dumps(plan.to_dict()))
    attempts.end(trial, attempts.start(trial, None), "crashed", "x")
    return str(place)


def test_a_run_whose_reader_leaves_is_run_to_its_end_and_its_records_are_closed(place: Path) -> None:
    options = ["run", str(write_experiment(place)), "--storage", str(place), "--address", "serial", "--json"]

    code, said = unread(*options)

    assert code == 141
    assert "Traceback" not in said
    assert len(list(place.glob("fake/trials/*/result.json"))) == 4
    assert (place / "fake" / "report" / "report.html").is_file()


def test_messages_that_nobody_reads_do_not_end_a_run(place: Path) -> None:
    options = ["run", str(write_experiment(place)), "--storage", str(place), "--address", "serial"]

    assert unread(*options, streams=("stderr",)) == (0, "")


def test_an_error_that_nobody_reads_is_no_verdict() -> None:
    assert unread("report", "/nowhere", streams=("stdout", "stderr"))[0] == 141


def test_a_training_whose_log_nobody_reads_ends_at_its_first_line(tmp_path: Path) -> None:
    program = "import sys\nfrom trainables.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    flags = {
        "model_name": "tiny-llama", "teacher_name": "tiny-teacher", "dataset": "arithmetic",
        "max_steps": 1000, "subset_size": 16, "batch_size": 4, "eval_size": 4,
        "logging_steps": 1, "output_dir": tmp_path / "t",
    }  # fmt: skip

    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]

    assert unread(*words, program=program) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_told_once_and_is_bad_input(place: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "status", planned(place)],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in done.stderr


def test_a_command_without_a_stdout_at_all_does_its_work(place: Path) -> None:
    for words in ("--help", f"status {planned(place)}"):
        line = f'"{sys.executable}" -m orchestrator {words} >&-'
        done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)

        assert (done.returncode, done.stderr) == (0, "")
