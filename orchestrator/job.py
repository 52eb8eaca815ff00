"""What runs on a cluster's head for a submitted job: `python -m orchestrator.job run|export|cancel`."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trainables.config import InputError

KEEP_S = 900.0
"""Seconds that an archive waits to be fetched before it is deleted."""
HEAVY = ("checkpoint-*", "*.safetensors", "*.pt")
"""Files of a trial that stay on the cluster."""


def run(experiment: str, storage: str, *flags: str) -> int:
    """Put the experiment's own files on the storage, then run it on this cluster."""
    from orchestrator.cli import main as kvtune
    from orchestrator.package import unpack_inputs

    unpack_inputs(Path.cwd(), Path(storage))
    return kvtune(["run", experiment, "--storage", storage, "--address", "auto", *flags])


def export(source: str, what: str) -> int:
    """Pack a results folder into one file beside this job's log, tell its name, and keep it for a while.

    Ray's dashboard serves the files of its log folder to whoever holds the token, and no others.
    """
    folder = Path(source)
    files = sorted(_wanted(folder, trials=what == "trials"))
    if not files:
        raise InputError(f"{folder} holds no results yet.")
    archive = _log_folder() / f"kvtune-fetch-{secrets.token_hex(8)}.zip"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            for path in files:
                packed.write(path, path.relative_to(folder))
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        print(json.dumps({"kvtune_archive": archive.name, "sha256": digest, "files": len(files)}), flush=True)
        time.sleep(KEEP_S)
    finally:
        archive.unlink(missing_ok=True)
    return 0


def cancel(job: str) -> int:
    """Take away the supervisor of a job that waits for resources which never come."""
    import ray
    from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, SUPERVISOR_ACTOR_RAY_NAMESPACE

    ray.init(address="auto", namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE, log_to_driver=False)
    try:
        ray.kill(ray.get_actor(JOB_ACTOR_NAME_TEMPLATE.format(job_id=job)))
    except ValueError:
        print(f"job {job} has ended by itself")
    return 0


def _wanted(folder: Path, *, trials: bool) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not _heavy(name)
            and (trials or here != folder or name != "trials")
        ]
        yield from (here / name for name in names if not name.startswith(".") and not _heavy(name))


def _heavy(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in HEAVY)


def _log_folder() -> Path:
    """The folder of this job's own log, which is where its standard output goes."""
    return Path(os.readlink("/proc/self/fd/1")).parent


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands above; exit code 2 and one line for what the user can mend."""
    commands: dict[str, Callable[..., int]] = {"run": run, "export": export, "cancel": cancel}
    try:
        return commands[arguments[0]](*arguments[1:])
    except InputError as error:
        print(f"kvtune: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
