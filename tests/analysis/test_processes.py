"""The CPUs that a process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import processes
from analysis.processes import cpus

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of our own, and eight CPUs."""
    monkeypatch.setattr(processes, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processes, "CONTROL", tmp_path)
    if sys.version_info >= (3, 13):
        monkeypatch.setattr(os, "process_cpu_count", lambda: 8)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("told", "files", "found"),
    [
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "350000 100000"}, 3),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 8),
        ("4:cpu,cpuacct:/docker/x", {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ("4:memory:/a\nnonsense", {}, 8),
    ],
)
def test_a_quota_counts_whole_cpus_wherever_around_the_process_it_is_set(
    groups: Path, told: str, files: dict[str, str], found: int
) -> None:
    (groups / "cgroup").write_text(told + "\n")
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text + "\n")

    assert cpus() == found


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity to set")
def test_the_affinity_counts_and_not_the_machine() -> None:
    one = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, [{one}]); from analysis.processes import cpus; print(cpus())"
    )

    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True) == "1\n"
