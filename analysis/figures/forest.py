"""Figure 6: every planned question beside the others, with what Holm's step-down leaves of its p."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.canvas import INK, MUTED, NARROW, PAPER, WIDE, brief, wrapped
from analysis.comparison import Comparison
from analysis.figures.draft import Draft, Drafts, Missing, Scene, Styles
from analysis.figures.marks import drawable
from analysis.sentences import decimals_of, level, number
from analysis.wording import adjusted_p, p_or_dash

TITLE = "Planned contrasts and secondary endpoints"
HOLM_AT = 1.03
"""Where the p stand, in widths of the panel."""


def drafts(scene: Scene) -> Drafts:
    results = scene.results
    asked = [*results.comparisons, *results.secondary]
    known = [comparison for comparison in asked if comparison.difference is not None]
    if len(results.comparisons) < 2 and not results.secondary:
        yield Missing(name="forest", title=TITLE, reason="the plan asks one question")
        return
    if not known:
        yield Missing(name="forest", title=TITLE, reason="no question has an estimate")
        return
    groups: dict[str, list[Comparison]] = {}
    for comparison in known:
        groups.setdefault(comparison.metric, []).append(comparison)
    without = len(asked) - len(known)
    left_out = f" Without an estimate, and not drawn: {without} of {len(asked)} questions." if without else ""
    yield Draft(
        name="forest",
        title=TITLE,
        caption=(
            f"Mean paired difference with its t interval ({level(asked[0])}, thick) and, where questions "
            "share the level, the interval at that level divided by their number (thin); n pairs on the "
            "left. Right: the larger p of both tests after Holm's step-down. Dashed lines: the margin. "
            f"Each panel has its own unit.{left_out} No smoothing."
        ),
        alt="; ".join(
            f"{c.treatment} minus {c.baseline} in {c.endpoint.label}: {number(c.difference, decimals_of(c))}"
            for c in known
        ),
        table=pd.DataFrame([_record(comparison) for comparison in asked]),
        draw=partial(forest_figure, list(groups.values()), scene.styles),
    )


def _record(comparison: Comparison) -> dict[str, object]:
    low, high = comparison.interval or (None, None)
    family_low, family_high = comparison.interval_family or (None, None)
    return {
        "metric": comparison.metric,
        "treatment": comparison.treatment,
        "baseline": comparison.baseline,
        "role": comparison.role,
        "pairs": comparison.pairs,
        "difference": comparison.difference,
        "low": low,
        "high": high,
        "family_low": family_low,
        "family_high": family_high,
        "family_size": 1 if comparison.holm is None else comparison.holm.size,
        "p_adjusted": adjusted_p(comparison),
        "verdict": comparison.verdict,
    }


def forest_figure(groups: Sequence[Sequence[Comparison]], styles: Styles, *, narrow: bool = False) -> Figure:
    """A panel per endpoint, a row per contrast."""
    heights = [0.6 + sum(0.28 + 0.14 * _label(c, narrow).count("\n") for c in group) for group in groups]
    width = NARROW if narrow else WIDE
    figure = Figure(figsize=(width, 0.25 + sum(heights) + 0.25 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False).ravel()
    for ax, group in zip(axes, groups, strict=True):
        plot_forest(group, styles, ax, narrow=narrow)
    return figure


def plot_forest(group: Sequence[Comparison], styles: Styles, ax: Axes, *, narrow: bool = False) -> Axes:
    """Estimates of one endpoint against zero."""
    endpoint = group[0].endpoint
    ax.axvline(0, color=INK, lw=0.9, zorder=1)
    if group[0].margin is not None:
        for margin in (-group[0].margin, group[0].margin):
            ax.axvline(margin, color=MUTED, lw=0.9, ls=(0, (4, 2)), zorder=1)
    for y, comparison in enumerate(group):
        style = styles[comparison.treatment]
        for interval, width in ((comparison.interval_family, 1.0), (comparison.interval, 3.0)):
            if interval is not None:
                ax.plot(interval, [y, y], color=style.colour, lw=width, solid_capstyle="butt")
        ax.plot(
            [drawable(comparison.difference)],
            [y],
            color=style.colour,
            marker=style.marker,
            ms=6.5,
            mec=PAPER,
            mew=0.8,
        )
        ax.text(
            HOLM_AT,
            y,
            p_or_dash(adjusted_p(comparison)),
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=8,
        )
    ax.text(HOLM_AT, -0.75, "p, Holm" if group[0].holm else "p", transform=ax.get_yaxis_transform(),
            va="bottom", fontsize=7, color=MUTED)  # fmt: skip
    ax.set_yticks(range(len(group)), [_label(comparison, narrow) for comparison in group])
    ax.set_ylim(len(group) - 0.4, -0.7)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.xaxis.set_major_locator(MaxNLocator(4 if narrow else 6))
    side = "below" if endpoint.direction == "min" else "above"
    join = "\n" if narrow else ", "
    ax.set_xlabel(f"difference ({endpoint.unit}){join}{side} 0 is better")
    ax.set_title(wrapped(endpoint.label, 36 if narrow else 90))
    return ax


def _label(comparison: Comparison, narrow: bool) -> str:
    text = f"{comparison.treatment} − {comparison.baseline}, n = {comparison.pairs}"
    return brief(text, 18 if narrow else 34, 4)
