"""Every (arm x grid x seed) of an experiment as a checked trial, and the plan that the analysis reads."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from reprlib import repr as short
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from orchestrator.spec import ExperimentSpec
from trainables.config import LITERALS, DistillConfig, InputError, unknown

SET_ELSEWHERE = {
    "seed": "list it under seeds",
    "output_dir": "choose the place with --storage",
    "threads": "set resources.cpus",
}
PATHS = ("train_file", "eval_file", "model_name", "teacher_name")
Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One trial of the plan."""

    trial_id: str
    """ARM-seedN-HASH: the trial's folder."""
    arm: str
    """The arm's label: its name, with the grid's values where there is a grid."""
    seed: int
    config: DistillConfig
    factors: Mapping[str, Any]
    """The value of every declared factor."""


@dataclass(frozen=True)
class Plan:
    """All trials in the order they start: the arm varies fastest, so that pairs finish together."""

    spec: ExperimentSpec
    labels: Mapping[str, Overrides]
    contrasts: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]

    @cached_property
    def declared_factors(self) -> list[str]:
        """The fields in which arms may differ, and no others."""
        return sorted({name for overrides in self.labels.values() for name in overrides})

    def to_dict(self) -> dict[str, Any]:
        """plan.json; its hash covers all the rest of it."""
        plan: dict[str, Any] = {
            "name": self.spec.name,
            "arms": {label: dict(overrides) for label, overrides in self.labels.items()},
            "seeds": list(self.spec.seeds),
            "declared_factors": self.declared_factors,
            "cells": [
                {
                    "trial_id": cell.trial_id,
                    "arm": cell.arm,
                    "seed": cell.seed,
                    "config_hash": cell.config.hash(),
                    "factors": dict(cell.factors),
                }
                for cell in self.cells
            ],
            "contrasts": [
                {"treatment": treatment, "baseline": baseline} for treatment, baseline in self.contrasts
            ],
            "analysis": self.spec.analysis.to_plan(),
        }
        text = json.dumps(plan, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return {"name": plan["name"], "plan_hash": hashlib.sha256(text.encode()).hexdigest()[:12], **plan}


def make_plan(spec: ExperimentSpec) -> Plan:
    """Every trial of the experiment as a checked config; InputError names the arm and the field.

    Two arms that come to the same configuration are an error: they would be one trial compared with itself.
    """
    base = _checked("base", spec.base)
    arms = {name: _checked(f"arms.{name}", overrides) for name, overrides in spec.arms.items()}
    points = list(_grid_points(spec))
    _refuse_hidden_axes(arms, points[0])
    labels: dict[str, Overrides] = {}
    contrasts = []
    baseline = spec.analysis.baseline
    for point in points:
        for arm, overrides in arms.items():
            labels[_label(arm, point)] = {**overrides, **point}
            if arm != baseline:
                contrasts.append((_label(arm, point), _label(baseline, point)))
    owner = {_label(arm, point): arm for point in points for arm in arms}
    configs = {label: _config(label, {**base, **overrides}) for label, overrides in labels.items()}
    _refuse_twins(configs)
    _refuse_gpu_without_one(configs, spec)
    declared = sorted({name for overrides in labels.values() for name in overrides})
    cells = tuple(
        _cell(label, owner[label], replace(configs[label], seed=seed), declared)
        for seed in spec.seeds
        for label in labels
    )
    return Plan(spec=spec, labels=labels, contrasts=tuple(contrasts), cells=cells)


def _cell(label: str, arm: str, config: DistillConfig, declared: list[str]) -> Cell:
    factors = {name: getattr(config, name) for name in declared}
    trial_id = f"{arm}-seed{config.seed}-{config.hash()}"
    return Cell(trial_id=trial_id, arm=label, seed=config.seed, config=config, factors=factors)


def _label(arm: str, point: Overrides) -> str:
    return ",".join([arm, *(f"{axis}={value}" for axis, value in point.items())])


def _grid_points(spec: ExperimentSpec) -> list[Overrides]:
    axes = []
    for axis, values in spec.grid.items():
        if not values:
            raise InputError(f"grid.{axis} holds no values: list some, or leave the axis out.")
        checked = [_checked("grid", {axis: value})[axis] for value in values]
        if len({json.dumps(value) for value in checked}) < len(checked):
            raise InputError(f"grid.{axis} lists a value twice: {short(values)}.")
        axes.append([(axis, value) for value in checked])
    return [dict(point) for point in itertools.product(*axes)]


def _refuse_hidden_axes(arms: Mapping[str, Overrides], point: Overrides) -> None:
    for arm, overrides in arms.items():
        for axis in point:
            if axis in overrides:
                raise InputError(f"{axis} stands in grid and in arms.{arm}: keep it in one of the two.")


def _refuse_twins(configs: Mapping[str, DistillConfig]) -> None:
    seen: dict[str, str] = {}
    for label, config in configs.items():
        twin = seen.setdefault(config.hash(), label)
        if twin != label:
            raise InputError(
                f"arms {twin!r} and {label!r} are the same configuration: change one, or leave it out."
            )


def _refuse_gpu_without_one(configs: Mapping[str, DistillConfig], spec: ExperimentSpec) -> None:
    for label, config in configs.items():
        if config.device.startswith("cuda") and not spec.resources.gpus:
            raise InputError(
                f"arm {label!r}: device {config.device} needs a GPU and a trial is given none: "
                "set resources.gpus, or device to cpu."
            )


def _config(label: str, values: Overrides) -> DistillConfig:
    try:
        return DistillConfig.from_dict(values)
    except InputError as error:
        raise InputError(f"arm {label!r}: {error}") from None


def _checked(section: str, values: Overrides) -> dict[str, Any]:
    """The section's fields with their types checked; whole numbers become floats where the field is one."""
    kinds = _kinds()
    checked = {}
    for name, value in values.items():
        if name in SET_ELSEWHERE:
            raise InputError(f"{section}.{name} does not belong here: {SET_ELSEWHERE[name]}.")
        if name not in kinds:
            raise unknown(f"{section}: field", name, set(kinds) - set(SET_ELSEWHERE))
        checked[name] = _typed(f"{section}.{name}", name, value)
    return checked


def _typed(where: str, name: str, value: Any) -> Any:
    if name in LITERALS and isinstance(value, str):
        if "\x00" in value:
            raise InputError(f"{where} holds a zero byte.")
        return value  # DistillConfig checks the word itself, with the nearest known one in its error
    try:
        typed = _kinds()[name].validate_python(value)
    except ValidationError as error:
        problems = [problem["msg"].replace("Input should", "must") for problem in error.errors()]
        raise InputError(f"{where} {' or '.join(dict.fromkeys(problems))}, got {short(value)}.") from None
    return _absolute(typed) if name in PATHS and typed is not None else typed


def _absolute(name: str) -> str:
    """A path of this machine made absolute; the name of a hub model or a built-in stays as it is."""
    if "\x00" in name:
        raise InputError(f"{short(name)} holds a zero byte: it cannot be a file or a model.")
    path = os.path.expanduser(name)
    return os.path.abspath(path) if os.path.exists(path) or path.endswith((".jsonl", ".json")) else name


@cache
def _kinds() -> dict[str, TypeAdapter[Any]]:
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return {name: TypeAdapter(kind, config=strict) for name, kind in get_type_hints(DistillConfig).items()}
