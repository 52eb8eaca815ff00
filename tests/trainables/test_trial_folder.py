"""What a kill, a damaged byte or a full storage leaves of a trial's folder."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from trainables.config import DistillConfig
from trainables.trial_folder import StorageFull, TrialFolder, is_intact, write_text


def made(folder: TrialFolder, *steps: int) -> None:
    for step in steps:
        with folder.new_checkpoint(step, 10) as place:
            (place / "weights").write_text(f"weights of {step}")


def test_the_next_start_sweeps_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    made(folder, 2)
    (tmp_path / ".checkpoint-x1").mkdir()
    (tmp_path / ".checkpoint-x1" / "weights").touch()
    (tmp_path / "result.json.part").touch()

    folder.claim(DistillConfig(model_name="tiny-llama", dataset="arithmetic"))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "config.json"]


def test_a_checkpoint_that_cannot_fit_is_refused_with_what_it_needs_before_a_byte_is_written(
    tmp_path: Path,
) -> None:
    with (
        pytest.raises(StorageFull, match="checkpoint-4 does not fit") as refused,
        TrialFolder(tmp_path).new_checkpoint(4, 10**15),
    ):
        raise AssertionError

    assert refused.value.needed == 10**15
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_whose_writing_fails_leaves_the_earlier_ones_and_nothing_else(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    made(folder, 2, 4)

    def fail() -> None:
        with folder.new_checkpoint(4, 10) as place:
            (place / "weights").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert (folder.checkpoint(4) / "weights").read_text() == "weights of 4"
    assert folder.newest_checkpoint() == str(folder.checkpoint(4))


def test_damaged_checkpoints_take_no_intact_ones_place(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    made(folder, 2, 4, 6)
    for step in (4, 6):
        (folder.checkpoint(step) / "weights").write_text("flipped")

    folder.drop_checkpoints_after(2)
    made(folder, 4)
    folder.keep_checkpoints(2)

    assert [path.name for path in folder.checkpoints()] == ["checkpoint-4", "checkpoint-2"]
    assert all(is_intact(path) for path in folder.checkpoints())


def test_a_manifest_that_names_nothing_seals_nothing(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    made(folder, 2)
    (folder.checkpoint(2) / "manifest.json").write_text(json.dumps({}))

    assert folder.newest_checkpoint() is None


def test_a_file_that_cannot_be_put_in_its_place_leaves_the_old_one_and_no_part(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()

    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "result.json", "{}")

    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
