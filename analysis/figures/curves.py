"""Figure 2: learning curves by arm, by step and by wall time, with how many runs stand behind them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.canvas import NARROW, WIDE, legend, wrapped
from analysis.curves import ArmCurve, counts_text, smoothed, smoothing_text
from analysis.endpoints import Endpoint, endpoint_of
from analysis.figures.draft import Draft, Drafts, Missing, Scene, Styles
from analysis.figures.marks import arm_lines, key_shape, thinned, thinning_text
from analysis.plan import Plan
from analysis.sentences import plural

THIN_RUNS = 12
"""Runs of an arm up to which each has its own thin line."""
TITLE = "Learning curves"
BY_TIME = (
    "By wall time: the mean of what every run had last reported; a run that completed keeps its last value."
)
UNITS = {"step": 1.0, "wall_s": 60.0}
"""Column -> what its axis divides it by."""


def drafts(scene: Scene) -> Drafts:
    plan = scene.results.experiment.plan
    primary = endpoint_of(plan)
    shown = {
        (primary.source, primary.split): axis_of(plan, primary),
        ("ce", "train"): "train CE (nats/token)",
    }
    groups = [(label, scene.curves(*source)) for source, label in shown.items() if scene.curves(*source)]
    if not groups:
        yield Missing(name="curves", title=TITLE, reason="no run logged a finite value")
        return
    if all(len(curve.mean) < 2 for _, curves in groups for curve in curves):
        yield Missing(name="curves", title=TITLE, reason="one evaluation a run is no curve")
        return
    metrics = [metric for metric, split in shown if scene.curves(metric, split)]
    logged = set(scene.results.experiment.metrics["metric"].cat.categories)
    yield _draft(groups, metrics, scene.styles, plan, own="kv_loss" in logged)


def axis_of(plan: Plan, endpoint: Endpoint) -> str:
    """The axis of the curve that the endpoint is read from."""
    if endpoint.threshold is None:
        return f"{endpoint.quantity} ({endpoint.unit})"
    accuracy = endpoint_of(plan, endpoint.source)
    return f"{accuracy.quantity} ({accuracy.unit})"


def _draft(
    groups: Sequence[tuple[str, list[ArmCurve]]],
    metrics: Sequence[str],
    styles: Styles,
    plan: Plan,
    *,
    own: bool,
) -> Draft:
    """own: whether a loss was logged that means something else in every arm."""
    behind = [
        curve.mean.assign(metric=metric, arm=curve.arm)
        for metric, (_, curves) in zip(metrics, groups, strict=True)
        for curve in curves
    ]
    main = groups[0][1]
    drawn = [(label, [smoothed(curve, plan.smoothing) for curve in curves]) for label, curves in groups]
    thin = " Thin lines: single runs." if all(curve.seeds <= THIN_RUNS for curve in main) else ""
    ends = sum(len(curve.ends) for curve in main)
    crosses = f" Crosses: the last finite point of {plural(ends, 'failed run')}." if ends else ""
    points = max(len(curve.mean) for _, curves in groups for curve in curves)
    timed = any(len(curve.by_time) for _, curves in groups for curve in curves)
    by_time = f" {BY_TIME}" if timed else ""
    left = " The KV loss is not drawn: each arm's target is its own projection." if own else ""
    return Draft(
        name="curves",
        title=TITLE,
        caption=(
            f"Mean over runs with the pointwise {100 * (1 - plan.alpha):g} % t interval; {counts_text(main)}."
            f"{thin}{crosses}{by_time}{thinning_text(points)} {smoothing_text(plan.smoothing)}, and nothing "
            f"is interpolated.{left}"
        ),
        alt=f"Learning curves of {' and '.join(label for label, _ in groups)} by step"
        f"{' and by wall time' if timed else ''}.",
        table=pd.concat(behind, ignore_index=True),
        draw=partial(curves_figure, drawn, styles, plan.step_name),
    )


def curves_figure(
    groups: Sequence[tuple[str, Sequence[ArmCurve]]], styles: Styles, step: str, *, narrow: bool = False
) -> Figure:
    """Per metric: by step with the strip of n below, and by wall time where it is known.

    groups: axis label, curves. step: what steps are called.
    """
    timed = any(len(curve.by_time) for _, curves in groups for curve in curves)
    axes_of = {"step": step, "wall_s": "wall time (minutes)"} if timed else {"step": step}
    columns = 1 if narrow else len(axes_of)
    blocks = [(label, curves, x) for label, curves in groups for x in axes_of]
    lines = len(blocks) // columns
    key_columns, signs = key_shape(list(styles), narrow=narrow)
    key = {wrapped(arm, signs): line for arm, line in arm_lines(styles, list(styles)).items()}
    key_lines = sum(1 + name.count("\n") for name in key) / key_columns
    height = 0.22 + 0.17 * key_lines + 2.5 * lines
    figure = Figure(figsize=(NARROW if narrow else WIDE, height), layout="constrained")
    axes = figure.subplots(2 * lines, columns, height_ratios=[7, 1] * lines, squeeze=False)
    for place, (label, curves, x) in enumerate(blocks):
        line, column = divmod(place, columns)
        top, strip = axes[2 * line, column], axes[2 * line + 1, column]
        top.sharex(strip)
        top.tick_params(labelbottom=False)
        plot_curves(curves, styles, top, x)
        plot_counts(curves, styles, strip, x)
        strip.set_xlabel(axes_of[x])
        top.set_ylabel(label)
        top.set_title(f"{label.partition(' (')[0]} by {'step' if x == 'step' else 'wall time'}")
    legend(figure, key, loc="outside upper left", ncols=key_columns, handlelength=2.6)
    return figure


def plot_curves(curves: Sequence[ArmCurve], styles: Styles, ax: Axes, x: str) -> Axes:
    """Mean with pointwise band; a thin line per run up to twelve; a cross where a failed run ends."""
    unit = UNITS[x]
    for curve in curves:
        style = styles[curve.arm]
        if curve.seeds <= THIN_RUNS:
            for _, run in curve.runs.groupby("seed"):
                run = thinned(run)
                ax.plot(run[x] / unit, run["value"], color=style.colour, lw=0.5, alpha=0.4)
        mean = thinned(curve.mean if x == "step" else curve.by_time)
        ax.fill_between(mean[x] / unit, mean["low"], mean["high"], color=style.colour, alpha=0.16, lw=0)
        alone = style.marker if len(mean) == 1 else ""
        ax.plot(mean[x] / unit, mean["mean"], color=style.colour, ls=style.dashes, lw=1.7, marker=alone)
        ax.plot(
            curve.ends[x] / unit, curve.ends["value"], ls="", marker="x", color=style.colour, ms=6, mew=1.8
        )
    return ax


def plot_counts(curves: Sequence[ArmCurve], styles: Styles, ax: Axes, x: str) -> Axes:
    """How many runs stand behind each point of the mean."""
    unit, most = UNITS[x], max((curve.planned for curve in curves), default=1)
    for curve in curves:
        style, mean = styles[curve.arm], thinned(curve.mean if x == "step" else curve.by_time)
        ax.step(mean[x] / unit, mean["n"], where="post", color=style.colour, ls=style.dashes, lw=1.2)
    ax.set_ylim(0, most * 1.25)
    ax.set_yticks([0, most])
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_ylabel("runs")
    return ax
