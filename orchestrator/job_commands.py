"""kvtune submit, logs, stop and fetch: jobs on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.flags import Changes, Dashboard, Experiment, Job, Seeds

if TYPE_CHECKING:
    from orchestrator.cluster import Cluster

INTERRUPTED = 130


def submit(
    experiment: Experiment,
    /,
    *,
    address: Dashboard = None,
    follow: bool = False,
    set: Changes = (),
    seeds: Seeds = None,
    storage: str = "/srv/kvtune",
    cpus: int = 0,
    environment: str | None = None,
    yes: bool = False,
) -> int:
    """Run an experiment as a job on a cluster, with this code and these files; twice is once.

    Args:
        follow: Print what the job prints until it ends, and exit with its exit code.
        storage: A folder that all nodes of the cluster share, by its absolute path there.
        cpus: CPUs kept for the job's driver; with 0 it runs on the head and takes no trial's place.
        environment: A YAML file of Ray's runtime environment: env_vars, pip, uv, conda, image_uri.
        yes: Agree to edits that set finished trials aside or leave them out; nobody can ask you there.
    """
    from analysis.sizes import size
    from orchestrator.cluster import connect
    from orchestrator.spec import load_spec
    from orchestrator.submit import read_environment, storage_path
    from orchestrator.submit import submit as send

    changes = [change for group in set for change in group]
    spec = load_spec(experiment, changes, seeds)
    wanted = read_environment(environment) if environment else {}
    storage_path(storage)
    cluster = connect(address, _warn)
    sent = send(spec, cluster, storage=storage, cpus=cpus, environment=wanted, yes=yes)
    if sent.state is None:
        print(f"{sent.job}: submitted, {sent.trials} trials, {size(sent.bytes)} sent")
    else:
        print(f"{sent.job}: this plan is {sent.state} already, nothing was submitted")
    if follow:
        return _follow(cluster, sent.job)
    print(f"kvtune logs {sent.job} --follow    kvtune stop {sent.job}    kvtune fetch {sent.job}")
    return 0


def logs(job: Job, /, *, address: Dashboard = None, follow: bool = False) -> int:
    """Print what a job printed.

    Args:
        follow: Go on until the job ends, and exit with its exit code.
    """
    from orchestrator.cluster import connect

    cluster = connect(address, _warn)
    cluster.job(job)
    if follow:
        return _follow(cluster, job)
    print(cluster.client.get_job_logs(job), end="")
    return 0


def stop(job: Job, /, *, address: Dashboard = None) -> int:
    """End a job; what it has is kept, and submitting the experiment again goes on from there."""
    from orchestrator.cluster import connect
    from orchestrator.jobs import describe
    from orchestrator.jobs import stop as end

    details = end(connect(address, _warn), job)
    print("\n".join(describe(details)))
    return 0 if details.status.is_terminal() else 1


def fetch(job: Job, /, *, address: Dashboard = None, to: str = "runs", trials: bool = False) -> int:
    """Bring a job's report and tables from the cluster's storage to this machine.

    Args:
        to: The folder that holds experiments here.
        trials: Bring every trial's records as well, without checkpoints.
    """
    from orchestrator.cluster import connect
    from orchestrator.jobs import fetch as bring

    folder = bring(connect(address, _warn), job, Path(to), trials=trials)
    page = folder / "report" / "report.html"
    print(f"results: {folder}" + (f"\nreport: {page}" if page.is_file() else ""))
    return 0


def job_status(job: str, address: str | None, *, json: bool) -> int:
    """`kvtune status JOB`: where a job stands, and the last lines of what it printed."""
    from orchestrator import machine
    from orchestrator.cluster import connect
    from orchestrator.jobs import describe, facts

    cluster = connect(address, _warn)
    if json:
        machine.emit(facts(cluster.job(job)))
        return 0
    print("\n".join(describe(cluster.job(job))))
    for line in cluster.client.get_job_logs(job).strip().splitlines()[-5:]:
        print(f"  {line}")
    return 0


def _follow(cluster: Cluster, job: str) -> int:
    from orchestrator.jobs import follow

    def write(text: str) -> None:
        print(text, end="", flush=True)

    try:
        return follow(cluster, job, write)
    except KeyboardInterrupt:
        print(
            f"\n{job} goes on without you: kvtune logs {job} --follow; kvtune stop {job} ends it.",
            file=sys.stderr,
        )
        return INTERRUPTED


def _warn(line: str) -> None:
    print(f"kvtune: warning: {line}", file=sys.stderr)
