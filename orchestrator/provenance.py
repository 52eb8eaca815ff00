"""Where an experiment's numbers come from: code, versions, machine, command. No environment, no secrets."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "kvtune", "torch", "transformers", "tokenizers", "safetensors", "datasets", "ray", "numpy", "scipy",
    "pandas", "pyarrow", "matplotlib",
)  # fmt: skip
ROOMS = ("trainables", "orchestrator", "analysis")
SOURCE = Path(__file__).resolve().parent.parent


def code_revision() -> str | None:
    """The git revision of this package's source, -dirty where changed; None outside a checkout."""
    if _git("ls-files", "--error-unmatch", "orchestrator/provenance.py") is None:
        return None
    revision = _git("rev-parse", "HEAD")
    if revision is None:
        return None
    return revision + ("-dirty" if _git("status", "--porcelain", "--", *ROOMS) else "")


def describe_launch(*, address: str, started_at: str) -> dict[str, Any]:
    """This launch as provenance.json tells it."""
    revision = code_revision()
    return {
        "started_at": started_at,
        "finished_at": None,
        "command": _without_secrets(shlex.join(sys.argv)),
        "address": _without_secrets(address),
        "code_rev": revision,
        "dirty": revision.endswith("-dirty") if revision else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def write(path: Path, launch: dict[str, Any]) -> None:
    """Write provenance.json: this launch, and those before it under `earlier_launches`."""
    earlier: list[Any] = []
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        earlier = known.pop("earlier_launches", [])
        if known.get("started_at") != launch["started_at"]:
            earlier.append(known)
    except (OSError, ValueError, AttributeError):
        pass  # the first launch, or a file that nobody can read: this launch is told all the same
    part = path.with_name(path.name + ".part")
    text = json.dumps({**launch, "earlier_launches": earlier}, indent=2, allow_nan=False)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def _without_secrets(text: str) -> str:
    """Without the credentials of URLs: scheme://user:password@host and token-like query values."""
    text = re.sub(r"(\w+://)[^/@\s']+@", r"\1***@", text)
    return re.sub(r"(?i)((?:token|key|secret|password)[\w-]*=)[^\s&']+", r"\1***", text)


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
