"""A methods paragraph ready to paste: what was planned, and what was really done."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.plan import Plan
from analysis.results import Results
from analysis.sentences import capitalised, plural
from analysis.signflip import DRAWS, ENUMERATED


def methods(results: Results) -> str:
    """Plain sentences from the plan and the results; nothing that did not happen."""
    return " ".join(_sentences(results))


def _sentences(results: Results) -> Iterator[str]:
    plan = results.experiment.plan
    yield _design(plan)
    imported = results.experiment.provenance.get("imported_from")
    if imported:
        yield (
            f"The runs were made elsewhere and read from {imported} records; what those records do not hold "
            "could not be checked."
        )
    yield _endpoint(plan)
    if plan.mode == "aa":
        yield "The arms hold the same configuration (A/A), so no difference was to be claimed."
    if not results.comparisons:
        return
    yield from _tests(results)
    yield from _margins(plan)
    yield from _families(results)
    yield from _looks(results)
    yield from _outcomes(results)
    yield (
        f"Validity gates (configurations, steps, tokens, data order, initial weights, held-out set) were "
        f"checked before any test. Plan {plan.plan_hash}; analysis by kvtune with SciPy."
    )


def _design(plan: Plan) -> str:
    arms, seeds = len(plan.arms), len(plan.seeds)
    axes = f" crossed with {' and '.join(plan.grid)}" if plan.grid else ""
    return (
        f"We compared {plural(arms, 'arm')}{axes} over {plural(seeds, 'planned seed')}; within a seed, arms "
        "share data order and initial weights, and the seed is the unit of replication."
    )


def _endpoint(plan: Plan) -> str:
    primary = plan.primary
    at = {
        "final": "at the last evaluation",
        "last": "at each run's own last evaluation",
        "last_k_mean": f"as the mean of the last {primary.k} evaluations",
        "auc": "as the mean over training (area under the curve)",
    }[primary.at]
    better = "lower" if primary.direction == "min" else "higher"
    return (
        f"The primary endpoint, named before the run, was {primary.metric} ({primary.split}) {at}, where "
        f"{better} is better."
    )


def _tests(results: Results) -> Iterator[str]:
    tested = [c for c in results.comparisons if c.p_signflip is not None]
    if not tested:
        yield "No contrast could be tested."
        return
    drawn = any(comparison.pairs > ENUMERATED for comparison in tested)
    exact = (
        f"with {DRAWS:,} seeded draws where there were more than {ENUMERATED} pairs"
        if drawn
        else "over all sign patterns"
    )
    yield (
        "Paired differences (treatment - baseline, one per seed) were tested by the sign-flip permutation "
        f"test of their mean {exact}, and by the paired t test; a claim needs both at "
        f"alpha = {tested[0].alpha:g}, two-sided. Intervals are paired t intervals at "
        f"{100 * (1 - tested[0].alpha):g} %."
    )
    if any(comparison.statistics.scale == "signed ranks" for comparison in tested):
        yield "Where a run never reached a threshold, the sign-flip test ran on signed ranks and stood alone."


def _margins(plan: Plan) -> Iterator[str]:
    if plan.primary.margin is not None and plan.mode == "ab":
        yield (
            f"Non-inferiority was judged against a margin of {plan.primary.margin:g} named before the run: "
            "the intervals must exclude a harm of that size."
        )
    if plan.primary.sesoi is not None:
        yield f"The smallest effect of interest was {plan.primary.sesoi:g}."


def _families(results: Results) -> Iterator[str]:
    if results.experiment.plan.mode == "aa":
        return
    shared = [family for family in results.families if family.size > 1]
    if shared:
        spelled = ", ".join(f"{family.name} ({family.size} questions)" for family in shared)
        yield f"Questions of one family share alpha by Holm's step-down: {spelled}."
    if results.exploratory:
        yield "Endpoints that the plan does not name are exploratory: estimates without tests."


def _looks(results: Results) -> Iterator[str]:
    headline = results.comparisons[0]
    declared = headline.look.declared
    if declared:
        counts = ", ".join(map(str, declared))
        yield (
            f"Looks were declared at {counts} seeds, each at alpha / {len(declared)}; this is the state at "
            f"{headline.look.ended}."
        )
    elif headline.look.final:
        yield "The data were tested once, when all planned seeds had ended."
    else:
        yield f"This is an interim state, {headline.look.ended} of {headline.look.planned} seeds."
    if headline.banner:
        yield f"{capitalised(headline.banner)}."


def _outcomes(results: Results) -> Iterator[str]:
    cells = results.cells
    failed = sum(arm["failures"] for arm in results.arms)
    lost = sum(arm["lost"] for arm in results.arms)
    retries = sum(arm["retries"] for arm in results.arms)
    text = f"Of {plural(len(cells), 'planned run')}, {failed} failed and {lost} were lost for other reasons"
    yield f"{text}; {plural(retries, 'retry') if retries == 1 else f'{retries} retries'}."
    if failed and any(comparison.worst_rank for comparison in results.comparisons):
        yield (
            "Failed runs were counted as outcomes: seeds with a failure left the paired analysis, failures "
            "were compared by McNemar's exact test, and a claim had to hold with failures ranked worst."
        )
