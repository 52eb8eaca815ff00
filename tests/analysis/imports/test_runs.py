"""Whose rows are whose: arms and blocks of several columns, large seeds, runs that match nothing, runs
that end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import ResultsError, load
from analysis.imports.mapping import read_mapping
from analysis.sentences import sentence
from tests.analysis.imports.records import DIFFERENCE, judged, mapped, remarks, statuses, table


def written(folder: Path, rows: pd.DataFrame) -> Path:
    rows.to_csv(folder / "runs.csv", index=False)
    return folder / "runs.csv"


def with_rates() -> pd.DataFrame:
    """Two methods at two rates; the higher rate costs 0.05."""
    return pd.concat([table().assign(lr="1e-4"), table().assign(lr="1e-3", loss=lambda t: t["loss"] + 0.05)])


def test_an_arm_may_be_made_of_two_columns(tmp_path: Path) -> None:
    mapping = mapped(arm=["method", "lr"], analysis={"baseline": ["A", "1e-4"], "treatments": ["B 1e-4"]})

    found = judged("csv", written(tmp_path, with_rates()), mapping, tmp_path / "out", arm="B 1e-4")

    assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE))
    assert list(load(tmp_path / "out").plan.arms) == ["A 1e-4", "B 1e-4", "A 1e-3", "B 1e-3"]


def test_all_arms_are_compared_where_no_treatment_is_named(tmp_path: Path) -> None:
    mapping = mapped(arm=["method", "lr"], analysis={"baseline": "A 1e-4"})

    judged("csv", written(tmp_path, with_rates()), mapping, tmp_path / "out", arm="B 1e-4")

    assert [pair.treatment for pair in load(tmp_path / "out").plan.contrasts] == [
        "B 1e-4",
        "A 1e-3",
        "B 1e-3",
    ]


def test_a_column_that_tells_rows_apart_is_proposed(tmp_path: Path) -> None:
    said = r"differ in lr: make it part of the arm \(arm: \[method, lr\]\) or of .* \(seed: \[lr, seed\]\)"
    with pytest.raises(ResultsError, match=said):
        judged("csv", written(tmp_path, with_rates()), mapped(), tmp_path / "out")


def test_tasks_and_seeds_are_blocks_of_their_own(tmp_path: Path) -> None:
    rows = pd.concat([table().assign(task="rte"), table().assign(task="cola", loss=lambda t: t["loss"] * 2)])

    found = judged("csv", written(tmp_path, rows), mapped(seed=["task", "seed"]), tmp_path / "out")

    plan = load(tmp_path / "out").plan
    assert (found.planned, found.pairs) == (12, 12)
    assert [plan.seed_name(seed) for seed in plan.seeds[:2]] == ["cola 0", "cola 1"]
    assert found.rows[0].delta == pytest.approx(-0.2)
    assert found.rows[6].delta == pytest.approx(-0.1)


@pytest.mark.parametrize("first", [2**53, 2**64, 2**70, -(2**63) - 1])
def test_seeds_beyond_what_a_float_holds_are_kept_apart(tmp_path: Path, first: int) -> None:
    rows = table().assign(seed=lambda t: [str(first + seed) for seed in t["seed"]])

    found = judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")

    plan = load(tmp_path / "out").plan
    assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE))
    assert {plan.seed_name(seed) for seed in plan.seeds} == {str(first + seed) for seed in range(6)}


@pytest.mark.parametrize("form", ["{}.0", "{:02d}", " {}", "{}e0"])
def test_a_seed_is_its_number_however_it_is_written(tmp_path: Path, form: str) -> None:
    rows = table().astype({"seed": object})
    rows.loc[rows["method"] == "B", "seed"] = [
        form.format(seed) for seed in rows.loc[rows["method"] == "B", "seed"]
    ]

    assert judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out").pairs == 6


def test_rows_without_a_seed_are_named_by_line_or_counted(tmp_path: Path) -> None:
    rows = table().astype({"seed": object})
    rows.loc[4, "seed"], rows.loc[9, "seed"] = None, "NA"

    with pytest.raises(ResultsError, match=r"no seed in seed for 2 of 36 rows: .*line 6, .*line 11"):
        judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")
    judged("csv", written(tmp_path, rows), mapped(unmatched="ignore"), tmp_path / "out")

    imported = load(tmp_path / "out").plan.imported
    assert imported is not None
    assert len(imported.ignored) == 2


def test_many_runs_that_match_nothing_are_counted_and_ten_are_named(tmp_path: Path) -> None:
    rows = table(20).assign(name=lambda t: t["method"] + t["seed"].astype(str))

    with pytest.raises(ResultsError, match=r"for 20 of 40 runs: A0, .*A9 and 10 more"):
        judged(
            "csv",
            written(tmp_path, rows.replace({"method": {"A": None}})),
            mapped(run="name"),
            tmp_path / "out",
        )


def test_runs_that_stop_by_a_rule_of_their_own_are_compared_at_their_ends(tmp_path: Path) -> None:
    rows = table(steps=(300,)).assign(iter=lambda t: 300 + 20 * t["seed"] + 10 * (t["method"] == "B"))
    file = written(tmp_path, rows)

    furthest = judged("csv", file, mapped(), tmp_path / "furthest")
    found = judged("csv", file, mapped(analysis={"at": "last"}), tmp_path / "out")

    assert (furthest.verdict, furthest.pairs) == ("NOT TESTABLE", 0)
    assert "0 of 12 runs failed; 11 ended early (A 6, B 5)." in sentence(furthest)
    assert statuses(tmp_path / "furthest")["A-seed0"][1] == "ended at iter 300 of 410, no reason on record"
    assert "11 of 12 runs ended before iter 410" in remarks(tmp_path / "furthest")
    assert (found.verdict, found.difference, found.pairs) == ("SUPERIOR", pytest.approx(DIFFERENCE), 6)


@pytest.mark.parametrize("word", ["finished", "COMPLETED", "success", "Terminated", "done"])
def test_the_usual_words_for_an_end_need_no_translation(tmp_path: Path, word: str) -> None:
    rows = table().assign(state=word)
    rows.loc[(rows["method"] == "A") & (rows["seed"] == 0), "state"] = "Failed"

    judged("csv", written(tmp_path, rows), mapped(status="state"), tmp_path / "out")

    assert statuses(tmp_path / "out")["A-seed0"] == ("crashed", "its record says Failed")
    assert statuses(tmp_path / "out")["A-seed1"] == ("completed", None)


def test_arms_without_a_seed_in_common_are_not_testable(tmp_path: Path) -> None:
    rows = table().assign(seed=lambda t: t["seed"] + 100 * (t["method"] == "B"))

    found = judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")

    assert (found.verdict, found.pairs) == ("NOT TESTABLE", 0)


def test_a_mapping_names_all_that_is_wrong_with_it() -> None:
    wrong: dict[str, Any] = mapped(
        sead=1, metrics={"val_loss": {"colum": "x"}}, analysis={"basline": "A", "at": "lst"}
    )

    with pytest.raises(ResultsError) as caught:
        read_mapping(wrong, "m.yaml")

    for said in (
        "field 'sead' is unknown. Did you mean 'seed'?",
        "'metrics.val_loss.colum' is unknown",
        "'analysis.basline'",
        "analysis.at",
    ):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": ["0", "a"]}, "mapping: seeds: 'a' is no whole number, such as 0 or 17"),
        ({"analysis": {"treatments": ["A"]}}, "each once; got .'A'."),
        ({"analysis": {"treatments": ["B", "B"]}}, "each once; got .'B', 'B'."),
        ({"analysis": {"treatments": []}}, "each once; got .."),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(tmp_path: Path, changes: Any, said: str) -> None:
    table().to_csv(tmp_path / "runs.csv", index=False)

    with pytest.raises(ResultsError, match=said):
        judged("csv", tmp_path / "runs.csv", mapped(**changes), tmp_path / "out")


def test_runs_of_one_arm_alone_are_refused(tmp_path: Path) -> None:
    table().query("method == 'A'").to_csv(tmp_path / "runs.csv", index=False)

    with pytest.raises(ResultsError, match="all runs are of arm 'A'"):
        judged("csv", tmp_path / "runs.csv", mapped(), tmp_path / "out")


@pytest.mark.parametrize("seeds", [["00", "1", 2, 3.0, 4, 5, 5], [["t", 0], ["t", 1], ["t", 2]]])
def test_planned_seeds_are_read_as_those_found_are(tmp_path: Path, seeds: list[Any]) -> None:
    table().assign(task="t").to_csv(tmp_path / "runs.csv", index=False)
    named = {"seed": ["task", "seed"]} if isinstance(seeds[0], list) else {}

    found = judged("csv", tmp_path / "runs.csv", mapped(seeds=seeds, **named), tmp_path / "out")

    assert found.planned == found.pairs == (3 if named else 6)


@pytest.mark.parametrize("word", ["NA", "nan", "None", "-"])
def test_a_missing_seed_of_a_task_is_no_block(tmp_path: Path, word: str) -> None:
    rows = table().assign(task="t").astype({"seed": str})
    rows.loc[rows["seed"] == "3", "seed"] = word
    rows.to_csv(tmp_path / "runs.csv", index=False)

    with pytest.raises(ResultsError, match="no seed in task and seed for 6 of 36 rows"):
        judged("csv", tmp_path / "runs.csv", mapped(seed=["task", "seed"]), tmp_path / "out")


@pytest.mark.parametrize("scale", [1e16, 1e18])
def test_steps_that_no_reader_keeps_exact_are_refused(tmp_path: Path, scale: float) -> None:
    table().assign(iter=lambda rows: rows["iter"] * scale).to_csv(tmp_path / "runs.csv", index=False)

    with pytest.raises(ResultsError, match=r"line 2: iter is 1e\+\d+; steps count from 0 up to 2\^53"):
        judged("csv", tmp_path / "runs.csv", mapped(), tmp_path / "out")


def test_runs_short_of_the_planned_steps_are_told_by_these(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "runs.csv", index=False)

    judged("csv", tmp_path / "runs.csv", mapped(planned_steps=3000), tmp_path / "out")

    assert "12 of 12 runs ended before iter 3000" in remarks(tmp_path / "out")


def test_the_first_step_at_which_an_accuracy_is_reached_is_an_endpoint(tmp_path: Path) -> None:
    rows = table().assign(loss=lambda rows: 1 - rows["loss"] / 2)
    rows.to_csv(tmp_path / "runs.csv", index=False)
    mapping = mapped(metrics={"eval_accuracy": "loss"}, analysis={"primary": "steps_to_20", "margin": 10.0})

    assert judged("csv", tmp_path / "runs.csv", mapping, tmp_path / "out").pairs == 6


def test_a_missing_status_is_none(tmp_path: Path) -> None:
    table().assign(state="NA").to_csv(tmp_path / "runs.csv", index=False)

    assert judged("csv", tmp_path / "runs.csv", mapped(status="state"), tmp_path / "out").pairs == 6


def test_exit_codes_are_translated_as_yaml_reads_them(tmp_path: Path) -> None:
    table().assign(code=0).to_csv(tmp_path / "runs.csv", index=False)
    mapping = mapped(status="code", statuses={0: "completed", 1: "crashed"})

    assert judged("csv", tmp_path / "runs.csv", mapping, tmp_path / "out").pairs == 6


@pytest.mark.parametrize("claim", [{"direction": "max"}, {"unit": "bits"}])
def test_kvtunes_own_names_keep_their_meaning(tmp_path: Path, claim: dict[str, str]) -> None:
    mapping = mapped(metrics={"eval_ce": {"column": "loss", **claim}}, analysis={"primary": "eval_ce"})

    with pytest.raises(ResultsError, match=r"eval_ce is kvtune's own name .*: leave direction and unit out"):
        judged("csv", written(tmp_path, table()), mapping, tmp_path / "out")
