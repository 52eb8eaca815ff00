"""Verdicts in words, and numbers as people read them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analysis.power import least_pairs, pairs_needed, seeds_needed

if TYPE_CHECKING:
    from analysis.significance import Comparison


def p_text(p: float | None) -> str:
    """Two significant digits; powers of ten below 0.001."""
    if p is None:
        return "none"
    if p >= 0.001:
        return f"{p:.2g}"
    mantissa, exponent = f"{p:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def decimals_for(spread: float | None) -> int:
    """Decimals that show the spread (a half-width or SD) with one or two digits."""
    if spread is None or not math.isfinite(spread) or spread <= 0:
        return 4
    digits = -math.floor(math.log10(spread))
    leading = spread * 10**digits
    return min(12, max(0, digits + (1 if leading < 3 else 0)))


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


def decimals_of(comparison: Comparison) -> int:
    """Decimals in which a comparison's differences are printed."""
    if comparison.interval is not None:
        return decimals_for((comparison.interval[1] - comparison.interval[0]) / 2)
    return decimals_for(comparison.statistics.sd)


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


def sentence(comparison: Comparison) -> str:
    """The verdict with everything it rests on, in two or three sentences."""
    if comparison.verdict == "INVALID":
        found = "; ".join(f"{gate.name}: {gate.detail}" for gate in comparison.findings)
        return (
            f"INVALID: {comparison.treatment} against {comparison.baseline} was not tested. "
            f"Failed checks: {found}. {_failed(comparison)}"
        )
    if comparison.verdict == "NOT TESTABLE":
        return f"{_not_testable(comparison)}{_so_far(comparison)}{_ranked(comparison)} {_failed(comparison)}"
    if comparison.verdict == "DEGENERATE":
        return f"{_degenerate(comparison)} {_failed(comparison)}"
    claim = f"{_estimate(comparison)}{_margin(comparison)}: {comparison.verdict}."
    return f"{claim}{_doubt(comparison)} {_failed(comparison)}"


def _not_testable(comparison: Comparison) -> str:
    pairs, least = comparison.pairs, least_pairs(comparison.alpha)
    powered = (pairs_needed(1.0, comparison.alpha) or least) - pairs
    if not pairs:
        return (
            f"NOT TESTABLE: no complete pair; run at least {plural(least, 'seed')} "
            f"({powered} for 80 % power at dz = 1)."
        )
    return (
        f"NOT TESTABLE: {plural(pairs, 'pair')}; the smallest p an exact test can give is "
        f"{comparison.floor:.4g}; run at least {plural(least - pairs, 'more seed')} "
        f"({powered} more for 80 % power at dz = 1)."
    )


def _so_far(comparison: Comparison) -> str:
    """The estimate of too few pairs, its interval marked as resting on a model."""
    if comparison.difference is None:
        return ""
    decimals = decimals_of(comparison)
    text = (
        f" So far {comparison.treatment} - {comparison.baseline} in {comparison.endpoint.label} is "
        f"{number(comparison.difference, decimals)}"
    )
    if comparison.interval is None:
        return f"{text}."
    bounds = interval_text(comparison.interval, decimals)
    return f"{text} ({level(comparison)} {bounds}, if differences are normal)."


def _ranked(comparison: Comparison) -> str:
    worst = comparison.worst_rank
    if worst is None or worst.direction == "neither":
        return ""
    return (
        f" With failures ranked worst {comparison.treatment} is {worst.direction} at p = {p_text(worst.p)} "
        f"({plural(worst.pairs, 'pair')})."
    )


def _degenerate(comparison: Comparison) -> str:
    return (
        f"DEGENERATE: {comparison.treatment} - {comparison.baseline} in {comparison.endpoint.label} is "
        f"{number(comparison.difference or 0.0, 4)} for every one of {plural(comparison.pairs, 'seed')}. "
        "Independent seeds would vary, so nothing is claimed."
    )


def _estimate(comparison: Comparison) -> str:
    pairs = plural(comparison.pairs, "paired seed")
    if comparison.difference is None:
        return (
            f"{comparison.treatment} against {comparison.baseline} in {comparison.endpoint.label} "
            f"({pairs}, exact sign-flip of signed ranks p = {p_text(comparison.p_signflip)}; "
            "a run that never got there ranks worst)"
        )
    decimals = decimals_of(comparison)
    change, bounds = number(comparison.difference, decimals), interval_text(comparison.interval, decimals)
    tests = f"{_test_name(comparison)} p = {p_text(comparison.p_signflip)}, t p = {p_text(comparison.p_t)}"
    return (
        f"{comparison.treatment} changed {comparison.endpoint.label} by {change} "
        f"({level(comparison)} {bounds}; {pairs}, {tests})"
    )


def _test_name(comparison: Comparison) -> str:
    return "exact sign-flip" if comparison.pairs <= 16 else "sign-flip (200,000 draws)"


def _margin(comparison: Comparison) -> str:
    return "" if comparison.margin is None else f"; margin {comparison.margin:g}"


def _doubt(comparison: Comparison) -> str:
    """What an inconclusive result leaves open, and what an inferior one within the margin means."""
    interval = comparison.interval
    if comparison.verdict == "INFERIOR" and comparison.margin is not None and interval is not None:
        harm = max(bound * comparison.endpoint.harm_sign for bound in interval)
        return " The harm lies inside the margin." if harm < comparison.margin else ""
    if comparison.verdict != "INCONCLUSIVE":
        return ""
    if comparison.capped_from is not None:
        return _contradiction(comparison)
    if interval is None:
        return " The data show neither better nor worse."
    decimals = decimals_of(comparison)
    better, worse = _best_and_worst(comparison, interval)
    return (
        f" The data are compatible with anything from {_size(better, decimals)} to {_size(worse, decimals)}"
        f"{_not_excluded(comparison, worse)}."
    )


def _best_and_worst(comparison: Comparison, interval: tuple[float, float]) -> tuple[float, float]:
    """The interval's ends as harms: most favourable first."""
    low, high = sorted(bound * comparison.endpoint.harm_sign for bound in interval)
    return low, high


def _size(harm: float, decimals: int) -> str:
    return f"{number(abs(harm), decimals)} {'worse' if harm > 0 else 'better'}"


def _not_excluded(comparison: Comparison, worst: float) -> str:
    if worst <= 0:
        return ", and the two tests disagree"
    if comparison.margin is not None and worst < comparison.margin:
        return ""
    if comparison.margin is not None:
        return f", so a harm beyond the margin of {comparison.margin:g} is not excluded"
    return ""


def _contradiction(comparison: Comparison) -> str:
    worst = comparison.worst_rank
    if worst is None:
        return ""
    return (
        f" Complete pairs alone would say {comparison.capped_from}; with failures ranked worst the "
        f"direction is {worst.direction} at p = {p_text(worst.p)} ({plural(worst.pairs, 'pair')})"
        ": nothing is claimed."
    )


def _failed(comparison: Comparison) -> str:
    """Runs that failed, seeds left out, and planned runs that are still missing."""
    total = 2 * comparison.planned
    failed = sum(comparison.failures.values())
    text = f"{failed} of {plural(total, 'run')} failed"
    if failed:
        text += f" ({', '.join(f'{arm} {count}' for arm, count in comparison.failures.items() if count)})"
    text += "."
    if any(comparison.lost.values()):
        seeds = sum(row.kind == "lost" for row in comparison.rows)
        text += f" Interim: {seeds} of {plural(comparison.planned, 'planned seed')} not finished yet."
    return text


def next_step(comparison: Comparison) -> str:
    """What would change the verdict, in one sentence."""
    if comparison.verdict == "INVALID":
        return "Mend what the failed checks name and run again: only changed trials are run."
    if any(comparison.lost.values()):
        return (
            "Run the experiment again: only the missing trials are run, and only then does the verdict stand."
        )
    if comparison.verdict == "NOT TESTABLE":
        return f"A verdict needs at least {plural(least_pairs(comparison.alpha), 'complete pair')}."
    if comparison.verdict == "DEGENERATE":
        return "Check that arms and seeds take effect: runs that repeat each other prove nothing."
    if comparison.capped_from is not None:
        return "Find out why runs fail: a claim needs the failures to point the same way."
    if comparison.verdict == "INCONCLUSIVE":
        return _seeds_needed(comparison)
    return _distance(comparison)


def _seeds_needed(comparison: Comparison) -> str:
    sd, pairs, effect = comparison.statistics.sd, comparison.pairs, comparison.sesoi
    if effect is None or not sd:
        return "Name a smallest effect of interest (sesoi) beforehand to learn how many seeds it takes."
    needed = seeds_needed(effect, sd, pairs, comparison.alpha)
    least, most = (needed.at_sd, needed.at_upper_sd) if needed else (None, None)
    if most is not None and most <= pairs:
        return f"{pairs} seeds already have 80 % power for an effect of {effect:g}: more find a smaller one."
    if least is None:
        return f"An effect of {effect:g} is out of reach: it takes more than 10,000 seeds."
    count = f"{least}" if least == most else f"{least} to {'more than 10,000' if most is None else most}"
    return (
        f"80 % power for an effect of {effect:g} takes {count} seeds in all (at this SD, and at its upper "
        "80 % limit): plan them as a new experiment."
    )


def _distance(comparison: Comparison) -> str:
    interval = comparison.interval
    if interval is None:
        return "The claim rests on ranks: it says which arm is ahead, not by how much."
    decimals = decimals_of(comparison)
    if comparison.verdict in ("SUPERIOR", "INFERIOR"):
        near = min(abs(bound) for bound in interval)
        return f"The interval's nearer end lies {number(near, decimals)} from zero."
    room = (comparison.margin or 0.0) - _best_and_worst(comparison, interval)[1]
    return f"The interval ends {number(room, decimals)} inside the margin."
