"""Jobs on a real cluster of two nodes with two addresses and a token: its head runs no trial."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator import cli, jobs, submit
from orchestrator.cluster import Cluster, connect
from tests.fakes import experiment, write_experiment
from tests.orchestrator.clusters import TOKEN, TestCluster, cluster, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.ray]
HEAD, WORKER, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.4"
Answer = tuple[int, str, str]
Kvtune = Callable[..., Answer]


def hiding(*folders: Path) -> list[str]:
    """A prefix for a node whose own file system lacks what these folders hold elsewhere; needs root."""
    mounts = "".join(f"mount -t tmpfs tmpfs {folder} && " for folder in folders)
    return ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh"]


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TestCluster]:
    """Head and worker see one storage, and nothing of each other's temporary files."""
    if os.getuid() != 0:
        pytest.skip("needs root: nodes with file systems of their own are mount namespaces here")
    with cluster("--num-cpus=0", address=HEAD) as ours:
        wait_for("the dashboard", lambda: version(ours) == 200)
        ours.add_node(f"--node-ip-address={WORKER}", "--num-cpus=2", prefix=hiding(*own(ours)))
        wait_for("the worker", lambda: alive(ours) == 2)
        yield ours


def own(ours: TestCluster) -> list[Path]:
    """Folders that a node of another machine would not share with the head."""
    return [ours.folder / "tmp", *(ours.folder / "ray").glob("session_2*/runtime_resources")]


@pytest.fixture
def kvtune(
    two_nodes: TestCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Kvtune:
    """The command line, with this cluster's token and the fake distillation."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(two_nodes.folder / "token"))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", two_nodes.dashboard)
    monkeypatch.setattr(submit, "ENTRYPOINT", "exec python -m tests.orchestrator.fake_job")

    def run(*arguments: str) -> Answer:
        code = cli.main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def store(two_nodes: TestCluster) -> Path:
    return two_nodes.folder / "store"


def there(two_nodes: TestCluster) -> Cluster:
    return connect(two_nodes.dashboard, pytest.fail)


def version(ours: TestCluster, token: str | None = TOKEN) -> int:
    """The HTTP status of the dashboard's answer; 0 for none."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{ours.dashboard}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_job_is_submitted_once_followed_and_fetched(
    two_nodes: TestCluster, kvtune: Kvtune, store: Path, place: Path
) -> None:
    file = str(write_experiment(place))
    code, out, _ = kvtune("submit", file, "--storage", str(store), "--follow")

    job = out.partition(":")[0]
    assert code == 0, out
    assert job.startswith("fake-")
    assert "NOT TESTABLE" in out
    details = there(two_nodes).job(job)
    assert details.driver_info is not None
    assert details.driver_info.node_ip_address == HEAD, "the driver runs on the head"

    code, out, _ = kvtune("submit", file, "--storage", str(store), "--follow")
    assert code == 0, out
    assert "SUCCEEDED already, nothing was submitted" in out
    assert "NOT TESTABLE" in out, "following tells it again"

    code, out, _ = kvtune("status", job)
    assert code == 0, out
    assert f"{job}: SUCCEEDED" in out
    assert str(store / "fake") in out

    told = json.loads(kvtune("status", job, "--json")[1])
    assert (told["status"], told["exit_code"], told["storage"]) == ("SUCCEEDED", 0, str(store))

    code, out, _ = kvtune("fetch", job, "--to", str(place / "here"), "--trials")
    here = place / "here" / "fake"
    assert code == 0, out
    assert (here / "report" / "report.html").read_bytes() == (store / "fake/report/report.html").read_bytes()
    assert set(pd.read_parquet(here / "runs.parquet")["status"]) == {"completed"}
    assert len(list(here.glob("trials/*/result.json"))) == 4
    assert kvtune("report", str(here))[0] == 3, "NOT TESTABLE, as on the cluster"
    assert not list((two_nodes.folder / "ray").glob("session_2*/logs/kvtune-fetch-*.zip")), "it is gone"

    told = json.loads((here / "provenance.json").read_text())
    assert told["job"] == job
    assert told["code_rev"] == details.metadata["kvtune_code_rev"]


def test_no_token_is_in_what_a_job_leaves(two_nodes: TestCluster, kvtune: Kvtune, store: Path) -> None:
    listed = there(two_nodes).client.list_jobs()

    assert listed
    assert TOKEN not in repr(listed)
    for root in (store, two_nodes.folder / "ray"):
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert TOKEN.encode() not in path.read_bytes(), path


def test_without_the_token_nothing_is_answered(
    two_nodes: TestCluster, kvtune: Kvtune, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    (place / "other").write_text("a" * 40)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(place / "other"))

    code, _, err = kvtune("logs", "any")

    assert version(two_nodes, None) == 401
    assert version(two_nodes, "a" * 40) == 403
    assert code == 2
    assert "refuses the one given" in err
    assert "a" * 40 not in err


def test_a_stopped_job_closes_its_records_and_the_next_one_goes_on(
    two_nodes: TestCluster, kvtune: Kvtune, store: Path, place: Path
) -> None:
    values: dict[str, Any] = {"name": "held", "seeds": [0], "base": {**experiment()["base"], "lr": 6e-3}}
    file = str(write_experiment(place, **values))
    _, out, _ = kvtune("submit", file, "--storage", str(store))
    job = out.partition(":")[0]
    wait_for("both trials at work", lambda: len(list(store.glob("held/trials/*/metrics.jsonl"))) == 2)

    _, out, _ = kvtune("submit", file, "--storage", str(store))
    assert f"{job}: this plan is RUNNING already" in out
    code, out, _ = kvtune("stop", job)

    assert code == 0, out
    assert f"{job}: STOPPED" in out
    ends = [
        json.loads(path.read_text().splitlines()[-1]) for path in store.glob("held/trials/*/attempts.jsonl")
    ]
    assert [end["status"] for end in ends] == ["cancelled", "cancelled"]

    (store / "held/trials/go").touch()
    code, out, _ = kvtune("submit", file, "--storage", str(store), "--follow")
    assert code == 0, out
    assert out.startswith(f"{job}-2: submitted")
    assert set(pd.read_parquet(store / "held/runs.parquet").groupby("trial_id").last()["status"]) == {
        "completed"
    }


def test_a_job_that_waits_for_ever_can_be_stopped(
    two_nodes: TestCluster, kvtune: Kvtune, store: Path
) -> None:
    _, out, _ = kvtune("submit", "smoke", "--storage", str(store), "--cpus", "999")
    job = out.partition(":")[0]
    cluster_there = there(two_nodes)
    wait_for("its demand", lambda: "999.0" in demands(two_nodes))
    assert cluster_there.job(job).status == "PENDING"

    code, out, _ = kvtune("stop", job)

    assert code == 0, out
    assert cluster_there.job(job).status.is_terminal()
    assert jobs.exit_code(cluster_there.job(job)) != 0
    wait_for("no demand, which an autoscaler would go on serving", lambda: "999.0" not in demands(two_nodes))


def demands(ours: TestCluster) -> str:
    """What the autoscaler is asked for, as the dashboard tells it."""
    return ask(ours, "/api/cluster_status")


def test_a_node_that_does_not_share_the_storage_is_named(
    two_nodes: TestCluster, kvtune: Kvtune, store: Path, place: Path
) -> None:
    store.mkdir(exist_ok=True)
    two_nodes.add_node(f"--node-ip-address={STRANGER}", "--num-cpus=1", prefix=hiding(store, *own(two_nodes)))
    wait_for("the third node", lambda: alive(two_nodes) == 3)

    file = str(write_experiment(place, name="lost"))
    code, out, _ = kvtune("submit", file, "--storage", str(store), "--follow")

    assert code == 2, out
    assert f"({STRANGER}) does not see what this one wrote there" in " ".join(out.split())
    assert not (store / "lost" / "plan.json").exists(), "nothing was run"


def alive(ours: TestCluster) -> int:
    nodes = json.loads(ask(ours, "/nodes?view=summary"))["data"]["summary"]
    return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)


def ask(ours: TestCluster, path: str) -> str:
    request = urllib.request.Request(f"{ours.dashboard}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return str(reply.read().decode())
