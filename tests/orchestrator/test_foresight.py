"""What is told before trials run: contrasts that no result makes valid, GPUs that nobody was given."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from analysis import compare, load
from orchestrator import launch
from orchestrator.capacity import Place, standing_nodes
from orchestrator.driver import Driver
from orchestrator.foresight import doomed, remarks
from orchestrator.launch import run
from orchestrator.spec import ExperimentSpec, spec_from
from orchestrator.trials import make_plan

BASE = {
    "model_name": "tiny-llama",
    "teacher_name": "tiny-teacher",
    "student": "latent",
    "dataset": "arithmetic",
    "kv_method": "right_crop",
    "subset_size": 64,
    "eval_size": 8,
    "batch_size": 8,
    "max_steps": 4,
    "eval_steps": 2,
}
DOOMED: dict[str, tuple[dict[str, Any], str]] = {
    "batch_size": ({"batch_size": 16}, "not the same batches in the same order"),
    "max_steps": ({"max_steps": 6}, "not as many planned steps"),
    "subset_size": ({"subset_size": 32}, "not the same batches in the same order"),
    "eval_size": ({"eval_size": 4}, "not the same held-out rows"),
    "eval_steps": ({"eval_steps": 1}, "not the same evaluations"),
    "model_name": ({"model_name": "tiny-gpt2"}, "not the same first weights"),
    "drop_last_step": ({"drop_last_step": True}, "not as many tokens seen"),
}
"""Arm, by the field that it changes -> its override, and a check that it cannot pass."""
FINE = {
    "structured": {},
    "ce_only": {"kv_weight": 0, "codi_weight": 0},
    "self": {"teacher_name": "self"},
    "rate": {"lr": 1e-3},
    "halves": {"batch_size": 4, "gradient_accumulation_steps": 2},
    "cot": {"student": "same_sequence", "kv_weight": 0, "codi_weight": 0},
}


def experiment_of(arms: dict[str, Any], base: dict[str, Any] | None = None, **changes: Any) -> ExperimentSpec:
    values = {"name": "seen", "base": base or BASE, "arms": {"flat": {"alignment_mode": "flat"}, **arms}}
    return spec_from({**values, "seeds": [0, 1], "analysis": {"baseline": "flat"}, **changes}, "test")


def told_of(arms: dict[str, Any], base: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    return list(doomed(make_plan(experiment_of(arms, base, **changes))))


@pytest.mark.parametrize("field", DOOMED)
def test_an_arm_that_cannot_pass_a_check_is_told_with_the_field_that_it_changes(field: str) -> None:
    change, check = DOOMED[field]

    (line,) = told_of({"other": change, **FINE})

    assert line.startswith("other against flat will be INVALID: ")
    assert check in line
    assert line.endswith(f"(they differ in {field})")


def test_arms_that_can_pass_are_not_talked_about() -> None:
    assert told_of(FINE) == []
    assert told_of({"structured": {}}, grid={"batch_size": [4, 8], "max_steps": [2, 4]}) == []
    again = {"alignment_mode": "flat", "seed_offset": 1000}
    assert told_of({"again": again}, analysis={"baseline": "flat", "mode": "aa"}) == []


@pytest.mark.parametrize(
    ("analysis", "said"),
    [
        ({"at": "last_k_mean"}, "will be INVALID: eval CE (mean of the last 3 evaluations) is missing. "),
        ({"at": "auc"}, "one evaluation, and an area needs two"),
        ({"secondary": ["steps_to_90", "eval_accuracy@auc"]}, "will be INVALID for eval_accuracy@auc: "),
    ],
)
def test_an_endpoint_that_needs_more_evaluations_than_there_will_be_is_told(
    analysis: dict[str, Any], said: str
) -> None:
    once = {**BASE, "eval_steps": None}

    (line,) = told_of({"structured": {}}, once, analysis={"baseline": "flat", **analysis})

    assert said in line
    assert (
        told_of({"structured": {}}, {**BASE, "eval_steps": 1}, analysis={"baseline": "flat", **analysis})
        == []
    )


def test_many_contrasts_of_one_reason_are_one_line_and_one_check() -> None:
    arms = {f"arm{number}": {"batch_size": 16, "kv_weight": float(number)} for number in range(1, 12)}
    rates = [number / 10_000 for number in range(1, 101)]

    (line,) = told_of(arms, grid={"lr": rates})
    (once,) = told_of({"other": {}}, grid={"lr": rates}, analysis={"baseline": "flat", "at": "last_k_mean"})

    assert line.startswith("arm1,lr=0.0001 against flat,lr=0.0001, arm2,lr=0.0001 against flat,lr=0.0001, ")
    assert " and 1092 more will be INVALID: " in line
    assert once.startswith("other,lr=0.0001 against flat,lr=0.0001, ")


@pytest.mark.slow
def test_what_is_foreseen_is_what_the_report_says(place: Path) -> None:
    invalid = {field: change for field, (change, _) in DOOMED.items() if field != "drop_last_step"}
    arms = {**invalid, **FINE}  # to train a teacher for other rows takes minutes
    spec = experiment_of(arms, seeds=[0])

    summary = run(spec, storage=place, address="serial")

    experiment = load(summary.folder)
    verdicts = {arm: compare(experiment, treatment=arm).verdict for arm in arms}
    assert summary.exit_code == 0
    assert {arm for arm, verdict in verdicts.items() if verdict == "INVALID"} == set(invalid)


@pytest.mark.parametrize(
    ("gpus", "device", "given", "said"),
    [
        (1, "auto", 0, "this machine has 1 GPU, and a trial is given none"),
        (8, "auto", 0, "this machine has 8 GPUs, and a trial is given none"),
        (0, "auto", 0, None),
        (1, "auto", 0.5, None),
        (1, "cpu", 0, None),
    ],
)
def test_a_gpu_that_no_trial_is_given_is_told_of(
    gpus: int, device: str, given: float, said: str | None
) -> None:
    spec = experiment_of({"structured": {}}, {**BASE, "device": device}, resources={"gpus": given})
    plan = make_plan(spec)

    lines = list(remarks(plan, plan.cells, [Place("this machine", {"CPU": 2.0, "GPU": float(gpus)})]))

    assert [line.startswith(said) for line in lines] == [True] if said else lines == []
    assert all("resources: {gpus: 1}" in line for line in lines)


def test_a_run_tells_it_of_this_machine_and_of_a_clusters_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(experiment_of({"structured": {}}))
    monkeypatch.setattr("trainables.device.gpus_here", lambda: 2)
    node = Place("node 10.0.0.7", {"CPU": 64.0, "GPU": 8.0})

    for address, driver in (("serial", None), ("local", Answering([])), ("auto", Answering([node]))):
        console = Console(file=io.StringIO(), width=300)
        launch._tell_remarks(plan, plan.cells, address, cast(Driver, driver), console)
        assert isinstance(console.file, io.StringIO)
        where = "node 10.0.0.7 has 8 GPUs" if address == "auto" else "this machine has 2 GPUs"
        assert console.file.getvalue().startswith(f"seen: {where}, and a trial is given none")


class Answering:
    """A driver of a Ray with these nodes."""

    def __init__(self, nodes: list[Place]) -> None:
        self.nodes = nodes

    def ask(self, function: object) -> list[Place]:
        assert function is standing_nodes
        return self.nodes
