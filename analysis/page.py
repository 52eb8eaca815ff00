"""Results and figures as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from analysis import sentences, wording
from analysis.comparison import Comparison
from analysis.gallery import Gallery
from analysis.methods import methods
from analysis.records import FAILURES, ResultsFolder
from analysis.results import Results, records
from analysis.sizes import size

TONES = {
    "SUPERIOR": "good",
    "NON-INFERIOR": "fair",
    "EQUIVALENT": "fair",
    "INFERIOR": "bad",
    "INVALID": "bad",
}
"""Verdict -> colour of its box; all others are neutral."""

SECTIONS = {
    "verdict": "Verdict", "contrasts": "All contrasts", "plan": "Plan", "validity": "Validity",
    "complete": "Completeness", "seeds": "Primary endpoint", "sensitivity": "Sensitivity",
    "learning": "Learning curves", "stability": "Stability", "arms": "Arms", "secondary": "Secondary, grid",
    "exploratory": "Exploratory", "cost": "Cost", "needed": "Seeds needed", "methods": "Methods",
    "provenance": "Provenance", "words": "Words used here",
}  # fmt: skip
"""Anchor -> name, in the order of the page."""


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
        "p": wording.p_or_dash,
        "number": sentences.number,
        "interval": sentences.interval_text,
        "short": wording.short,
        "minus": sentences.minus,
        "whole": wording.whole,
        "size": size,
        "duration": wording.duration,
        "plain": wording.plain,
        "cell": wording.cell,
        "capitalize_first": sentences.capitalised,
        "drawing": Markup,
    }
    return environment


def _context(results: Results, gallery: Gallery) -> dict[str, Any]:
    experiment = results.experiment
    trouble = results.cells[results.cells["status"] != "completed"]
    absent = set() if len(results.comparisons) > 1 else {"contrasts"}
    return {
        "plan": experiment.plan,
        "results": results,
        "headline": results.comparisons[0] if results.comparisons else None,
        "stability": results.stability,
        "plates": gallery.plates,
        "missing": gallery.missing,
        "sections": [(anchor, name) for anchor, name in SECTIONS.items() if anchor not in absent],
        "tone": TONES.get(results.verdict, "neutral"),
        "banners": list(dict.fromkeys(_banners(results.comparisons))),
        "trouble": records(trouble[["arm", "seed", "status", "failure_reason", "attempts"]]),
        "aside": set_aside(experiment.folder, {cell.trial_id for cell in experiment.plan.cells}),
        "failures": FAILURES,
        "provenance": _provenance(experiment.provenance),
        "methods": methods(results),
        "glossary": wording.GLOSSARY,
        "larger_p": wording.larger_p,
        "adjusted_p": wording.adjusted_p,
        "decimals_of": sentences.decimals_of,
        "arm_decimals": sentences.decimals_of_arms(results.arms),
        "level": sentences.level,
        "plural": sentences.plural,
        "percent": wording.percent,
        "seeds_text": wording.seeds_text,
        "seeds_needed": lambda count: "more than 10,000" if count is None else wording.whole(count),
    }


def _banners(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What must stand above the verdict: seeds added after a look, and looks that were not declared."""
    for comparison in comparisons:
        if comparison.banner is not None:
            yield f"{sentences.capitalised(comparison.banner)}."
        look = comparison.look
        if not (look.allowed or comparison.imported):
            declared = f"declared at {', '.join(map(str, look.declared))}" if look.declared else "at the end"
            yield (
                f"Interim: {look.ended} of {look.planned} planned seeds have ended, and the plan looks "
                f"{declared}: nothing is claimed yet."
            )


def set_aside(folder: ResultsFolder, planned: set[str]) -> list[tuple[str, str]]:
    """(name, reason) of every folder among the trials that belongs to no planned cell."""
    if not folder.trials.is_dir():
        return []
    names = sorted(
        path.name for path in folder.trials.iterdir() if path.is_dir() and path.name not in planned
    )
    return [
        (name, "unreadable, and run afresh" if ".corrupt" in name else "not in the plan") for name in names
    ]


def _provenance(content: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Section -> name -> value; what is not nested comes first, under an empty name."""
    top = {name: value for name, value in content.items() if not isinstance(value, Mapping)}
    nested = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    sections = {"": top, **nested}
    return {
        section: {str(name): wording.plain(value) for name, value in values.items()}
        for section, values in sections.items()
        if values
    }
