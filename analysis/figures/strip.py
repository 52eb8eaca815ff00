"""Figure 4: the endpoints, every seed a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.canvas import INK, MUTED, NARROW, PAPER, WIDE, brief
from analysis.endpoints import endpoint_of
from analysis.figures.draft import Draft, Drafts, Scene, Styles
from analysis.figures.marks import MOST_POINTS, fan, spread, spread_text
from analysis.pairing import outcomes


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity of every run."""

    title: str
    label: str
    """Of the axis: unit, direction."""
    table: pd.DataFrame
    """arm, value: in planned order; NaN where there is none, infinite where it was never reached."""
    centre: Literal["mean", "median"] | None = "mean"
    """What the bar stands at."""
    share: bool = False
    """Percentages: the axis begins at 0."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Arm -> what stands beside its row instead of n."""


def drafts(scene: Scene) -> Drafts:
    experiment = scene.results.experiment
    plan = experiment.plan
    metrics = [None, *(metric for metric in plan.secondary if metric != plan.primary.metric)]
    endpoints = [endpoint_of(plan, metric) for metric in metrics]
    tables = [outcomes(experiment, endpoint)[["arm", "seed", "value", "status"]] for endpoint in endpoints]
    panels = [
        Panel(title=endpoint.quantity, label=f"{endpoint.unit}, {endpoint.better}", table=table)
        for endpoint, table in zip(endpoints, tables, strict=True)
    ]
    behind = [table.assign(endpoint=e.metric) for e, table in zip(endpoints, tables, strict=True)]
    never = any(np.isinf(table["value"].to_numpy(float)).any() for table in tables)
    edge = " Hollow points on the right edge never reached the threshold; such an arm has no mean."
    yield Draft(
        name="endpoints",
        title="Endpoints, every seed",
        caption=(
            "Each point is one completed run; the bar is the arm's mean; n stands beside it. No smoothing."
            f"{spread_text(most_of(panels))}{edge if never else ''}"
        ),
        alt=f"Every run's {', '.join(endpoint.label for endpoint in endpoints)} by arm.",
        table=pd.concat(behind, ignore_index=True),
        draw=partial(strip_figure, panels, scene.styles),
    )


def most_of(panels: Sequence[Panel]) -> int:
    """The most values that an arm has in a panel."""
    return max(int(panel.table.groupby("arm")["value"].count().max()) for panel in panels)


def strip_figure(panels: Sequence[Panel], styles: Styles, *, narrow: bool = False) -> Figure:
    """Up to three panels in a row, all with the same arms; on a phone one below the other."""
    columns = 1 if narrow else min(len(panels), 3)
    lines = -(-len(panels) // columns)
    arms = list(dict.fromkeys(arm for panel in panels for arm in panel.table["arm"]))
    height = 0.85 + len(arms) * max(max(0.42, 0.16 * (1 + brief(arm, 14).count("\n"))) for arm in arms)
    figure = Figure(figsize=(NARROW if narrow else WIDE, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        plot_strip(panel, styles, ax)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return figure


def plot_strip(panel: Panel, styles: Styles, ax: Axes) -> Axes:
    """A row per arm, every run a point, a bar at the centre; hollow points at the edge never got there."""
    arms = list(panel.table["arm"].drop_duplicates())
    edge = ax.get_yaxis_transform()
    for y, arm in enumerate(arms):
        values = panel.table.loc[panel.table["arm"] == arm, "value"].dropna().to_numpy(float)
        finite = values[np.isfinite(values)]
        style, never = styles[arm], len(values) - len(finite)
        look: dict[str, Any] = {"ls": "", "marker": style.marker, "alpha": 0.85}
        shown = finite[spread(finite)]
        ax.plot(shown, y + fan(len(shown)), color=style.colour, mec=PAPER, mew=0.5, **look)
        if len(finite) and not never and panel.centre:
            middle = np.mean(finite) if panel.centre == "mean" else np.median(finite)
            ax.plot([middle] * 2, [y - 0.26, y + 0.26], color=INK, lw=1.6)
        hollow = min(never, MOST_POINTS)
        ax.plot([0.97] * hollow, y + fan(hollow), mfc=PAPER, mec=style.colour, transform=edge, **look)
        count = panel.notes.get(arm, f"n = {len(values)}" + (f", {never} never" if never else ""))
        ax.text(1.0, y - 0.28, count, transform=edge, ha="right", va="bottom", fontsize=7, color=MUTED)
    ax.set_yticks(range(len(arms)), [brief(arm, 14) for arm in arms])
    ax.set_ylim(len(arms) - 0.5, -0.7)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.15)
    if panel.share:
        ax.set_xlim(-0.5, max(10.0, 1.2 * float(panel.table["value"].max())))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(panel.label)
    ax.set_title(panel.title)
    return ax
