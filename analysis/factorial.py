"""Main effects and interactions over complete blocks: each is one score per seed, judged as a difference is.

Two kinds of design are found in a plan. The grid's axes are crossed with all arms, so every cell exists.
Factors that only some arms have, such as the structured map's, are compared among those arms that hold every
combination of them; over empty cells there is no main effect.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.names import level_text
from analysis.plan import Plan

ARM = "arm"
"""Name of the factor whose levels are the experiment's arms."""
MOST_FACTORS = 3
"""Factors of a design among arms."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Cells that hold every combination of their factors' levels."""

    factors: Mapping[str, tuple[str, ...]]
    """Factor -> levels as text; the first is the one that the others are held against."""
    cells: Mapping[tuple[str, ...], tuple[str, ...]]
    """One level per factor -> the labels that are averaged there."""
    held: str
    """What is the same in all cells, for people."""

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(label for labels in self.cells.values() for label in labels)

    @property
    def name(self) -> str:
        return f"{' × '.join(self.factors)}{f' ({self.held})' if self.held else ''}"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One main effect or interaction: weights over labels whose sum is 0."""

    design: Design
    changes: Mapping[str, tuple[str, str]]
    """Factor -> (level, the level it is held against)."""
    weights: Mapping[str, float]

    @property
    def name(self) -> str:
        parts = [
            f"{level} - {against}" if factor == ARM else f"{factor}: {level} - {against}"
            for factor, (level, against) in self.changes.items()
        ]
        return " × ".join(parts)

    @property
    def kind(self) -> str:
        return "main effect" if len(self.changes) == 1 else "interaction"


def effects_of(plan: Plan) -> list[Effect]:
    """Every effect of every design of the plan; none in an A/A."""
    if plan.mode == "aa":
        return []
    return [effect for design in designs_of(plan) for effect in _effects(design)]


def designs_of(plan: Plan) -> list[Design]:
    crossed = any(len(values) > 1 for values in plan.grid.values())
    designs = [_grid_design(plan)] if crossed else []
    return designs + list(_designs_among_arms(plan))


def _grid_design(plan: Plan) -> Design:
    """Arms by axes; an axis of one value is no factor."""
    axes = {axis: tuple(map(_text, values)) for axis, values in plan.grid.items() if len(values) > 1}
    cells = {
        (label.arm, *(_text(label.point[axis]) for axis in axes)): (name,)
        for name, label in plan.labels.items()
    }
    return Design(factors={ARM: _arms(plan), **axes}, cells=cells, held="")


def _arms(plan: Plan) -> tuple[str, ...]:
    """The file's arms, the baseline first."""
    arms = dict.fromkeys(label.arm for label in plan.labels.values())
    return tuple(sorted(arms, key=lambda arm: arm != plan.baseline))


def _designs_among_arms(plan: Plan) -> Iterator[Design]:
    """Complete blocks among the arms apart from the baseline, largest first, none inside another."""
    described = _described(plan)
    varying = [
        name
        for name in plan.declared_factors
        if len({_of(values, name) for values in described.values()}) > 1
    ]
    taken: list[tuple[set[str], set[str]]] = []
    for size in range(min(MOST_FACTORS, len(varying)), 0, -1):
        for factors in itertools.combinations(varying, size):
            for arms, design in _blocks(plan, described, factors, varying):
                if not any(set(factors) <= inside and arms <= members for inside, members in taken):
                    taken.append((set(factors), arms))
                    yield design


def _described(plan: Plan) -> dict[str, Mapping[str, str]]:
    """Arm -> the values of its declared factors, apart from the grid's axes and the baseline."""
    found: dict[str, Mapping[str, str]] = {}
    for cell in plan.cells:
        arm = plan.labels[cell.arm].arm
        if arm != plan.baseline:
            values = {name: value for name, value in cell.factors.items() if name not in plan.grid}
            found.setdefault(arm, values)
    return found


def _blocks(
    plan: Plan, described: Mapping[str, Mapping[str, str]], factors: Sequence[str], varying: Sequence[str]
) -> Iterator[tuple[set[str], Design]]:
    """Groups of arms that agree in all else and hold every combination of these factors once."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for arm, values in described.items():
        held = tuple(_of(values, name) for name in varying if name not in factors)
        groups.setdefault(held, []).append(arm)
    for held, arms in groups.items():
        levels = {name: tuple(dict.fromkeys(_of(described[arm], name) for arm in arms)) for name in factors}
        places = {tuple(_of(described[arm], name) for name in factors): arm for arm in arms}
        complete = len(places) == len(arms) == len(list(itertools.product(*levels.values())))
        if complete and all(len(found) > 1 for found in levels.values()):
            others = zip([name for name in varying if name not in factors], held, strict=True)
            yield (
                set(arms),
                Design(
                    factors=levels,
                    cells={place: _labels_of(plan, arm) for place, arm in places.items()},
                    held=", ".join(f"{name} {value}" for name, value in others),
                ),
            )


def _labels_of(plan: Plan, arm: str) -> tuple[str, ...]:
    return tuple(name for name, label in plan.labels.items() if label.arm == arm)


def _of(values: Mapping[str, str], name: str) -> str:
    """A factor's value as people read it."""
    return level_text(values.get(name, "none"))


def _text(value: Any) -> str:
    """An axis' value as the labels have it."""
    return str(value)


def _effects(design: Design) -> Iterator[Effect]:
    """All main effects, then all interactions of two factors, and so on."""
    for size in range(1, len(design.factors) + 1):
        for names in itertools.combinations(design.factors, size):
            for levels in itertools.product(*(design.factors[name][1:] for name in names)):
                changes = {
                    name: (level, design.factors[name][0]) for name, level in zip(names, levels, strict=True)
                }
                yield Effect(design=design, changes=changes, weights=_weights(design, changes))


def _weights(design: Design, changes: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """Plus and minus over the changed factors, the mean over all others."""
    weights: dict[str, float] = {}
    for cell, labels in design.cells.items():
        sign = 1.0
        for factor, level in zip(design.factors, cell, strict=True):
            if factor in changes:
                sign *= {changes[factor][0]: 1.0, changes[factor][1]: -1.0}.get(level, 0.0)
        for label in labels:
            weights[label] = sign / len(labels)
    others = np.prod([len(found) for name, found in design.factors.items() if name not in changes])
    return {label: weight / float(others) for label, weight in weights.items()}


def block_values(table: pd.DataFrame, design: Design, plan: Plan) -> pd.DataFrame:
    """Planned seeds by the design's labels: the endpoint, NaN where the run has none."""
    rows = table[table["arm"].isin(design.labels)]
    wide = rows.pivot(index="seed", columns="arm", values="value")
    return wide.reindex(index=sorted(plan.seeds), columns=list(design.labels))


def block_statuses(table: pd.DataFrame, design: Design, plan: Plan) -> pd.DataFrame:
    """The same grid with the runs' statuses."""
    rows = table[table["arm"].isin(design.labels)]
    wide = rows.pivot(index="seed", columns="arm", values="status").astype(object)
    return wide.reindex(index=sorted(plan.seeds), columns=list(design.labels)).fillna("not_run")


def scores_of(values: pd.DataFrame, effect: Effect) -> pd.Series[float]:
    """Seed -> score, over complete blocks alone."""
    complete = values[np.isfinite(values).all(axis=1)]
    weights = np.array([effect.weights[str(label)] for label in complete.columns])
    return pd.Series(complete.to_numpy(float) @ weights, index=complete.index, dtype="float64")
