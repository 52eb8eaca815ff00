"""attempts.jsonl: what was started, and how it ended, whatever became of the writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import attempts
from trainables.json_files import CorruptFile


def test_attempts_are_numbered_and_keep_their_end(tmp_path: Path) -> None:
    first = attempts.start(tmp_path, "rev")
    attempts.end(tmp_path, first, "crashed", "boom")
    second = attempts.start(tmp_path, "rev")

    known = attempts.read(tmp_path)
    assert [attempt.number for attempt in known] == [1, 2] == [first, second]
    assert [(attempt.status, attempt.reason) for attempt in known] == [("crashed", "boom"), (None, None)]


def test_an_attempt_whose_end_nobody_saw_is_closed_as_crashed_by_the_next(tmp_path: Path) -> None:
    attempts.start(tmp_path, None)
    attempts.start(tmp_path, None)

    assert [attempt.status for attempt in attempts.read(tmp_path)] == ["crashed", None]


def test_a_torn_line_of_a_killed_writer_costs_that_line_only(tmp_path: Path) -> None:
    attempts.start(tmp_path, None)
    with (tmp_path / attempts.FILE).open("a") as file:
        file.write('{"event": "end", "att')

    attempts.end(tmp_path, 1, "completed", None)

    assert [attempt.status for attempt in attempts.read(tmp_path)] == ["completed"]


def test_a_folder_without_attempts_has_none(tmp_path: Path) -> None:
    assert attempts.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "start", "attempt": 1e400, "at": ""}', '{"event": "end", "attempt": {}, "at": ""}',
        '{"event": "start", "attempt": 99999999999999999999, "at": ""}', "[" * 100_000, "[1]", "3",
        '{"event": "start", "attempt": 7, "at": "", "node": []}', '{"event": [], "attempt": 7, "at": ""}',
    ],
)  # fmt: skip
def test_a_line_that_no_worker_wrote_costs_that_line_only(tmp_path: Path, line: str) -> None:
    attempts.start(tmp_path, None)
    with (tmp_path / attempts.FILE).open("a") as file:
        file.write(f"{line}\n")

    assert attempts.start(tmp_path, None) == 2


def test_a_reason_that_is_no_text_can_be_read_again(tmp_path: Path) -> None:
    attempts.end(tmp_path, attempts.start(tmp_path, None), "crashed", "no file caf\udce9")

    assert [attempt.reason for attempt in attempts.read(tmp_path)] == ["no file caf?"]


def test_attempts_that_cannot_be_read_are_none_to_who_counts_and_an_error_to_who_asks(tmp_path: Path) -> None:
    (tmp_path / attempts.FILE).mkdir()

    assert attempts.read(tmp_path) == []
    assert attempts.is_current(tmp_path, 1), "nobody can tell"
    with pytest.raises(CorruptFile, match=r"attempts\.jsonl is no file"):
        attempts.known(tmp_path)
