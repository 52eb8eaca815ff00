"""Figure 7: the primary endpoint over a grid of factors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import stats

from analysis.canvas import GRID, INK, NARROW, WIDE, wrapped
from analysis.endpoints import Endpoint, endpoint_of
from analysis.figures.draft import Draft, Drafts, Missing, Scene
from analysis.plan import Plan
from analysis.records import FAILURES
from analysis.sentences import decimals_for, number

TITLE = "Primary endpoint over the grid"
SCALE = LinearSegmentedColormap.from_list("kvtune", ["#f3f7fb", "#8fbfe0", "#0b6aa8"])
"""One hue from light to dark, so that order needs no colour vision."""
DARK, LIGHT = "#101214", "#ffffff"


def drafts(scene: Scene) -> Drafts:
    plan = scene.results.experiment.plan
    places = places_of(plan)
    if not plan.grid:
        reason = "the experiment has no grid of further factors"
        yield Missing(name="grid", title=TITLE, reason=reason)
        return
    endpoint = endpoint_of(plan)
    table = grid_table(scene.results.cells, places, plan.alpha)
    failed = int(table["failed"].sum())
    hatched = f" Hatched: cells with failed runs ({failed} in all)." if failed else " No run failed."
    yield Draft(
        name="grid",
        title=TITLE,
        caption=(
            f"{endpoint.label}, {endpoint.unit}, {endpoint.better}: mean over completed runs, half-width of "
            f"its {100 * (1 - plan.alpha):g} % t interval, and n of the planned runs.{hatched} Darker is "
            "higher. Intervals are not corrected for their number."
        ),
        alt=f"Table of {endpoint.label} by arm and by {', '.join(plan.grid)}, {len(table)} cells.",
        table=table,
        draw=partial(grid_figure, table, endpoint),
    )


def places_of(plan: Plan) -> dict[str, tuple[str, str]]:
    """Arm of the table -> (row, column): its point in the grid, and its arm in the experiment file."""
    return {
        name: (point_text(plan.labels[name].point), plan.labels[name].arm)
        for name in plan.arms
        if name in plan.labels
    }


def point_text(point: Mapping[str, Any]) -> str:
    """ "lr = 0.001, batch_size = 8"."""
    values = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in point.items()
    }
    return ", ".join(f"{name} = {value}" for name, value in values.items()) or "no point"


def grid_table(cells: pd.DataFrame, places: Mapping[str, tuple[str, str]], alpha: float) -> pd.DataFrame:
    """One row per cell: point, arm, mean, half_width (None below two runs), n, planned, failed."""
    rows = []
    for name, runs in cells.groupby("arm", sort=False):
        point, arm = places[str(name)]
        values = runs["value"].to_numpy(float)
        values = values[np.isfinite(values)]
        reach = None
        if len(values) > 1:
            quantile = float(stats.t.isf(alpha / 2, len(values) - 1))
            reach = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
        rows.append(
            {
                "point": point,
                "arm": arm,
                "mean": float(values.mean()) if len(values) else None,
                "half_width": reach,
                "n": len(values),
                "planned": len(runs),
                "failed": int(runs["status"].isin(FAILURES).sum()),
            }
        )
    return pd.DataFrame(rows)


def grid_figure(table: pd.DataFrame, endpoint: Endpoint, *, narrow: bool = False) -> Figure:
    """A row per point, a column per arm; on a phone the columns are narrow and their names wrap."""
    points, arms = list(dict.fromkeys(table["point"])), list(dict.fromkeys(table["arm"]))
    width = NARROW if narrow else WIDE
    height = 0.7 + 0.14 * max(wrapped(arm, 12).count("\n") for arm in arms) + 0.55 * len(points)
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    plot_grid(table, points, arms, ax, small=narrow)
    ax.set_title(f"{endpoint.quantity} ({endpoint.unit}), {endpoint.better}", loc="left")
    return figure


def plot_grid(table: pd.DataFrame, points: list[str], arms: list[str], ax: Axes, *, small: bool) -> Axes:
    """Mean, half-width and n in every cell."""
    means = table["mean"].dropna().to_numpy(float)
    low, high = (float(means.min()), float(means.max())) if len(means) else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1)
    spreads = table["half_width"].dropna()
    decimals = decimals_for(float(spreads.median()) if len(spreads) else (high - low) / 10)
    for row in table.to_dict("records"):
        x, y = arms.index(row["arm"]), points.index(row["point"])
        fill = SCALE(float(norm(row["mean"]))) if _known(row["mean"]) else "none"
        ink = _ink_on(fill) if _known(row["mean"]) else INK
        corner, hatched = (x - 0.48, y - 0.46), bool(row["failed"])
        ax.add_patch(Rectangle(corner, 0.96, 0.92, fc=fill, ec=GRID, lw=0.6))
        if hatched:
            ax.add_patch(Rectangle(corner, 0.96, 0.92, fc="none", ec="#D55E00", lw=0.8, hatch="////"))
        box = {"facecolor": fill if _known(row["mean"]) else "none", "edgecolor": "none", "pad": 1.2}
        ax.text(
            x, y, _cell_text(row, decimals), ha="center", va="center", fontsize=7 if small else 8, color=ink,
            linespacing=1.25, bbox=box if hatched else None,
        )  # fmt: skip
    ax.set_xlim(-0.5, len(arms) - 0.5)
    ax.set_ylim(len(points) - 0.5, -0.5)
    ax.set_xticks(range(len(arms)), [wrapped(arm, 12) for arm in arms])
    ax.set_yticks(range(len(points)), [wrapped(point, 16 if small else 28) for point in points])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    return ax


def _cell_text(row: Mapping[Any, Any], decimals: int) -> str:
    if not _known(row["mean"]):
        return f"n = 0 of {row['planned']}"
    reach = f"± {number(row['half_width'], decimals)}" if _known(row["half_width"]) else "one run"
    return f"{number(row['mean'], decimals)}\n{reach}, n = {row['n']}"


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _ink_on(fill: Any) -> str:
    """Dark or light text, whichever has the higher contrast on the fill."""
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(fill))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return DARK if luminance > 0.18 else LIGHT
