"""A methods paragraph ready to paste: what was planned, and what was really done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from analysis.arms import earlier_attempts
from analysis.endpoints import endpoint_of
from analysis.plan import Plan
from analysis.results import Results, asked_otherwise
from analysis.sentences import capitalised, plural
from analysis.signflip import DRAWS, ENUMERATED
from analysis.validity import GateStatus

ENDED: Mapping[str, tuple[str, str]] = {
    "completed": ("completed", "completed"),
    "diverged": ("diverged", "diverged"),
    "crashed": ("crashed", "crashed"),
    "oom": ("ran out of memory", "ran out of memory"),
    "timeout": ("ran out of time", "ran out of time"),
    "stopped": ("ended early", "ended early"),
    "preempted": ("was preempted", "were preempted"),
    "cancelled": ("was cancelled", "were cancelled"),
    "running": ("was still running", "were still running"),
    "not_run": ("has not run", "have not run"),
}
"""Status -> what became of one run, and of several."""
SHARED = {
    "the same batches in the same order within each pair": "batches in their order",
    "the same first weights within each pair": "first weights",
    "the same held-out rows within each pair": "held-out rows",
}
"""Gate -> what a pair has in common where it is passed."""


def methods(results: Results) -> str:
    """Plain sentences from the plan and the results; nothing that did not happen."""
    return " ".join(_sentences(results))


def _sentences(results: Results) -> Iterator[str]:
    plan = results.experiment.plan
    yield _design(plan)
    if results.setup:
        yield f"Setup: {'; '.join(f'{name} {text}' for name, text in results.setup.items())}."
    yield from _pairing(results)
    yield _endpoint(plan)
    if plan.mode == "aa":
        yield "The arms hold the same configuration (A/A), so no difference was to be claimed."
    if results.comparisons:
        yield from _tests(results)
        yield from _looks(results)
    yield from _outcomes(results)
    yield from _checks(results)
    yield f"Plan {plan.plan_hash}; analysis by kvtune with SciPy."


def _design(plan: Plan) -> str:
    arms = len({label.arm for label in plan.labels.values()})
    axes = "".join(f", crossed with {len(values)} values of {axis}" for axis, values in plan.grid.items())
    what = f"{plural(arms, 'arm')}{axes}"
    if plan.imported is not None:
        found = "as planned there" if plan.imported.planned else "as they were found"
        return (
            f"Runs that were made elsewhere were read from {plan.imported.source} records: {what} over "
            f"{plural(len(plan.seeds), 'seed')}, {found}; the seed is the unit of replication."
        )
    verb = "compared" if arms > 1 else "ran"
    seeds = plural(len(plan.seeds), "planned seed")
    return f"We {verb} {what} over {seeds}; the seed is the unit of replication."


def _pairing(results: Results) -> Iterator[str]:
    """What the two runs of a pair are known to have in common."""
    status = gate_statuses(results)
    shared = [what for gate, what in SHARED.items() if status.get(gate) == "passed"]
    if shared:
        yield f"By their recorded hashes the runs of a pair had the same {_and(shared)}."
    unknown = [what for gate, what in SHARED.items() if status.get(gate) == "not checked"]
    offsets = {results.experiment.plan.seed_offset(arm) for arm in results.experiment.plan.arms}
    if unknown and len(offsets) > 1:
        yield "The copies' seeds differ on purpose, so they share neither batches nor first weights."
    elif unknown:
        yield f"Whether the runs of a pair had the same {_and(unknown)} is not known."


def gate_statuses(results: Results) -> dict[str, GateStatus]:
    """Gate -> its status over all planned contrasts: failed where any failed, passed where all passed."""
    found: dict[str, set[GateStatus]] = {}
    for comparison in results.comparisons:
        for gate in comparison.gates:
            found.setdefault(gate.name, set()).add(gate.status)
    order: tuple[GateStatus, ...] = ("failed", "not checked", "passed")
    return {name: next(status for status in order if status in there) for name, there in found.items()}


def _endpoint(plan: Plan) -> str:
    endpoint, primary = endpoint_of(plan), plan.primary
    split = f"{endpoint.split}, " if plan.imported is None else ""
    margin = "" if primary.margin is None or plan.mode == "aa" else f", with a margin of {primary.margin:g}"
    least = "" if primary.sesoi is None else f"; the smallest effect of interest was {primary.sesoi:g}"
    return (
        f"The primary endpoint, {_when_named(plan)}, was {endpoint.label} ({split}{endpoint.unit}), "
        f"where {endpoint.better.replace(' is', ' was')}{margin}{least}."
    )


def _when_named(plan: Plan) -> str:
    """When the endpoint was named, as far as the folder tells."""
    if plan.imported is not None:
        return "named in the mapping by which the runs were read"
    others = [entry for entry in plan.history if asked_otherwise(plan, entry)]
    if any(entry.looked for entry in others):
        return "named after a report of an earlier plan that had named another endpoint or margin"
    if any(entry.primary is None for entry in plan.history):
        return "named in the plan"
    return "named before any report" if others else "named before the run"


def _tests(results: Results) -> Iterator[str]:
    tested = [c for c in results.comparisons if c.p_signflip is not None]
    if not tested:
        yield "No contrast could be tested."
        return
    few, many = (any((c.pairs > ENUMERATED) is large for c in tested) for large in (False, True))
    drawn = f"over {DRAWS:,} seeded draws of signs" + (f" beyond {ENUMERATED} pairs" if few else "")
    ways = (["over all sign patterns"] if few else []) + ([drawn] if many else [])
    level = f"alpha = {tested[0].alpha:g}, two-sided"
    claim = "" if tested[0].mode == "aa" else f"; a claim needs both at {level}"
    yield (
        "Paired differences (treatment - baseline, one per seed) were tested by the sign-flip permutation "
        f"test of their mean, {' and '.join(ways)}, and by the paired t test{claim}."
    )
    if any(comparison.interval for comparison in tested):
        yield f"Intervals are paired t intervals at {100 * (1 - tested[0].alpha):g} %."
    if any(comparison.statistics.scale == "signed ranks" for comparison in tested):
        yield "Where a run never reached a threshold, the sign-flip test ran on signed ranks and stood alone."
    if any(comparison.margin_test for comparison in tested):
        yield "Non-inferiority means that both intervals exclude a harm as large as the margin."
    yield from _families(results)


def _families(results: Results) -> Iterator[str]:
    shared = [family for family in results.families if family.size > 1]
    if shared:
        spelled = ", ".join(f"{family.name} ({family.size} questions)" for family in shared)
        yield f"Questions of one family share alpha by Holm's step-down: {spelled}."
    if results.exploratory:
        yield "Endpoints that the plan does not name are exploratory: estimates without tests."


def _looks(results: Results) -> Iterator[str]:
    """What the plan says of looking, and where this look stands; who looked before only its history tells."""
    looks = [comparison.look for comparison in results.comparisons]
    declared, ended = looks[0].declared, sorted({look.ended for look in looks})
    state = f"{' to '.join(map(str, dict.fromkeys((ended[0], ended[-1]))))} of {looks[0].planned} seeds"
    imported = results.experiment.plan.imported
    if declared:
        counts = ", ".join(map(str, declared))
        yield f"Looks were declared at {counts} seeds, each at alpha / {len(declared)}; this is {state}."
    elif imported is not None:
        yield f"Whether the data were looked at before is not known; {state} have ended in both arms."
    elif all(look.final for look in looks):
        count = looks[0].planned
        seeds = "the one planned seed has" if count == 1 else f"all {count} planned seeds have"
        yield f"The plan provides for one test, at the end, and {seeds} ended."
    else:
        yield f"This is an interim state, {state}; the plan provides for one test, at the end."
    for banner in dict.fromkeys(c.banner for c in results.comparisons if c.banner):
        yield f"{capitalised(banner)}."


def _outcomes(results: Results) -> Iterator[str]:
    imported = results.experiment.plan.imported
    words = ENDED if imported is None else {**ENDED, "not_run": ("has no record", "have no record")}
    parts = _counted(results.cells["status"], words)
    found = "" if imported is None or imported.planned else " in the grid that was found"
    yield f"Of {plural(len(results.cells), 'run' if found else 'planned run')}{found}, {_and(parts)}."
    yield from _again(results)
    if any(comparison.worst_rank for comparison in results.comparisons):
        claim = (
            ""
            if results.experiment.plan.mode == "aa"
            else ", and a claim had to hold with failures ranked worst"
        )
        yield (
            "Failed runs were counted as outcomes: seeds with a failure left the paired analysis, failures "
            f"were compared by McNemar's exact test{claim}."
        )


def _again(results: Results) -> Iterator[str]:
    """Attempts that were followed by another."""
    runs, planned = results.experiment.runs, results.cells["trial_id"]
    earlier = earlier_attempts(runs[runs["trial_id"].isin(planned)])
    if len(earlier):
        counts = _and(_counted(earlier["status"], ENDED))
        verb = "was" if len(earlier) == 1 else "were"
        yield f"{plural(len(earlier), 'attempt')} {verb} followed by another at the same run: {counts}."


def _counted(statuses: Iterable[str], words: Mapping[str, tuple[str, str]]) -> list[str]:
    """ "3 completed", "1 was cancelled"."""
    counts = Counter(statuses)
    told = {**words, **{name: (name, name) for name in counts if name not in words}}
    return [f"{counts[name]} {word[counts[name] > 1]}" for name, word in told.items() if counts[name]]


def _checks(results: Results) -> Iterator[str]:
    status = gate_statuses(results)
    if not status:
        return
    by_status: dict[str, list[str]] = {}
    for name, found in status.items():
        by_status.setdefault(found, []).append(name)
    passed = len(by_status.get("passed", []))
    text = f"Of {len(status)} validity checks that come before any test, {passed} passed"
    for kind, word in (("failed", "failed"), ("not checked", "could not be made")):
        if names := by_status.get(kind):
            text += f"; {len(names)} {word} ({', '.join(names)})"
    yield f"{text}."


def _and(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
