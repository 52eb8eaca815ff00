"""attempts.jsonl of a trial: one line when an attempt starts, one when it ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, get_args

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from trainables.json_files import CorruptFile, content

FILE = "attempts.jsonl"
Status = Literal["completed", "diverged", "crashed", "oom", "timeout", "preempted", "cancelled"]
RESULTS: tuple[Status, ...] = ("completed", "diverged")
"""How an attempt ends that has a result; such a trial is never run again."""
FORGIVEN: tuple[Status, ...] = ("preempted", "cancelled")
"""How an attempt ends through no fault of its trial: it uses up none of the failures that are forgiven."""
NO_WORD = "its process ended without a word: the worker, its node or the driver died"


class Event(TypedDict):
    """A line of attempts.jsonl."""

    event: Literal["start", "end"]
    attempt: Annotated[int, Field(ge=1, lt=2**31)]
    at: str
    host: NotRequired[str]
    pid: NotRequired[int | None]
    node: NotRequired[str | None]
    code_rev: NotRequired[str | None]
    status: NotRequired[str | None]
    reason: NotRequired[str | None]


EVENT = TypeAdapter(Event)


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
        started = known(folder)
    except CorruptFile:
        return True
    if not started:
        return False
    last = started[-1]
    ours = (last.number, last.pid, last.host) == (number, os.getpid(), socket.gethostname())
    return ours and last.status is None


def read(folder: Path) -> list[Attempt]:
    """The attempts of a trial as `known` tells them; none where nobody can tell."""
    try:
        return known(folder)
    except CorruptFile:
        return []


def known(folder: Path) -> list[Attempt]:
    """The attempts of a trial in order; none if it never started. Torn or foreign lines are left out.

    Raises CorruptFile where the file cannot be read.
    """
    try:
        lines = content(folder / FILE).split(b"\n")
    except FileNotFoundError:
        return []
    attempts: dict[int, Attempt] = {}
    for event in _events(lines):
        number = event["attempt"]
        if event["event"] == "start":
            attempts[number] = Attempt(
                number=number,
                started_at=event["at"],
                host=event.get("host", ""),
                pid=event.get("pid"),
                node=event.get("node"),
                code_rev=event.get("code_rev"),
            )
        elif number in attempts:
            status = event.get("status")
            attempts[number] = replace(
                attempts[number],
                status=status if status in get_args(Status) else "crashed",
                reason=event.get("reason"),
                ended_at=event["at"],
            )
    return [attempts[number] for number in sorted(attempts)]


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    for line in lines:
        with suppress(ValidationError):
            yield EVENT.validate_json(line)


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
        text = json.dumps(event, allow_nan=False, ensure_ascii=False)
        file.write(text.encode(errors="replace") + b"\n")  # a path in a reason need be no text
        file.flush()
        os.fsync(file.fileno())
