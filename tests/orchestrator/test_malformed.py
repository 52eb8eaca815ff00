"""Malformed experiments and command lines: one clear line, exit code 2, no traceback, and nothing started."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from orchestrator import cli, launch, plan, probe, trial
from orchestrator.child import Objective
from tests.orchestrator.malformed import Case, all_cases

ROOT = Path(__file__).resolve().parents[2]
CASES = all_cases()
LONGEST = 2000
"""Characters of an error line that a terminal still shows."""
SPARE = 2**30
"""Bytes that a malformed input may make kvtune take."""
SAMPLE = CASES[:: len(CASES) // 7]


def test_there_are_at_least_two_hundred() -> None:
    assert len(CASES) >= 200


def arrange(case: Case, place: Path) -> list[str]:
    """The case's files, and its arguments with the folder filled in."""
    for name, content in case.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content.replace(b"PLACE", str(place).encode()))
    for name, target in case.links.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(target)
    swaps = {"PLACE": str(place), "STORE": str(place / "store")}
    return [word.replace("PLACE", swaps["PLACE"]).replace("STORE", swaps["STORE"]) for word in case.arguments]


def everything(place: Path) -> list[tuple[str, bytes | None]]:
    """All files below, with their bytes."""
    return sorted(
        (
            str(path.relative_to(place)),
            path.read_bytes() if path.is_file() and not path.is_symlink() else None,
        )
        for path in place.rglob("*")
    )


def started(*arguments: object, **options: object) -> NoReturn:
    raise AssertionError("something was started")


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever would start Ray, a process, a model or a teacher fails the test instead."""
    real = Objective(prepare="tests.orchestrator.test_malformed:started")
    for module in (launch, plan):
        monkeypatch.setattr(module, "driving", started)
        monkeypatch.setattr(module, "Objective", lambda: real)
    for module in (trial, probe):
        monkeypatch.setattr(module, "run_in_child", started)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + SPARE, hard))  # a trap may not take the machine along
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def check(case: Case, code: int, out: str, err: str) -> None:
    lines = err.splitlines()
    assert code == 2, (case.name, code, out, err)
    assert len(lines) == 1, (case.name, err)
    assert "error: " in lines[0]
    assert len(lines[0]) <= LONGEST, case.name
    assert lines[0].isprintable(), (case.name, err)
    assert "Traceback" not in out + err
    assert out == "", (case.name, out)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.encode("ascii", "replace").decode())
@pytest.mark.usefixtures("guarded")
def test_malformed_input_is_one_line_and_starts_nothing(
    case: Case, place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "here").mkdir()
    monkeypatch.chdir(place / "here")
    arguments = arrange(case, place)
    before = everything(place)

    code = cli.main(arguments)

    check(case, code, *capfd.readouterr())
    assert everything(place) == before, "nothing is made, changed or removed"


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name.encode("ascii", "replace").decode())
def test_the_same_holds_of_real_processes(case: Case, place: Path) -> None:
    arguments = [word.replace("\0", "") for word in arrange(case, place)]
    before = everything(place)

    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments], cwd=place, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False,
    )  # fmt: skip

    check(case, done.returncode, done.stdout, done.stderr)
    assert everything(place) == before
