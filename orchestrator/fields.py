"""A trial's fields as an experiment gives them in base, arms and grid: their types, and what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from reprlib import repr as short
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from orchestrator.wording import SET_ELSEWHERE, in_words, unknown_field
from trainables.config import (
    DIGESTS,
    LITERALS,
    DistillConfig,
    InputError,
    Mistakes,
    mistakes_in,
    wrong_values,
)
from trainables.trial_folder import sha256_of

SEED_OFFSET = "seed_offset"
"""An arm's own key under analysis.mode aa: its trials take the block's seed and this on top."""
PATHS = ("train_file", "eval_file", "model_name", "teacher_name")
MOST_COMBINED = 100_000
"""Arms at some point of the grid that are looked at here; make_plan looks at every one."""
Overrides = Mapping[str, Any]


def checked(section: str, values: Overrides) -> dict[str, Any]:
    """The section's fields with their types checked; whole numbers become floats where the field is one.

    Raises Mistakes with all that is wrong in the section.
    """
    typed, found = _read(section, values)
    if found:
        raise Mistakes(found)
    return typed


def _read(section: str, values: Overrides) -> tuple[dict[str, Any], list[str]]:
    """The fields that are right, and what is wrong with the others."""
    typed: dict[str, Any] = {}
    found: list[str] = []
    for name, value in values.items():
        try:
            typed[name] = _typed(section, name, value)
        except InputError as error:
            found.append(str(error))
    wrong = dict(wrong_values(typed))
    return typed, [*found, *(f"{section}.{name} {how}" for name, how in wrong.items())]


def _typed(section: str, name: str, value: Any) -> Any:
    if name in SET_ELSEWHERE:
        raise InputError(f"{section}.{name} does not belong here: {SET_ELSEWHERE[name]}.")
    if name not in kinds():
        raise InputError(unknown_field(section, name, value))
    if name in LITERALS and isinstance(value, str):
        if "\x00" in value:
            raise InputError(f"{section}.{name} holds a zero byte.")
        return value  # wrong_values checks the word itself, with the nearest known one in its error
    try:
        typed = kinds()[name].validate_python(value)
    except ValidationError as error:
        raise InputError(in_words(f"{section}.{name}", {**error.errors()[0], "input": value})) from None
    return absolute(typed) if name in PATHS and typed is not None else typed


def absolute(name: str) -> str:
    """A path of this machine made absolute; the name of a hub model or a built-in stays as it is."""
    if "\x00" in name:
        raise InputError(f"{short(name)} holds a zero byte: it cannot be a file or a model.")
    path = os.path.expanduser(name)
    return os.path.abspath(path) if os.path.exists(path) or path.endswith((".jsonl", ".json")) else name


@cache
def kinds() -> dict[str, TypeAdapter[Any]]:
    """Every field of a trial with its type."""
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return {name: TypeAdapter(kind, config=strict) for name, kind in get_type_hints(DistillConfig).items()}


def points_of(axis: str, values: list[Any]) -> list[Any]:
    """The axis's values with their types checked; Mistakes where there are none, or one stands twice."""
    if not values:
        raise InputError(f"grid.{axis} holds no values: list some, or leave the axis out.")
    read = [_read("grid", {axis: value}) for value in values]
    if found := [mistake for _, mistakes in read for mistake in mistakes]:
        raise Mistakes(found)
    checked = [typed[axis] for typed, _ in read]
    if len({json.dumps(value) for value in checked}) < len(checked):
        raise InputError(f"grid.{axis} lists a value twice: {short(values)}.")
    return checked


def with_digests(values: Overrides) -> dict[str, Any]:
    """The values with the SHA-256 of every file that they name, so that a trial follows its content.

    What cannot be read has none, and is refused before anything starts.
    """
    found = {
        digest: _digest(values[file]) if values[file] else None
        for file, digest in DIGESTS.items()
        if file in values and digest not in values
    }
    return {**values, **found}


def _digest(path: str) -> str | None:
    try:
        return sha256_of(Path(path)) if os.path.isfile(path) else None
    except OSError:
        return None


def config_of(label: str, values: Overrides) -> DistillConfig:
    """A trial's config; Mistakes that name the arm."""
    try:
        return DistillConfig.from_dict(values)
    except InputError as error:
        raise Mistakes(f"arm {label!r}: {mistake}" for mistake in mistakes_in(error)) from None


def mistakes_of(values: Mapping[str, Any]) -> list[str]:
    """All that is wrong with the fields in base, arms and grid; what is no mapping is not looked at."""
    found: list[str] = []

    def gathered(read: Callable[[str, Any], Any], place: str, given: Any) -> Any:
        try:
            return read(place, given)
        except InputError as error:
            found.extend(mistakes_in(error))
            return None

    sections = {name: _pairs(values.get(name)) for name in ("base", "arms", "grid")}
    base = gathered(checked, "base", sections["base"])
    arms = {arm: gathered(checked, f"arms.{arm}", _own(given)) for arm, given in sections["arms"].items()}
    axes = {
        axis: gathered(points_of, axis, given)
        for axis, given in sections["grid"].items()
        if isinstance(given, list)
    }
    combined = len(arms) * sum(len(values or ()) for values in axes.values())
    return found or ([*_together(base, arms, axes)] if combined <= MOST_COMBINED else [])


def _pairs(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _own(arm: Any) -> dict[str, Any]:
    """What an arm changes in the base."""
    return {name: value for name, value in _pairs(arm).items() if name != SEED_OFFSET}


def _together(
    base: Overrides, arms: Mapping[str, Overrides], axes: Mapping[str, Sequence[Any]]
) -> Iterator[str]:
    """What is wrong between fields that are each right; arms that share a mistake stand together."""
    shared: dict[str, list[str]] = {}
    for arm, fields in arms.items():
        for axis in axes.keys() & fields.keys():
            yield f"{axis} stands in grid and in arms.{arm}: keep it in one of the two."
        for point in _some_points(axes):
            try:
                DistillConfig.from_dict({**base, **fields, **point})
            except InputError as error:
                for mistake in mistakes_in(error):
                    shared.setdefault(mistake, []).append(arm)
    for mistake, names in shared.items():
        yield f"{_arms(list(dict.fromkeys(names)))}: {mistake}"


def _some_points(axes: Mapping[str, Sequence[Any]]) -> Iterator[Overrides]:
    """Every value of every axis once, beside the first of each other: their product may be large."""
    first = {axis: values[0] for axis, values in axes.items()}
    yield first
    for axis, values in axes.items():
        yield from ({**first, axis: value} for value in values[1:])


def _arms(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"arm {shown}" if len(names) == 1 else f"arms {shown}"
