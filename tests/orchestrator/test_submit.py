"""What is sent to a cluster, to whom, and under which name; without a cluster."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import auth, cli, job, jobs, package, provenance, submit
from orchestrator.cluster import Cluster
from orchestrator.package import pack, unpack_inputs
from orchestrator.spec import ExperimentSpec, load_spec, spec_from
from orchestrator.trials import make_plan
from tests.fakes import experiment
from trainables.config import InputError

STORAGE = PurePosixPath("/srv/kvtune")
ROW = '{"question": "1+1?", "answer": "1+1=<<1+1=2>>2\\n#### 2"}\n'


class FakeClient:
    """The Jobs API as far as submitting goes."""

    def __init__(self) -> None:
        self.sent: dict[str, dict[str, Any]] = {}
        self.states: dict[str, str] = {}

    def list_jobs(self) -> list[Any]:
        return [
            SimpleNamespace(
                submission_id=name, status=self.states[name], start_time=1, metadata=call["metadata"]
            )
            for name, call in self.sent.items()
        ]

    def submit_job(self, **call: Any) -> None:
        folder = Path(call["runtime_env"]["working_dir"])
        call["files"] = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")
                         if path.is_file()}  # fmt: skip
        self.sent[call["submission_id"]] = call
        self.states[call["submission_id"]] = "RUNNING"


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def cluster(client: FakeClient) -> Cluster:
    return Cluster("http://127.0.0.1:8265", client, {"Authorization": "Bearer very-secret"})  # type: ignore[arg-type]


def spec_with(place: Path, **changes: Any) -> ExperimentSpec:
    """An experiment on a data file of this machine."""
    (place / "train.jsonl").write_text(ROW)
    base = {**experiment()["base"], "dataset": "gsm8k", "train_file": str(place / "train.jsonl")}
    return spec_from(experiment(base=base, **changes), "test")


def test_a_package_holds_the_code_the_experiment_and_its_files_and_nothing_hidden(place: Path) -> None:
    model = place / "model"
    model.mkdir()
    for name in ("config.json", ".env", ".git"):
        (model / name).write_text("{}")
    spec = spec_with(place, arms={"flat": {"alignment_mode": "flat", "model_name": str(model)},
                                  "structured": {"alignment_mode": "structured"}})  # fmt: skip

    sent = pack(spec, STORAGE, place / "package")

    files = {str(path.relative_to(sent.folder)) for path in sent.folder.rglob("*") if path.is_file()}
    inputs = {name for name in files if name.startswith("inputs/")}
    assert {"orchestrator/job.py", "trainables/distill.py", "analysis/report.py", "experiment.yaml"} <= files
    assert {name.split("/", 2)[2] for name in inputs} == {"train.jsonl", "model/config.json"}
    assert not any("__pycache__" in name or "/." in name or name.startswith((".", "tests")) for name in files)


def test_here_and_on_the_cluster_the_plan_is_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_with(place)
    storage = place / "storage"
    sent = pack(spec, PurePosixPath(storage), place / "package")
    planned = make_plan(sent.spec).to_dict()["plan_hash"]

    monkeypatch.chdir(sent.folder)
    unpack_inputs(sent.folder, storage)
    unpack_inputs(sent.folder, storage)
    there = load_spec("experiment.yaml")

    assert make_plan(there).to_dict()["plan_hash"] == planned
    assert Path(there.base["train_file"]).read_text() == ROW
    assert Path(there.base["train_file"]).is_relative_to(storage)
    assert {cell.trial_id for cell in make_plan(there).cells} == {c.trial_id for c in make_plan(spec).cells}


def test_names_of_the_hub_and_paths_of_the_cluster_stay_as_they_are(place: Path) -> None:
    base = {"model_name": "gpt2", "dataset": "gsm8k", "train_file": "/srv/kvtune/data/train.jsonl"}

    sent = pack(spec_from(experiment(base=base), "test"), STORAGE, place / "package")

    assert sent.spec.base == base
    assert not (sent.folder / "inputs").exists()


def test_a_data_file_that_is_not_here_is_named(place: Path) -> None:
    base = {"model_name": "gpt2", "dataset": "gsm8k", "train_file": "nowhere.jsonl"}

    with pytest.raises(InputError, match=r"base\.train_file: nowhere\.jsonl is not here"):
        pack(spec_from(experiment(base=base), "test"), STORAGE, place / "package")


def test_too_large_a_package_names_its_largest_files_and_the_way_out(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "LIMIT", 2**20)
    spec = spec_with(place)
    with (place / "train.jsonl").open("ab") as file:
        file.truncate(3 * 2**20)

    with pytest.raises(InputError, match=r"train\.jsonl \(3 MiB\).*share, and name them by their path there"):
        pack(spec, STORAGE, place / "package")
    assert not (place / "package").exists(), "nothing was copied"


def test_a_plan_is_submitted_once_and_again_after_it_failed(cluster: Cluster, client: FakeClient) -> None:
    spec = spec_from(experiment(), "test")

    first = submit.submit(spec, cluster)
    again = submit.submit(spec, cluster)
    other = submit.submit(spec_from(experiment(seeds=[0, 1, 2]), "test"), cluster)
    client.states[first.job] = "STOPPED"
    resumed = submit.submit(spec, cluster)

    assert first.job == f"fake-{first.plan_hash}"
    assert (again.job, again.state) == (first.job, "RUNNING")
    assert other.job != first.job
    assert (resumed.job, resumed.state) == (f"{first.job}-2", None)
    assert list(client.sent) == [first.job, other.job, resumed.job]


def test_the_same_plan_on_another_storage_is_refused(cluster: Cluster) -> None:
    spec = spec_from(experiment(), "test")
    submit.submit(spec, cluster)

    with pytest.raises(InputError, match="with --storage /srv/kvtune, not /elsewhere"):
        submit.submit(spec, cluster, storage="/elsewhere")


def test_a_job_takes_no_cpu_knows_its_revision_and_is_told_no_secret(
    cluster: Cluster, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "code_revision", lambda: "abc123")
    monkeypatch.setenv("HF_TOKEN", "hf-very-secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret")

    sent = client.sent[submit.submit(spec_from(experiment(), "test"), cluster).job]

    assert sent["entrypoint_num_cpus"] is None
    assert (
        sent["metadata"]["kvtune_code_rev"] == sent["runtime_env"]["env_vars"]["KVTUNE_CODE_REV"] == "abc123"
    )
    assert "very-secret" not in repr(sent)


def test_on_a_cluster_the_revision_is_the_one_found_when_submitting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_git", lambda *arguments: None)
    monkeypatch.setenv("KVTUNE_CODE_REV", "abc123")
    monkeypatch.setenv("KVTUNE_JOB", "fake-1")

    told = provenance.describe_launch(address="auto", started_at="now")

    assert (told["code_rev"], told["job"]) == ("abc123", "fake-1")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"wroking_dir": "."}, "'wroking_dir' is unknown"),
        ({"env_var": {}}, "Did you mean 'env_vars'?"),
        ({"working_dir": "."}, "'working_dir' is unknown"),
        ({"pip": ["a"], "conda": "b"}, "pip and conda"),
        ({"env_vars": {"A": 1}}, "quote numbers"),
        ({"env_vars": {"HF_TOKEN": "x"}}, "env_vars.HF_TOKEN looks like a secret"),
        ({"env_vars": {"AWS_SECRET_ACCESS_KEY": "x"}}, "looks like a secret"),
        ({"env_vars": {"KVTUNE_JOB": "x"}}, "set by kvtune itself"),
        (["pip"], "must hold fields and values"),
    ],
)
def test_a_runtime_environment_is_checked_because_ray_does_not(values: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        submit.check_environment(values, "--environment e.yaml")

    assert said in str(caught.value)
    assert "very-secret" not in str(caught.value)


def test_a_good_runtime_environment_reaches_the_job(
    cluster: Cluster, client: FakeClient, place: Path
) -> None:
    (place / "e.yaml").write_text("pip: [reasoning-gym]\nenv_vars: {HF_HOME: /srv/kvtune/hf}\n")

    wanted = submit.read_environment(str(place / "e.yaml"))
    sent = submit.submit(spec_from(experiment(), "test"), cluster, environment=wanted, cpus=2, yes=True)

    call = client.sent[sent.job]
    assert call["runtime_env"]["pip"] == ["reasoning-gym"]
    assert call["runtime_env"]["env_vars"]["HF_HOME"] == "/srv/kvtune/hf"
    assert call["entrypoint_num_cpus"] == 2
    assert call["entrypoint"].endswith(" experiment.yaml /srv/kvtune --yes")


@pytest.mark.parametrize("storage", ["runs", "s3://bucket/x", "/srv/../etc", "/srv/a b", "/srv/$(id)", ""])
def test_a_storage_that_is_no_plain_absolute_path_is_refused(cluster: Cluster, storage: str) -> None:
    with pytest.raises(InputError, match="--storage takes the absolute path"):
        submit.submit(spec_from(experiment(), "test"), cluster, storage=storage)


@pytest.mark.parametrize(
    ("address", "token", "refused", "warned"),
    [
        ("http://127.0.0.1:8265", None, None, False),
        ("http://localhost:8265", None, None, False),
        ("http://[::1]:8265", "t", None, False),
        ("https://ray.example.org", None, None, False),
        ("http://10.0.0.5:8265", "t", None, True),
        ("http://10.0.0.5:8265", None, "there is no token", False),
        ("http://127.0.0.1.example.org", None, "there is no token", False),
        ("http://user:word@127.0.0.1:8265", "t", "must hold no password", False),
        ("127.0.0.1:8265", "t", "--address takes", False),
        ("ray://127.0.0.1:10001", "t", "--address takes", False),
        ("http://127.0.0.1:x", "t", "--address takes", False),
        ("file:///etc/passwd", "t", "--address takes", False),
    ],
)
def test_beyond_this_machine_nothing_is_said_without_a_token(
    address: str, token: str | None, refused: str | None, warned: bool
) -> None:
    warnings: list[str] = []
    if refused:
        with pytest.raises(InputError, match=refused) as caught:
            auth.check_address(address, token, warnings.append)
        assert "word" not in str(caught.value).replace("password", "")
    else:
        auth.check_address(address, token, warnings.append)
    assert bool(warnings) == warned


def test_a_token_file_is_taken_away_from_others(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = place / "token"
    file.write_text("very-secret\n")
    file.chmod(0o644)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))

    assert auth.find_token() == "very-secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(place / "gone"))
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH"):
        auth.find_token()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "smoke", "--address", "http://127.0.0.1:1"], "does not answer"),
        (["submit", "smoke", "--address", "http://10.0.0.5:8265"], "there is no token"),
        (["submit", "smoke", "--environment", "/nowhere"], "--environment /nowhere"),
        (["submit", "smok"], "Did you mean 'smoke'?"),
        (["submit", "smoke", "--storage", "s3://bucket/x"], "--storage takes the absolute path"),
        (["logs", "x", "--address", "nonsense"], "--address takes"),
        (["stop"], "stop"),
        (["fetch", "x", "--form", "y"], "--form"),
        (["status", "x", "--address", "http://127.0.0.1:1"], "does not answer"),
    ],
)
def test_commands_for_jobs_refuse_what_cannot_work_in_one_line(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    place: Path,
) -> None:
    monkeypatch.setenv("HOME", str(place))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    code = cli.main(arguments)
    err = capsys.readouterr().err

    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_without_rays_job_client_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert cli.main(["logs", "x"]) == 2
    assert "pip install 'kvtune[cluster]'" in capsys.readouterr().err


def test_the_code_of_a_job_is_its_exit_code() -> None:
    def ended(status: str, code: int | None = None) -> Any:
        return SimpleNamespace(status=status, driver_exit_code=code)

    codes = [("SUCCEEDED", 0), ("STOPPED", None), ("FAILED", 3), ("FAILED", None), ("FAILED", -9)]
    assert [jobs.exit_code(ended(*one)) for one in codes] == [0, 130, 3, 1, 137]


def test_what_is_exported_leaves_checkpoints_and_hidden_files_behind(place: Path) -> None:
    for name in (
        "plan.json",
        ".lock",
        "report/report.html",
        "trials/a/result.json",
        "trials/a/checkpoint-4/x",
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("x")

    def wanted(*, trials: bool) -> set[str]:
        return {str(path.relative_to(place)) for path in job._wanted(place, trials=trials)}

    assert wanted(trials=False) == {"plan.json", "report/report.html"}
    assert wanted(trials=True) == {"plan.json", "report/report.html", "trials/a/result.json"}


def test_fetched_results_stay_inside_their_folder_and_out_of_our_own(place: Path) -> None:
    with zipfile.ZipFile(place / "results.zip", "w") as archive:
        archive.writestr("plan.json", "{}")
        archive.writestr("../../escaped", "x")
    (place / "mine").mkdir()
    (place / "mine" / "plan.json").write_text("ours")

    jobs._unpack(place / "results.zip", place / "runs" / "name")

    assert (place / "runs" / "name" / "plan.json").read_text() == "{}"
    assert not (place / "escaped").exists()
    with pytest.raises(InputError, match="was not fetched from a cluster"):
        jobs._refuse_foreign(place / "mine")


def test_a_fetch_that_arrives_damaged_is_refused(cluster: Cluster, place: Path) -> None:
    import http.server
    import threading

    class Damaged(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"not what was packed")

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Damaged)
    threading.Thread(target=server.handle_request, daemon=True).start()
    there = Cluster(f"http://127.0.0.1:{server.server_port}", cluster.client, {})

    with pytest.raises(InputError, match="arrived damaged"):
        jobs._download(there, "node", {"kvtune_archive": "x", "sha256": "0"}, place / "results.zip")
    server.server_close()
