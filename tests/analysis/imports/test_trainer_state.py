"""trainer_state.json as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerState

from analysis import ResultsError
from tests.analysis.imports.records import DIFFERENCE, STEPS, judged, mapped, remarks, statuses, value

MAPPING = mapped(
    arm={"run": "^([AB])-"}, seed={"run": "-([0-9]+)$"}, step=None,
    metrics={"val_loss": {"column": "eval_loss", "direction": "min"}},
)  # fmt: skip


def save(folder: Path, arm: str, seed: int, upto: int = 300) -> None:
    """An output folder: a checkpoint at every evaluation, and at the end the state itself."""
    state = TrainerState(max_steps=300, num_train_epochs=3)
    output = folder / f"{arm}-{seed}"
    for step in (step for step in STEPS if step <= upto):
        state.global_step, state.epoch = step, step / 100
        state.log_history.append({"loss": 3.0, "learning_rate": 1e-4, "epoch": step / 100, "step": step})
        row = {"eval_loss": value(arm, seed, step), "eval_runtime": 1.0, "epoch": step / 100, "step": step}
        state.log_history.append(row)
        (output / f"checkpoint-{step}").mkdir(parents=True)
        state.save_to_json(str(output / f"checkpoint-{step}" / "trainer_state.json"))
    if upto == 300:
        state.log_history.append({"train_runtime": 9.0, "train_loss": 3.0, "epoch": 3.0, "step": 300})
        state.save_to_json(str(output / "trainer_state.json"))


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for arm in "AB":
        for seed in range(6):
            save(tmp_path / "outputs", arm, seed)
    return tmp_path / "outputs"


def test_every_output_folder_is_a_run(outputs: Path, tmp_path: Path) -> None:
    found = judged("huggingface", outputs, MAPPING, tmp_path / "out")

    assert (found.verdict, found.difference) == ("SUPERIOR", pytest.approx(DIFFERENCE))


def test_a_run_without_its_last_state_is_told_by_its_furthest_checkpoint(
    outputs: Path, tmp_path: Path
) -> None:
    for folder in ("outputs/B-9", "outputs/A-9"):
        save(tmp_path / folder.split("/")[0], folder[-3], 9, upto=200 if "B" in folder else 300)

    found = judged("huggingface", outputs, MAPPING, tmp_path / "out")

    assert (found.planned, found.pairs) == (7, 6)
    assert statuses(tmp_path / "out")["B-seed9"] == (
        "stopped",
        "ended at step 200 of 300, no reason on record",
    )


def test_runs_that_all_fell_short_of_their_plan_are_not_complete(tmp_path: Path) -> None:
    for arm in "AB":
        for seed in range(6):
            save(tmp_path / "outputs", arm, seed, upto=200)

    assert judged("huggingface", tmp_path / "outputs", MAPPING, tmp_path / "out").pairs == 0


def test_a_state_without_a_history_is_named(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text("{}")

    with pytest.raises(ResultsError, match=r"trainer_state\.json has no log_history"):
        judged("huggingface", tmp_path, MAPPING, tmp_path / "out")


def test_a_run_that_ended_is_complete_though_it_logged_last_before_its_end(tmp_path: Path) -> None:
    for arm in "AB":
        for seed in range(6):
            save(tmp_path / "outputs", arm, seed, upto=200)
    for file in tmp_path.rglob("checkpoint-200/trainer_state.json"):
        state = TrainerState.load_from_json(str(file))
        state.global_step = state.max_steps = 250
        state.save_to_json(str(file))

    assert judged("huggingface", tmp_path / "outputs", MAPPING, tmp_path / "out").pairs == 6


def test_planned_steps_are_no_epochs(outputs: Path, tmp_path: Path) -> None:
    for folder in outputs.iterdir():
        (folder / "trainer_state.json").unlink()
        state = TrainerState.load_from_json(str(folder / "checkpoint-300" / "trainer_state.json"))
        state.max_steps = 900
        state.save_to_json(str(folder / "checkpoint-300" / "trainer_state.json"))

    assert judged("huggingface", outputs, MAPPING | {"step": "epoch"}, tmp_path / "epochs").pairs == 6
    assert judged("huggingface", outputs, MAPPING, tmp_path / "steps").pairs == 0
    assert "12 of 12 runs ended before step 900" in remarks(tmp_path / "steps")


def test_a_run_that_ended_before_its_first_log_is_a_run(outputs: Path, tmp_path: Path) -> None:
    (outputs / "B-1" / "trainer_state.json").write_text('{"log_history": [], "max_steps": 300}')

    judged("huggingface", outputs, MAPPING, tmp_path / "out")

    assert statuses(tmp_path / "out")["B-seed1"][0] == "stopped"
