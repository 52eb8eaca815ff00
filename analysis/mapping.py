"""What the columns of other people's records mean: the mapping file of `kvtune report --from`, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from analysis.plan import At, Direction, ResultsError, unknown

STATUS = Literal["completed", "diverged", "crashed", "oom", "timeout", "preempted", "cancelled"]
ACCURACY = "eval_accuracy"
"""steps_to_N is read from it."""
RECORDS = Literal["planned_steps", "tokens_seen", "data_order_hash", "init_hash", "eval_set_hash"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    primary: str
    at: At = "final"
    k: int = Field(default=3, ge=1)
    margin: float | None = Field(default=None, gt=0)
    sesoi: float | None = Field(default=None, gt=0)
    secondary: list[str] = []
    alpha: float = Field(default=0.05, gt=0, lt=1)


class Mapped(_Section):
    """The mapping file."""

    name: str = Field(default="imported", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    arm: Place
    seed: Place
    run: str | None = None
    """csv: the column that tells runs apart, where arm and seed do not."""
    step: str = "step"
    wall_s: str | None = None
    """The column of seconds since the run's start."""
    metrics: dict[str, Metric] = Field(min_length=1)
    status: str | None = None
    """The column that says how a run ended; its values are translated by `statuses`."""
    statuses: dict[str, STATUS] = {}
    planned_steps: int | None = Field(default=None, ge=1)
    """The last step of a complete run; the furthest step of any run where it is left out."""
    recorded: dict[RECORDS, str] = {}
    """What must be equal within a pair -> the column that holds it."""
    config: list[str] | None = None
    """Columns of settings that must be equal within a pair; Ray: all of config/ where it is left out."""
    declared: list[str] = []
    """Columns of settings in which the arms differ by design."""
    seeds: list[int] | None = None
    """The seeds that were planned for every arm; those found where it is left out."""
    analysis: Question

    @field_validator("arm", "seed", mode="before")
    @classmethod
    def _column_by_name(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @field_validator("metrics", mode="before")
    @classmethod
    def _metric_by_column(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: {"column": given} if isinstance(given, str) else given for name, given in value.items()}

    @model_validator(mode="after")
    def _known_metrics(self) -> Mapped:
        for name in (self.analysis.primary, *self.analysis.secondary):
            if name not in self.metrics and not (name.startswith("steps_to_") and ACCURACY in self.metrics):
                raise unknown("analysis: metric", name, self.metrics)
        return self


def read_mapping(values: Any, source: str) -> Mapped:
    """The checked mapping; ResultsError names the file, the field, what was given and what is allowed."""
    try:
        return Mapped.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        cause = problem.get("ctx", {}).get("error")
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            raise unknown(f"{source}: field", where, Mapped.model_fields) from None
        said = cause or problem["msg"].replace("Input should", "must")
        given = "" if cause or problem["type"] == "missing" else f", got {str(problem['input'])[:80]!r}"
        raise ResultsError(f"{source}: {f'{where}: ' if where else ''}{said}{given}.") from None
