"""The names of what is compared: one list, for who plans an experiment and for who reads its results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from analysis.plan import At, Direction, ResultsError, unknown


class Quantity(NamedTuple):
    label: str
    unit: str
    direction: Direction


QUANTITIES: dict[str, Quantity] = {
    "eval_ce": Quantity("eval CE", "nats/token", "min"),
    "eval_accuracy": Quantity("eval accuracy", "fraction exact", "max"),
    "kv_cka": Quantity("KV CKA", "0 to 1", "max"),
    "kv_cka_keys": Quantity("key CKA", "0 to 1", "max"),
    "kv_cka_values": Quantity("value CKA", "0 to 1", "max"),
    "probe_r2": Quantity("probe R²", "0 to 1", "max"),
}
"""Held-out metrics that mean the same in every arm. What is missing here is never compared."""

REACHED = re.compile(r"(steps|tokens)_to_([1-9]\d?|100)")
"""steps_to_90: first evaluated step with 90 % accuracy; never reached is +inf, worse than any step."""
READINGS = ("final", "last_k_mean", "auc", "last_5_mean")
LAST = re.compile(r"last_([1-9]\d{0,3})_mean")

OWN_TARGET = ("kv_loss", "loss")
"""Each arm's KV target is its own projection, so these mean something else in every arm."""


class Reading(NamedTuple):
    """What a name asks for: which curve, and which number of it."""

    source: str
    """The logged metric."""
    at: At | None = None
    """None: read as the primary endpoint is."""
    k: int | None = None
    """Evaluations in the mean of the last ones; None: the plan's."""
    threshold: float | None = None
    """The accuracy to reach, as a fraction."""
    along: Literal["step", "tokens"] = "step"
    """What it takes to reach the threshold is counted in these."""


def level_text(told: str) -> str:
    """A factor's value as people read it: JSON text, a string in it without its quotes.

    A string that would then read as another value keeps them ("1" beside 1), as does any other text.
    """
    try:
        value = json.loads(told)
    except ValueError:
        return told
    return value if isinstance(value, str) and not _is_json(value) else told


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def reading_of(name: str, known: Mapping[str, Quantity] = QUANTITIES, kind: str = "metric") -> Reading:
    """METRIC, METRIC@READING (eval_ce@auc, eval_ce@last_5_mean), steps_to_N or tokens_to_N.

    Raises ResultsError for any other name: did you mean, and what is known. `kind` is what errors call it.
    """
    if reached := REACHED.fullmatch(name):
        along: Literal["step", "tokens"] = "step" if reached[1] == "steps" else "tokens"
        return Reading("eval_accuracy", "final", threshold=int(reached[2]) / 100, along=along)
    source, asked, how = name.partition("@")
    if source in OWN_TARGET:
        raise ResultsError(
            f"{source} is not compared across arms: each arm's KV target is its own projection. "
            f"Compare {', '.join(known)} or steps_to_90."
        )
    if source not in known:
        reached_already = REACHED.fullmatch(source)
        if reached_already:
            raise ResultsError(f"{kind} {name!r}: {source} is one number already; write it without @{how}.")
        raise unknown(kind, source, [*known, "steps_to_90", "tokens_to_90"])
    return _read_at(source, how, name, kind) if asked else Reading(source)


def _read_at(source: str, how: str, name: str, kind: str) -> Reading:
    if last := LAST.fullmatch(how):
        return Reading(source, "last_k_mean", int(last[1]))
    ways: dict[str, At] = {"final": "final", "last_k_mean": "last_k_mean", "auc": "auc"}
    if how not in ways:
        raise unknown(f"{kind} {name!r}: reading", how, READINGS)
    return Reading(source, ways[how])
