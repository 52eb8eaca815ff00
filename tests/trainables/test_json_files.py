"""The one reader of JSON files: whatever lies there, an object or one error that says what is wrong."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from trainables.json_files import CorruptFile, content, read_lines, read_object


class Named(TypedDict):
    step: int


UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "open": b'{"step": 1',
    "deep": b"[" * 100_000,
    "deep and closed": b"[" * 300 + b"]" * 300,
    "a number beyond all": b'{"step": 1e400}',
    "a number of 5,000 digits": b'{"step": ' + b"9" * 5000 + b"}",
    "a list": b"[1]",
    "a number": b"3",
    "null": b"null",
    "not UTF-8": b'{"step": "\xff"}',
    "half of a pair": b'{"step": "\\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"step": 1}',
    "zero bytes": bytes(64),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_json_object_is_one_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(UNREADABLE[name])

    with pytest.raises(CorruptFile, match="cannot be read") as caught:
        read_object(path)

    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("restore it from a copy, or delete it.")
    assert len(str(caught.value).splitlines()) == 1


def folder(path: Path) -> None:
    path.mkdir()


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def gigabytes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 * 2**30)


@pytest.mark.parametrize("make", [folder, os.mkfifo, endless, gigabytes])
def test_a_folder_a_pipe_a_device_and_gigabytes_are_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "x.json")

    with pytest.raises(CorruptFile, match=r"x\.json (is no file|cannot be read)"):
        read_object(tmp_path / "x.json")


def test_a_file_that_is_not_there_is_no_corrupt_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "x.json")
    assert list(read_lines(tmp_path / "x.jsonl", TypeAdapter(Named))) == []


def test_a_wrong_type_is_named_by_its_field_with_what_was_given(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"step": "x"}')

    with pytest.raises(CorruptFile, match=r"step must be a valid integer.*, got 'x'"):
        read_object(path, TypeAdapter(Named))


def test_of_a_name_given_twice_the_last_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"step": 1, "step": 2}')

    assert read_object(path) == {"step": 2}


def test_a_bad_line_is_named_by_its_number_and_a_torn_last_one_is_left_out(tmp_path: Path) -> None:
    path, kind = tmp_path / "x.jsonl", TypeAdapter(Named)
    path.write_bytes(b'{"step": 1}\n{"st')
    assert list(read_lines(path, kind)) == [{"step": 1}]

    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(CorruptFile, match="line 2"):
        list(read_lines(path, kind))


def test_the_error_can_be_sent_between_processes(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(CorruptFile) as caught:
        content(tmp_path / "x")

    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
