import numpy as np
import pandas as pd
import pytest

from analysis.canvas import arm_styles, brief, house_style, inline, settled, svg_of, wrapped
from analysis.figures import alignment, completeness, cost, curves, difference, forest, heatmap, paired, strip
from analysis.figures import stability as stability_figure
from analysis.figures.draft import Draft, Missing, Scene
from analysis.figures.marks import MOST_POINTS, thinned
from analysis.results import analyse
from tests.analysis.fakes import loaded


def scene_of(**options):
    results = analyse(loaded(**options))
    return Scene(results=results, styles=arm_styles(results.experiment.plan.arms))


def only(drafts):
    (draft,) = drafts
    return draft


def drawn(draft, narrow=False):
    with house_style():
        return draft.draw(narrow=narrow)


def gridded(**options):
    """flat and structured at two learning rates each."""
    arms = {"flat,lr=0.1": 0.0, "flat,lr=0.2": 0.02, "structured,lr=0.1": -0.06, "structured,lr=0.2": -0.05}
    labels = {name: {"arm": name.split(",")[0], "point": {"lr": float(name.split("=")[1])}} for name in arms}
    changes = {"grid": {"lr": [0.1, 0.2]}, "labels": labels}
    return scene_of(arms=arms, plan_changes=changes, **options)


def test_an_arm_keeps_its_colour_in_every_figure():
    scene = scene_of(arms={"flat": 0.0, "structured": -0.06, "cot": 0.1})
    colour = scene.styles["cot"].colour

    (top, *_) = drawn(only(curves.drafts(scene))).axes
    panel = drawn(only(alignment.drafts(scene))).axes[2]
    (row,) = [line for line in drawn(only(forest.drafts(scene))).axes[0].lines if line.get_color() == colour][
        -1:
    ]

    assert colour in {line.get_color() for line in top.lines}
    assert {line.get_color() for line in panel.lines} == {colour}
    assert row.get_marker() == scene.styles["cot"].marker


def test_kv_losses_of_two_arms_never_share_axes():
    scene = scene_of()

    figure = drawn(only(alignment.drafts(scene)))

    above, below = figure.axes[:2], figure.axes[2:]
    assert [len({line.get_color() for line in ax.lines}) for ax in [*above, *below]] == [1, 1, 1, 1]
    assert above[0].get_shared_y_axes().joined(above[0], above[1])
    assert not below[0].get_shared_y_axes().joined(below[0], below[1])


def test_an_experiment_without_a_kv_loss_says_so():
    scene = scene_of()
    scene._curves["kv_loss", "train"] = []

    missing = only(alignment.drafts(scene))

    assert isinstance(missing, Missing)
    assert missing.reason == "no run logged a KV loss"


def test_the_grid_shows_mean_half_width_and_n_and_hatches_failures():
    scene = gridded(statuses={("structured,lr=0.2", 1): "diverged"})

    draft = only(heatmap.drafts(scene))
    texts = [text.get_text() for text in drawn(draft).axes[0].texts]

    row = draft.table[(draft.table["arm"] == "structured") & (draft.table["point"] == "lr = 0.2")].iloc[0]
    assert (row["n"], row["planned"], row["failed"]) == (7, 8, 1)
    assert len(texts) == 4
    assert sum("n = 7" in text for text in texts) == 1
    assert sum(patch.get_hatch() is not None for patch in drawn(draft).axes[0].patches) == 1
    assert "Hatched: cells with failed runs (1 in all)" in draft.caption


def test_without_a_grid_there_is_no_grid_figure_and_a_reason():
    assert only(heatmap.drafts(scene_of())).reason == "the experiment has no grid of further factors"


def test_the_forest_has_a_row_per_question_and_the_csv_has_all():
    scene = scene_of(
        arms={"flat": 0.0, "structured": -0.06, "cot": 0.1}, accuracy=lambda arm, seed: 0.9 + seed / 100
    )

    draft = only(forest.drafts(scene))

    assert len(drawn(draft).axes[0].get_yticks()) == 2
    assert len(draft.table) == 2 * 3
    assert set(draft.table["role"]) == {"primary", "secondary"}


def test_one_question_alone_needs_no_forest():
    assert isinstance(only(forest.drafts(scene_of(secondary=[]))), Missing)


def test_the_difference_curve_labels_both_bands_and_draws_every_seed():
    draft = only(difference.drafts(scene_of()))

    above = drawn(draft).axes[0]

    assert len(above.collections) == 2
    assert len(above.lines) == 1 + 8 + 1
    assert "pointwise" in draft.caption
    assert "at all tested steps at once (95 %)" in draft.caption
    assert {"step", "n", "mean", "low", "high", "band_low", "band_high"} <= set(draft.table)


def test_cost_shows_completed_runs_alone():
    draft = only(cost.drafts(scene_of(statuses={("flat", 0): "diverged"})))

    assert draft.table.query("quantity == 'wall time'")["value"].notna().sum() == 15
    assert [ax.get_title(loc="left") for ax in drawn(draft).axes] == [
        "throughput",
        "peak memory",
        "wall time",
    ]


def test_failed_runs_are_a_share_of_the_planned_ones_in_the_stability_panel():
    draft = only(stability_figure.drafts(scene_of(statuses={("flat", 0): "diverged", ("flat", 1): "oom"})))

    shares = draft.table.query("measure == 'failed runs'").set_index("arm")["value"]
    assert shares.to_dict() == {"flat": 25.0, "structured": 0.0}


def test_many_contrasts_have_one_figure_each_up_to_six():
    scene = scene_of(
        arms={"flat": 0.0, **{f"arm{place}": 0.01 * place for place in range(1, 9)}}, secondary=[]
    )

    drafts = list(paired.drafts(scene))

    assert [isinstance(draft, Draft) for draft in drafts] == [True] * 6 + [False] * 2
    assert "tables/seeds.csv" in drafts[-1].reason


def test_five_hundred_seeds_are_drawn_as_a_few_marks():
    values = np.random.default_rng(0).normal(1, 0.1, (2, 500))
    scene = scene_of(
        seeds=range(500), finals=dict(zip(("flat", "structured"), values, strict=True)), secondary=[]
    )

    pair, grid = only(paired.drafts(scene)), only(completeness.drafts(scene))

    slopes = drawn(pair).axes[0].collections[0]
    assert len(slopes.get_paths()) == paired.SLOPES
    assert "Slopes drawn: 60 of 500" in pair.caption
    assert sum(len(boxes.get_paths()) for boxes in drawn(grid).axes[0].collections) == 2
    assert len(drawn(only(curves.drafts(scene))).axes[0].lines) < 10

    left, right = drawn(pair).axes
    assert [len(line.get_xdata()) for line in left.lines] == [MOST_POINTS] * 2
    points = drawn(only(strip.drafts(scene))).axes[0].lines[0].get_xdata()
    assert len(points) == MOST_POINTS
    assert {values[0].min(), values[0].max()} <= set(points), "the extremes are always drawn"
    assert max(len(line.get_xdata()) for line in right.lines) == MOST_POINTS
    assert "500 points 300 are drawn" in pair.caption


def test_thinning_keeps_the_ends_and_says_so():
    long = pd.DataFrame({"step": range(5000)})

    kept = thinned(long)

    assert len(kept) == MOST_POINTS
    assert (kept["step"].iloc[0], kept["step"].iloc[-1]) == (0, 4999)
    assert thinned(long.head(10)) is not None
    assert len(thinned(long.head(10))) == 10


@pytest.mark.parametrize("narrow", [False, True])
def test_labels_stay_inside_the_figure_whatever_the_names(narrow):
    names = ["W" * 64, "a_long_name_with_sixty_four_signs_in_it_and_that_is_really_too_lo"]
    scene = scene_of(arms={"flat": 0.0, names[0]: 0.1, names[1]: 0.2})
    shown = [*completeness.drafts(scene), *paired.drafts(scene), *curves.drafts(scene), *forest.drafts(scene)]

    for draft in shown:
        with house_style():
            figure = settled(draft.draw(narrow=narrow))
            box = figure.get_tightbbox()

        assert box.x0 >= -0.1, draft.name
        assert box.x1 <= figure.get_size_inches()[0] + 0.1, draft.name


def test_long_labels_break_by_their_breadth_and_keep_their_end():
    assert wrapped("structured,lr=0.001", 12) == "structured,\nlr=0.001"
    assert max(len(line) for line in wrapped("W" * 64, 16).split("\n")) < 10
    assert brief("one_two_three_four_five_six", 6, 3).split("\n")[-1] == "six"
    assert len(brief("x" * 200, 10, 3).split("\n")) == 3


def test_an_inlined_drawing_keeps_only_the_ids_it_uses():
    with house_style():
        svg = svg_of(only(paired.drafts(scene_of())).draw(narrow=False))

    page = inline(svg, "here")

    ids = set(pd.Series(page).str.findall(r' id="([^"]+)"').iloc[0])
    used = set(pd.Series(page).str.findall(r'(?:href="|url\()#([^")]+)').iloc[0])
    assert ids == used
    assert all(name.startswith("here-") for name in ids)
