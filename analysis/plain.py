"""A comparison as plain values for strict JSON: no NaN, no infinity, and a reason for every null."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from analysis.paired_tests import Statistics
from analysis.pairing import SeedRow
from analysis.signflip import ENUMERATED

if TYPE_CHECKING:
    from analysis.comparison import Comparison


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    """All of it; `why_null` holds the dotted path of every null outside `seeds`, with its reason."""
    plain = {
        "treatment": comparison.treatment,
        "baseline": comparison.baseline,
        "metric": comparison.metric,
        "endpoint": comparison.endpoint.label,
        "unit": comparison.endpoint.unit,
        "direction": comparison.endpoint.direction,
        "role": comparison.role,
        "mode": comparison.mode,
        "verdict": comparison.verdict,
        "capped_from": comparison.capped_from,
        "cap": comparison.cap,
        "banner": comparison.banner,
        "sentence": comparison.sentence,
        "next_step": comparison.next_step,
        "warnings": list(comparison.warnings),
        "alpha": comparison.alpha,
        "margin": comparison.margin,
        "sesoi": comparison.sesoi,
        "planned": comparison.planned,
        "pairs": comparison.pairs,
        "failures": comparison.failures,
        "lost": comparison.lost,
        "statuses": comparison.statuses,
        **numbers_dict(comparison.statistics),
        "floor": comparison.floor,
        "scale": comparison.statistics.scale,
        "effects": _plain(asdict(comparison.effects)),
        "sensitivity": _plain(asdict(comparison.sensitivity)),
        "worst_rank": None if comparison.worst_rank is None else asdict(comparison.worst_rank),
        "margin_test": None if comparison.margin_test is None else asdict(comparison.margin_test),
        "failure_test": asdict(comparison.failure_test),
        "holm": None if comparison.holm is None else asdict(comparison.holm),
        "look": {**_plain(asdict(comparison.look)), "allowed": comparison.look.allowed},
        "detectable_dz": comparison.detectable_dz,
        "detectable": comparison.detectable,
        "needed": None if comparison.needed is None else asdict(comparison.needed),
        "noise": None if comparison.noise is None else asdict(comparison.noise),
        "gates": [asdict(gate) for gate in comparison.gates],
        "seeds": [_row(row) for row in comparison.rows],
    }
    return {**plain, "why_null": {path: _reason(comparison, path) for path in _nulls(plain)}}


def numbers_dict(numbers: Statistics) -> dict[str, Any]:
    plain: dict[str, Any] = _plain(asdict(numbers))
    return {name: value for name, value in plain.items() if name not in ("scale", "lean")}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _row(row: SeedRow) -> dict[str, Any]:
    """A row for JSON; a note says why a value is null. Attempts stand with the cells."""
    plain = {name: value for name, value in asdict(row).items() if not name.endswith("_attempts")}
    notes = []
    for name in ("baseline", "treatment"):
        if plain[name] is None:
            status = plain[f"{name}_status"]
            notes.append(f"{name}: {'no endpoint' if status == 'completed' else status}")
        elif not math.isfinite(plain[name]):
            plain[name] = None
            notes.append(f"{name}: never reached")
    if plain["delta"] is None:
        notes.append("delta: no complete pair")
    elif not math.isfinite(plain["delta"]):
        plain["delta"] = None
        notes.append("delta: unbounded")
    return {**plain, "note": "; ".join(notes)}


def _nulls(plain: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    for name, value in plain.items():
        if value is None:
            yield f"{inside}{name}"
        elif isinstance(value, dict):
            yield from _nulls(value, f"{inside}{name}.")


def _reason(comparison: Comparison, path: str) -> str:
    return NAMED[path](comparison) if path in NAMED else _why_no_number(comparison, path)


def _why_no_number(comparison: Comparison, path: str) -> str:
    name = path.rsplit(".", 1)[-1]
    if comparison.verdict == "INVALID" and comparison.pairs:
        return "a validity gate failed, so nothing was tested"
    if comparison.pairs < 1:
        return "there is no complete pair"
    if comparison.role == "exploratory" and (name.startswith("p_") or not path.count("interval")):
        return "the plan does not name this question: an exploratory estimate has no test"
    if name.startswith("interval_family") and comparison.role == "exploratory":
        return "an exploratory question belongs to no family"
    if comparison.statistics.scale == "signed ranks":
        return "some run never reached the threshold: the exact test ran on signed ranks"
    if comparison.pairs < (3 if name in NEEDS_THREE else 2):
        return (
            f"{comparison.pairs} complete pairs are too few"
            if comparison.pairs > 1
            else "one pair has no spread"
        )
    if name == "interval_exact" and comparison.role == "exploratory" and comparison.pairs > ENUMERATED:
        return "an exploratory estimate of many pairs goes without"
    if name.startswith("interval") and name.endswith("exact") and comparison.interval is not None:
        return "the exact test can reject no value with so few pairs"
    if comparison.verdict == "DEGENERATE" or comparison.statistics.interval is None:
        return "the differences do not vary"
    return OTHERWISE.get(name, "it is beyond the range of floats")


NEEDS_THREE = ("gz", "gz_interval", "leave_one_out", "correlation", "pairing_gain")
OTHERWISE = {
    "correlation": "one arm does not vary over the seeds, or is unbounded",
    "pairing_gain": "one arm does not vary over the seeds, or is unbounded",
    "skew_z": "it is asked of 6 to 100 bounded pairs",
    "p_t_highest": "without one of the seeds the differences do not vary",
}


def _worst_rank(comparison: Comparison) -> str:
    if not any(comparison.failures.values()):
        return "no run failed"
    if comparison.verdict == "INVALID":
        return "a validity gate failed, so nothing was tested"
    if comparison.role == "exploratory":
        return "the plan does not name this question: an exploratory estimate has no test"
    return "no seed failed: all that failed runs share their seeds with lost ones"


def _margin_test(comparison: Comparison) -> str:
    if comparison.margin is None:
        return "no margin was named in the plan"
    if comparison.mode == "aa":
        return "an A/A claims nothing"
    return _why_no_number(comparison, "margin_test")


def _holm(comparison: Comparison) -> str:
    if comparison.role == "exploratory":
        return "an exploratory question belongs to no family"
    return (
        "an A/A claims nothing" if comparison.mode == "aa" else "the question shares its level with no other"
    )


def _needed(comparison: Comparison) -> str:
    return (
        "no smallest effect of interest was named in the plan"
        if comparison.sesoi is None
        else "there is no SD to plan with"
    )


NAMED: dict[str, Callable[[Comparison], str]] = {
    "capped_from": lambda comparison: "nothing took the verdict back",
    "cap": lambda comparison: "nothing took the verdict back",
    "banner": lambda comparison: "no seed was added after a look",
    "margin": lambda comparison: "none was named in the plan",
    "sesoi": lambda comparison: "none was named in the plan",
    "worst_rank": _worst_rank,
    "margin_test": _margin_test,
    "holm": _holm,
    "holm.p_worst_rank": lambda comparison: "no run failed",
    "needed": _needed,
    "needed.at_sd": lambda comparison: "it takes more than 10,000",
    "needed.at_upper_sd": lambda comparison: "it takes more than 10,000",
    "detectable_dz": lambda comparison: "it takes two complete pairs",
    "detectable": lambda comparison: "there is no SD of the differences",
    "noise": lambda comparison: "only an A/A with a complete pair measures it",
    "noise.sd": lambda comparison: "one pair has no spread",
    "noise.upper_sd": lambda comparison: "the differences do not vary",
    "noise.half_width": lambda comparison: "the differences do not vary",
}
"""Path -> why it is null, where that does not hang on the numbers."""
