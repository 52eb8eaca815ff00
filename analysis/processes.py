"""Processes of our own beside the one that a user started, and the CPUs that they may use."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

GROUPS, CONTROL = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@contextmanager
def bare_main() -> Iterator[None]:
    """Spare a new process the parent's script, which multiprocessing would import again there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def cpus() -> int:
    """CPUs that this process may use: those of its affinity (taskset, Slurm), or fewer by a quota.

    From Python 3.13 on PYTHON_CPU_COUNT stands for the affinity.
    """
    if sys.version_info >= (3, 13):
        allowed = os.process_cpu_count()
    else:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.floor(min(allowed or 1, _quota())))


def _quota() -> float:
    """CPUs' worth of time that the control groups around this process give, as of a container."""
    try:
        lines = GROUPS.read_text().splitlines()
    except OSError:
        return math.inf
    least = math.inf
    for controllers, path in (line.split(":", 2)[1:] for line in lines if line.count(":") >= 2):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CONTROL / "cpu" if controllers else CONTROL
        group = root / path.lstrip("/")
        around = [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
        least = min(least, *map(_limit, around))
    return least


def _limit(group: Path) -> float:
    """CPUs that one control group gives, of version 2 or 1; infinite where it sets no limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = map(float, (group / "cpu.max").read_text().split())
        else:
            quota, period = (
                float((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
            )
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf
    return quota / period if quota > 0 else math.inf
