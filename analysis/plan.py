"""What was planned before any trial ran: plan.json as frozen dataclasses, checked at the door."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal, get_args

from pydantic_core import from_json

LARGEST = 2**30
"""Bytes of a JSON file, at most."""

At = Literal["final", "last", "last_k_mean", "auc"]
Direction = Literal["min", "max"]
Mode = Literal["ab", "aa"]


class ResultsError(ValueError):
    """The experiment's files, or a name asked for, cannot be used: the message names it and the way out."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ResultsError:
    """The error for a name that is not in the list: did you mean, then the list."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ResultsError(f"{kind} {name!r} is unknown.{hint} Known: {', '.join(known)}.")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One planned trial."""

    trial_id: str
    arm: str
    seed: int
    config_hash: str
    factors: Mapping[str, str]
    """Field of the trial's config -> its value as JSON text."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One planned question: is the treatment better than the baseline?"""

    treatment: str
    baseline: str

    @property
    def mirrored(self) -> Contrast:
        return Contrast(treatment=self.baseline, baseline=self.treatment)


@dataclass(frozen=True, kw_only=True)
class Primary:
    """The endpoint named before the run."""

    metric: str
    split: str
    at: At
    k: int
    """last_k_mean: evaluations averaged."""
    direction: Direction
    """min: lower is better."""
    margin: float | None
    """Largest harm that still counts as none, in the metric's unit; None: no non-inferiority verdict."""
    sesoi: float | None
    """Smallest effect of interest, in the metric's unit."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """Where an arm of the table stands in the experiment file: its arm there, and its point in the grid."""

    arm: str
    point: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A plan that ran in this folder before, with other seeds or arms."""

    plan_hash: str
    seeds: tuple[int, ...]
    arms: Mapping[str, Mapping[str, Any]]
    at: str
    """When the next plan took over."""
    looked: bool
    """Whether a report of it was there by then; unknown counts as yes."""
    looks: tuple[int, ...] | None
    """The looks it declared; None where that was not kept."""
    primary: Mapping[str, Any] | None = None
    """The endpoint it named, as plan.json had it; None where that was not kept."""
    ran: Mapping[str, tuple[int, ...]] | None = None
    """Arm -> seeds with a result, a failure or an evaluation by then; None where that was not kept."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What is known of runs that kvtune did not make (`kvtune report --from`)."""

    source: str
    """csv, tensorboard, wandb-export, ray, ..."""
    runs: int
    """Runs that were read, without those ignored."""
    ignored: tuple[str, ...]
    """Names of runs, or places of rows, that the mapping matches to no arm or seed, and says to ignore."""
    planned: bool
    """Whether the grid was told (Ray's experiment state, `seeds` of the mapping) and not just found."""
    remarks: tuple[str, ...]
    """What a reader should know of how the records were read: a sentence each."""
    step: str | None
    """What its steps are called there; None where runs have final values alone."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """plan.json. A cell is one (arm, seed); everything downstream is built from the cells outwards."""

    name: str
    plan_hash: str
    arms: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    declared_factors: tuple[str, ...]
    cells: tuple[Cell, ...]
    contrasts: tuple[Contrast, ...]
    baseline: str
    primary: Primary
    secondary: tuple[str, ...]
    alpha: float
    quantities: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Imported runs: metric -> its direction and unit; kvtune's own metrics are known anyway."""
    mode: Mode
    """aa: one configuration against itself, which must claim nothing."""
    looks: tuple[int, ...]
    """Numbers of seeds at which looking is declared; empty: once, at the end."""
    grid: Mapping[str, tuple[Any, ...]]
    """Axes crossed with the arms, and their values."""
    labels: Mapping[str, Label]
    history: tuple[Earlier, ...]
    """Oldest first."""
    smoothing: int = 1
    """Points of the running mean that learning curves are drawn with; 1: none. No number is read from it."""
    setup: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Arm -> its trials' configuration, defaults and the teacher's name filled in; empty where unknown."""
    precision: Mapping[str, float] = field(default_factory=dict)
    """Imported runs: metric -> what rounding its values carry, relative to their size, where it is above
    float64's."""
    imported: Imported | None = None
    """None for experiments that kvtune ran."""
    seed_names: Mapping[int, str] = field(default_factory=dict)
    """Imported blocks: a seed's number here -> what it is called there ("rte/3"); see seed_name."""

    @property
    def step_name(self) -> str:
        """What a curve runs along."""
        return "optimizer step" if self.imported is None else self.imported.step or "step"

    def seed_name(self, seed: int) -> str:
        """What a block is called: its seed, or for imported runs its own name."""
        return self.seed_names.get(int(seed), str(seed))

    def seed_offset(self, arm: str) -> int:
        """What the arm's trials add to their block's seed; 0 but for an A/A over other seeds."""
        return int(self.arms[arm].get("seed_offset") or 0)


def read_object(path: Path, way_out: str, *, finite: bool = True) -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError, or ResultsError for whatever else is wrong.

    The analysis's one reader of JSON; trainables/json_files.py is that of the other rooms, which it may not
    import. A pipe is not waited for, and what is too large or nested too deeply is an error.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise ValueError(f"it is no file of at most {LARGEST:,} bytes")
        value = from_json(path.read_bytes())
        if finite:
            json.dumps(value, allow_nan=False)  # 1e400 is read as infinite, which a report could not hold
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ResultsError(f"{path} cannot be read as JSON ({reason}): {way_out}.") from None
    if not isinstance(value, dict):
        raise ResultsError(f"{path} must hold an object {{...}}, got {short(value)}: {way_out}.")
    return value


def read_plan(path: Path) -> Plan:
    """plan.json, or a ResultsError that names the file and what is wrong with it."""
    try:
        raw = read_object(path, "restore it, or run again")
    except FileNotFoundError:
        raise ResultsError(
            f"{path.parent} holds no plan.json, so it is no experiment folder: give the folder that "
            "`kvtune run` wrote (STORAGE/NAME)."
        ) from None
    try:
        plan = _parse(raw)
        _check(plan)
    except KeyError as error:
        raise ResultsError(f"{path} lacks the field {error}: was it written by another version?") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ResultsError(f"{path}: {error}") from error
    return plan


def _parse(raw: Mapping[str, Any]) -> Plan:
    analysis = raw["analysis"]
    mode: Any = analysis.get("mode") or "ab"
    if mode not in get_args(Mode):
        raise unknown("analysis.mode", str(mode), get_args(Mode))
    labels = {arm: {"arm": arm, "point": {}} for arm in raw["arms"]} | (raw.get("labels") or {})
    return Plan(
        name=str(raw["name"]),
        plan_hash=str(raw["plan_hash"]),
        arms={str(arm): dict(overrides) for arm, overrides in raw["arms"].items()},
        seeds=tuple(int(seed) for seed in raw["seeds"]),
        declared_factors=tuple(str(field) for field in raw["declared_factors"]),
        cells=tuple(_parse_cell(cell) for cell in raw["cells"]),
        contrasts=tuple(
            Contrast(treatment=str(pair["treatment"]), baseline=str(pair["baseline"]))
            for pair in raw["contrasts"]
        ),
        baseline=str(analysis["baseline"]),
        primary=_parse_primary(analysis["primary"]),
        secondary=tuple(str(metric) for metric in analysis.get("secondary") or ()),
        alpha=float(analysis.get("alpha", 0.05)),
        quantities={str(name): dict(known) for name, known in (raw.get("quantities") or {}).items()},
        mode=mode,
        looks=_looks(analysis.get("looks")),
        grid={str(axis): tuple(values) for axis, values in (raw.get("grid") or {}).items()},
        labels={
            str(name): Label(arm=str(label["arm"]), point=dict(label["point"]))
            for name, label in labels.items()
        },
        history=tuple(_parse_earlier(entry) for entry in raw.get("history") or ()),
        smoothing=max(1, int(analysis.get("smoothing") or 1)),
        setup=_parse_setup(raw.get("setup") or {"shared": {}, "arms": {}}),
        precision={str(name): float(known) for name, known in (raw.get("precision") or {}).items()},
        imported=None if (told := raw.get("imported")) is None else _parse_imported(told),
        seed_names={int(seed): str(name) for seed, name in (raw.get("seed_names") or {}).items()},
    )


def _parse_setup(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {str(arm): {**raw["shared"], **own} for arm, own in raw["arms"].items()}


def _parse_imported(raw: Mapping[str, Any]) -> Imported:
    return Imported(
        source=str(raw["source"]),
        runs=int(raw["runs"]),
        ignored=tuple(map(str, raw.get("ignored") or ())),
        planned=bool(raw.get("planned")),
        remarks=tuple(map(str, raw.get("remarks") or ())),
        step=raw.get("step"),
    )


def _looks(raw: Any) -> tuple[int, ...]:
    looks = tuple(int(look) for look in raw or ())
    if looks and (looks[0] < 1 or sorted(set(looks)) != list(looks)):
        raise ResultsError(
            f"analysis.looks must be rising numbers of seeds, such as [6, 12], got {list(looks)}."
        )
    return looks


def _parse_earlier(raw: Mapping[str, Any]) -> Earlier:
    return Earlier(
        plan_hash=str(raw.get("plan_hash")),
        seeds=tuple(int(seed) for seed in raw["seeds"]),
        arms=dict(raw.get("arms") or {}),
        at=str(raw.get("at") or "unknown"),
        looked=raw.get("looked") is not False,
        looks=None if "looks" not in raw else _looks(raw["looks"]),
        primary=raw.get("primary") or None,
        ran={str(arm): tuple(map(int, seeds)) for arm, seeds in raw["ran"].items()} if "ran" in raw else None,
    )


def _parse_cell(raw: Mapping[str, Any]) -> Cell:
    return Cell(
        trial_id=str(raw["trial_id"]),
        arm=str(raw["arm"]),
        seed=int(raw["seed"]),
        config_hash=str(raw["config_hash"]),
        factors={
            str(field): json.dumps(value, sort_keys=True)
            for field, value in (raw.get("factors") or {}).items()
        },
    )


def _parse_primary(raw: Mapping[str, Any]) -> Primary:
    for name, kind in (("at", At), ("direction", Direction)):
        if raw[name] not in get_args(kind):
            raise unknown(f"analysis.primary.{name}", str(raw[name]), get_args(kind))
    return Primary(
        metric=str(raw["metric"]),
        split=str(raw.get("split", "eval")),
        at=raw["at"],
        k=int(raw.get("k", 3)),
        direction=raw["direction"],
        margin=_size(raw, "margin"),
        sesoi=_size(raw, "sesoi"),
    )


def _size(raw: Mapping[str, Any], field: str) -> float | None:
    if raw.get(field) is None:
        return None
    value = float(raw[field])
    if not (math.isfinite(value) and value > 0):
        raise ResultsError(f"analysis.primary.{field} must be a finite number above 0, got {value}.")
    return value


def _check(plan: Plan) -> None:
    places = [(cell.arm, cell.seed) for cell in plan.cells]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ResultsError(f"arm {twice[0]!r} with seed {twice[1]} is planned twice: plan each cell once.")
    names = [cell.trial_id for cell in plan.cells]
    if len(set(names)) < len(names):
        twice_named = next(name for name in names if names.count(name) > 1)
        raise ResultsError(f"trial_id {twice_named!r} names two cells: every cell needs its own.")
    mentioned = {arm for arm, _ in places} | {
        arm for contrast in plan.contrasts for arm in (contrast.treatment, contrast.baseline)
    }
    for arm in sorted(mentioned - plan.arms.keys()):
        raise unknown("arm", arm, plan.arms)
    for arm in sorted(plan.arms.keys() - plan.labels.keys()):
        raise ResultsError(f"labels lacks arm {arm!r}.")
    for arm, overrides in plan.arms.items():
        if not isinstance(offset := overrides.get("seed_offset", 0), int):
            raise ResultsError(f"arm {arm!r}: seed_offset must be a whole number, got {short(offset)}.")
    if not 0 < plan.alpha < 1:
        raise ResultsError(f"analysis.alpha must lie between 0 and 1, got {plan.alpha}.")
    if plan.primary.k < 1:
        raise ResultsError(f"analysis.primary.k must be at least 1, got {plan.primary.k}.")
