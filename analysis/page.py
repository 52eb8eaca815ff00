"""Results and figures as a page and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from analysis import sentences, wording
from analysis.comparison import Comparison
from analysis.endpoints import endpoint_of
from analysis.gallery import Gallery
from analysis.methods import methods
from analysis.plan import Plan
from analysis.records import ADMINISTRATIVE, FAILURES, ResultsFolder
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
    "verdict": "Verdict", "contrasts": "All contrasts", "plan": "Plan", "setup": "Setup",
    "validity": "Validity", "complete": "Completeness", "seeds": "Primary endpoint",
    "sensitivity": "Sensitivity",
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
        "name_of": experiment.plan.seed_name,
        "setup": results.setup,
        "remarks": results.remarks,
        "carried_out": _carried_out(results),
        "sections": [(anchor, name) for anchor, name in SECTIONS.items() if anchor not in absent],
        "tone": TONES.get(results.verdict, "neutral"),
        "banners": list(dict.fromkeys(_banners(results.comparisons))),
        "trouble": records(trouble[["arm", "seed", "status", "failure_reason", "attempts"]]),
        "aside": set_aside(experiment.folder, {cell.trial_id for cell in experiment.plan.cells}),
        "failures": FAILURES,
        "provenance": _provenance(experiment.provenance),
        "methods": methods(results),
        "primary": endpoint_of(experiment.plan),
        "glossary": wording.GLOSSARY,
        "larger_p": wording.larger_p,
        "adjusted_p": wording.adjusted_p,
        "decimals_of": sentences.decimals_of,
        "arm_decimals": sentences.decimals_of_arms(results.arms),
        "level": sentences.level,
        "plural": sentences.plural,
        "percent": wording.percent,
        "checks_text": checks_text,
        "seeds_text": _seeds_text(experiment.plan),
        "looks_text": _looks_text(experiment.plan),
        "completeness_text": _completeness_text(experiment.plan),
        "seeds_needed": lambda count: "more than 10,000" if count is None else wording.whole(count),
    }


def checks_text(comparison: Comparison) -> str:
    """How many of a contrast's checks could not be made, in one line."""
    count = len(comparison.gates)
    unmade = sum(gate.status == "not checked" for gate in comparison.gates)
    failed = f"; {len(comparison.findings)} failed" if comparison.findings else ""
    if not unmade:
        return f"All {count} could be made{failed}."
    return f"{unmade} of {count} could not be made{failed}."


def _seeds_text(plan: Plan) -> str:
    if plan.seed_names:
        return ", ".join(plan.seed_name(seed) for seed in plan.seeds)
    return wording.seeds_text(plan.seeds)


def _looks_text(plan: Plan) -> str:
    if plan.looks:
        return f"declared at {', '.join(map(str, plan.looks))} seeds, each at alpha / {len(plan.looks)}"
    return (
        "one, at the end" if plan.imported is None else "none declared; whether there were any is not known"
    )


def _completeness_text(plan: Plan) -> str:
    if plan.imported is not None and not plan.imported.planned:
        return (
            "Every seed that was found, in every arm. A run that left no record cannot be told from one that "
            "was never made."
        )
    return "The table is built from the plan: a trial that left no trace still has its cell."


def _carried_out(results: Results) -> str:
    """What stands where no deviation from the plan is known."""
    imported, cells = results.experiment.plan.imported, results.cells
    if imported is not None and not imported.planned:
        return "Not known: the records do not say what was planned, only what was run."
    left = int(cells["status"].isin(ADMINISTRATIVE).sum())
    if left:
        return f"None is known so far; {left} of {sentences.plural(len(cells), 'run')} have no result yet."
    whole = "one plan, and all of its" if imported is None else "of the grid on record all"
    return f"None is known: {whole} {sentences.plural(len(cells), 'run')} have ended."


def _banners(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """What must stand above the verdict: seeds added after a look, and looks that were not declared."""
    for comparison in comparisons:
        if comparison.banner is not None:
            yield f"{sentences.capitalised(comparison.banner)}."
        look = comparison.look
        if not (look.allowed or comparison.imported):
            seeds = f"{look.ended} of {look.planned} seeds have ended in both arms"
            when = f"at {', '.join(map(str, look.declared))} seeds" if look.declared else "once, at the end"
            yield f"Interim: {seeds}, and the plan looks {when}: nothing is claimed yet."


def set_aside(folder: ResultsFolder, planned: set[str]) -> list[tuple[str, str]]:
    """(name, reason) of every folder among the trials that belongs to no planned cell."""
    if not folder.trials.is_dir():
        return []
    names = sorted(
        path.name for path in folder.trials.iterdir() if path.is_dir() and path.name not in planned
    )
    return [
        (name, "its files could not be read" if ".corrupt" in name else "not in the plan") for name in names
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
