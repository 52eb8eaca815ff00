"""What a reader of a verdict should know though it changes none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from analysis.looks import hopeless
from analysis.sentences import p_text, plural
from analysis.signflip import floor_of
from analysis.skew import CRITICAL

if TYPE_CHECKING:
    from analysis.comparison import Comparison


def cautions_of(comparison: Comparison) -> Iterator[str]:
    """One sentence each."""
    yield from comparison.notes
    sensitivity = comparison.sensitivity
    r, one_out = sensitivity.correlation, sensitivity.leave_one_out
    if r is not None and r <= 0 and not comparison.offset:
        yield (
            f"The arms' values do not rise and fall together over the seeds (r = {r:.2f}): a seed seems to "
            "fix nothing that both arms share, so pairing gains nothing."
        )
    yield from _skewed(comparison)
    yield from _vain_looks(comparison)
    claimed = comparison.verdict in ("SUPERIOR", "INFERIOR")
    weakest = None if one_out is None else one_out.p_t_highest
    if claimed and weakest is not None and weakest > comparison.alpha:
        yield f"The claim hangs on single seeds: without one of them the t test has p = {p_text(weakest)}."
    if comparison.mode == "aa" and _significant(comparison):
        yield (
            f"The two copies differ in one direction (exact p = {p_text(comparison.p_signflip)}): chance "
            "does that in few experiments, so look for what else differs between them."
        )


def _skewed(comparison: Comparison) -> Iterator[str]:
    """How often it comes by chance, and what it misses: docs/statistics.md."""
    z = comparison.sensitivity.skew_z
    untold = comparison.mode == "aa" or comparison.verdict in ("NOT TESTABLE", "DEGENERATE")
    if z is None or abs(z) < CRITICAL or untold:
        return
    tail = "worse" if z * comparison.endpoint.harm_sign > 0 else "better"
    yield (
        f"The differences look skewed: their long tail is towards {tail} (triples test of symmetry, "
        f"z = {abs(z):.1f}). Tests of a mean then claim too often: at 5 % in 11 to 16 % of experiments "
        "without effect where one arm is lognormal. Look at the median and at Wilcoxon's p, too."
    )


def _vain_looks(comparison: Comparison) -> Iterator[str]:
    """Looks that a new plan is refused for, in a folder that was made before."""
    if comparison.role != "primary" or comparison.mode == "aa":
        return
    level = comparison.alpha / (1 if comparison.holm is None else comparison.holm.size)
    for look in hopeless(level, comparison.look.declared):
        yield (
            f"The plan declares a look at {plural(look, 'seed')} that could never claim anything: its level, "
            f"{level:.2g}, lies below the smallest exact p of so few, {floor_of(look):.2g}. It only took its "
            "share of the level from the other looks."
        )


def _significant(comparison: Comparison) -> bool:
    ps = (comparison.p_signflip, comparison.p_t)
    return all(p is not None and p <= comparison.alpha for p in ps)


def weak_teacher(solved: Mapping[str, float]) -> Iterator[str]:
    """solved: teacher -> share of held-out problems that it gets right by itself; weak ones alone."""
    for teacher, share in solved.items():
        yield (
            f"The teacher {teacher} solves only {100 * share:.1f} % of held-out problems itself: its cache "
            "has little to teach, and what holds here need not hold with an able teacher."
        )
