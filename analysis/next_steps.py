"""What would change a verdict, in one sentence or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.reasons import hull, needs_all, withholding
from analysis.sentences import decimals_of, least_for, number, plural, unpaired, worst_of

if TYPE_CHECKING:
    from analysis.comparison import Comparison


def next_step(comparison: Comparison) -> str:
    """What would change the verdict. Of imported runs nothing that only a run of kvtune could do."""
    if comparison.verdict == "INVALID" and comparison.imported:
        return "Correct what the failed checks name, in the records or in the mapping, and import them anew."
    if comparison.verdict == "INVALID":
        return "Mend what the failed checks name and run again: only changed trials are run."
    if unpaired(comparison):
        least = least_for(comparison)
        return f"Runs of both arms on the same seeds, at least {least}: more runs like these would not do."
    if any(comparison.lost.values()) and not comparison.look.allowed:
        return _missing_runs(comparison)
    if comparison.mode == "aa":
        return _after_aa(comparison)
    if comparison.role == "exploratory":
        return "Name the question in the plan of a new experiment: only there can it be tested."
    return _of_a_test(comparison)


def _missing_runs(comparison: Comparison) -> str:
    if comparison.imported:
        seeds = sum(row.kind == "lost" for row in comparison.rows)
        return (
            f"Import the runs that {plural(seeds, 'seed')} {'lacks' if seeds == 1 else 'lack'}, or their "
            "failures as such: only then can a claim stand."
        )
    return "Run the experiment again: only the missing trials are run, and only then does the verdict stand."


def _of_a_test(comparison: Comparison) -> str:
    if comparison.verdict == "DEGENERATE":
        return "Check that arms and seeds take effect: runs that repeat each other prove nothing."
    if comparison.cap == "failures":
        return "Find out why runs fail: a claim needs the failures to point the same way."
    if comparison.cap == "extension":
        return "Run a new experiment with as many seeds from the start: its verdict stands by itself."
    if comparison.verdict in ("NOT TESTABLE", "INCONCLUSIVE") and (later := _later_look(comparison)):
        return later
    if comparison.verdict == "NOT TESTABLE":
        return _more_pairs(comparison)
    return _open(comparison) if comparison.verdict == "INCONCLUSIVE" else _distance(comparison)


def _later_look(comparison: Comparison) -> str | None:
    """The look that comes next, where the plan declares one; what to do where none is left."""
    look = comparison.look
    later = [count for count in look.declared if count > look.ended]
    if later:
        return f"Go on to the next declared look, at {later[0]} seeds."
    if comparison.cap == "interim":
        return "No declared look is left: plan a new experiment that looks where it ends."
    return None


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
    least, failed = least_for(comparison), sum(row.kind == "failed" for row in comparison.rows)
    text = f"A verdict needs at least {plural(least, 'complete pair')}"
    if comparison.holm is not None and comparison.floor <= comparison.alpha:
        return f"{text}, or fewer questions that share the level."
    if comparison.planned >= least and failed:
        return f"{text}, and {plural(failed, 'seed')} failed in an arm: find out why they fail."
    if comparison.imported:
        return f"{text}: runs of {plural(least - comparison.pairs, 'more seed')} in both arms."
    return f"{text}: add seeds to the experiment; a look at so few could claim nothing, so it costs nothing."


def _open(comparison: Comparison) -> str:
    """What the withholding test would take, and how many seeds an effect of interest takes."""
    tests = withholding(comparison)
    if not tests:
        return f"Fewer questions that share the level, or more seeds. {_seeds_needed(comparison)}"
    if tests == ("exact",) and needs_all(comparison):
        more = (
            f"Plan a new experiment with more than {comparison.pairs} seeds: from {comparison.pairs + 1} on"
        )
        return (
            f"{more} the exact test bears one that goes the other way a little. {_seeds_needed(comparison)}"
        )
    if tests == ("t",):
        return f"Look at what sets single seeds so far apart from the others. {_seeds_needed(comparison)}"
    more = "More seeds, in a new experiment. " if comparison.needed is None else ""
    return f"{more}{_seeds_needed(comparison)}"


def _seeds_needed(comparison: Comparison) -> str:
    needed, pairs = comparison.needed, comparison.pairs
    if needed is None:
        return f"{_found_by_so_many(comparison)}Name a smallest effect of interest (sesoi) to learn how many."
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


def _found_by_so_many(comparison: Comparison) -> str:
    """What difference so many pairs find, where that can be told."""
    if comparison.detectable is None:
        return ""
    least = number(comparison.detectable, decimals_of(comparison))
    return f"{comparison.pairs} have 80 % power for a difference of {least}; a smaller one takes more. "


def _distance(comparison: Comparison) -> str:
    """How far a claim is from being none."""
    known = [
        found for found in (comparison.interval, comparison.statistics.interval_exact) if found is not None
    ]
    worst = worst_of(comparison)
    if not known or worst is None:
        return "The claim rests on ranks: it says which arm is ahead, not by how much."
    decimals = decimals_of(comparison)
    if comparison.verdict in ("SUPERIOR", "INFERIOR"):
        near = min(abs(bound) for bound in hull(known))
        return (
            f"A mean nearer to zero by {number(near, decimals)}: that far from it the nearer interval ends."
        )
    room = (comparison.margin or 0.0) - worst
    return f"A margin smaller by {number(room, decimals)}: that far inside it the intervals end."
