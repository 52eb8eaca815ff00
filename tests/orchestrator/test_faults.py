"""Real trials under a real Ray, each struck by a fault of its own; what a later launch makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.faults import (
    ARMS,
    SEEDS,
    Curves,
    check_laws,
    ends,
    finished,
    launch,
    resumed_from,
)

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]
LIMITED: dict[str, Any] = {
    "arms": ARMS,
    "resources": {"max_failures": 1, "memory_gib": 2, "time_limit_s": 25},
}
FATES = {
    "flat-seed1": "flipped",
    "structured-seed1": "hangs",
    "flat-seed2": "eats",
    "structured-seed2": "cannot allocate",
}


def test_what_befalls_a_trial_costs_no_other_and_no_bit_of_its_own(
    place: Path, ray_here: None, expected: Curves
) -> None:
    folder = launch(place, "local", seeds=[0], **LIMITED).folder
    before = finished(folder)
    (place / "fates.json").write_text(json.dumps(FATES))

    first = launch(place, "local", seeds=SEEDS, **LIMITED)

    last = check_laws("faults of trials", folder, before, expected, unfinished=1).set_index(["arm", "seed"])
    assert first.exit_code == 1
    assert set(last.loc["wild", "status"]) == {"diverged"}
    assert set(last.loc["wild", "attempt"]) == {1}, "a diverged trial is never tried again"
    assert last.loc[("flat", 2), "status"] == "oom"
    assert "resources.memory_gib gives it 2" in last.loc[("flat", 2), "failure_reason"]
    ended = {name: ends(folder, name) for name in FATES}
    assert ended == {
        "flat-seed1": ["crashed", "completed"],
        "structured-seed1": ["timeout", "completed"],
        "flat-seed2": ["oom"],
        "structured-seed2": ["oom", "completed"],
    }
    resumed = {name: resumed_from(folder, name) for name, end in ended.items() if "completed" in end}
    assert resumed == {"flat-seed1": 4, "structured-seed1": 6, "structured-seed2": 6}, (
        "a damaged checkpoint is passed over for the one before"
    )

    before = finished(folder)
    again = launch(place, "local", seeds=SEEDS, **LIMITED)

    check_laws("relaunch", folder, before, expected)
    assert (again.started, again.exit_code) == (1, 0)
