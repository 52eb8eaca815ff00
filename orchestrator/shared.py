"""Whether all nodes see one storage: written and read from each of them before anything is run there."""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from trainables.config import InputError

PROBE_S = 120.0
"""Seconds in which every node must have answered; a busy one starts a worker first."""

HOLD_S = 20.0
UNSEEN = re.compile(r"node \S+ does not see .{1,300}?: the storage is not mounted there")
"""What require_here says, in Tune's record of a failure."""


def check_shared(folder: Path) -> None:
    """Refuse a storage that some node of the cluster does not share with this one, naming the node.

    Every node reads what this one wrote and writes what this one then reads. Nodes that join later look for
    themselves, before their first trial.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    names = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
             for node in ray.nodes() if node["Alive"]}  # fmt: skip
    place, word = folder / f".probe-{secrets.token_hex(4)}", secrets.token_hex(8)
    try:
        place.mkdir()
        (place / "driver").write_text(word)
        probe = ray.remote(num_cpus=0, max_retries=0)(answer)
        answers = {
            node: probe.options(scheduling_strategy=On(node, soft=False)).remote(str(place), word, node)
            for node in names
        }
        ray.wait(list(answers.values()), num_returns=len(answers), timeout=PROBE_S)
        wrong = _wrong(answers, place, word)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if wrong:
        node, what = next(iter(wrong.items()))
        more = f", and so with {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(
            f"--storage {folder.parent} is not one folder on all {len(names)} nodes: node {names[node]} "
            f"{what}{more}. Mount a shared file system there on every node (docs/cluster.md, Shared storage)."
        )


def _wrong(answers: Mapping[str, object], place: Path, word: str) -> dict[str, str]:
    """What is wrong with which node."""
    import ray

    wrong = {}
    for node, reference in answers.items():
        try:
            said = ray.get(reference, timeout=0)
        except Exception as error:  # whatever keeps a node from answering keeps it from running trials
            said = f"did not answer ({type(error).__name__})"
        if not said and not _reads(place / node, word):
            said = "writes there, and this one does not see it"
        if said:
            wrong[node] = said
    return wrong


def answer(place: str, word: str, node: str) -> str | None:
    """On a node: read what the driver wrote, write the same; what went wrong, if anything did."""
    folder = Path(place)
    if not _reads(folder / "driver", word):
        return "does not see what this one wrote there"
    try:
        (folder / node).write_text(word)
    except OSError as error:
        return f"cannot write there ({error.strerror})"
    return None


def require_here(trial: Path) -> None:
    """On a node that perhaps joined after the check: the driver's folder of trials must be there.

    Without this a node whose storage is not mounted would write its trials to a disk of its own. It waits
    before it gives the trial back, so that it does not draw all of them while other nodes work.
    """
    if not trial.parent.is_dir():
        time.sleep(HOLD_S)
        raise RuntimeError(
            f"node {socket.gethostname()} does not see {trial.parent}: the storage is not mounted there"
        )


def _reads(path: Path, word: str) -> bool:
    try:
        return path.read_text() == word
    except OSError:
        return False
