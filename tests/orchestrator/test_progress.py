"""The live table and its plain counterpart."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import attempts
from orchestrator.progress import Progress, State, state_of, table_of


def shown(cells: list[dict[str, Any]], states: dict[str, State]) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table_of(cells, states))
    return console.file.getvalue()  # type: ignore[attr-defined]


def cell(arm: str, seed: int) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "trial_id": f"{arm}{seed}", "config_hash": "abc"}


def test_each_trial_has_its_place_by_arm_and_seed() -> None:
    cells = [cell("flat", 0), cell("flat", 1)]
    text = shown(cells, {"flat0": State("running", 0.43, 3), "flat1": State("waiting")})

    assert "seed 0" in text
    assert "43 %" in text


def test_many_seeds_are_counted() -> None:
    cells = [cell("flat", seed) for seed in range(40)]
    states = {f"flat{seed}": State("completed" if seed < 30 else "crashed") for seed in range(40)}

    assert [word for word in shown(cells, states).split() if word.isalnum()][-5:] == [
        "flat",
        "30",
        "0",
        "10",
        "0",
    ]


@pytest.mark.parametrize(
    ("config", "row", "fraction"),
    [
        ({"max_steps": 10, "epochs": 3.0}, {"step": 4, "epoch": 9.0}, 0.4),
        ({"max_steps": None, "epochs": 4.0}, {"step": 4, "epoch": 1.0}, 0.25),
        ({}, {"step": 4}, 0.0),
    ],
)
def test_progress_is_the_share_of_steps_or_epochs(
    tmp_path: Path, config: dict[str, Any], row: dict[str, Any], fraction: float
) -> None:
    attempts.start(tmp_path, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + '\n{"torn')

    assert state_of(tmp_path, "abc") == State("running", fraction, 4)


def test_a_trial_moves_from_waiting_to_running_to_how_it_ended(tmp_path: Path) -> None:
    seen = [state_of(tmp_path, "abc").status]
    number = attempts.start(tmp_path, None)
    seen.append(state_of(tmp_path, "abc").status)
    attempts.end(tmp_path, number, "crashed", "boom")
    seen.append(state_of(tmp_path, "abc").status)
    (tmp_path / "result.json").write_text(json.dumps({"status": "completed", "config_hash": "abc"}))
    seen.append(state_of(tmp_path, "abc").status)

    assert seen == ["waiting", "running", "crashed", "completed"]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_last_word_is_shown_however_short_the_run(tmp_path: Path, terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    with Progress(tmp_path, [cell("flat", 0)], console):
        (tmp_path / "flat0").mkdir()
        (tmp_path / "flat0" / "result.json").write_text('{"status": "diverged", "config_hash": "abc"}')

    assert "diverged" in console.file.getvalue()  # type: ignore[attr-defined]
