"""Figure 8: what each run took."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from analysis.figures.draft import Draft, Drafts, Missing, Scene
from analysis.figures.marks import spread_text
from analysis.figures.strip import Panel, most_of, strip_figure

TITLE = "Cost of each run"
QUANTITIES = {
    "tokens_per_s": ("throughput", "tokens/s, higher is better", 1.0),
    "peak_mem_bytes": ("peak memory", "GiB, lower is better", 2.0**30),
    "wall_s": ("wall time", "seconds, lower is better", 1.0),
}
"""Column of the runs -> title, axis, and what it is divided by."""


def drafts(scene: Scene) -> Drafts:
    cells = scene.results.cells
    completed = (cells["status"] == "completed").to_numpy()
    panels = []
    for column, (title, label, unit) in QUANTITIES.items():
        if column not in cells.columns:
            continue
        values = np.where(completed, pd.to_numeric(cells[column], errors="coerce"), np.nan) / unit
        if np.isfinite(values).any():
            panels.append(Panel(title=title, label=label, table=cells[["arm", "seed"]].assign(value=values)))
    if not panels:
        yield Missing(name="cost", title=TITLE, reason="no completed run has its time or memory recorded")
        return
    shown = [panel.table.assign(quantity=panel.title, axis=panel.label) for panel in panels]
    yield Draft(
        name="cost",
        title=TITLE,
        caption=(
            "Each point is one completed run; the bar is the arm's mean; n stands beside it. Times are those "
            "of the machine it ran on, with whatever else ran there. No smoothing."
            f"{spread_text(most_of(panels))}"
        ),
        alt=f"Every completed run's {', '.join(panel.title for panel in panels)} by arm.",
        table=pd.concat(shown, ignore_index=True),
        draw=partial(strip_figure, panels, scene.styles),
    )
