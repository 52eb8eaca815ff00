"""Real Ray clusters on this machine for tests: own ports, own token, own folder, ended by their own pids."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_S = 240
TOKEN = "test-token-" + "0" * 32


@dataclass
class TestCluster:
    """A head with token authentication, its dashboard on loopback."""

    __test__ = False
    folder: Path
    gcs: str
    dashboard: str
    client: int
    """Port of Ray's client."""
    environment: Mapping[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_node(
        self, *flags: str, prefix: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start another node of this cluster."""
        command = [*prefix, *ray("start", f"--address={self.gcs}", "--block", *PORTS, *flags)]
        return self._start(command, {**self.environment, **environment})

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        log = (self.folder / f"start-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            command, env=dict(environment), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.processes.append(process)
        return process

    def logs(self) -> str:
        """What `ray start` said."""
        return "\n".join(path.read_text(errors="replace") for path in self.folder.glob("start-*.log"))


PORTS = ("--node-manager-port=0", "--object-manager-port=0", "--min-worker-port=0", "--max-worker-port=0")


@contextmanager
def cluster(
    *flags: str, address: str, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[TestCluster]:
    """A running head; everything that it started is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="kvc"))
    (folder / "tmp").mkdir()
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    gcs, board, agent, grpc, metrics, env_agent, client = free_ports(7)
    gcs = port or gcs
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "KVTUNE_"))},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "TMPDIR": str(folder / "tmp"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        **(environment or {}),
    }
    ours = TestCluster(folder, f"{address}:{gcs}", f"http://127.0.0.1:{board}", client, environment)
    try:
        ours._start(
            [
                *ray("start", "--head", "--block", f"--node-ip-address={address}", f"--port={gcs}"),
                "--dashboard-host=127.0.0.1", f"--dashboard-port={board}",
                f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
                f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={env_agent}",
                f"--ray-client-server-port={client}", *PORTS, *flags,
            ],
            environment,
        )  # fmt: skip
        yield ours
    finally:
        for process in reversed(ours.processes):
            end(process)
        shutil.rmtree(folder, ignore_errors=True)


def ray(*arguments: str) -> list[str]:
    """The ray command of this interpreter."""
    return [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *arguments]


def end(process: subprocess.Popen[bytes]) -> None:
    """End a node by its own pids: the process that started it, and all that it started."""
    ours = [process.pid, *descendants(process.pid)]
    for pid in ours:
        with_signal(pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """Pids of the children of a process, and of theirs."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found


def with_signal(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(what: str, condition: object, seconds: float = START_S) -> None:
    """Wait until the condition holds."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)


def listening_beyond_this_machine(pid: int) -> set[str]:
    """Addresses off loopback on which a process or its descendants listen (TCP)."""
    ours = {inode for one in (pid, *descendants(pid)) for inode in _sockets(one)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[column] for column in (1, 3, 9))
            if state == "0A" and inode in ours and not _is_loopback(local.partition(":")[0]):
                found.add(local)
    return found


def _sockets(pid: int) -> list[str]:
    found = []
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = os.readlink(path)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.append(target[8:-1])
    return found


def _is_loopback(address: str) -> bool:
    """Of an address as /proc tells it: hexadecimal words in the machine's own order of bytes."""
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    return ipaddress.ip_address(b"".join(words)).is_loopback or (
        len(words) == 4
        and words[:3] == [bytes(4), bytes(4), bytes.fromhex("0000ffff")]
        and words[3][0] == 127
    )
