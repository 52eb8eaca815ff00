"""The report's figures: each with title, caption, words for those who cannot see it, and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.canvas import ArmStyle, arm_styles, house_style, inline, save, settled, svg_of
from analysis.curves import ArmCurve, arm_curves, counts_text
from analysis.endpoints import Endpoint, endpoint_of
from analysis.figures import THIN_RUNS, completeness_figure, curves_figure, paired_figure, strip_figure
from analysis.pairing import outcomes
from analysis.results import Results
from analysis.sentences import decimals_of, interval_text, level, number, plural
from analysis.significance import Comparison, SeedRow


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


def draw_all(results: Results, folder: Path) -> dict[str, Plate]:
    """Writes NAME.pdf, .svg, .png and .csv into the folder; hands back the plates by name."""
    styles = arm_styles(results.experiment.plan.arms)
    with house_style():
        return {plate.name: plate for plate in _plates(results, styles, folder)}


def _plates(results: Results, styles: dict[str, ArmStyle], folder: Path) -> Iterator[Plate]:
    yield _completeness(results, folder)
    for place, comparison in enumerate(results.comparisons, start=1):
        if comparison.pairs:
            yield _paired(comparison, styles, f"paired-{place}", folder)
    curves = _all_curves(results)
    if curves:
        yield _curves(curves, results.experiment.plan.alpha, styles, folder)
    yield _strip(results, styles, folder)


def _plate(
    name: str,
    folder: Path,
    table: pd.DataFrame,
    draw: Callable[[bool], Figure],
    *,
    title: str,
    caption: str,
    alt: str,
) -> Plate:
    """Draws wide and narrow, saves the wide one, and writes the numbers behind it."""
    table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    return Plate(
        name=name,
        title=title,
        caption=caption,
        alt=alt,
        wide=inline(save(settled(draw(False)), folder / name), f"{name}-wide"),
        narrow=inline(svg_of(settled(draw(True))), f"{name}-narrow"),
    )


def _completeness(results: Results, folder: Path) -> Plate:
    table = results.cells[["arm", "seed", "status", "attempts"]]
    counts = table["status"].value_counts().sort_index()
    spelled = ", ".join(f"{count} {str(status).replace('_', ' ')}" for status, count in counts.items())
    return _plate(
        "completeness",
        folder,
        table,
        lambda slim: completeness_figure(table, narrow=slim),
        title="Planned trials by status",
        caption=(
            f"Every planned trial, n = {len(table)}: {spelled}. A small number in a cell counts its "
            "attempts, where there was more than one; the last one counts."
        ),
        alt=f"Grid of {table['arm'].nunique()} arms by {table['seed'].nunique()} seeds: {spelled}.",
    )


def _paired(comparison: Comparison, styles: dict[str, ArmStyle], name: str, folder: Path) -> Plate:
    decimals = decimals_of(comparison)
    margin = f" Dashed lines: the margin, ±{comparison.margin:g}." if comparison.margin is not None else ""
    exact = (
        "thin bar: exact sign-flip interval"
        if comparison.interval_exact is not None
        else "too few pairs for an exact interval"
    )
    found = (
        f"mean difference {number(comparison.difference, decimals)}, {level(comparison)} "
        + interval_text(comparison.interval, decimals)
    )
    return _plate(
        name,
        folder,
        pd.DataFrame([seed_record(row) for row in comparison.rows]),
        lambda slim: paired_figure(comparison, styles, narrow=slim),
        title=f"{comparison.treatment} against {comparison.baseline}, {comparison.endpoint.label}",
        caption=(
            f"n = {plural(comparison.pairs, 'complete pair')} of {comparison.planned} planned. Each line and "
            "each grey point is one seed. Diamond: mean difference; thick bar: paired t interval "
            f"({level(comparison)}); {exact}.{margin} No smoothing."
        ),
        alt=f"Paired plot of {comparison.endpoint.label} over {plural(comparison.pairs, 'seed')}: {found}.",
    )


def seed_record(row: SeedRow) -> dict[str, Any]:
    """One planned seed as a line of a CSV."""
    return {
        "seed": row.seed,
        "kind": row.kind,
        "baseline_status": row.baseline_status,
        "treatment_status": row.treatment_status,
        "baseline_value": row.baseline,
        "treatment_value": row.treatment,
        "difference": row.delta,
    }


def _all_curves(results: Results) -> list[tuple[str, str, list[ArmCurve]]]:
    """(metric, axis label, curves) of the primary's metric and of the training CE, where they were logged."""
    experiment = results.experiment
    primary = endpoint_of(experiment.plan)
    shown = [
        (primary.source, primary.split, _axis(results, primary)),
        ("ce", "train", "train CE (nats/token)"),
    ]
    groups = []
    for metric, split, label in dict.fromkeys(shown):
        curves = arm_curves(experiment.metrics, results.cells, metric, split, experiment.plan.alpha)
        if any(curve.seeds for curve in curves):
            groups.append((metric, label, curves))
    return groups


def _axis(results: Results, primary: Endpoint) -> str:
    if primary.threshold is None:
        return f"{primary.quantity} ({primary.unit})"
    accuracy = endpoint_of(results.experiment.plan, primary.source)
    return f"{accuracy.quantity} ({accuracy.unit})"


def _curves(
    groups: list[tuple[str, str, list[ArmCurve]]], alpha: float, styles: dict[str, ArmStyle], folder: Path
) -> Plate:
    behind = [
        curve.mean.assign(metric=metric, arm=curve.arm) for metric, _, curves in groups for curve in curves
    ]
    main = groups[0][2]
    thin = " Thin lines: single runs." if all(curve.seeds <= THIN_RUNS for curve in main) else ""
    ends = sum(len(curve.ends) for curve in main)
    crosses = f" Crosses: the last finite point of {plural(ends, 'failed run')}." if ends else ""
    return _plate(
        "curves",
        folder,
        pd.concat(behind, ignore_index=True),
        lambda slim: curves_figure([(label, curves) for _, label, curves in groups], styles, narrow=slim),
        title="Learning curves",
        caption=(
            f"Mean over runs with the pointwise {100 * (1 - alpha):g} % t interval; {counts_text(main)}."
            f"{thin}{crosses} By wall time, each mean stands at the mean time of its step. Nothing is "
            "smoothed or interpolated. The KV loss is not drawn: each arm's target is its own projection."
        ),
        alt=f"Learning curves of {' and '.join(label for _, label, _ in groups)} by step and by wall time.",
    )


def _strip(results: Results, styles: dict[str, ArmStyle], folder: Path) -> Plate:
    plan = results.experiment.plan
    metrics = [metric for metric in plan.secondary if metric != plan.primary.metric]
    endpoints = [endpoint_of(plan), *(endpoint_of(plan, metric) for metric in metrics)]
    columns = ["arm", "seed", "value", "status"]
    panels = [(endpoint, outcomes(results.experiment, endpoint)[columns]) for endpoint in endpoints]
    never = any(table["value"].map(float.__abs__).eq(float("inf")).any() for _, table in panels)
    return _plate(
        "endpoints",
        folder,
        pd.concat([table.assign(endpoint=endpoint.metric) for endpoint, table in panels], ignore_index=True),
        lambda slim: strip_figure(panels, styles, narrow=slim),
        title="Endpoints, every seed",
        caption=(
            "Each point is one completed run; the bar is the arm's mean; n stands beside it."
            + (
                " Hollow points on the right edge never reached the threshold; such an arm has no mean."
                if never
                else ""
            )
        ),
        alt=f"Every run's {', '.join(endpoint.label for endpoint in endpoints)} by arm.",
    )
