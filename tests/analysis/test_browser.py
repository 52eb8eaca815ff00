"""The page in headless Chromium: nothing fetched, nothing wider than the screen, every figure seen."""

import json
import shutil
from itertools import pairwise

import pytest

from analysis.canvas import svg_of
from analysis.report import write_report
from analysis.sentences import decimals_of, interval_text, minus, number, p_text
from tests.analysis.fakes import FakeExperiment

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on the PATH"),
]
HOSTILE = "_<script>alert('$x$')</script>|*& \"q\""
EXPERIMENTS = {
    "ordinary": {"retried": [("flat", 2)], "statuses": {("structured", 5): "diverged"}},
    "hostile": {
        "arms": {"flat": 0.0, HOSTILE: -0.05, "W" * 64: 0.02, "$\\alpha$": 0.01},
        "statuses": {(HOSTILE, 1): "crashed", ("flat", 3): "not_run"},
    },
    "not testable": {"seeds": range(3)},
    "invalid": {"run_changes": {("flat", 1): {"init_hash": "x"}}},
    "named seeds": {
        "arms": {"flat": 0.0, "structured_per_head_maps": -0.06, "shuffled_teacher_control": 0.01},
        "secondary": ["eval_accuracy", "steps_to_90", "tokens_to_90", "eval_ce@last_5_mean"],
        "plan_changes": {
            "seed_names": {str(seed): f"superglue_rte/{2**63 + seed}" for seed in range(8)},
            "imported": {"source": "csv", "runs": 24, "ignored": ["a"], "remarks": ["So they were read."]},
        },
    },
    "one arm failed": {"statuses": {("structured", seed): "diverged" for seed in range(8)}},
}
SIZES = [(390, "light"), (390, "dark"), (1400, "light"), (1400, "dark")]
MEASURES = """
const shown = [...document.querySelectorAll('figure svg')].filter(svg => svg.getBoundingClientRect().width);
return {
  page: document.documentElement.scrollWidth, window: document.documentElement.clientWidth,
  figures: document.querySelectorAll('figure').length,
  drawings: shown.map(svg => svg.getBoundingClientRect()).map(box => [box.width, box.height]),
  scripts: document.scripts.length,
}
"""
CLIPPED = """
const inside = (node, box) => {
  const range = document.createRange();
  range.selectNodeContents(node);
  return [...range.getClientRects()].every(at => at.left >= box.left - 1 && at.right <= box.right + 1);
};
const hidden = [];
for (const scroll of document.querySelectorAll('.scroll')) {
  const box = scroll.getBoundingClientRect();
  if (scroll.scrollWidth > scroll.clientWidth) hidden.push([scroll.getAttribute('aria-label'), 'scrolls']);
  for (const cell of scroll.querySelectorAll('th, td'))
    if (!inside(cell, box) || !inside(cell, cell.getBoundingClientRect()))
      hidden.push([scroll.getAttribute('aria-label'), cell.textContent]);
}
const verdict = document.querySelector('.verdict').getBoundingClientRect();
for (const fact of document.querySelectorAll('.facts dt, .facts dd'))
  if (!inside(fact, verdict)) hidden.push(['facts', fact.textContent]);
return hidden;
"""
SENSITIVITY = """
return [...document.querySelectorAll('#sensitivity tbody tr')].map(row => {
  const [name, ...cells] = [...row.children].map(cell => cell.innerText.trim());
  const seen = [...row.children].every(cell => {
    const box = cell.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && box.right <= window.innerWidth;
  });
  const labels = [...row.querySelectorAll('td')].map(cell => getComputedStyle(cell, '::before').content);
  return [name, cells, seen, labels];
})
"""
CONTRASTS = """
const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const numbers = text => text.match(/[\\d.]+/g).map(Number);
const behind = node => {
  for (; node; node = node.parentElement) {
    const colour = numbers(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
};
const poor = [];
for (const node of document.querySelectorAll('body *:not(svg *)')) {
  if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue;
  const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push([node.tagName, node.textContent.slice(0, 40), ratio]);
}
return poor;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module", params=EXPERIMENTS)
def page(request, tmp_path_factory):
    folder = FakeExperiment(**EXPERIMENTS[request.param]).write(tmp_path_factory.mktemp("experiment"))
    with pytest.MonkeyPatch.context() as patch:
        # The page holds its SVGs; PDF and PNG take half the time and are not looked at here.
        patch.setattr("analysis.gallery.save", lambda figure, stem: svg_of(figure))
        return write_report(folder).html.as_uri()


def opened(browser, page, width=1400, theme="light"):
    """The page at this width in this theme, with empty logs before it."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page)


def test_the_page_is_quiet_and_asks_for_nothing_but_itself(browser, page):
    opened(browser, page)

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {page}
    assert browser.get_log("browser") == []


@pytest.mark.parametrize(("width", "theme"), SIZES)
def test_figures_are_seen_and_nothing_is_wider_than_the_screen(browser, page, width, theme):
    opened(browser, page, width, theme)

    found = browser.execute_script(MEASURES)

    assert found["page"] <= found["window"]
    assert len(found["drawings"]) == found["figures"] >= 5
    assert all(across > 250 and down > 60 for across, down in found["drawings"])
    assert found["scripts"] == 0


@pytest.mark.parametrize("width", [390, 1400])
def test_no_cell_of_any_table_is_clipped_or_needs_scrolling(browser, page, width):
    opened(browser, page, width)

    assert browser.execute_script(CLIPPED) == []


@pytest.mark.parametrize("width", [390, 1400])
def test_the_sensitivity_table_shows_interval_and_p_at_any_width(browser, tmp_path, monkeypatch, width):
    monkeypatch.setattr("analysis.gallery.FIGURES", ())
    report = write_report(FakeExperiment().write(tmp_path))
    opened(browser, report.html.as_uri(), width)

    rows = browser.execute_script(SENSITIVITY)

    (comparison,) = report.comparisons
    decimals = decimals_of(comparison)
    told = [number(comparison.difference, decimals), interval_text(comparison.interval, decimals)]
    assert rows[0][:3] == ["mean, paired t", [*map(minus, told), p_text(comparison.p_t)], True]
    assert all(seen for _, _, seen, _ in rows)
    assert rows[0][3] == (['"estimate"', '"95 % CI"', '"p"'] if width == 390 else ["none"] * 3)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser, page, theme):
    opened(browser, page, 390, theme)

    assert browser.execute_script(CONTRASTS) == []


def test_headings_rise_by_one_and_tables_name_their_rows_and_columns(browser, page):
    opened(browser, page)

    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map(node => Number(node.tagName[1]))"
    )
    bare = browser.execute_script("return document.querySelectorAll('th:not([scope])').length")

    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert levels.count(1) == 1
    assert bare == 0
    assert browser.execute_script("return document.documentElement.lang") == "en"


def test_the_verdict_is_on_the_first_screen_of_a_phone(browser, page):
    opened(browser, page, 390)

    top = browser.execute_script(
        "return document.querySelector('.verdict .statement').getBoundingClientRect().top"
    )

    assert top < 600
