"""Figure 9: how the KV loss falls beside the task, arm by arm.

Each arm's KV target is its own projection, so the arms' KV losses have no common scale and never share axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.canvas import NARROW, WIDE, wrapped
from analysis.curves import ArmCurve
from analysis.endpoints import endpoint_of
from analysis.figures.curves import axis_of
from analysis.figures.draft import Draft, Drafts, Missing, Scene, Styles
from analysis.figures.marks import thinned, thinning_text

TITLE = "KV loss beside the task"
MOST_ARMS = 6
"""Arms drawn; the CSV has all."""


def drafts(scene: Scene) -> Drafts:
    plan = scene.results.experiment.plan
    primary = endpoint_of(plan)
    task, kv = scene.curves(primary.source, primary.split), scene.curves("kv_loss", "train")
    trained = [curve for curve in kv if curve.seeds and curve.runs["value"].ne(0).any()]
    if not trained or not task:
        reason = "no run logged a KV loss" if not trained else f"no run logged {primary.source}"
        yield Missing(name="alignment", title=TITLE, reason=reason)
        return
    by_arm = {curve.arm: curve for curve in task}
    pairs = [(by_arm[curve.arm], curve) for curve in trained]
    shown, label = pairs[:MOST_ARMS], axis_of(plan, primary)
    behind = [
        curve.mean.assign(arm=curve.arm, metric=metric)
        for pair in pairs
        for metric, curve in zip((primary.source, "kv_loss"), pair, strict=True)
    ]
    few = f" Arms drawn: the first {MOST_ARMS} of {len(pairs)}." if len(pairs) > MOST_ARMS else ""
    none = [curve.arm for curve in kv if curve not in trained]
    without = f" Without a KV loss: {', '.join(none)}." if none else ""
    counts = "; ".join(f"{curve.arm} n = {curve.seeds} of {curve.planned}" for _, curve in shown)
    points = max(len(curve.mean) for pair in shown for curve in pair)
    yield Draft(
        name="alignment",
        title=TITLE,
        caption=(
            f"Mean over runs with the pointwise {100 * (1 - plan.alpha):g} % t interval; {counts}. Above: "
            "the task, one scale for all arms. Below: the training KV loss, a scale of its own for every "
            "arm, since each arm's target is its own projection: shapes may be compared, heights may not."
            f"{few}{without}{thinning_text(points)} No smoothing."
        ),
        alt=f"Per arm, {label} above and the training KV loss below, by step.",
        table=pd.concat(behind, ignore_index=True),
        draw=partial(alignment_figure, shown, label, scene.styles),
    )


def alignment_figure(
    pairs: Sequence[tuple[ArmCurve, ArmCurve]], label: str, styles: Styles, *, narrow: bool = False
) -> Figure:
    """A column per arm, up to three side by side: the task above, its KV loss below."""
    columns = 1 if narrow else min(3, len(pairs))
    lines = -(-len(pairs) // columns)
    figure = Figure(figsize=(NARROW if narrow else WIDE, 3.4 * lines), layout="constrained")
    axes = figure.subplots(2 * lines, columns, squeeze=False)
    first = axes[0, 0]
    for place, (task, kv) in enumerate(pairs):
        line, column = divmod(place, columns)
        above, below = axes[2 * line, column], axes[2 * line + 1, column]
        if above is not first:
            above.sharey(first)
        above.sharex(below)
        above.tick_params(labelbottom=False)
        above.set_title(wrapped(task.arm, 30))
        for ax, curve in ((above, task), (below, kv)):
            _plot(curve, styles, ax)
        above.set_ylabel(label if column == 0 else "")
        below.set_ylabel("train KV loss\n(own scale)" if column == 0 else "")
        below.set_xlabel("optimizer step")
    for place in range(len(pairs), lines * columns):
        line, column = divmod(place, columns)
        axes[2 * line, column].set_axis_off()
        axes[2 * line + 1, column].set_axis_off()
    return figure


def _plot(curve: ArmCurve, styles: Styles, ax: Axes) -> None:
    style, mean = styles[curve.arm], thinned(curve.mean)
    ax.fill_between(mean["step"], mean["low"], mean["high"], color=style.colour, alpha=0.16, lw=0)
    alone = style.marker if len(mean) == 1 else ""
    ax.plot(mean["step"], mean["mean"], color=style.colour, ls=style.dashes, lw=1.7, marker=alone)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
