"""What a figure is before it is drawn, and what all of them draw from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from analysis.canvas import ArmStyle
from analysis.curves import ArmCurve, arm_curves
from analysis.results import Results

Styles = Mapping[str, ArmStyle]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One figure: its words, the numbers behind it, and how it is drawn."""

    name: str
    """Stem of its files."""
    title: str
    """What is shown, never what follows from it."""
    caption: str
    """n, what bands and marks are, and any thinning or smoothing."""
    alt: str
    """The figure in words."""
    table: pd.DataFrame
    """The numbers behind it, all of them."""
    draw: Callable[..., Figure]
    """Called with narrow=False for two columns and a screen, with True for one column and a phone. A module's
    function with plain values, so that another process can call it."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A figure that has no data, and why."""

    name: str
    title: str
    reason: str


Drafts = Iterator[Draft | Missing]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Results, the look of each arm, and curves computed once for all figures that show them."""

    results: Results
    styles: Styles
    _curves: dict[tuple[str, str], list[ArmCurve]] = field(default_factory=dict)

    def curves(self, metric: str, split: str) -> list[ArmCurve]:
        """One metric's curves, arms in planned order; empty where no run logged a finite value."""
        if (metric, split) not in self._curves:
            experiment, cells = self.results.experiment, self.results.cells
            found = arm_curves(experiment.curves(metric, split), cells, experiment.plan.alpha)
            self._curves[metric, split] = found if any(curve.seeds for curve in found) else []
        return self._curves[metric, split]
