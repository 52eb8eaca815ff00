"""Every JSON file of an experiment's folder, broken in every way: a line or a finding, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis.records import load
from analysis.results import analyse
from orchestrator import cli, launch, trial
from tests.fakes import FAKE, experiment
from tests.orchestrator.malformed import JSON_FILES, JSON_KINDS
from tests.orchestrator.test_record import curves, run_here
from tests.orchestrator.test_run import run_serially


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run wrote, and the numbers of its report."""
    folder = run_serially(tmp_path_factory.mktemp("finished"), trackers=["tensorboard"]).folder
    (folder / "report").mkdir()
    (folder / "report" / "results.json").write_text(json.dumps(analyse(load(folder)).to_dict()))
    return folder


def read_report(folder: str) -> SimpleNamespace:
    load(folder)
    return SimpleNamespace(exit_code_for=lambda fail_on: 0)


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, whose trials run without processes and whose report is read and not drawn."""
    monkeypatch.setattr(trial, "run_in_child", run_here)
    monkeypatch.setattr(launch, "Objective", lambda: FAKE)
    monkeypatch.setattr(cli, "_report", read_report)
    monkeypatch.setattr(cli, "_print_report", lambda found, console: None)
    return Path(shutil.copytree(finished, tmp_path / "fake"))


def breakages() -> list[tuple[str, str]]:
    special = ["a folder", "a pipe", "gigabytes"]
    return [(name, kind) for name in JSON_FILES for kind in [*JSON_KINDS, *special]]


def make(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "gigabytes":
        path.touch()
        os.truncate(path, 5 * 2**30)
    else:
        path.write_bytes(JSON_KINDS[kind])


def call(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Its exit code and what it said; whatever Python raises is the test's to fail by."""
    capfd.readouterr()
    code = cli.main(list(arguments))
    return code, capfd.readouterr().err.splitlines()


@pytest.mark.parametrize(("name", "kind"), breakages())
def test_a_broken_json_file_is_one_line_or_a_finding_and_what_was_computed_stays(
    folder: Path, capfd: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    before = curves(folder)
    make(next(folder.glob(name)), kind)
    x = folder.parent / "x.yaml"
    x.write_text(json.dumps(experiment(trackers=["tensorboard"])))

    for command in (
        ("status", str(folder)),
        *([] if "trials/" in name else [("report", str(folder))]),
        ("run", str(x), "--storage", str(folder.parent), "--address", "serial"),
    ):
        code, said = call(capfd, *command)

        assert code in (0, 2), (command, said)
        if code == 2:
            errors = [line for line in said if "error: " in line]
            assert len(errors) == 1, (command, said)
            assert Path(name).name in errors[0]
            assert len(errors[0]) < 2000

    healed = {} if name == "plan.json" and code == 2 else curves(folder)
    assert healed in ({}, before), "a trial whose file was broken was computed anew, to the same bits"


def test_a_provenance_that_nobody_can_read_is_kept_beside_the_new_one(folder: Path) -> None:
    (folder / "provenance.json").write_bytes(b"[" * 9)

    run_serially(folder.parent, trackers=["tensorboard"])

    assert json.loads((folder / "provenance.json").read_text())["earlier_launches"] == []
    assert (folder / "provenance.json.corrupt-1").read_bytes() == b"[" * 9
