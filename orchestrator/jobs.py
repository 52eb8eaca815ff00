"""A job that was submitted: followed, stopped, and its results brought to this machine."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from orchestrator import attempts
from orchestrator.cluster import Cluster
from orchestrator.package import pack_code
from orchestrator.submit import ENTRYPOINT, STOP_WAIT_S
from trainables.config import InputError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

FETCHED = ".fetched.json"
"""Marks a folder that holds what was fetched, and so may be fetched again."""
POLL_S = 1.0
PENDING_S = 5.0
"""Seconds after which a stopped job that still waits for its resources is taken away instead."""
FETCH_S = 600.0
"""Seconds in which the cluster must have packed the results."""
STOPPED, KILLED_BY = 130, 128
Write = Callable[[str], None]


class Offer(TypedDict):
    """What `export` on the head says when the archive is there."""

    kvtune_archive: str
    sha256: str


OFFER = TypeAdapter(Offer)


def follow(cluster: Cluster, job: str, write: Write) -> int:
    """Hand on what the job prints until it ends, through broken connections; its exit code."""
    written = 0

    async def tail() -> None:
        nonlocal written
        skip = written  # each connection tells the log from its start
        async for text in cluster.client.tail_job_logs(job):
            fresh = text[skip:]
            skip = max(0, skip - len(text))
            written += len(fresh)
            write(fresh)

    while not cluster.job(job).status.is_terminal():
        try:
            asyncio.run(tail())
        except (RuntimeError, OSError) as error:
            write(f"[the connection broke: {' '.join(str(error).split())[:200]}; trying again]\n")
            time.sleep(POLL_S)
    write(cluster.client.get_job_logs(job)[written:])
    return exit_code(cluster.job(job))


def exit_code(details: JobDetails) -> int:
    """The driver's exit code; 130 for a job that was stopped, 1 for one that could not start."""
    if details.status == "STOPPED":
        return STOPPED
    if details.status == "SUCCEEDED":
        return 0
    code = details.driver_exit_code
    return 1 if not code else code if code > 0 else KILLED_BY - code


def stop(cluster: Cluster, job: str) -> JobDetails:
    """End a job and wait until it has closed its records; what became of it.

    Ray cannot stop a job whose driver waits for resources that no node has: it would stay PENDING, and an
    autoscaler would go on starting nodes for it. Such a job is taken away through a helper job on the head.
    """
    details = cluster.job(job)
    if details.status.is_terminal():
        return details
    cluster.client.stop_job(job)
    if details.status == "PENDING" and _wait(cluster, job, PENDING_S).status == "PENDING":
        _take_away(cluster, job)
    return _wait(cluster, job, STOP_WAIT_S + 30)


def _wait(cluster: Cluster, job: str, seconds: float) -> JobDetails:
    deadline = time.monotonic() + seconds
    while not (details := cluster.job(job)).status.is_terminal() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return details


def _take_away(cluster: Cluster, job: str) -> None:
    helper = f"kvtune-stop-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="kvtune-stop-") as folder:
        pack_code(Path(folder))
        entrypoint = f"{ENTRYPOINT} cancel {job}"
        cluster.send(helper, entrypoint, runtime_env={"working_dir": folder}, metadata={})
    _wait(cluster, helper, STOP_WAIT_S)


def fetch(cluster: Cluster, job: str, to: Path, *, trials: bool = False) -> Path:
    """Bring STORAGE/NAME, which perhaps only the cluster sees, to TO/NAME; the folder.

    A small job on the head packs report and tables (and the trials' records, without checkpoints) into one
    file beside its own log, and waits; the dashboard, which serves such files to whoever holds the token,
    hands it over; then the job is stopped and the file is gone.
    """
    told = cluster.job(job).metadata or {}
    if "kvtune_storage" not in told:
        raise InputError(f"job {job} was not submitted by kvtune, so where its results lie is not known.")
    name = told["kvtune_experiment"]
    target = to.expanduser().resolve() / name
    _refuse_foreign(target)
    helper = f"kvtune-fetch-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="kvtune-fetch-") as folder:
        pack_code(Path(folder))
        source = f"{told['kvtune_storage']}/{name}"
        entrypoint = f"{ENTRYPOINT} export {source} {'trials' if trials else 'report'}"
        cluster.send(helper, entrypoint, runtime_env={"working_dir": folder}, metadata={})
        try:
            offer = _await_offer(cluster, helper)
            archive = Path(folder) / "results.zip"
            _download(cluster, cluster.job(helper).driver_node_id, offer, archive)
        finally:
            cluster.client.stop_job(helper)
        _unpack(archive, target)
    note = {"job": job, "address": cluster.address, "storage": told["kvtune_storage"], "at": attempts.now()}
    (target / FETCHED).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    return target


def _refuse_foreign(target: Path) -> None:
    """Keep out of a folder in which this machine itself has run something."""
    if target.exists() and not (target / FETCHED).is_file() and any(target.iterdir()):
        raise InputError(f"{target} was not fetched from a cluster, and is left alone: choose another --to.")


def _await_offer(cluster: Cluster, helper: str) -> Offer:
    """What the packing job says when the file is ready."""
    deadline = time.monotonic() + FETCH_S
    while time.monotonic() < deadline:
        details, log = cluster.job(helper), cluster.client.get_job_logs(helper)
        for line in log.splitlines():
            if line.startswith('{"kvtune_archive"'):
                return OFFER.validate_json(line)
        if details.status.is_terminal():
            last = log.strip().splitlines()[-1:] or [details.message or "it printed nothing"]
            raise InputError(f"the results could not be packed on the cluster: {last[0][:300]}")
        time.sleep(POLL_S / 2)
    raise InputError(f"the results were not packed within {FETCH_S:.0f} s: see kvtune logs {helper}.")


def _download(cluster: Cluster, node: str | None, offer: Offer, archive: Path) -> None:
    import requests

    query = {
        "node_id": node,
        "filename": offer["kvtune_archive"],
        "lines": "-1",
        "timeout": str(int(FETCH_S)),
    }
    digest = hashlib.sha256()
    with (
        requests.get(
            f"{cluster.address}/api/v0/logs/file",
            params=query,
            headers=cluster.headers,
            stream=True,
            timeout=60,
        ) as reply,
        archive.open("wb") as file,
    ):
        if reply.status_code != 200:
            raise InputError(f"{cluster.address} does not hand the results over: HTTP {reply.status_code}.")
        for block in reply.iter_content(2**20):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != offer["sha256"]:
        raise InputError("the results arrived damaged: run the same command again.")


def _unpack(archive: Path, target: Path) -> None:
    """Each file whole or not at all; zipfile keeps names inside the folder."""
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as packed, tempfile.TemporaryDirectory(dir=target.parent) as folder:
        packed.extractall(folder)
        for file in [path for path in Path(folder).rglob("*") if path.is_file()]:
            place = target / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)


def facts(details: JobDetails) -> dict[str, Any]:
    """A job for machines."""
    told = details.metadata or {}
    return {
        "job": details.submission_id,
        "status": str(details.status),
        "exit_code": exit_code(details) if details.status.is_terminal() else None,
        "experiment": told.get("kvtune_experiment"),
        "plan_hash": told.get("kvtune_plan"),
        "storage": told.get("kvtune_storage"),
        "code_rev": told.get("kvtune_code_rev"),
        "message": details.message,
    }


def describe(details: JobDetails) -> list[str]:
    """A job in a few lines: what it runs, how far it is, where its results lie."""
    told = details.metadata or {}
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((details.start_time or 0) / 1000))
    lines = [f"{details.submission_id}: {details.status} (submitted {began})"]
    if "kvtune_storage" in told:
        folder = f"{told['kvtune_storage']}/{told['kvtune_experiment']}"
        lines.append(f"results on the cluster: {folder}, code {told['kvtune_code_rev'] or 'unknown'}")
    if details.message:
        lines.append(details.message.strip().splitlines()[0][:300])
    return lines
