"""attempts.jsonl: what was started, and how it ended, whatever became of the writer."""

from __future__ import annotations

from pathlib import Path

from orchestrator import attempts


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
