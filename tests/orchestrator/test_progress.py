"""The live table and its plain counterpart."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import attempts, progress, space
from orchestrator.progress import Board, Progress, State, _span, state_of, table_of, watch
from trainables.config import DistillConfig
from trainables.trial_folder import TrialFolder

CONFIG = DistillConfig(model_name="tiny-llama", dataset="arithmetic", max_steps=10)
ROW = {"step": 4, "epoch": 1.0, "tokens": 30, "wall_s": 6.0, "split": "train", "n_items": 1, "metrics": {}}


def shown(cells: list[dict[str, Any]], states: dict[str, State]) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table_of(cells, states))
    return console.file.getvalue()  # type: ignore[attr-defined]


def cell(arm: str, seed: int) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "trial_id": f"{arm}{seed}", "config_hash": CONFIG.hash()}


def test_each_trial_has_its_place_by_arm_and_seed() -> None:
    cells = [cell("flat", 0), cell("flat", 1)]
    text = shown(cells, {"flat0": State("running", 0.43, 3), "flat1": State("waiting")})

    assert "seed 0" in text
    assert "43 %" in text


@pytest.mark.parametrize(
    ("seconds", "said"), [(8.0, "25 % 0.5/s 24 s"), (600.0, "25 % 0.00667/s 30 min"), (0.0, "25 %")]
)
def test_a_running_trial_shows_its_share_its_pace_and_its_time_left(seconds: float, said: str) -> None:
    assert State("running", 0.25, step=4, wall_s=seconds).mark == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(59.0, "59 s"), (61.0, "1 min"), (3599.0, "1 h 0 min"), (12000.0, "3 h 20 min")]
)
def test_spans_are_told_as_people_tell_them(seconds: float, said: str) -> None:
    assert _span(seconds) == said


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
    ("settings", "fraction"), [({"max_steps": 10}, 0.4), ({"epochs": 4.0}, 0.25), ({"epochs": 0.5}, 1.0)]
)
def test_progress_is_the_share_of_steps_or_epochs(
    tmp_path: Path, settings: dict[str, Any], fraction: float
) -> None:
    config = DistillConfig(**settings)
    attempts.start(tmp_path, None)
    TrialFolder(tmp_path).claim(config)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROW) + '\n{"torn')

    assert state_of(tmp_path, config.hash()) == State("running", fraction, 4, 30, 6.0)


def test_a_trial_moves_from_waiting_to_running_to_how_it_ended(tmp_path: Path) -> None:
    seen = [state_of(tmp_path, CONFIG.hash()).status]
    number = attempts.start(tmp_path, None)
    seen.append(state_of(tmp_path, CONFIG.hash()).status)
    attempts.end(tmp_path, number, "crashed", "boom")
    seen.append(state_of(tmp_path, CONFIG.hash()).status)
    finish(tmp_path)
    seen.append(state_of(tmp_path, CONFIG.hash()).status)

    assert seen == ["waiting", "running", "crashed", "completed"]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_last_word_is_shown_however_short_the_run(tmp_path: Path, terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    with Progress(tmp_path, [cell("flat", 0)], console):
        finish(tmp_path / "flat0", "diverged")

    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "diverged" in said
    assert not terminal or "1 of 1 trials done" in said, "in one line, however narrow the table"


def finish(folder: Path, status: str = "completed") -> None:
    files = TrialFolder(folder)
    files.claim(CONFIG)
    files.append_metrics(ROW)
    files.write_result({"status": status, "config_hash": CONFIG.hash()})


def test_a_look_reads_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def counting(path: Path, config_hash: str) -> State:
        reads.append(path.name)
        return state_of(path, config_hash)

    monkeypatch.setattr(progress, "state_of", counting)
    board = Board(tmp_path, [cell("flat", seed) for seed in range(1000)])
    board.look()
    finish(tmp_path / "flat7")
    attempts.start(tmp_path / "flat7", None)
    (tmp_path / "flat8").mkdir()
    attempts.start(tmp_path / "flat8", None)

    first, second = board.look(), board.look()
    TrialFolder(tmp_path / "flat8").append_metrics(ROW)
    third = board.look()

    assert reads == ["flat7", "flat8", "flat8"]
    assert [(found["trial_id"], now.status) for found, _, now in first] == [
        ("flat7", "completed"), ("flat8", "running"),
    ]  # fmt: skip
    assert second == []
    assert [(now.step, now.steps_per_s, now.tokens_per_s) for _, _, now in third] == [(4, 4 / 6, 5.0)]
    assert board.counts() == {"done": 1, "running": 1, "failed": 0, "waiting": 998}


def test_machines_are_told_every_change_and_the_runs_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(progress, "TELL_EVERY_S", 0.0)
    with Progress(tmp_path, [cell("flat", 0), cell("flat", 1)], Console(file=io.StringIO()), told.append):
        finish(tmp_path / "flat0")

    change = next(event for event in told if event["event"] == "trial")
    pace = [event for event in told if event["event"] == "progress"][-1]
    assert (change["trial_id"], change["arm"], change["seed"]) == ("flat0", "flat", 0)
    assert change["status"] == "completed"
    assert (pace["done"], pace["waiting"]) == (1, 1)
    assert pace["left_s"] == pytest.approx(pace["elapsed_s"])
    json.dumps(told, allow_nan=False)


def test_an_experiment_that_runs_elsewhere_is_followed_until_its_last_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.01)
    finish(tmp_path / "flat0")
    elsewhere = threading.Thread(target=finish, args=(tmp_path / "flat1", "diverged"))
    told: list[dict[str, Any]] = []

    def tell(event: dict[str, Any]) -> None:
        told.append(event)
        if not elsewhere.ident and event["event"] == "progress":
            elsewhere.start()

    monkeypatch.setattr(progress, "TELL_EVERY_S", 0.0)
    watch(Board(tmp_path, [cell("flat", 0), cell("flat", 1)]), Console(file=io.StringIO()), tell)

    assert [event["status"] for event in told if event["event"] == "trial"] == ["diverged"]


def test_following_ends_where_nobody_reads_on_though_trials_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.01)
    monkeypatch.setattr(progress, "TELL_EVERY_S", 0.0)

    def tell(event: dict[str, Any]) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        watch(Board(tmp_path, [cell("flat", 0)]), Console(file=io.StringIO()), tell)


def test_a_trial_that_waits_for_room_shows_it_as_long_as_its_worker_lives(tmp_path: Path) -> None:
    attempts.start(tmp_path, None)
    mark = tmp_path / f"{space.MARK}{24 * 2**20}"
    mark.touch()
    waits = state_of(tmp_path, "abc")
    os.utime(mark, (0, time.time() - space.STALE_S - 1))
    dead = state_of(tmp_path, "abc")
    space.forget(tmp_path)

    assert (waits.kind, waits.needs_bytes, waits.left_s) == ("waiting", 24 * 2**20, None)
    assert "waits for 24 MiB" in waits.mark
    assert waits.to_dict()["status"] == "waiting_for_room"
    assert waits.to_dict()["needs_bytes"] == 24 * 2**20
    assert dead == State("running"), "its worker renews the mark no more"
    assert not mark.exists()


def test_a_full_storage_is_told_once_with_its_place_and_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.01)
    monkeypatch.setattr(space, "free_at", lambda path: 1000)
    console = Console(file=io.StringIO())
    cells = [cell("flat", seed) for seed in range(20)]
    for one in cells[:3]:
        (tmp_path / one["trial_id"]).mkdir()
        (tmp_path / one["trial_id"] / f"{space.MARK}{2**20}").touch()
    with Progress(tmp_path, cells, console) as shown:
        while not shown.board.now("waiting_for_room"):
            time.sleep(0.01)

    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("the storage is full") == 1
    assert f"a trial needs 1 MiB at {tmp_path.parent}, where 1,000 B are free; trials wait 10 min" in said
    assert shown.board.counts() == {"done": 0, "running": 0, "failed": 0, "waiting": 20}
    console.print(table_of(cells, shown.board.states))
    assert "20 (3 for room)" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("seeds", [3, 20])
def test_a_narrow_table_cuts_off_no_point_of_the_grid(seeds: int) -> None:
    labels = ["flat,kv_method=right_crop,lr=0.0001", "flat,kv_method=right_crop,lr=0.0003"]
    cells = [
        {"trial_id": f"{label}{seed}", "arm": label, "seed": seed, "config_hash": ""}
        for label in labels
        for seed in range(seeds)
    ]
    console = Console(width=50, file=io.StringIO())

    console.print(table_of(cells, {cell["trial_id"]: State("waiting") for cell in cells}))

    assert isinstance(console.file, io.StringIO)
    firsts = [line.split("│")[1].strip() for line in console.file.getvalue().splitlines() if "│" in line]
    assert "".join(firsts) == "".join(labels)
