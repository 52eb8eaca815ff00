import json
import re
from pathlib import Path

import jsonschema
import pytest

import analysis
from analysis.methods import methods
from analysis.page import SECTIONS, set_aside
from analysis.records import ResultsFolder
from analysis.report import write_report
from analysis.results import analyse
from analysis.wording import seeds_text
from tests.analysis.fakes import FakeExperiment, loaded

SCHEMA = json.loads((Path(analysis.__file__).parent / "results.schema.json").read_text())
GRID = {
    "plan_changes": {
        "grid": {"lr": [0.001, 0.01]},
        "labels": {
            "flat": {"arm": "flat", "point": {"lr": 0.001}},
            "structured": {"arm": "flat", "point": {"lr": 0.01}},
        },
    }
}
OUTCOMES = {
    "claimed": {},
    "failed runs": {"statuses": {("structured", 1): "diverged", ("flat", 3): "not_run"}},
    "invalid": {"run_changes": {("flat", 1): {"init_hash": "x"}}},
    "too few": {"seeds": range(2)},
    "nothing ran": {
        "statuses": {(arm, seed): "not_run" for arm in ("flat", "structured") for seed in range(8)}
    },
    "several arms": {"arms": {"flat": 0.0, "structured": -0.06, "cot": 0.1}},
    "a grid": GRID,
    "one arm": {"arms": {"flat": 0.0}},
}


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("analysis.gallery.FIGURES", ())


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_results_json_keeps_to_its_schema(tmp_path, no_figures, outcome):
    report = write_report(FakeExperiment(**OUTCOMES[outcome]).write(tmp_path))

    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(report.results.read_text()))


def test_the_schema_is_a_schema_and_refuses_what_is_none(tmp_path, no_figures):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    results = json.loads(write_report(FakeExperiment().write(tmp_path)).results.read_text())

    for change in ({"verdict": "GREAT"}, {"comparisons": None}, {"format": 2}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(results | change, SCHEMA)


def test_sections_stand_in_the_order_of_the_navigation(tmp_path, no_figures):
    html = write_report(
        FakeExperiment(arms={"flat": 0.0, "a": 0.1, "b": 0.2}).write(tmp_path)
    ).html.read_text()

    places = [html.index(f'id="{anchor}"') for anchor in SECTIONS]

    assert places == sorted(places)
    assert all(f'href="#{anchor}"' in html for anchor in SECTIONS)


def test_the_methods_tell_what_was_planned_and_what_was_done():
    text = methods(analyse(loaded()))

    assert "2 arms over 8 planned seeds" in text
    assert "over all sign patterns" in text
    assert "named before the run, was final eval CE (eval, nats/token)" in text
    assert "with a margin of 0.02" in text
    assert "provides for one test, at the end, and all 8 planned seeds have ended" in text
    assert "Of 16 planned runs, 16 completed." in text
    assert "McNemar" not in text


def test_the_methods_do_not_tell_what_was_not_done():
    few = methods(analyse(loaded(seeds=range(20), primary={"margin": None, "sesoi": None})))
    none = methods(analyse(loaded(run_changes={("flat", 1): {"init_hash": "x"}})))
    interim = methods(analyse(loaded(statuses={("flat", 3): "not_run", ("flat", 1): "crashed"})))

    assert "200,000 seeded draws" in few
    assert "margin" not in few
    assert "No contrast could be tested" in none
    assert "interim state, 7 of 8 seeds" in interim
    assert "McNemar's exact test" in interim


def test_seeds_added_after_a_look_stand_above_the_verdict(tmp_path, no_figures):
    arms = {arm: {"alignment_mode": arm} for arm in ("flat", "structured")}
    earlier = {
        "plan_hash": "old",
        "seeds": [0, 1, 2, 3, 4, 5],
        "arms": arms,
        "at": "2026-01-01",
        "looked": True,
    }
    options = {"seeds": range(10), "plan_changes": {"history": [earlier]}}

    report = write_report(FakeExperiment(**options).write(tmp_path))

    page = report.html.read_text()
    assert page.index("xploratory: unplanned extension") < page.index('class="verdict')
    assert "> Exploratory: unplanned extension" in report.markdown.read_text()
    assert "Exploratory: unplanned extension" in methods(analyse(loaded(**options)))


def test_folders_that_belong_to_no_planned_trial_are_listed_with_their_reason(tmp_path, no_figures):
    folder = FakeExperiment().write(tmp_path)
    for name in ("flat-seed0-abc", "flat-seed0-abc.corrupt-1", "<b>stray</b>".replace("/", "")):
        (folder / "trials" / name).mkdir(parents=True)

    found = set_aside(ResultsFolder(folder), {"flat-seed0-abc"})
    page = write_report(folder).html.read_text()

    assert found == [
        ("<b>stray<b>", "not in the plan"),
        ("flat-seed0-abc.corrupt-1", "its files could not be read"),
    ]
    assert "&lt;b&gt;stray&lt;b&gt;" in page


def test_many_seeds_are_told_as_ranges():
    assert seeds_text([2, 0, 1]) == "2, 0, 1"
    assert seeds_text([*range(30), 40]) == "0 to 29, 40 (31)"


def test_a_page_gives_one_value_for_the_gradients_p99_over_p50(tmp_path):
    html = write_report(FakeExperiment().write(tmp_path)).html.read_text()

    tables = re.sub(r"<(style|svg)[^>]*>.*?</\1>", "", html, flags=re.DOTALL)
    assert len(re.findall(r"<t[hd][^>]*>\s*gradient p99/p50", tables, re.IGNORECASE)) == 1
