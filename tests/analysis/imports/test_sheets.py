"""CSV and parquet, as spreadsheets, R, pandas, d3rlpy and Lightning write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from analysis import ResultsError, load
from tests.analysis.imports.records import DIFFERENCE, STEPS, judged, mapped, remarks, statuses, table, value


def written(folder: Path, rows: pd.DataFrame, **how: Any) -> Path:
    rows.to_csv(folder / "runs.csv", index=False, **how)
    return folder / "runs.csv"


@pytest.mark.parametrize(
    "column", ["trial_id", "attempt", "arm", "seed_", "run_", "step_", "status", "factor.x", "@file"]
)
def test_no_column_of_the_users_is_taken_for_one_of_ours(tmp_path: Path, column: str) -> None:
    rows = table().assign(**{column: [f"x{n}" for n in range(36)]})

    assert judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out").verdict == "SUPERIOR"


@pytest.mark.parametrize("name", ["arm", "seed_", "trial_id", "attempt", "value", "step", "metric", "status"])
def test_the_metric_may_be_called_as_ours_are(tmp_path: Path, name: str) -> None:
    metrics = {"val_loss": {"column": name, "direction": "min"}}

    found = judged(
        "csv",
        written(tmp_path, table().rename(columns={"loss": name})),
        mapped(metrics=metrics),
        tmp_path / "out",
    )

    assert found.difference == pytest.approx(DIFFERENCE)


def test_a_setting_called_seed_is_compared_as_written(tmp_path: Path) -> None:
    """The block is told by the run's name; the column seed differs within pairs."""
    rows = table().assign(
        name=lambda t: t["method"] + "-" + t["seed"].astype(str), seed=lambda t: t["method"] + "x"
    )

    mapping = mapped(arm="method", seed="number", config=["seed"])
    found = judged("csv", written(tmp_path, rows.assign(number=table()["seed"])), mapping, tmp_path / "out")

    assert found.verdict == "INVALID"
    assert "seed (seeds 0" in found.findings[0].detail


def test_a_table_of_final_values_has_one_evaluation_a_run_and_no_curve(tmp_path: Path) -> None:
    rows = table(steps=STEPS[-1:]).drop(columns="iter")

    found = judged("csv", written(tmp_path, rows), mapped(step=None), tmp_path / "out")

    assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE))
    assert load(tmp_path / "out").plan.imported.step is None  # type: ignore[union-attr]


def test_several_rows_a_run_need_a_column_of_steps(tmp_path: Path) -> None:
    said = r"arm A, seed 0: several rows .* line 2\) and .* line 3\).*differ in iter: let it count steps"
    with pytest.raises(ResultsError, match=said):
        judged("csv", written(tmp_path, table()), mapped(step=None), tmp_path / "out")


def test_a_wide_table_has_an_arm_in_every_column(tmp_path: Path) -> None:
    rows = table(steps=STEPS[-1:]).pivot(index="seed", columns="method", values="loss").reset_index()

    found = judged("csv", written(tmp_path, rows), mapped(step=None), tmp_path / "out")

    assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE))
    assert "runs.csv has a column for every arm" in remarks(tmp_path / "out")


def test_a_wide_table_may_have_steps_and_more_arms(tmp_path: Path) -> None:
    rows = table().pivot(index=["seed", "iter"], columns="method", values="loss").reset_index()
    rows["C"] = rows["A"]

    found = judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")

    assert found.difference == pytest.approx(DIFFERENCE)
    assert list(load(tmp_path / "out").plan.arms) == ["A", "B", "C"]


@pytest.mark.parametrize(
    "word", ["NA", "N/A", "n/a", "#N/A", "None", "null", "NULL", "-", "--", "<NA>", "", " "]
)
def test_a_missing_value_is_no_endpoint_whatever_it_is_called(tmp_path: Path, word: str) -> None:
    rows = table().astype({"loss": object})
    rows.loc[(rows["method"] == "B") & (rows["seed"] == 1) & (rows["iter"] == 300), "loss"] = word

    found = judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")

    assert (found.verdict, found.pairs) == ("NOT TESTABLE", 5)
    assert statuses(tmp_path / "out")["B-seed1"] == ("stopped", "it has no val_loss after iter 200 of 300")


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "-Infinity"])
def test_what_is_not_finite_is_a_divergence(tmp_path: Path, word: str) -> None:
    rows = table().astype({"loss": object})
    rows.loc[(rows["method"] == "B") & (rows["seed"] == 1) & (rows["iter"] == 300), "loss"] = word

    judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")

    assert statuses(tmp_path / "out")["B-seed1"][0] == "diverged"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("tensor(1.2500)", 1.25),
        ("tensor([1.25], device='cuda:0')", 1.25),
        ("tensor(1.2500, device='cuda:0', grad_fn=<NllLossBackward0>)", 1.25),
        ("array(1.25)", 1.25),
    ],
)
def test_a_printed_tensor_is_its_number_and_its_rounding_is_told(
    tmp_path: Path, text: str, number: float
) -> None:
    rows = table().astype({"loss": object})
    rows.loc[0, "loss"] = text

    judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")

    metrics = load(tmp_path / "out").metrics
    assert metrics["value"].iloc[0] == number
    assert "Values of loss logged as printed tensors, which keep four decimals: 1." in remarks(
        tmp_path / "out"
    )


@pytest.mark.parametrize("text", ["1_000", "1,400", "80%", "about 2", "1.2.3"])
def test_what_is_no_number_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    rows = table().astype({"loss": object})
    rows.loc[4, "loss"] = text

    with pytest.raises(
        ResultsError, match=r"runs\.csv, line 6: column 'loss' holds '.*', which is no number"
    ):
        judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")


def test_decimal_commas_are_read_where_semicolons_part_the_columns(tmp_path: Path) -> None:
    file = written(tmp_path, table(), sep=";", decimal=",")

    assert judged("csv", file, mapped(), tmp_path / "out").difference == pytest.approx(DIFFERENCE)


def test_a_number_that_may_be_a_thousand_or_a_fraction_is_refused(tmp_path: Path) -> None:
    rows = table().astype({"loss": str})
    rows["loss"] = rows["loss"].str.replace(".", ",")
    rows.loc[3, "loss"] = "1.825"

    with pytest.raises(ResultsError, match=r"in column 'loss' may be a thousand or a fraction"):
        judged("csv", written(tmp_path, rows, sep=";"), mapped(), tmp_path / "out")


@pytest.mark.parametrize(
    "how", [{"sep": "\t"}, {"encoding": "utf-8-sig"}, {"lineterminator": "\r\n"}, {"quoting": 1}]
)
def test_the_dialects_of_csv_are_read(tmp_path: Path, how: dict[str, Any]) -> None:
    file = written(tmp_path, table(), **how)

    assert judged("csv", file, mapped(), tmp_path / "out").difference == pytest.approx(DIFFERENCE)


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_a_last_line_that_may_be_cut_is_refused(tmp_path: Path, cut: int) -> None:
    file = written(tmp_path, table())
    file.write_bytes(file.read_bytes()[:-cut])

    with pytest.raises(
        ResultsError, match=r"runs\.csv.*its last line, 37, has no line end|line 37: 3 fields"
    ):
        judged("csv", file, mapped(), tmp_path / "out")


def test_a_last_line_that_a_quote_closes_is_whole(tmp_path: Path) -> None:
    file = written(tmp_path, table(), quoting=1)
    file.write_bytes(file.read_bytes().rstrip())

    assert judged("csv", file, mapped(), tmp_path / "out").pairs == 6


def test_a_row_of_more_or_fewer_fields_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, table())
    file.write_text(file.read_text().replace("A,0,200,", "A,0,200,7,"))

    with pytest.raises(ResultsError, match=r"line 3: 5 fields, where line 1 has 4"):
        judged("csv", file, mapped(), tmp_path / "out")


def test_two_columns_of_one_name_are_refused_where_they_are_meant(tmp_path: Path) -> None:
    file = written(tmp_path, table().assign(note="x"))
    file.write_text(file.read_text().replace("iter,loss,note", "iter,loss,loss", 1))

    with pytest.raises(ResultsError, match=r"columns 4 and 5 are all called 'loss'"):
        judged("csv", file, mapped(), tmp_path / "out")


def test_files_without_a_header_say_so_and_are_read_by_the_columns_numbers(tmp_path: Path) -> None:
    """d3rlpy: one folder per run, its name has arm and seed; epoch, step, value."""
    for (arm, seed), run in table().groupby(["method", "seed"]):
        folder = tmp_path / "logs" / f"{arm}_asterix_{seed}_2022"
        folder.mkdir(parents=True)
        run.assign(epoch=run["iter"] // 100)[["epoch", "iter", "loss"]].to_csv(
            folder / "environment.csv", index=False, header=False
        )
    mapping = mapped(
        arm={"path": "([AB])_asterix"}, seed={"path": "asterix_([0-9]+)_"}, step="1",
        metrics={"val_loss": {"column": "2", "direction": "min"}},
    )  # fmt: skip

    with pytest.raises(ResultsError, match=r"environment\.csv, line 1, holds numbers .*header: false"):
        judged("csv", tmp_path / "logs", mapping, tmp_path / "out")
    found = judged("csv", tmp_path / "logs", {**mapping, "header": False}, tmp_path / "out")

    assert (found.pairs, found.difference) == (6, pytest.approx(DIFFERENCE))


def test_lightnings_metrics_have_blank_cells_and_their_settings_beside_them(tmp_path: Path) -> None:
    """CSVLogger: a row for the training loss, a row for the validation's, hparams.yaml in the same folder."""
    for (arm, seed), run in table().groupby(["method", "seed"]):
        folder = tmp_path / "lightning_logs" / f"version_{arm}{seed}"
        folder.mkdir(parents=True)
        valid = run[["iter", "loss"]].set_axis(["step", "val_loss"], axis=1).assign(epoch=0)
        train = valid.assign(train_loss=valid["val_loss"] + 1, step=valid["step"] - 1, val_loss=None)
        pd.concat([train, valid]).to_csv(folder / "metrics.csv", index=False)
        (folder / "hparams.yaml").write_text(
            yaml.safe_dump({"method": str(arm), "seed": int(str(seed)), "lr": 0.1})
        )
    mapping = mapped(
        arm="hparams/method", seed="hparams/seed", step=None,
        metrics={"val_loss": {"column": "val_loss", "direction": "min"}}, config=["hparams/lr"],
    )  # fmt: skip

    found = judged("lightning", tmp_path / "lightning_logs", mapping, tmp_path / "out")

    assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE))
    assert {gate.name: gate.status for gate in found.gates}[
        "configs differ in declared factors only"
    ] == "passed"


@pytest.mark.parametrize("types", [{}, {"loss": "float32"}, {"method": "category"}, {"seed": "uint64"}])
def test_parquet_is_read_as_it_is_typed(tmp_path: Path, types: dict[str, str]) -> None:
    table().assign(nested=[[1, 2]] * 36).astype(types).to_parquet(tmp_path / "runs.parquet")

    found = judged("parquet", tmp_path / "runs.parquet", mapped(), tmp_path / "out")

    assert found.difference == pytest.approx(DIFFERENCE, abs=1e-6)


def test_fractions_of_an_epoch_are_steps(tmp_path: Path) -> None:
    rows = table().assign(iter=lambda t: t["iter"] / 200)

    found = judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")

    assert found.difference == pytest.approx(DIFFERENCE)
    assert sorted(set(load(tmp_path / "out").metrics["step"])) == [0.5, 1.0, 1.5]


def test_steps_below_zero_are_refused(tmp_path: Path) -> None:
    rows = table().assign(iter=lambda t: -t["iter"])

    with pytest.raises(ResultsError, match=r"line 2: iter is -100; steps count from 0 up"):
        judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")


def test_a_value_without_its_step_is_refused(tmp_path: Path) -> None:
    rows = table().astype({"iter": object})
    rows.loc[5, "iter"] = None

    with pytest.raises(ResultsError, match=r"line 7: loss has a value but iter has none \(1 such rows\)"):
        judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")


@pytest.mark.parametrize(
    "metric", [{"eval_accuracy": "loss"}, {"acc": {"column": "loss", "direction": "max", "unit": "fraction"}}]
)
def test_a_percentage_is_no_fraction(tmp_path: Path, metric: dict[str, Any]) -> None:
    rows = table().assign(loss=lambda t: 50 + t["loss"])
    mapping = mapped(metrics=metric, analysis={"primary": next(iter(metric))})

    with pytest.raises(
        ResultsError, match=r"line 2: (eval_accuracy|acc) is a fraction from 0 to 1, and loss is 51\.8 there"
    ):
        judged("csv", written(tmp_path, rows), mapping, tmp_path / "out")


def test_a_value_that_stands_twice_asks_which_counts(tmp_path: Path) -> None:
    """trainer.validate after fit logs the last step again, 1e-7 apart."""
    again = table().query("iter == 300").assign(loss=lambda t: t["loss"] + 1e-7)
    file = written(tmp_path, pd.concat([table(), again]))

    with pytest.raises(
        ResultsError, match=r"two values of loss at iter 300, 1\.4 \(.*line 4\) .*repeated: first, or last"
    ):
        judged("csv", file, mapped(), tmp_path / "out")
    last, first = (
        judged("csv", file, mapped(repeated=which), tmp_path / which) for which in ("last", "first")
    )

    assert last.rows[0].baseline == pytest.approx(1.4 + 1e-7, abs=1e-12)
    assert first.rows[0].baseline == value("A", 0, 300)
    assert "12 runs have values twice, of which the one written last counts" in remarks(tmp_path / "last")


def test_a_thousand_of_another_column_is_no_fraction(tmp_path: Path) -> None:
    """500, 1.000 and 1.500 beside losses with decimal commas: the last step is 1500."""
    rows = table().assign(iter=lambda rows: (rows["iter"] * 5).map("{:,}".format).str.replace(",", "."))
    rows["loss"] = rows["loss"].map("{:.4f}".format).str.replace(".", ",")

    with pytest.raises(ResultsError, match=r"line 3: '1\.000' in column 'iter' may be a thousand or"):
        judged("csv", written(tmp_path, rows, sep=";"), mapped(), tmp_path / "out")


@pytest.mark.parametrize("name", ["runs.CSV", "runs.csv.gz", "runs.pq"])
def test_tables_in_a_folder_are_known_by_their_usual_endings(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    if name.endswith("pq"):
        table().to_parquet(folder / name)
    else:
        table().to_csv(folder / name, index=False)

    assert judged("csv", folder, mapped(), tmp_path / "out").difference == pytest.approx(DIFFERENCE)


def test_a_workbook_is_told_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "runs.xlsx").write_bytes(b"PK\x03\x04 and so on")

    with pytest.raises(ResultsError, match=r"runs\.xlsx is no UTF-8 text \(it is a workbook.*save it as CSV"):
        judged("csv", tmp_path / "runs.xlsx", mapped(), tmp_path / "out")


def test_a_first_line_with_numbers_is_no_header_where_no_column_of_the_mapping_is_in_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(ResultsError, match=r"line 1, holds numbers \(A, 0, 100, 1\.8\)"):
        judged("csv", written(tmp_path, table(), header=False), mapped(), tmp_path / "out")


def test_columns_of_a_headerless_file_may_be_given_as_numbers(tmp_path: Path) -> None:
    loss = {"val_loss": {"column": 3, "direction": "min"}}
    mapping = mapped(header=False, arm=0, seed=1, step=2, metrics=loss)

    found = judged("csv", written(tmp_path, table(), header=False), mapping, tmp_path / "out")

    assert found.difference == pytest.approx(DIFFERENCE)


def test_a_treatment_that_a_wide_table_lacks_is_named(tmp_path: Path) -> None:
    rows = table(steps=(300,)).pivot(index="seed", columns="method", values="loss").reset_index()
    mapping = mapped(step=None, analysis={"treatments": ["C"]})

    with pytest.raises(ResultsError, match=r"runs\.csv: analysis\.treatments: arm 'C' is unknown"):
        judged("csv", written(tmp_path, rows), mapping, tmp_path / "out")


def test_the_arms_of_a_wide_table_are_named(tmp_path: Path) -> None:
    rows = table(steps=(300,)).pivot(index="seed", columns="method", values="loss").reset_index()

    judged("csv", written(tmp_path, rows.assign(C=1.0)), mapped(step=None), tmp_path / "out")

    assert "a column for every arm (A, B, C)" in remarks(tmp_path / "out")


def test_a_parquet_file_with_a_column_twice_is_read_but_for_these(tmp_path: Path) -> None:
    rows = pa.Table.from_pandas(table(), preserve_index=False)
    pq.write_table(
        rows.append_column("x", rows["loss"]).append_column("x", rows["loss"]), tmp_path / "a.parquet"
    )
    mapping = mapped(metrics={"val_loss": {"column": "x", "direction": "min"}})

    assert judged("parquet", tmp_path / "a.parquet", mapped(), tmp_path / "out").pairs == 6
    with pytest.raises(ResultsError, match=r"columns 5 and 6 are all called 'x'"):
        judged("parquet", tmp_path / "a.parquet", mapping, tmp_path / "again")


def test_numpys_scalars_keep_all_their_digits(tmp_path: Path) -> None:
    rows = table().assign(loss=lambda rows: rows["loss"].map("np.float64({})".format))

    found = judged("csv", written(tmp_path, rows), mapped(), tmp_path / "out")

    assert found.difference == pytest.approx(DIFFERENCE)
    assert "printed tensors" not in remarks(tmp_path / "out")
