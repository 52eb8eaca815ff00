"""What would change a verdict, in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.sentences import decimals_of, harms_of, least_for, number, plural

if TYPE_CHECKING:
    from analysis.comparison import Comparison


def next_step(comparison: Comparison) -> str:
    """What would change the verdict, in one sentence."""
    if comparison.verdict == "INVALID":
        return "Mend what the failed checks name and run again: only changed trials are run."
    if any(comparison.lost.values()):
        return (
            "Run the experiment again: only the missing trials are run, and only then does the verdict stand."
        )
    if comparison.mode == "aa":
        return _after_aa(comparison)
    if comparison.role == "exploratory":
        return "Name the question in the plan of a new experiment: only there can it be tested."
    if comparison.verdict == "NOT TESTABLE":
        return _more_pairs(comparison)
    if comparison.verdict == "DEGENERATE":
        return "Check that arms and seeds take effect: runs that repeat each other prove nothing."
    if comparison.cap is not None:
        return AFTER_CAP[comparison.cap]
    if comparison.verdict == "INCONCLUSIVE":
        return _seeds_needed(comparison)
    return _distance(comparison)


AFTER_CAP = {
    "failures": "Find out why runs fail: a claim needs the failures to point the same way.",
    "extension": "Run a new experiment with as many seeds from the start: its verdict stands by itself.",
    "interim": "Wait for the next declared look.",
}


def _after_aa(comparison: Comparison) -> str:
    noise = comparison.noise
    if noise is not None and noise.half_width:
        return (
            "Choose the margin of the A/B above "
            f"{number(noise.half_width, decimals_of(comparison))}, or plan more seeds."
        )
    if comparison.offset:
        return "Repeat it over seeds that take effect: this one tells nothing about seed variance."
    return "Give one arm a seed_offset to learn the seed variance, which is what a margin must exceed."


def _more_pairs(comparison: Comparison) -> str:
    text = f"A verdict needs at least {plural(least_for(comparison), 'complete pair')}"
    shares = comparison.holm is not None and comparison.floor <= comparison.alpha
    return f"{text}, or fewer questions that share the level." if shares else f"{text}."


def _seeds_needed(comparison: Comparison) -> str:
    needed, pairs = comparison.needed, comparison.pairs
    if needed is None:
        return "Name a smallest effect of interest (sesoi) beforehand to learn how many seeds it takes."
    least, most = needed.at_sd, needed.at_upper_sd
    if most is not None and most <= pairs:
        enough = f"{pairs} seeds already have 80 % power for an effect of {needed.effect:g}"
        return f"{enough}: more find a smaller one."
    if least is None:
        return f"An effect of {needed.effect:g} is out of reach: it takes more than 10,000 seeds."
    count = f"{least}" if least == most else f"{least} to {'more than 10,000' if most is None else most}"
    return (
        f"80 % power for an effect of {needed.effect:g} takes {count} seeds in all (at this SD, and at its "
        "upper 80 % limit): plan them as a new experiment."
    )


def _distance(comparison: Comparison) -> str:
    interval = comparison.interval
    if interval is None:
        return "The claim rests on ranks: it says which arm is ahead, not by how much."
    decimals = decimals_of(comparison)
    if comparison.verdict in ("SUPERIOR", "INFERIOR"):
        near = min(abs(bound) for bound in interval)
        return f"The interval's nearer end lies {number(near, decimals)} from zero."
    room = (comparison.margin or 0.0) - harms_of(comparison, interval)[1]
    return f"The interval ends {number(room, decimals)} inside the margin."
