"""Where an experiment's numbers come from: code, versions, machine, command. No environment, no secrets."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from trainables.json_files import CorruptFile, read_object
from trainables.trial_folder import set_aside, write_text

PACKAGES = (
    "kvtune", "torch", "transformers", "tokenizers", "safetensors", "datasets", "ray", "numpy", "scipy",
    "pandas", "pyarrow", "matplotlib",
)  # fmt: skip
NUMERICAL = ("kvtune", "torch", "transformers", "tokenizers", "numpy")
"""Packages that a trial's numbers follow from."""
ROOMS = ("trainables", "orchestrator", "analysis")
SECRET = re.compile(r"(?i)token|secret|passw|credential|api_?key|access_?key|private_?key")
"""Names of environment variables whose values are nobody's business."""
SHORTEST_SECRET = 8
"""Characters; shorter values, such as RAY_AUTH_MODE's, would blacken ordinary words."""
SOURCE = Path(__file__).resolve().parent.parent


def code_revision() -> str | None:
    """The git revision of this package's source; None outside a checkout.

    Where files were changed -dirty and a hash of the changes follow, so that two edits are not taken for one.
    On a cluster, where a job's package is no checkout, it is the one that `kvtune submit` found.
    """
    if _git("ls-files", "--error-unmatch", "orchestrator/provenance.py") is None:
        return os.environ.get("KVTUNE_CODE_REV") or None
    revision = _git("rev-parse", "HEAD")
    if revision is None:
        return None
    changed = _git("status", "--porcelain", "--", *ROOMS)
    if not changed:
        return revision
    difference = changed + (_git("diff", "HEAD", "--", *ROOMS) or "")
    return f"{revision}-dirty-{hashlib.sha256(difference.encode()).hexdigest()[:8]}"


def describe_launch(*, address: str, started_at: str) -> dict[str, Any]:
    """This launch as provenance.json tells it."""
    revision = code_revision()
    return {
        "started_at": started_at,
        "finished_at": None,
        "command": without_secrets(shlex.join(sys.argv)),
        "address": without_secrets(address),
        "job": os.environ.get("KVTUNE_JOB"),
        "code_rev": revision,
        "dirty": "-dirty-" in revision if revision else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def tell_drift(path: Path, launch: dict[str, Any], tell: Callable[[str], None]) -> None:
    """Tell what changed in code and versions since the launch before this one; nothing is refused.

    Trials with a result keep it and new ones follow the new code: each attempt's code_rev and each trial's
    env_hash tell them apart afterwards.
    """
    try:
        known = _read(path)
    except CorruptFile:
        return  # write() sets it aside
    before, after = _origin(known), _origin(launch)
    changed = [f"{name} {before[name]} -> {after[name]}" for name in after if before.get(name) != after[name]]
    if known and changed:
        tell(
            f"changed since the last launch: {', '.join(changed)}; finished trials keep their numbers, the "
            "others follow what is installed now"
        )


def _origin(launch: Mapping[str, Any]) -> dict[str, str]:
    """What a trial's numbers depend on beside its config."""
    versions = launch.get("versions") or {}
    revision = str(launch.get("code_rev"))
    code = revision[:12] + revision[40:]
    return {"code": code, **{name: str(versions.get(name)) for name in NUMERICAL}}


@with_config(ConfigDict(extra="allow"))
class Launch(TypedDict):
    """What is read of a launch in provenance.json; it holds more."""

    started_at: NotRequired[str | None]
    code_rev: NotRequired[str | None]
    versions: NotRequired[dict[str, Any] | None]
    earlier_launches: NotRequired[list[dict[str, Any]] | None]


LAUNCH = TypeAdapter(Launch)


def _read(path: Path) -> dict[str, Any]:
    """provenance.json; empty in a new folder. Raises CorruptFile where nobody can read it."""
    try:
        return read_object(path, LAUNCH)
    except FileNotFoundError:
        return {}


def write(path: Path, launch: dict[str, Any]) -> None:
    """Write provenance.json: this launch, and those before it under `earlier_launches`.

    One that nobody can read is set aside first: what it tells is for people to find.
    """
    try:
        known = _read(path)
    except CorruptFile:
        set_aside(path)
        known = {}
    earlier = list(known.pop("earlier_launches", None) or [])
    if known and known.get("started_at") != launch["started_at"]:
        earlier.append(known)
    text = json.dumps({**launch, "earlier_launches": earlier}, indent=2, allow_nan=False)
    write_text(path, text + "\n")


def without_secrets(text: str) -> str:
    """Without credentials: those in addresses, token-like values, and secrets that the environment holds."""
    text = re.sub(r"(\w+://)[^/@\s']+@", r"\1***@", text)
    text = re.sub(r"(?i)((?:token|key|secret|password)[\w-]*=)[^\s&']+", r"\1***", text)
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(SOURCE), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
