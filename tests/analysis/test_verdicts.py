import numpy as np
import pytest

from analysis import many, signflip
from analysis.verdicts import verdict_of


def samples_of(n, seed, count=24):
    """Rows with effects of every size; some of them rounded, so that signs tie."""
    rng = np.random.default_rng([n, seed])
    rows = rng.normal(rng.normal(0, 1.2, (count, 1)), 1, (count, n))
    rows[::4] = rows[::4].round()
    rows[5], rows[6] = 0.25, 0.0
    return rows


@pytest.mark.parametrize("n", [2, 5, 6, 8, 11])
@pytest.mark.parametrize(("margin", "harm_sign"), [(None, 1), (1.0, 1), (2.5, -1)])
def test_many_samples_at_once_get_the_verdicts_of_each_alone(n, margin, harm_sign):
    rows = samples_of(n, 0)

    together = many.verdicts_of(rows, margin=margin, harm_sign=harm_sign)

    assert together.tolist() == [verdict_of(row, margin=margin, harm_sign=harm_sign) for row in rows]


def test_the_samples_here_reach_every_rung_of_the_ladder():
    found = {
        str(verdict)
        for n in (5, 8, 11)
        for margin in (1.0, 2.5)
        for verdict in many.verdicts_of(samples_of(n, 0), margin=margin)
    }

    assert found == {
        "NOT TESTABLE", "DEGENERATE", "SUPERIOR", "INFERIOR", "EQUIVALENT", "NON-INFERIOR", "INCONCLUSIVE",
    }  # fmt: skip


@pytest.mark.parametrize("n", [1, 4, 9])
def test_many_exact_p_are_those_of_each_row(n):
    rows = samples_of(n, 1)

    assert many.p_signflip(rows).tolist() == [signflip.p_value(row) for row in rows]


def test_rows_longer_than_can_be_enumerated_are_refused():
    with pytest.raises(ValueError, match="1 to 16 pairs, got 17"):
        many.p_signflip(np.zeros((2, 17)))
