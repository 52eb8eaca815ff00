"""The way to a cluster: its dashboard's address, the token it asks for, and Ray's Jobs API behind them."""

from __future__ import annotations

import http.client
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestrator import knock
from orchestrator.auth import DEFAULT_ADDRESS, TUNNEL, check_address, find_token, missing, refused
from orchestrator.tuning import import_quietly
from trainables.config import InputError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray's client lets these overrule the address that it is given; ours is the one that was checked."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that answered."""

    address: str
    client: JobSubmissionClient = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    """What a request of our own carries; holds the token."""

    def job(self, job: str) -> JobDetails:
        """What the cluster says of a job; InputError if it has none of that name."""
        try:
            return self.client.get_job_info(job)
        except RuntimeError:
            known = ", ".join(self.jobs()) or "none"
            raise InputError(
                f"{self.address} has no job {job[:200]!r}. Jobs of kvtune there: {known}."
            ) from None

    def jobs(self) -> dict[str, JobDetails]:
        """The experiments submitted to this cluster, newest first."""
        ours = [job for job in self.client.list_jobs() if "kvtune_experiment" in (job.metadata or {})]
        return {job.submission_id: job for job in sorted(ours, key=lambda job: -(job.start_time or 0))}

    def send(
        self,
        job: str,
        entrypoint: str,
        *,
        runtime_env: dict[str, Any],
        metadata: dict[str, str],
        cpus: int = 0,
    ) -> None:
        """Submit a job under this name. Without CPUs Ray runs its driver on the head."""
        try:
            self.client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                runtime_env=runtime_env,
                metadata=metadata,
                entrypoint_num_cpus=cpus or None,
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{self.address} does not take job {job}: {reason}") from None


def connect(address: str | None, warn: Callable[[str], None]) -> Cluster:
    """The cluster whose dashboard is at `address`. Raises InputError if it may not or cannot be reached.

    Whoever may submit jobs may run any command on the cluster, so a token is never sent in clear text without
    a warning, and an address beyond this machine is never used without one.
    """
    address = (address or os.environ.get(ADDRESS_VARIABLES[0]) or DEFAULT_ADDRESS).rstrip("/")
    _require_client()
    import_quietly()
    token = find_token()
    check_address(address, token, warn)
    _knock(address)
    if token is None and os.environ.get("RAY_AUTH_MODE", "token") == "token":
        raise missing(address)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Cluster(address=address, client=_client(address, headers), headers=headers)


def _client(address: str, headers: dict[str, str]) -> JobSubmissionClient:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for module in (
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)
    try:
        with _without(*ADDRESS_VARIABLES):
            return JobSubmissionClient(address, headers=dict(headers))
    except AuthenticationError:
        raise refused(address) from None
    except (ConnectionError, RuntimeError, OSError) as error:
        raise _silent(address, error) from None


def _knock(address: str) -> None:
    """Refuse an address where nobody listens, or no web server, before anything is asked of it."""
    url = urlsplit(address)
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        said = knock.greet(str(url.hostname), port)
    except OSError as error:
        raise _silent(address, error) from None
    if url.scheme != "http":
        return
    if not said.startswith(b"HTTP/"):
        found = "one of Ray's own ports" if knock.speaks_grpc(said) else knock.heard(said)
        raise InputError(
            f"--address {address} is no dashboard ({found}): it is the head's port 8265, through a tunnel "
            f"({TUNNEL}; docs/cluster.md, Ports)."
        )
    try:  # Ray's client would wait for an answer for ever
        connection = http.client.HTTPConnection(str(url.hostname), port, timeout=knock.KNOCK_S)
        connection.request("GET", "/api/version")
        connection.getresponse().close()
    except (OSError, http.client.HTTPException) as error:
        raise _silent(address, error) from None


def _silent(address: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"--address {address} does not answer ({reason}): is the cluster up, and the tunnel to its dashboard "
        f"({TUNNEL})?"
    )


def _require_client() -> None:
    if importlib.util.find_spec("aiohttp") is None:
        raise InputError("Ray's job client is not installed: pip install 'kvtune[cluster]'.")


@contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
