"""What the columns of other people's records mean: the mapping file of `kvtune report --from`, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from analysis.names import QUANTITIES, REACHED
from analysis.plan import At, Direction, ResultsError, unknown

STATUS = Literal[
    "completed", "diverged", "crashed", "oom", "timeout", "stopped", "preempted", "cancelled", "running"
]
ACCURACY = "eval_accuracy"
"""steps_to_N is read from it."""
RECORDS = Literal["planned_steps", "tokens_seen", "data_order_hash", "init_hash", "eval_set_hash"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class Place(_Section):
    """Where a run's arm or seed stands: in a column, or in a part of its file's path or of its name."""

    column: str | None = None
    path: str | None = None
    """A regular expression with one group, searched in the file's path."""
    run: str | None = None
    """A regular expression with one group, searched in the run's own name."""

    @field_validator("path", "run")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        if groups != 1:
            raise ValueError(f"{pattern!r} needs exactly one group, the part in parentheses; it has {groups}")
        return pattern

    @property
    def called(self) -> str:
        """As the mapping has it: a column's name, or {run: PATTERN}."""
        if self.column is not None:
            return self.column
        return f"{{path: {self.path}}}" if self.path is not None else f"{{run: {self.run}}}"

    @model_validator(mode="after")
    def _one_place(self) -> Place:
        if sum(given is not None for given in (self.column, self.path, self.run)) != 1:
            raise ValueError("give one of column, path and run")
        return self


class Metric(_Section):
    """One held-out metric."""

    column: str
    direction: Direction | None = None
    """Whether lower or higher is better; may be left out for the names that kvtune knows."""
    unit: str | None = None


class Question(_Section):
    """The comparison; it should have been fixed before the runs, and the report says that it was not seen."""

    baseline: str
    treatments: list[str] | None = None
    """The arms that are compared with the baseline; all others where it is left out."""
    primary: str
    at: At = "final"
    """final: at the furthest step; last: at each run's own last evaluation, where runs may stop by a rule."""
    k: int = Field(default=3, ge=1)
    margin: float | None = Field(default=None, gt=0)
    sesoi: float | None = Field(default=None, gt=0)
    secondary: list[str] = []
    alpha: float = Field(default=0.05, gt=0, lt=1)

    @field_validator("baseline", mode="before")
    @classmethod
    def _baseline(cls, value: Any) -> Any:
        return _text(value)

    @field_validator("treatments", mode="before")
    @classmethod
    def _treatments(cls, value: Any) -> Any:
        return [_text(arm) for arm in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def _no_arm_twice(self) -> Question:
        arms = [self.baseline, *(self.treatments or [])]
        if len(set(arms)) < len(arms) or self.treatments == []:
            raise ValueError(
                f"treatments are the other arms that are compared with the baseline {self.baseline!r}, each "
                f"once; got {self.treatments}"
            )
        return self


class Mapped(_Section):
    """The mapping file."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Of the experiment; the first file's where it is left out."""
    arm: list[Place] = Field(min_length=1)
    """One place, or several: [method, lr] makes arms such as "adam 1e-4"."""
    seed: list[Place] = Field(min_length=1)
    """One place, or several: [task, seed] makes blocks, each compared within itself."""
    header: bool | None = None
    """csv: whether the first line names the columns; where it does not (false) they are 0, 1, 2, ..."""
    unmatched: Literal["refuse", "ignore"] = "refuse"
    """What is done with runs in which no arm or no seed is found."""
    repeated: Literal["refuse", "first", "last"] | None = None
    """Which value counts where a run has two at one step; ray: the one written last, else refused."""
    run: str | None = None
    """The column that tells runs apart, where arm and seed do not."""
    step: str | None = None
    """The column of steps; what the source calls it, or `step`, where it is left out. A table of runs' final
    values has none."""
    wall_s: str | None = None
    """The column of seconds since the run's start."""
    metrics: dict[str, Metric] = Field(min_length=1)
    status: str | None = None
    """The column that says how a run ended; its values are translated by `statuses`."""
    statuses: dict[str, STATUS] = {}
    planned_steps: int | None = Field(default=None, ge=1)
    """The last step of a complete run; the furthest at which any run logged the primary metric where it is
    left out."""
    recorded: dict[RECORDS, str] = {}
    """What must be equal within a pair -> the column that holds it."""
    config: list[str] | None = None
    """Columns of settings that must be equal within a pair; Ray: all of config/ where it is left out."""
    declared: list[str] = []
    """Columns of settings in which the arms differ by design."""
    seeds: list[str] | None = None
    """The seeds that were planned for every arm; those found where it is left out."""
    analysis: Question

    @field_validator("arm", "seed", mode="before")
    @classmethod
    def _columns_by_name(cls, value: Any) -> Any:
        places = value if isinstance(value, list) else [value]
        return [place if isinstance(place, Mapping | Place) else {"column": place} for place in places]

    @field_validator("seeds", mode="before")
    @classmethod
    def _blocks(cls, value: Any) -> Any:
        return [_text(block) for block in value] if isinstance(value, list) else value

    @field_validator("metrics", mode="before")
    @classmethod
    def _metric_by_column(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: {"column": given} if isinstance(given, str) else given for name, given in value.items()}

    @model_validator(mode="after")
    def _known_metrics(self) -> Mapped:
        for name in (self.analysis.primary, *self.analysis.secondary):
            counted = REACHED.fullmatch(name) and name.startswith("steps") and ACCURACY in self.metrics
            if name not in self.metrics and not counted:
                raise unknown("analysis: metric", name, self.metrics)
        return self

    @model_validator(mode="after")
    def _own_names_keep_their_meaning(self) -> Mapped:
        for name, given in self.metrics.items():
            if (own := QUANTITIES.get(name)) and (
                given.direction not in (None, own.direction) or given.unit not in (None, own.unit)
            ):
                raise ValueError(
                    f"metrics.{name} is kvtune's own name for what is in {own.unit}, direction "
                    f"{own.direction}: leave direction and unit out, or give the metric another name"
                )
        return self


def read_mapping(values: Any, source: str) -> Mapped:
    """The checked mapping. ResultsError names the file, every wrong field and what is allowed."""
    try:
        if not isinstance(values, Mapping):
            raise ResultsError(f"{source}: names fields such as `arm: COLUMN`, got {values!r}.")
        return Mapped.model_validate(values)
    except ValidationError as error:
        problems = dict.fromkeys(_problem(problem) for problem in error.errors())
        raise ResultsError(f"{source}: {' '.join(problems)}") from None


def _problem(problem: Any) -> str:
    place = [str(part) for part in problem["loc"] if not isinstance(part, int)]
    if problem["type"] == "extra_forbidden":
        known = Mapped if len(place) == 1 else SECTIONS.get(place[0], Place)
        return str(unknown("field", ".".join(place), _fields(known, place[:-1])))
    cause = problem.get("ctx", {}).get("error")
    said = str(cause or problem["msg"].replace("Input should", "must")).rstrip(".")
    given = "" if cause or problem["type"] == "missing" else f", got {str(problem['input'])[:80]!r}"
    return f"{'.'.join(place)}{': ' if place else ''}{said}{given}."


SECTIONS: dict[str, type[BaseModel]] = {"metrics": Metric, "analysis": Question}


def _fields(model: type[BaseModel], above: list[str]) -> list[str]:
    return [".".join([*above, name]) for name in model.model_fields]


def _text(value: Any) -> Any:
    """An arm or a block as text: YAML reads 0.1 as a number; of several columns it is a list."""
    parts = value if isinstance(value, list) else [value]
    return " ".join(map(str, parts))
