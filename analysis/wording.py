"""Values as the page and the Markdown print them, and the words they use."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from analysis.comparison import Comparison
from analysis.factor_answers import FactorAnswer
from analysis.sentences import number, p_text

GLOSSARY = {
    "pair": "The two runs of one seed, one in each arm; what they are known to share stands under Validity. "
    "The seed is what is repeated, so n counts seeds.",
    "exact sign-flip": "Were the arms alike, each difference could as well have the other sign. p is the "
    "share of all sign patterns whose mean is at least as far from zero.",
    "SUPERIOR, INFERIOR": "Both tests reject no difference at alpha, in this direction.",
    "EQUIVALENT": "Both intervals lie inside the margin on either side.",
    "NON-INFERIOR": "Both intervals exclude a harm as large as the margin.",
    "INCONCLUSIVE": "None of these. It does not say that the arms are alike.",
    "NOT TESTABLE": "Too few pairs: not even the clearest outcome could reach alpha.",
    "DEGENERATE": "The difference is the same for every seed, which independent runs would not give.",
    "INVALID": "A check failed, so that the arms differ in more than what is compared: nothing was tested.",
    "failed": "Diverged, crashed, out of memory or out of time: an outcome, never replaced by a fresh seed.",
    "stopped": "An imported run that ended before the others. Nobody knows what it would have reached: it is "
    "counted with the failures.",
    "lost": "Preempted, cancelled, or without any run: nothing to do with the arm; the seed may run again.",
    "failures ranked worst": "A failed run counts as worse than any value. A claim must hold so, too.",
    "Holm": "Several questions share alpha: the smallest p is multiplied by their number, the next by one "
    "less, and so on. Adjusted p are compared with alpha.",
    "McNemar": "Does one arm fail on more seeds than the other? Seeds on which one of both failed count.",
    "Hodges-Lehmann": "The median of the means of all pairs of differences: one wild seed moves it little.",
    "Hedges' gz": "Mean difference over the SD of the differences, without its small-sample bias.",
    "interval, pointwise": "Covers each step by itself; the curve as a whole it covers less often.",
    "exploratory": "Not named in the plan as a question: an estimate to plan with, no claim.",
}
"""Word -> what it means here."""


def larger_p(comparison: Comparison) -> float | None:
    """The larger p of both tests: a claim needs both."""
    return _larger(comparison.p_signflip, comparison.p_t)


def adjusted_p(answer: Comparison | FactorAnswer) -> float | None:
    """The same after Holm, where the question shares its level with others."""
    source = answer.statistics if answer.holm is None else answer.holm
    return _larger(source.p_signflip, source.p_t)


def _larger(*ps: float | None) -> float | None:
    return max((p for p in ps if p is not None), default=None)


def p_or_dash(p: float | None) -> str:
    """A p as text; a dash where nothing was tested."""
    return "–" if p is None else p_text(p)


def short(value: float | None) -> str:
    """Three significant digits; a dash where nothing is known."""
    if value is None:
        return "–"
    return f"{value:.3g}" if math.isfinite(value) else number(value, 0)


def percent(interval: tuple[float, float] | None) -> str:
    """ "63 to 100 %"."""
    return "–" if interval is None else f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %"


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds one by one; neighbours as a range where there are many."""
    if len(seeds) <= 24:
        return ", ".join(str(seed) for seed in seeds)
    ordered, parts, first = sorted(seeds), [], 0
    for place, seed in enumerate(ordered):
        if place + 1 == len(ordered) or ordered[place + 1] != seed + 1:
            parts.append(f"{ordered[first]} to {seed}" if place > first else str(seed))
            first = place + 1
    return f"{', '.join(parts[:12])}{', and more' if len(parts) > 12 else ''} ({len(seeds)})"


def plain(value: Any) -> str:
    """A value of a JSON file for people: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def whole(value: float | None) -> str:
    """1,234; a dash where nothing is known."""
    return "–" if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def cell(value: Any) -> str:
    """Text for Markdown: on one line, and none of its marks take effect."""
    text = "–" if value is None else " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#~$!])", r"\\\1", text)
