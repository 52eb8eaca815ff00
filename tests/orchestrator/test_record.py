"""The record of a finished trial, changed behind its back: told by name, set aside, computed anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.records import ResultsFolder
from orchestrator import trial
from orchestrator.attempts import Outcome
from orchestrator.child import Job, Row
from orchestrator.collect import read_trials
from orchestrator.launch import Summary
from orchestrator.progress import board_of
from tests.fakes import STEPS, distill
from tests.orchestrator.test_run import run_serially, table
from trainables.config import DistillConfig
from trainables.trial_folder import TrialFolder

Strike = Callable[[Path], None]


def run_here(job: Job, on_row: Callable[[Row], None], wanted: object = None) -> Outcome:
    """The fake trial without a process of its own: only its record matters here."""
    result = distill(DistillConfig.from_dict(job.config), on_row, TrialFolder(job.folder).newest_checkpoint())
    return Outcome(result["status"], result["failure_reason"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of the fake wrote."""
    return run_serially(tmp_path_factory.mktemp("finished")).folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, whose trials run without processes."""
    monkeypatch.setattr(trial, "run_in_child", run_here)
    return Path(shutil.copytree(finished, tmp_path / "fake"))


def victim(folder: Path) -> Path:
    return next(folder.glob("trials/flat-seed0-*"))


def curves(folder: Path) -> dict[str, list[Any]]:
    """Every trial's rows and answers, apart from how long it took."""
    trials = [path for path in sorted((folder / "trials").iterdir()) if ".corrupt-" not in path.name]
    return {
        path.name: [
            *(
                {**row, "wall_s": 0, "metrics": str(row["metrics"])}
                for row in TrialFolder(path).read_metrics()
            ),
            *TrialFolder(path).read_items(),
        ]
        for path in trials
    }


def gone(name: str) -> Strike:
    return lambda trial: (trial / name).unlink()


def edited(name: str, edit: Callable[[bytes], bytes]) -> Strike:
    def strike(trial: Path) -> None:
        (trial / name).write_bytes(edit((trial / name).read_bytes()))

    return strike


def of_another_trial(trial: Path) -> None:
    shutil.copy(next(trial.parent.glob("flat-seed1-*")) / "result.json", trial / "result.json")


LATER = b'{"step": 99, "epoch": 9, "tokens": 9, "wall_s": 9, "split": "eval", "n_items": 4, "metrics": {}}\n'
STRIKES: dict[str, tuple[Strike, str]] = {
    "metrics gone": (
        gone("metrics.jsonl"),
        f"metrics.jsonl is gone, and result.json tells of {STEPS + 1} rows",
    ),
    "metrics emptied": (edited("metrics.jsonl", lambda text: b""), "metrics.jsonl has 0 rows"),
    "a row less": (edited("metrics.jsonl", lambda text: text[text.index(b"\n") + 1 :]), f"has {STEPS} rows"),
    "a number altered": (
        edited("metrics.jsonl", lambda text: text.replace(b'"n_items": 4', b'"n_items": 5', 1)),
        "metrics.jsonl is not as the trial wrote it (SHA-256)",
    ),
    "last row torn": (edited("metrics.jsonl", lambda text: text[:-9]), f"metrics.jsonl has {STEPS} rows"),
    "a row beyond the last step": (
        edited("metrics.jsonl", lambda text: text + LATER),
        f"has {STEPS + 2} rows",
    ),
    "a row twice": (
        edited("metrics.jsonl", lambda text: text + text[: text.index(b"\n") + 1]),
        f"has {STEPS + 2} rows",
    ),
    "bytes appended": (edited("metrics.jsonl", lambda text: text + b" "), "metrics.jsonl is not as"),
    "answers gone": (gone("predictions.jsonl"), "predictions.jsonl is gone, and result.json tells of 4 rows"),
    "answers emptied": (edited("predictions.jsonl", lambda text: b""), "predictions.jsonl has 0 rows"),
    "answers altered": (
        edited("predictions.jsonl", lambda text: text.replace(b"false", b"true")),
        "predictions.jsonl is not as",
    ),
    "config gone": (gone("config.json"), "config.json is gone, and the trial has a result"),
    "config altered": (
        edited("config.json", lambda text: text.replace(b"0.001", b"0.5")),
        "config.json is of",
    ),
    "result altered": (
        edited("result.json", lambda text: text.replace(b'"tokens_seen": 40', b'"tokens_seen": 41')),
        "result.json is not as the trial wrote it (SHA-256)",
    ),
    "result of another trial": (of_another_trial, "result.json is of configuration"),
}


@pytest.mark.parametrize("name", STRIKES)
def test_a_changed_record_is_a_crash_that_names_the_file_and_the_next_run_heals_it(
    folder: Path, name: str
) -> None:
    strike, said = STRIKES[name]
    before = curves(folder)
    strike(victim(folder))

    (told,) = [found for found in read_trials(ResultsFolder(folder)) if found.status != "completed"]
    again = run_serially(folder.parent)

    assert (told.status, told.cell["arm"], told.cell["seed"]) == ("crashed", "flat", 0)
    assert said in str(told.reason)
    assert (again.started, again.exit_code) == (1, 0)
    assert curves(folder) == before, "to the same bits, and the other trials untouched"
    assert victim(folder).with_name(f"{victim(folder).name}.corrupt-1").is_dir(), "what was there is kept"


def test_the_board_shows_a_changed_record_as_crashed(folder: Path) -> None:
    (victim(folder) / "metrics.jsonl").write_bytes(b"")

    board = board_of(str(folder))

    assert board.states[victim(folder).name].status == "crashed"
    assert board.counts() == {"done": 3, "running": 0, "failed": 1, "waiting": 0}


def unseal(folder: Path) -> None:
    """As the version before wrote its results."""
    for path in folder.glob("trials/*/result.json"):
        result = json.loads(path.read_text())
        del result["record"]
        path.write_text(json.dumps(result))


def reasons(summary: Summary) -> list[Any]:
    return list(table(summary)["failure_reason"].dropna())


def test_results_of_before_there_was_a_seal_stay_valid(folder: Path) -> None:
    unseal(folder)

    again = run_serially(folder.parent)

    assert (again.started, again.exit_code, reasons(again)) == (0, 0, [])


@pytest.mark.parametrize(
    ("strike", "said"),
    [
        (gone("metrics.jsonl"), "metrics.jsonl is gone, and the trial has a result"),
        (edited("metrics.jsonl", lambda text: b""), "metrics.jsonl is empty, and the trial has a result"),
        (edited("metrics.jsonl", lambda text: text[:-9]), "metrics.jsonl ends within a row"),
    ],
)
def test_a_finished_trial_without_a_seal_has_its_rows_all_the_same(
    folder: Path, strike: Strike, said: str
) -> None:
    unseal(folder)
    strike(victim(folder))

    (told,) = [found for found in read_trials(ResultsFolder(folder)) if found.status != "completed"]

    assert said in str(told.reason)
    assert run_serially(folder.parent).started == 1


def test_a_diverged_trial_has_no_answers_and_none_may_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "run_in_child", run_here)
    folder = run_serially(
        tmp_path, base={"model_name": "tiny-llama", "dataset": "arithmetic", "lr": 2e-3}
    ).folder
    assert {found.status for found in read_trials(ResultsFolder(folder))} == {"diverged"}

    (victim(folder) / "predictions.jsonl").write_text('{"item_id": "a", "correct": true}\n')

    (told,) = [found for found in read_trials(ResultsFolder(folder)) if found.status != "diverged"]
    assert told.reason == "predictions.jsonl is there, and result.json knows of none"
