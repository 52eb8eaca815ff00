"""Tables for papers: whatever arms, metrics and experiments are called, LaTeX sets it as it stands."""

import re
import shutil
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis import load
from analysis.results import analyse
from analysis.tables import latex, latex_tables, write_tables
from tests.analysis.fakes import FakeExperiment, loaded

AWKWARD = {
    "flat_100%": 0.0,
    "R&D #1 {x} $y$ <b>": -0.06,
    r'a~b^c\d é μ |"q"| \input{x}': -0.01,
    "[left*] ``tick'' --- -1": 0.02,
    "* ½ “Ж” 数 🙂 \x07": 0.01,
    "a_name_of_many_words_" * 4: 0.03,
}
SAFE = re.compile(
    r"""[A-Za-z0-9 !()+./:;=?@,'-]          # set as it stands
    | [\\](text[a-z]+|ldots|ss|ae|AE|o|O|l|L)\{\} | [\\][{}$&%\#_]
    | [\\][`'^~=u."rHvdc]\{[ -~]\}          # an accent on one letter
    | \$(-|\^2|\^[\\]circ|[\\][A-Za-z]+)\$
    | \{[\\]ttfamily[\\]char34\} | \{[\[*`]\} | \{\} | \] | ``
    """,
    re.VERBOSE,
)
"""Everything that an escaped text may be made of: no sign of it reaches beyond itself."""
TEXTS = st.text(
    st.one_of(st.sampled_from("\\{}$&%#_~^<>|\"'`[]*-,?! éμ\u0301\n"), st.characters(codec="utf-8"))
)


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    """Tables of an experiment in which every name is one."""
    folder = tmp_path_factory.mktemp("awkward")
    plan = {
        "name": r"µ_exp & 100 % ~^\{}#$",
        "quantities": {"val/loss_{%}": {"direction": "min", "unit": "#_%"}},
    }
    experiment = FakeExperiment(
        arms=AWKWARD,
        plan_changes=plan,
        primary={"metric": "eval_ce"},
        secondary=["steps_to_90", "val/loss_{%}"],
    )
    write_tables(analyse(load(experiment.write(folder / "experiment"))), folder)
    return folder


def test_no_sign_of_a_name_takes_effect_in_latex():
    assert latex(r"a_b$x$ & 50% #1 {c} \d ~^ <-3>") == (
        r"a\_b\$x\$ \& 50\% \#1 \{c\} \textbackslash{}d \textasciitilde{}\textasciicircum{} "
        r"\textless{}$-$3\textgreater{}"
    )
    assert latex("é μ Ω “x” -- '' [*] 数") == r"\'{e} $\mu$ $\Omega$ ``x'' -{}- '{}' {[}{*}] {[}U+6570]"


@given(TEXTS)
@example("".join(map(chr, range(1, 0x600))))
def test_escaped_text_is_made_of_safe_pieces_alone(text):
    escaped, place = latex(text), 0
    assert "--" not in escaped

    while place < len(escaped):
        piece = SAFE.match(escaped, place)
        assert piece, escaped[place:]
        place = piece.end()


def test_rows_have_as_many_cells_as_the_head_and_none_starts_with_an_argument_of_the_row_before(awkward):
    plain = latex_tables(analyse(loaded()))
    texts = [*plain.values(), *(path.read_text("ascii") for path in awkward.glob("*.tex"))]
    assert len(texts) == 4

    for text in texts:
        columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
        for line in text.split("\\toprule\n")[1].split("\n\\bottomrule")[0].split("\n"):
            whole = line.startswith((r"\midrule", rf"\multicolumn{{{len(columns)}}}"))
            assert whole or line.replace(r"\&", "").count("&") + 1 == len(columns)
            assert not line.startswith(("[", "*"))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex: texlive-latex-base")
@pytest.mark.parametrize("encoding", ["OT1", "T1"])
def test_pdflatex_sets_every_table_within_the_text(awkward, tmp_path, encoding):
    tables = [path.read_text("ascii") for path in sorted(awkward.glob("*.tex"))]
    packages = {
        name for table in tables for name in re.match(r"% needs \\usepackage{(.*)}", table)[1].split(",")
    }
    head = [rf"\usepackage[{encoding}]{{fontenc}}", rf"\usepackage{{{','.join(sorted(packages))}}}"]
    document = [r"\documentclass{article}", *head, r"\begin{document}", *tables, r"\end{document}"]
    (tmp_path / "paper.tex").write_text("\n".join(document))

    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300
    )

    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
    assert "Overfull" not in done.stdout
