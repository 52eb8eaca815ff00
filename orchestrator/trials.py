"""Every (arm x grid x seed) of an experiment as a checked trial, and the plan that the analysis reads."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from reprlib import repr as short
from typing import Any

from orchestrator.fields import SEED_OFFSET, Overrides, checked, config_of, points_of, with_digests
from orchestrator.spec import MAX_SEED, ExperimentSpec
from trainables.config import NOT_PART_OF_THE_RESULT, DistillConfig, InputError, meaning

LONGEST_POINT = 80
"""Characters of a folder's name that tell the point of the grid."""


@dataclass(frozen=True)
class Cell:
    """One trial of the plan."""

    trial_id: str
    """ARM-seedN-HASH, with a grid ARM-AXIS-VALUE-seedN-HASH: the trial's folder."""
    arm: str
    """The arm's label: its name, with the grid's values where there is a grid."""
    seed: int
    """The block of the paired comparison; the config's own seed may lie a seed_offset beyond it."""
    config: DistillConfig
    factors: Mapping[str, Any]
    """The value of every declared factor."""


@dataclass(frozen=True)
class Label:
    """An arm of the comparison: an arm of the file at one point of the grid."""

    arm: str
    point: Overrides
    overrides: Overrides
    """What it changes in the base: the arm's own fields and the point's."""
    seed_offset: int = 0


@dataclass(frozen=True)
class Plan:
    """All trials in the order they start: the arm varies fastest, so that pairs finish together."""

    spec: ExperimentSpec
    labels: Mapping[str, Label]
    contrasts: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]

    @cached_property
    def declared_factors(self) -> list[str]:
        """The fields in which arms may differ, and no others."""
        return _declared(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """plan.json without its history; the hash covers all the rest of it."""
        plan: dict[str, Any] = {
            "name": self.spec.name,
            "arms": {name: _with_offset(label) for name, label in self.labels.items()},
            "labels": {
                name: {"arm": label.arm, "point": dict(label.point)} for name, label in self.labels.items()
            },
            "grid": {
                axis: list(dict.fromkeys(label.point[axis] for label in self.labels.values()))
                for axis in self.spec.grid
            },
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

    @property
    def setup(self) -> dict[str, Any]:
        """What was trained with what, for the report: the fields that all arms share, and each arm's own.

        Defaults are filled in, the teacher's as `teacher`. In no hash: the cells' config hashes hold it all.
        """
        hidden = {*NOT_PART_OF_THE_RESULT, "seed"}
        arms = {
            cell.arm: {
                **{name: value for name, value in cell.config.to_dict().items() if name not in hidden},
                "teacher": cell.config.teacher,
            }
            for cell in self.cells
        }
        first = next(iter(arms.values()))
        shared = {name: v for name, v in first.items() if all(other[name] == v for other in arms.values())}
        return {
            "shared": shared,
            "arms": {
                arm: {name: value for name, value in fields.items() if name not in shared}
                for arm, fields in arms.items()
            },
        }


def make_plan(spec: ExperimentSpec) -> Plan:
    """Every trial of the experiment as a checked config; InputError names the arm and the field.

    Two arms that come to the same configuration are an error: they would be one trial compared with itself,
    which is what analysis.mode aa asks for.
    """
    base = with_digests(checked("base", spec.base))
    labels = _labels(spec)
    configs = {name: config_of(name, {**base, **label.overrides}) for name, label in labels.items()}
    contrasts = _contrasts(labels, spec.analysis.baseline)
    if spec.analysis.mode == "aa":
        _refuse_differences(configs, contrasts)
        _refuse_shared_seeds(labels, spec.seeds)
    else:
        _refuse_twins(configs)
    _refuse_gpu_without_one(configs, spec)
    declared = _declared(labels)
    cells = tuple(
        _cell(name, label, seed, configs[name], declared)
        for seed in spec.seeds
        for name, label in labels.items()
    )
    return Plan(spec=spec, labels=labels, contrasts=contrasts, cells=cells)


def _labels(spec: ExperimentSpec) -> dict[str, Label]:
    """The file's arms at every point of the grid; all arms of a point stand together."""
    offsets = {arm: _offset(arm, fields, spec) for arm, fields in spec.arms.items()}
    arms = {
        arm: checked(f"arms.{arm}", {name: value for name, value in fields.items() if name != SEED_OFFSET})
        for arm, fields in spec.arms.items()
    }
    points = list(_grid_points(spec))
    return {
        _label(arm, point): Label(
            arm=arm, point=point, overrides=with_digests({**fields, **point}), seed_offset=offsets[arm]
        )
        for point in points
        for arm, fields in arms.items()
    }


def _offset(arm: str, fields: Overrides, spec: ExperimentSpec) -> int:
    """The arm's seed_offset, 0 where it has none."""
    offset = fields.get(SEED_OFFSET, 0)
    where = f"arms.{arm}.{SEED_OFFSET}"
    if SEED_OFFSET in fields and spec.analysis.mode != "aa":
        raise InputError(
            f"{where} breaks the pairing by seed: leave it out, or compare a configuration with itself "
            "(analysis.mode: aa)."
        )
    if type(offset) is not int or not 0 <= offset <= MAX_SEED - max(spec.seeds):
        raise InputError(
            f"{where} must be a whole number from 0 to {MAX_SEED - max(spec.seeds)}, so that no seed exceeds "
            f"{MAX_SEED}, got {short(offset)}."
        )
    return offset


def _contrasts(labels: Mapping[str, Label], baseline: str) -> tuple[tuple[str, str], ...]:
    """Every arm against the baseline at the same point of the grid."""
    return tuple(
        (name, _label(baseline, label.point)) for name, label in labels.items() if label.arm != baseline
    )


def _declared(labels: Mapping[str, Label]) -> list[str]:
    return sorted({name for label in labels.values() for name in label.overrides})


def _with_offset(label: Label) -> dict[str, Any]:
    offset = {SEED_OFFSET: label.seed_offset} if label.seed_offset else {}
    return {**label.overrides, **offset}


def _cell(name: str, label: Label, seed: int, config: DistillConfig, declared: list[str]) -> Cell:
    config = replace(config, seed=seed + label.seed_offset)
    factors = {field: getattr(config, field) for field in declared}
    trial_id = _named(label.arm, label.point, seed, config)
    return Cell(trial_id=trial_id, arm=name, seed=seed, config=config, factors=factors)


def _in_a_name(point: Overrides) -> str:
    """The point of the grid in a folder's name: -AXIS-VALUE each, of a path its last part.

    The hash in the name tells apart what this makes alike.
    """
    parts = "".join(f"-{axis}-{str(value).rstrip('/').rpartition('/')[2]}" for axis, value in point.items())
    return re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "_", parts)[:LONGEST_POINT]


def in_known_folders(plan: Plan, trials: Path) -> Plan:
    """The plan with every trial in the folder that it has, though version 0.1 named it without the grid."""
    there = {path.name for path in trials.iterdir()} if trials.is_dir() else set()
    cells = [(cell, _named(plan.labels[cell.arm].arm, {}, cell.seed, cell.config)) for cell in plan.cells]
    known = [
        replace(cell, trial_id=before) if before in there and cell.trial_id not in there else cell
        for cell, before in cells
    ]
    return replace(plan, cells=tuple(known))


def _named(arm: str, point: Overrides, seed: int, config: DistillConfig) -> str:
    return f"{arm}{_in_a_name(point)}-seed{seed}-{config.hash()}"


def _label(arm: str, point: Overrides) -> str:
    return ",".join([arm, *(f"{axis}={value}" for axis, value in point.items())])


def _grid_points(spec: ExperimentSpec) -> list[Overrides]:
    axes = [[(axis, value) for value in points_of(axis, values)] for axis, values in spec.grid.items()]
    return [dict(point) for point in itertools.product(*axes)]


def _refuse_twins(configs: Mapping[str, DistillConfig]) -> None:
    seen: dict[str, str] = {}
    for label, config in configs.items():
        twin = seen.setdefault(config.hash(), label)
        if twin != label:
            raise InputError(
                f"arms {twin!r} and {label!r} are the same configuration: change one, or leave it out; "
                "to compare a configuration with itself set analysis.mode to aa."
            )


def _refuse_differences(configs: Mapping[str, DistillConfig], contrasts: Sequence[tuple[str, str]]) -> None:
    """Under aa both sides of every contrast are one configuration."""
    for pair in contrasts:
        ours, theirs = (meaning(configs[name].to_dict()) for name in pair)
        differing = [field for field, value in ours.items() if value != theirs[field]]
        if differing:
            raise InputError(
                f"analysis.mode aa compares a configuration with itself, and arms {pair[0]!r} and "
                f"{pair[1]!r} differ in {', '.join(differing)}: make them equal, or set analysis.mode to ab."
            )


def _refuse_shared_seeds(labels: Mapping[str, Label], seeds: Sequence[int]) -> None:
    """Under aa a seed belongs to one block, or the pairs would not be independent of each other."""
    block: dict[int, int] = {}
    for label in labels.values():
        for seed in seeds:
            theirs = block.setdefault(seed + label.seed_offset, seed)
            if theirs != seed:
                raise InputError(
                    f"arms.{label.arm}.{SEED_OFFSET} {label.seed_offset}: seed {seed + label.seed_offset} "
                    f"would stand in two blocks, {theirs} and {seed}: take a larger offset, such as 1000."
                )


def _refuse_gpu_without_one(configs: Mapping[str, DistillConfig], spec: ExperimentSpec) -> None:
    for label, config in configs.items():
        kind, _, index = config.device.partition(":")
        if kind == "cuda" and not spec.resources.gpus:
            raise InputError(
                f"arm {label!r}: device {config.device} needs a GPU and a trial is given none: "
                "set resources.gpus, or device to cpu."
            )
        if kind == "cuda" and index not in ("", "0"):
            raise InputError(
                f"arm {label!r}: device {config.device} is seen by no trial: each sees only the GPU that it "
                "is given: set device to cuda, or leave it out."
            )
