"""What W&B's page exports: charts over any axis, and the table of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import ResultsError
from tests.analysis.imports.records import DIFFERENCE, STEPS, judged, mapped, remarks, statuses, value

METRICS = {"val_loss": {"column": "val/loss", "direction": "min"}}
NAMED = mapped(arm={"run": "^([AB])-"}, seed={"run": r"s(\d+)$"}, step="Step", metrics=METRICS)


def chart(folder: Path, axis: str = "Step", metric: str = "val/loss", **more: Any) -> Path:
    columns: dict[str, Any] = {axis: STEPS}
    for arm in "AB":
        for seed in range(6):
            run = f"{arm}-s{seed}"
            columns |= {f"{run} - _step{band}": STEPS for band in ("", "__MIN", "__MAX")}
            points = [value(arm, seed, step) for step in STEPS]
            columns |= {f"{run} - {metric}{band}": points for band in ("", "__MIN", "__MAX")}
    pd.DataFrame(columns | more).to_csv(folder / "chart.csv", index=False, quoting=1)
    return folder / "chart.csv"


@pytest.mark.parametrize("axis", ["Step", "trainer/global_step", "epoch", "Relative Time (Process)", "a - b"])
def test_a_chart_may_run_over_any_axis(tmp_path: Path, axis: str) -> None:
    if axis == "a - b":
        with pytest.raises(ResultsError, match="neither a column Name"):
            judged("wandb-export", chart(tmp_path, axis), {**NAMED, "step": axis}, tmp_path / "out")
        return
    for step in ({"step": axis}, {}):
        mapping = {name: given for name, given in NAMED.items() if name != "step"} | step
        found = judged("wandb-export", chart(tmp_path, axis), mapping, tmp_path / "out")
        assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE))


def test_a_metric_may_have_a_dash_in_its_name(tmp_path: Path) -> None:
    metrics = {"val_loss": {"column": "val - loss", "direction": "min"}}

    found = judged(
        "wandb-export", chart(tmp_path, metric="val - loss"), {**NAMED, "metrics": metrics}, tmp_path / "out"
    )

    assert found.pairs == 6


def test_two_runs_of_one_name_are_refused_and_both_columns_named(tmp_path: Path) -> None:
    file = chart(tmp_path)
    file.write_text(file.read_text().replace("B-s3 - val/loss", "B-s2 - val/loss"))

    with pytest.raises(
        ResultsError, match=r"columns \d+ and \d+ are both 'B-s2 - val/loss': two runs are called B-s2"
    ):
        judged("wandb-export", file, NAMED, tmp_path / "out")


def test_points_that_stand_for_several_values_are_told(tmp_path: Path) -> None:
    file = chart(tmp_path, **{"B-s2 - val/loss__MAX": [9.0, 9.0, 9.0]})

    judged("wandb-export", file, NAMED, tmp_path / "out")

    assert "points of B-s2 stand for several values each" in remarks(tmp_path / "out")


def runs(folder: Path, **changes: Any) -> Path:
    """The table of runs, without a step, as it is exported unless somebody adds the column."""
    rows = [
        {"Name": f"{arm}-s{seed}", "State": "finished", "Notes": "-", "User": "x", "Tags": "", "Runtime":
        3600,
         "method": arm, "seed": seed, "val/loss": value(arm, seed, 300)}
        for arm in "AB" for seed in range(6)
    ]  # fmt: skip
    table = pd.DataFrame(rows).astype(object)
    for place, given in changes.items():
        row, column = place.split("__")
        table.loc[int(row), column] = given
    table.to_csv(folder / "runs.csv", index=False)
    return folder / "runs.csv"


TABLE = mapped(step=None, metrics=METRICS)


def test_the_table_of_runs_has_final_values(tmp_path: Path) -> None:
    found = judged("wandb-export", runs(tmp_path), TABLE, tmp_path / "out")

    assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE))


@pytest.mark.parametrize(
    ("state", "status"),
    [("running", "running"), ("crashed", "crashed"), ("failed", "crashed"), ("killed", "cancelled")],
)
def test_a_run_that_has_not_finished_has_no_endpoint(tmp_path: Path, state: str, status: str) -> None:
    found = judged("wandb-export", runs(tmp_path, **{"11__State": state}), TABLE, tmp_path / "out")

    assert statuses(tmp_path / "out")["B-seed5"] == (status, f"W&B says {state}")
    assert (found.verdict, found.pairs) == ("NOT TESTABLE", 5)


def test_two_finished_runs_of_one_arm_and_seed_are_refused_under_one_name_too(tmp_path: Path) -> None:
    copied = {"7__Name": "B-s0", "7__seed": 0}

    with pytest.raises(
        ResultsError, match=r"arm 'B' has 2 complete runs with seed 0 \(.*runs.csv:8, .*runs.csv:9\)"
    ):
        judged("wandb-export", runs(tmp_path, **copied), TABLE, tmp_path / "out")


def test_two_runs_of_one_name_and_other_seeds_are_two_runs(tmp_path: Path) -> None:
    assert judged("wandb-export", runs(tmp_path, **{"7__Name": "B-s0"}), TABLE, tmp_path / "out").pairs == 6


def test_a_run_without_a_seed_is_refused_or_counted(tmp_path: Path) -> None:
    file = runs(tmp_path, **{"3__seed": ""})

    with pytest.raises(ResultsError, match=r"no seed in seed for 1 of 12 runs: A-s3\..*unmatched: ignore"):
        judged("wandb-export", file, TABLE, tmp_path / "out")
    found = judged("wandb-export", file, {**TABLE, "unmatched": "ignore"}, tmp_path / "out")

    assert (found.planned, found.pairs) == (6, 5)


def test_runs_that_the_pattern_does_not_match_are_named(tmp_path: Path) -> None:
    mapping = {**TABLE, "arm": {"run": "^([AB])-"}, "seed": {"run": "s([0-4])$"}}

    with pytest.raises(
        ResultsError, match=r"no seed in \{run: s\(\[0-4\]\)\$\} for 2 of 12 runs: A-s5, B-s5"
    ):
        judged("wandb-export", runs(tmp_path), mapping, tmp_path / "out")
