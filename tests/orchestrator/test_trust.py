"""What lies in the storage is data and never code; what the environment keeps secret is written nowhere."""

from __future__ import annotations

import ast
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import cli, launch
from orchestrator.checks import results_folder
from orchestrator.launch import run
from orchestrator.spec import spec_from
from orchestrator.trials import make_plan
from tests.fakes import FAKE, write_experiment
from tests.orchestrator.faults import small
from trainables.trial_folder import TrialFolder, write_manifest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("trainables", "orchestrator", "analysis")
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "torch.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle",
    "Tuner.restore", "tune.Tuner.restore", "tune.ExperimentAnalysis", "ray.cloudpickle",
}  # fmt: skip
SECRET, PASSWORD = "s3cr3t-0f-the-environment", "pa55word-of-an-address"


class Poison:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.mark), "w")


def names_in(source: ast.AST) -> Iterator[str]:
    """Modules imported, and dotted names used."""
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)


@pytest.mark.parametrize("room", ROOMS)
def test_no_source_knows_how_to_unpickle(room: str) -> None:
    found = {
        (path.name, name)
        for path in (ROOT / room).rglob("*.py")
        for name in names_in(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] in UNPICKLERS or name in CALLS
    }

    assert not found
    assert {"ast.walk", "pickle"} <= set(names_in(ast.parse(Path(__file__).read_text()))), "the search finds"


def test_poisoned_checkpoints_and_tables_of_tune_run_nothing(place: Path) -> None:
    spec = spec_from(small(seeds=[0]), "test")
    folder, cell = results_folder(place, spec), make_plan(spec).cells[0]
    poison, mark = pickle.dumps(Poison(place / "mark")), place / "mark"
    trial = TrialFolder(folder.trials / cell.trial_id)
    run(spec, storage=place, address="serial", objective=FAKE)  # a folder like any other
    trial.result.unlink()
    trial.checkpoint(1).mkdir()
    progress = {
        "config_hash": cell.config.hash(),
        "step": 1,
        "tokens": 1,
        "wall_s": 0.0,
        "data_order_hash": "",
    }
    (trial.checkpoint(1) / "progress.json").write_text(json.dumps(progress))
    for name in ("weights.safetensors", "optimizer.safetensors", "data.pkl", "optimizer.pt"):
        (trial.checkpoint(1) / name).write_bytes(poison)
    write_manifest(trial.checkpoint(1))
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state.pkl"):
        (folder.path / name).write_bytes(poison)

    summary = run(spec, storage=place, address="serial")
    cli.main(["status", str(folder.path)])
    cli.main(["report", str(folder.path)])

    assert not mark.exists()
    reason = next(found.reason for found in summary.trials if found.cell["trial_id"] == cell.trial_id)
    assert "Safetensor" in str(reason), "the checkpoint was tried, as tensors"
    pickle.loads(poison).close()
    assert mark.exists(), "the poison works"


def test_secrets_of_the_environment_and_of_addresses_are_written_nowhere(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "Objective", lambda: FAKE)
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    path = write_experiment(place, trackers=["tensorboard", "mlflow", "wandb"], seeds=[0])
    words = ["run", str(path), "--storage", str(place / "runs"), "--address", "serial"]
    monkeypatch.setattr(
        sys, "argv", ["kvtune", *words, "--token", SECRET, f"--from=http://me:{PASSWORD}@host/"]
    )

    assert cli.main(words) == 0

    out, err = capfd.readouterr()
    written = {file: file.read_bytes() for file in (place / "runs").rglob("*") if file.is_file()}
    assert any(file.suffix == ".wandb" for file in written)
    assert "mlflow: MlflowException" in err, (
        "the tracker with the password in its address was tried, and told"
    )
    for secret in (SECRET, PASSWORD):
        assert secret not in out + err
        assert not [file for file, data in written.items() if secret.encode() in data]


def test_an_address_that_does_not_answer_is_named_without_its_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = cli.main(["run", "smoke", "--address", f"ray://me:{PASSWORD}@127.0.0.1:1"])

    assert code == 2
    assert PASSWORD not in capsys.readouterr().err
