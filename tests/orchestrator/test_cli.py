"""The command line: what it answers, how fast, and with which exit code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import cli, launch
from tests.fakes import FAKE, experiment, write_experiment
from tests.orchestrator.clusters import listening_beyond_this_machine, wait_for
from tests.orchestrator.test_run import arms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake in place of the distillation."""
    monkeypatch.setattr(launch, "Objective", lambda: FAKE)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


BAD = [
    (["rnu"], "Did you mean 'run'?"),
    (["run", "quickstrat"], "Did you mean 'quickstart'?"),
    (["run", "--sed", "3"], "Did you mean '--seeds'?"),
    (["run", "--seeds", "many"], "'many'"),
    (["run", "--seeds"], "--seeds"),
    (["run", "smoke", "other"], "other"),
    (["run", "smoke", "--set", "base.lr"], "field=value"),
    (["run", "smoke", "--set", "base.epcohs=1"], "Did you mean 'epochs'?"),
    (["run", "smoke", "--set", "analysis.margin=-1"], "analysis.margin"),
    (["run", "smoke", "--address", "locla"], "Did you mean 'local'?"),
    (["run", "smoke", "--address", "127.0.0.1:1"], "--address 127.0.0.1:1 does not answer"),
    (["run", "smoke", "--address", "127.0.0.1:x"], "--address 127.0.0.1:x does not answer"),
    (["run", "smoke", "--storage", "s3://bucket/x"], "--storage"),
    (["run", "smoke", "--storage", "/proc/nowhere", "--address", "serial"], "--storage"),
    (["run", "ab", "--set", "base.model_name=tiny-gpt2", "base.train_file=nowhere.jsonl"], "nowhere.jsonl"),
    (["report"], "report"),
    (["report", "/nowhere"], "/nowhere"),
    (["status", "/nowhere"], "/nowhere"),
    ([], "run"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, _, err = answer(capsys, *arguments)

    assert code == 2
    assert err.startswith("kvtune: error: ")
    assert err.count("\n") == 1
    assert said in err


def test_help_answers_within_half_a_second_of_cpu_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom orchestrator.cli import main\nassert main(['--help']) == 0\n"
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow', 'transformers', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\nimport time\nassert time.process_time() < 0.5, time.process_time()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in cli.COMMANDS)


@pytest.mark.usefixtures("fake")
def test_a_run_ends_with_the_verdict_the_arms_and_the_report(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(place)
    code, out, err = answer(capsys, "run", str(path), "--storage", str(place), "--address", "serial")

    assert code == 0, "NOT TESTABLE is a verdict, not a failed run"
    assert out.startswith("NOT TESTABLE")
    assert "flat" in out
    assert f"report: {place / 'fake' / 'report' / 'report.html'}" in out
    assert (place / "fake" / "report" / "report.html").is_file()
    assert err.count(": completed at step 4\n") == 4


@pytest.mark.usefixtures("fake")
def test_a_report_says_not_testable_by_exit_code_3(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "run", str(write_experiment(place)), "--storage", str(place), "--address", "serial")

    assert answer(capsys, "report", str(place / "fake"))[0] == 3


GRID = {"arms": {name: {"target_len": size} for name, size in (("flat", 2), ("b", 3), ("c", 4))},
        "grid": {"lr": [1e-3, 1.5e-3]}}  # fmt: skip


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("command", ["run", "report"])
def test_with_several_arms_every_planned_comparison_has_its_verdict_at_the_end(
    place: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = write_experiment(place, **GRID, seeds=list(range(9)))
    _, out, _ = answer(capsys, "run", str(path), "--storage", str(place), "--address", "serial")
    if command == "report":
        _, out, _ = answer(capsys, "report", str(place / "fake"))

    said = [line for line in out.splitlines() if " against " in line]
    names = [f"{arm},lr={lr} against flat,lr={lr}: " for lr in (0.001, 0.0015) for arm in "bc"]
    assert sorted(line.partition(": ")[0] + ": " for line in said) == sorted(names)
    assert all("DEGENERATE" in line or "INCONCLUSIVE" in line for line in said)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("lr", [1e-3, 3e-3])
def test_an_invalid_contrast_ends_the_run_with_code_2_whatever_else_happened(
    place: Path, capsys: pytest.CaptureFixture[str], lr: float
) -> None:
    """A seed that ran is taken out of the plan; at 3e-3 an arm's trials crash as well, which alone is 1."""
    path = write_experiment(place, **arms(good=1.5e-3, other=lr))
    options = ["run", str(path), "--storage", str(place), "--address", "serial", "--yes"]
    first = answer(capsys, *options)[0]

    code, out, _ = answer(capsys, *options, "--seeds", "1")
    as_json = answer(capsys, *options, "--seeds", "1", "--json")

    assert first == (1 if lr == 3e-3 else 0)
    assert (code, as_json[0], json.loads(as_json[1].splitlines()[-1])["exit_code"]) == (2, 2, 2)
    assert "INVALID: other against good was not tested" in out
    assert answer(capsys, "report", str(place / "fake"))[0] == 2


@pytest.mark.usefixtures("fake")
def test_overrides_are_repeatable_and_seeds_replace_the_files(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(place)
    options = ["--set", "base.lr=2e-3", "name=other", "--set", "analysis.margin=0.5", "--seeds", "7"]
    answer(capsys, "run", str(path), "--storage", str(place), "--address", "serial", *options)

    plan = json.loads((place / "other" / "plan.json").read_text())
    assert plan["seeds"] == [7]
    assert plan["analysis"]["primary"]["margin"] == 0.5
    assert len(list((place / "other" / "trials").iterdir())) == 2


@pytest.mark.usefixtures("fake")
def test_failed_trials_are_listed_with_their_reason_and_exit_code_1(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(place, **arms(good=1e-3, bad=3e-3))
    code, out, _ = answer(capsys, "run", str(path), "--storage", str(place), "--address", "serial")

    assert code == 1
    assert "2 of 4 trials have no result (2 completed, 2 crashed)" in out
    assert "bad seed 0: crashed, 2 attempts: RuntimeError: boom" in out


@pytest.mark.usefixtures("fake")
def test_status_shows_every_trial(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_experiment(place, **arms(good=1e-3, bad=3e-3, wild=2e-3))
    answer(capsys, "run", str(path), "--storage", str(place), "--address", "serial")

    code, out, _ = answer(capsys, "status", str(place / "fake"))

    assert code == 0
    assert out.count("done") == out.count("crashed") == out.count("diverged") == 2


@pytest.mark.usefixtures("fake")
def test_json_is_all_that_stdout_holds_and_ends_with_a_summary(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(place, **arms(good=1e-3, bad=3e-3))
    options = ["--storage", str(place), "--address", "serial", "--json"]
    code, out, err = answer(capsys, "run", str(path), *options)

    lines = [json.loads(line) for line in out.splitlines()]
    summary = lines[-1]
    assert code == summary["exit_code"] == 1
    assert {line["event"] for line in lines[:-1]} <= {"trial", "progress"}
    assert {line["trial_id"] for line in lines[:-1] if line.get("status") == "completed"} == {
        trial["trial_id"] for trial in summary["trials"] if trial["status"] == "completed"
    }
    assert summary["counts"] == {"completed": 2, "crashed": 2}
    assert summary["report"]["verdict"] == "NOT TESTABLE"
    assert "boom at step 1" in next(trial["reason"] for trial in summary["trials"] if trial["arm"] == "bad")
    assert "completed at step 4" in err, "people are still told, on stderr"


@pytest.mark.usefixtures("fake")
def test_status_and_report_print_one_json_object_each(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "run", str(write_experiment(place)), "--storage", str(place), "--address", "serial")

    _, status, _ = answer(capsys, "status", str(place / "fake"), "--json")
    code, report, _ = answer(capsys, "report", str(place / "fake"), "--json")

    assert status.count("\n") == report.count("\n") == 1
    assert json.loads(status)["counts"] == {"done": 4, "running": 0, "failed": 0, "waiting": 0}
    assert [trial["fraction"] for trial in json.loads(status)["trials"]] == [1.0] * 4
    assert code == json.loads(report)["exit_code"] == 3
    assert Path(json.loads(report)["html"]).is_file()


@pytest.mark.usefixtures("fake")
def test_a_run_with_nothing_missing_says_so_and_reports_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["run", str(write_experiment(place)), "--storage", str(place), "--address", "serial"]
    answer(capsys, *options)
    code, out, err = answer(capsys, *options)

    assert code == 0
    assert "nothing to run" in err
    assert out.startswith("NOT TESTABLE")


def test_ctrl_c_before_any_trial_is_one_line_and_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "run", interrupt)
    code, _, err = answer(capsys, "run", "smoke")

    assert code == 130
    assert err.count("\n") == 1


@pytest.mark.ray
def test_sigterm_under_ray_ends_the_trials_and_says_how_to_go_on(place: Path) -> None:
    import signal

    program = (
        "import sys\nfrom orchestrator import cli, launch\nfrom tests.fakes import FAKE\n"
        "launch.Objective = lambda: FAKE\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    path = write_experiment(place, base={**experiment()["base"], "lr": 6e-3}, seeds=[0])
    command = [sys.executable, "-c", program, "run", str(path), "--storage", str(place)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        wait_for("both trials", lambda: len(list(place.glob("fake/trials/*/metrics.jsonl"))) == 2)
        beyond = listening_beyond_this_machine(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)

    assert not beyond, "every port of a Ray of our own is on loopback"
    assert process.returncode == 130
    assert "Run the same command again to go on" in out
    ends = [
        json.loads(path.read_text().splitlines()[-1]) for path in place.glob("fake/trials/*/attempts.jsonl")
    ]
    assert [end["status"] for end in ends] == ["cancelled", "cancelled"]


def lab_runs(folder: Path, effect: float) -> list[str]:
    """Another lab's CSV and its mapping, as arguments of `kvtune report`."""
    lines = [
        f"{arm},{seed},100,{2 + seed + effect * (arm == 'B') * (1 + seed / 10)}"
        for arm in "AB"
        for seed in range(6)
    ]
    (folder / "lab.csv").write_text("\n".join(["arm,seed,step,loss_on_test", *lines]) + "\n")
    mapping = {
        "arm": "arm",
        "seed": "seed",
        "step": "step",
        "metrics": {"test": {"column": "loss_on_test", "direction": "min"}},
        "analysis": {"baseline": "A", "primary": "test"},
    }
    (folder / "map.yaml").write_text(json.dumps(mapping))
    place = ["--map", str(folder / "map.yaml"), "--out", str(folder / "out")]
    return ["report", "--from", "csv", str(folder / "lab.csv"), *place]


@pytest.mark.parametrize(
    ("effect", "fail_on", "code"),
    [(0.5, [], 0), (0.5, ["inferior"], 1), (-0.5, ["inconclusive"], 0), (0.5, ["inconclusive"], 1)],
)
def test_other_peoples_runs_are_reported_and_may_fail_a_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], effect: float, fail_on: list[str], code: int
) -> None:
    flags = [word for verdict in fail_on for word in ("--fail-on", verdict)]

    assert cli.main([*lab_runs(tmp_path, effect), *flags]) == code

    assert ("INFERIOR" if effect > 0 else "SUPERIOR") in capsys.readouterr().out
    assert (tmp_path / "out" / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "somewhere", "--map", "m.yaml"], "--map has no effect without --from"),
        (["report", "a", "b"], "takes one folder, STORAGE/NAME, got 2"),
        (["report", "--from", "csv", "a.csv"], r"--from csv takes FILE... and --map MAPPING.yaml"),
        (["report", "--from", "csv", "a.csv", "--map", "nowhere.yaml"], "--map nowhere.yaml cannot be read"),
    ],
)
def test_a_report_from_files_says_what_it_lacks(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_report_on_a_full_storage_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(folder: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.html")

    monkeypatch.setattr(cli, "_report", fill)

    assert cli.main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith("'report.html': make room, then run the same command again.")
    assert "\n" not in said
