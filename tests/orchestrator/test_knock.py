"""Addresses that are no way to a cluster: each is told in one line, within seconds, with the way out."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import cli, knock
from tests.fakes import write_experiment
from tests.orchestrator.clusters import TestCluster, cluster, wait_for

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30
PROGRAM = (
    "import sys\nfrom orchestrator import cli, launch\nfrom tests.fakes import FAKE\n"
    "launch.Objective = lambda: FAKE\nsys.exit(cli.main(sys.argv[1:]))\n"
)


@contextmanager
def listening(answer: Callable[[bytes], bytes | None], host: str = "127.0.0.1") -> Iterator[int]:
    """The port of a server that answers what it is sent; None keeps the connection open in silence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kept = []

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            if (said := answer(client.recv(1000))) is None:
                kept.append(client)
            else:
                client.sendall(said)
                client.close()

    with socket.create_server((host, 0), family=family) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def page(request: bytes) -> bytes:
    return b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbad\n"


def dashboard(request: bytes) -> bytes:
    return b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"ray_version": "2.60.0"}'


def hanging(sent: bytes) -> bytes | None:
    """A dashboard whose head does nothing any more."""
    return b"HTTP/1.1 400 Bad Request\r\n\r\n" if sent.startswith(b"PRI") else None


@pytest.mark.parametrize(
    ("command", "answer", "host", "said"),
    [
        ("run", lambda sent: None, "127.0.0.1", "is no Ray cluster's (silence for 0.2 s)"),
        ("run", lambda sent: b"", "127.0.0.1", "is no Ray cluster's (silence"),
        ("run", lambda sent: b"SSH-2.0-x\r\n", "127.0.0.1", "is no Ray cluster's (what listens there says"),
        ("run", page, "127.0.0.1", "is an HTTP server and no Ray cluster; kvtune run joins a cluster"),
        ("run", dashboard, "127.0.0.1", "is the dashboard: use kvtune submit --address http://127.0.0.1:PORT;"),
        ("run", dashboard, "::1", "is the dashboard: use kvtune submit --address http://[::1]:PORT;"),
        ("plan", dashboard, "127.0.0.1", "is the dashboard: use kvtune submit"),
        ("submit", lambda sent: None, "127.0.0.1", "is no dashboard (silence for 0.2 s): it is the head's"),
        ("submit", hanging, "127.0.0.1", "does not answer (timed out): is the cluster up"),
        ("submit", lambda sent: knock.SETTINGS, "127.0.0.1", "is no dashboard (one of Ray's own ports)"),
    ],
)  # fmt: skip
def test_what_listens_and_is_no_cluster_is_called_by_its_name(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    answer: Callable[[bytes], bytes | None],
    host: str,
    said: str,
) -> None:
    monkeypatch.setattr(knock, "KNOCK_S", 0.2)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 40)
    with listening(answer, host) as port:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        address = f"http://{place}" if command == "submit" else place
        code = cli.main([command, "smoke", "--address", address])

    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert f"--address {address} {said.replace('PORT', str(port))}" in err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://10.0.0.5:8265", "send a job there with kvtune submit --address http://10.0.0.5:8265;"),
        ("https://me:hidden@ray.example.org", "kvtune submit --address https://ray.example.org; kvtune run"),
        ("ray://10.0.0.5:10001", "begins with ray://: kvtune run joins a cluster on one of its nodes"),
        ("[::1]:1", "does not answer ([Errno 111] Connection refused)"),
        ("::1:6379", "an IPv6 address stands in brackets"),
        ("127.0.0.1:99999", "it is no host:port"),
        ("127.0.0.1:6379/x", "it is no host:port"),
        ("nowhere.invalid:6379", "does not answer ("),
    ],
)  # fmt: skip
def test_an_address_of_another_kind_is_told_with_the_command_that_takes_it(
    capsys: pytest.CaptureFixture[str], address: str, said: str
) -> None:
    code = cli.main(["run", "smoke", "--address", address])

    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert "hidden" not in err


@pytest.fixture(scope="module")
def standing() -> Iterator[TestCluster]:
    """A cluster of one node with a token."""
    with cluster("--num-cpus=1", address="127.0.0.1") as ours:
        wait_for("the cluster", lambda: "Ray runtime started" in ours.logs())
        yield ours


def told(standing: TestCluster, *words: str, **environment: str | None) -> tuple[int, str]:
    """Exit code and stderr of a command in the cluster's environment, changed so."""
    variables = {
        name: value for name, value in (standing.environment | environment).items() if value is not None
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - began < DEADLINE_S or done.returncode == 0
    return done.returncode, done.stderr


@pytest.mark.ray
def test_a_cluster_is_joined_with_its_token_and_refused_in_one_line_without(
    standing: TestCluster, place: Path
) -> None:
    (place / "wrong").write_text("w" * 40)
    no_token = {"RAY_AUTH_TOKEN_PATH": None, "HOME": str(place)}
    words = ["run", str(write_experiment(place)), "--storage", str(place / "s"), "--address"]

    for environment, said in (
        (no_token, f"--address {standing.gcs}: there is no token here"),
        (
            {"RAY_AUTH_TOKEN_PATH": str(place / "wrong")},
            f"{standing.gcs} asks for a token and refuses the one given",
        ),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=token"),
    ):
        code, err = told(standing, *words, standing.gcs, **environment)
        assert (code, err.count("\n")) == (2, 1), err
        assert said in err
    for address, said in (
        (standing.dashboard.removeprefix("http://"), f"use kvtune submit --address {standing.dashboard};"),
        (f"127.0.0.1:{standing.client}", "is another of Ray's ports"),
    ):
        code, err = told(standing, *words, address)
        assert (code, err.count("\n")) == (2, 1), err
        assert said in err
    assert not (place / "s").exists(), "nothing was started"

    code, err = told(standing, *words, standing.gcs)
    assert code == 0, err


@pytest.mark.ray
def test_a_cluster_of_which_this_machine_is_no_node_is_for_submitting_to(
    standing: TestCluster, place: Path
) -> None:
    program = "from ray._private import services\nservices.find_node_ids = lambda: []\n"
    program += "from orchestrator import knock\nknock.NODE_S = 0\n" + PROGRAM
    done = subprocess.run(
        [sys.executable, "-c", program, "run", str(write_experiment(place)), "--address", "auto"],
        cwd=ROOT, env={**standing.environment, "RAY_ADDRESS": standing.gcs},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert (
        f"--address auto ({standing.gcs}) is a cluster of which this machine is no node: use kvtune submit"
        in done.stderr
    )
