"""What is wrong in an experiment, told to its author: what was given, and the form that is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from reprlib import repr as short
from typing import Any, get_args

import yaml
from pydantic_core import ErrorDetails

from orchestrator.sections import Analysis, Resources
from trainables.config import LITERALS, DistillConfig, InputError, mistakes_in

SET_ELSEWHERE = {
    "seed": "list it under seeds",
    "output_dir": "choose the place with --storage",
    "threads": "set resources.cpus",
    "teacher_cache": "set teacher_cache at the top of the experiment",
    "storage": "give --storage on the command line",
    "address": "give --address on the command line",
}
"""What an experiment's trials are given by other means than their fields."""
TRIAL = tuple(field.name for field in fields(DistillConfig) if field.name not in SET_ELSEWHERE)
"""A trial's fields that base, arms and grid take."""
FORMS = {
    "name": "name: mine",
    "base": "base: {model_name: gpt2, lr: 1e-4}",
    "arms": "arms: {flat: {alignment_mode: flat}, structured: {alignment_mode: structured}}",
    "grid": "grid: {lr: [1e-4, 3e-4]}",
    "seeds": "seeds: 0-7, or 0,3,5, or [0, 3, 5]",
    "analysis": "analysis: {baseline: flat, primary: eval_ce, margin: 0.02}",
    "resources": "resources: {cpus: 2, gpus: 0, max_failures: 2}",
    "teacher_cache": "teacher_cache: auto, or off, or a number of GiB",
    "trackers": "trackers: [tensorboard, wandb], or [] for none",
}
"""Every section of an experiment as it is written."""
HOMES: Mapping[str, str] = {
    **dict.fromkeys(FORMS, ""),
    **dict.fromkeys(Resources.model_fields, "resources"),
    **dict.fromkeys(Analysis.model_fields, "analysis"),
    **dict.fromkeys(TRIAL, "base"),
}
"""Where every field belongs; "": at the top."""
ELSEWHERE = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "model": "model_name",
    "metric": "primary",
    "endpoint": "primary",
    "control": "baseline",
    "num_samples": "seeds",
}
"""What other trainers and tuners call our fields."""
NOUNS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "names with their values",
    "model_type": "names with their values",
}
YES, NO = ("yes", "on", "true", "y"), ("no", "off", "false", "n")
NUMBER = re.compile(r"([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?) ?(%|[A-Za-z]{0,12})")
DRAWN = ("choice", "uniform", "quniform", "loguniform", "randint", "randn", "sample_from", "samples")
"""Search spaces of Ray Tune that draw at random."""
SEARCH = ("grid_search", "values", *DRAWN)
CALL = re.compile(r"(?:ray\.)?(?:tune\.)?(\w+)\((.*)\)", re.DOTALL)
LONGEST = 200
"""Characters of an author's own values that are written into the form."""


def in_words(where: str, problem: ErrorDetails) -> str:
    """One finding of pydantic: where, what is meant, what was given, and how to write it."""
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        told = str(cause)
        return told if told.startswith(where.partition(".")[0]) else f"{where}: {told}"
    section, _, name = where.rpartition(".")
    value, kind = problem["input"], problem["type"]
    if kind == "extra_forbidden":
        return unknown_field(section, name, value)
    if kind == "missing":
        return f"the field {where} is missing: write {form_of(where)}."
    if kind == "too_short" and where == "arms":
        return f"arms: one arm is compared with another, so there are two at least: write {FORMS['arms']}."
    noun = NOUNS.get(kind)
    rule = f"must be {noun}" if noun else problem["msg"].replace("Input should", "must")
    if value is None:
        return f"{where} is empty and {rule}: {_instead_of_nothing(where)}."
    way = _way(where, kind, value, problem["msg"])
    return f"{where} {rule[0].lower()}{rule[1:]}, got {short(value)}{f': {way}' if way else ''}."


def all_in_words(where: str, problem: ErrorDetails) -> list[str]:
    """The same for a finding that may itself tell several."""
    cause = problem.get("ctx", {}).get("error")
    told = mistakes_in(cause) if isinstance(cause, InputError) else [""]
    return [
        in_words(where, {**problem, "ctx": {"error": InputError(each)}} if each else problem) for each in told
    ]


def unknown_field(section: str, name: str, value: Any = None) -> str:
    """A field that its section has not: what it was meant for, and where that belongs."""
    where = f"{section}.{name}" if section else name
    home = section.partition(".")[0]
    in_trial = home in ("base", "arms", "grid")
    ours = TRIAL if in_trial else tuple(n for n, place in HOMES.items() if place == section)
    plain = name.strip().lstrip("-").replace("-", "_").lower()
    if name in SEARCH and home in ("base", "arms"):
        return _searched(section.rpartition(".")[2], where, {name: value})
    if glued := re.fullmatch(r"(\w+)[:=](.+)", name):
        return f"{where[:80]}: leave a space after the colon: {glued[1]}: {glued[2]}"[:LONGEST] + "."
    if plain in SET_ELSEWHERE and plain not in ours:
        return f"{where} does not belong here: {SET_ELSEWHERE[plain]}."
    if plain in HOMES and plain not in ours:
        return f"{where} {'stands at the top and ' * (not section)}belongs {_at_home(plain, value)}."
    nearest = (section and get_close_matches(plain, ours, n=1)) or get_close_matches(plain, HOMES, n=1)
    if close := [ELSEWHERE[plain]] if plain in ELSEWHERE else nearest:
        at_home = "" if close[0] in ours else f", which belongs {_at_home(close[0], value)}"
        return f"{section}: field {name!r} is unknown. Did you mean {close[0]!r}{at_home}?".removeprefix(": ")
    known = "`kvtune train --help` lists a trial's" if in_trial else f"known: {', '.join(ours)}"
    return f"{section}: field {short(name)} is unknown; {known}.".removeprefix(": ")


def _at_home(name: str, value: Any) -> str:
    """Where a field belongs, and how it is written there."""
    given = flow({name: value}) or f"{{{name}: ...}}"
    home = HOMES[name]
    return f"under {home}, {home}: {given}" if home else f"at the top, {given[1:-1]}"


def form_of(where: str) -> str:
    """How the section that a place lies in is written."""
    return FORMS.get(where.partition(".")[0], FORMS["base"])


def _instead_of_nothing(where: str) -> str:
    optional = where in ("resources", "trackers", "teacher_cache") or where.count(".")
    return f"write {form_of(where)}" if not optional else (
        "leave it out for its default, or give it a value" if where.count(".") else
        f"leave it out for its default, or write {form_of(where)}"
    )  # fmt: skip


def _way(where: str, kind: str, value: Any, expected: str) -> str:
    """How what was probably meant is written; empty where that cannot be told."""
    section, _, name = where.rpartition(".")
    if where == "arms" or section == "arms":
        return _arms(name, value)
    if kind == "list_type":
        return _list(where, value)
    if kind == "literal_error" and name not in TRIAL and isinstance(value, str):
        words = re.findall(r"'([^']*)'", expected)
        close = [word for word in words if value.lower().startswith(word)]
        close = close or get_close_matches(value.lower(), words, n=1)
        return f"did you mean {close[0]}" if close else ""
    if kind in ("dict_type", "model_type"):
        return f"write {_merged(where, value) or form_of(where)}"
    one = isinstance(value, list) and len(value) == 1 and not name.isdecimal()
    if section != "grid" and one:
        return f"write {name}: {value[0]}, without brackets"[:LONGEST]
    if name in TRIAL and (several := _several(value)) is not None:
        return _axis(name, several, section)
    return _scalar(name, kind, value)


def _scalar(name: str, kind: str, value: Any) -> str:
    if name.isdecimal():  # an entry of a list
        return ""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    if kind in ("int_type", "int_from_float") and whole:
        return f"write {name}: {int(value)}"
    if kind == "string_type" and not isinstance(value, (list, dict)):
        return f"quote it, {name}: '{value}'"
    if not isinstance(value, str):
        return ""
    if kind == "bool_type" and value.lower() in YES + NO:
        return f"write {name}: {'true' if value.lower() in YES else 'false'}"
    number = NUMBER.fullmatch(value.strip().replace("\u2212", "-"))
    if kind not in ("float_type", "int_type") or not number:
        return ""
    plain = number[1].replace("_", "")
    if number[2] == "%":
        return f"write it as a fraction, {name}: {float(plain) / 100:g}"
    return f"that is text; write {name}: {plain}" + (", the number alone" if number[2] else ", unquoted")


def _several(value: Any) -> Any:
    """The values that somebody meant to go through: a list, or Ray Tune's spelling of one; else None."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in SEARCH:
        return value if next(iter(value)) in DRAWN else next(iter(value.values()))
    if isinstance(value, str) and (call := CALL.fullmatch(value.strip())) and call[1] in SEARCH:
        return call[2]
    return None


def _axis(axis: str, values: Any, section: str) -> str:
    """Several values of one field: an axis of the grid, or arms."""
    listed = flow(values) if isinstance(values, list) else values if isinstance(values, str) else ""
    form = f"grid: {{{axis}: {listed if listed.startswith('[') else '[VALUE, VALUE]'}}}"
    drawn = isinstance(values, dict)
    if section == "grid":
        return f"write {form}"
    return (
        "nothing is drawn at random here: " if drawn else ""
    ) + f"values to go through stand under grid, {form}"


def _searched(field: str, where: str, value: Mapping[str, Any]) -> str:
    words = next(iter(value.values()))
    if field in LITERALS and isinstance(words, list) and all(isinstance(word, str) for word in words):
        return f"{where}: {field} is a field and no arm: name an arm for each value: write {arms_of(words)}."
    return f"{where}: {_axis(field, _several(dict(value)), '')}."


def _list(where: str, value: Any) -> str:
    section, _, name = where.rpartition(".")
    if section == "grid":
        several = _several(value)
        if several is None and isinstance(value, str) and "," in value:
            several = f"[{value}]"
        return _axis(
            name, [value] if several is None and not isinstance(value, (str, dict)) else several, section
        )
    if isinstance(value, str) and value.lower() in (*NO, "none", "null"):
        return f"write {name}: [] for none"
    if isinstance(value, str):
        return f"write {name}: {flow([word for word in re.split(r'[,; ]+', value) if word])}"
    if isinstance(value, (bool, dict)):
        return f"write {form_of(where)}" if not section else ""
    return f"write {name}: {flow([value])}"


def _merged(where: str, value: Any) -> str:
    """A list of `- name: value` as fields and values; empty where it is none."""
    if isinstance(value, str) and (pair := re.fullmatch(r"(\w+) ?= ?(\S+)", value.strip())):
        return f"{where}: {{{pair[1]}: {pair[2]}}}"[:LONGEST]
    entries = value if isinstance(value, list) and value and all(isinstance(e, dict) for e in value) else []
    text = flow({name: each for entry in entries for name, each in entry.items()}) if entries else ""
    return f"{where.rpartition('.')[2]}: {text}, without dashes" if 0 < len(text) <= LONGEST else ""


def _arms(name: str, value: Any) -> str:
    """arms, or one of them, that is no fields and values."""
    words = [word for word in re.split(r"[,; ]+", value) if word] if isinstance(value, str) else value
    if name != "arms" and isinstance(value, str):
        return f"an arm is what it changes in base: write {name}: {flow(_meant(value)) or '{FIELD: VALUE}'}"
    if name == "arms" and (merged := _merged("arms", value)):
        return f"write {merged}"
    if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
        return f"an arm has a name and what it changes: write {arms_of(words)}"
    return f"write {FORMS['arms']}"


def arms_of(words: Iterable[str]) -> str:
    """Arms of these names, each with the field that it names the value of."""
    words = list(words)
    known = {word: _meant(word) for word in words}
    if not all(known.values()) or len(flow(known)) > LONGEST:
        shown = ", ".join(f"{word}: {{FIELD: VALUE}}" for word in words[:3])
        return f"arms: {{{shown}{', ...' if len(words) > 3 else ''}}}"[: 2 * LONGEST]
    return f"arms: {flow(known)}"


def _meant(word: str) -> dict[str, str]:
    """The field that has this word for a value, with it."""
    return next(({name: word} for name in ("alignment_mode", "kv_method", *LITERALS)
                 if word in get_args(LITERALS[name])), {})  # fmt: skip


def flow(value: Any) -> str:
    """A value as it is written in YAML, on one line; empty where there is nothing, or it is too long."""
    if not value:
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.strip().removesuffix("...").strip() if len(text) <= 2 * LONGEST else ""
