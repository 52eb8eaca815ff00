"""How every figure looks, and how it becomes files: the same input gives the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.text import Text

WIDE, NARROW = 6.9, 3.35
"""Inches: two columns of a paper (and a screen), one column (and a phone)."""

INK, MUTED, GRID, PAPER = "#1a1d22", "#697180", "#e3e6ea", "#fefefe"
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
# Okabe and Ito's palette, safe for colour-blind readers; yellow is left out, it vanishes on white.
COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#56B4E9", "#E69F00", INK)
ON_PAGE = {
    INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)",
    BLUE: "var(--arm-1)", VERMILION: "var(--arm-2)", GREEN: "var(--arm-3)",
}  # fmt: skip
"""What the page replaces, so that an inlined figure follows the reader's light or dark theme."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)),
)  # fmt: skip

NO_LIGATURES = ("-liga",)
"""With them every PDF embeds a second font, for the sake of one "fi"."""

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
    "ps.fonttype": 42,  # asked for by matplotlib 3.11 in a PDF, too, where "−" else has a font of its own
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
    """A label on lines of about `width` small letters, broken behind commas, dashes, underscores, spaces."""
    lines = [""]
    for part in re.findall(r"[^,_\- ]+[,_\- ]*|[,_\- ]+", name):
        for piece in _pieces(part, width):
            if lines[-1] and _breadth(lines[-1]) + _breadth(piece.rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def brief(name: str, width: int, lines: int = 3) -> str:
    """A label on so many lines at most: the middle of a longer one gives way, for names differ at the end."""
    found = wrapped(name, width).split("\n")
    if len(found) > lines:
        found = [*found[: lines - 2], f"{found[lines - 2]}…", found[-1]]
    return "\n".join(found)


def shortened(name: str, width: int = 18) -> str:
    """A label on one line of so many letters: the middle of a longer one gives way."""
    half = (width - 1) // 2
    return name if len(name) <= width else f"{name[:half]}…{name[half - width + 1 :]}"


def _pieces(part: str, width: int) -> Iterator[str]:
    """A part that no line can hold, cut into lines."""
    while _breadth(part.rstrip()) > width:
        fitting = next(n for n in range(len(part), 0, -1) if n == 1 or _breadth(part[:n]) <= width)
        yield part[:fitting]
        part = part[fitting:]
    yield part


def _breadth(text: str) -> float:
    """Roughly how many small letters wide a text is."""
    return sum(
        1.7 if sign in "WMmw@%" else 1.2 if not sign.isascii() or sign.isupper() else 1.0 for sign in text
    )


def legend(place: Axes | FigureBase, entries: Mapping[str, Artist], **options: Any) -> None:
    """A legend whose labels may begin with an underscore, which matplotlib would hide."""
    box = place.legend(list(entries.values()), [f"entry {n}" for n in range(len(entries))], **options)
    for text, name in zip(box.get_texts(), entries, strict=True):
        text.set_text(name)


def settled(figure: Figure) -> Figure:
    """The figure with its layout worked out and fixed: the solver's last digits differ from run to run."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    for text in figure.findobj(Text):
        if hasattr(text, "set_fontfeatures"):  # from matplotlib 3.11 on
            text.set_fontfeatures(NO_LIGATURES)
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
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda it: f' id="{prefix}-{it[1]}"' if it[1] in used else "", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    for colour, variable in ON_PAGE.items():
        svg = re.sub(colour, variable, svg, flags=re.IGNORECASE)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()
