"""Finished numbers in, Axes out. No statistics and no files here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from analysis.canvas import GRID, INK, MUTED, NARROW, PAPER, WIDE, ArmStyle, legend, wrapped
from analysis.curves import ArmCurve
from analysis.endpoints import Endpoint
from analysis.significance import Comparison

Styles = Mapping[str, ArmStyle]

LABELLED_SEEDS = 24
"""Seeds up to which every row is named and every run has its own thin line."""
THIN_RUNS = 12

STATUS_LOOKS: dict[str, tuple[str, str]] = {
    "completed": ("#8fcdb9", ""),
    "diverged": ("#D55E00", "×"),
    "crashed": ("#CC79A7", "!"),
    "oom": ("#E69F00", "M"),
    "timeout": ("#F0E442", "T"),
    "preempted": ("#b9c0ca", "P"),
    "cancelled": ("#b9c0ca", "C"),
    "not_run": (PAPER, "–"),
}
"""Status -> fill and letter: readable without colour."""


# --- 1: the paired estimation plot


def paired_figure(comparison: Comparison, styles: Styles, *, narrow: bool = False) -> Figure:
    """Every seed in both arms, and the difference of every seed with both intervals."""
    rows = min(comparison.pairs, LABELLED_SEEDS) + 2
    tall = max(2.4, 0.9 + 0.2 * rows)
    if narrow:
        figure = Figure(figsize=(NARROW, 2.6 + tall), layout="constrained")
        slopes, differences = figure.subplots(2, 1, height_ratios=[2.6, tall])
    else:
        figure = Figure(figsize=(WIDE, max(2.9, tall)), layout="constrained")
        slopes, differences = figure.subplots(1, 2, width_ratios=[1, 1.45])
    plot_pairs(comparison, styles, slopes)
    plot_differences(comparison, differences)
    return figure


def plot_pairs(comparison: Comparison, styles: Styles, ax: Axes) -> Axes:
    """One slope per complete pair, from the baseline's value to the treatment's."""
    pairs = [row for row in comparison.rows if row.kind == "paired"]
    for row in pairs:
        ax.plot([0, 1], [_drawable(row.baseline), _drawable(row.treatment)], color=MUTED, lw=0.7, alpha=0.65)
    for x, arm in enumerate((comparison.baseline, comparison.treatment)):
        values = [_drawable(row.baseline if x == 0 else row.treatment) for row in pairs]
        ax.plot(
            [x] * len(values),
            values,
            ls="",
            color=styles[arm].colour,
            marker=styles[arm].marker,
            mec=PAPER,
            mew=0.5,
        )
    ax.set_xticks([0, 1], [wrapped(comparison.baseline), wrapped(comparison.treatment)])
    ax.set_xlim(-0.35, 1.35)
    ax.grid(visible=False, axis="x")
    ax.set_ylabel(_two_lines(comparison.endpoint))
    ax.set_title("Every seed in both arms")
    return ax


def plot_differences(comparison: Comparison, ax: Axes) -> Axes:
    """Differences by seed; below them the mean with its t interval (thick) and exact interval (thin)."""
    pairs = [row for row in comparison.rows if row.kind == "paired"]
    places = np.arange(len(pairs), dtype=float) + 1
    ax.axvline(0, color=INK, lw=0.9, zorder=1)
    for margin in [] if comparison.margin is None else [-comparison.margin, comparison.margin]:
        ax.axvline(margin, color=MUTED, lw=0.9, ls=(0, (4, 2)), zorder=1)
    ax.plot(
        [_drawable(row.delta) for row in pairs], places, ls="", marker="o", color=MUTED, mec=PAPER, mew=0.5
    )
    _plot_mean(comparison, ax, -0.6)
    _label_seeds(ax, [str(row.seed) for row in pairs], places)
    ax.set_ylim(len(pairs) + 0.7, -1.5)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.grid(visible=False, axis="y")
    side = "below" if comparison.endpoint.direction == "min" else "above"
    arms = wrapped(f"{comparison.treatment} − {comparison.baseline}", 44)
    ax.set_xlabel(f"{arms}\n{comparison.endpoint.unit}, {side} 0 is better")
    ax.set_title("Difference by seed")
    return ax


def _plot_mean(comparison: Comparison, ax: Axes, place: float) -> None:
    if comparison.difference is None:
        return
    if comparison.interval_exact is not None:
        ax.plot(comparison.interval_exact, [place] * 2, color=INK, lw=1.0, solid_capstyle="butt")
    if comparison.interval is not None:
        ax.plot(comparison.interval, [place] * 2, color=INK, lw=3.6, solid_capstyle="butt")
    ax.plot([comparison.difference], [place], marker="D", color=INK, ms=7, mec=PAPER, mew=1.0)


def _label_seeds(ax: Axes, seeds: Sequence[str], places: Sequence[float] | np.ndarray[Any, Any]) -> None:
    labels = [f"seed {seed}" if n == 0 else seed for n, seed in enumerate(seeds)]
    if len(seeds) > LABELLED_SEEDS:
        ax.set_yticks([-0.6], ["mean"])
    else:
        ax.set_yticks([-0.6, *places], ["mean", *labels])
    ax.tick_params(axis="y", length=0)


def _drawable(value: float | None) -> float:
    """NaN leaves a gap where a value is unbounded."""
    return value if value is not None and np.isfinite(value) else np.nan


def _two_lines(endpoint: Endpoint) -> str:
    return f"{endpoint.quantity} ({endpoint.unit})\n{endpoint.better}"


# --- 2: learning curves


def curves_figure(
    groups: Sequence[tuple[str, Sequence[ArmCurve]]], styles: Styles, *, narrow: bool = False
) -> Figure:
    """Per metric: by step with the strip of n below, and by wall time. `groups`: axis label, curves."""
    columns = 1 if narrow else 2
    blocks = [(label, curves, x) for label, curves in groups for x in ("step", "wall_s")]
    lines = len(blocks) // columns
    key_lines = -(-len(styles) // (2 * columns))
    height = 0.12 + 0.2 * key_lines + 2.5 * lines
    figure = Figure(figsize=(NARROW if narrow else WIDE, height), layout="constrained")
    axes = figure.subplots(2 * lines, columns, height_ratios=[7, 1] * lines, squeeze=False)
    for place, (label, curves, x) in enumerate(blocks):
        line, column = divmod(place, columns)
        top, strip = axes[2 * line, column], axes[2 * line + 1, column]
        top.sharex(strip)
        top.tick_params(labelbottom=False)
        plot_curves(curves, styles, top, x)
        plot_counts(curves, styles, strip, x)
        top.set_ylabel(label)
        top.set_title(f"{label.partition(' (')[0]} by {'step' if x == 'step' else 'wall time'}")
    key = _arm_lines(styles, list(styles))
    legend(figure, key, loc="outside upper left", ncols=2 * columns, handlelength=2.6)
    return figure


def plot_curves(curves: Sequence[ArmCurve], styles: Styles, ax: Axes, x: str) -> Axes:
    """Mean with pointwise band; a thin line per run up to twelve; a cross where a failed run ends."""
    unit = 60.0 if x == "wall_s" else 1.0
    for curve in curves:
        style = styles[curve.arm]
        if curve.seeds <= THIN_RUNS:
            for _, run in curve.runs.groupby("seed"):
                ax.plot(run[x] / unit, run["value"], color=style.colour, lw=0.5, alpha=0.4)
        mean = curve.mean
        ax.fill_between(mean[x] / unit, mean["low"], mean["high"], color=style.colour, alpha=0.16, lw=0)
        alone = style.marker if len(mean) == 1 else ""
        ax.plot(mean[x] / unit, mean["mean"], color=style.colour, ls=style.dashes, lw=1.7, marker=alone)
        ax.plot(
            curve.ends[x] / unit, curve.ends["value"], ls="", marker="x", color=style.colour, ms=6, mew=1.8
        )
    return ax


def plot_counts(curves: Sequence[ArmCurve], styles: Styles, ax: Axes, x: str) -> Axes:
    """How many runs stand behind each point of the mean."""
    unit = 60.0 if x == "wall_s" else 1.0
    most = max((curve.planned for curve in curves), default=1)
    for curve in curves:
        style = styles[curve.arm]
        ax.step(
            curve.mean[x] / unit, curve.mean["n"], where="post", color=style.colour, ls=style.dashes, lw=1.2
        )
    ax.set_ylim(0, most * 1.25)
    ax.set_yticks([0, most])
    ax.set_ylabel("runs")
    ax.set_xlabel("optimizer step" if x == "step" else "wall time (minutes)")
    return ax


def _arm_lines(styles: Styles, arms: Sequence[str]) -> dict[str, Line2D]:
    return {arm: Line2D([], [], color=styles[arm].colour, ls=styles[arm].dashes, lw=1.7) for arm in arms}


# --- 4: the final-metric strip


def strip_figure(
    panels: Sequence[tuple[Endpoint, pd.DataFrame]], styles: Styles, *, narrow: bool = False
) -> Figure:
    """One panel per endpoint. Tables: arm, seed, value, status, in planned order."""
    columns = 1 if narrow else min(len(panels), 3)
    lines = -(-len(panels) // columns)
    height = 0.8 + 0.42 * len(styles)
    figure = Figure(figsize=(NARROW if narrow else WIDE, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for ax, (endpoint, table) in zip(axes, panels, strict=False):
        plot_strip(endpoint, table, styles, ax)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return figure


def plot_strip(endpoint: Endpoint, table: pd.DataFrame, styles: Styles, ax: Axes) -> Axes:
    """A row per arm, every seed a point, a bar at the mean; hollow points at the edge never got there."""
    arms = list(table["arm"].drop_duplicates())
    edge = ax.get_yaxis_transform()
    for y, arm in enumerate(arms):
        values = table.loc[table["arm"] == arm, "value"].dropna().to_numpy(float)
        finite = values[np.isfinite(values)]
        style, never = styles[arm], len(values) - len(finite)
        look: dict[str, Any] = {"ls": "", "marker": style.marker, "alpha": 0.85}
        ax.plot(finite, y + _fan(len(finite)), color=style.colour, mec=PAPER, mew=0.5, **look)
        if len(finite) and not never:
            ax.plot([finite.mean()] * 2, [y - 0.26, y + 0.26], color=INK, lw=1.6)
        ax.plot([0.97] * never, y + _fan(never), mfc=PAPER, mec=style.colour, transform=edge, **look)
        count = f"n = {len(values)}" + (f", {never} never" if never else "")
        ax.text(1.0, y - 0.28, count, transform=edge, ha="right", va="bottom", fontsize=7, color=MUTED)
    ax.set_yticks(range(len(arms)), [wrapped(arm) for arm in arms])
    ax.set_ylim(len(arms) - 0.5, -0.7)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.15)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(f"{endpoint.unit}, {endpoint.better}")
    ax.set_title(endpoint.quantity)
    return ax


def _fan(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Fixed sideways places, so that points neither hide each other nor move between two runs."""
    return np.linspace(-0.16, 0.16, count) if count > 1 else np.zeros(count)


# --- 10: completeness


def completeness_figure(table: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """Arm x seed by status. Table: arm, seed, status, attempts."""
    arms, seeds = list(table["arm"].drop_duplicates()), sorted(set(table["seed"]))
    columns = 2 if narrow else 4
    legend_lines = -(-table["status"].nunique() // columns)
    height = 0.55 + 0.3 * max(len(arms), 2) + 0.22 * legend_lines
    figure = Figure(figsize=(NARROW if narrow else WIDE, height), layout="constrained")
    ax = plot_completeness(table, arms, seeds, figure.subplots())
    _status_legend(ax, set(table["status"]), columns)
    return figure


def plot_completeness(table: pd.DataFrame, arms: Sequence[str], seeds: Sequence[int], ax: Axes) -> Axes:
    """One cell per planned trial; a small figure in a corner counts its attempts where there were several."""
    few = len(seeds) <= 40
    for row in table.to_dict("records"):
        x, y = seeds.index(row["seed"]), arms.index(row["arm"])
        fill, letter = STATUS_LOOKS[row["status"]]
        ax.add_patch(Rectangle((x - 0.44, y - 0.4), 0.88, 0.8, facecolor=fill, edgecolor=GRID, lw=0.6))
        if few and letter:
            colour = MUTED if row["status"] == "not_run" else "#101214"
            ax.text(x, y, letter, ha="center", va="center", fontsize=8, color=colour)
        if few and row["attempts"] > 1:
            ax.text(
                x + 0.38, y - 0.1, str(row["attempts"]), ha="right", va="bottom", fontsize=6, color="#101214"
            )
    ax.set_xlim(-0.6, max(len(seeds), 6) - 0.4)
    ax.set_ylim(len(arms) - 0.4, -0.6)
    ax.set_yticks(range(len(arms)), [wrapped(arm, 22) for arm in arms])
    every = -(-len(seeds) // 20)
    ax.set_xticks(range(0, len(seeds), every), [str(seed) for seed in seeds[::every]])
    ax.set_xlabel("seed")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    return ax


def _status_legend(ax: Axes, present: set[str], columns: int) -> None:
    looks = {status: look for status, look in STATUS_LOOKS.items() if status in present}
    entries = {
        f"{status.replace('_', ' ')} {f'({letter})' if letter else ''}".strip(): Line2D(
            [], [], ls="", marker="s", ms=7, mfc=fill, mec=MUTED, mew=0.5
        )
        for status, (fill, letter) in looks.items()
    }
    legend(
        ax,
        entries,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handletextpad=0.2,
    )
