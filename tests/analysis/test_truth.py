"""What the report says of runs is what is known of them: no more, and in their own names."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

import analysis
from analysis import load
from analysis.canvas import arm_styles
from analysis.figures import completeness, curves, paired
from analysis.figures.draft import Draft, Scene
from analysis.intake import import_runs
from analysis.methods import methods
from analysis.names import level_text
from analysis.page import checks_text
from analysis.plan import read_object
from analysis.report import write_report
from analysis.results import analyse
from analysis.setup import WEAK, setup_of
from tests.analysis.fakes import FakeExperiment, loaded
from tests.analysis.imports.records import mapped, table
from tests.analysis.test_page import SCHEMA

FOUND = {
    "source": "csv", "runs": 14, "ignored": ["warmup-1", "warmup-2"], "planned": False, "step": "iter",
    "remarks": ["Two files had a torn last line, which was left out."],
}  # fmt: skip
ONLY_OURS = (
    "named before", "planned seed", "planned run", "share", "carried out", "We compared", "initialisation",
)  # fmt: skip
"""What is known of runs alone that kvtune made."""
CONFIG = {
    "model_name": "tiny-llama", "student": "same_sequence", "teacher": "tiny-teacher", "dataset": "gsm8k",
    "train_file": "/data/rows.jsonl", "eval_file": None, "subset_size": 1000, "eval_size": 64,
    "batch_size": 16, "gradient_accumulation_steps": 2, "max_steps": None, "epochs": 3.0, "lr": 0.002,
    "lr_schedule": "cosine", "warmup_steps": 50, "kv_method": "rkv", "target_len": 8, "kv_weight": 1.0,
    "codi_weight": 1.0, "kv_loss": "smooth_l1", "dtype": "float32",
}  # fmt: skip


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.gallery.FIGURES", ())


def imported(folder: Path, told: Mapping[str, Any] = FOUND, names: Mapping[int, str] | None = None) -> Path:
    """Runs read from a CSV, with what the intake tells of them in their plan."""
    table().to_csv(folder / "runs.csv", index=False)
    out = import_runs("csv", [folder / "runs.csv"], mapped(), "map.yaml", folder / "out")
    plan = read_object(out / "plan.json", "")
    changed = {
        **plan,
        "imported": dict(told),
        "seed_names": {str(n): name for n, name in (names or {}).items()},
    }
    (out / "plan.json").write_text(json.dumps(changed))
    return out


def told_by(**options: Any) -> str:
    return methods(analyse(loaded(**options)))


def earlier(**changes: Any) -> dict[str, Any]:
    arms = {arm: {"alignment_mode": arm} for arm in ("flat", "structured")}
    entry = {"plan_hash": "old", "seeds": list(range(8)), "arms": arms, "at": "2026-01-01", "looked": True}
    return {"plan_changes": {"history": [{**entry, **changes}]}}


@pytest.mark.usefixtures("no_figures")
def test_nothing_is_said_of_imported_runs_that_only_ours_are_known_to_have(tmp_path: Path) -> None:
    out = imported(tmp_path)

    report = write_report(out)

    said = methods(analyse(load(out)))
    assert [words for words in ONLY_OURS if words in said] == []
    assert "read from csv records: 2 arms over 6 seeds, as they were found" in said
    assert "batches in their order, first weights and held-out rows is not known" in said
    page, markdown = report.html.read_text(), report.markdown.read_text()
    for text in (page, markdown):
        assert "carried out as it was made" not in text
        assert "same data order" not in text
        assert "Seeds sample initialisation" not in text
        assert "the records do not say what was planned" in text


@pytest.mark.usefixtures("no_figures")
def test_remarks_and_ignored_runs_stand_below_the_verdict(tmp_path: Path) -> None:
    report = write_report(imported(tmp_path))

    remarks = json.loads(report.results.read_text())["remarks"]
    assert remarks[0] == FOUND["remarks"][0]
    assert remarks[1].startswith("2 runs or rows without an arm or a seed left out")
    assert "warmup-1, warmup-2" in remarks[1]
    page, markdown = report.html.read_text(), report.markdown.read_text()
    assert page.index('id="verdict"') < page.index("torn last line") < page.index('id="plan"')
    assert f"Caution: {remarks[0]}" in markdown


@pytest.mark.usefixtures("no_figures")
def test_tasks_by_seeds_and_ignored_rows_come_through_from_the_table_to_the_page(tmp_path: Path) -> None:
    rows = pd.concat([table(3).assign(task=task) for task in ("rte", "boolq")], ignore_index=True)
    blank = rows.head(1).assign(seed=None)
    pd.concat([rows, blank]).to_csv(tmp_path / "runs.csv", index=False)
    mapping = mapped(seed=["task", "seed"], unmatched="ignore")

    report = write_report(import_runs("csv", [tmp_path / "runs.csv"], mapping, "map.yaml", tmp_path / "out"))

    page = report.html.read_text()
    assert "1 run or row without an arm or a seed left out" in page
    assert "runs.csv, line 38" in page
    assert all(f">{task} {seed}</th>" in page for task in ("rte", "boolq") for seed in range(3))
    assert "left out for want of an arm or a seed, as the mapping says: 1<" in page


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"ignored": []}, "not checked"),
        ({"planned": True}, "not checked"),
        ({"ignored": [], "planned": True}, "passed"),
    ],
)
def test_that_no_seed_was_left_out_is_checked_only_where_it_is_known(
    tmp_path: Path, told: dict[str, Any], status: str
) -> None:
    (comparison,) = analyse(load(imported(tmp_path, {**FOUND, **told}))).comparisons

    gate = next(gate for gate in comparison.gates if gate.name == "no seed that ran was left out")
    assert gate.status == status


@pytest.mark.usefixtures("no_figures")
def test_the_box_tells_how_many_checks_could_not_be_made(tmp_path: Path) -> None:
    out = imported(tmp_path)
    (comparison,) = analyse(load(out)).comparisons
    unmade = sum(gate.status == "not checked" for gate in comparison.gates)

    report = write_report(out)

    text = f"{unmade} of {len(comparison.gates)} could not be made"
    page = report.html.read_text()
    assert unmade > 5
    assert page.index('class="verdict') < page.index(text) < page.index("</dl>", page.index(text))
    assert text in report.markdown.read_text()
    assert checks_text(analyse(loaded()).comparisons[0]) == "All 10 could be made."
    (invalid,) = analyse(loaded(run_changes={("flat", 1): {"init_hash": "x"}})).comparisons
    assert checks_text(invalid) == "All 10 could be made; 1 failed."


LOST = {"statuses": {("flat", 3): "not_run", ("structured", 5): "preempted"}}
SITUATIONS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "finished": (
        {},
        ["named before the run", "all 8 planned seeds have ended", "Of 16 planned runs, 16 completed."],
        ["interim", "not known", "followed by another", "left the paired analysis", "tested once"],
    ),
    "interim": (
        LOST,
        ["interim state, 6 of 8 seeds", "14 completed, 1 was preempted and 1 has not run"],
        ["have ended", "lost", "failed"],
    ),
    "retried": (
        {"retried": [("flat", 2), ("flat", 3)]},
        ["2 attempts were followed by another at the same run: 2 crashed."],
        ["cancelled", "retr"],
    ),
    "failed": (
        {"statuses": {("structured", 5): "oom"}},
        ["1 ran out of memory", "McNemar", "failures ranked worst"],
        ["not run"],
    ),
    "invalid": (
        {"run_changes": {("flat", 1): {"init_hash": "x"}}},
        ["No contrast could be tested", "1 failed (the same first weights within each pair)"],
        ["same batches in their order, first weights", "Holm", "t test"],
    ),
    "unrecorded": (
        {"run_changes": {("flat", seed): {"init_hash": None} for seed in range(8)}},
        ["had the same batches in their order and held-out rows", "same first weights is not known"],
        [],
    ),
    "one arm": (
        {"arms": {"flat": 0.0}},
        ["We ran 1 arm over 8 planned seeds"],
        ["compared", "look", "checks"],
    ),
    "extended after a look": (
        {"seeds": range(10), **earlier()},
        ["provides for one test, at the end", "were added after a look at 8"],
        ["tested once"],
    ),
    "endpoint named after a look": (
        earlier(primary={"metric": "eval_accuracy", "margin": 0.1}),
        ["named after a report of an earlier plan that had named another"],
        ["before the run"],
    ),
    "endpoint named anew before a look": (
        earlier(primary={"metric": "eval_accuracy"}, looked=False),
        ["named before any report"],
        ["before the run"],
    ),
    "an earlier plan that kept no endpoint": (earlier(), ["named in the plan"], ["before the run"]),
    "copies": (
        {"plan_changes": {"arms": {"flat": {}, "structured": {}}}, "mode": "aa"},
        ["(A/A), so no difference was to be claimed"],
        ["a claim", "Holm", "margin"],
    ),
    "copies over other seeds": (
        {"plan_changes": {"arms": {"flat": {}, "structured": {"seed_offset": 100}}}, "mode": "aa"},
        ["seeds differ on purpose"],
        ["first weights and"],
    ),
    "looks": (
        {"plan_changes": {}, "looks": [6, 8]},
        ["Looks were declared at 6, 8 seeds, each at alpha / 2; this is 8 of 8 seeds."],
        ["one test"],
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_methods_tell_what_happened_and_nothing_else(situation: str) -> None:
    given, said, unsaid = SITUATIONS[situation]
    options = {name: value for name, value in given.items() if name not in ("mode", "looks")}
    more = {name: given[name] for name in ("mode", "looks") if name in given}
    if more:
        analysis_ = {**FakeExperiment().plan()["analysis"], **more}
        options["plan_changes"] = {**options["plan_changes"], "analysis": analysis_}

    text = told_by(**options)

    assert [words for words in said if words not in text] == [], text
    assert [words for words in unsaid if words in text] == [], text


def test_an_attempt_that_the_user_ended_is_no_retry() -> None:
    experiment = loaded(retried=[("flat", 2), ("structured", 4)])
    first = (experiment.runs["trial_id"].str.startswith("flat-seed2")) & (experiment.runs["attempt"] == 1)
    experiment.runs.loc[first, "status"] = "cancelled"

    results = analyse(experiment)

    counts = {arm["arm"]: (arm["retries"], arm["interruptions"]) for arm in results.arms}
    assert counts == {"flat": (0, 1), "structured": (1, 0)}
    assert "2 attempts were followed by another at the same run: 1 crashed and 1 was cancelled." in methods(
        results
    )


def test_a_grid_counts_the_arms_of_the_file_and_not_its_points() -> None:
    labels = {
        "flat": {"arm": "flat", "point": {"lr": 0.001}},
        "structured": {"arm": "flat", "point": {"lr": 0.01}},
    }

    text = told_by(plan_changes={"grid": {"lr": [0.001, 0.01]}, "labels": labels})

    assert "1 arm, crossed with 2 values of lr" in text


# --- the setup


def with_setup(folder: Path, arms: Mapping[str, Mapping[str, Any]], accuracy: float | None = None) -> Path:
    shared = {name: value for name, value in CONFIG.items() if not any(name in own for own in arms.values())}
    full = {arm: {**{n: CONFIG[n] for n in CONFIG if n not in shared}, **own} for arm, own in arms.items()}
    out = FakeExperiment(plan_changes={"setup": {"shared": shared, "arms": full}}).write(folder)
    taught = (
        [] if accuracy is None else [{"teacher": "tiny-teacher", "dataset": "gsm8k", "accuracy": accuracy}]
    )
    launches = {"started_at": "now", "earlier_launches": [{"started_at": "before", "teachers": taught}]}
    (out / "provenance.json").write_text(json.dumps({**launches, "teachers": []}))
    return out


@pytest.mark.usefixtures("no_figures")
def test_the_setup_is_told_on_the_page_and_in_the_methods(tmp_path: Path) -> None:
    out = with_setup(tmp_path, {"flat": {}, "structured": {"lr": 0.01}}, 1.0)

    report = write_report(out)

    setup = analyse(load(out)).setup
    assert setup["student"] == "tiny-llama, which reads the chain of thought itself"
    assert setup["teacher"] == "tiny-teacher, frozen (its own accuracy: 100.0 % of held-out problems solved)"
    assert setup["data set"] == "gsm8k from rows.jsonl"
    assert setup["rows"] == "1,000 for training, up to 64 held out"
    assert setup["batch"] == "2 micro-batches of 16 rows"
    assert setup["optimizer steps"] == "400 (3 passes over the training rows)"
    rate = "cosine after 50 steps of warm-up"
    assert setup["learning rate"] == f"0.002, {rate} (flat); 0.01, {rate} (structured)"
    assert setup["selection"] == "rkv, 8 entries of the chain of thought"
    page = report.html.read_text()
    assert all(text in page for text in ("<h2>Setup</h2>", *setup.values()))
    assert f"teacher {setup['teacher']}" in methods(analyse(load(out)))
    assert json.loads(report.results.read_text())["setup"] == setup


@pytest.mark.parametrize(("answered", "told"), [(28, "28"), (64, "64")])
def test_the_setup_counts_the_held_out_rows_that_there_were(tmp_path: Path, answered: int, told: str) -> None:
    out = with_setup(tmp_path, {"flat": {}, "structured": {}})
    items = [(trial, f"row{k}", True) for trial in ("one", "other") for k in range(answered)]
    pd.DataFrame(items, columns=["trial_id", "item_id", "correct"]).to_parquet(out / "items.parquet")

    assert setup_of(load(out))["rows"] == f"1,000 for training, {told} held out"


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("changes", "accuracy", "warned"),
    [
        ({}, 0.031, True),
        ({}, WEAK, False),
        ({}, None, False),
        ({"kv_weight": 0.0, "codi_weight": 0.0}, 0.031, False),
        ({"teacher": "another"}, 0.031, False),
    ],
)
def test_a_weak_teacher_is_warned_of_where_an_arm_learns_from_it(
    tmp_path: Path, changes: dict[str, Any], accuracy: float | None, warned: bool
) -> None:
    report = write_report(with_setup(tmp_path, {"flat": changes, "structured": changes}, accuracy))

    text = "solves only 3.1 % of held-out problems"
    assert (text in report.html.read_text()) == (text in report.markdown.read_text()) == warned


@pytest.mark.usefixtures("no_figures")
def test_a_folder_of_before_there_was_a_setup_says_so(tmp_path: Path) -> None:
    report = write_report(FakeExperiment().write(tmp_path))

    assert "holds no setup" in report.html.read_text()
    assert "holds no setup" in report.markdown.read_text()


def test_of_imported_runs_the_setup_tells_what_their_records_do(tmp_path: Path) -> None:
    setup = analyse(load(imported(tmp_path))).setup

    assert setup["records"] == "csv, 1 path given"
    assert setup["runs read"] == "14, not counting 2 left out"
    assert setup["metrics"] == "val_loss (column loss)"
    assert setup["steps"] == "by iter, the last on record 300"


def test_curves_without_times_are_drawn_by_step_alone_and_say_so(tmp_path: Path) -> None:
    results = analyse(load(imported(tmp_path)))
    scene = Scene(results=results, styles=arm_styles(results.experiment.plan.arms))

    (draft,) = curves.drafts(scene)

    assert isinstance(draft, Draft)
    assert "KV loss" not in draft.caption, "none was logged"
    assert "wall time" not in draft.alt + draft.caption
    assert [ax.get_title() for ax in draft.draw().axes] == ["val loss by step", ""]


# --- names of seeds

NAMES = {seed: f"rte/{seed}" for seed in range(6)}


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("analysis.gallery.FIGURES", (paired.drafts, completeness.drafts))
    return imported(tmp_path, names=NAMES)


def test_a_seed_with_a_name_goes_by_it_wherever_people_read(named: Path) -> None:
    report = write_report(named)

    page, markdown = report.html.read_text(), report.markdown.read_text()
    drawing = (report.html.parent / "figures" / "paired-1.svg").read_text()
    grid = (report.html.parent / "figures" / "completeness.svg").read_text()
    for name in NAMES.values():
        assert f">{name}</th>" in page
        assert f"| {name} |" in markdown
        assert f">{name}<" in drawing
        assert f">{name}<" in grid
    assert f"most without seed {NAMES[0][:4]}" in page


def test_machines_get_the_name_beside_the_number_and_only_where_there_is_one(
    named: Path, tmp_path: Path
) -> None:
    plain = write_report(FakeExperiment().write(tmp_path / "plain"))
    report = write_report(named)

    for part in ("tables/seeds.csv", "tables/cells.csv", "figures/completeness.csv", "figures/paired-1.csv"):
        with (report.html.parent / part).open() as file:
            assert {int(row["seed"]): row["seed_name"] for row in csv.DictReader(file)} == NAMES
        assert "seed_name" not in (plain.html.parent / part).read_text()
    results = json.loads(report.results.read_text())
    jsonschema.validate(results, SCHEMA)
    for rows in (results["cells"], results["comparisons"][0]["seeds"]):
        assert {row["seed"]: row["seed_name"] for row in rows} == NAMES
    assert "seed_name" not in plain.results.read_text()


def test_gates_list_seeds_by_name(tmp_path: Path) -> None:
    experiment = loaded(
        run_changes={("flat", 1): {"init_hash": "x"}}, plan_changes={"seed_names": {"1": "rte/3"}}
    )

    (comparison,) = analyse(experiment).comparisons

    assert "seeds rte/3 (seed rte/3: init1 against x)" in comparison.findings[0].detail


# --- words


def test_the_public_names_are_listed() -> None:
    assert set(analysis.__all__) <= set(dir(analysis))


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ('"flat"', "flat"),
        ("0.1", "0.1"),
        ("null", "null"),
        ('"1"', '"1"'),
        ('["a"]', '["a"]'),
        ("flat", "flat"),
    ],
)
def test_a_level_of_a_factor_carries_quotes_only_where_it_would_read_as_another_value(
    told: str, read: str
) -> None:
    assert level_text(told) == read


def test_factors_are_read_without_the_quotes_of_their_files() -> None:
    changes = {
        (arm, seed): {"factor.alignment_mode": f'"{arm}"'}
        for arm in ("flat", "structured")
        for seed in range(8)
    }

    runs = loaded(run_changes=changes).runs

    assert set(runs["factor.alignment_mode"]) == {"flat", "structured"}
