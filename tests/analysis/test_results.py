"""Everything that one experiment says, as strict JSON."""

import json

import pytest

from analysis.records import FAILURES
from analysis.results import analyse
from tests.analysis.fakes import loaded


def nulls_without_reason(value, reasons=(), path=""):
    """Paths of nulls that no why_null above them names, and that stand beside no note."""
    if isinstance(value, dict):
        found = [f"{path}.{name}" for name in value.get("why_null", ())]
        known = (*reasons, *found)
        for name, inner in value.items():
            if name != "why_null" and not ("note" in value and value["note"] and inner is None):
                yield from nulls_without_reason(inner, known, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from nulls_without_reason(inner, reasons, path)
    elif value is None and path not in reasons:
        yield path


def plain_bools(value):
    if isinstance(value, dict):
        return all(plain_bools(inner) for inner in value.values())
    if isinstance(value, list):
        return all(plain_bools(inner) for inner in value)
    return value is None or type(value) in (bool, int, float, str)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seeds": [3]},
        {"arms": {"flat": 0.0, "a": -0.06, "b": 0.05}, "statuses": {("a", 1): "diverged"}},
        {"statuses": {("flat", seed): FAILURES[seed % 4] for seed in range(8)}},
        {"statuses": {(arm, seed): "not_run" for arm in ("flat", "structured") for seed in range(8)}},
        {"run_changes": {("flat", 2): {"init_hash": "other"}}},
        {"accuracy": lambda arm, seed: 0.5 + 0.05 * seed},
        {"primary": {"margin": None, "sesoi": None}, "secondary": ()},
    ],
)
def test_every_null_has_its_reason_and_no_value_is_numpys(options):
    plain = analyse(loaded(**options)).to_dict()

    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain_bools(plain)
    assert sorted(set(nulls_without_reason(plain))) == []


def test_the_same_input_gives_the_same_json():
    first, second = (json.dumps(analyse(loaded(shuffled=flag)).to_dict()) for flag in (False, True))

    assert first == second
