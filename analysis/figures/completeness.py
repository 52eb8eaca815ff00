"""Figure 10: every planned trial by what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.canvas import GRID, MUTED, NARROW, PAPER, WIDE, brief, legend, shortened
from analysis.figures.draft import Draft, Drafts, Scene

STATUS_LOOKS: dict[str, tuple[str, str]] = {
    "completed": ("#8fcdb9", ""),
    "diverged": ("#D55E00", "×"),
    "crashed": ("#CC79A7", "!"),
    "oom": ("#E69F00", "M"),
    "timeout": ("#F0E442", "T"),
    "stopped": ("#56B4E9", "S"),
    "preempted": ("#b9c0ca", "P"),
    "cancelled": ("#b9c0ca", "C"),
    "running": ("#b9c0ca", "…"),
    "not_run": (PAPER, "–"),
}
"""Status -> fill and letter: readable without colour."""
LETTERED = 40
"""Seeds up to which every cell has its letter; beyond, neighbours of one status are drawn as one."""
DARK = "#101214"


def drafts(scene: Scene) -> Drafts:
    table = scene.results.cells[["arm", "seed", "status", "attempts"]]
    names = scene.results.experiment.plan.seed_names
    counts = table["status"].value_counts().sort_index()
    spelled = ", ".join(f"{count} {str(status).replace('_', ' ')}" for status, count in counts.items())
    retried = (
        " A small number in a cell counts its attempts; the last one counts."
        if (table["attempts"] > 1).any() and table["seed"].nunique() <= LETTERED
        else ""
    )
    yield Draft(
        name="completeness",
        title="Trials by status",
        caption=f"Every arm and seed, n = {len(table)}: {spelled}.{retried}",
        alt=f"Grid of {table['arm'].nunique()} arms by {table['seed'].nunique()} seeds: {spelled}.",
        table=table,
        draw=partial(completeness_figure, table, names),
    )


def completeness_figure(table: pd.DataFrame, names: Mapping[int, str], *, narrow: bool = False) -> Figure:
    """Arm x seed by status. Table: arm, seed, status, attempts. names: of seeds that have one."""
    arms, seeds = list(table["arm"].drop_duplicates()), sorted(set(table["seed"]))
    columns = 2 if narrow else 4
    legend_lines = -(-table["status"].nunique() // columns)
    rows = len(arms) * max(
        max(0.3, 0.15 * (1 + brief(arm, 12 if narrow else 22).count("\n"))) for arm in arms
    )
    upright = 0.075 * max((len(shortened(name)) for name in names.values()), default=0)
    height = 0.55 + max(rows, 0.6) + 0.22 * legend_lines + upright
    figure = Figure(figsize=(NARROW if narrow else WIDE, height), layout="constrained")
    ax = plot_completeness(table, arms, seeds, figure.subplots(), 12 if narrow else 22)
    _name_seeds(ax, seeds, names)
    _status_legend(ax, set(table["status"]), columns)
    return figure


def plot_completeness(
    table: pd.DataFrame, arms: Sequence[str], seeds: Sequence[int], ax: Axes, width: int = 22
) -> Axes:
    """One cell per planned trial; a small figure in a corner counts its attempts where there were several."""
    gap = 0.06 if len(seeds) <= LETTERED else 0.0
    boxes: dict[str, list[list[tuple[float, float]]]] = {}
    for y, arm in enumerate(arms):
        for status, first, last in _stretches(table[table["arm"] == arm], seeds, merge=not gap):
            left, right = first - 0.5 + gap, last + 0.5 - gap
            corners = [(left, y - 0.4), (right, y - 0.4), (right, y + 0.4), (left, y + 0.4)]
            boxes.setdefault(status, []).append(corners)
    for status, polygons in sorted(boxes.items()):
        fill = STATUS_LOOKS[status][0]
        ax.add_collection(PolyCollection(polygons, facecolor=fill, edgecolor=GRID, lw=0.6 if gap else 0))
    if gap:
        _write_letters(table, arms, seeds, ax)
    ax.set_xlim(-0.6, max(len(seeds), 6) - 0.4)
    ax.set_ylim(len(arms) - 0.4, -0.6)
    ax.set_yticks(range(len(arms)), [brief(arm, width) for arm in arms])
    ax.set_xlabel("seed")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    return ax


def _name_seeds(ax: Axes, seeds: Sequence[int], names: Mapping[int, str]) -> None:
    """Twenty seeds at most, by number; by name where they have one, which then stands upright."""
    every = -(-len(seeds) // 20)
    labels = [shortened(names.get(seed, str(seed))) for seed in seeds[::every]]
    ax.set_xticks(range(0, len(seeds), every), labels, rotation=90 if names else 0)


def _stretches(rows: pd.DataFrame, seeds: Sequence[int], *, merge: bool) -> Iterator[tuple[str, int, int]]:
    """(status, first place, last place) along the seeds; neighbours of one status as one with `merge`."""
    statuses = dict(zip(rows["seed"], rows["status"], strict=True))
    first = 0
    for place, seed in enumerate(seeds):
        status = statuses.get(seed)
        following = statuses.get(seeds[place + 1]) if place + 1 < len(seeds) else None
        if merge and status == following:
            continue
        if status is not None:
            yield str(status), first, place
        first = place + 1


def _write_letters(table: pd.DataFrame, arms: Sequence[str], seeds: Sequence[int], ax: Axes) -> None:
    for row in table.to_dict("records"):
        x, y, letter = seeds.index(row["seed"]), arms.index(row["arm"]), STATUS_LOOKS[row["status"]][1]
        if letter:
            colour = MUTED if row["status"] == "not_run" else DARK
            ax.text(x, y, letter, ha="center", va="center", fontsize=8, color=colour)
        if row["attempts"] > 1:
            count = str(row["attempts"])
            ax.text(x + 0.38, y - 0.1, count, ha="right", va="bottom", fontsize=6, color=DARK)


def _status_legend(ax: Axes, present: set[str], columns: int) -> None:
    looks = {status: look for status, look in STATUS_LOOKS.items() if status in present}
    entries = {
        f"{status.replace('_', ' ')} {f'({letter})' if letter else ''}".strip(): Line2D(
            [], [], ls="", marker="s", ms=7, mfc=fill, mec=MUTED, mew=0.5
        )
        for status, (fill, letter) in looks.items()
    }
    legend(
        ax, entries, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2,
        handletextpad=0.2,
    )  # fmt: skip
