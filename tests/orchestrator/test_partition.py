"""A node that is cut off from the network, and works on where nobody sees it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import attempts
from tests.orchestrator.faults import (
    Curves,
    check_laws,
    ends,
    finished,
    gone,
    hurt,
    start_driver,
    trial,
    wait_until,
)
from tests.orchestrator.ray_nodes import QUICK, cluster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]
HERE, THERE = "10.217.0.1", "10.217.0.2"


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


@pytest.fixture
def networks() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a cable; cutting it is `ip -n HERE link set cable down`."""
    here, there = f"kvt-{os.getpid()}a", f"kvt-{os.getpid()}b"
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the ip command (iproute2)")
    if (made := ip("netns", "add", here, check=False)).returncode:
        pytest.skip(f"network namespaces cannot be made here, they need root: {made.stderr.strip()}")
    ip("netns", "add", there)
    try:
        ip("-n", here, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", there)
        for name, address in ((here, HERE), (there, THERE)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield here, there
    finally:
        for name in (here, there):
            for pid in ip("netns", "pids", name, check=False).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            ip("netns", "delete", name)


@contextlib.contextmanager
def node(network: str, address: str) -> Iterator[None]:
    """A Ray node with one slot in the other network; its processes end with the network."""
    place = tempfile.mkdtemp(prefix="kvt")
    command = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
    flags = [f"--address={address}", f"--node-ip-address={THERE}", "--num-cpus=1", "--block"]
    process = subprocess.Popen(
        ["ip", "netns", "exec", network, sys.executable, "-c", command, "start", *flags],
        env={**os.environ, **QUICK, "RAY_TMPDIR": place},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(place, ignore_errors=True)


WAIT = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < 3:
    time.sleep(0.2)
"""


def test_a_node_that_is_cut_off_writes_no_more_once_its_trial_runs_elsewhere(
    place: Path, networks: tuple[str, str], expected: Curves
) -> None:
    here, there = networks
    inside, held = ("ip", "netns", "exec", here), ["structured-seed0", "flat-seed1"]
    (place / "fates.json").write_text(json.dumps(dict.fromkeys(held, "held")))
    folder = place / "fake"
    with cluster(place, 1, HERE, inside) as nodes, node(there, nodes.address):
        subprocess.run([*inside, sys.executable, "-c", WAIT, nodes.address], check=True, timeout=180)
        driver = start_driver(place, nodes.address, inside=inside, seeds=[0, 1])
        struck = {name: hurt(folder, name) for name in held}
        before = finished(folder)
        first = {name: attempts.read(trial(folder, name))[-1] for name in held}
        lost, seen = sorted(held, key=lambda name: first[name].node in nodes.raylets)

        ip("-n", here, "link", "set", "cable", "down")
        os.kill(struck[seen], signal.SIGKILL)  # the other's trial is tried again at once, and leaves its slot

        wait_until(lambda: len(attempts.read(trial(folder, lost))) > 1)
        assert not gone(first[lost].pid or 0), "its worker lives on where nobody sees it"
        assert driver.wait(timeout=300) == 0
        wait_until(lambda: gone(struck[lost]))
        ip("-n", here, "link", "set", "cable", "up")
        record = finished(folder), (trial(folder, lost) / "attempts.jsonl").read_bytes()
        time.sleep(3)
        assert (finished(folder), (trial(folder, lost) / "attempts.jsonl").read_bytes()) == record

    check_laws("a node cut off", folder, before, expected)
    assert ends(folder, lost) == ["crashed", "completed"]
    assert attempts.read(trial(folder, lost))[-1].node != first[lost].node
