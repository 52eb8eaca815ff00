import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis import ResultsError, ResultsFolder, load
from tests.analysis.fakes import FakeExperiment


@pytest.fixture
def folder(tmp_path):
    return FakeExperiment().write(tmp_path)


def test_a_folder_that_is_not_there_or_holds_no_plan_is_named(tmp_path):
    with pytest.raises(ResultsError, match=r"No folder .*nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(ResultsError, match=r"holds no plan\.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["runs.parquet", "metrics.parquet"])
def test_a_missing_or_broken_table_is_named(folder, name):
    (folder / name).write_bytes(b"no parquet")
    with pytest.raises(ResultsError, match=f"{name} cannot be read as parquet"):
        load(folder)

    (folder / name).unlink()
    with pytest.raises(ResultsError, match=f"{name} is missing: `kvtune run` writes it"):
        load(folder)


def test_missing_columns_are_all_named(folder):
    runs = pd.read_parquet(folder / "runs.parquet")
    runs.drop(columns=["init_hash", "status"]).to_parquet(folder / "runs.parquet")

    with pytest.raises(ResultsError, match="lacks the columns status, init_hash"):
        load(folder)


def test_an_unknown_status_is_answered_with_the_nearest_known_one(tmp_path):
    folder = FakeExperiment(run_changes={("flat", 0): {"status": "complete"}}).write(tmp_path)

    with pytest.raises(ResultsError, match=r"status 'complete' is unknown\. Did you mean 'completed'\?"):
        load(folder)


def test_two_different_rows_for_one_attempt_are_refused(folder):
    runs = pd.read_parquet(folder / "runs.parquet")
    pd.concat([runs, runs.iloc[:1].assign(status="crashed")]).to_parquet(folder / "runs.parquet")

    with pytest.raises(ResultsError, match="two different rows for attempt 1 of flat-seed0"):
        load(folder)


def again(folder, **changes):
    """The folder's metrics with its first three evaluations of eval_ce told a second time."""
    metrics = pd.read_parquet(folder / "metrics.parquet")
    told = metrics[metrics["metric"] == "eval_ce"].iloc[:3].assign(**changes)
    pd.concat([told, metrics]).to_parquet(folder / "metrics.parquet")
    return load(folder)


def test_two_values_of_one_step_are_refused_by_trial_metric_and_step(folder):
    experiment = again(folder, value=9.0)

    with pytest.raises(
        ResultsError,
        match=r"two values of eval_ce \(eval\) for flat-seed0-\S+ at step 0 of attempt 1, "
        r"1\.\d+ and 9 \(and 2 more such values\): collect",
    ):
        analysis.compare(experiment, treatment="structured")


def test_two_values_of_one_step_in_two_attempts_are_none(folder):
    assert analysis.compare(again(folder, value=9.0, attempt=0), treatment="structured").verdict == "SUPERIOR"


@pytest.mark.parametrize("value", [1.25, float("nan")])
def test_a_value_that_is_told_twice_counts_once_as_first_logged(folder, value):
    metrics = pd.read_parquet(folder / "metrics.parquet")
    metrics.loc[metrics["metric"] == "eval_ce", "value"] = value
    metrics.to_parquet(folder / "metrics.parquet")

    once = load(folder).curves("eval_ce", "eval")
    later = again(folder, wall_s=1e6, tokens=10**9).curves("eval_ce", "eval")

    pd.testing.assert_frame_equal(later, once)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.pop("cells"), "lacks the field 'cells'"),
        (lambda plan: plan["analysis"]["primary"].update(at="lst"), "analysis.primary.at 'lst' is unknown"),
        (
            lambda plan: plan["analysis"]["primary"].update(margin=-1),
            "margin must be a finite number above 0",
        ),
        (lambda plan: plan["analysis"].update(alpha=5), "alpha must lie between 0 and 1, got 5"),
        (lambda plan: plan["cells"].append(plan["cells"][0]), "arm 'flat' with seed 0 is planned twice"),
        (
            lambda plan: plan["contrasts"].append({"treatment": "structued", "baseline": "flat"}),
            "mean 'structured'",
        ),
        (lambda plan: plan.update(seeds=["x"]), "plan.json: invalid literal"),
    ],
)
def test_a_plan_that_cannot_be_used_says_why(folder, change, message):
    plan = json.loads((folder / "plan.json").read_text())
    change(plan)
    (folder / "plan.json").write_text(json.dumps(plan))

    with pytest.raises(ResultsError, match=message):
        load(folder)


def test_items_and_provenance_are_read_where_they_are(folder):
    assert load(folder).items is None
    pd.DataFrame({"trial_id": ["a"], "item_id": ["1"], "correct": [True]}).to_parquet(
        folder / "items.parquet"
    )
    (folder / "provenance.json").write_text('{"code_rev": "abc"}')

    experiment = load(folder)

    assert experiment.items["correct"].tolist() == [True]
    assert experiment.provenance == {"code_rev": "abc"}


def test_the_folder_owns_the_file_names(tmp_path):
    files = ResultsFolder(tmp_path)

    names = [
        files.experiment_yaml,
        files.plan,
        files.provenance,
        files.trials,
        files.runs,
        files.metrics,
        files.items,
        files.report,
    ]

    assert [path.relative_to(tmp_path).as_posix() for path in names] == [
        "experiment.yaml", "plan.json", "provenance.json", "trials", "runs.parquet", "metrics.parquet",
        "items.parquet", "report",
    ]  # fmt: skip


def test_comparing_imports_neither_torch_nor_ray_nor_matplotlib():
    code = (
        "import sys, analysis; analysis.load, analysis.compare; "
        "others = ('torch', 'ray', 'matplotlib', 'trainables', 'orchestrator'); "
        "print([name for name in others if name in sys.modules])"
    )

    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert seen.strip() == "[]"


def test_the_rooms_public_names_are_all_there():
    assert all(hasattr(analysis, name) for name in analysis.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = analysis.nothing


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b"[1]", b"null", b'{"seeds": 1e400}', b'{"a": ' + b"9" * 5000 + b"}", b'"\xff"'],
)
@pytest.mark.parametrize("name", ["plan.json", "provenance.json"])
def test_what_is_no_json_object_is_one_error_that_names_the_file(folder, name, content):
    (folder / name).write_bytes(content)

    with pytest.raises(ResultsError, match=name) as caught:
        load(folder)

    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_plan_that_is_no_file_is_refused_at_once(folder, make):
    (folder / "plan.json").unlink()
    make(folder / "plan.json")

    with pytest.raises(ResultsError, match=r"plan\.json cannot be read.*no file"):
        load(folder)


@pytest.mark.parametrize("offset", ["x", [], 1.5])
def test_an_offset_that_is_no_whole_number_is_named(folder, offset):
    plan = json.loads((folder / "plan.json").read_text())
    plan["arms"]["flat"]["seed_offset"] = offset
    (folder / "plan.json").write_text(json.dumps(plan))

    with pytest.raises(ResultsError, match=r"plan\.json.*flat.*seed_offset"):
        load(folder)
