"""What a reader of a verdict should know though it changes none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from analysis.sentences import p_text

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
    claimed = comparison.verdict in ("SUPERIOR", "INFERIOR")
    weakest = None if one_out is None else one_out.p_t_highest
    if claimed and weakest is not None and weakest > comparison.alpha:
        yield f"The claim hangs on single seeds: without one of them the t test has p = {p_text(weakest)}."
    if comparison.mode == "aa" and _significant(comparison):
        yield (
            f"The two copies differ in one direction (exact p = {p_text(comparison.p_signflip)}): chance "
            "does that in few experiments, so look for what else differs between them."
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
