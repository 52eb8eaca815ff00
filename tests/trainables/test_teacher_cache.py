"""The teacher asked once: the same losses to the bit, and a cache that is believed only where it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ragged import ragged_fields
from tests.trainables.conftest import small
from trainables.config import NOT_PART_OF_THE_RESULT, DistillConfig, InputError
from trainables.distill import distill
from trainables.preflight import prepare
from trainables.teacher import Lesson, frozen_lesson
from trainables.teacher_cache import INDEX, TeacherCache, lesson_tensors, missing
from trainables.teaching import Teaching, fill, make_parts
from trainables.trial_folder import TrialFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ragged_fields(tmp_path_factory.mktemp("ragged"))


def tiny(**changes: Any) -> DistillConfig:
    base = {"student": "same_sequence", "max_steps": 3, "eval_steps": 2, "logging_steps": 1, "eval_size": 8}
    return small(**{"subset_size": 64, **base, **changes})


def trained(config: DistillConfig, folder: Path) -> tuple[Any, ...]:
    """All that a trial reports but the clock, and its teacher."""
    result = distill(replace(config, output_dir=str(folder)), lambda row: None)
    rows = [(row["step"], row["split"], row["metrics"]) for row in TrialFolder(folder).read_metrics()]
    return rows, result["teacher"], result["final"]


def filled(config: DistillConfig, folder: Path) -> DistillConfig:
    fill(config, folder, lambda line: None)
    return replace(config, teacher_cache=str(folder))


RAGGED: list[dict[str, Any]] = [
    {"student": student, "kv_method": method}
    for student in ("same_sequence", "latent")
    for method in ("rkv", "right_crop", "full")
]


@pytest.mark.parametrize("changes", [*RAGGED, {"shuffle_teacher": True, "kv_method": "full"}])
def test_a_trial_on_ragged_rows_is_the_same_to_the_bit_with_and_without_the_cache(
    tmp_path: Path, ragged: dict[str, Any], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(**ragged, **changes)
    cached = filled(config, tmp_path / "cache")
    without = trained(config, tmp_path / "without")
    monkeypatch.setattr("trainables.assemble.load_teacher", lambda *_: pytest.fail("the teacher was loaded"))

    assert trained(cached, tmp_path / "with") == without


@pytest.mark.parametrize("changes", [{}, {"student": "latent", "shuffle_teacher": True}])
def test_a_trial_on_arithmetic_is_the_same_to_the_bit_with_and_without_the_cache(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = tiny(**changes)

    assert trained(filled(config, tmp_path / "cache"), tmp_path / "with") == trained(
        config, tmp_path / "without"
    )


def test_an_arm_without_distillation_reads_the_same_cache_for_its_evaluations(
    tmp_path: Path, ragged: dict[str, Any]
) -> None:
    cache = filled(tiny(**ragged), tmp_path / "cache").teacher_cache
    control = tiny(**ragged, kv_weight=0, codi_weight=0, seed=1)

    with_cache = trained(replace(control, teacher_cache=cache), tmp_path / "with")

    assert with_cache == trained(control, tmp_path / "without")


@pytest.mark.parametrize("method", ["rkv", "full"])
def test_a_lesson_does_not_depend_on_the_rows_beside_it(ragged: dict[str, Any], method: str) -> None:
    teaching = Teaching(tiny(**ragged, kv_method=method))
    rows = list(range(20))
    together = tensors_of(teaching, rows)

    for row in (0, 7, 19):
        alone = tensors_of(teaching, [row])
        slots = alone["keys"].shape[3]
        for name, tensor in alone.items():
            whole = together[name][row : row + 1]
            cut = whole if name == "before_answer" else whole[:, :, :, :slots]
            assert torch.equal(tensor, cut), name


def tensors_of(teaching: Teaching, rows: list[int]) -> dict[str, torch.Tensor]:
    taught = teaching.train.taught(rows, CPU)
    generator = torch.Generator()
    return lesson_tensors(
        frozen_lesson(teaching.teacher, taught, teaching.config, teaching.layers, generator)
    )


def test_a_damaged_shard_is_told_computed_on_the_fly_and_made_again(
    tmp_path: Path, ragged: dict[str, Any]
) -> None:
    config = tiny(**ragged)
    cached = filled(config, tmp_path / "cache")
    before = contents(tmp_path / "cache")
    for shard in (tmp_path / "cache").glob("*.safetensors"):
        flip_last_byte(shard)

    metrics = trained(cached, tmp_path / "with")
    fill(config, tmp_path / "cache", lambda line: None)

    assert metrics[0] == trained(config, tmp_path / "without")[0]
    assert "is damaged: its rows are computed on the fly" in (tmp_path / "with" / "train.log").read_text()
    assert contents(tmp_path / "cache") == before


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_cache_that_was_not_finished_is_not_believed_and_its_finished_parts_are_kept(
    tmp_path: Path, ragged: dict[str, Any]
) -> None:
    config, folder = tiny(**ragged), tmp_path / "cache"
    whole = contents(Path(filled(config, tmp_path / "whole").teacher_cache or ""))
    task = Teaching(config).task
    make_parts(config, folder, task.key, task.parts)
    kept = contents(folder)
    for name, age in {".common.1.making": 10**6, ".common.2.making": 0}.items():
        (folder / name).write_bytes(b"torn")
        os.utime(folder / name, (time.time() - age,) * 2)

    assert TeacherCache.open(folder) is None
    assert missing(folder, task.key, task.names) == ["common"]
    (folder / f"{task.parts[0]}.json").write_text('{"key": ')
    assert missing(folder, task.key, task.names) == ["common", task.parts[0]]

    fill(config, folder, lambda line: None)

    (folder / ".common.2.making").unlink()
    assert contents(folder) == whole
    assert kept.items() <= whole.items()


def test_two_writers_at_once_leave_one_sound_cache(tmp_path: Path, ragged: dict[str, Any]) -> None:
    config = tiny(**ragged)
    alone = filled(config, tmp_path / "alone")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: filled(config, tmp_path / "both"), range(2)))

    assert contents(tmp_path / "both") == contents(Path(alone.teacher_cache or ""))


def test_a_trial_cannot_change_what_others_read(tmp_path: Path, ragged: dict[str, Any]) -> None:
    folder = Path(filled(tiny(**ragged), tmp_path / "cache").teacher_cache or "")
    before = contents(folder)
    mine, theirs = (opened(folder) for _ in range(2))

    for rows in (range(4), range(40)):
        lesson = read(mine, rows)
        for tensor in (lesson.cache.keys, lesson.cache.values, lesson.before_answer):
            tensor.fill_(float("inf"))
    yardstick = mine.yardstick()
    assert yardstick is not None
    yardstick.hidden_scale.fill_(0)

    for cache in (mine, theirs):
        assert bool(read(cache, range(40)).cache.keys.isfinite().all())
        again = cache.yardstick()
        assert again is not None
        assert bool((again.hidden_scale > 0).all())
    assert contents(folder) == before


def test_a_shard_is_mapped_and_takes_no_memory_of_the_trials_own(
    tmp_path: Path, ragged: dict[str, Any]
) -> None:
    cache = opened(Path(filled(tiny(**ragged), tmp_path / "cache").teacher_cache or ""))
    read(cache, range(4))

    maps = Path("/proc/self/maps").read_text()

    assert {path.stat().st_mode & 0o777 for path in cache.folder.glob("*.safetensors")} == {0o644}
    assert any(str(shard) in maps for shard in cache.folder.glob("*.safetensors"))


def opened(folder: Path) -> TeacherCache:
    cache = TeacherCache.open(folder)
    assert cache is not None
    return cache


def read(cache: TeacherCache, rows: range) -> Lesson:
    lesson = cache.lesson(rows, CPU)
    assert lesson is not None
    return lesson


CHANGES_THE_KEY: list[dict[str, Any]] = [
    {"kv_method": "right_crop"},
    {"target_len": 5},
    {"rkv_lambda": 0.5},
    {"k_space": "post_rope"},
    {"student": "latent"},
    {"layer_map": "last_aligned"},
    {"dtype": "bfloat16"},
    {"drop_last_step": True},
    {"subset_size": 40},
    {"eval_size": 2},
]
KEEPS_THE_KEY: list[dict[str, Any]] = [
    {"rkv_lambda": 0.1},
    {"seed": 3, "batch_size": 16, "lr": 1e-3, "epochs": 9.0, "max_steps": 9, "kv_weight": 0.5},
    {"alignment_mode": "flat", "kv_loss": "mse", "shuffle_teacher": True},
    {"output_dir": "elsewhere", "threads": 2, "save_steps": 1},
]


def test_the_key_changes_with_all_that_matters_and_with_nothing_else(ragged: dict[str, Any]) -> None:
    key = key_of(**ragged)

    others = {key_of(**{**ragged, **changes}) for changes in CHANGES_THE_KEY}

    assert len({key, *others}) == 1 + len(CHANGES_THE_KEY)
    assert {key_of(**ragged, **changes) for changes in KEEPS_THE_KEY} == {key}


def key_of(**changes: Any) -> str:
    return Teaching(tiny(**changes)).recipe.key


def test_other_weights_other_rows_and_other_code_change_the_key(
    ragged: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teaching = Teaching(tiny(**ragged))
    key = teaching.recipe.key

    with torch.no_grad():
        next(teaching.teacher.parameters())[0, 0] += 1
    del teaching.recipe
    monkeypatch.setattr("trainables.teacher_cache._code", lambda: "edited")

    rows = Path(ragged["train_file"]).read_text().replace("Ana", "Bea", 1)
    (tmp_path / "other.jsonl").write_text(rows)
    others = {
        teaching.recipe.key,
        key_of(**ragged),
        key_of(**{**ragged, "train_file": str(tmp_path / "other.jsonl")}),
    }
    assert len({key, *others}) == 4


def test_a_full_selection_does_not_depend_on_the_length_that_it_ignores(ragged: dict[str, Any]) -> None:
    assert len({key_of(**ragged, kv_method="full", target_len=length) for length in (4, 5)}) == 1


def test_kvtune_train_fills_the_folder_and_a_cache_of_other_settings_is_refused(
    tmp_path: Path, ragged: dict[str, Any]
) -> None:
    config = tiny(**ragged, teacher_cache=str(tmp_path / "cache"))
    told: list[str] = []

    prepare(config, told.append)
    prepare(config, told.append)

    assert [line.partition(" rows")[0] for line in told if "teacher's cache" in line] == [
        f"computing the teacher's cache for {len(Teaching(tiny(**ragged)).train)}"
    ]
    assert (tmp_path / "cache" / INDEX).is_file()
    other = replace(config, target_len=5)
    for act in (lambda: prepare(other, told.append), lambda: trained(other, tmp_path / "trial")):
        with pytest.raises(InputError, match=r"other settings \(target_len\): choose another folder"):
            act()


@pytest.mark.parametrize("changes", [{"kv_method": "random"}, {"teacher_name": "self", "student": "latent"}])
def test_what_follows_from_no_row_alone_takes_no_cache(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="leave it out"):
        tiny(teacher_cache="somewhere", **changes)


def test_the_cache_is_no_part_of_a_trials_name() -> None:
    assert "teacher_cache" in NOT_PART_OF_THE_RESULT
    assert tiny(teacher_cache="somewhere").hash() == tiny().hash()


@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"[1]", b'{"key": 1e400}', b'{"key": 3, "file": "../x", "sha256": []}']
)
def test_an_index_or_a_receipt_that_cannot_be_used_is_none(tmp_path: Path, content: bytes) -> None:
    for name in ("index.json", "0.json"):
        (tmp_path / name).write_bytes(content)

    assert TeacherCache.open(tmp_path) is None
    assert missing(tmp_path, "key", ["0"]) == ["0"]


def test_a_shard_is_looked_for_in_its_own_folder_only(tmp_path: Path) -> None:
    receipt = {"key": "key", "file": "../secret.safetensors", "sha256": "0"}
    (tmp_path / "0.json").write_text(json.dumps(receipt))

    assert missing(tmp_path, "key", ["0"]) == ["0"]
