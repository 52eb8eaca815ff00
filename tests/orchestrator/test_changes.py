"""What a folder knows of earlier plans, and what an edited experiment changes in it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis import compare, load
from orchestrator import attempts, changes, launch
from orchestrator.child import Job
from orchestrator.launch import Summary, run
from orchestrator.spec import spec_from
from orchestrator.trials import make_plan
from tests.fakes import FAKE, experiment
from tests.orchestrator.test_run import pids, run_serially, table
from trainables.config import DistillConfig, InputError

FLAT = {"alignment_mode": "flat"}
EDITED = {"arms": {"flat": FLAT, "structured": {"alignment_mode": "structured", "target_len": 4}}}

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


def test_the_same_seeds_arms_and_endpoint_again_are_no_history(place: Path) -> None:
    run_serially(place)

    again = run_serially(place, analysis={"baseline": "flat", "secondary": ["kv_cka"]})

    assert plan_of(again)["history"] == []


def test_an_endpoint_that_was_named_anew_is_told_with_the_one_before_it(place: Path) -> None:
    first = run_serially(place)
    before = plan_of(first)
    write_report_of(first)

    again = run_serially(place, analysis={"baseline": "flat", "margin": 0.1})

    (entry,) = plan_of(again)["history"]
    assert entry["primary"] == before["analysis"]["primary"]
    assert (entry["seeds"], entry["looked"]) == (plan_of(again)["seeds"], True)


def test_the_plan_tells_the_setup_outside_its_hash_by_arm_where_arms_differ(place: Path) -> None:
    plan = plan_of(run_serially(place, base={**experiment()["base"], "kv_method": "right_crop"}, **EDITED))

    shared, arms = plan["setup"]["shared"], plan["setup"]["arms"]
    assert shared["kv_method"] == "right_crop"
    assert shared["batch_size"] == DistillConfig().batch_size, "defaults are told, too"
    assert shared["teacher"]
    assert {arm: own["target_len"] for arm, own in arms.items()} == {"flat": 8, "structured": 4}
    assert not {"seed", "output_dir", "threads"} & {*shared, *arms["flat"]}
    told = {name: value for name, value in plan.items() if name not in ("plan_hash", "setup", "history")}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    assert plan["plan_hash"] == hashlib.sha256(text.encode()).hexdigest()[:12]


def skilled(config: DistillConfig, progress: Callable[[str], None]) -> float:
    """A teacher that was found to solve little."""
    return 0.031


def test_what_the_teacher_solves_stays_in_the_provenance_through_later_launches(place: Path) -> None:
    able = replace(FAKE, prepare=f"{__name__}:skilled")
    spec = spec_from(experiment(), "test")
    for _ in range(2):
        summary = run(
            spec, storage=place, address="serial", objective=able, console=Console(file=io.StringIO())
        )

    told = json.loads((summary.folder / "provenance.json").read_text())
    (taught,) = told["earlier_launches"][0]["teachers"]
    assert taught["accuracy"] == 0.031
    assert taught["teacher"] == plan_of(summary)["setup"]["shared"]["teacher"]
    assert told["teachers"] == [], "nothing was left to run, so no teacher was asked"


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


def told_by(place: Path, *, answer: str | None = None, yes: bool = False, **changes: Any) -> str:
    """What a run of the experiment says; with an answer it is asked on a terminal."""
    console = Console(file=io.StringIO(), force_terminal=answer is not None, color_system=None, width=200)
    spec = spec_from(experiment(**changes), "test")
    try:
        run(spec, storage=place, address="serial", objective=FAKE, console=console, yes=yes)
    except InputError as error:
        console.print(f"refused: {error}", markup=False, soft_wrap=True)
    told = console.file
    assert isinstance(told, io.StringIO)
    return told.getvalue()


def files_of(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_an_edit_of_finished_trials_is_shown_and_refused_without_a_yes(place: Path) -> None:
    run_serially(place)
    before = files_of(place)

    told = told_by(place, **EDITED)

    assert "  structured: target_len: 8 -> 4 (2 finished trials set aside)\n" in told
    assert "refused: finished trials would be set aside, and nothing was run: say --yes" in told
    assert files_of(place) == before


def test_an_edit_agreed_to_runs_beside_the_finished_trials(place: Path) -> None:
    before = files_of(run_serially(place).folder / "trials")

    told = told_by(place, yes=True, **EDITED)

    assert told.index("target_len: 8 -> 4") < told.index("2 of 4 trials to run")
    after = files_of(place / "fake" / "trials")
    assert {path: after[path] for path in before} == before
    assert len(list((place / "fake" / "trials").iterdir())) == 6


def test_an_edit_undone_costs_nothing(place: Path) -> None:
    run_serially(place)
    run_serially(place, yes=True, **EDITED)

    undone = run_serially(place, yes=True)

    assert undone.started == 0
    assert len(table(undone)) == 4


@pytest.mark.parametrize(("answer", "runs"), [("y", 6), ("n", 4), ("", 4)])
def test_on_a_terminal_the_user_is_asked(
    place: Path, monkeypatch: pytest.MonkeyPatch, answer: str, runs: int
) -> None:
    run_serially(place)
    typed = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)

    told = told_by(place, answer=answer, **EDITED)

    assert "Go on? [y/N]" in told
    assert len(list((place / "fake" / "trials").iterdir())) == runs


def test_an_edit_of_the_base_is_told_once_for_every_arm(place: Path) -> None:
    run_serially(place)

    told = told_by(place, base={**experiment()["base"], "target_len": 4})

    assert "  every arm: target_len: 8 -> 4 (4 finished trials set aside)\n" in told


def test_extensions_and_repetitions_ask_nothing(place: Path) -> None:
    run_serially(place)
    arms = {**experiment()["arms"], "four": {"target_len": 4}}

    assert "nothing to run" in told_by(place)
    assert told_by(place, seeds=[0, 1, 2]).startswith("fake: 2 of 6 trials to run")
    assert told_by(place, seeds=[0, 1, 2], arms=arms).startswith("fake: 3 of 9 trials to run")


def test_an_edit_before_anything_has_finished_asks_nothing(place: Path) -> None:
    run_serially(place, base={**experiment()["base"], "lr": 3e-3})

    assert told_by(place).startswith("fake: 4 of 4 trials to run")


def test_trials_that_are_no_longer_planned_are_named_and_kept(place: Path) -> None:
    arms = {**experiment()["arms"], "four": {"target_len": 4}}
    run_serially(place, arms=arms)
    before = files_of(place / "fake" / "trials")

    told = told_by(place, seeds=[0], yes=True)

    assert (
        "no longer planned: four, seed 0, 1 (2 finished trials); what there is stays in trials/ and" in told
    )
    assert "no longer planned: flat, seed 1 (1 finished trial)" in told
    assert told.count("leaves the report, which is INVALID without seeds that ran\n") == 2, (
        "not of four's arm"
    )
    assert "nothing to run" in told
    assert files_of(place / "fake" / "trials") == before


THREE = {"arms": {**experiment()["arms"], "four": {"target_len": 4}}}


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"seeds": [0], **THREE}, "3 finished trials"),
        ({"seeds": [4], **THREE}, "6 finished trials"),
        ({}, "2 finished trials"),
    ],
)
def test_finished_trials_leave_the_plan_only_where_that_is_agreed_to(
    place: Path, change: dict[str, Any], lost: str
) -> None:
    run_serially(place, **THREE)
    before = files_of(place)

    told = told_by(place, **change)

    assert f"refused: {lost} would leave the plan, and nothing was run: say --yes to go on, plan them" in told
    assert files_of(place) == before
    assert "trials to run" in (again := told_by(place, yes=True, **change)) or "nothing to run" in again


@pytest.mark.parametrize(("answer", "seeds"), [("y", [0]), ("n", [0, 1])])
def test_on_a_terminal_the_user_is_asked_whether_finished_trials_may_leave(
    place: Path, monkeypatch: pytest.MonkeyPatch, answer: str, seeds: list[int]
) -> None:
    run_serially(place)
    typed = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)

    told = told_by(place, answer=answer, seeds=[0])

    assert "Go on? [y/N]" in told
    assert json.loads((place / "fake" / "plan.json").read_text())["seeds"] == seeds


def test_trials_that_failed_or_were_evaluated_are_asked_about_too(place: Path) -> None:
    run_serially(place, base={**experiment()["base"], "lr": 3e-3})

    told = told_by(place, base={**experiment()["base"], "lr": 3e-3}, seeds=[0])

    assert "flat, seed 1 (0 finished trials, 1 failed or evaluated)" in told
    assert "refused: 2 trials that ran would leave the plan" in told


def test_an_attempt_that_came_to_nothing_is_neither_asked_about_nor_a_result_left_out(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    six = list(range(6))
    before = compare(load(run_serially(place, seeds=six).folder), treatment="structured")
    with monkeypatch.context() as patched:
        patched.setattr(launch, "run_trial", end_at_once)
        ended = run_serially(place, seeds=[6], yes=True)

    told = told_by(place, seeds=six)

    assert [trial.status for trial in ended.trials] == ["cancelled", "not_run"]
    assert "refused" not in told
    kept, left = plan_of(ended)["history"]
    assert (kept["ran"], left["seeds"], left["ran"]) == ({"flat": six, "structured": six}, [6], {})
    for _ in ("here", "fetched from a cluster without its trials"):
        after = compare(load(place / "fake"), treatment="structured")
        assert (after.verdict, after.findings) == (before.verdict, ())
        shutil.rmtree(place / "fake" / "trials", ignore_errors=True)


def test_a_seed_that_ran_is_missed_even_when_its_folders_are_deleted(place: Path) -> None:
    folder = run_serially(place, seeds=[0, 1, 2]).folder
    run_serially(place, yes=True)
    for trial in folder.glob("trials/*-seed2-*"):
        shutil.rmtree(trial)

    found = compare(load(folder), treatment="structured")

    assert found.verdict == "INVALID"
    assert "seed 2 ran and is planned no more" in found.sentence


def end_at_once(job: Job, on_row: object) -> None:
    """A Ctrl-C between the start of an attempt and its first step."""
    Path(job.folder).mkdir(parents=True)
    attempts.start(Path(job.folder), None)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([4], "seed 4 alone; four seeds are 0-3"),
        ([1], "seed 1 alone; one seed is 0"),
        ([12], "seed 12 alone; 12 seeds are 0-11"),
        ([0], None),
        ([4, 5], None),
    ],
)
def test_a_single_seed_is_told_from_a_number_of_seeds(seeds: list[int], said: str | None) -> None:
    console = Console(file=io.StringIO(), width=200)

    changes.tell(None, [], make_plan(spec_from(experiment(seeds=seeds), "test")), console)

    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == (f"fake: {said}\n" if said else "")


def test_another_analysis_is_told_and_runs_nothing(place: Path) -> None:
    run_serially(place)

    told = told_by(place, analysis={"baseline": "flat", "margin": 0.1, "looks": [7, 12]})

    assert "analysis.margin: unset -> 0.1" in told
    assert "analysis.looks: unset -> [7, 12]" in told
    assert "nothing to run" in told


def test_a_trial_whose_end_was_lost_runs_again_and_the_others_do_not(place: Path) -> None:
    summary = run_serially(place)
    victim = next((summary.folder / "trials").glob("structured-seed1-*"))
    (victim / "result.json").unlink()
    before = pids(summary)

    again = run_serially(place)

    assert again.started == 1
    assert len(pids(again)) == len(before) + 1


def with_file(path: Path) -> dict[str, Any]:
    return {"base": {"model_name": "tiny-gpt2", "dataset": "gsm8k", "train_file": str(path), "lr": 1e-3}}


def test_a_training_file_that_moves_is_the_same_and_one_that_changes_is_not(place: Path) -> None:
    (place / "rows.jsonl").write_text("{}\n")
    run_serially(place, **with_file(place / "rows.jsonl"))
    (place / "data").mkdir()
    (place / "rows.jsonl").rename(place / "data" / "moved.jsonl")

    moved = run_serially(place, **with_file(place / "data" / "moved.jsonl"), seeds=[0, 1, 2])
    with (place / "data" / "moved.jsonl").open("a") as file:
        file.write("{}\n")
    told = told_by(place, **with_file(place / "data" / "moved.jsonl"))

    assert moved.started == 2
    assert [name for name in table(moved) if name.startswith("factor.")] == ["factor.alignment_mode"]
    assert "every arm: train_sha256: " in told
    assert "no longer planned" in told


def test_code_and_versions_that_changed_between_launches_are_told(place: Path) -> None:
    path = run_serially(place).folder / "provenance.json"
    known = json.loads(path.read_text())
    path.write_text(
        json.dumps({**known, "code_rev": "f" * 40, "versions": {**known["versions"], "torch": "1.0"}})
    )

    told = told_by(place, seeds=[0, 1, 2])

    assert "changed since the last launch: code ffffffffffff -> " in told
    assert "torch 1.0 -> " in told


def test_a_plan_that_nobody_can_read_is_refused(place: Path) -> None:
    plan = run_serially(place).folder / "plan.json"
    for broken in (
        "[]",
        "{}",
        '{"name": "fake", "arms": {"flat": {}}, "seeds": [1], "cells": [{"arm": "flat"}]}',
    ):
        plan.write_text(broken)
        with pytest.raises(InputError, match="cannot be read"):
            run_serially(place)
