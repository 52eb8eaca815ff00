"""Other people's runs get the verdict of an experiment, and their silence is no evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import Comparison, ResultsError, compare, load
from analysis.intake import import_runs
from tests.analysis.imports import records
from tests.analysis.imports.records import STEPS, mapped, value


def table(seeds: int = 6) -> pd.DataFrame:
    return records.table(seeds).assign(lr=0.01)


def judged(folder: Path, rows: pd.DataFrame, mapping: dict[str, Any]) -> Comparison:
    rows.to_csv(folder / "runs.csv", index=False)
    return records.judged("csv", folder / "runs.csv", mapping, folder / "out")


def status_of(comparison: Comparison, seed: int) -> str:
    return next(row.treatment_status for row in comparison.rows if row.seed == seed)


def test_a_table_of_runs_gets_a_verdict(tmp_path: Path) -> None:
    found = judged(tmp_path, table(), mapped())

    assert found.verdict == "SUPERIOR"
    assert found.difference == pytest.approx(-0.101)
    assert found.endpoint.unit == "nats"


def test_what_the_records_do_not_hold_is_not_called_checked(tmp_path: Path) -> None:
    gates = {gate.name: gate.status for gate in judged(tmp_path, table(), mapped()).gates}

    for name in (
        "configs differ in declared factors only",
        "every trial ran the planned config",
        "the same batches in the same order within each pair",
        "the same first weights within each pair",
        "the same held-out rows within each pair",
    ):
        assert gates[name] == "not checked", name
    assert gates["the same evaluations within each pair"] == "passed"


def test_a_setting_in_which_the_arms_differ_makes_the_verdict_invalid(tmp_path: Path) -> None:
    rows = table()
    rows.loc[rows["method"] == "B", "lr"] = 0.02

    assert judged(tmp_path, rows, mapped(config=["lr"])).verdict == "INVALID"
    assert judged(tmp_path, rows, mapped(declared=["lr"])).verdict == "SUPERIOR"


def test_a_record_that_ends_early_is_no_endpoint_and_no_crash(tmp_path: Path) -> None:
    rows = table()
    rows = rows[(rows["method"] != "B") | (rows["seed"] != 2) | (rows["iter"] < 300)]

    found = judged(tmp_path, rows, mapped())

    assert status_of(found, 2) == "stopped"
    assert found.pairs == 5
    reasons = load(tmp_path / "out").runs.set_index("trial_id")["failure_reason"]
    assert reasons["B-seed2"] == "ended at iter 200 of 300, no reason on record"


def test_a_logged_nan_is_a_divergence_and_a_blank_cell_is_not(tmp_path: Path) -> None:
    rows = table().astype({"loss": object})
    rows.loc[(rows["method"] == "B") & (rows["seed"] == 1) & (rows["iter"] == 300), "loss"] = "nan"
    rows.loc[(rows["method"] == "B") & (rows["seed"] == 2) & (rows["iter"] == 100), "loss"] = None

    found = judged(tmp_path, rows, mapped())

    assert status_of(found, 1) == "diverged"
    assert status_of(found, 2) == "completed"


def test_planned_seeds_that_are_missing_are_counted(tmp_path: Path) -> None:
    found = judged(tmp_path, table(), mapped(seeds=list(range(8))))

    assert (found.planned, found.pairs) == (8, 6)


def test_a_failed_run_and_its_repetition_are_attempts(tmp_path: Path) -> None:
    rows = table().assign(id=lambda t: t["method"] + t["seed"].astype(str), state="finished")
    first = rows[(rows["id"] == "B3") & (rows["iter"] == 100)].assign(id="B3-first", state="failed")
    both = pd.concat([rows, first])
    ways = {"finished": "completed", "failed": "crashed"}

    found = judged(tmp_path, both, mapped(run="id", status="state", statuses=ways))

    assert status_of(found, 3) == "completed"
    runs = load(tmp_path / "out").runs
    assert runs.loc[runs["trial_id"] == "B-seed3", "status"].tolist() == ["crashed", "completed"]


def test_two_complete_runs_of_one_arm_and_seed_are_refused(tmp_path: Path) -> None:
    rows = table().assign(id="first")
    again = rows[(rows["method"] == "A") & (rows["seed"] == 0)].assign(id="second")

    with pytest.raises(ResultsError, match=r"arm 'A' has 2 complete runs with seed 0 \(first, second\)"):
        judged(tmp_path, pd.concat([rows, again]), mapped(run="id"))


RAY = mapped(arm="config/method", seed="config/seed", step="training_iteration")


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", "3", "null", '"x"'])
@pytest.mark.parametrize("file", ["result.json", "params.json"])
def test_what_ray_never_wrote_is_one_error_that_names_the_file(
    tmp_path: Path, file: str, content: str
) -> None:
    path = tmp_path / "tune" / "trial_A_0" / file
    path.parent.mkdir(parents=True)
    path.write_text(f'{content}\n{{"loss": 1.0}}\n' if file == "result.json" else content)

    with pytest.raises(ResultsError, match=rf"trial_A_0/{file}") as caught:
        import_runs("ray", [tmp_path / "tune"], RAY, "map.yaml", tmp_path / "out")

    assert len(str(caught.value)) < 500


def test_tensorboard_folders_name_arm_and_seed_in_their_path(tmp_path: Path) -> None:
    from tensorboardX import SummaryWriter

    for arm in "AB":
        for seed in range(6):
            with SummaryWriter(str(tmp_path / "logs" / f"{arm}-seed{seed}")) as writer:
                for step in STEPS:
                    writer.add_scalar("loss", value(arm, seed, step), step)
    mapping = mapped(arm={"path": "([AB])-seed"}, seed={"path": r"seed(\d+)"}, step="step")

    out = import_runs("tensorboard", [tmp_path / "logs"], mapping, "map.yaml", tmp_path / "out")

    assert compare(load(out), treatment="B").difference == pytest.approx(-0.101, abs=1e-6)


def test_an_import_is_written_anew_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    judged(tmp_path, table(), mapped())
    assert judged(tmp_path, table(7), mapped()).planned == 7

    (tmp_path / "out" / "provenance.json").unlink()
    with pytest.raises(ResultsError, match="holds files that no import made: choose another folder"):
        judged(tmp_path, table(), mapped())


def without(field: str) -> dict[str, Any]:
    return {name: given for name, given in mapped().items() if name != field}


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (lambda: mapped(arm="methd"), r"arm: column 'methd' is unknown\. Did you mean 'method'\?"),
        (lambda: mapped(sead="seed"), r"m\.yaml: field 'sead' is unknown\. Did you mean 'seed'\?"),
        (lambda: without("seed"), r"m\.yaml: seed: Field required"),
        (lambda: mapped(arm={"path": "("}), r"arm\.path: '\(' is no regular expression"),
        (lambda: mapped(arm={"path": "a", "run": "b"}), "needs exactly one group"),
        (lambda: mapped(arm={"column": "a", "run": "(b)"}), "give one of column, path and run"),
        (lambda: mapped(seed="loss"), r"seed '1\.8' is no whole number"),
        (lambda: mapped(seed="method"), "line 2: seed 'A' is no whole number"),
        (
            lambda: mapped(metrics={"val_loss": "loss"}),
            r"metrics\.val_loss needs a direction, min or max",
        ),
        (lambda: mapped(analysis={"baseline": "C", "primary": "val_loss"}), "baseline: arm 'C' is unknown"),
        (lambda: mapped(analysis={"baseline": "A", "primary": "loss"}), "metric 'loss' is unknown"),
        (lambda: mapped(status="method"), "'A' has no translation"),
        (lambda: "words", r"m\.yaml: names fields such as"),
    ],
)
def test_a_wrong_mapping_is_told_in_one_sentence(
    tmp_path: Path, mapping: Callable[[], Any], said: str
) -> None:
    table().to_csv(tmp_path / "runs.csv", index=False)

    with pytest.raises(ResultsError, match=said):
        import_runs("csv", [tmp_path / "runs.csv"], mapping(), "m.yaml", tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_rows_left_out_are_not_counted_as_runs(tmp_path: Path) -> None:
    rows = table().astype({"seed": object})
    rows.loc[(rows["method"] == "B") & (rows["seed"] == 3), "seed"] = None

    judged(tmp_path, rows, mapped(unmatched="ignore"))

    imported = load(tmp_path / "out").plan.imported
    assert imported is not None
    assert (imported.runs, len(imported.ignored)) == (11, 3)


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ("1e-4", "0.0001", "SUPERIOR"),
        ("0.1", "0.10", "SUPERIOR"),
        ("64", "64.0", "SUPERIOR"),
        ("9007199254740993", "9007199254740992", "INVALID"),
        ("7e12345", "7e12346", "INVALID"),
    ],
)
def test_a_setting_is_the_same_however_its_number_is_written(
    tmp_path: Path, ours: str, theirs: str, verdict: str
) -> None:
    rows = table().assign(lr=lambda rows: rows["method"].map({"A": ours, "B": theirs}))

    assert judged(tmp_path, rows, mapped(config=["lr"])).verdict == verdict


def test_planned_steps_on_record_tell_which_runs_are_complete(tmp_path: Path) -> None:
    rows = table().assign(planned=lambda rows: 300 + 100 * (rows["seed"] == 2))

    found = judged(tmp_path, rows, mapped(recorded={"planned_steps": "planned"}))

    assert (found.pairs, status_of(found, 2)) == (5, "stopped")
