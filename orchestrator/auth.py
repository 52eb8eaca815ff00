"""Tokens of a cluster: where they lie, and which addresses may be spoken to with and without one."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from trainables.config import InputError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
TUNNEL = "ray dashboard cluster.yaml, or ssh -L 8265:127.0.0.1:8265 HEAD"


def check_address(address: str, token: str | None, warn: Callable[[str], None]) -> None:
    """Refuse an address where a job could be sent past authentication; warn of a token in clear text."""
    try:
        url = urlsplit(address)
        host, _ = url.hostname, url.port
    except ValueError:
        host = None
    if not host or url.scheme not in ("http", "https") or url.path not in ("", "/") or url.query:
        raise InputError(
            f"--address takes the cluster's dashboard, such as {DEFAULT_ADDRESS}, got {address[:200]!r}."
        )
    if url.username or url.password:
        raise InputError("--address must hold no password: the token is read from a file (docs/cluster.md).")
    if _is_loopback(host) or url.scheme == "https":
        return
    if token is None:
        raise InputError(
            f"--address {address} is beyond this machine and there is no token: anyone who can reach it can "
            f"run commands there. Start the cluster with RAY_AUTH_MODE=token, have the token in "
            f"~/.ray/auth_token or RAY_AUTH_TOKEN_PATH, and go through a tunnel ({TUNNEL})."
        )
    warn(f"The token and the results travel to {address} in clear text: use https, or a tunnel ({TUNNEL}).")


def find_token() -> str | None:
    """The token where Ray looks for it; None where authentication is off or there is none."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return None
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or "~/.ray/auth_token").expanduser()
    try:
        keep_private(path)
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        if named:
            reason = getattr(error, "strerror", None) or "not text"
            raise InputError(f"RAY_AUTH_TOKEN_PATH {named} cannot be read ({reason}).") from None
        return None


def missing(where: str) -> InputError:
    """There is no token here for a place that may ask for one."""
    return InputError(
        f"{where}: there is no token here: put the cluster's into ~/.ray/auth_token, or name its file in "
        "RAY_AUTH_TOKEN_PATH. A cluster on this machine may go without: RAY_AUTH_MODE=disabled."
    )


def refused(where: str) -> InputError:
    """A cluster does not take the token that is here."""
    mode = "" if os.environ.get("RAY_AUTH_MODE", "token") == "token" else ", and RAY_AUTH_MODE=token"
    return InputError(
        f"{where} asks for a token and refuses the one given: take the cluster's own "
        f"(RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token{mode})."
    )


def keep_private(path: Path) -> None:
    """Take a token file of ours away from others; Ray writes it readable for all."""
    known = path.stat()
    if known.st_uid == os.getuid() and stat.S_IMODE(known.st_mode) & 0o077:
        path.chmod(0o600)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
