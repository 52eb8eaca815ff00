"""What a folder knows of earlier plans, and what an edited experiment changes in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.launch import Summary
from tests.orchestrator.test_run import run_serially

MORE = {"seeds": [0, 1, 2]}


def plan_of(summary: Summary) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((summary.folder / "plan.json").read_text())
    return plan


def write_report_of(summary: Summary) -> None:
    (summary.folder / "report").mkdir(exist_ok=True)
    text = json.dumps({"plan_hash": plan_of(summary)["plan_hash"]})
    (summary.folder / "report" / "results.json").write_text(text)


def test_the_first_plan_of_a_folder_has_no_history(place: Path) -> None:
    assert plan_of(run_serially(place))["history"] == []


def test_the_same_seeds_and_arms_again_are_no_history(place: Path) -> None:
    run_serially(place)

    again = run_serially(place, analysis={"baseline": "flat", "margin": 0.1})

    assert plan_of(again)["history"] == []


def test_an_extension_is_told_with_whether_a_report_was_there(place: Path) -> None:
    first = run_serially(place)
    before = plan_of(first)
    write_report_of(first)
    run_serially(place, **MORE)
    last = plan_of(run_serially(place, seeds=[0, 1, 2, 3]))

    looked, unseen = last["history"]
    assert {name: looked[name] for name in ("plan_hash", "seeds", "arms", "looked")} == {
        "plan_hash": before["plan_hash"], "seeds": [0, 1], "arms": before["arms"], "looked": True,
    }  # fmt: skip
    assert (unseen["seeds"], unseen["looked"]) == ([0, 1, 2], False), "that report was of the plan before"
    assert looked["at"] < unseen["at"]


def test_history_is_no_part_of_the_plans_hash(place: Path) -> None:
    run_serially(place / "extended")
    extended = plan_of(run_serially(place / "extended", **MORE))

    assert extended["plan_hash"] == plan_of(run_serially(place / "whole", **MORE))["plan_hash"]


def test_a_folder_of_before_there_was_a_history_is_read(place: Path) -> None:
    summary = run_serially(place)
    old = {name: plan_of(summary)[name] for name in ("name", "plan_hash", "arms", "seeds")}
    (summary.folder / "plan.json").write_text(json.dumps(old))

    assert [entry["seeds"] for entry in plan_of(run_serially(place, **MORE))["history"]] == [[0, 1]]
