"""Figure 5: how steadily every run trained."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from analysis.figures.draft import Draft, Drafts, Missing, Scene
from analysis.figures.marks import spread_text
from analysis.figures.strip import Panel, most_of, strip_figure
from analysis.records import FAILURES
from analysis.spread import distances
from analysis.steadiness import measures_of

TITLE = "Stability of training"


def drafts(scene: Scene) -> Drafts:
    runs, cells = scene.results.stability.runs, scene.results.cells
    panels = [_failures(cells)]
    quantities = scene.results.experiment.plan.quantities
    for measure in measures_of(scene.results.stability.loss, quantities):
        values = pd.to_numeric(runs[measure.name], errors="coerce").where(runs["status"] == "completed")
        if values.notna().any():
            table = runs[["arm", "seed"]].assign(value=values.astype("float64"))
            panels.append(_panel(measure.label, measure.unit, table))
    spread = _spread(cells)
    if spread["value"].notna().any():
        unit = scene.results.comparisons[0].endpoint.unit if scene.results.comparisons else "endpoint's unit"
        panels.append(_panel("distance from the arm's median", unit, spread))
    if len(panels) == 1 and not cells["status"].isin(FAILURES).any():
        yield Missing(name="stability", title=TITLE, reason="no completed run logged enough for any measure")
        return
    yield Draft(
        name="stability",
        title=TITLE,
        caption=(
            "Each point is one completed run, the bar its arm's median, n beside it; failed runs are those "
            "of all planned. The distance from the arm's median is the primary endpoint's, and shows the "
            "spread over seeds. Lower is steadier throughout. No smoothing."
            f"{spread_text(most_of(panels))}"
        ),
        alt=f"By arm: {', '.join(panel.title for panel in panels)}.",
        table=pd.concat(
            [
                panel.table.assign(measure=panel.title, axis=panel.label.replace("\n", ", "))
                for panel in panels
            ],
            ignore_index=True,
        ),
        draw=partial(strip_figure, panels, scene.styles),
    )


def _panel(title: str, unit: str, table: pd.DataFrame) -> Panel:
    return Panel(title=title, label=f"{unit}\nlower is better", table=table, centre="median")


def _failures(cells: pd.DataFrame) -> Panel:
    """One point per arm: the share of its planned runs that failed."""
    failed = cells["status"].isin(FAILURES).groupby(cells["arm"], sort=False)
    counts, planned = failed.sum(), failed.size()
    table = pd.DataFrame({"arm": list(counts.index), "value": (100 * counts / planned).to_numpy(float)})
    notes = {str(arm): f"{counts[arm]} of {planned[arm]}" for arm in counts.index}
    return Panel(
        title="failed runs", label="% of planned\nlower is better", table=table, centre=None, share=True,
        notes=notes,
    )  # fmt: skip


def _spread(cells: pd.DataFrame) -> pd.DataFrame:
    """Every completed run's distance from its arm's median."""
    table = cells[["arm", "seed"]].assign(value=np.nan)
    for _, rows in cells.groupby("arm", sort=False):
        values = rows["value"].to_numpy(float)
        known = np.isfinite(values)
        table.loc[rows.index[known], "value"] = distances(values[known])
    return table
