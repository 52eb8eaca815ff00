"""`kvtune submit`: an experiment as a job on a cluster, once, whatever happens to this machine."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

from orchestrator import provenance
from orchestrator.cluster import Cluster
from orchestrator.package import EXPERIMENT, Package, pack
from orchestrator.spec import ExperimentSpec
from orchestrator.trials import make_plan
from orchestrator.yaml_text import parse
from trainables.config import InputError, unknown

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

STORAGE = "/srv/kvtune"
"""The shared folder of cluster.yaml and of the files in deploy/."""
ENTRYPOINT = "exec python -m orchestrator.job"
"""With exec the driver itself is what Ray sends its signals to, not a shell."""
STOP_WAIT_S = 60
"""Seconds that a stopped job is given to close its records before it is killed; Ray's own default is 3."""
RUNTIME_FIELDS = ("env_vars", "pip", "uv", "conda", "image_uri")
"""What --environment may hold. Ray ignores a misspelt field in silence."""
SECRET = re.compile(r"(?i)token|secret|passw|credential|api_?key|access_?key|private_?key")


@dataclass(frozen=True)
class Submission:
    """A job on the cluster, and whether it is a new one."""

    job: str
    plan_hash: str
    trials: int
    state: str | None = None
    """The state of a job that was there already; None for a new one."""
    bytes: int = 0
    """Size of what was sent, before compression."""


def submit(
    spec: ExperimentSpec,
    cluster: Cluster,
    *,
    storage: str = STORAGE,
    cpus: int = 0,
    environment: Mapping[str, Any] | None = None,
    yes: bool = False,
) -> Submission:
    """Send an experiment to the cluster, or find the job that runs it.

    A job is named by experiment and plan, so submitting twice sends once. Of a plan whose job failed or was
    stopped a further job is made, which goes on where the last one ended. With no CPUs the driver runs on the
    head; with some it waits for a node that has them to spare. Raises InputError before anything is sent.
    """
    root = storage_path(storage)
    with tempfile.TemporaryDirectory(prefix="kvtune-submit-") as folder:
        package = pack(spec, root, Path(folder))
        plan = make_plan(package.spec).to_dict()
        name, trials = f"{spec.name}-{plan['plan_hash']}", len(plan["cells"])
        job, standing = _free_name(name, cluster)
        if standing is not None:
            _refuse_other_storage(standing, root)
            return Submission(job, plan["plan_hash"], trials, str(standing.status))
        facts = {
            "kvtune_experiment": spec.name,
            "kvtune_plan": plan["plan_hash"],
            "kvtune_storage": str(root),
            "kvtune_code_rev": provenance.code_revision() or "",
        }
        agreed = " --yes" if yes else ""
        cluster.send(
            job,
            f"{ENTRYPOINT} run {EXPERIMENT} {root}{agreed}",
            runtime_env=_runtime_env(job, package, facts, dict(environment or {})),
            metadata=facts,
            cpus=cpus,
        )
    return Submission(job, plan["plan_hash"], trials, bytes=package.bytes)


def storage_path(storage: str) -> PurePosixPath:
    """The storage as the cluster sees it."""
    root = PurePosixPath(storage)
    if (
        "://" in storage
        or not root.is_absolute()
        or ".." in root.parts
        or not re.fullmatch(r"[\w./+@-]+", storage)
    ):
        raise InputError(
            f"--storage takes the absolute path of a folder that all nodes of the cluster share, "
            f"such as {STORAGE}, got {short(storage)}."
        )
    return root


def read_environment(path: str) -> dict[str, Any]:
    """The fields of a runtime environment in a YAML file, each checked: Ray would pass over a typo."""
    try:
        values = parse(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"--environment {path} cannot be read ({reason}).") from None
    return check_environment(values, f"--environment {path}")


def check_environment(values: Any, source: str) -> dict[str, Any]:
    """The runtime environment if Ray will take it as it is meant, and if it holds no secret."""
    if not isinstance(values, dict):
        raise InputError(f"{source} must hold fields and values, got {short(values)}.")
    for name in values:
        if name not in RUNTIME_FIELDS:
            raise unknown(f"{source}: field", str(name), RUNTIME_FIELDS)
    managers = [name for name in ("pip", "uv", "conda") if name in values]
    if len(managers) > 1:
        raise InputError(f"{source} has {' and '.join(managers)}: Ray takes one of them.")
    variables = values.get("env_vars", {})
    if not isinstance(variables, dict) or not all(isinstance(text, str) for text in variables.values()):
        raise InputError(f"{source}: env_vars must hold names and texts; quote numbers.")
    for name in variables:
        if SECRET.search(name):
            raise InputError(
                f"{source}: env_vars.{name} looks like a secret, and everybody who sees the cluster's jobs "
                "would read it: set it on the nodes instead (docs/cluster.md, Security)."
            )
        if name.startswith("KVTUNE_") and name != "KVTUNE_CACHE":
            raise InputError(f"{source}: env_vars.{name} is set by kvtune itself.")
    return dict(values)


def _free_name(name: str, cluster: Cluster) -> tuple[str, JobDetails | None]:
    """The name of the plan's next job, or the job of the plan that runs, waits or is done."""
    number = 1
    known = cluster.jobs()
    while True:
        job = name if number == 1 else f"{name}-{number}"
        standing = known.get(job)
        if standing is None or standing.status not in ("FAILED", "STOPPED"):
            return job, standing
        number += 1


def _refuse_other_storage(standing: JobDetails, root: PurePosixPath) -> None:
    theirs = (standing.metadata or {}).get("kvtune_storage")
    if theirs != str(root):
        raise InputError(
            f"job {standing.submission_id} runs this very plan with --storage {theirs}, not {root}: give "
            "that one, or another name to this experiment (--set name=...)."
        )


def _runtime_env(
    job: str, package: Package, facts: Mapping[str, str], environment: dict[str, Any]
) -> dict[str, Any]:
    variables = {
        "KVTUNE_CACHE": f"{facts['kvtune_storage']}/.cache",
        **environment.pop("env_vars", {}),
        "KVTUNE_CODE_REV": facts["kvtune_code_rev"],
        "KVTUNE_JOB": job,
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
    }
    return {"working_dir": str(package.folder), "env_vars": variables, **environment}
