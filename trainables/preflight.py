"""What can be refused before a model loads or cluster time is spent. Reads rows and configs only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.aligners.flat import check_rank
from trainables.assemble import tokenizers_of
from trainables.builtin_teacher import RECIPES, ensure_teacher
from trainables.capture import cache_shape, family_of
from trainables.config import (
    BUILTIN_STUDENTS,
    BUILTIN_TEACHER,
    SELF,
    DistillConfig,
    InputError,
    unknown,
)
from trainables.data import load_examples
from trainables.device import named_device
from trainables.kv_cache import CacheShape
from trainables.models import POSITIONS, builtin_config, llama_config, read_config
from trainables.teaching import fill
from trainables.tokenizers import Encoded, encode


def check(config: DistillConfig) -> tuple[str, ...]:
    """Raise one InputError for the first thing that cannot work: names, rows, tokenizers, lengths.

    What is to be told of the rows, such as how many were left out.
    """
    named_device(config.device)
    _check_names(config)
    splits = load_examples(config)
    mine, theirs = tokenizers_of(config, splits)
    if config.shuffle_teacher and config.batch_size == 1:
        raise InputError("--shuffle_teacher has no effect with --batch_size 1: take at least 2 rows a batch.")
    if config.student == "same_sequence" and mine is not theirs:
        raise InputError(
            f"--student same_sequence compares positions token by token, but --teacher_name {config.teacher} "
            f"and --model_name {config.model_name} have different tokenizers: choose models that share one, "
            "or --student latent."
        )
    rows = encode([*splits.train, *splits.held_out], mine)
    taught = rows if mine is theirs else encode([*splits.train, *splits.held_out], theirs)
    _check_target_len(config, taught)
    _check_lengths(config, rows, taught)
    _check_aligner(config, mine)
    return splits.notes


def prepare(config: DistillConfig, progress: Callable[[str], None]) -> float | None:
    """Have the built-in teacher ready where it is asked for: trained once if need be, its skill checked.

    And the teacher's cache in --teacher_cache, where that is given. Hands back the share of held-out problems
    that the built-in teacher solves; None of another, which nobody asks to solve any.
    """
    solved = ensure_teacher(config, progress) if config.teacher == BUILTIN_TEACHER else None
    if config.teacher_cache is not None:
        fill(config, Path(config.teacher_cache), progress)
    return solved


def _check_names(config: DistillConfig) -> None:
    if config.model_name not in BUILTIN_STUDENTS:
        if config.model_name.startswith("tiny-"):
            raise unknown("--model_name", config.model_name, BUILTIN_STUDENTS)
        family_of(read_config(config.model_name, "--model_name"), "--model_name")
    if (
        config.teacher in (BUILTIN_TEACHER, SELF, config.model_name)
        and config.teacher not in BUILTIN_STUDENTS
    ):
        return
    if config.teacher in BUILTIN_STUDENTS:
        raise InputError(
            f"--teacher_name {config.teacher} is a built-in student with random weights, which can teach "
            f"nothing: choose {BUILTIN_TEACHER}, or a trained model."
        )
    if config.teacher.startswith("tiny-"):
        raise unknown("--teacher_name", config.teacher, (BUILTIN_TEACHER,))
    family_of(read_config(config.teacher, "--teacher_name"), "--teacher_name")


def _check_target_len(config: DistillConfig, taught: list[Encoded]) -> None:
    longest = max(len(row.chain) for row in taught)
    if config.target_len > longest and not (config.kv_method == "full" and config.student == "same_sequence"):
        raise InputError(
            f"--target_len {config.target_len} is longer than the longest chain of thought in the data, "
            f"{longest} tokens: choose at most {longest}."
        )


def _check_lengths(config: DistillConfig, rows: list[Encoded], taught: list[Encoded]) -> None:
    whole = max(len(row.ids) for row in taught)
    latent = max(len(row.question) + config.target_len + len(row.answer) for row in rows)
    needs = (
        ("--model_name", config.model_name, latent if config.student == "latent" else whole),
        ("--teacher_name", config.model_name if config.teacher == SELF else config.teacher, whole),
    )
    for flag, name, longest in needs:
        positions = _positions(name, flag)
        if longest > positions:
            raise InputError(
                f"{flag} {name} takes {positions} positions, the longest row needs {longest}: "
                "choose a model with more, or take long rows out of the data."
            )


def _positions(name: str, flag: str) -> int:
    if name in (*BUILTIN_STUDENTS, BUILTIN_TEACHER):
        return POSITIONS
    model = read_config(name, flag)
    return int(getattr(model, family_of(model, flag).positions))


def _check_aligner(config: DistillConfig, vocabulary: Any) -> None:
    """A rank is the one setting of an aligner that can fail; tried on the real shapes, without weights."""
    if config.flat_rank is None:
        return
    student = _shape(config.model_name, "--model_name", config, vocabulary)
    teacher = (
        student if config.teacher == SELF else _shape(config.teacher, "--teacher_name", config, vocabulary)
    )
    check_rank(config.flat_rank, student, teacher)


def _shape(name: str, flag: str, config: DistillConfig, vocabulary: Any) -> CacheShape:
    if name == BUILTIN_TEACHER:
        return cache_shape(llama_config(RECIPES[config.dataset].size, vocabulary))
    return cache_shape(
        builtin_config(name, vocabulary) if name in BUILTIN_STUDENTS else read_config(name, flag)
    )
