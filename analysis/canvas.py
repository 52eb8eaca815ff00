"""How every figure looks, and how it becomes files: the same input gives the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

WIDE, NARROW = 6.9, 3.35
"""Inches: two columns of a paper (and a screen), one column (and a phone)."""

INK, MUTED, GRID, PAPER = "#1a1d22", "#697180", "#e3e6ea", "#fefefe"
ON_PAGE = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
"""What the page replaces, so that an inlined figure follows the reader's light or dark theme."""

# Okabe and Ito's palette, safe for colour-blind readers; yellow is left out, it vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)),
)  # fmt: skip

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlecolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "kvtune",
}


class ArmStyle(NamedTuple):
    colour: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]


def arm_styles(arms: Iterable[str]) -> dict[str, ArmStyle]:
    """Arm -> colour, marker and line style: the same in every figure, distinct without colour, too."""
    return {
        arm: ArmStyle(
            COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)]
        )
        for place, arm in enumerate(arms)
    }


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's settings for our figures, and only while they are drawn and saved."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def wrapped(name: str, width: int = 16) -> str:
    """An arm's label on lines of at most `width` signs, broken behind commas, dashes, underscores, spaces."""
    lines = [""]
    for part in re.findall(rf"[^,_\- ]{{1,{width}}}[,_\- ]*|[,_\- ]+", name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def legend(place: Axes | FigureBase, entries: Mapping[str, Line2D], **options: Any) -> None:
    """A legend whose labels may begin with an underscore, which matplotlib would hide."""
    box = place.legend(list(entries.values()), [f"entry {n}" for n in range(len(entries))], **options)
    for text, name in zip(box.get_texts(), entries, strict=True):
        text.set_text(name)


def settled(figure: Figure) -> Figure:
    """The figure with its layout worked out and fixed: the solver's last digits differ from run to run."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    # "none" would leave a placeholder, for which every file is drawn twice.
    figure.set_layout_engine(None)
    for ax in figure.axes:
        left, bottom, width, height = (round(bound, 6) for bound in ax.get_position().bounds)
        ax.set_position((left, bottom, width, height))
    return figure


def svg_of(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save(figure: Figure, stem: Path) -> str:
    """Writes STEM.svg, STEM.pdf and STEM.png (200 dpi), without dates or versions; hands back the SVG."""
    svg = svg_of(figure)
    stem.with_suffix(".svg").write_text(svg, encoding="utf-8", newline="\n")
    dateless = {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None}
    figure.savefig(stem.with_suffix(".pdf"), metadata=dateless)
    figure.savefig(stem.with_suffix(".png"), dpi=200, metadata={"Software": None})
    return svg


def inline(svg: str, prefix: str) -> str:
    """An SVG for an HTML page: no XML header, ids of its own, fluid width, the page's ink and paper."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    for colour, variable in ON_PAGE.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()
