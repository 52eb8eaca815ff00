"""Verdicts in words, and numbers as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.comparison import Comparison, rounding_of
from analysis.power import least_pairs, pairs_needed
from analysis.reasons import compatible, hull, seeds_that_agree, what_exact_needs, withholding
from analysis.signflip import DRAWS, ENUMERATED

if TYPE_CHECKING:
    from analysis.factor_answers import FactorAnswer


def p_text(p: float | None) -> str:
    """Two significant digits; powers of ten below 0.001."""
    if p is None:
        return "none"
    if p >= 0.001:
        return f"{p:.2g}"
    mantissa, exponent = f"{p:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def decimals_for(spread: float | None) -> int:
    """Decimals that show the spread (a half-width or SD) with two significant digits."""
    if spread is None or not math.isfinite(spread) or spread <= 0:
        return 4
    return min(12, max(0, 1 - int(f"{spread:.1e}".partition("e")[2])))


def number(value: float | None, decimals: int) -> str:
    """A fixed number of decimals, without a minus before zero; exponents outside the common range."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "NaN"
    if value and not 1e-9 <= abs(value) < 1e9:
        return f"{value:.3g}"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def decimals_of(answer: Comparison | FactorAnswer) -> int:
    """Decimals in which its differences are printed."""
    if answer.interval is not None:
        return decimals_for((answer.interval[1] - answer.interval[0]) / 2)
    return decimals_for(answer.statistics.sd)


def decimals_of_arms(arms: Sequence[Mapping[str, Any]]) -> int:
    """Decimals in which the arms' means and SDs are printed."""
    spreads = [arm["sd"] for arm in arms if arm["sd"]]
    return decimals_for(min(spreads, default=None))


def interval_text(interval: tuple[float, float] | None, decimals: int) -> str:
    """ "-0.065 to -0.053"."""
    if interval is None:
        return "–"
    return f"{number(interval[0], decimals)} to {number(interval[1], decimals)}"


def level(comparison: Comparison) -> str:
    """ "95 % CI"."""
    return f"{100 * (1 - comparison.alpha):g} % CI"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def capitalised(text: str) -> str:
    """The first letter large, all others as they are."""
    return text[:1].upper() + text[1:]


def minus(text: str) -> str:
    """Hyphens before digits as minus signs."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)


def sentence(comparison: Comparison) -> str:
    """The verdict with everything it rests on, in two or three sentences."""
    banner = "" if comparison.banner is None else f"{capitalised(comparison.banner)}. "
    return f"{banner}{_verdict(comparison)} {_failed(comparison)}"


def _verdict(comparison: Comparison) -> str:
    if comparison.verdict == "INVALID":
        found = "; ".join(f"{gate.name}: {gate.detail}" for gate in comparison.findings)
        return (
            f"INVALID: {comparison.treatment} against {comparison.baseline} was not tested. "
            f"Failed checks: {found}."
        )
    if comparison.mode == "aa":
        return _a_against_a(comparison)
    if comparison.role == "exploratory":
        return _exploratory(comparison)
    if comparison.verdict == "NOT TESTABLE":
        return f"{_not_testable(comparison)}{_so_far(comparison)}{_ranked(comparison)}"
    if comparison.verdict == "DEGENERATE":
        return _degenerate(comparison)
    claim = f"{_estimate(comparison)}{_margin(comparison)}: {comparison.verdict}."
    return f"{claim}{_doubt(comparison)}"


def least_for(comparison: Comparison) -> int:
    """Pairs from which the exact test can claim something at this level, shared with the family."""
    return least_pairs(comparison.alpha / (1 if comparison.holm is None else comparison.holm.size))


def _not_testable(comparison: Comparison) -> str:
    if unpaired(comparison):
        return _unpaired(comparison)
    pairs, least = comparison.pairs, least_for(comparison)
    powered = (pairs_needed(1.0, comparison.alpha) or least) - pairs
    power = "for 80 % power at an effect size d_z (mean difference / SD of differences) of 1"
    get = "it takes" if comparison.imported else "run"
    if not pairs:
        return f"NOT TESTABLE: no complete pair; {get} at least {plural(least, 'seed')} ({powered} {power})."
    floor = f"the smallest p an exact test can give is {comparison.floor:.4g}"
    if comparison.holm is not None and comparison.floor <= comparison.alpha:
        floor += f" ({comparison.holm.floor:.4g} after Holm over {comparison.holm.size} questions)"
    more = f"; {get} at least {plural(least - pairs, 'more seed')}" if least > pairs else ""
    if powered > least - pairs > 0:
        more += f" ({powered} more {power})"
    return f"NOT TESTABLE: {plural(pairs, 'pair')}; {floor}{more}."


def unpaired(comparison: Comparison) -> bool:
    """Both arms of imported runs have seeds, and none of them is the same."""
    ours, theirs = recorded_seeds(comparison)
    return comparison.imported and bool(ours and theirs) and not ours & theirs


def recorded_seeds(comparison: Comparison) -> tuple[set[int], set[int]]:
    """The seeds of which the treatment, and the baseline, have a run."""
    rows = comparison.rows
    return (
        {row.seed for row in rows if row.treatment_status != "not_run"},
        {row.seed for row in rows if row.baseline_status != "not_run"},
    )


def _unpaired(comparison: Comparison) -> str:
    ours, theirs = map(len, recorded_seeds(comparison))
    return (
        f"NOT TESTABLE: {comparison.treatment} and {comparison.baseline} share no seed ({ours} in the one, "
        f"{theirs} others in the other): the design is unpaired, and every test here is of differences "
        "within a seed."
    )


def _so_far(comparison: Comparison) -> str:
    """The estimate of too few pairs, its interval marked as resting on a model."""
    if comparison.difference is None:
        return ""
    text = f" So far {_change(comparison)}"
    if comparison.interval is None:
        return f"{text}."
    bounds = interval_text(comparison.interval, decimals_of(comparison))
    return f"{text} ({level(comparison)} {bounds}, if differences are normal)."


def _ranked(comparison: Comparison) -> str:
    worst = comparison.worst_rank
    if worst is None or worst.direction == "neither":
        return ""
    with_them, told = " With failures ranked worst", f"p = {p_text(worst.p)} ({plural(worst.pairs, 'pair')})"
    if worst.p > comparison.alpha:
        return f"{with_them} nothing shows either: {told}."
    return f"{with_them} {comparison.treatment} is {worst.direction} at {told}."


def _degenerate(comparison: Comparison) -> str:
    seeds = f"on every one of {plural(comparison.pairs, 'seed')}"
    return (
        f"DEGENERATE: {_change(comparison)}, by the same amount {seeds}. Independent seeds would vary, so "
        "nothing is claimed."
    )


def _a_against_a(comparison: Comparison) -> str:
    """One configuration against itself: what noise it shows, and what margin that leaves room for."""
    copies = f"A/A, {comparison.treatment} against {comparison.baseline} in {comparison.endpoint.label}"
    noise = comparison.noise
    if noise is None:
        why = "no complete pair" if not comparison.pairs else "a run never reached the threshold"
        return f"{comparison.verdict}: {copies}: {why}, so no noise can be told. Nothing is claimed."
    of = "seed variance" if noise.kind == "seed variance" else "nondeterminism floor"
    if not noise.largest:
        return (
            f"{comparison.verdict}: {copies}: identical on {_all(comparison)}: {of} 0. "
            f"{_good_news(comparison)} Nothing is claimed."
        )
    decimals = decimals_of(comparison)
    spread = "" if noise.sd is None else f" SD {number(noise.sd, decimals)}"
    if noise.upper_sd is not None:
        spread += f" (upper 80 % limit {number(noise.upper_sd, decimals)})"
    room = (
        f" With {plural(comparison.pairs, 'seed')} and this SD no margin below "
        f"{number(noise.half_width, decimals)} can be met, even by equal arms."
        if noise.half_width is not None
        else ""
    )
    return (
        f"{comparison.verdict}: {copies}: {of}{spread}, largest difference {number(noise.largest, decimals)} "
        f"over {plural(comparison.pairs, 'pair')}.{room} Nothing is claimed."
    )


def _all(comparison: Comparison) -> str:
    return "the one pair" if comparison.pairs == 1 else f"all {comparison.pairs} pairs"


def _good_news(comparison: Comparison) -> str:
    if comparison.offset:
        return "Other seeds should differ, so check that the seeds take effect."
    return "That is what equal seeds should give: the runs repeat to the bit."


def _exploratory(comparison: Comparison) -> str:
    tail = "Exploratory: the plan does not name this question, so nothing is tested or claimed."
    if comparison.difference is None:
        question = f"{comparison.treatment} - {comparison.baseline} in {comparison.endpoint.label}"
        return f"{comparison.verdict}: {question} has no estimate. {tail}"
    seeds = plural(comparison.pairs, "paired seed")
    if comparison.interval is None:
        return f"{comparison.verdict}: {_change(comparison)} ({seeds}). {tail}"
    bounds = interval_text(comparison.interval, decimals_of(comparison))
    return f"{comparison.verdict}: {_change(comparison)} ({level(comparison)} {bounds}; {seeds}). {tail}"


def _change(comparison: Comparison) -> str:
    """ "structured raised final eval CE by 0.054, worse than flat"."""
    change, harm_sign = comparison.difference or 0.0, comparison.endpoint.harm_sign
    if abs(change) <= rounding_of(comparison.rows, comparison.endpoint):
        return (
            f"{comparison.treatment} changed {comparison.endpoint.label} by 0 against {comparison.baseline}"
        )
    verb, judged = "raised" if change > 0 else "lowered", "worse" if change * harm_sign > 0 else "better"
    size = _magnitude(change, decimals_of(comparison))
    return (
        f"{comparison.treatment} {verb} {comparison.endpoint.label} by {size}, {judged} than "
        f"{comparison.baseline}"
    )


def _magnitude(change: float, decimals: int) -> str:
    """Its size; in one digit where so few decimals would make 0 of it, which has no direction."""
    size = number(abs(change), decimals)
    return size if float(size) else f"{abs(change):.1g}"


def _estimate(comparison: Comparison) -> str:
    pairs = plural(comparison.pairs, "paired seed")
    if comparison.difference is None:
        return (
            f"{comparison.treatment} against {comparison.baseline} in {comparison.endpoint.label} "
            f"({pairs}, exact sign-flip of signed ranks p = {p_text(comparison.p_signflip)}"
            f"{_adjusted(comparison)}; a run that never got there ranks worst)"
        )
    bounds = interval_text(comparison.interval, decimals_of(comparison))
    tests = f"{_test_name(comparison)} p = {p_text(comparison.p_signflip)}, t p = {p_text(comparison.p_t)}"
    return f"{_change(comparison)} ({level(comparison)} {bounds}; {pairs}, {tests}{_adjusted(comparison)})"


def _adjusted(comparison: Comparison) -> str:
    holm = comparison.holm
    if holm is None:
        return ""
    ps = [p_text(p) for p in (holm.p_signflip, holm.p_t) if p is not None]
    return f"; after Holm over {holm.size} questions {' and '.join(ps)}"


def _test_name(comparison: Comparison) -> str:
    return "exact sign-flip" if comparison.pairs <= ENUMERATED else f"sign-flip ({DRAWS:,} draws)"


def _margin(comparison: Comparison) -> str:
    return "" if comparison.margin is None else f"; margin {comparison.margin:g}"


def _doubt(comparison: Comparison) -> str:
    """What an inconclusive result leaves open and why, and what an inferior one within the margin means."""
    if comparison.verdict == "INFERIOR" and comparison.margin is not None:
        worst = worst_of(comparison)
        return " The harm lies inside the margin." if worst is not None and worst < comparison.margin else ""
    if comparison.verdict != "INCONCLUSIVE":
        return ""
    if comparison.cap is not None:
        return _taken_back(comparison)
    return f" {_why_open(comparison)}{_left_open(comparison)}"


def worst_of(comparison: Comparison) -> float | None:
    """The largest harm that either interval holds, at the level that margins are held against."""
    numbers = comparison.statistics
    known = [
        interval
        for interval in (numbers.interval_family, numbers.interval_family_exact)
        if interval is not None
    ]
    return harms_of(comparison, hull(known))[1] if known else None


def _why_open(comparison: Comparison) -> str:
    """Which test withholds the claim, and what the seeds say."""
    tests, agree = withholding(comparison), seeds_that_agree(comparison)
    if not tests:
        return (
            "Each test by itself would claim it, but not at a level shared with the other questions "
            f"({agree})."
        )
    if tests == ("t",):
        return (
            f"The exact test alone would claim it, the t test does not: {agree}, by amounts too uneven for "
            f"their mean (SD {number(comparison.statistics.sd, decimals_of(comparison))})."
        )
    alone = (
        "Neither test tells it from seed noise" if comparison.p_t is not None else "The exact test forbids it"
    )
    if tests == ("exact",) and comparison.p_t is not None:
        alone = "The t test alone would claim it, the exact test does not"
    return f"{alone}: {agree}; {what_exact_needs(comparison)}."


def _left_open(comparison: Comparison) -> str:
    interval = compatible(comparison)
    if interval is None:
        return ""
    decimals = decimals_of(comparison)
    better, worse = harms_of(comparison, interval)
    beyond = comparison.margin is not None and worse >= comparison.margin
    harm = f", so a harm beyond the margin of {comparison.margin:g} is not excluded" if beyond else ""
    return (
        f" The data are compatible with anything from {_size(better, decimals)} to {_size(worse, decimals)}"
        f"{harm}."
    )


def harms_of(comparison: Comparison, interval: tuple[float, float]) -> tuple[float, float]:
    """The interval's ends as harms: most favourable first."""
    low, high = sorted(bound * comparison.endpoint.harm_sign for bound in interval)
    return low, high


def _size(harm: float, decimals: int) -> str:
    size = _magnitude(harm, decimals)
    return f"{size} {'worse' if harm > 0 else 'better'}" if harm else "no change"


def _taken_back(comparison: Comparison) -> str:
    claim = f" Complete pairs alone would say {comparison.capped_from}"
    worst, look = comparison.worst_rank, comparison.look
    if comparison.cap == "failures" and worst is not None:
        return (
            f"{claim}; with failures ranked worst the direction is {worst.direction} at "
            f"p = {p_text(worst.p)} ({plural(worst.pairs, 'pair')}): nothing is claimed."
        )
    if comparison.cap == "extension":
        return (
            f"{claim}; seeds were added after an unplanned look, so the p is too small: nothing is claimed."
        )
    if comparison.imported and any(comparison.lost.values()):
        return f"{claim}; why runs lack is not on record, so nothing is claimed."
    if not look.declared:
        return f"{claim}; the plan looks once, at the end: nothing is claimed yet."
    later = [str(count) for count in look.declared if count > look.ended]
    following = f"the next declared look is at {later[0]} seeds" if later else "no declared look is left"
    return f"{claim}; no look is declared at {look.ended} seeds, {following}: nothing is claimed."


def _failed(comparison: Comparison) -> str:
    """Runs that failed, seeds left out, and planned runs that are still missing."""
    total = sum(map(len, recorded_seeds(comparison))) if comparison.imported else 2 * comparison.planned
    stopped = {arm: counts.get("stopped", 0) for arm, counts in comparison.statuses.items()}
    failed = {arm: count - stopped[arm] for arm, count in comparison.failures.items()}
    early = f"; {sum(stopped.values())} ended early{_by_arm(stopped)}" if any(stopped.values()) else ""
    whole = f"{sum(failed.values())} of {plural(total, 'run')} failed{_by_arm(failed)}"
    return f"{whole}{early}.{_missing(comparison)}"


def _by_arm(counts: Mapping[str, int]) -> str:
    told = ", ".join(f"{arm} {count}" for arm, count in counts.items() if count)
    return f" ({told})" if told else ""


def _missing(comparison: Comparison) -> str:
    seeds = sum(row.kind == "lost" for row in comparison.rows)
    if not seeds or unpaired(comparison):
        return ""
    if comparison.imported:
        of = f"{seeds} of {plural(comparison.planned, 'seed')} {'lacks' if seeds == 1 else 'lack'}"
        return f" {of} a run that ended in one arm or in both."
    of = f"{seeds} of {plural(comparison.planned, 'planned seed')}"
    if comparison.look.allowed:
        return f" {of} are left for later looks."
    return f" Interim: {of} not finished yet. That is no failure: run the same seeds again."
