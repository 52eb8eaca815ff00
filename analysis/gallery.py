"""The report's figures as files and as parts of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from analysis.canvas import arm_styles, house_style, inline, save, settled, svg_of
from analysis.figures import (
    alignment,
    completeness,
    cost,
    curves,
    difference,
    forest,
    heatmap,
    paired,
    stability,
    strip,
)
from analysis.figures.draft import Draft, Drafts, Missing, Scene
from analysis.processes import bare_main, cpus
from analysis.results import Results
from analysis.tables import with_seed_names

FIGURES: tuple[Callable[[Scene], Drafts], ...] = (
    paired.drafts,
    curves.drafts,
    difference.drafts,
    stability.drafts,
    strip.drafts,
    forest.drafts,
    heatmap.drafts,
    cost.drafts,
    alignment.drafts,
    completeness.drafts,
)
"""Every figure of the report; to add one, add its function."""
LARGE = 1_000_000
"""Rows of metrics from which the start of a second process pays."""


@dataclass(frozen=True, kw_only=True)
class Plate:
    """One figure as the page shows it."""

    name: str
    """Stem of its files in figures/."""
    title: str
    caption: str
    alt: str
    wide: str
    """Inline SVG for a screen or two columns."""
    narrow: str
    """The same numbers, drawn for a phone."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What was drawn, and what could not be."""

    plates: dict[str, Plate]
    missing: dict[str, Missing]


@contextmanager
def second_painter(rows: int) -> Iterator[Executor | None]:
    """A second process to draw with, which loads while ours reads and counts; None where that does not pay.

    rows: of the experiment's metrics.
    """
    if rows < LARGE or cpus() < 2:
        yield None
        return
    painter = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    try:
        with bare_main():
            painter.submit(_ready)
        yield painter
    finally:
        painter.shutdown(wait=False, cancel_futures=True)


def _ready() -> None:
    """To find it, a process must have loaded this module, and so all that drawing needs."""


def draw_all(results: Results, folder: Path, second: Executor | None = None) -> Gallery:
    """Writes NAME.pdf, .svg, .png and .csv of every figure into the folder; `second` begins at the end."""
    scene = Scene(results=results, styles=arm_styles(results.experiment.plan.arms))
    found = [draft for figure in FIGURES for draft in figure(scene)]
    names = results.experiment.plan.seed_names
    drafts = [
        replace(draft, table=with_seed_names(draft.table, names))
        for draft in found
        if isinstance(draft, Draft)
    ]
    theirs = (
        {draft.name: second.submit(_drawn, draft, folder) for draft in reversed(drafts)} if second else {}
    )
    ours = {
        draft.name: _drawn(draft, folder)
        for draft in drafts
        if draft.name not in theirs or theirs[draft.name].cancel()
    }
    return Gallery(
        plates={draft.name: ours.get(draft.name) or theirs[draft.name].result() for draft in drafts},
        missing={draft.name: draft for draft in found if isinstance(draft, Missing)},
    )


def _drawn(draft: Draft, folder: Path) -> Plate:
    """Draws wide and narrow, saves the wide one, and writes the numbers behind it."""
    draft.table.to_csv(folder / f"{draft.name}.csv", index=False, lineterminator="\n")
    with house_style():
        wide = save(settled(draft.draw(narrow=False)), folder / draft.name)
        narrow = svg_of(settled(draft.draw(narrow=True)))
    return Plate(
        name=draft.name,
        title=draft.title,
        caption=draft.caption,
        alt=draft.alt,
        wide=inline(wide, f"{draft.name}-wide"),
        narrow=inline(narrow, f"{draft.name}-narrow"),
    )
