import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from analysis import gallery
from analysis.canvas import settled, svg_of
from analysis.report import write_report
from tests.analysis.fakes import FakeExperiment

HOSTILE = "_<script>alert('$x$')</script>|*&"
EVERY_CELL = [(arm, seed) for arm in ("flat", "structured") for seed in range(8)]
DRAWN = {
    "completeness", "paired-1", "paired-2", "curves", "difference", "stability", "endpoints", "forest",
    "cost", "alignment",
}  # fmt: skip
VOID = {"meta", "br", "link", "img", "hr", "input"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = FakeExperiment(
        arms={"flat": 0.0, "structured": -0.06, HOSTILE: 0.1},
        statuses={("flat", 3): "not_run", (HOSTILE, 1): "diverged"},
        accuracy=lambda arm, seed: 0.95 if seed % 2 else 0.7,
    ).write(tmp_path_factory.mktemp("experiment"))
    (folder / "provenance.json").write_text(
        json.dumps({"host": {"name": "<b>laptop</b>"}, "code_rev": "abc"})
    )
    return write_report(folder)


class Tags(HTMLParser):
    """Every start tag with its attributes; fails where tags do not close."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_result_says_where_the_report_lies_and_what_it_says(report):
    assert report.verdict == "INCONCLUSIVE"
    assert report.sentence.startswith("structured lowered final eval CE by 0.06")
    assert "Complete pairs alone would say SUPERIOR; the plan looks once, at the end" in report.sentence
    assert report.exit_code == 0
    assert report.html.exists()
    assert report.markdown.exists()
    assert [(arm["arm"], arm["n"], arm["failures"]) for arm in report.arms] == [
        ("flat", 7, 0),
        ("structured", 8, 0),
        (HOSTILE, 7, 1),
    ]


def test_the_page_fetches_nothing_and_runs_nothing(report):
    tags = Tags(report.html.read_text()).seen

    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", report.html.read_text())
    assert "@import" not in report.html.read_text()


def test_names_from_users_are_escaped_everywhere(report):
    assert "<script" not in report.html.read_text()
    assert "<b>laptop" not in report.html.read_text()
    assert "&lt;script&gt;alert" in report.html.read_text()
    assert "<script" not in report.markdown.read_text().replace("\\<script", "")
    assert all("script" not in path.name for path in report.html.parent.rglob("*"))


def test_every_figure_has_words_and_unique_ids(report):
    tags = Tags(report.html.read_text()).seen

    figures = [attributes for tag, attributes in tags if attributes.get("role") == "img"]
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(figures) == sum(tag == "figure" for tag, _ in tags) == len(DRAWN)
    assert all(figure["aria-label"] for figure in figures)
    assert len(set(ids)) == len(ids)
    links = {attributes["href"][1:] for tag, attributes in tags if tag == "a" and "href" in attributes}
    assert links <= set(ids)


def test_the_verdict_stands_first(report):
    page = report.html.read_text()

    assert (
        page.index('id="verdict"')
        < page.index('id="validity"')
        < page.index('id="complete"')
        < page.index('id="seeds"')
    )
    assert report.markdown.read_text().startswith(
        "# fake: INCONCLUSIVE\n\n> Interim: 7 of 8 seeds have ended in both arms"
    )
    assert "\n\n**structured lowered final eval CE" in report.markdown.read_text()


def test_figures_come_as_pdf_svg_png_and_csv(report):
    figures = report.html.parent / "figures"

    assert {path.name for path in figures.iterdir()} == {
        f"{name}.{kind}" for name in DRAWN for kind in ("pdf", "svg", "png", "csv")
    }
    assert len(pd.read_csv(figures / "completeness.csv")) == 24
    assert pd.read_csv(figures / "paired-1.csv")["kind"].tolist().count("lost") == 1


def test_results_json_is_strict_and_holds_every_contrast(report):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    results = json.loads(report.results.read_text(), parse_constant=refuse)

    assert results["verdict"] == report.verdict
    assert [item["treatment"] for item in results["comparisons"]] == ["structured", HOSTILE]
    assert {item["metric"] for item in results["secondary"]} == {"eval_accuracy", "steps_to_90"}
    assert len(results["cells"]) == 24


def test_tables_hold_every_planned_seed(report):
    tables = report.html.parent / "tables"

    seeds = pd.read_csv(tables / "seeds.csv")

    assert len(seeds[(seeds["treatment"] == "structured") & (seeds["metric"] == "eval_ce")]) == 8
    names = {path.name for path in tables.iterdir()}
    assert {name.removesuffix(".csv") for name in names if name.endswith(".csv")} == {
        "arms", "cells", "comparisons", "seeds", "gates",
    }  # fmt: skip
    assert {name for name in names if name.endswith(".tex")} == {"arms.tex", "comparisons.tex"}


def test_the_same_input_gives_the_same_bytes(tmp_path):
    first = write_report(FakeExperiment().write(tmp_path / "one")).html.parent
    second = write_report(FakeExperiment(shuffled=True).write(tmp_path / "two")).html.parent

    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.fixture
def svg_only(monkeypatch):
    """Pages are looked at, not files: half the time goes into PDF and PNG."""
    monkeypatch.setattr("analysis.gallery.save", lambda figure, stem: svg_of(figure))


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("analysis.gallery.FIGURES", ())


def test_two_processes_draw_the_same_bytes_as_one(report, monkeypatch):
    folder = report.html.parent
    alone = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    monkeypatch.setattr(gallery, "LARGE", 1)
    monkeypatch.setattr(gallery, "cpus", lambda: 2)
    here = []
    monkeypatch.setattr(gallery, "settled", lambda figure: here.append(figure) or settled(figure))
    write_report(folder.parent)

    assert 0 < len(here) < 2 * len(DRAWN), "each of the two has drawn some, wide and narrow"
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == alone


def test_a_report_written_again_leaves_nothing_of_the_old_one(tmp_path, no_figures):
    folder = FakeExperiment(seeds=range(2)).write(tmp_path)
    stale = folder / "report" / "figures" / "stale.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("")

    write_report(folder)

    assert not stale.exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("options", "verdict", "code"),
    [
        ({"seeds": range(3)}, "NOT TESTABLE", 3),
        ({"run_changes": {("flat", 1): {"init_hash": "x"}}}, "INVALID", 2),
        ({"statuses": dict.fromkeys(EVERY_CELL, "not_run")}, "NOT TESTABLE", 3),
        ({"statuses": dict.fromkeys(EVERY_CELL, "diverged")}, "NOT TESTABLE", 3),
        ({"noise": 0.0, "arms": {"flat": 0.0, "structured": 0.0}}, "DEGENERATE", 0),
        ({"arms": {"flat": 0.0}}, "NOT TESTABLE", 3),
        ({"primary": {"metric": "steps_to_90"}, "secondary": []}, "DEGENERATE", 0),
    ],
)  # fmt: skip
def test_every_outcome_has_its_page_and_exit_code(tmp_path, svg_only, options, verdict, code):
    report = write_report(FakeExperiment(**options).write(tmp_path))

    assert (report.verdict, report.exit_code) == (verdict, code)
    assert report.verdict in report.html.read_text()
    Tags(report.html.read_text())


def test_one_invalid_contrast_decides_the_exit_code(tmp_path, no_figures):
    options = {"arms": {"flat": 0.0, "structured": -0.06, "cot": 0.1}}
    changes = {("cot", 1): {"eval_set_hash": "x"}}

    report = write_report(FakeExperiment(run_changes=changes, **options).write(tmp_path))

    assert report.verdict == "SUPERIOR"
    assert report.exit_code == 2
