"""docs/statistics.md says what its command prints."""

import re
from pathlib import Path

import pytest

from benchmarks import skew, statistics

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"


@pytest.mark.slow
def test_every_number_that_the_command_prints_stands_on_the_page(capsys):
    statistics.main()

    sizes, claims, power, practice, coverage = capsys.readouterr().out.split("\n\n")
    page = PAGE.read_text(encoding="utf-8")
    for line in sizes.splitlines()[1:]:
        pairs, floor, dz, low, _, high = line.split()
        assert f"| {pairs} | {floor} | {dz} | {low} to {high} |" in page
    for line in [*claims.splitlines()[2:], *power.splitlines()[1:]]:
        cells = re.findall(r"\d+\.\d(?= |$)", line[24:])
        assert f"| {' | '.join(cells)} |" in page
    for line in practice.splitlines()[1:]:
        assert f"{line.split()[-1]} %" in page
    for line in coverage.splitlines()[1:4]:
        by_t, by_bootstrap = re.findall(r"\d+\.\d", line)
        assert f"{by_t} %" in page
        assert f"{by_bootstrap} %" in page


@pytest.mark.slow
def test_how_often_differences_are_called_skewed_stands_on_the_page(capsys):
    skew.main()

    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^[a-zL].*?((?: +\d+\.\d){4})$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 9
    for row in rows:
        assert f"| {' | '.join(row.split())} |" in page
