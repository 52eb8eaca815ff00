"""The sections analysis and resources of an experiment, each field with its unit and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as short
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from analysis.names import QUANTITIES, Reading, reading_of
from analysis.plan import ResultsError
from trainables.config import InputError, Mistakes, unknown

MAX_SEEDS = 10_000
MOST_ENDPOINTS = 100
"""Secondary endpoints; each is a table row, and all are corrected together."""
Effect = Annotated[float, Field(ge=1e-9, le=1e9)]
"""A size in some endpoint's unit: nats, fractions, or steps and tokens."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Resources(Section):
    """What one trial is given, and how often it may fail."""

    cpus: int = Field(default=1, ge=1, le=4096)
    """Logical CPUs, and so threads of torch."""
    gpus: float = 0
    """GPUs: 0, 1, or a fraction from 0.01 that shares one between trials; no trial can use a second."""
    memory_gib: float | None = Field(default=None, ge=0.1, le=65536)
    """Main memory that Ray sets aside for a trial, and beyond which its process is ended as oom."""
    time_limit_s: float | None = Field(default=None, ge=0.1, le=31_536_000)
    """Seconds that one attempt may take before it is ended as timeout; a trial that hangs is not told from a
    slow one, so choose it well above the slowest."""
    max_failures: int = Field(default=2, ge=0, le=100)
    """Further attempts after a crash, a timeout, or memory that ran out, each from the newest checkpoint. A
    diverged trial is a result and never tried again; one beyond its own memory_gib only by another launch. A
    node that Ray calls preempted costs none of them."""

    @field_validator("gpus")
    @classmethod
    def _one_or_part_of_one(cls, value: float) -> float:
        """Ray knows no fraction below 0.0001, and no GPU holds more than some tens of trials."""
        if value and not 0.01 <= value <= 1:
            raise InputError(
                f"a trial uses 0 GPUs, 1, or a fraction of one from 0.01, got {value:g}: no trial can use a "
                "second GPU, and other trials of the run take the others."
            )
        return value


class Analysis(Section):
    """The comparison, fixed before any trial runs."""

    baseline: str
    """The arm that every other arm is compared with."""
    primary: str = "eval_ce"
    """The endpoint of the verdict."""
    at: Literal["final", "last_k_mean", "auc"] = "final"
    """Which number of a trial's curve: the last, the mean of the last k evaluations, the area under it."""
    k: int = Field(default=3, ge=1, le=9999)
    """Evaluations in last_k_mean."""
    direction: Literal["min", "max"] | None = None
    """Whether lower or higher is better; known for every endpoint, so it may be left out."""
    margin: Effect | None = None
    """Non-inferiority margin in the endpoint's unit; without one there is no such verdict."""
    sesoi: Effect | None = None
    """Smallest effect of interest in the endpoint's unit, for planning."""
    secondary: list[str] = Field(default=[], max_length=MOST_ENDPOINTS)
    """Further endpoints, corrected together: eval_accuracy, eval_ce@auc, eval_ce@last_5_mean, steps_to_90."""
    alpha: float = Field(default=0.05, ge=1e-6, lt=1)
    """Two-sided level of the primary test."""
    mode: Literal["ab", "aa"] = "ab"
    """ab: arms that differ. aa: one configuration against itself, which must claim nothing."""
    looks: list[Annotated[int, Field(le=MAX_SEEDS)]] | None = Field(default=None, max_length=MAX_SEEDS)
    """Numbers of pairs at which the data are looked at; once, at the end, when left out."""
    smoothing: int = Field(default=1, ge=1, le=9999)
    """Points of the running mean that learning curves are drawn with; 1: none. No number is read from it."""

    @field_validator("primary")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in QUANTITIES:
            raise unknown("primary endpoint", value, QUANTITIES)
        return value

    @field_validator("direction")
    @classmethod
    def _as_it_is(cls, value: str | None, others: ValidationInfo) -> str | None:
        """The endpoint knows its direction; saying it again may not say another."""
        primary = others.data.get("primary")
        better = QUANTITIES[primary].direction if primary else value
        if value not in (None, better):
            raise InputError(f"direction of {primary} is {better}, got {value}: leave it out, or correct it.")
        return value

    @field_validator("secondary")
    @classmethod
    def _no_question_twice(cls, value: list[str], others: ValidationInfo) -> list[str]:
        """Known names, and no question asked twice."""
        found: list[str] = []
        plan = {"at": "final", "k": 3, **others.data}
        asked = {_asked(Reading(plan["primary"]), plan): "the primary endpoint"} if "primary" in plan else {}
        for name in dict.fromkeys(value):
            try:
                same = asked.setdefault(_asked(reading_of(name, kind="secondary endpoint"), plan), name)
            except ResultsError as error:
                found.append(str(error))
                continue
            if same != name or value.count(name) > 1:
                found.append(f"secondary endpoint {name!r} asks the same as {same}: leave one of them out.")
        if found:
            raise Mistakes(found)
        return value

    @field_validator("looks")
    @classmethod
    def _rising(cls, looks: list[int] | None) -> list[int] | None:
        if looks is not None and (not looks or looks[0] < 1 or sorted(set(looks)) != looks):
            raise InputError(
                f"looks are numbers of pairs that rise, such as [8, 12], got {short(looks)}: "
                "correct them, or leave them out to look once, at the end."
            )
        return looks

    def to_plan(self) -> dict[str, Any]:
        """The analysis section of plan.json."""
        primary = {
            "metric": self.primary,
            "split": "eval",
            "at": self.at,
            "k": self.k,
            "direction": QUANTITIES[self.primary].direction,
            "margin": self.margin,
            "sesoi": self.sesoi,
        }
        return {
            "baseline": self.baseline,
            "primary": primary,
            "secondary": list(self.secondary),
            "alpha": self.alpha,
            "mode": self.mode,
            "looks": self.looks,
            # Left out where there is none, so that earlier plans keep their hash.
            **({"smoothing": self.smoothing} if self.smoothing > 1 else {}),
        }


def _asked(reading: Reading, plan: Mapping[str, Any]) -> Reading:
    """The reading with nothing left to the plan."""
    at = reading.at or plan["at"]
    return reading._replace(at=at, k=(reading.k or plan["k"]) if at == "last_k_mean" else None)
