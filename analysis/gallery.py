"""The report's figures as files and as parts of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from analysis.results import Results

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


def draw_all(results: Results, folder: Path) -> Gallery:
    """Writes NAME.pdf, .svg, .png and .csv of every figure into the folder."""
    plates: dict[str, Plate] = {}
    missing: dict[str, Missing] = {}
    scene = Scene(results=results, styles=arm_styles(results.experiment.plan.arms))
    with house_style():
        for figure in FIGURES:
            for draft in figure(scene):
                if isinstance(draft, Missing):
                    missing[draft.name] = draft
                else:
                    plates[draft.name] = _drawn(draft, folder)
    return Gallery(plates=plates, missing=missing)


def _drawn(draft: Draft, folder: Path) -> Plate:
    """Draws wide and narrow, saves the wide one, and writes the numbers behind it."""
    draft.table.to_csv(folder / f"{draft.name}.csv", index=False, lineterminator="\n")
    wide = save(settled(draft.draw(False)), folder / draft.name)
    narrow = svg_of(settled(draft.draw(True)))
    return Plate(
        name=draft.name,
        title=draft.title,
        caption=draft.caption,
        alt=draft.alt,
        wide=inline(wide, f"{draft.name}-wide"),
        narrow=inline(narrow, f"{draft.name}-narrow"),
    )
