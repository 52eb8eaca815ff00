"""The trials under Ray Tune, which schedules and moves them; the record is their own folders."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.processes import cpus
from orchestrator import capacity, sockets
from orchestrator.auth import keep_private
from orchestrator.child import Job
from orchestrator.knock import silent
from orchestrator.spec import Resources
from orchestrator.trial import run_cell
from orchestrator.watch import GIB
from trainables.config import InputError

LOCAL = "local"
LOST_WORKERS = 20
"""Lost workers that Tune allows a trial beyond the attempts that it has: which of them count, attempts.jsonl
tells, and a preempted node costs none."""
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Set before Ray is imported: token authentication, quiet, workers as quick as the rest, no snapshots of
Tune's table, which is no record and grows with every trial; and Ctrl-C is ours to handle."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0 it keeps every port of a new Ray on 127.0.0.1, as on macOS; read when Ray is imported."""


@contextmanager
def connected(address: str, resources: Resources, tell: Callable[[str], None]) -> Iterator[None]:
    """A Ray for this process: a new one on this machine, or the cluster at `address`.

    Raises InputError if it cannot be reached, or if no node that stands or that its autoscaler may add can
    hold a trial. Where one must be added first, or nobody knows whether one can be, that is told.
    """
    import_quietly()
    with _on_loopback(address):
        import ray

        ours = not ray.is_initialized()
        if ours:
            init(address)
    try:
        nodes = [place.resources for place in capacity.standing_nodes()]
        if lacking(resources, nodes):
            growth = capacity.Growth() if address == LOCAL else capacity.growth_here()
            never = lacking(resources, [*nodes, *(place.resources for place in growth.types)])
            if never and growth.known:
                raise InputError(never)
            tell("No node that stands can hold a trial yet. Trials wait until the cluster grows.")
        yield
    finally:
        if ours:
            ray.shutdown()


def import_quietly() -> None:
    """Set the environment that Ray reads when it is imported; what the user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def lacking(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> str | None:
    """Why no single node can hold a trial, naming the resource and what there is; None if one can."""
    gib = resources.memory_gib or 0
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": gib * GIB}
    if any(all(node.get(kind, 0) >= amount for kind, amount in wanted.items()) for node in nodes):
        return None
    for kind, field, name, unit in (
        ("CPU", "cpus", "CPUs", 1),
        ("GPU", "gpus", "GPUs", 1),
        ("memory", "memory_gib", "GiB of memory", GIB),
    ):
        most = max((node.get(kind, 0) for node in nodes), default=0)
        if wanted[kind] > most:
            needed, there = f"{wanted[kind] / unit:g}", f"{math.floor(100 * most / unit) / 100:g}"
            return (
                f"resources.{field}: a trial needs {needed} {name}, the largest node has {there}: "
                f"lower it with --set resources.{field}={there}, or use a larger machine."
            )
    memory = f" and {gib:g} GiB of memory" if gib else ""
    return (
        f"resources: no single node has {resources.cpus} CPUs together with {resources.gpus:g} GPUs{memory}."
    )


def param_space(jobs: Sequence[Job]) -> dict[str, Any]:
    """Tune's search space for the jobs: arm, seed and alignment_mode are columns of every result.

    A full grid is arm x seed, the arm first: Tune varies the first axis fastest, so pairs finish together.
    Of a grid with holes the cells are listed. Each trial's config holds its own job and no other's, so that
    starting a trial costs the same however many there are.
    """
    from ray import tune

    arms = list(dict.fromkeys(job.arm for job in jobs))
    seeds = list(dict.fromkeys(job.seed for job in jobs))
    modes = {job.arm: job.config["alignment_mode"] for job in jobs}
    mode = tune.sample_from(lambda spec: modes[spec.config["arm"]])
    if [(job.arm, job.seed) for job in jobs] == [(arm, seed) for seed in seeds for arm in arms]:
        by_cell = {(job.arm, job.seed): job.to_json() for job in jobs}
        job = tune.sample_from(lambda spec: by_cell[spec.config["arm"], spec.config["seed"]])
        axes = {"arm": tune.grid_search(arms), "seed": tune.grid_search(seeds)}
        return {**axes, "alignment_mode": mode, "job": job}
    cells, texts = [(job.arm, job.seed) for job in jobs], [job.to_json() for job in jobs]
    return {
        "cell": tune.grid_search(list(range(len(cells)))),
        "arm": tune.sample_from(lambda spec: cells[spec.config["cell"]][0]),
        "seed": tune.sample_from(lambda spec: cells[spec.config["cell"]][1]),
        "alignment_mode": tune.sample_from(lambda spec: modes[cells[spec.config["cell"]][0]]),
        "job": tune.sample_from(lambda spec: texts[spec.config["cell"]]),
    }


def fit(jobs: Sequence[Job]) -> None:
    """Run the jobs under one Tuner; its files, which are no record, go into a folder of this machine."""
    from ray import tune

    from orchestrator.losses import Losses, outlived

    first, scratch = jobs[0], tempfile.TemporaryDirectory(prefix="kvtune-", ignore_cleanup_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(run_cell, _per_trial(first)),
        param_space=param_space(jobs),
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"launch-{secrets.token_hex(4)}",
            storage_path=scratch.name,
            verbose=0,
            callbacks=[Losses()],
            failure_config=tune.FailureConfig(max_failures=first.attempts_allowed + LOST_WORKERS),
        ),
    )
    try:
        with outlived():
            tuner.fit()
    finally:
        scratch.cleanup()


def _per_trial(job: Job) -> dict[str, float]:
    memory = {"memory": int(job.memory_gib * GIB)} if job.memory_gib else {}
    return {"cpu": job.cpus, "gpu": job.gpus, **memory}


@contextmanager
def _on_loopback(address: str) -> Iterator[None]:
    """Let a Ray of our own listen on this machine only; what the user has set stays."""
    if address != LOCAL or LOOPBACK in os.environ or "ray" in sys.modules:
        yield
        return
    os.environ[LOOPBACK] = "0"
    try:
        yield
    finally:
        del os.environ[LOOPBACK]  # Ray's processes have it; it is not for other programs


def init(address: str) -> None:
    """Connect this process to a Ray, as quietly as Ray can; a new one where the address is `local`."""
    import_quietly()
    import ray

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    local: dict[str, Any] = {}
    if address == LOCAL:
        local = {"include_dashboard": False, "num_cpus": cpus(), "_temp_dir": sockets.ray_folder()}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **local)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if address == LOCAL:
            raise
        raise silent(address, error) from None
    with contextlib.suppress(FileNotFoundError):
        keep_private(Path.home() / ".ray" / "auth_token")
