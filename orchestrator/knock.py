"""What listens at an address, found out within seconds: a cluster to join, its dashboard, or something else.

Ray itself goes on trying for minutes, and its words are about its own inside.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from orchestrator import auth
from orchestrator.provenance import without_secrets
from trainables.config import InputError

KNOCK_S = 5.0
"""Seconds that whoever listens is given for each answer."""
NODE_S = 15.0
"""Seconds in which this machine must have become a node of a cluster that is starting."""
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
"""How every client of HTTP/2, and so of gRPC, begins: this line, and settings that change nothing."""
ELSEWHERE = "kvtune run joins a cluster on one of its nodes, at HOST:6379 or auto (docs/cluster.md, Ports)"


def refusal(address: str, found: str) -> InputError:
    """One line on an address that is no way to a cluster, without passwords."""
    place = re.sub(r"[^/\s]+@", "***@", address)
    return InputError(without_secrets(f"--address {place} {' '.join(found.split())}"))


def silent(address: str, error: Exception) -> InputError:
    """The refusal of an address where nobody answers, or does so in errors."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return refusal(address, f"does not answer ({reason}): start the cluster, or use --address local.")


def knock(address: str) -> None:
    """Raise InputError where `auto` or host:port leads to no cluster that this process may join."""
    scheme, told, rest = address.rpartition("://")
    if told and scheme in ("http", "https"):
        found = "is a dashboard's address: send a job there with kvtune submit --address"
        raise refusal(address, f"{found} {scheme}://{rest.rpartition('@')[2]}; {ELSEWHERE}.")
    if told:
        raise refusal(address, f"begins with {scheme}://: {ELSEWHERE}; from afar use kvtune submit.")
    place = _found_by_ray() if address == "auto" else address
    if place is not None:
        _knock(address if place == address else f"{address} ({place})", place)


def _knock(address: str, place: str) -> None:
    try:
        host, port = endpoint(place)
        said = SETTINGS if os.environ.get("RAY_USE_TLS") == "1" else greet(host, port)
    except (OSError, ValueError) as error:
        raise silent(address, error) from None
    if said.startswith(b"HTTP/"):
        raise refusal(address, f"{_of_http(host, port)}; {ELSEWHERE}.")
    if not speaks_grpc(said):
        raise refusal(address, f"is no Ray cluster's ({heard(said)}): {ELSEWHERE}.")
    _ask_gcs(address, place)


def endpoint(address: str) -> tuple[str, int]:
    """Host and port; ValueError where it is not host:port."""
    try:
        url = urlsplit(f"//{address}")
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if not host or not port or url.path:
        raise ValueError("it is no host:port; an IPv6 address stands in brackets: [::1]:6379")
    return host, port


def greet(host: str, port: int) -> bytes:
    """What a server says first to a client of HTTP/2; empty where it says nothing in time."""
    with socket.create_connection((host, port), timeout=KNOCK_S) as door:
        try:
            door.sendall(PREFACE)
            return door.recv(64)
        except TimeoutError:
            return b""


def speaks_grpc(said: bytes) -> bool:
    """Whether that is a frame of settings, with which every server of HTTP/2 begins."""
    return said[3:4] == SETTINGS[3:4]


def heard(said: bytes) -> str:
    """A greeting that is not what it should be, for people."""
    return f"what listens there says {said[:20]!r}" if said else f"silence for {KNOCK_S:g} s"


def _of_http(host: str, port: int) -> str:
    """What an HTTP server is to a cluster. Ray's dashboard tells its version, or asks for the token."""
    try:
        connection = http.client.HTTPConnection(host, port, timeout=KNOCK_S)
        connection.request("GET", "/api/version")
        text = connection.getresponse().read(1000)
    except (OSError, http.client.HTTPException):
        text = b""
    if b"ray_version" not in text and b"authentication token" not in text:
        return "is an HTTP server and no Ray cluster"
    place = f"[{host}]" if ":" in host else host
    return f"is the dashboard: use kvtune submit --address http://{place}:{port}"


def _found_by_ray() -> str | None:
    """Where Ray's `auto` leads; None where this process has joined already, or Ray would start its own."""
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    if ray.is_initialized():
        return None
    named = os.environ.get("RAY_ADDRESS", "")
    if "://" in named:
        raise refusal("auto", f"follows RAY_ADDRESS={named}, which is not HOST:6379: unset it, or mend it.")
    if ":" in named:
        return named
    try:
        return cast("str | None", canonicalize_bootstrap_address("auto"))
    except (OSError, ValueError):
        lack = "finds no Ray that runs on this machine: start one, or use --address local."
        raise refusal("auto", lack) from None


def _ask_gcs(address: str, place: str) -> None:
    """Refuse a cluster that does not take our token, or of which this machine is no node.

    All that is private to Ray here; a wrong token costs ray.init 20 s, and being no node a minute.
    """
    from ray import exceptions
    from ray._raylet import InnerGcsClient

    if os.environ.get("RAY_AUTH_MODE") == "token" and auth.find_token() is None:
        raise auth.missing(f"--address {address}")  # Ray would abort the process
    try:
        with _without_rays_log():
            gcs = InnerGcsClient.standalone(place, None, int(1000 * KNOCK_S))
            ours = _is_node_here(gcs)
    except exceptions.AuthenticationError:
        raise auth.refused(f"--address {address}") from None
    except exceptions.RayError as error:
        if "Method not found" in str(error):
            raise refusal(address, f"is another of Ray's ports: {ELSEWHERE}.") from None
        raise silent(address, error) from None
    if not ours:
        raise refusal(
            address,
            f"is a cluster of which this machine is no node: use kvtune submit, or ray start; {ELSEWHERE}.",
        )


def _is_node_here(gcs: Any) -> bool:
    """Whether this machine is a node of the cluster, or becomes one: a GCS answers before its nodes do."""
    from ray._private import services

    find = getattr(services, "find_node_ids", None)
    if find is None:  # Ray 2.55
        return True
    deadline = time.monotonic() + NODE_S
    while not (found := any(node.hex() in find() for node in gcs.get_all_node_info(timeout=KNOCK_S))):
        if time.monotonic() >= deadline:
            break
        time.sleep(0.5)
    return found


@contextmanager
def _without_rays_log() -> Iterator[None]:
    """Keep what Ray's C++ writes straight to stderr from the user: our one line says it."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
