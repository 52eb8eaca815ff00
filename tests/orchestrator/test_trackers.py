"""TensorBoard, MLflow and W&B: one run per trial, whatever happens to it, and no trial feels them."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import trackers
from orchestrator.launch import Summary, run
from orchestrator.spec import spec_from
from tests.fakes import FAKE, STEPS, experiment
from tests.orchestrator.test_run import arms
from trainables.config import InputError
from trainables.trial_folder import TrialFolder

SECRET = "hunter2-hunter2"


def run_with(place: Path, *names: str, address: str = "serial", **changes: Any) -> tuple[Summary, str]:
    console = Console(file=io.StringIO(), width=200)
    spec = spec_from(experiment(trackers=list(names), **changes), "test")
    summary = run(spec, storage=place, address=address, objective=FAKE, console=console)
    return summary, console.file.getvalue()  # type: ignore[attr-defined]


def logged_steps() -> Counter[tuple[str, int]]:
    """What each tracker of one trial of the fake must hold: every value once."""
    train = [(f"train/{name}", step) for name in ("loss", "ce", "grad_norm") for step in range(1, STEPS + 1)]
    return Counter([*train, ("eval/eval_ce", STEPS), ("eval/eval_accuracy", STEPS)])


def tensorboard_of(trial: Path) -> Counter[tuple[str, int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(trial))
    found.Reload()
    tags = found.Tags()["scalars"]
    return Counter((tag, event.step) for tag in tags for event in found.Scalars(tag))


def mlflow_runs(folder: Path) -> Iterator[tuple[Any, Counter[tuple[str, int]]]]:
    client, _ = trackers._mlflow_client(folder)
    known = client.get_experiment_by_name(folder.name)
    for found in client.search_runs([known.experiment_id]):
        steps = [
            (key, metric.step)
            for key in found.data.metrics
            for metric in client.get_metric_history(found.info.run_id, key)
        ]
        yield found, Counter(steps)


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, as W&B writes it: 32 KiB blocks, parts with 7-byte heads."""
    place, record = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def wandb_runs(folder: Path) -> dict[str, tuple[Any, Counter[tuple[str, int]]]]:
    """Every W&B run written offline, by its id: what describes it, and what it holds."""
    from wandb.proto.wandb_internal_pb2 import Record

    runs: dict[str, tuple[Any, Counter[tuple[str, int]]]] = {}
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        about, steps = None, []
        for record in map(Record.FromString, log_records(path.read_bytes())):
            if record.HasField("run"):
                about = record.run
            step = record.history.step.num
            steps += [(".".join(item.nested_key) or item.key, step) for item in record.history.item]
        assert about is not None
        before = runs.get(about.run_id, (None, Counter()))[1]
        runs[about.run_id] = about, before + Counter(pair for pair in steps if not pair[0].startswith("_"))
    return runs


def test_every_trial_has_its_curves_in_all_three_and_a_second_attempt_adds_no_second_point(
    place: Path,
) -> None:
    fates = arms(good=1e-3, shaky=5e-3)
    summary, said = run_with(place, "tensorboard", "mlflow", "wandb", **fates, seeds=[3])

    assert "tracker left out" not in said
    assert all(tensorboard_of(path) == logged_steps() for path in (summary.folder / "trials").iterdir())
    in_mlflow = {found.data.tags["arm"]: (found, steps) for found, steps in mlflow_runs(summary.folder)}
    assert {arm: steps for arm, (_, steps) in in_mlflow.items()} == dict.fromkeys(
        ("good", "shaky"), logged_steps()
    )
    found = in_mlflow["shaky"][0]
    assert found.info.status == "FINISHED"
    assert found.data.tags["seed"] == "3"
    assert found.data.params["lr"] == "0.005"
    in_wandb = list(wandb_runs(summary.folder).values())
    assert [steps for _, steps in in_wandb] == [logged_steps()] * 2
    assert {(about.run_group, *about.tags) for about, _ in in_wandb} == {
        ("fake", "arm: good", "seed: 3"), ("fake", "arm: shaky", "seed: 3"),
    }  # fmt: skip


def test_a_trial_tried_again_by_a_later_launch_goes_on_with_its_runs(place: Path) -> None:
    names = ("tensorboard", "mlflow", "wandb")
    fates = {**arms(good=1e-3, bad=3e-3), "seeds": [0], "resources": {"max_failures": 0}}
    first, _ = run_with(place, *names, **fates)
    states = {run.data.tags["arm"]: run.info.status for run, _ in mlflow_runs(first.folder)}
    again, _ = run_with(place, *names, **fates)

    bad = next(again.folder.glob("trials/bad-*"))
    assert states == {"good": "FINISHED", "bad": "FAILED"}
    assert len(list(mlflow_runs(again.folder))) == len(wandb_runs(again.folder)) == 2
    assert set(tensorboard_of(bad).values()) == {1}
    assert [set(steps.values()) for _, steps in mlflow_runs(again.folder)] == [{1}, {1}]


def test_what_a_killed_worker_left_in_the_trials_file_reaches_the_trackers(place: Path) -> None:
    summary, _ = run_with(place, "tensorboard", seeds=[0])
    trial = next(summary.folder.glob("trials/flat-*"))
    for path in (*trial.glob("events.*"), trial / "result.json"):
        path.unlink()
    (trial / trackers.STATE).write_text(json.dumps({"tensorboard": {"logged": {"train": 2}}}))

    run_with(place, "tensorboard", seeds=[0])

    assert tensorboard_of(trial) == Counter(
        pair for pair in logged_steps() if pair[0].startswith("eval/") or pair[1] > 2
    )


class Broken:
    def __init__(self, job: object, state: object) -> None:
        raise OSError(f"cannot reach https://user:{SECRET}@mlflow.example/")


def test_a_tracker_that_fails_is_told_once_and_fails_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.WRITERS, "mlflow", Broken)  # type: ignore[arg-type]
    summary, said = run_with(place, "mlflow", "tensorboard", seeds=[0, 1])

    assert summary.counts == {"completed": 4}
    assert said.count("tracker left out of some trial: mlflow: OSError: cannot reach https://***@") == 1
    assert SECRET not in said
    assert all(tensorboard_of(path) == logged_steps() for path in (summary.folder / "trials").iterdir())


def test_a_tracker_that_hangs_holds_a_slot_no_longer_than_agreed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = threading.Event()
    monkeypatch.setitem(trackers.WRITERS, "wandb", lambda job, state: hung.wait(60))  # type: ignore[arg-type]
    monkeypatch.setattr(trackers, "CLOSE_S", 0.05)

    summary, said = run_with(place, "wandb", seeds=[0])
    hung.set()

    assert summary.counts == {"completed": 2}
    assert "not done 0.05 s after the trial" in said


def test_trackers_change_no_bit_of_a_trial(place: Path) -> None:
    plain, _ = run_with(place / "plain")
    watched, _ = run_with(place / "watched", "tensorboard", "mlflow")

    def rows(summary: Summary) -> dict[str, list[dict[str, Any]]]:
        found = {
            path.name: list(TrialFolder(path).read_metrics())
            for path in (summary.folder / "trials").iterdir()
        }
        return {name: [{**row, "wall_s": None} for row in kept] for name, kept in found.items()}

    assert rows(plain) == rows(watched)
    assert not list(plain.folder.glob("trials/*/trackers.json"))


def test_a_tracker_without_its_package_is_refused_and_named_with_its_extra(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "wandb" else name)

    with pytest.raises(InputError, match=r"trackers: wandb .* pip install 'kvtune\[wandb\]'"):
        run_with(place, "tensorboard", "wandb")
    assert not (place / "fake").exists()


def test_an_unknown_tracker_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(InputError, match="Did you mean 'mlflow'"):
        spec_from(experiment(trackers=["mlfow"]), "test")


@pytest.mark.ray
def test_under_ray_the_workers_feed_the_trackers(place: Path, ray_here: None) -> None:
    summary, said = run_with(place, "tensorboard", "mlflow", "wandb", address="local", seeds=[0])

    assert "tracker left out" not in said
    assert [steps for _, steps in mlflow_runs(summary.folder)] == [logged_steps()] * 2
    assert [steps for _, steps in wandb_runs(summary.folder).values()] == [logged_steps()] * 2
    assert all(tensorboard_of(path) == logged_steps() for path in (summary.folder / "trials").iterdir())
