"""attempts.jsonl of a trial: one line when an attempt starts, one when it ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

FILE = "attempts.jsonl"
Status = Literal["completed", "diverged", "crashed", "oom", "timeout", "preempted", "cancelled"]
RESULTS: tuple[Status, ...] = ("completed", "diverged")
"""How an attempt ends that has a result; such a trial is never run again."""
FORGIVEN: tuple[Status, ...] = ("preempted", "cancelled")
"""How an attempt ends through no fault of its trial: it uses up none of the failures that are forgiven."""
NO_WORD = "its process ended without a word: the worker, its node or the driver died"


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended, as its worker sees it."""

    status: Status
    reason: str | None = None
    retry: bool = False
    """Whether trying again could end otherwise."""
    needs_bytes: int = 0
    """Where the storage was full: what must be free before trying again could."""


@dataclass(frozen=True)
class Attempt:
    """One start of a trial and how it ended; `status` is None while it runs, or if nobody saw the end."""

    number: int
    started_at: str
    host: str
    pid: int | None
    """Of the worker, which starts the trial's own process."""
    code_rev: str | None
    node: str | None = None
    """Ray's name of the node; host names need not differ."""
    status: str | None = None
    reason: str | None = None
    ended_at: str | None = None

    @property
    def counts(self) -> bool:
        """Whether it uses up one of the trial's attempts."""
        return self.status not in FORGIVEN


def start(folder: Path, code_rev: str | None, node: str | None = None) -> int:
    """Record that an attempt starts; its number is that of earlier starts plus one.

    An earlier attempt whose end nobody recorded gets one: crashed.
    """
    earlier = read(folder)
    for attempt in earlier:
        if attempt.status is None:
            end(folder, attempt.number, "crashed", NO_WORD)
    number = max((attempt.number for attempt in earlier), default=0) + 1
    event = {
        "event": "start",
        "attempt": number,
        "at": now(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    _append(folder, {**event, "node": node, "code_rev": code_rev})
    return number


def end(folder: Path, number: int, status: Status, reason: str | None) -> None:
    """Record how an attempt ended."""
    _append(folder, {"event": "end", "attempt": number, "at": now(), "status": status, "reason": reason})


def is_current(folder: Path, number: int) -> bool:
    """Whether this process's attempt is still the trial's newest, and nobody else has ended it.

    While the file cannot be read nobody can tell, and the attempt goes on; once it is gone, so is the trial.
    """
    try:
        known = _attempts(_lines(folder))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    if not known:
        return False
    last = known[-1]
    ours = (last.number, last.pid, last.host) == (number, os.getpid(), socket.gethostname())
    return ours and last.status is None


def read(folder: Path) -> list[Attempt]:
    """The attempts of a trial in order; none if it never started. Torn or foreign lines are left out."""
    try:
        return _attempts(_lines(folder))
    except OSError:
        return []


def _attempts(lines: Iterable[dict[str, Any]]) -> list[Attempt]:
    attempts: dict[int, Attempt] = {}
    for line in lines:
        number = line.get("attempt")
        if not isinstance(number, int):
            continue
        if line.get("event") == "start":
            attempts[number] = Attempt(
                number=number,
                started_at=str(line.get("at", "")),
                host=str(line.get("host", "")),
                pid=line.get("pid"),
                node=line.get("node"),
                code_rev=line.get("code_rev"),
            )
        elif line.get("event") == "end" and number in attempts:
            status = line.get("status")
            attempts[number] = replace(
                attempts[number],
                status=status if status in get_args(Status) else "crashed",
                reason=line.get("reason"),
                ended_at=str(line.get("at", "")),
            )
    return [attempts[number] for number in sorted(attempts)]


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _append(folder: Path, event: dict[str, Any]) -> None:
    """Add one line and see it on disk; a torn last line of a killed writer is closed first."""
    path = folder / FILE
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(event, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(folder: Path) -> list[dict[str, Any]]:
    lines = []
    for line in (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines
