"""Results and figures as a page and as Markdown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from analysis import sentences
from analysis.gallery import Gallery
from analysis.records import FAILURES
from analysis.results import Results, records

TONES = {
    "SUPERIOR": "good",
    "NON-INFERIOR": "fair",
    "EQUIVALENT": "fair",
    "INFERIOR": "bad",
    "INVALID": "bad",
}
"""Verdict -> colour of its box; all others are neutral."""


def render_html(results: Results, gallery: Gallery) -> str:
    """One self-contained page: styles and figures inside, no script, nothing fetched."""
    return _environment().get_template("report.html.j2").render(_context(results, gallery))


def render_markdown(results: Results, gallery: Gallery) -> str:
    return _environment().get_template("report.md.j2").render(_context(results, gallery))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "p": sentences.p_text,
        "number": sentences.number,
        "interval": sentences.interval_text,
        "minus": minus,
        "whole": whole,
        "size": size,
        "duration": duration,
        "plain": plain,
        "cell": cell,
        "drawing": Markup,
    }
    return environment


def _context(results: Results, gallery: Gallery) -> dict[str, Any]:
    plan = results.experiment.plan
    trouble = results.cells[results.cells["status"] != "completed"]
    return {
        "plan": plan,
        "results": results,
        "headline": results.comparisons[0] if results.comparisons else None,
        "plates": gallery.plates,
        "missing": gallery.missing,
        "tone": TONES.get(results.verdict, "neutral"),
        "tones": TONES,
        "trouble": records(trouble[["arm", "seed", "status", "failure_reason", "attempts"]]),
        "failures": FAILURES,
        "provenance": _provenance(results.experiment.provenance),
        "decimals_of": sentences.decimals_of,
        "arm_decimals": _arm_decimals(results),
        "level": sentences.level,
        "plural": sentences.plural,
    }


def _arm_decimals(results: Results) -> int:
    spreads = [arm["sd"] for arm in results.arms if arm["sd"]]
    return sentences.decimals_for(min(spreads) / 10 if spreads else None)


def _provenance(content: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Section -> name -> value; what is not nested comes first, under an empty name."""
    top = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
    nested = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    sections = {"": top, **nested}
    return {
        section: {str(name): plain(value) for name, value in values.items()}
        for section, values in sections.items()
        if values
    }


def plain(value: Any) -> str:
    """A value of a JSON file for people: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def minus(text: str) -> str:
    """Hyphens before digits as minus signs."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)


def whole(value: float | None) -> str:
    """1,234; a dash where nothing is known."""
    return "–" if value is None else f"{value:,.0f}"


def size(value: int | None) -> str:
    """Bytes in a unit of powers of 1,024."""
    if value is None:
        return "–"
    unit = min(int(math.log2(value) // 10), 4) if value > 0 else 0
    return f"{value / 1024**unit:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def duration(seconds: float | None) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def cell(value: Any) -> str:
    """Text for Markdown: on one line, and none of its marks take effect."""
    text = "–" if value is None else " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#~$!])", r"\\\1", text)
