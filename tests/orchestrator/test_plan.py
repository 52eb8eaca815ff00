"""What a run will cost and can show: counted, measured, added up; and what is refused before it starts."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from rich.console import Console

from analysis.power import detectable_dz
from orchestrator import plan
from orchestrator.child import Objective
from orchestrator.launch import run
from orchestrator.plan import Forecast, forecast, makespan, refuse_full_disk
from orchestrator.plan_text import effect_lines, print_forecast
from orchestrator.spec import load_spec, spec_from
from tests.analysis.questions import judged
from tests.fakes import EVAL, FAKE, PACED, SAVE, STEP, experiment
from tests.orchestrator.test_capacity import CLUSTER
from tests.orchestrator.test_cli import answer
from tests.orchestrator.test_run import arms, run_serially
from trainables.config import InputError

WHOLE = {"max_steps": 100, "save_steps": 40, "eval_steps": 25, "logging_steps": 10, "save_total_limit": 2}


def forecast_of(
    place: Path, objective: Objective = PACED, address: str = "serial", **changes: Any
) -> Forecast:
    spec = spec_from(experiment(**changes), "test")
    return forecast(spec, storage=place, address=address, objective=objective)


def whole(**changes: Any) -> dict[str, Any]:
    return {"base": {**experiment()["base"], **WHOLE}, **changes}


def text_of(found: Forecast) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_forecast(found, console)
    told = console.file
    assert isinstance(told, io.StringIO)
    return told.getvalue()


def test_a_probe_tells_step_checkpoint_and_evaluation_apart(place: Path) -> None:
    (flat, structured) = forecast_of(place, **whole()).arms

    for cost in (flat, structured):
        assert cost.step_s == pytest.approx(STEP)
        assert cost.save_s == pytest.approx(SAVE)
        assert cost.eval_s == pytest.approx(EVAL)
        assert (cost.checkpoint_bytes, cost.peak_bytes) == (1000, 10**8)
        assert cost.start_s >= 0


def test_a_trial_costs_its_steps_evaluations_and_checkpoints(place: Path) -> None:
    found = forecast_of(place, **whole())

    cost = found.arms[0]
    one = cost.start_s + 100 * STEP + 4 * EVAL + 3 * SAVE
    assert found.trial_s["flat"] == pytest.approx(one)
    assert (found.trials, found.to_run, found.steps, found.steps_left) == (4, 4, 400, 400)
    assert found.disk_bytes["checkpoints"] == 4 * 2 * 1000
    assert found.total_s == pytest.approx(sum(2 * seconds for seconds in found.trial_s.values()))
    assert found.slots == 1
    assert found.wall_s >= found.total_s


def test_what_is_done_already_costs_nothing(place: Path) -> None:
    run(spec_from(experiment(**whole(seeds=[0])), "test"), storage=place, address="serial", objective=PACED)
    (next(place.glob("fake/trials/flat-seed0-*")) / "result.json").unlink()

    found = forecast_of(place, **whole())

    assert (found.trials, found.done, found.to_run) == (4, 1, 3)
    assert found.steps_left == 200, "the trial whose result was lost has its last checkpoint"


def test_with_nothing_to_run_nothing_is_probed(place: Path) -> None:
    run_serially(place)

    found = forecast_of(place, replace(FAKE, distill="tests.fakes:nowhere"))

    assert (found.to_run, found.arms, found.wall_s, found.disk_bytes["all"]) == (0, (), 0, 0)


def test_nothing_is_left_behind(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    forecast_of(place / "storage")

    assert list(place.iterdir()) == []


def test_an_arm_whose_probe_fails_is_refused_by_its_name(place: Path) -> None:
    with pytest.raises(InputError, match=r"arm 'bad': its probe of 6 steps ended as crashed \(.*boom"):
        forecast_of(place, FAKE, **arms(bad=3e-3, good=1e-3))


def test_what_run_refuses_plan_refuses(place: Path) -> None:
    with pytest.raises(InputError, match=r"resources\.cpus: a trial needs 4096 CPUs"):
        forecast_of(place, resources={"cpus": 4096})
    with pytest.raises(InputError, match=r"arm 'flat': --train_file nowhere\.jsonl"):
        forecast_of(place, replace(FAKE, check="tests.fakes:refuse"))


class Usage(NamedTuple):
    """Of a disk, as shutil tells it."""

    total: int = 10**6
    used: int = 10**6 - 500
    free: int = 500


def test_a_disk_that_the_run_would_fill_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage())
    found = forecast_of(place, **whole())
    with pytest.raises(InputError, match=r"the run will write .* and 500 B are free"):
        refuse_full_disk(found)

    weighed = replace(FAKE, weigh="tests.fakes:heavy")
    with pytest.raises(
        InputError, match=r"the checkpoints to come take 3.91 KiB at least and 500 B are free"
    ):
        run(spec_from(experiment(), "test"), storage=place, address="serial", objective=weighed)
    assert not (place / "fake").exists()


def test_a_plan_for_a_cluster_file_counts_nothing_of_this_machine(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_serially(place)
    (place / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER, sort_keys=False))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage())
    console = Console(file=io.StringIO(), width=200)
    edited = spec_from(experiment(**whole(seeds=[1])), "test")

    found = forecast(
        edited, storage=place, address=str(place / "cluster.yaml"), objective=PACED, console=console
    )

    refuse_full_disk(found)
    told = text_of(found)
    assert (found.done, found.folder, found.free_bytes, found.machine_bytes) == (None, None, None, None)
    assert (found.to_run, found.steps_left, found.effect.known) == (2, 200, ())
    assert told.startswith("fake: 2 trials, 2 to run: 200 of 200 steps\n")
    assert (
        "\nnot known here: what the cluster's storage holds (no trial counts as done) and has free, " in told
    )
    assert not any(words in told for words in (" free at ", "this one has", str(place / "fake")))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "fake: seed 1 alone; one seed is 0\n"


def test_a_folder_of_somebody_elses_is_none_of_a_cluster_files_business(place: Path) -> None:
    (place / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER, sort_keys=False))
    (place / "fake").write_text("no folder")

    assert forecast_of(place, address=str(place / "cluster.yaml"), **whole()).to_run == 4


def test_trials_are_taken_in_order_by_the_slot_that_is_free_first() -> None:
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 1, 3], 2) == 4
    assert makespan([], 2) == 0


def test_too_few_seeds_are_not_testable_and_told_how_many_are(place: Path) -> None:
    found = forecast_of(place, seeds=list(range(5)))

    assert found.effect.dz is None
    assert "NOT TESTABLE: the smallest exact p of 5 pairs is 0.062, above alpha 0.05; 6 seeds" in text_of(
        found
    )


def test_the_detectable_effect_shares_alpha_among_looks_and_treatments(place: Path) -> None:
    analysis = {"baseline": "flat", "sesoi": 0.05, "looks": [8, 12]}
    three = {**experiment()["arms"], "four": {"target_len": 4}}
    found = forecast_of(place, seeds=list(range(12)), arms=three, analysis=analysis).effect

    assert found.alpha == pytest.approx(0.05 / 2 / 2)
    assert found.dz == pytest.approx(detectable_dz(12, 0.05 / 4))
    assert found.sd_for_sesoi == pytest.approx(0.05 / found.dz)


@pytest.mark.parametrize("pairs", [6, 16, 20])
def test_the_smallest_p_is_the_one_that_the_report_can_give(place: Path, pairs: int) -> None:
    """Above 16 pairs signs are drawn, and no p is smaller than one in all draws."""
    found = forecast_of(place, seeds=list(range(pairs))).effect
    report = judged([0.0] * pairs, [1.0 + seed for seed in range(pairs)])

    assert found.floor == report.floor <= report.p_signflip
    assert found.alpha == report.alpha
    assert f"their smallest exact p is {report.floor:.2g}" in "".join(effect_lines(found))


def test_earlier_results_turn_the_effect_into_the_metrics_unit(place: Path) -> None:
    run_serially(place, seeds=[0, 1, 2])

    found = forecast_of(place, seeds=list(range(8)))

    (known,) = found.effect.known
    assert known["pairs"] == 3
    assert known["detectable"] == pytest.approx(found.effect.dz * known["sd"])
    assert known["upper_sd"] > known["sd"]
    assert "by the SD of 3 earlier pairs" in text_of(found)
    assert "difference" not in known


def test_an_edit_of_finished_trials_is_shown(place: Path) -> None:
    run_serially(place)
    console = Console(file=io.StringIO(), width=200)
    edited = {"base": {**experiment()["base"], "target_len": 4}}

    forecast(
        spec_from(experiment(**edited), "t"),
        storage=place,
        address="serial",
        objective=PACED,
        console=console,
    )

    assert isinstance(console.file, io.StringIO)
    assert "every arm: target_len: 8 -> 4 (4 finished trials set aside)" in console.file.getvalue()


def test_the_command_prints_text_or_one_json_object(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "Objective", lambda: PACED)
    options = ["smoke", "--storage", str(place), "--address", "serial"]

    code, out, _ = answer(capsys, "plan", *options)
    assert code == 0
    assert out.startswith("smoke: 4 trials, 4 to run: 48 of 48 steps")
    assert all(f"\n{word}: " in out for word in ("time", "disk", "memory", "effect"))

    code, out, _ = answer(capsys, "plan", *options, "--json")
    told = json.loads(out)
    assert told["arms"][0]["step_s"] == pytest.approx(STEP)
    assert told["effect"]["dz"] is None


@pytest.mark.slow
def test_a_real_probe_is_near_what_the_trials_take(place: Path) -> None:
    spec = load_spec("smoke", ["base.max_steps=40", "base.eval_steps=20"], "0")

    found = forecast(spec, storage=place, address="serial")
    assert list(place.iterdir()) == []
    summary = run(spec, storage=place, address="serial")

    for trial in summary.trials:
        assert trial.result is not None
        (cost,) = (cost for cost in found.arms if cost.arm == trial.cell["arm"])
        trained = found.trial_s[cost.arm] - cost.start_s
        assert 1 / 3 < trained / trial.result["wall_s"] < 3, (trained, trial.result["wall_s"])
    for kind, files in (
        ("checkpoints", "smoke/trials/*/checkpoint-*/*"),
        ("teacher cache", ".teacher-cache/*/*"),
    ):
        size = sum(path.stat().st_size for path in place.glob(files))
        assert found.disk_bytes[kind] == pytest.approx(size, rel=0.1), kind
    assert forecast(spec, storage=place, address="serial").to_run == 0
    more = forecast(load_spec("smoke", [], "1"), storage=place, address="serial")
    assert more.lessons_s == more.disk_bytes["teacher cache"] == 0, "the cache is there already"
