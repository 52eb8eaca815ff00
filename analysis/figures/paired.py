"""Figure 1, the headline: every seed in both arms, and every seed's difference with both intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.canvas import INK, MUTED, NARROW, PAPER, WIDE, brief, shortened, wrapped
from analysis.comparison import Comparison
from analysis.figures.draft import Draft, Drafts, Missing, Scene, Styles
from analysis.figures.marks import drawable, spread, spread_text, thinned, two_lines
from analysis.pairing import SeedRow
from analysis.ragged import Floats
from analysis.sentences import decimals_of, interval_text, level, number, plural
from analysis.signflip import ENUMERATED
from analysis.tables import seed_record

LABELLED = 24
"""Seeds up to which every row is named."""
MOST_CONTRASTS = 6
"""Contrasts that have a figure of their own; the forest shows all."""
SLOPES = 60
"""Seeds up to which every slope is drawn."""


def drafts(scene: Scene) -> Drafts:
    for place, comparison in enumerate(scene.results.comparisons, start=1):
        title = f"{comparison.treatment} against {comparison.baseline}, {comparison.endpoint.label}"
        if place > MOST_CONTRASTS:
            reason = f"only the first {MOST_CONTRASTS} contrasts are; its seeds stand in tables/seeds.csv"
            yield Missing(name=f"paired-{place}", title=title, reason=reason)
        elif comparison.pairs:
            names = scene.results.experiment.plan.seed_names
            yield _draft(comparison, scene.styles, names, f"paired-{place}", title)
        else:
            yield Missing(name=f"paired-{place}", title=title, reason="there is no complete pair")


def _draft(comparison: Comparison, styles: Styles, names: Mapping[int, str], name: str, title: str) -> Draft:
    decimals = decimals_of(comparison)
    margin = f" Dashed lines: the margin, ±{comparison.margin:g}." if comparison.margin is not None else ""
    exact = (
        f"thin bar: {'exact ' if comparison.pairs <= ENUMERATED else ''}sign-flip interval"
        if comparison.interval_exact is not None
        else "too few pairs for an exact interval"
    )
    few = (
        f" Slopes drawn: {SLOPES} of {comparison.pairs}, evenly spaced." if comparison.pairs > SLOPES else ""
    )
    found = (
        f"mean difference {number(comparison.difference, decimals)}, {level(comparison)} "
        + interval_text(comparison.interval, decimals)
    )
    return Draft(
        name=name,
        title=title,
        caption=(
            f"n = {plural(comparison.pairs, 'complete pair')} of {comparison.planned}. Each line and "
            "each grey point is one seed. Diamond: mean difference; thick bar: paired t interval "
            f"({level(comparison)}); {exact}.{margin}{few}{spread_text(comparison.pairs)} No smoothing."
        ),
        alt=f"Paired plot of {comparison.endpoint.label} over {plural(comparison.pairs, 'seed')}: {found}.",
        table=pd.DataFrame([seed_record(row) for row in comparison.rows]),
        draw=partial(paired_figure, comparison, styles, names),
    )


def paired_figure(
    comparison: Comparison, styles: Styles, names: Mapping[int, str], *, narrow: bool = False
) -> Figure:
    """Slopes beside differences; below each other where there is one column. names: of seeds, if any."""
    rows = min(comparison.pairs, LABELLED) + 2
    tall = max(2.4, 0.9 + 0.2 * rows)
    if narrow:
        figure = Figure(figsize=(NARROW, 2.6 + tall), layout="constrained")
        slopes, differences = figure.subplots(2, 1, height_ratios=[2.6, tall])
    else:
        figure = Figure(figsize=(WIDE, max(2.9, tall)), layout="constrained")
        slopes, differences = figure.subplots(1, 2, width_ratios=[1, 1.45])
    plot_pairs(comparison, styles, slopes)
    plot_differences(comparison, differences, names, 30 if narrow else 40)
    return figure


def plot_pairs(comparison: Comparison, styles: Styles, ax: Axes) -> Axes:
    """One slope per complete pair, from the baseline's value to the treatment's."""
    pairs = _pairs(comparison)
    sides = np.array([[drawable(row.baseline), drawable(row.treatment)] for row in pairs])
    slopes = thinned(pd.DataFrame(sides), SLOPES).to_numpy(float)
    lines = [[(0.0, ours), (1.0, theirs)] for ours, theirs in slopes if np.isfinite(ours + theirs)]
    ax.add_collection(LineCollection(lines, colors=MUTED, linewidths=0.7, alpha=0.65))
    for x, arm in enumerate((comparison.baseline, comparison.treatment)):
        look, values = styles[arm], sides[spread(sides[:, x]), x]
        ax.plot([x] * len(values), values, ls="", color=look.colour, marker=look.marker, mec=PAPER, mew=0.5)
    ax.set_xticks([0, 1], [brief(comparison.baseline, 16, 4), brief(comparison.treatment, 16, 4)])
    ax.set_xlim(-0.35, 1.35)
    ax.grid(visible=False, axis="x")
    ax.set_ylabel(two_lines(comparison.endpoint))
    ax.set_title("Every seed in both arms")
    return ax


def plot_differences(comparison: Comparison, ax: Axes, names: Mapping[int, str], signs: int = 40) -> Axes:
    """Differences by seed; above them the mean with its t interval (thick) and exact interval (thin)."""
    pairs = _pairs(comparison)
    # Rows stand as far apart as there is room for labels; many seeds share the height of the labelled ones.
    pitch = min(1.0, LABELLED / max(1, len(pairs)))
    places = 1 + pitch * np.arange(len(pairs), dtype=float)
    ax.axvline(0, color=INK, lw=0.9, zorder=1)
    for margin in [] if comparison.margin is None else [-comparison.margin, comparison.margin]:
        ax.axvline(margin, color=MUTED, lw=0.9, ls=(0, (4, 2)), zorder=1)
    deltas = np.array([drawable(row.delta) for row in pairs])
    shown = spread(deltas)
    ax.plot(
        deltas[shown], places[shown], ls="", marker="o", color=MUTED, mec=PAPER, mew=0.5,
        ms=4.5 if pitch == 1 else 2.5,
    )  # fmt: skip
    _plot_mean(comparison, ax, -0.6)
    _label_seeds(ax, pairs, places, names)
    ax.set_ylim(places[-1] + 0.7, -1.5)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.grid(visible=False, axis="y")
    side = "below" if comparison.endpoint.direction == "min" else "above"
    arms = wrapped(f"{comparison.treatment} − {comparison.baseline}", signs)
    ax.set_xlabel(f"{arms}\n{comparison.endpoint.unit}, {side} 0 is better")
    ax.set_title("Difference by seed")
    return ax


def _pairs(comparison: Comparison) -> list[SeedRow]:
    return [row for row in comparison.rows if row.kind == "paired"]


def _plot_mean(comparison: Comparison, ax: Axes, place: float) -> None:
    if comparison.difference is None:
        return
    if comparison.interval_exact is not None:
        ax.plot(comparison.interval_exact, [place] * 2, color=INK, lw=1.0, solid_capstyle="butt")
    if comparison.interval is not None:
        ax.plot(comparison.interval, [place] * 2, color=INK, lw=3.6, solid_capstyle="butt")
    ax.plot([comparison.difference], [place], marker="D", color=INK, ms=7, mec=PAPER, mew=1.0)


def _label_seeds(ax: Axes, pairs: Sequence[SeedRow], places: Floats, names: Mapping[int, str]) -> None:
    numbers = [f"seed {row.seed}" if n == 0 else str(row.seed) for n, row in enumerate(pairs)]
    labels = [shortened(names.get(row.seed, number)) for row, number in zip(pairs, numbers, strict=True)]
    if len(pairs) > LABELLED:
        middle = [float(places.mean())]
        ax.set_yticks([-0.6, *middle], ["mean", f"{len(pairs)}\nseeds"])
    else:
        ax.set_yticks([-0.6, *places], ["mean", *labels])
    ax.tick_params(axis="y", length=0)
