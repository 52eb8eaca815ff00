"""An experiment as its author writes it: a YAML file, checked at the door; errors name file and field."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from analysis.names import QUANTITIES, Reading, reading_of
from analysis.plan import ResultsError
from analysis.sizes import size
from orchestrator.trackers import TRACKERS, Tracker
from orchestrator.yaml_text import parse
from trainables.config import InputError, unknown

MAX_SEEDS = 10_000
MAX_SEED = 2**31 - 1
MAX_TRIALS = 100_000
MOST_ENDPOINTS = 100
"""Secondary endpoints; each is a table row, and all are corrected together."""
Effect = Annotated[float, Field(ge=1e-9, le=1e9)]
"""A size in some endpoint's unit: nats, fractions, or steps and tokens."""
LARGEST_FILE = 1_000_000
"""Bytes of an experiment file; what is larger is something else, or never ends."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Resources(_Section):
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


class Analysis(_Section):
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

    @model_validator(mode="after")
    def _known_endpoints(self) -> Analysis:
        if self.primary not in QUANTITIES:
            raise unknown("primary endpoint", self.primary, QUANTITIES)
        self._check_secondary()
        better = QUANTITIES[self.primary].direction
        if self.direction not in (None, better):
            raise InputError(
                f"direction of {self.primary} is {better}, got {self.direction}: leave it out, or correct it."
            )
        looks = self.looks
        if looks is not None and (not looks or looks[0] < 1 or sorted(set(looks)) != looks):
            raise InputError(
                f"looks are numbers of pairs that rise, such as [8, 12], got {short(looks)}: "
                "correct them, or leave them out to look once, at the end."
            )
        return self

    def _check_secondary(self) -> None:
        """Known names, and no question asked twice."""
        asked = {self._asked(Reading(self.primary)): "the primary endpoint"}
        for name in self.secondary:
            try:
                reading = reading_of(name, kind="secondary endpoint")
            except ResultsError as error:
                raise InputError(str(error)) from None
            same = asked.setdefault(self._asked(reading), name)
            if same != name or self.secondary.count(name) > 1:
                raise InputError(
                    f"secondary endpoint {name!r} asks the same as {same}: leave one of them out."
                )

    def _asked(self, reading: Reading) -> Reading:
        """The reading with nothing left to the plan."""
        at = reading.at or self.at
        return reading._replace(at=at, k=(reading.k or self.k) if at == "last_k_mean" else None)

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


class ExperimentSpec(_Section):
    """An experiment: arms, crossed with the grid's axes and the seeds, and how they are compared."""

    name: str
    """The experiment's folder under the storage."""
    base: dict[str, Any] = {}
    """DistillConfig fields that all arms share."""
    arms: dict[str, dict[str, Any]] = Field(min_length=2)
    """What each arm changes in the base; with analysis.mode aa it may take other seeds by a seed_offset."""
    grid: dict[str, list[Any]] = {}
    """Further axes: a DistillConfig field and its values, crossed with the arms."""
    seeds: list[int] = Field(min_length=1, max_length=MAX_SEEDS)
    """The blocks of the paired comparison."""
    analysis: Analysis
    resources: Resources = Resources()
    teacher_cache: Literal["auto", "off"] | float = "auto"
    """What one launch may write of the frozen teacher's lessons, which all trials read: auto, off or GiB."""
    trackers: list[Tracker] = ["tensorboard"]
    """Where curves are shown beside the report, for people: tensorboard, mlflow, wandb; [] for nowhere."""

    @field_validator("teacher_cache", mode="before")
    @classmethod
    def _budget(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0.001 <= value <= 1e6
        if not number and value not in ("auto", "off"):
            raise InputError(
                f"teacher_cache is auto, off, or a number of GiB from 0.001 to 1,000,000, got {short(value)}."
            )
        return float(value) if number else value

    @field_validator("trackers", mode="before")
    @classmethod
    def _known_trackers(cls, value: Any) -> Any:
        for number, name in enumerate(value if isinstance(value, list) else ()):
            if name not in TRACKERS:
                raise unknown("tracker", short(name), TRACKERS)
            if name in value[:number]:
                raise InputError(f"{name} is listed twice: name each tracker once.")
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds_as_text(cls, value: Any) -> Any:
        return parse_seeds(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _names_and_baseline(self) -> ExperimentSpec:
        for kind, name in [("experiment", self.name), *(("arm", arm) for arm in self.arms)]:
            if not NAME.fullmatch(name):
                raise InputError(
                    f"the {kind} name {short(name)} cannot name a folder: "
                    f"use up to 64 letters, digits, '.', '_' or '-', the first a letter or digit."
                )
        if self.analysis.baseline not in self.arms:
            raise unknown("analysis.baseline: arm", self.analysis.baseline, self.arms)
        repeated = sorted(seed for seed, times in Counter(self.seeds).items() if times > 1)
        if repeated:
            raise InputError(f"seeds: {repeated[0]} is listed twice; a seed is one block of the comparison.")
        if not all(0 <= seed <= MAX_SEED for seed in self.seeds):
            raise InputError(f"seeds must lie between 0 and {MAX_SEED}.")
        looks = self.analysis.looks
        if looks and looks[-1] < len(self.seeds):
            raise InputError(
                f"analysis.looks ends at {looks[-1]} pairs and {len(self.seeds)} seeds are planned: "
                f"add {len(self.seeds)} to the looks, or plan fewer seeds."
            )
        return self

    @model_validator(mode="after")
    def _not_too_many_trials(self) -> ExperimentSpec:
        """Counted before any is made: the product of a few axes can exceed every memory."""
        axes = [len(values) for values in self.grid.values()]
        total = len(self.arms) * len(self.seeds) * math.prod(axes)
        if total > MAX_TRIALS:
            shown = [f"{size:,}" for size in axes[:12]] + ["..."] * (len(axes) > 12)
            factors = " x ".join([f"{len(self.arms):,} arms", *shown, f"{len(self.seeds):,} seeds"])
            product = f"{total:,}" if total < 10**30 else "more than 10^30"
            raise InputError(
                f"{factors} = {product} trials; at most {MAX_TRIALS:,}: take out values or seeds."
            )
        return self

    @model_validator(mode="after")
    def _looks_that_can_claim(self) -> ExperimentSpec:
        """A look whose level lies below the smallest exact p of its pairs only costs the others theirs."""
        if self.analysis.looks and self.analysis.mode == "ab":
            self._refuse_hopeless(self.analysis.looks)
        return self

    def _refuse_hopeless(self, looks: list[int]) -> None:
        from analysis.looks import hopeless, level_of  # they load SciPy, which few experiments need here
        from analysis.power import least_pairs
        from analysis.signflip import floor_of

        questions = self._questions()
        level = level_of(self.analysis.alpha, looks) / questions
        if vain := hopeless(level, looks):
            least = least_pairs(level)
            shared = f"{len(looks)} looks" if len(looks) > 1 else "1 look"
            shared += f" / {questions:,} contrasts" if questions > 1 else ""
            raise InputError(
                f"analysis.looks {short(looks)}: a look at {vain[0]} pairs can never claim anything: its "
                f"level, alpha {self.analysis.alpha:g} / {shared} = {level:.2g}, lies below the "
                f"smallest exact p of so few, {floor_of(vain[0]):.2g}. At least {least} pairs are needed: "
                f"looks: {sorted({max(look, least) for look in looks})}."
            )

    def _questions(self) -> int:
        """Contrasts of the primary endpoint: every other arm against the baseline, at every grid point."""
        return (len(self.arms) - 1) * math.prod(len(values) for values in self.grid.values())

    def to_yaml(self) -> str:
        """The resolved experiment, readable as an experiment again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def builtin_experiments() -> list[str]:
    """Names of the experiments that travel in the package."""
    files = resources.files("orchestrator").joinpath("experiments").iterdir()
    return sorted(Path(file.name).stem for file in files if file.name.endswith(".yaml"))


def load_spec(name_or_path: str, overrides: Sequence[str] = (), seeds: str | None = None) -> ExperimentSpec:
    """The experiment in a file, or the built-in one of that name, with --set and --seeds applied.

    Relative paths in it (train_file, eval_file, a model's folder) are taken from the current folder, whether
    they stand in the file or on the command line, and made absolute by make_plan: trials run elsewhere.
    Raises InputError with one sentence that names the file and the field.
    """
    text, source = _read(name_or_path)
    values = _mapping(parse(text, source), source)
    for override in overrides:
        set_value(values, override)
    if seeds is not None:
        values["seeds"] = parse_seeds(seeds)
    return spec_from(values, source)


def spec_from(values: Mapping[str, Any], source: str) -> ExperimentSpec:
    """The checked experiment in plain values; `source` names them in errors."""
    values = dict(values)
    for section in ("base", "grid"):
        if section in values and values[section] is None:
            values[section] = {}
    if isinstance(values.get("arms"), dict):
        values["arms"] = {arm: {} if given is None else given for arm, given in values["arms"].items()}
    try:
        return ExperimentSpec.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_problem(error)}") from None


def parse_seeds(text: str) -> list[int]:
    """Seeds written as 0-9 or 0,3,5 or both."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part, re.ASCII)
        if not match:
            raise InputError(f"seeds are written 0-9 or 0,3,5, got {short(text)}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or len(seeds) + last - first >= MAX_SEEDS:
            raise InputError(
                f"seeds {short(part.strip())}: a range must rise, and all hold at most {MAX_SEEDS} seeds."
            )
        seeds.extend(range(first, last + 1))
    return seeds


def set_value(values: dict[str, Any], override: str) -> None:
    """Apply one --set section.field=value to an experiment's plain values; the value is read as YAML.

    An arm's name may hold dots: in arms.NAME.FIELD the field is what follows the last one.
    """
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set takes field=value, such as base.lr=1e-3, got {short(override)}.")
    value = parse(text, f"--set {path}")
    section, _, rest = path.strip().partition(".")
    if section not in ExperimentSpec.model_fields:
        raise unknown("--set: section", section, ExperimentSpec.model_fields)
    keys = [section]
    arms = values.get("arms") or {}
    if rest and section == "arms" and not (rest in arms or isinstance(value, dict)):
        keys += rest.rsplit(".", 1)
        if isinstance(arms, dict) and keys[1] not in arms:
            raise unknown("--set: arm", keys[1][:200], arms)
    elif rest:
        keys.append(rest)
    place = values
    for key in keys[:-1]:
        if place.get(key) is None:
            place[key] = {}
        place = _mapping(place[key], f"--set {path}: {key}")
    place[keys[-1]] = value


def _read(name_or_path: str) -> tuple[str, str]:
    """The experiment's text, and what to call it in errors."""
    path = Path(name_or_path)
    if name_or_path in builtin_experiments() and not path.is_file():
        file = resources.files("orchestrator").joinpath("experiments", f"{name_or_path}.yaml")
        return file.read_text(encoding="utf-8"), f"experiment {name_or_path}"
    if path.suffix not in (".yaml", ".yml") and not os.path.exists(path):
        raise unknown("experiment", name_or_path[:200], builtin_experiments())
    try:
        with path.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise InputError(
                f"experiment file {name_or_path} is larger than {size(LARGEST_FILE)}: is it another file?"
            )
        return content.decode("utf-8"), name_or_path
    except UnicodeDecodeError:
        raise InputError(
            f"{name_or_path} is not a YAML file: it holds bytes that are not UTF-8 text."
        ) from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"experiment file {short(name_or_path)} cannot be read ({reason}): give a YAML file, "
            f"or one of {', '.join(builtin_experiments())}."
        ) from None


def _mapping(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{source} must hold fields and values (name: value), got {short(value)}.")
    return value


def _first_problem(error: ValidationError) -> str:
    """The first finding of pydantic in our words: where, what is wrong, what was given."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return f"{where}: {cause}" if where else str(cause)
    if problem["type"] == "extra_forbidden":
        section, _, name = where.rpartition(".")
        return str(unknown(f"{section}: field" if section else "field", name, _fields_of(section)))
    if problem["type"] == "missing":
        return f"the field {where} is missing; known here: {', '.join(_fields_of(where.rpartition('.')[0]))}."
    rule = problem["msg"].replace("Input should", "must")
    more = error.error_count() - 1
    return f"{where}: {rule[0].lower()}{rule[1:]}, got {short(problem['input'])}." + (
        f" ({more} more)" if more else ""
    )


def _fields_of(section: str) -> Iterable[str]:
    models: dict[str, type[BaseModel]] = {"analysis": Analysis, "resources": Resources}
    return models.get(section, ExperimentSpec).model_fields
