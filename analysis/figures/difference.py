"""Figure 3: the paired difference along training, with a band for each step and one for the whole curve."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.bands import DifferenceCurve
from analysis.canvas import INK, MUTED, NARROW, WIDE, legend, wrapped
from analysis.figures.curves import THIN_RUNS, axis_of
from analysis.figures.draft import Draft, Drafts, Missing, Scene, Styles
from analysis.figures.marks import thinned, thinning_text
from analysis.plan import Plan

TITLE = "Paired difference along training"
MOST_CONTRASTS = 6
"""Contrasts drawn; the CSV has all."""
Curve = tuple[DifferenceCurve, pd.DataFrame]
"""The curve, and its seeds' own differences: seed, step, delta; empty where there are too many."""


def drafts(scene: Scene) -> Drafts:
    found = [curve for curve in scene.results.differences if len(curve.table) > 1]
    if not found:
        yield Missing(name="difference", title=TITLE, reason="no seed logged two common steps in both arms")
        return
    plan = scene.results.experiment.plan
    shown = [(curve, _seeds(curve, scene)) for curve in found[:MOST_CONTRASTS]]
    few = f" Drawn: the first {MOST_CONTRASTS} of {len(found)} contrasts." if len(found) > len(shown) else ""
    points = max(len(curve.table) for curve, _ in shown)
    counts = "; ".join(f"{curve.treatment} − {curve.baseline}: {curve.counts}" for curve, _ in shown)
    yield Draft(
        name="difference",
        title=TITLE,
        caption=(
            f"Mean difference of pairs at every step that both runs logged; {counts}. Dark band: t interval "
            f"at {100 * (1 - plan.alpha):g} %, pointwise: it covers each step by itself and not the curve. "
            f"Light band: max-|t| sign-flip band, holding at all tested steps at once ({_levels(shown)}). "
            f"{' '.join(curve.sentence for curve, _ in shown)} Thin lines: single seeds, up to {THIN_RUNS}."
            f"{few}{thinning_text(points)} Nothing is smoothed or interpolated."
        ),
        alt=" ".join(curve.sentence for curve, _ in shown),
        table=pd.concat(
            [curve.table.assign(treatment=curve.treatment, baseline=curve.baseline) for curve in found],
            ignore_index=True,
        ),
        draw=partial(difference_figure, shown, plan, scene.styles),
    )


def _levels(shown: Sequence[Curve]) -> str:
    """The confidence of the curve-wide bands, or why there is none."""
    levels = sorted({curve.level for curve, _ in shown if curve.tested})
    return " and ".join(f"{100 * (1 - level):.4g} %" for level in levels) or "none could be computed"


def _seeds(curve: DifferenceCurve, scene: Scene) -> pd.DataFrame:
    by_arm = {line.arm: line.runs for line in scene.curves(curve.endpoint.source, curve.endpoint.split)}
    ours, theirs = by_arm.get(curve.treatment), by_arm.get(curve.baseline)
    if ours is None or theirs is None or ours["seed"].nunique() > THIN_RUNS:
        return pd.DataFrame(columns=["seed", "step", "delta"])
    both = ours.merge(theirs, on=["seed", "step"], suffixes=("_ours", "_theirs"))
    return both.assign(delta=both["value_ours"] - both["value_theirs"])[["seed", "step", "delta"]]


def difference_figure(curves: Sequence[Curve], plan: Plan, styles: Styles, *, narrow: bool = False) -> Figure:
    """A panel per contrast with the strip of n below it; two side by side where there are several."""
    columns = 1 if narrow or len(curves) == 1 else 2
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(NARROW if narrow else WIDE, 0.35 + 2.7 * lines), layout="constrained")
    axes = figure.subplots(2 * lines, columns, height_ratios=[7, 1] * lines, squeeze=False)
    for place, (curve, seeds) in enumerate(curves):
        line, column = divmod(place, columns)
        above, below = axes[2 * line, column], axes[2 * line + 1, column]
        above.sharex(below)
        above.tick_params(labelbottom=False)
        plot_difference(curve, seeds, styles, above)
        above.set_ylabel(_label(curve, plan))
        above.set_title(
            wrapped(f"{curve.treatment} − {curve.baseline}", 30 if columns == 2 or narrow else 80)
        )
        _plot_pairs(curve, styles, below)
        below.set_xlabel(plan.step_name)
    for place in range(len(curves), lines * columns):
        line, column = divmod(place, columns)
        axes[2 * line, column].set_axis_off()
        axes[2 * line + 1, column].set_axis_off()
    shades = {"pointwise": 0.45, "whole curve": 0.18}
    key = {name: Patch(color=MUTED, alpha=shade, lw=0) for name, shade in shades.items()}
    legend(figure, key, loc="outside upper left", ncols=2)
    return figure


def plot_difference(curve: DifferenceCurve, seeds: pd.DataFrame, styles: Styles, ax: Axes) -> Axes:
    """The mean difference with both bands against zero."""
    style, table = styles[curve.treatment], thinned(curve.table)
    ax.axhline(0, color=INK, lw=0.9, zorder=1)
    for low, high, alpha in (("band_low", "band_high", 0.13), ("low", "high", 0.3)):
        ax.fill_between(table["step"], table[low], table[high], color=style.colour, alpha=alpha, lw=0)
    for _, one in seeds.groupby("seed"):
        one = thinned(one)
        ax.plot(one["step"], one["delta"], color=style.colour, lw=0.5, alpha=0.45)
    alone = style.marker if len(table) == 1 else ""
    ax.plot(table["step"], table["mean"], color=style.colour, ls=style.dashes, lw=1.7, marker=alone)
    return ax


def _label(curve: DifferenceCurve, plan: Plan) -> str:
    side = "below" if curve.endpoint.direction == "min" else "above"
    return f"difference in {axis_of(plan, curve.endpoint)}\n{side} 0 is better"


def _plot_pairs(curve: DifferenceCurve, styles: Styles, ax: Axes) -> None:
    table, style = thinned(curve.table), styles[curve.treatment]
    most = max(1, int(table["n"].max()))
    ax.step(table["step"], table["n"], where="post", color=style.colour, lw=1.2)
    ax.set_ylim(0, most * 1.25)
    ax.set_yticks([0, most])
    ax.set_ylabel("pairs")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
