"""Nodes that do not see the storage: found out, named, and no harm to the trials."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import attempts, shared
from orchestrator.child import Job
from orchestrator.shared import answer, require_here


def test_a_node_tells_whether_it_sees_the_storage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "driver").write_text("word")

    assert answer(str(place), "word", "node") is None
    assert (place / "node").read_text() == "word"
    assert answer(str(place), "other word", "node") == "does not see what this one wrote there"
    assert answer(str(place / "gone"), "word", "node") == "does not see what this one wrote there"
    monkeypatch.setattr(shared, "HOLD_S", 0.0)
    with pytest.raises(RuntimeError, match=shared.UNSEEN):
        require_here(place / "trials" / "flat-seed0")
    (place / "trials").mkdir()
    require_here(place / "trials" / "flat-seed0")


def test_a_node_that_joined_without_the_storage_costs_a_trial_no_attempt_and_is_named(place: Path) -> None:
    said = f"node ip-10-0-0-7 does not see {place}: the storage is not mounted there"
    (place / "error.txt").write_text(f"Failure # 1 (occurred at now)\nTraceback ...\nRuntimeError: {said}\n")
    held = Job(
        trial_id="t", arm="flat", seed=0, config_hash="h", config={}, folder=str(place / "flat-seed0"),
        cpus=1, gpus=0, memory_gib=None, time_limit_s=None, attempts_allowed=1, attempts_before=0,
        experiment="x",
    )  # fmt: skip
    trial = SimpleNamespace(config={"job": held.to_json()}, error_file=str(place / "error.txt"))
    from orchestrator.losses import Losses

    losses = Losses()

    losses.on_trial_recover(1, [], trial)
    losses.on_trial_error(2, [], trial)

    known = attempts.read(place / "flat-seed0")
    assert [(one.status, one.reason, one.counts) for one in known] == [("preempted", said, False)] * 2
