"""What ends a trial's process from outside: its time, its memory, or a newer attempt of the same trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from analysis.sizes import size
from orchestrator.attempts import Outcome

GIB = 2**30
EVERY_S = 1.0
"""Seconds between two looks at a trial's process."""
EVERY_S_FOR_MEMORY = 0.25
SUPERSEDED = "another attempt of the trial was started, or this one was ended from outside"


class Watch:
    """Watches one attempt from its worker, whatever its process hangs in."""

    def __init__(
        self, *, time_limit_s: float | None, memory_gib: float | None, wanted: Callable[[], bool]
    ) -> None:
        self.time_limit_s, self.memory_gib, self.wanted = time_limit_s, memory_gib, wanted
        self.began = time.monotonic()
        self.every_s = EVERY_S if memory_gib is None else EVERY_S_FOR_MEMORY
        self._looked = self.began

    def verdict(self, pid: int) -> Outcome | None:
        """How the attempt must end now; None while it may go on, or where the last look was just now."""
        now = time.monotonic()
        if now - self._looked < self.every_s:
            return None
        self._looked = now
        if not self.wanted():
            return Outcome("crashed", SUPERSEDED)
        if self.time_limit_s is not None and now - self.began > self.time_limit_s:
            return Outcome(
                "timeout", f"it was not over after resources.time_limit_s, {self.time_limit_s:g} s", True
            )
        return self._beyond_memory(pid)

    def _beyond_memory(self, pid: int) -> Outcome | None:
        """Beyond its own limit a trial would be again: it is not tried again before the limit changes."""
        if self.memory_gib is None or (used := memory_of(pid)) <= self.memory_gib * GIB:
            return None
        return Outcome("oom", f"it used {size(used)}, resources.memory_gib gives it {self.memory_gib:g}")


def memory_of(pid: int) -> int:
    """Bytes that only the process's end gives back: its own pages and shared memory, not files that it maps.

    0 once it has ended, and where the system does not tell.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    values = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return sum(1024 * int(values[name][0]) for name in ("RssAnon", "RssShmem") if name in values)


def kernel_oom_kills() -> int:
    """How many processes the kernel has ended so far because memory ran out, in any control group."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
