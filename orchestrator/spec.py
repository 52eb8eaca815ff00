"""An experiment as its author writes it: a YAML file, checked at the door; errors name file and field."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from analysis.sizes import size
from orchestrator.fields import mistakes_of
from orchestrator.sections import MAX_SEEDS, Section
from orchestrator.sections import Analysis as Analysis
from orchestrator.sections import Resources as Resources
from orchestrator.trackers import TRACKERS, Tracker
from orchestrator.wording import FORMS, HOMES, TRIAL, all_in_words
from orchestrator.yaml_text import parse
from trainables.config import InputError, Mistakes, mistakes_in, unknown

MAX_SEED = 2**31 - 1
MAX_TRIALS = 100_000
LARGEST_FILE = 1_000_000
"""Bytes of an experiment file; what is larger is something else, or never ends."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SPAN = re.compile(r"[\[(]?(\d{1,9}) ?(?:\.{2,3}|:|to|\u2013|\u2014|\u2212|~) ?(\d{1,9})[\])]?", re.ASCII)
"""A range of seeds in another spelling: 0..9, 0:9, 0 to 9, or with a long dash."""


class ExperimentSpec(Section):
    """An experiment: arms, crossed with the grid's axes and the seeds, and how they are compared."""

    name: str
    """The experiment's folder under the storage."""
    base: dict[str, Any] = Field(default={})
    """DistillConfig fields that all arms share."""
    arms: dict[str, dict[str, Any]] = Field(min_length=2)
    """What each arm changes in the base; with analysis.mode aa it may take other seeds by a seed_offset."""
    grid: dict[str, list[Any]] = Field(default={})
    """Further axes: a DistillConfig field and its values, crossed with the arms."""
    seeds: list[int] = Field(min_length=1, max_length=MAX_SEEDS)
    """The blocks of the paired comparison."""
    analysis: Analysis
    resources: Resources = Resources()
    teacher_cache: Literal["auto", "off"] | float = "auto"
    """What one launch may write of the frozen teacher's cache, which all trials read: auto, off or GiB."""
    trackers: list[Tracker] = Field(default=["tensorboard"])
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
        listed = value if isinstance(value, list) else []
        found = [
            str(unknown("tracker", name if isinstance(name, str) else short(name), TRACKERS))
            for name in listed
            if name not in TRACKERS
        ]
        if found := found or [
            f"{name} is listed twice: name each tracker once."
            for number, name in enumerate(listed)
            if name in listed[:number]
        ]:
            raise Mistakes(found)
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds_as_written(cls, value: Any) -> Any:
        return read_seeds(value)

    @field_validator("name", "arms")
    @classmethod
    def _names_of_folders(cls, value: Any) -> Any:
        kind, names = ("arm", value) if isinstance(value, dict) else ("experiment", [value])
        if wrong := [name for name in names if not NAME.fullmatch(name)]:
            raise Mistakes(
                f"the {kind} name {short(name)} cannot name a folder: "
                "use up to 64 letters, digits, '.', '_' or '-', the first a letter or digit."
                for name in wrong
            )
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_of_blocks(cls, value: list[int]) -> list[int]:
        repeated = sorted(seed for seed, times in Counter(value).items() if times > 1)
        if repeated:
            raise InputError(f"seeds: {repeated[0]} is listed twice; a seed is one block of the comparison.")
        if not all(0 <= seed <= MAX_SEED for seed in value):
            raise InputError(f"seeds must lie between 0 and {MAX_SEED}.")
        return value

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
    found = [*_changed(values, overrides, seeds)]
    source = f"{source} with --set" if overrides else source
    try:
        spec = spec_from(values, source)
    except InputError as error:
        raise Mistakes([*found, *mistakes_in(error)], source) from None
    if found:
        raise Mistakes(found, source)
    return spec


def _changed(values: dict[str, Any], overrides: Sequence[str], seeds: str | None) -> Iterator[str]:
    """Apply --set and --seeds; what is wrong with them."""
    for override in overrides:
        try:
            set_value(values, override)
        except InputError as error:
            yield from mistakes_in(error)
    try:
        values.update({} if seeds is None else {"seeds": parse_seeds(seeds)})
    except InputError as error:
        yield f"--seeds: {error}"


def spec_from(values: Mapping[str, Any], source: str) -> ExperimentSpec:
    """The checked experiment in plain values; `source` names them in errors."""
    values = dict(values)
    for section in ("base", "grid"):
        if section in values and values[section] is None:
            values[section] = {}
    if isinstance(values.get("arms"), dict):
        values["arms"] = {arm: {} if given is None else given for arm, given in values["arms"].items()}
    found = [*mistakes_of(values), *_between_sections(values)]
    try:
        spec = ExperimentSpec.model_validate(values)
    except ValidationError as error:
        found = [*_in_words(error), *found]
    if found:
        raise Mistakes(found, source)
    return spec


def _in_words(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        yield from all_in_words(".".join(str(part) for part in problem["loc"]), problem)


def _between_sections(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong between sections that are each right; a section of another shape is not looked at."""
    arms, analysis, grid = (_pairs(values.get(name)) for name in ("arms", "analysis", "grid"))
    baseline, named = analysis.get("baseline"), bool(arms) and not arms.keys() & set(TRIAL)
    if isinstance(baseline, str) and named and baseline not in arms:
        yield str(unknown("analysis.baseline: arm", baseline, arms))
    try:
        seeds = len(read_seeds(values.get("seeds")))
    except (InputError, TypeError):
        seeds = 1
    axes = [len(listed) for listed in grid.values() if isinstance(listed, list)]
    yield from _too_many_trials(len(arms), axes, seeds)
    try:
        plan = Analysis.model_validate(analysis)
    except ValidationError:
        return
    if plan.looks and plan.looks[-1] < seeds:
        yield (
            f"analysis.looks ends at {plan.looks[-1]} pairs and {seeds} seeds are planned: "
            f"add {seeds} to the looks, or plan fewer seeds."
        )
    elif plan.looks and plan.mode == "ab" and len(arms) > 1:
        yield from _hopeless_looks(plan.looks, plan.alpha, (len(arms) - 1) * math.prod(axes))


def _hopeless_looks(looks: Sequence[int], alpha: float, contrasts: int) -> Iterator[str]:
    """A look whose level lies below the smallest exact p of its pairs only costs the others theirs.

    contrasts: of the primary endpoint, every other arm against the baseline at every point of the grid.
    """
    from analysis.looks import hopeless, level_of  # they load SciPy, which few experiments need here
    from analysis.power import least_pairs
    from analysis.signflip import floor_of

    level = level_of(alpha, looks) / contrasts if contrasts else 0.0
    if contrasts and (vain := hopeless(level, looks)):
        least = least_pairs(level)
        shared = f"{len(looks)} looks" if len(looks) > 1 else "1 look"
        shared += f" / {contrasts:,} contrasts" if contrasts > 1 else ""
        yield (
            f"analysis.looks {short(looks)}: a look at {vain[0]} pairs can never claim anything: its "
            f"level, alpha {alpha:g} / {shared} = {level:.2g}, lies below the "
            f"smallest exact p of so few, {floor_of(vain[0]):.2g}. At least {least} pairs are needed: "
            f"looks: {sorted({max(look, least) for look in looks})}."
        )


def _pairs(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _too_many_trials(arms: int, axes: Sequence[int], seeds: int) -> Iterator[str]:
    """Counted before any is made: the product of a few axes can exceed every memory."""
    total = arms * seeds * math.prod(axes)
    if total > MAX_TRIALS:
        shown = [f"{size:,}" for size in axes[:12]] + ["..."] * (len(axes) > 12)
        factors = " x ".join([f"{arms:,} arms", *shown, f"{seeds:,} seeds"])
        product = f"{total:,}" if total < 10**30 else "more than 10^30"
        yield f"{factors} = {product} trials; at most {MAX_TRIALS:,}: take out values or seeds."


def read_seeds(value: Any) -> Any:
    """Seeds as an experiment's author writes them: 0-9, or 0,3,5, or a list; InputError with the form meant.

    A bare number is refused, for it is meant as a count as often as for a seed.
    """
    if isinstance(value, str) and not value.strip().isdecimal():
        return parse_seeds(value)
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) or (isinstance(text, int) and not isinstance(text, bool)):
        raise InputError(f"seeds: {_one_number(int(text))}")
    if isinstance(value, list) and (ranges := [one for one in value if isinstance(one, str)]):
        whole = ",".join(str(one) for one in value)
        parse_seeds(whole)
        raise InputError(f"seeds: {short(ranges[0])} in a list is text: write seeds: {whole[:200]}.")
    if not isinstance(value, list):
        given = "nothing" if value is None else short(value)
        raise InputError(f"seeds: {given} is no list of seeds: write {FORMS['seeds']}.")
    return value


def _one_number(number: int) -> str:
    if not 0 < number <= MAX_SEEDS:
        return f"{short(number)} is one number: write {FORMS['seeds']}."
    count = "one seed" if number == 1 else f"{number} seeds"
    range_ = "[0]" if number == 1 else f"0-{number - 1}"
    return f"{number} is one number: write {range_} for {count}, or [{number}] for seed {number} alone."


def parse_seeds(text: str) -> list[int]:
    """Seeds written as 0-9 or 0,3,5 or both."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part, re.ASCII)
        if not match:
            raise InputError(f"seeds are written 0-9 or 0,3,5, got {short(text)}{_range_meant(text)}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or len(seeds) + last - first >= MAX_SEEDS:
            raise InputError(
                f"seeds {short(part.strip())}: a range must rise, and all hold at most {MAX_SEEDS} seeds."
            )
        seeds.extend(range(first, last + 1))
    return seeds


def _range_meant(text: str) -> str:
    """The way to write a range that stands there in another spelling; empty where there is none."""
    if count := re.fullmatch(r"range\((?:0, ?)?([1-9]\d{0,8})\)", text.strip(), re.ASCII):
        return f": write 0-{int(count[1]) - 1}"
    meant = SPAN.fullmatch(text.strip())
    return f": write {meant[1]}-{meant[2]}, both included" if meant else ""


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
        if section in HOMES and not rest:
            raise InputError(f"--set {section}: write --set {HOMES[section]}.{section}=...")
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
